"The command line, from arguments to files and exit codes; everything in this process."
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from muni_nb.__main__ import main
from muni_nb.experiments.run import Run, settings
from muni_nb.experiments.store import find
from muni_nb.experiments.told import read_config, run_told
from muni_nb.files import CannotWrite
from muni_nb.training.fit import NonFiniteLoss

SMALL = ["--preset", "smoke", "--recipe.steps", "4", "--evaluation.rows", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Results with one trained model."
    folder = tmp_path_factory.mktemp("results")
    assert main(["train", str(folder), *SMALL, "--cell", "mixture", "--routes.pooling", "moe"]) == 0
    return folder


def answered(capsys, *arguments):
    "What a command says as JSON, and nothing else there."
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_trained_model_is_that_of_a_sweep(folder, capsys):
    (told,) = folder.glob("models/*/run.yaml")
    run = run_told(read_config(told))
    assert (run.cell, run.recipe.steps, run.routes.pooling) == ("mixture", 4, "moe")
    assert told.parent.name == run.model_name and run.bench == Run("", **settings(small=True)).bench
    made = (told.parent / "model.safetensors").stat().st_mtime_ns
    again = answered(capsys, "train", folder, *SMALL, "--routes.pooling", "moe")
    assert again["model"] == str(told.parent) and "rate" in again["terms"]
    result = answered(capsys, "evaluate", folder)
    assert find(run, folder).name == result["result"].rpartition("/")[2] and result["figures"]["3"]["mixture"]
    listed = folder / "runs.yaml"
    listed.write_text("runs: [{cell: mixture, routes: {pooling: moe}}]")
    swept = answered(capsys, "sweep", listed, folder, *SMALL, "--workers", 0)
    assert swept["figures"] == result["figures"]
    assert (told.parent / "model.safetensors").stat().st_mtime_ns == made      # nothing was trained again
    assert answered(capsys, "share", folder, folder / "shared") == {"shared": str(folder / "shared")}
    assert "| nothing → all agree: both |" in (folder / "shared/README.md").read_text()      # its figures
    (lines,) = answered(capsys, "report", folder)["tables"].values()
    assert {line["cell"] for line in lines} == {"mixture"} and {line["n"] for line in lines} == {1}
    listed.write_text("runs: [{cell: mixture, routes: {pooling: moe}}, {cell: lacking, seed: 7}]")
    (lacking,) = answered(capsys, "report", folder, "--runs", listed, *SMALL)["missing"]
    assert lacking["cell"] == "lacking" and lacking["training"] > 0


def test_all_settings_go_to_a_file_and_back(tmp_path, capsys):
    arguments = [*SMALL, "--model", "MLD", "--seed", "3", "--bench.labels", "true"]
    assert main(["train", *arguments, "--print-config"]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    values = answered(capsys, "train", "--config", tmp_path / "run.yaml", "--print-config")
    assert values == answered(capsys, "train", *arguments, "--print-config")
    other = answered(capsys, "train", "--config", tmp_path / "run.yaml", "--seed", 4, "--print-config")
    assert other == values | {"seed": 4}


def test_what_is_drawn_is_of_what_is_given(folder, tmp_path, capsys):
    drawn = answered(capsys, "sample", folder, "--given", "digit", "--want", "view0", "quadrant", "--rows", 2, "--n", 2,
                     "--draw.steps", 2, "--out", tmp_path / "drawn")["written"]
    assert len(drawn) == 5 and np.asarray(Image.open(tmp_path / "drawn/view0-0003.png")).shape == (16, 16, 3)
    assert len((tmp_path / "drawn/quadrant.txt").read_text().split()) == 4
    told = ["--given", "digit=3", "--want", "quadrant", "--n", 3, "--out", tmp_path / "three"]
    answered(capsys, "sample", folder, *told)
    assert len((tmp_path / "three/quadrant.txt").read_text().split()) == 3


def test_a_model_of_the_package_and_one_that_was_moved_are_sampled_and_judged(folder, tmp_path, capsys):
    asked = ["--given", "digit=3", "--want", "quadrant"]
    assert answered(capsys, "sample", "digits", *asked, "--out", tmp_path / "a")["written"]
    (kept,) = folder.glob("models/*")
    shutil.copytree(kept, tmp_path / "moved")
    assert answered(capsys, "sample", tmp_path / "moved", *asked, "--out", tmp_path / "b")["written"]
    held = sorted(tmp_path.rglob("*"))
    apart = answered(capsys, "evaluate", tmp_path / "moved")
    assert apart["figures"] == answered(capsys, "evaluate", folder)["figures"] and apart["result"] is None
    assert held == sorted(tmp_path.rglob("*"))                               # it is kept nowhere


def test_draws_stand_beside_no_others(folder, tmp_path, capsys, monkeypatch):
    sample = ["sample", str(folder), "--want", "view0", "--draw.steps", "1", "--out", str(tmp_path)]
    assert main([*sample, "--rows", "3"]) == main([*sample, "--rows", "3", "--seed", "1"]) == 0
    held = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("muni_nb.models.muni.MUNI.sample", None)                # it is said before the work
    for told in (["--rows", "2"], ["--given", "digit", "--rows", "2"], ["--given", "digit=3", "--n", "2"]):
        assert main([*sample, *told]) == 2
        assert "has view0-0002.png, of other draws than these 2: remove its like" in capsys.readouterr().err
    assert held == {path: path.read_bytes() for path in tmp_path.iterdir()} and len(held) == 3


WRONG = {
    "a command": (["trian"], "invalid choice: 'trian'"),
    "an option": (["train", "--sede", "3"], "unrecognized arguments: --sede"),
    "a setting": (["train", "--recipe.stesp", "3"], "did you mean steps"),
    "a value": (["train", "--recipe.steps", "many"], "steps must be a whole number, got 'many'"),
    "a file": (["train", "--config", "nowhere.yaml"], "config nowhere.yaml cannot be read"),
    "a model": (["train", "--model", "MUMI"], "unknown model 'MUMI'"),
    "a device": (["train", "--preset", "smoke", "--device", "gpu"], "device 'gpu' cannot be used"),
    "no model": (["evaluate", "nowhere"], "there is no trained model in nowhere"),
    "dots": (["doctor", "--recipe.steps", "3"], "doctor takes no options with dots"),
    "a study": (["report", "nothing"], "there are no results at nothing, and no study is called so"),
    "a tracker": (["train", "--track", "tensorbord=logs"], "unknown tracker 'tensorbord': did you mean tensorboard"),
    "no rows": (["sample", "--rows", "-2", "--given", "view0"], "--rows must be at least 1, got -2"),
    "no draws": (["sample", "--n", "0"], "--n must be at least 1, got 0"),
    "no draw's": (["sample", "--draw.seed", "3"], "--draw.seed is no option of decoders: write --seed"),
    "what is drawn": (["sample", "--draw.want", "[view0]"], "--draw.want is no option of decoders: write --want"),
    "itself": (["sample", "--draw.self", "3"], "--draw.self is no option of decoders: leave it out"),
    "a notebook": (["sweep", "nowhere.ipynb"], "there is no notebook nowhere.ipynb"),
    "a scheduler": (["sweep", "runs.yaml", "--scheduler", "host"], "scheduler 'host' is none: give")}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_said_in_one_sentence(wrong, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs.yaml").write_text("runs: [{cell: MUNI}]")
    arguments, said = WRONG[wrong]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and not printed.out


def test_a_model_that_is_not_this_one_is_refused(folder, capsys):
    for arguments, said in ((["evaluate", str(folder), "--recipe.steps", "5"], "options are of another model"),
                            (["sample", str(folder), "--given", "digti"], "did you mean digit"),
                            (["sample", str(folder), "--draw.stesp", "5"], "no decoder of")):
        assert main(arguments) == 2 and said in capsys.readouterr().err


def test_work_that_fails_is_no_bad_input(folder, monkeypatch, capsys):
    def failing(*arguments, **named): raise error
    monkeypatch.setattr("muni_nb.experiments.execute.fit", failing)
    train = ["train", str(folder), *SMALL, "--seed", "9"]
    for error in (NonFiniteLoss("the loss is not finite"), CannotWrite(28, "the loss is not finite")):
        assert main(train) == 1
        assert capsys.readouterr().err == "the loss is not finite\n"


def test_errors_that_are_not_ours_keep_their_traceback(folder, monkeypatch, tmp_path, capsys):
    def loss(self, batch, available, progress=1.0): return torch.ones(2, 3) @ torch.ones(2, 3)
    monkeypatch.setattr("muni_nb.models.muni.MUNI.loss", loss)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["train", str(folder), *SMALL, "--seed", "9"])
    rows = "from muni_nb.data.own import from_arrays\ndef wrong(): return int('three')\n" \
           "def none(): return from_arrays({'a': [None] * 9})\n"
    (tmp_path / "mylab.py").write_text(rows)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="invalid literal"): main(["train", *SMALL, "--bench.benchmark", "mylab:wrong"])
    assert main(["train", *SMALL, "--bench.benchmark", "mylab:none"]) == 2
    assert "a: nothing is there in 9 rows" in capsys.readouterr().err


def test_a_file_fault_of_a_library_is_one_line_and_of_ones_own_code_a_traceback(folder, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["share", str(folder), str(tmp_path / "file" / "shared")]) == 1
    assert re.fullmatch(r"\[Errno \d+\] Not a directory: .*shared'\n", capsys.readouterr().err)
    (tmp_path / "ourlab.py").write_text("def rows(): return open('nowhere')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError): main(["train", *SMALL, "--bench.benchmark", "ourlab:rows"])


def test_a_notebook_is_run_with_parameters(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = nbformat.v4.new_code_cell("steps = 1", metadata={"tags": ["parameters"]})
    check = "class InputError(ValueError): pass\nif steps > 5: raise InputError('steps must be at most 5')"
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(check)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, "study.ipynb")
    assert main(["sweep", "study.ipynb", "-p", "stesp", "3"]) == 2 and "did you mean steps" in capsys.readouterr().err
    assert main(["sweep", "study.ipynb", "-p", "steps", "7"]) == 2 and "must be at most 5" in capsys.readouterr().err
    assert answered(capsys, "sweep", "study.ipynb", "-p", "steps", 3) == {"notebook": "runs/study.ipynb"}
    assert "steps = 3" in (tmp_path / "runs/study.ipynb").read_text()


def test_the_doctor_says_what_is_slow(tmp_path, capsys):
    found = answered(capsys, "doctor", tmp_path)
    assert found["processor"]["threads"] == 1 and found["folders"][0]["writable"] and isinstance(found["slow"], list)


def test_the_explorer_is_opened_in_jupyterlab(tmp_path, monkeypatch, capsys):
    called = []
    ended = lambda command, cwd: called.append((command[1:], cwd)) or subprocess.CompletedProcess(command, code)
    monkeypatch.setattr(subprocess, "run", ended)
    code = 0
    assert main(["explore", "--no-browser", "--port", "9000"]) == 0
    (command, root), = called
    assert command == ["-m", "jupyterlab", "nbs/explore.ipynb", "--port=9000", "--no-browser"]
    assert (root / command[2]).is_file()
    code = 3
    assert main(["explore"]) == 1 and "exit code 3" in capsys.readouterr().err
    monkeypatch.setattr("muni_nb.__main__.repository_root", lambda: tmp_path)
    assert main(["explore"]) == 2 and "comes with the repository" in capsys.readouterr().err


def test_options_that_say_nothing_are_refused(capsys):
    notebook = str(Path(__file__).parent.parent / "ablations" / "routing.ipynb")
    for told, said in ((["sweep", notebook, "--workers", "7"], "--workers says nothing to a notebook"),
                       (["sweep", notebook, "--recipe.steps", "5"], "--recipe.… says nothing"),
                       (["sweep", notebook, "-p", "preset", "smoke", "-p", "preset", "long"], "is given twice"),
                       (["report", "routing", "--preset", "quick"], "--preset says nothing to report without --runs"),
                       (["report", "routing", "--cells", "--metrics", "rate"], "--metrics says nothing to report --"),
                       (["report", "routing", "--cells", "--against", "peers"], "--against says nothing to report --"),
                       (["report", "five_views", "--against", "peers"], "of different benchmarks")):
        assert main(told) == 2 and said in capsys.readouterr().err
