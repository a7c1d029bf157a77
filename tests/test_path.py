"The whole path, from handwriting to a gathered dataset, and what happens when it is cut short."
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import papermill
import psutil
import pytest
import torch
import xarray as xr

from muni_nb.data.digits import quadrant_digits
from muni_nb.evaluation.alignment import train_towers
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for, train_verifier
from muni_nb.experiments.execute import execute
from muni_nb.experiments.records import same
from muni_nb.experiments.run import BENCHMARKS, MODELS, RESULTS_VERSION, TRAINING_VERSION
from muni_nb.experiments.run import Run, arguments_of, plainly, run_of
from muni_nb.experiments.store import digests, find, read, read_result, studies, write_result
from muni_nb.latent.gaussian import POOLINGS
from muni_nb.latent.subsets import SUBSETS
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import Recipe, fit

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "ablations" / "routing.ipynb"
GOLDEN = Path(__file__).with_name("golden.json")
TINY = {
    "sizes": Sizes.tiny(),
    "recipe": Recipe(steps=4, batch_size=32),
    "bench": {"size": 16, "rows": 400, "test_rows": 60},
    "evaluation": {"rows": 20, "steps": 2, "per_class": 60, "probe_steps": 8},
}
CLOCKS = ["train_seconds", "evaluation_seconds"]


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=400, test_rows=60, availability="published")


def trained(bench, routes, **changes):
    torch.manual_seed(0)
    model = MUNI(bench.specs, routes, Sizes.tiny())
    recipe = {"steps": 4, "batch_size": 32, "warmup": 0, "log_every": 1, "precision": "float32"}
    return model, fit(model, bench, progress=False, **{**recipe, **changes})


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("prior_subsets", SUBSETS)
def test_every_cell_trains_on_partly_observed_rows_and_draws_anything_from_anything(bench, pooling, prior_subsets):
    model, log = trained(bench, Routes(pooling=pooling, prior_subsets=prior_subsets, detach=pooling != "poe"))
    assert log.term_value.notnull().all()
    for given in ({}, {"digit": [3]}, {"view0": bench.test.values["view0"][:1], "quadrant": [2]}):
        drawn = model.sample(given, list(bench.specs), n=2, steps=2, seed=0)
        assert all(len(x) == 2 and x.isfinite().all() for x in drawn.values())


def test_one_row_with_one_modality_has_no_rate(bench):
    torch.manual_seed(0)
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    batch = {k: s.prepare(bench.train.values[k][:1]) for k, s in bench.specs.items()}
    terms = model.loss(batch, torch.tensor([[False, False, False, True, False]]))
    assert terms["rate"] == 0 and "digit" in terms and "quadrant" not in terms and terms["loss"].isfinite()


def test_the_prior_gradient_switch(bench):
    batch = {k: s.prepare(bench.train.values[k][:32]) for k, s in bench.specs.items()}
    available = torch.ones(32, 5, dtype=torch.bool)
    reached = []
    for through in (True, False):
        torch.manual_seed(0)
        model = MUNI(bench.specs, Routes(prior_gradient=through), Sizes.tiny())
        terms = model.prior_terms(*model.encode(batch, available), available)
        (terms["rate"] + terms["prior"]).backward()
        reached.append(any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoders.parameters()))
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.prior.parameters())
    assert reached == [True, False]


def attributes_of(model):
    "The plain public attributes of a model's class and of those of ours that it is made of."
    found = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.startswith("muni_nb"): found |= vars(kind)
    plain = {name: value for name, value in found.items() if isinstance(value, (bool, int, float, str))}
    return {name: value for name, value in plain.items() if not name.startswith("_")}


def defaults():
    """What a run's identity leaves out, as JSON values.

    The defaults of its settings, of all that its arguments are for, and plain attributes of its model's class."""
    found = {"Routes": asdict(Routes()), "Sizes": Sizes().values(), "Recipe": asdict(Recipe())}
    for name, model in MODELS.items():
        found[f"arguments of {name}"] = arguments_of(model, "specs", "sizes", "routes")
        found[f"attributes of {name}"] = attributes_of(model)
    for name, builder in BENCHMARKS.items(): found[f"arguments of {name}"] = arguments_of(builder)
    found["arguments of evaluate"] = arguments_of(evaluate, "model", "bench", "judge", "progress", "towers")
    found["arguments of train_verifier"] = arguments_of(train_verifier, "bench", "names", "progress")
    found["arguments of train_towers"] = arguments_of(train_towers, "bench", "progress")
    return plainly(found)


