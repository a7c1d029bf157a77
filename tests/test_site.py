"""What the site, README and tutorials say: pages and links without building them, and every block of code.

Blocks of Python that stand alone are run, with fewer steps; commands are held against what they call."""
import ast
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from muni_nb.__main__ import parser, settings_told
from muni_nb.experiments.told import dotted, run_told, runs_told

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "nbs").rglob("*.ipynb")),
           *sorted((ROOT / "ablations").glob("*.ipynb"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def prose(path):
    "The markdown of a text or notebook."
    if path.suffix == ".md": return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown") + "\n"


BLOCKS = [(path, *found) for path in SOURCES if ".ipynb_checkpoints" not in path.parts
          for found in BLOCK.findall(prose(path))]


def blocks(language):
    found = [(path, text) for path, kind, text in BLOCKS if kind == language]
    return pytest.mark.parametrize("path, text", found, ids=lambda each: getattr(each, "name", ""))


@pytest.fixture(scope="module")
def pages():
    "The pages of the site before mkdocs renders them, by their paths."
    import sys
    sys.path.insert(0, str(ROOT / "tools" / "site"))
    import pages
    return dict(pages.made(pages.exported_by()))


def test_every_notebook_and_module_has_a_page(pages):
    for path in SOURCES[2:]:
        if path.name != "index.ipynb": assert path.relative_to(ROOT).with_suffix(".md").as_posix() in pages
    assert "::: muni_nb.models.muni\n" in pages["api/models/muni.md"]


def test_links_of_pages_lead_somewhere(pages):
    followed = 0
    for uri, text in pages.items():
        if isinstance(text, bytes): continue
        prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", re.sub(r"(?<!\[)`[^`\n]+`", "", prose)):
            if re.match(r"\w+:", link): continue
            target = (ROOT / uri).parent.joinpath(link).resolve().relative_to(ROOT).as_posix()
            assert target in pages, f"{uri} links to {link}"
            followed += 1
    assert followed > 100


def parameters_of(notebook):
    "The names in the parameters cell of a notebook."
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return [each.target.id for each in ast.parse("".join(cell["source"])).body if isinstance(each, ast.AnnAssign)]


def check_papermill(words):
    "An ablation, where it is to be kept, and parameters that it has."
    if words[0] == "--help-notebook": return parameters_of(words[1])
    known, options = parameters_of(words[0]), words[2:]
    assert words[1].startswith("runs/")
    while options:
        if options[0] == "-y": given, options = list(yaml.safe_load(options[1])), options[2:]
        else: given, options = [options[1]], options[3:]
        assert set(given) <= set(known), given


def check_command(words):
    "A command of ours, understood to the last option; nothing is done."
    dots, rest = dotted(words)
    told = parser().parse_args(rest)
    if told.command == "train": settings_told(told.__class__(**vars(told) | {"config": None, "dotted": dots}))


def test_commands_are_understood():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    checked = 0
    for path, language, text in BLOCKS:
        for line in text.splitlines() if language in ("", "bash") else []:
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "muni_nb"]: words = ["muni_nb", *words[3:]]
            head, rest = (words or [""])[0], words[1:]
            if head == "make": assert rest[0] in targets, f"{path.name}: {line}"
            elif head == "papermill": check_papermill(rest)
            elif head == "muni_nb": check_command(rest)
            else: continue
            checked += 1
    assert checked > 40


@blocks("yaml")
def test_settings_make_runs(path, text):
    values = yaml.safe_load(text)
    assert runs_told(values) if "runs" in values else run_told(values)


@blocks("python")
def test_python_is_python(path, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("muni_nb"):
            module = __import__(node.module, fromlist=["all"])
            for name in node.names: assert hasattr(module, name.name), f"{path.name}: {node.module}.{name.name}"


@pytest.fixture
def quick(monkeypatch, tmp_path):
    "What blocks import, made small; and the arrays that they speak of."
    import muni_nb.data.digits, muni_nb.evaluation.report, muni_nb.evaluation.verifier, muni_nb.training.fit
    import muni_nb.experiments.run, muni_nb.experiments.sweep
    from muni_nb.models.classical.mopoe import MoPoE
    def smaller(module, name, **small):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **told: whole(*given, **told | small))
    smaller(muni_nb.data.digits, "quadrant_digits", rows=80, test_rows=40)
    smaller(muni_nb.training.fit, "fit", steps=1, batch_size=8, progress=False)
    smaller(muni_nb.evaluation.verifier, "judge_for", folder=None, steps=1, width=4, progress=False)
    smaller(muni_nb.evaluation.report, "evaluate", rows=4, steps=1, per_class=4, probe_steps=1)
    run, small = muni_nb.experiments.run.Run, muni_nb.experiments.run.settings(True)
    monkeypatch.setattr(muni_nb.experiments.run, "Run", lambda *given, **told: run(*given, **small | told))
    sweep = muni_nb.experiments.sweep.sweep
    monkeypatch.setattr(muni_nb.experiments.sweep, "sweep", lambda runs, folder: sweep(runs[:2], folder, workers=0))
    mine = ModuleType("my_package.models")
    mine.Mine = MoPoE
    monkeypatch.setitem(sys.modules, "my_package", ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.models", mine)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    return {"__name__": "__main__", "labels": labels,
            "photos": random.integers(0, 255, (120, 16, 16, 3), dtype=np.uint8),
            "captions": [f"number {i}" for i in labels], "features": random.normal(size=(120, 4))}


@pytest.mark.parametrize("source", ["README.md", "nbs/data/06_own.ipynb"])
def test_first_lines_run(source, quick):
    for path, language, text in BLOCKS:
        if path == ROOT / source and language == "python": exec(text, quick)
    assert quick["model"].specs == quick["bench"].specs
