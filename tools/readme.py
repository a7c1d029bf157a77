"""Render README.md from nbs/index.ipynb.

  python tools/readme.py           write README.md and the pictures it shows
  python tools/readme.py --check   write nothing; exit 1 when they are not what the notebook says

Cells marked `#| hide` are left out, of cells marked `#| echo: false` only the output stays; other directives are not
shown. Relative links of the notebook become relative to the repository, and must exist. A picture is either a linked
file or the output of a cell, kept as nbs/images/index_*.png.
"""
import os
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "index.ipynb"
README = ROOT / "README.md"
PICTURES = ROOT / "nbs" / "images"

CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
LINK = re.compile(r"""(\]\(|\bsrc="|\bhref=")(?!https?:|mailto:|\#)([^)"\s#]+)""")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
SILENT = re.compile(r"^#\|\s*echo:\s*false\s*$", re.MULTILINE)
HIDE = re.compile(r"^#\|\s*hide\s*$", re.MULTILINE)
BLANK = re.compile(r"\n(?:[ \t]*\n)+")
HEAD = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: edit the notebook, then `make export`. -->\n\n"


def from_root(link):
    "A relative link of the notebook, as README.md has to write it."
    target = Path(os.path.normpath(NOTEBOOK.parent / link[2]))
    if not target.exists():
        sys.exit(f"nbs/index.ipynb links to {link[2]!r}, which does not exist: correct the link or add the file")
    return link[1] + target.relative_to(ROOT).as_posix()


def relink(markdown):
    "`markdown` with its relative links seen from the repository root; code is left as it is."
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(from_root, prose) for prose in parts[::2]]
    return "".join(parts)


def render():
    "README's text, and the bytes of every output picture by path."
    nb = nbformat.read(NOTEBOOK, as_version=4)
    nb.metadata.language_info = {"name": "python"}
    nb.cells = [cell for cell in nb.cells if not (cell.cell_type == "code" and HIDE.search(cell.source))]
    for cell in nb.cells:
        if cell.cell_type == "code" and SILENT.search(cell.source):
            cell.metadata["transient"] = {"remove_source": True}
        cell.source = DIRECTIVE.sub("", cell.source) if cell.cell_type == "code" else relink(cell.source)
    pictures_first = Config({"NbConvertBase": {"display_data_priority": ["text/markdown", "image/png", "text/plain"]}})
    names = {"unique_key": "index", "output_files_dir": PICTURES.relative_to(ROOT).as_posix()}
    body, resources = MarkdownExporter(config=pictures_first).from_notebook_node(nb, resources=names)
    return HEAD + BLANK.sub("\n\n", strip_ansi(body)).strip() + "\n", resources["outputs"]


def main():
    text, pictures = render()
    files = {README: text.encode()} | {ROOT / name: data for name, data in pictures.items()}
    changed = [path for path, data in files.items() if not path.exists() or path.read_bytes() != data]
    orphans = [path for path in PICTURES.glob("index_*.png") if path not in files]
    if "--check" in sys.argv[1:]:
        if stale := changed + orphans:
            names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
            sys.exit(f"Out of step with nbs/index.ipynb: {names}. Run `make export` and commit what it changes.")
        return
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files[path])
    for path in orphans:
        path.unlink()


if __name__ == "__main__":
    main()