JUDGING = ("arguments of evaluate", "arguments of train_verifier", "arguments of train_towers")


def rounded(values):
    return [float(f"{value:.5g}") for value in values]


def test_numbers_change_only_with_their_version():
    """A few float32 steps of each cell, and the judges' figures of one model, against stored ones.

    Within 0.2 percent: kinds of machine add in other orders and a few steps amplify that to some 1e-4; a changed
    formula moves more.

    After a meant change: raise TRAINING_VERSION or RESULTS_VERSION, delete golden.json, run, commit."""
    full = quadrant_digits(16, rows=400, test_rows=60)
    now = {"training_version": TRAINING_VERSION, "results_version": RESULTS_VERSION}
    for cell, routes in {"MUNI": Routes(), **Routes().neighbours()}.items():
        model, log = trained(full, routes)
        now[cell] = rounded(log.term_value.values[-1])
    judge = judge_for(full, None, steps=2, rows=400, progress=False)
    quickly = {"rows": 60, "steps": 2, "per_class": 100, "probe_steps": 20, "precision": "float32"}
    ds = evaluate(model, full, judge, **quickly)
    now["judges"] = rounded([
        ds.rate_leave_one_out, ds.rate_gap.sum(), ds.nat_value.sum(), ds.leakage.sel(given="view0"),
        ds.private_r2.sum(), ds.predictive_gap.sum(), ds.label_cross_entropy.sum(),
    ])
    now["defaults"] = defaults()
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")
        pytest.fail("golden.json was missing and has been written: look at it and commit it")
    then = json.loads(GOLDEN.read_text())
    for version in ("training_version", "results_version"):
        said = f"golden.json is of another {version.upper()}: delete it, run again, commit"
        assert then[version] == now[version], said
    for cell in now.keys() - {"training_version", "results_version", "defaults"}:
        version = "RESULTS_VERSION" if cell == "judges" else "TRAINING_VERSION"
        assert now[cell] == pytest.approx(then[cell], rel=2e-3), f"{cell}: numbers changed; raise {version}"


def test_defaults_change_only_with_the_version():
    "A run's identity leaves defaults out: a record would be taken for what it is not if one changed unnoticed."
    then = json.loads(GOLDEN.read_text())["defaults"]
    now = defaults()
    assert then.keys() == now.keys(), "delete golden.json, run, look at it and commit it"
    for name, fields in then.items():
        version = "RESULTS_VERSION" if name in JUDGING else "TRAINING_VERSION"
        for field, value in fields.items():
            today = now[name].get(field, "gone")
            said = (f"{name}: the default of {field} was {value!r} and is {today!r}; "
                    f"raise {version}, delete golden.json, run, commit")
            assert field in now[name] and today == value, said


def test_evaluation_leaves_the_model_and_the_generator_alone(bench):
    model, _ = trained(bench, Routes())
    judge = judge_for(bench, None, progress=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, bench, judge, rows=20, steps=2, per_class=60, probe_steps=8)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_run_cut_off_before_its_evaluation_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    run = Run("MUNI", **TINY)
    whole = xr.load_dataset(execute(run, tmp_path / "whole"), engine="netcdf4")
    from muni_nb.experiments import execute as module
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): execute(run, tmp_path / "cut")
    (curves,) = (tmp_path / "cut" / "models").rglob("curves.nc")          # the model is whole, and is not trained again
    assert not find(run, tmp_path / "cut")
    monkeypatch.undo()
    resumed = xr.load_dataset(execute(run, tmp_path / "cut"), engine="netcdf4")
    assert whole.drop_vars(CLOCKS).equals(resumed.drop_vars(CLOCKS))


def test_a_model_that_was_not_written_whole_is_trained_again(tmp_path):
    run = Run("MUNI", **TINY)
    whole = xr.load_dataset(execute(run, tmp_path), engine="netcdf4")
    kept = tmp_path / "models" / run.model_name
    (kept / "curves.nc").unlink()
    (kept / "model.safetensors").write_bytes(b"cut")
    find(run, tmp_path).unlink()
    again = xr.load_dataset(execute(run, tmp_path), engine="netcdf4")
    assert whole.drop_vars(CLOCKS).equals(again.drop_vars(CLOCKS))


