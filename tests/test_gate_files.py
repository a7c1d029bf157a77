"Files, places and sweeps: what users' mistakes and machines' accidents do, kind by kind."
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from muni_nb import files
from muni_nb.data.digits import quadrant_digits
from muni_nb.evaluation.verifier import SHIPPED
from muni_nb.experiments.execute import execute
from muni_nb.experiments.run import BENCHMARKS, Run
from muni_nb.experiments.store import digests, find, gather, keep, read, read_result, studies
from muni_nb.experiments.sweep import sweep
from muni_nb.experiments.workers import threads_for
from muni_nb.files import CannotWrite
from muni_nb.gate import InputError, scalar
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.training.checkpoint import read_state, write_state
from muni_nb.training.fit import Recipe, fit

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(sizes=Sizes.tiny(), recipe=Recipe(steps=4, batch_size=16), bench={"size": 16, "rows": 100, "test_rows": 60},
            evaluation={"rows": 8, "steps": 1, "per_class": 20, "probe_steps": 2, "latents": False})
QUICK = {"steps": 3, "batch_size": 16, "progress": False}
OURS = (InputError, CannotWrite)


def tried(kind, act, wanted):
    """Hold `act` to `wanted`: a pattern of our own sentence, or None where it should do it right.

    An `act` that returns False was accepted, and did something else."""
    try:
        right = scalar(act()) is not False and wanted is None
        told = "accepted"
    except OURS as error:
        told = str(error)
        right = wanted is not None and re.search(wanted, told)
    except Exception as error:                            # of a library below
        right, told = False, f"{type(error).__name__}: {error}"
    assert right, f"{kind}: wanted {wanted or 'it done'}, got {told}"


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=100, test_rows=20)


def model_of(bench, seed=0):
    torch.manual_seed(seed)
    return MUNI(bench.specs, sizes=Sizes.tiny())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A results folder with one run."
    folder = tmp_path_factory.mktemp("made")
    execute(Run("MUNI", **TINY), folder)
    return folder


