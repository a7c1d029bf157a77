"Every registered model keeps the protocol: whoever adds one has these for nothing."
import json

import pytest
import torch
import xarray as xr

from muni_nb.data.digits import quadrant_digits
from muni_nb.experiments.execute import execute
from muni_nb.experiments.run import MODELS, Run, settings
from muni_nb.training.fit import fit

OPTIONS = dict.fromkeys(("FlowBind", "JointFlow", "CoDi"), {"width": 16, "depth": 1})      # known to no `Sizes`
# models with a stage of their prior alone, as models of their own: {name: (model, its options)}
STAGED = {f"{name}, staged": (name, {"stage": 0.5}) for name in ("MUNI", "MoPoE", "MMVAE+", "JMVAE")}
QUICK = dict(steps=6, batch_size=32, warmup=0, log_every=1, save_every=1, precision="float32", progress=False)


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=200, test_rows=60, availability="published")


def run_of(name):
    model, options = STAGED.get(name, (name, OPTIONS.get(name, {})))
    return Run("test", model=model, options=options, **settings(True))


def fresh(name, bench, seed=0):
    torch.manual_seed(seed)
    return run_of(name).build(bench.specs)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("name", [*MODELS, *STAGED])
def test_a_model_trains_on_partly_observed_rows_and_draws_what_was_not_given(bench, name, tmp_path):
    model = fresh(name, bench)
    log = fit(model, bench, **QUICK)
    assert log.term_value.sel(term="loss").notnull().all()
    for given in ({}, {"digit": [3, 7]}, {"view0": bench.test.values["view0"][:2], "quadrant": [2, 1]}):
        if not set(given) <= set(model.reads) or model.unsupported(given): continue
        drawn = model.sample(given, list(bench.specs), n=2, steps=2, seed=0)
        assert all(len(x) == 2 * (2 if given else 1) and x.isfinite().all() for x in drawn.values())
        bench.specs["view1"].prepare(drawn["view1"]), bench.specs["digit"].prepare(drawn["digit"])
    again = type(model).load(model.save(tmp_path))
    assert same(model, again) and again.config() == model.config()
    draws = [m.sample({"digit": [3]}, ["view0"], steps=2, seed=1)["view0"] for m in (model, again)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", [*MODELS, *STAGED])
def test_a_model_resumes_bit_for_bit_at_any_step(bench, name, tmp_path, monkeypatch):
    whole = fresh(name, bench)
    fit(whole, bench, **QUICK)
    import muni_nb.training.fit as training
    step = training.train_step
    for stop in (1, 3, 5):                                  # a model of several stages is cut within each
        def cut(model, optimiser, bench, recipe, at, *where):
            if at == stop: raise KeyboardInterrupt
            return step(model, optimiser, bench, recipe, at, *where)
        monkeypatch.setattr(training, "train_step", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(fresh(name, bench), bench, folder=tmp_path / str(stop), **QUICK)
        monkeypatch.undo()
        resumed = fresh(name, bench, seed=9)
        fit(resumed, bench, folder=tmp_path / str(stop), **QUICK)
        assert same(whole, resumed), stop


@pytest.mark.parametrize("name", [*MODELS, *STAGED])
def test_a_model_is_judged(name, tmp_path):
    run = run_of(name)
    ds = xr.load_dataset(execute(run, tmp_path), engine="netcdf4")
    assert (ds.parameters > 0).all()
    assert ds.coherence.notnull().all() or "given nothing" in json.loads(ds.left_out)
    assert ds.accuracy.sel(given="digit+quadrant", want="view0", attribute="both").notnull()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_refuses_what_it_cannot_do(bench, name):
    model = fresh(name, bench)
    with pytest.raises(ValueError, match="want must be a non-empty list"): model.sample({}, [])
    with pytest.raises(ValueError, match="unknown modality|cannot be given"):
        model.sample({"sound": [1]}, ["view0"])
    with pytest.raises(ValueError, match="digit"): model.sample({"digit": [10]}, ["view0"])
    if not model.unsupported(()): return
    with pytest.raises(ValueError, match=f"{name}: {model.unsupported(())}"): model.sample({}, ["view0"])
