"""The pages of the site, as a hook of mkdocs: every notebook, README, CONTRIBUTING, and a page of reference a module.

Paths are those of the repository, so that links among notebooks hold; formulas become MathML, which needs no script.
"""
import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from readme import CODE, DIRECTIVE, HIDE, LINK, SILENT  # noqa: E402

ROOMS = {   # of nbs/, in the order in which one reads them
    "latent": "Latents", "nets": "Networks", "data": "Data", "models": "Models", "models/classical": "Classical models",
    "training": "Training", "features": "Features", "evaluation": "Evaluation", "experiments": "Experiments"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
NOTEBOOK_NAME = re.compile(r"`((?:nbs|ablations)/[\w/]+)(?:\.ipynb)?`")
MODULE_NAME = re.compile(r"`(?:muni_nb\.)?((?:\w+\.)+)(\w+)`")
ENDING = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def notebooks(folder: str) -> list[Path]:
    "Those in a folder of the repository, in reading order."
    return sorted((ROOT / folder).glob("*.ipynb"))


def uri_of(path: Path) -> str:
    "Where the page of a notebook stands."
    return path.relative_to(ROOT).with_suffix(".md").as_posix()


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def text_of(lines: str | list[str]) -> str:
    "What a notebook holds as text, or as a list of lines."
    return lines if isinstance(lines, str) else "".join(lines)


def title_of(path: Path) -> str:
    "The first heading of a notebook."
    first = text_of(cells_of(path)[0]["source"])
    if not first.startswith("# "): first = text_of(cells_of(path)[1]["source"])      # after `default_exp`
    return first.splitlines()[0].removeprefix("# ")


def exported_by() -> dict[str, str]:
    "The page that each module is written on, by its name below muni_nb."
    found = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        made = re.search(r"#\| default_exp ([\w.]+)", path.read_text(encoding="utf-8"))
        if made: found[made[1]] = uri_of(path)
    return found


# Markdown ------------------------------------------------------------------------------------------------------------
def fenced(text: str, language: str = "text") -> str:
    "A block of code, in a fence that is longer than any in it."
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def linked(markdown: str, here: str, modules: dict[str, str]) -> str:
    "Links to notebooks as links to their pages, and names of notebooks and modules as links; code is left as it is."
    def to(page: str, shown: str) -> str:
        return f"[{shown}]({os.path.relpath(page, Path(here).parent)})" if page != here else shown

    def to_notebook(found) -> str:
        path = ROOT / f"{found[1]}.ipynb"
        return to(uri_of(path), found[0]) if path.exists() else found[0]

    def to_module(found) -> str:
        names = found[1] + found[2]
        for name in (names, names.rpartition(".")[0]):
            if name in modules: return to(modules[name], found[0])
        return found[0]

    def to_page(link) -> str:
        return link[1] + link[2].removesuffix(".ipynb") + (".md" if link[2].endswith(".ipynb") else "")

    def named(code: str) -> str:
        return code if code.startswith("```") else NOTEBOOK_NAME.sub(to_notebook, MODULE_NAME.sub(to_module, code))

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(to_page, prose) for prose in parts[::2]]
    parts[1::2] = map(named, parts[1::2])
    return "".join(parts)


def shown(output: dict, name: str) -> tuple[str, dict[str, bytes]]:
    "An output of a cell as markdown, and the files that it needs, each named after `name`."
    data = output.get("data") or {"text/plain": output.get("text", "")}
    for kind, ending in ENDING.items():
        if kind not in data: continue
        held = text_of(data[kind])
        picture = held.encode() if ending == "svg" else base64.b64decode(held)
        return f"![What the cell above draws]({Path(name).name}.{ending})", {f"{name}.{ending}": picture}
    if "text/html" in data: return f'<div class="output">\n{text_of(data["text/html"])}\n</div>', {}
    if "text/markdown" in data: return text_of(data["text/markdown"]), {}
    return fenced(text_of(data.get("text/plain", ""))), {}