def test_a_result_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.nc"
    write_result(xr.Dataset({"x": 1}), path)
    with pytest.raises(Exception): write_result(xr.Dataset({"x": ((), object())}), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    assert int(xr.load_dataset(path, engine="netcdf4").x) == 1


def run_papermill(folder, output, **parameters):
    parameters = {"preset": "smoke", "folder": str(folder), **parameters}
    return papermill.execute_notebook(NOTEBOOK, output, parameters, progress_bar=False, cwd=ROOT)


def test_a_papermill_sweep_is_resumed_after_a_kill_and_never_computed_twice(tmp_path):
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(tmp_path / "cut.ipynb"), "--no-progress-bar"]
    command += ["-p", "preset", "smoke", "-p", "folder", str(cut), "-p", "workers", "1"]
    command += ["-y", "{poolings: [poe]}"]                    # and the oracle: two runs
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((cut / "runs").glob("*.nc")):
        assert process.poll() is None, "the sweep ended before a run did"
        time.sleep(0.05)
    parent = psutil.Process(process.pid)
    everyone = [parent, *parent.children(recursive=True)]     # its kernel and workers too
    for each in everyone: each.kill()
    psutil.wait_procs(everyone)
    process.wait()
    finished = {p: p.stat().st_mtime_ns for p in (cut / "runs").glob("*.nc")}
    executed = run_papermill(cut, tmp_path / "cut.ipynb", poolings=["poe"])
    assert "2 runs: 1 finished before, 1 to do" in json.dumps(executed)
    assert len(finished) == 1 and len(list((cut / "runs").glob("*.nc"))) == 2
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items())
    for result in map(read_result, (cut / "runs").glob("*.nc")):
        whole = execute(run_of(json.loads(result.attrs["config"])), tmp_path / "whole")
        assert result.drop_vars(CLOCKS).equals(read_result(whole).drop_vars(CLOCKS))


@pytest.mark.parametrize("parameters, message", [
    ({"sedes": [1]}, "unknown parameter .sedes."),
    ({"poolings": ["sum"]}, "'sum' is not one of"),
    ({"steps": "many"}, "must be a whole number"),
])
def test_bad_parameters_stop_a_notebook_before_any_work(tmp_path, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        run_papermill(tmp_path / "results", tmp_path / "out.ipynb", **parameters)
    assert not (tmp_path / "results").exists()


RECORDS = ROOT / "ablations" / "records"


@pytest.mark.parametrize("path", studies(RECORDS), ids=lambda path: path.stem)
def test_every_kept_identity_is_todays_identity_of_its_own_config(path):
    with xr.open_dataset(path, engine="netcdf4") as file:
        kept = list(zip(file["identity"].values, file["seed"].values, file["config"].values))
    assert kept and len({digest for digest, _, _ in kept}) == len(kept)
    for digest, seed, config in kept:
        run = run_of(json.loads(config))
        assert (run.digest, run.seed) == (digest, seed)
        assert find(run, RECORDS)


def test_a_result_written_when_there_was_less_to_state_is_kept_as_todays_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from records import keep_files
    run = Run("MUNI, of old", **TINY)
    ds = read_result(execute(run, tmp_path / "runs"))
    config = {k: v for k, v in json.loads(ds.attrs["config"]).items() if k not in ("options", "towers")}
    config |= {"evaluation": TINY["evaluation"], "verifier": {}}
    recipe = {k: v for k, v in config["recipe"].items() if k not in ("optimiser", "precision")}
    config["recipe"] = {**recipe, "bf16": True}
    early = tmp_path / "early" / "MUNI_of_old-0-01234567.nc"
    write_result(ds.assign_attrs(config=json.dumps(config)), early)
    for _ in range(2): keep_files(tmp_path / "study.nc", [early])                    # twice is once
    same(read(run, tmp_path / "study.nc"), read_result(early))
    assert list(digests(tmp_path / "study.nc")) == [run.digest]
    stranger = {**config, "sizes": {**config["sizes"], "width": 3}}          # tells what today's run cannot
    write_result(ds.assign_attrs(config=json.dumps(stranger)), early)
    with pytest.raises(ValueError, match="unknown size 'width'"): keep_files(tmp_path / "study.nc", [early])
