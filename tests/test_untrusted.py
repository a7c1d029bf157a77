"Files from others run no code, take no more memory than they should, and name no file outside their folder."
import ast
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from muni_nb.data import folder, mnist
from muni_nb.features.corpora import Corpus, Item
from muni_nb.files import TEXT_BYTES, FileError, read_values
from muni_nb.gate import InputError

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("muni_nb/**/*.py"), *ROOT.glob("tools/*.py")])
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def unpickles(node: ast.Call) -> bool:
    "Whether a call may read a pickle, or run a text as code."
    name = called(node)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if name in ("eval", "exec", "torch.save", "yaml.unsafe_load", "yaml.full_load"): return True
    if name == "torch.load": return options.get("weights_only") != "True"
    if name == "yaml.load": return not any("Loader" in ast.unparse(each) for each in [*node.args, *node.keywords])
    return options.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_text_that_is_run(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for node in tree:
        names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom) and not node.level: names = {(node.module or "").split(".")[0]}
        assert not names & NEVER, f"{path}:{node.lineno} imports {names & NEVER}"
        if isinstance(node, ast.Call): assert not unpickles(node), f"{path}:{node.lineno} calls {called(node)}"


def test_a_pickle_in_place_of_an_array_is_not_run(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"): folder.read_array(path, None, None)


def test_texts_are_bounded_before_they_are_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file: file.truncate(TEXT_BYTES + 1)        # of zeros, which take no room on disk
    with pytest.raises(FileError, match="are plenty.*: copy it again"): read_values(path, "model", "copy it again")


def test_what_unpacks_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "UNPACKED_BYTES", 1000)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 99, 0, 0, 0, 99]) + bytes(9 * 99 * 99)))
    with pytest.raises(ValueError, match="1,001 bytes"): mnist.read_idx(path, 3)


@pytest.mark.parametrize("file", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_corpus_names_no_file_outside_its_folder(file, tmp_path):
    with pytest.raises(InputError, match="which is not in"):
        Corpus("plain", "train", tmp_path, ("image", "text"), (Item("1", image=file, text="a dog"),))


def test_a_cache_cannot_ask_for_memory_that_it_does_not_have(tmp_path):
    from muni_nb.features.cache import mapped
    path = tmp_path / "image-00000.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + json.dumps({}).encode())
    with pytest.raises(FileError, match="its head is damaged"): mapped(path, 1, 1, "float32")