def damages(data):
    "Copies of a file's bytes, each damaged in another way; and how."
    size = len(data)
    yield "empty", b""
    yield "text", b"not found"
    for kept in (1, 7, 100, size // 2, size - 1): yield f"cut at {kept}", data[:kept]
    yield "last 64 zeroed", data[:-64] + bytes(64)
    for part in range(8):
        start = part * size // 8
        yield f"zeroed from {start}", data[:start] + bytes(64) + data[start + 64:]
    rng = np.random.default_rng(0)
    for place in rng.integers(0, size, 12).tolist():
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"a bit at {place}", bytes(flipped)
    yield "other ends of lines", data.replace(b"\n", b"\r\n") + b"\r\n"


def test_whatever_is_damaged_is_named_with_a_remedy(bench, made, tmp_path):
    model = model_of(bench)
    model.save(tmp_path / "model")
    fit(model, bench, folder=tmp_path / "run", **QUICK)
    write_state(tmp_path / "judge.safetensors", {"w": torch.randn(40, 40)}, {"who": {}})
    shutil.copy(find(Run("MUNI", **TINY), made), tmp_path)
    result = find(Run("MUNI", **TINY), tmp_path)
    keep(tmp_path / "kept" / "study.nc", [Run("MUNI", **TINY)], [read_result(result)])
    study = tmp_path / "kept" / "study.nc"
    readers = {tmp_path / "model" / "model.safetensors": lambda: MUNI.load(tmp_path / "model"),
               tmp_path / "model" / "config.json": lambda: MUNI.load(tmp_path / "model"),
               tmp_path / "run" / "checkpoint.safetensors": lambda: fit(model, bench, folder=tmp_path / "run", **QUICK),
               tmp_path / "judge.safetensors": lambda: read_state(tmp_path / "judge.safetensors"),
               result: lambda: gather([Run("MUNI", **TINY)], tmp_path),
               study: lambda: gather([Run("MUNI", **TINY)], study.parent)}
    for path, reads in readers.items():
        whole = path.read_bytes()
        for how, damaged in damages(whole):
            if damaged == whole or path.suffix == ".json" and how == "other ends of lines": continue     # see below
            path.write_bytes(damaged)
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
            named = rf"{path.name} is not a readable .*: (delete|copy)|{path.name} was written by a newer"
            tried("damaged files", reads, named)
        path.write_bytes(whole)
        assert reads() is not None


def test_text_that_was_opened_elsewhere_is_read(bench, tmp_path):
    model_of(bench).save(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text()
    values = json.loads(text)
    unsealed = {k: v for k, v in values.items() if k != "seal"}
    same = {"mark of byte order": b"\xef\xbb\xbf" + text.encode(), "UTF-16": text.encode("utf-16"),
            "ends of lines": text.replace("\n", "\r\n").encode(), "one line": json.dumps(values).encode(),
            "sorted": json.dumps(values, sort_keys=True).encode(), "no seal": json.dumps(unsealed).encode()}
    for data in same.values():
        path.write_bytes(data)
        tried("files of other editors", lambda: MUNI.load(tmp_path).config() == model_of(bench).config(), None)
    changed = {"model": "holds a 'x', not a MUNI", "specs": "not a readable configuration", "sizes": "not a readable"}
    for name, wanted in changed.items():
        path.write_text(json.dumps({**unsealed, name: "x"}))
        tried("files of other editors", lambda: MUNI.load(tmp_path), wanted)
    path.write_text(json.dumps({**unsealed, "colour": 1}))
    unknown = "config.json is not a readable configuration.*colour.*update muni_nb"
    tried("files of other editors", lambda: MUNI.load(tmp_path), unknown)
    path.write_text(json.dumps({**values, "model": "MLD"}))
    tried("files of other editors", lambda: MUNI.load(tmp_path), "not as it was written.*delete its line \"seal\"")


def test_files_of_a_newer_package_are_said_to_be_so(bench, made, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VERSION", 9)
    monkeypatch.setattr(files, "BLANK", files.BLANK.replace("version 1", "version 9"))
    model = model_of(bench)
    model.save(tmp_path / "model")
    model.save(tmp_path / "mixed")
    fit(model, bench, folder=tmp_path / "run", **QUICK)
    shutil.copytree(made, tmp_path / "made")
    run = Run("MUNI", **TINY)
    path = find(run, tmp_path / "made")
    files.write_dataset(path, read_result(path))
    curves = tmp_path / "made" / "models" / run.model_name / "curves.nc"
    files.write_dataset(curves, read_result(curves))
    monkeypatch.undo()
    model_of(bench).save(tmp_path / "older")
    shutil.copy(tmp_path / "older" / "config.json", tmp_path / "mixed")
    newer = "written by a newer muni_nb, in version 9 of its form; this one reads up to 1: update muni_nb"
    for reads in (lambda: MUNI.load(tmp_path / "model"), lambda: MUNI.load(tmp_path / "mixed"),
                  lambda: fit(model, bench, folder=tmp_path / "run", **QUICK), lambda: read(run, tmp_path / "made"),
                  lambda: sweep([run], tmp_path / "made", workers=0), lambda: execute(run, tmp_path / "made")):
        tried("newer files", reads, newer)


def test_what_was_written_before_there_were_seals_is_read(bench, made, tmp_path):
    model = model_of(bench)
    fit(model, bench, folder=tmp_path / "run", **QUICK)
    tensors, note = read_state(tmp_path / "run" / "checkpoint.safetensors")
    save_file(tensors, tmp_path / "run" / "checkpoint.safetensors", {"note": json.dumps(note)})
    again = lambda: fit(model_of(bench, 1), bench, folder=tmp_path / "run", **QUICK)
    tried("older files", lambda: again().term_value.size > 0, None)
    (tmp_path / "model").mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text(json.dumps(model.config(), indent=1))
    weights = lambda model: list(model.state_dict().values())
    tried("older files", lambda: all(map(torch.equal, weights(MUNI.load(tmp_path / "model")), weights(model))), None)
    run = Run("MUNI", **TINY)
    ds = read_result(find(run, made))
    ds.to_netcdf(tmp_path / f"{run.name}.nc", engine="netcdf4")
    tried("older files", lambda: read(run, tmp_path).equals(ds), None)
    for path in studies(ROOT / "ablations" / "records"): tried("older files", lambda: len(digests(path)) > 0, None)
    for path in sorted(SHIPPED.glob("*.safetensors")): tried("older files", lambda: "who" in read_state(path)[1], None)


WHOLE = [4.0, True, "3", None, [3], float("nan"), np.float32(3), torch.tensor([3])]
REAL = ["0.1", True, None, [0.1], float("nan"), float("inf"), 1j]


def test_numbers_of_recipes():
    kind = "numbers of recipes"
    for name in ("steps", "batch_size", "warmup", "seed"):
        for bad in WHOLE: tried(kind, lambda: Recipe(**{name: bad}), f"^{name} must be a whole number")
        for good in (np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)):
            recipe = Recipe(**{name: good})
            tried(kind, lambda: type(getattr(recipe, name)) is int and recipe == Recipe(**{name: 3}), None)
    for name in ("lr", "clip", "weight_decay", "ema"):
        for bad in REAL: tried(kind, lambda: Recipe(**{name: bad}), f"^{name} must be")
        for good in (np.float32(0.5), torch.tensor(0.5)):
            tried(kind, lambda: type(getattr(Recipe(**{name: good}), name)) is float, None)
    for name in ("decay", "lr_scales"):
        for bad in ("no", 1, None): tried(kind, lambda: Recipe(**{name: bad}), f"^{name} must be True or False")


@pytest.mark.parametrize("changes, wanted", [
    ({"betas": 0.9}, "betas must be a list"),
    ({"betas": (0.9,)}, "betas must have 2"),
    ({"betas": (0.9, 1.0)}, r"betas\[1\] must be at least 0 and below 1"),
    ({"optimiser": "Adam"}, "unknown optimiser 'Adam': did you mean adamw"),
    ({"seed": 2**32}, "seed must be at least 0 and at most 4294967295"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"lr": -1}, "lr must be above 0"),
    ({"ema": 1.0}, "ema must be"),
    ({"save_every": 0}, "save_every must be at least 1"),
    ({"log_every": 2.0}, "log_every must be a whole number"),
    ({"progress": "no"}, "progress must be True or False"),
    ({"device": "gpu"}, "device 'gpu' cannot be used here"),
    ({"device": None}, "device must be"),
    ({"stepz": 3}, "fit takes no 'stepz': did you mean steps"),
    ({"save_evry": 3}, "did you mean save_every"),
    ({"recipe": {"steps": 3}}, r"recipe must be Recipe\(...\)")])
def test_arguments_of_fit(bench, changes, wanted):
    tried("arguments of fit", lambda: fit(model_of(bench), bench, **{**QUICK, **changes}), wanted)


def test_numbers_of_fit(bench):
    kind = "arguments of fit"
    for name in ("save_every", "log_every"):
        told = lambda value: fit(model_of(bench), bench, **QUICK, **{name: value}).term_value.notnull().all()
        for bad in (*WHOLE, 0, -1): tried(kind, lambda: told(bad), f"^{name} must be")
        tried(kind, lambda: told(np.int64(2)), None)


def test_a_benchmark_or_model_told_in_numbers_of_numpy_trains_into_a_folder(bench, tmp_path):
    kind = "numbers of numpy in files"
    for i, good in enumerate((np.int64(3), np.float32(0.5), np.arange(3), torch.tensor(2), np.bool_(True))):
        told = replace(bench, config={**bench.config, "extra": good})
        train = lambda: fit(model_of(bench), told, folder=tmp_path / str(i), **QUICK)
        for _ in range(2): tried(kind, lambda: train().sizes["term"] > 0, None)
    for bad in (object(), {1, 2}, lambda: None, b"bytes"):
        told = lambda: replace(bench, config={**bench.config, "extra": bad})
        tried(kind, told, r"config\['extra'\] must be JSON values")


WHOM = {"verifier": "train_verifier", "evaluation": "evaluate", "towers": "train_towers",
        "bench": "benchmark quadrant_digits"}


def test_numbers_of_runs():
    kind = "arguments of runs"
    run = Run("MUNI", **TINY)
    for bad in WHOLE: tried(kind, lambda: replace(run, seed=bad), "a run's seed must be a whole number")
    for good in (np.int64(0), torch.tensor(0)): tried(kind, lambda: replace(run, seed=good) == run, None)
    for name, whom in WHOM.items():
        field = "seed" if name == "bench" else "steps"
        refused = f"{whom}: {field} must be a whole number"
        for bad in WHOLE: tried(kind, lambda: replace(run, **{name: {field: bad}}), refused)
        for bad in ([], "steps", 3): tried(kind, lambda: replace(run, **{name: bad}), f"a run's {name} must be a dict")
        tried(kind, lambda: replace(run, **{name: {"stepps": 3}}), f"{whom} takes no 'stepps'")
    for told in ({"rows": np.int64(8)}, {"guidance": np.float32(3)}, {"guidance": np.array([1.0, 3.0])},
                 {"routes": np.array([["digit"]])}):
        plain = {name: value.tolist() for name, value in told.items()}
        tried(kind, lambda: replace(run, evaluation=told).digest == replace(run, evaluation=plain).digest, None)


@pytest.mark.parametrize("changes, wanted", [
    ({"model": MUNI}, "model must be text"),
    ({"model": "MUMI"}, "did you mean MUNI"),
    ({"sizes": {}}, "sizes must be"),
    ({"cell": 3}, "cell must be text"),
    ({"recipe": {"steps": 3}}, "recipe must be Recipe"),
    ({"routes": Sizes.tiny()}, "routes must be Routes"),
    ({"evaluation": {"guidance": float("nan")}}, "guidance must be finite"),
    ({"evaluation": {"guidance": "much"}}, "guidance must be a number or a list"),
    ({"evaluation": {"routes": ["digit"]}}, r"routes\[0\] must be a list"),
    ({"evaluation": {"latents": "no"}}, "latents must be True"),
    ({"bench": {"benchmark": quadrant_digits}}, "benchmark must be a name"),
    ({"bench": {"labels": "no"}}, "labels must be True or False"),
    ({"options": {"latents": {"step": 1}}}, "takes no 'step': did you mean steps")])
def test_arguments_of_runs(changes, wanted):
    tried("arguments of runs", lambda: replace(Run("MUNI", **TINY), **changes), wanted)


@pytest.mark.parametrize("cell", ["", ".", "._x", "long" * 100, "å/b:c", "a\nb"])
def test_whatever_a_cell_is_called_its_result_is_found(made, tmp_path, cell):
    run = Run("MUNI", **TINY)
    named = replace(run, cell=cell)
    shutil.copy(find(run, made), tmp_path / f"{named.name}.nc")
    tried("names of cells", lambda: read(named, tmp_path).equals(read(run, made)), None)


@pytest.mark.parametrize("arguments, wanted", [
    ({"workers": 1.0}, "workers must be a whole"),
    ({"workers": True}, "workers must be"),
    ({"workers": "2"}, "workers must be"),
    ({"workers": -1}, "workers must be at least 0"),
    ({"device": "gpu"}, "device 'gpu'"),
    ({"device": 0}, "device must be"),
    ({"executor": "dask"}, "executor must be"),
    ({"records": 3}, "records must be a list"),
    ({"runs": []}, "there are no runs"),
    ({"runs": [3]}, "must be a list of Run"),
    ({"runs": None}, "must be a list of Run"),
    ({"runs": "MUNI"}, "must be a list of Run")])
def test_arguments_of_sweeps(tmp_path, arguments, wanted):
    tried("arguments of sweeps", lambda: sweep(**{"runs": [Run("a", **TINY)], "folder": tmp_path, **arguments}), wanted)


def test_runs_come_as_they_like(made):
    kind = "arguments of sweeps"
    run = Run("MUNI", **TINY)
    for runs in (run, (run,), iter([run]), {"a": run}.values()):
        ds = lambda: sweep(runs, made, workers=np.int64(0), records=str(made), report=lambda line: None)
        tried(kind, lambda: ds().sizes["cell"] == 1, None)


def test_places(bench, made, tmp_path, monkeypatch):
    kind = "places"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    run, model = Run("MUNI", **TINY), model_of(bench)
    quiet = {"workers": 0, "report": lambda line: None}
    entries = (lambda folder: fit(model, bench, folder=folder, **QUICK), lambda folder: execute(run, folder),
               lambda folder: sweep([run], folder, **quiet), lambda folder: model.save(folder))
    for enter in entries:
        for bad in ("", "  ", 3, b"runs", ["runs"], "a\0b", "file", "file/below", "~nobody_of_this_name/runs"):
            tried(kind, lambda: enter(bad), "^folder")
    for bad in ("", 3, "none", "file", "~nobody_of_this_name"):
        tried(kind, lambda: MUNI.load(bad), "folder|is not a saved model")
    for bad in ("", 3): tried(kind, lambda: gather([run], bad), "^path")
    for bad in ("", "recrods", 3, ["", made]): tried(kind, lambda: sweep([run], made, records=bad), "^records")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    shutil.copytree(made, tmp_path / "runs")
    fit(model, bench, folder="~/here/fit", **QUICK)
    tried(kind, lambda: (tmp_path / "here" / "fit" / "checkpoint.safetensors").exists(), None)
    tried(kind, lambda: model.save("~/here/model") == tmp_path / "here" / "model", None)
    tried(kind, lambda: MUNI.load("~/here/model") is not None, None)
    tried(kind, lambda: sweep([run], "~/runs", **quiet).sizes["cell"] == 1, None)
    tried(kind, lambda: sweep([run], "new", records=["~/runs"], **quiet).sizes["cell"] == 1, None)
    tried(kind, lambda: find(run, "~/runs").parent == tmp_path / "runs", None)
    tried(kind, lambda: gather([run], Path("~/runs")).sizes["seed"] == 1, None)
    assert not (tmp_path / "~").exists() and not (tmp_path / "new").exists()


def full(monkeypatch, code=errno.ENOSPC, after=0):
    "From now on, files cannot be written, but for the first `after`."
    left = [after]

    def fsync(number):
        left[0] -= 1
        if left[0] < 0: raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize("code, words", [
    (errno.ENOSPC, "is full: free .* MB or more, or name another folder"),
    (errno.EDQUOT, "is full"),
    (errno.EROFS, "is read-only for you: name another folder"),
    (errno.EACCES, "is read-only for you"),
    (errno.EIO, "name another folder")])
def test_a_disk_that_takes_nothing_is_found_before_the_first_step(bench, made, tmp_path, monkeypatch, code, words):
    kind = "disks full or read-only"
    run, model, quiet = Run("MUNI", **TINY), model_of(bench), {"workers": 0, "report": lambda line: None}
    monkeypatch.setattr(model, "loss", lambda *a, **k: pytest.fail("a step was made"))
    full(monkeypatch, code)
    for work in (lambda: fit(model, bench, folder=tmp_path / "a", **QUICK), lambda: execute(run, tmp_path / "a"),
                 lambda: sweep([run], tmp_path / "a", **quiet), lambda: model.save(tmp_path / "a")):
        tried(kind, work, rf"cannot be written, .*{words}.*call again, what is finished is kept")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    tried(kind, lambda: sweep([run], made, **quiet).sizes["cell"] == 1, None)                   # nothing to write


def test_too_little_room_is_found_before_the_first_step(bench, tmp_path, monkeypatch):
    kind = "disks full or read-only"
    run = Run("MUNI", **TINY)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 50_000))
    for work in (lambda: fit(model_of(bench), bench, folder=tmp_path, **QUICK), lambda: execute(run, tmp_path),
                 lambda: sweep([run], tmp_path, workers=0)):
        tried(kind, work, "has 0.1 MB free, and about .* MB will be written: free some, or name another folder")


