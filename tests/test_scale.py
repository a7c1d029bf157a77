"Many modalities: what would list all their subsets draws some of them."
import pytest
import torch
import xarray as xr

from muni_nb.evaluation.coherence import every_subset, given_sets
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.run import MODELS, Run, settings
from muni_nb.training.fit import fit
from test_repo import ROOT

DOZEN = 12
OPTIONS = dict.fromkeys(("FlowBind", "JointFlow", "CoDi"), {"width": 16, "depth": 1})


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import scale
    return scale.vectors(DOZEN, rows=128, test_rows=60)


def test_the_cost_of_every_classical_model_is_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import scale
    assert set(scale.VAES) == {name for name, kind in MODELS.items() if ".classical." in kind.__module__}


def fresh(name, bench):
    torch.manual_seed(0)
    return Run("test", model=name, options=OPTIONS.get(name, {}), **settings(True)).build(bench.specs)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Oracle"])     # which is told labels
def test_a_dozen_modalities_train(bench, name):
    quick = dict(steps=2, batch_size=32, warmup=0, log_every=1, precision="float32", progress=False)
    log = fit(fresh(name, bench), bench, **quick)
    assert log.term_value.sel(term="loss").notnull().all()


@pytest.mark.parametrize("name", ["MUNI", "MoPoE"])
def test_a_dozen_modalities_are_judged(bench, name):
    judge = judge_for(bench, folder=None, progress=False)
    model = fresh(name, bench).eval()
    few = dict(rows=60, per_class=20, probe_steps=4, steps=2, routes=[(), ("part0",), ("part3", "part7")])
    ds = evaluate(model, bench, judge, **few)
    assert isinstance(ds, xr.Dataset) and "left_out" not in ds.attrs
    assert ds.rate.notnull().sum() == ds.probe_cross_entropy.notnull().any("attribute").sum() == 97
    assert ds.coherence.notnull().all() and ds.rate_leave_one_out.notnull()


def test_given_sets_are_all_of_them_where_they_are_few(bench):
    specs = list(bench.specs)
    assert len(given_sets(bench)) == 97 < len(every_subset(bench)) == 2**DOZEN - 1
    sizes = [len(given) for given in given_sets(bench)]
    assert sizes == sorted(sizes) and sizes.count(1) == sizes.count(DOZEN - 1) == len(specs)
    assert all(sizes.count(size) == 8 for size in range(2, DOZEN - 1))
