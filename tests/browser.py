"""JupyterLab in a real Chromium: `make browser-test`. Screenshots go to runs/browser.

It needs playwright (`pip install 'muni_nb[browser]'`) and a Chromium: on the PATH, or named by MUNI_NB_CHROMIUM. Where
either is missing, tests are skipped, and say so. Notebooks are copies: nothing of the repository is written.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "runs" / "browser"
SECONDS = float(os.environ.get("MUNI_NB_BROWSER_SECONDS", 120))     # what is waited for one thing
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("MUNI_NB_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

try: from playwright import sync_api
except ImportError: sync_api = None
lacks = "" if CHROMIUM else f"no Chromium is installed: none of {', '.join(NAMES)}"
if sync_api is None: lacks = "playwright is not installed: pip install 'muni_nb[browser]'"
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab that has copies of the notebooks, and settings of its own."
    home, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    for path in (ROOT / "nbs/explore.ipynb", ROOT / "ablations/routing.ipynb"): shutil.copy(path, home)
    quiet = settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    mine = dict.fromkeys(folders, str(settings))
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | mine | {"MUNI_NB_PRESET": "smoke", "PYTHONPATH": python_path}
    options = [f"--port={port}", f"--ServerApp.root_dir={home}", "--no-browser", "--allow-root",
               "--IdentityProvider.token="]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(settings / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api/status"), f"JupyterLab: {settings / 'log'}")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply: return reply.status == 200
    except OSError: return False


def wait_for(happened, what: str) -> None:
    "Until it has happened; AssertionError after `SECONDS`."
    until = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < until, f"{SECONDS:g} s were not enough for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def page():
    "A page of a browser."
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1250})
        page.set_default_timeout(1000 * SECONDS)
        yield page
        browser.close()


def run_all(page, address: str) -> None:
    "Open a notebook and run its cells."
    page.goto(address)
    page.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def shot(page, name: str) -> None:
    "A picture of the screen, once the explorer has answered."
    wait_for(lambda: not page.locator("[role=status]", has_text="…").count(), "the answer")
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}.png")


def pictures(page) -> int:
    return page.locator(".muni-page img:visible").count()


@pytest.fixture(scope="module")
def explorer(page, lab):
    "The explorer, open and having drawn."
    run_all(page, f"{lab}/lab/tree/explore.ipynb")
    wait_for(lambda: pictures(page) == 18, "the first draws")
    page.keyboard.press("Control+b")                  # the file browser goes
    return page


def test_the_first_draws(explorer):
    assert "agree in" in explorer.locator(".muni-page caption").first.inner_text()
    for name in ("guidance", "solver steps", "draws"): assert explorer.get_by_text(name, exact=True).count(), name
    shot(explorer, "digits")


def test_a_label_is_given_and_two_models_stand_side_by_side(explorer):
    explorer.get_by_label("give digit").check()
    explorer.get_by_label("digit", exact=True).select_option("4")
    wait_for(lambda: explorer.locator(".muni-page").first.locator("span").all_inner_texts()[:6] == ["4"] * 6, "digit 4")
    beside = explorer.get_by_label("beside it").locator("option").all_inner_texts()
    if len(beside) > 1:
        explorer.get_by_label("beside it").select_option(beside[1])
        wait_for(lambda: pictures(explorer) == 36, "two models")
    shot(explorer, "digits-side-by-side")


def test_keys_alone_draw_anew(explorer):
    before = explorer.locator(".muni-page img").first.get_attribute("src")
    explorer.get_by_role("button", name="same latent, again").focus()
    explorer.keyboard.press("Enter")
    wait_for(lambda: explorer.locator(".muni-page img").first.get_attribute("src") != before, "another picture")


def test_a_digit_is_drawn_with_the_mouse(explorer):
    explorer.get_by_label("give digit").uncheck()
    explorer.get_by_label("give view0").check()
    explorer.get_by_label("how", exact=True).select_option("drawing")
    explorer.get_by_text("the drawing is empty").wait_for()
    explorer.get_by_text("nothing was drawn").wait_for()
    pad = explorer.get_by_label("a pad to draw on with the mouse").bounding_box()
    at = lambda x, y: (pad["x"] + pad["width"] * x, pad["y"] + pad["height"] * y)
    explorer.mouse.move(*at(0.2, 0.1))
    explorer.mouse.down()
    for x, y in ((0.8, 0.1), (0.55, 0.5), (0.4, 0.95)): explorer.mouse.move(*at(x, y), steps=20)
    explorer.mouse.up()
    wait_for(lambda: explorer.get_by_label("# is ink").input_value().count("#") > 12, "ink")
    explorer.get_by_text("nothing was drawn").wait_for(state="detached")
    shot(explorer, "digits-drawn")
    explorer.locator(".jp-OutputArea-child").first.screenshot(path=SHOTS / "explorer.png")


def test_an_upload_that_is_no_picture_is_said_so(explorer, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"no picture")
    explorer.get_by_label("how", exact=True).select_option("file")
    explorer.get_by_text("no file is chosen").wait_for()
    with explorer.expect_file_chooser() as chooser: explorer.get_by_role("button", name="file of view0").click()
    chooser.value.set_files(tmp_path / "picture.png")
    explorer.get_by_text("this is no picture that can be used").wait_for()
    explorer.get_by_label("give view0").uncheck()
    wait_for(lambda: pictures(explorer) >= 18, "it goes on")


def test_a_point_of_the_map_is_decoded(explorer):
    explorer.get_by_role("tab", name="Map of the latent").click()
    point = explorer.locator(".muni-map svg text").last               # it lies on top
    number = point.get_attribute("data-row")
    point.click()
    row = explorer.locator(".muni-map input")
    wait_for(lambda: row.input_value() == number, "the row of the point")
    explorer.get_by_text(f"test row {number}").wait_for()
    row.fill("5")
    row.press("Enter")
    explorer.get_by_text("test row 5").wait_for()
    shot(explorer, "digits-map")


def test_routes_are_a_picture(explorer):
    explorer.get_by_role("tab", name="Routes").click()
    explorer.get_by_text("The prior learns from posteriors of").first.wait_for()
    shot(explorer, "digits-routes")


def test_it_is_legible_on_dark_ground(explorer):
    explorer.get_by_role("menuitem", name="Settings", exact=True).click()
    explorer.get_by_text("Theme", exact=True).first.hover()
    explorer.get_by_text("JupyterLab Dark", exact=True).click()
    wait_for(lambda: explorer.evaluate("document.body.dataset.jpThemeLight") == "false", "the dark theme")
    shot(explorer, "dark-routes")
    explorer.get_by_role("tab", name="Map of the latent").click()
    shot(explorer, "dark-map")
    explorer.get_by_role("tab", name="Draws").click()
    shot(explorer, "dark")
    explorer.get_by_role("menuitem", name="Settings", exact=True).click()
    explorer.get_by_text("Theme", exact=True).first.hover()
    explorer.get_by_text("JupyterLab Light", exact=True).click()


def test_scenes_are_seen_heard_and_read(explorer):
    explorer.get_by_label("model", exact=True).select_option("scenes")
    wait_for(lambda: explorer.locator(".muni-page audio").count() == 6, "sounds")
    explorer.get_by_label("give text").check()
    explorer.get_by_label("how", exact=True).select_option("caption")
    explorer.get_by_label("caption").fill("two purple drums in the rain")
    explorer.get_by_label("caption").press("Enter")
    explorer.get_by_text("is no word of scenes").wait_for()
    explorer.get_by_label("caption").fill("two green drums in the rain")
    explorer.get_by_label("caption").press("Enter")
    explorer.get_by_text("is no word of scenes").wait_for(state="detached")
    shot(explorer, "scenes")


def test_the_routing_ablation_runs_at_its_smoke_preset(page, lab):
    run_all(page, f"{lab}/lab/tree/routing.ipynb?reset")
    cells = json.loads((ROOT / "ablations/routing.ipynb").read_text())["cells"]
    number = sum(cell["cell_type"] == "code" for cell in cells)
    faults = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
    done = page.get_by_text(f"[{number}]:", exact=True)
    wait_for(lambda: done.count() or faults.count(), f"{number} cells")
    assert not faults.count(), faults.first.inner_text()
    shot(page, "routing")