def test_a_disk_that_fills_up_costs_nothing_that_was_finished(bench, made, tmp_path, monkeypatch):
    kind = "disks full or read-only"
    whole, cut = model_of(bench), model_of(bench)
    often = {**QUICK, "steps": 6, "save_every": 2}
    fit(whole, bench, **often)
    with monkeypatch.context() as patch:
        full(patch, after=3)                                                    # a probe and two checkpoints
        told = "checkpoint.safetensors cannot be written, its disk"
        tried(kind, lambda: fit(cut, bench, folder=tmp_path / "fit", **often), told)
    assert read_state(tmp_path / "fit" / "checkpoint.safetensors")[1]["step"] == 4
    resumed = model_of(bench, 7)
    fit(resumed, bench, folder=tmp_path / "fit", **often)
    weights = lambda model: list(model.state_dict().values())
    tried(kind, lambda: all(map(torch.equal, weights(whole), weights(resumed))), None)
    run, clocks = Run("MUNI", **TINY), ["train_seconds", "evaluation_seconds"]
    for after in range(1, 7):                                                            # a file later each time
        with monkeypatch.context() as patch:
            full(patch, after=after)
            try: execute(run, tmp_path / "runs")
            except CannotWrite: tried(kind, lambda: sweep([run], tmp_path / "runs", workers=0), "cannot be written")
            else: break
    assert after > 3 and read(run, tmp_path / "runs").drop_vars(clocks).equals(read(run, made).drop_vars(clocks))
    assert not [p for p in tmp_path.rglob("*.tmp")] and not list((tmp_path / "runs" / "checkpoints").iterdir())


