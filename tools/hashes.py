"""constraints.txt with a checksum for each file of a version: `python tools/hashes.py INDEX > constraints-hashed.txt`.

INDEX is the address of a package index that speaks JSON (PEP 691). Listed are wheels that Python 3.11 or newer takes,
and sources. To install so that pip refuses any other file of these projects:

    pip install --require-hashes --no-deps -r constraints-hashed.txt && pip install -c constraints.txt -e .

The second adds what torch wants of a platform alone (CUDA's libraries), which constraints.txt does not list. Builds of
torch from elsewhere, such as those for a CPU alone, are other files, and refused."""
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
TAKEN = re.compile(r"-(py3|py2\.py3|cp3\d+-abi3|cp31[1-9]-cp31[1-9])-[^-]+\.whl$|-(py3|py2\.py3)-none-[^-]+\.whl$")
FREE_THREADED = re.compile(r"cp3\d+t")


def plain(name: str) -> str:
    "A project's name as an index spells it."
    return re.sub(r"[-_.]+", "-", name).lower()


def of_version(file: str, name: str, version: str) -> bool:
    "Whether a file is of this version of a project, and one that we would install."
    head = re.sub(r"[-_.]+", "-", file).lower()
    wanted = f"{plain(name)}-{re.sub(r'[-_.]+', '-', version).lower()}-"
    if file.endswith(".tar.gz"): return head == f"{wanted}tar-gz"
    return head.startswith(wanted) and bool(TAKEN.search(file)) and not FREE_THREADED.search(file)


def hashes(index: str, name: str, version: str) -> Iterator[str]:
    "Checksums of the files of a version."
    asked = Request(f"{index.rstrip('/')}/{plain(name)}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urlopen(asked, timeout=60) as answer: files = json.load(answer)["files"]
    for file in files:
        if of_version(file["filename"], name, version) and not file.get("yanked"): yield file["hashes"]["sha256"]


def main() -> None:
    if len(sys.argv) != 2: sys.exit(__doc__)
    print("# constraints.txt with checksums, made by tools/hashes.py, which says how to install with it.")
    for line in PINS.read_text().splitlines():
        if not line or line.startswith("#"): continue
        name, version = line.split("==")
        found = sorted(set(hashes(sys.argv[1], name, version)))
        if not found: sys.exit(f"{line}: the index has no file of it that we would install")
        print(" \\\n    ".join([line, *(f"--hash=sha256:{each}" for each in found)]))


if __name__ == "__main__": main()