def page_of(path: Path, modules: dict[str, str]) -> tuple[str, dict[str, bytes]]:
    "A notebook as markdown, and the pictures on it by their paths."
    here = uri_of(path)
    parts, pictures = [], {}
    for i, cell in enumerate(cells_of(path)):
        source = text_of(cell["source"])
        if cell["cell_type"] == "markdown": parts.append(linked(source, here, modules))
        if cell["cell_type"] != "code" or HIDE.search(source): continue
        code = DIRECTIVE.sub("", source).strip()
        if code and not SILENT.search(source): parts.append(fenced(code, "python"))
        for j, output in enumerate(cell["outputs"]):
            markdown, files = shown(output, f"{here.removesuffix('.md')}_{i}_{j}")
            parts.append(markdown)
            pictures |= files
    return "\n\n".join(parts) + "\n", pictures


def reference_of(module: Path, modules: dict[str, str]) -> tuple[str, str]:
    "The page of reference of a module: where it stands, and what is on it."
    parts = module.relative_to(ROOT).with_suffix("").parts
    uri = f"api/{'/'.join(parts[1:])}.md"
    back = os.path.relpath(modules[".".join(parts[1:])], Path(uri).parent)
    name = ".".join(parts)
    return uri, f"# {'.'.join(parts[1:])}\n\n`{name}`, written and tested in [its notebook]({back}).\n\n::: {name}\n"


# What mkdocs asks ----------------------------------------------------------------------------------------------------
def modules_in(room: str) -> list[Path]:
    "The modules of a room, in reading order of their notebooks."
    found = sorted(((page, name) for name, page in exported_by().items() if name.rpartition(".")[0] == room))
    return [ROOT / "muni_nb" / f"{name.replace('.', '/')}.py" for _, name in found]


def on_config(config):
    "The order of pages: tutorials first."
    def entries(folder: str) -> list[dict]:
        return [{title_of(path): uri_of(path)} for path in notebooks(folder)]

    top = [path for path in notebooks("nbs") if path.stem not in ("index", "results", "explore")]
    explorer = [{title_of(path): uri_of(path)} for path in notebooks("nbs") if path.stem == "explore"]
    api = {told: [f"api/{path.relative_to(ROOT / 'muni_nb').with_suffix('.md').as_posix()}"
                  for path in modules_in(room.replace("/", "."))] for room, told in ROOMS.items()}
    config.nav = [
        {"Home": "index.md"},
        {"Tutorials": entries("nbs/tutorials") + explorer},
        {"Ablations": entries("ablations")},
        {"Results": "nbs/results.md"},
        {"Notebooks": [{title_of(path): uri_of(path)} for path in top] +
                      [{told: entries(f"nbs/{room}")} for room, told in ROOMS.items()]},
        {"Reference": [{"Top": [f"api/{path.stem}.md" for path in modules_in("")]}] +
                      [{told: pages} for told, pages in api.items()]},
        {"Contribute": "CONTRIBUTING.md"}]
    return config


def made(modules: dict[str, str]) -> Iterator[tuple[str, str | bytes]]:
    "All that stands on the site, by its path."
    for name, uri in {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}.items():
        yield uri, linked((ROOT / name).read_text(encoding="utf-8"), uri, modules)
    for picture in [*sorted((ROOT / "nbs/images").glob("*.png")), ROOT / "nbs/house.svg"]:
        yield picture.relative_to(ROOT).as_posix(), picture.read_bytes()
    for folder in ("nbs", "nbs/tutorials", "ablations", *(f"nbs/{room}" for room in ROOMS)):
        for path in notebooks(folder):
            if path.stem == "index": continue
            text, pictures = page_of(path, modules)
            yield uri_of(path), text
            yield from pictures.items()
    for name in modules: yield reference_of(ROOT / "muni_nb" / f"{name.replace('.', '/')}.py", modules)


def on_files(files, config):
    from mkdocs.structure.files import File
    for uri, content in made(exported_by()): files.append(File.generated(config, uri, content=content))
    return files


def on_page_content(html, page, config, files):
    from latex2mathml.converter import convert
    def as_mathml(found) -> str:
        return convert(unescape(found[2]), display="block" if found[1] == "div" else "inline")

    return FORMULA.sub(as_mathml, html)