def test_strays_stop_nothing(made, tmp_path):
    kind = "strays"
    run = Run("MUNI", **TINY)
    shutil.copytree(made, tmp_path / "runs")
    keep(tmp_path / "kept" / "study.nc", [run], [read(run, made)])
    name = f"{run.name}.nc"
    for place in ("runs", "kept"):
        for stray in (f"._{name}", "._study.nc", "._study-drawn.nc", ".DS_Store", "Thumbs.db", "desktop.ini",
                      f"{name}.123.tmp", f"{name}~", f"{name}.icloud"):
            (tmp_path / place / stray).write_bytes(b"\0\5\x16\7 of another system")
            tried(kind, lambda: gather([run], tmp_path / place).sizes["cell"] == 1, None)
    (tmp_path / "kept" / "folder.nc").mkdir()
    tried(kind, lambda: gather([run], tmp_path / "kept").sizes["cell"] == 1, None)
    (tmp_path / "kept" / "notes.nc").write_text("not a dataset")
    foreign = "notes.nc is not a readable dataset.*if it is none of this package's, move it"
    tried(kind, lambda: gather([run], tmp_path / "kept"), foreign)


def test_what_a_sweep_kept_and_finds_damaged_is_made_again_and_said(made, tmp_path, capsys):
    kind = "damaged caches"
    run, clocks = Run("MUNI", **TINY), ["train_seconds", "evaluation_seconds"]
    whole = read(run, made).drop_vars(clocks)
    kept = Path("models") / run.model_name
    for i, name in enumerate((f"{run.name}.nc", kept / "curves.nc", kept / "config.json", kept / "model.safetensors")):
        folder = tmp_path / str(i)
        shutil.copytree(made, folder)
        if i: find(run, folder).unlink()
        (folder / name).write_bytes((folder / name).read_bytes()[:-70])
        lines = []
        sweep([run], folder, workers=0, report=lines.append)
        tried(kind, lambda: read(run, folder).drop_vars(clocks).equals(whole), None)
        said = "\n".join(lines) + capsys.readouterr().out
        assert ("made again" in said or "trained anew" in said) and Path(name).name in said


def test_a_name_that_stands_for_another_benchmark_is_built_anew(monkeypatch):
    from muni_nb.experiments.run import bench_of
    for rows in (20, 30):
        monkeypatch.setitem(BENCHMARKS, "mine", lambda size, rows=rows: quadrant_digits(size, rows=rows, test_rows=10))
        tried("names of benchmarks", lambda: len(bench_of({"benchmark": "mine", "size": 16}).train) == rows, None)


@pytest.mark.parametrize("processors, told, workers, threads", [
    (1, None, 1, 1), (8, None, 1, 8), (8, "1", 1, 1), (8, "3", 1, 3), (2, "16", 1, 2), (8, "4,2", 1, 4),
    (8, "many", 1, 8), (8, "", 1, 8), (8, "0", 1, 8), (8, None, 2, 4), (8, "1", 2, 1), (2, None, 4, 1),
    (8, None, 3, 2)])
def test_threads(monkeypatch, processors, told, workers, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None: monkeypatch.setenv("OMP_NUM_THREADS", told)
    tried("threads", lambda: threads_for(workers) == threads, None)


def both(runs, folder, told):
    try: sweep(runs, folder, workers=0, report=lambda line: None)
    except BaseException as error: told.put(f"{type(error).__name__}: {error}")
    else: told.put("well")


def test_two_sweeps_in_one_folder_both_end_well(tmp_path):
    kind = "two sweeps, one folder"
    runs = [Run("a", seed, **TINY) for seed in range(3)]
    context = get_context("fork")                                                # at once, without imports
    told = context.SimpleQueue()
    started = [context.Process(target=both, args=(runs, tmp_path, told)) for _ in range(2)]
    for process in started: process.start()
    for process in started: process.join()
    for _ in started:
        ended = told.get()
        tried(kind, lambda: ended == "well" or pytest.fail(ended), None)
    tried(kind, lambda: gather(runs, tmp_path).sizes["seed"] == 3, None)
    assert not list((tmp_path / "checkpoints").iterdir()) and len(list(tmp_path.glob("*.nc"))) == 3


DEADLY = """
import os
from muni_nb.models.muni import MUNI

class Deadly(MUNI):
    "Kills its process when it is trained in earnest, as a system without memory would."
    def loss(self, batch, available, progress=1.0):
        if progress > 0.7: os.kill(os.getpid(), 9)
        return super().loss(batch, available, progress)
"""


def test_a_run_that_kills_its_process_is_named_and_takes_no_other_along(tmp_path, monkeypatch):
    kind = "dying workers"
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    runs = [Run("deadly", 0, "deadly:Deadly", **TINY), Run("a", 1, **TINY), Run("a", 2, **TINY)]
    lines = []
    with pytest.raises(RuntimeError) as error: sweep(runs, tmp_path / "runs", workers=1, report=lines.append)
    told = str(error.value)
    wanted = "1 of 3 runs failed.*deadly-0-.*WorkerDied.*its process was killed by SIGKILL, 3 times"
    tried(kind, lambda: re.search(wanted, told) is not None, None)
    for run in runs[1:]: tried(kind, lambda: find(run, tmp_path / "runs") is not None, None)
    assert len(lines) == 8 and ["begun again" in line for line in lines].count(True) == 2


UNGUARDED = """
from muni_nb.experiments.run import Run, settings
from muni_nb.experiments.sweep import sweep

sweep([Run("MUNI", 0, **settings(small=True))], "runs")
"""


def test_a_script_that_sweeps_while_workers_import_it_is_told_so_at_once(tmp_path):
    kind = "dying workers"
    (tmp_path / "script.py").write_text(UNGUARDED)
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=here, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    remedy = "put the sweep under if __name__ == '__main__':, or workers=0"
    tried(kind, lambda: remedy in last or pytest.fail(ended.stderr), None)
    assert ended.returncode == 1 and "NotStarted" in last
    assert "begun again" not in ended.stdout + ended.stderr and "memory" not in ended.stderr
