"""Bad input by property: whatever an entry is given, it works, or one of our own errors names what is wrong.

A few examples an entry here, the same ones each time; 5,000 new ones by MUNI_NB_EXAMPLES=nightly."""
import re
import traceback
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muni_nb.data.own import from_arrays
from muni_nb.data.spec import Benchmark, Rows, Spec
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.run import Run
from muni_nb.experiments.study import Study
from muni_nb.experiments.sweep import sweep
from muni_nb.experiments.told import run_told
from muni_nb.files import CannotWrite
from muni_nb.gate import InputError
from muni_nb.models.base import Latents
from muni_nb.models.mld import Codes
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import NonFiniteLoss, Recipe, fit

DEAR = 10 if settings.default.max_examples == 50 else 500           # examples where one takes a tenth of a second

OURS = str(Path(__file__).resolve().parent.parent / "muni_nb")
TINY = Sizes.tiny()
QUICK = dict(steps=1, batch_size=4, warmup=0, log_every=1, precision="float32", progress=False)


def columns(n=16):
    random = np.random.default_rng(0)
    kind = np.arange(n) % 3
    return {"photo": random.integers(0, 255, (n, 8, 8, 3), np.uint8), "kind": kind,
            "feature": random.normal(size=(n, 5)).astype(np.float32)}


torch.manual_seed(0)
BENCH = from_arrays(columns(), held_out=0.25)
MODEL = MUNI(BENCH.specs, sizes=TINY)
JUDGE = judge_for(BENCH, None, progress=False, steps=1, batch_size=4)


def works_or_says(what, *names):
    """Call `what`: it returns, or raises an error of ours, of one line, from our code, that has one of the `names`.

    What it returned, None where it refused."""
    try: return what()
    except (ValueError, TypeError, NonFiniteLoss, CannotWrite) as error:
        told, frame = str(error), traceback.extract_tb(error.__traceback__)[-1]
        ours = isinstance(error, InputError | NonFiniteLoss | CannotWrite) or type(error) is ValueError
        assert ours and frame.filename.startswith(OURS), f"{type(error).__name__} from {frame}: {told}"
        assert told and "\n" not in told and len(told) < 1000, told
        assert not names or any(re.search(name, told, re.I) for name in names), f"none of {names} is named: {told}"
        return None


# what people give ---------------------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-2, 3), st.integers(), st.floats(), st.booleans(), st.just(2**70),
                    st.sampled_from([np.int64(2), np.float32(0.5), np.float64("nan"), np.bool_(True), 1j]))
texts = st.one_of(st.text(max_size=4), st.sampled_from(["kind", "photo", "poe", "cpu", "auto", "2", "nan", "a\0b"]))
scalars = st.one_of(st.none(), numbers, texts, st.binary(max_size=3), st.just(object()), st.just(len))
anything = st.recursive(scalars, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(texts, inner, max_size=2),
    st.sets(st.integers(0, 3), max_size=2)), max_leaves=4)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8]), max_size=4)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
                          torch.int8, torch.bool, torch.complex64])


@st.composite
def arrays(draw):
    "A table of torch or numpy, of any shape and type, with what is not finite among it."
    shape, dtype = draw(shapes), draw(dtypes)
    values = torch.full(shape, draw(st.sampled_from([0, 1, 2, -1, 300]))).to(dtype)
    if values.is_floating_point() and values.numel() and draw(st.booleans()):
        values.view(-1)[0] = draw(st.sampled_from([torch.nan, torch.inf, -1e30]))
    if dtype is not torch.bfloat16 and draw(st.booleans()): return values.numpy()
    return values


@st.composite
def near(draw, good: dict, names=None):
    "Good values by name, one or two of them replaced by anything, or another name put in."
    found = dict(good)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.one_of(st.sampled_from(names or sorted(good)), texts))
        found[name] = draw(st.one_of(anything, arrays()))
    return found


# settings -----------------------------------------------------------------------------------------------------------

def names_of(changes): return [re.escape(str(name)) for name in changes] + ["text"]


@pytest.mark.parametrize("kind", [Recipe, Routes, Latents, Codes], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_settings(kind, data):
    known = [field.name for field in fields(kind)]
    name, value = data.draw(st.sampled_from(known)), data.draw(st.one_of(anything, arrays()))
    made = works_or_says(lambda: kind(**{name: value}), name)
    if made is None: return
    default, held = getattr(kind(), name), getattr(made, name)
    assert type(held) is type(default) or default is None, f"{name} is held as {held!r}"
    assert held == held, f"{name} is {held!r}"


@given(near({"latent": 8}, ["latent", "prior", "prior_depth", "image_decoder", "image_encoder", "text_encoder"]))
def test_sizes(changes): works_or_says(lambda: Sizes(**changes), *names_of(changes))


@given(anything, anything, anything, anything)
def test_specs_of_anything(name, kind, shape, classes):
    works_or_says(lambda: Spec(name, kind, shape, classes))


@given(st.sampled_from(["image", "text", "audio", "category", "vector"]), st.lists(st.integers(-1, 9), max_size=4),
       st.integers(-1, 9))
def test_specs(kind, shape, classes):
    spec = works_or_says(lambda: Spec("x", kind, tuple(shape), classes), "x")
    if spec is not None: works_or_says(lambda: MUNI({"x": spec}, sizes=TINY))


RUN = {"cell": "a", "seed": 0, "model": "MUNI", "sizes": TINY, "recipe": Recipe(steps=1), "routes": Routes()}
PARTS = [*RUN, "bench", "evaluation", "verifier", "towers", "options"]


@given(near(RUN, PARTS))
def test_runs(changes):
    run = works_or_says(lambda: Run(**changes)) if set(changes) <= set(PARTS) else None
    if run is not None: assert run.digest and re.fullmatch(r"[\w.]+-\d+-[0-9a-f]{8}", run.name)


@given(st.sampled_from(["bench", "evaluation", "verifier", "towers", "options"]),
       near({}, ["steps", "rows", "seed", "guidance", "routes", "size", "latents", "benchmark", "labels"]))
def test_arguments_of_runs(part, told):
    run = works_or_says(lambda: replace(Run("a", sizes=TINY), **{part: told}))
    if run is not None: assert run.digest


@given(st.one_of(anything, near({"cell": "a", "model": "MUNI", "recipe": {"steps": 1}}, PARTS)))
def test_runs_told_in_yaml(values): works_or_says(lambda: run_told(values))


# rows ---------------------------------------------------------------------------------------------------------------

@given(near({"photo": columns()["photo"], "kind": columns()["kind"]}, ["photo", "kind"]))
def test_columns(told):
    bench = works_or_says(lambda: from_arrays(told, held_out=0.25))
    if bench is None: return
    for spec in bench.specs.values():
        there = bench.train.available[:, list(bench.specs).index(spec.name)]
        x = spec.prepare(bench.train.values[spec.name], there)
        assert not x.is_floating_point() or x[there].isfinite().all()


SPECS = {"photo": Spec("photo", "image", (3, 8, 8)), "kind": Spec("kind", "category", classes=3)}
PARTS_OF_ROWS = {"values": {"photo": torch.zeros(4, 3, 8, 8), "kind": torch.zeros(4, dtype=torch.int64)},
                 "attributes": {"kind": torch.zeros(4, dtype=torch.int64)}, "private": {},
                 "available": torch.ones(4, 2, dtype=torch.bool)}


@given(st.one_of(near(PARTS_OF_ROWS).filter(lambda parts: set(parts) == set(PARTS_OF_ROWS)),
                 near(PARTS_OF_ROWS["values"]).map(lambda values: PARTS_OF_ROWS | {"values": values})))
def test_rows(parts):
    rows = works_or_says(lambda: Rows(**parts))
    if rows is None: return
    bench = works_or_says(lambda: Benchmark("mine", SPECS, rows, Rows(**PARTS_OF_ROWS), {"kind": 3},
                                            {"photo": ("kind",), "kind": ("kind",)}, {}))
    if bench is not None: assert bench.train.available.shape == (len(bench.train), 2)


@settings(max_examples=DEAR)
@given(near({}, [*(field.name for field in fields(Recipe) if field.name != "steps"), "device", "save_every", "folder"]))
def test_training(changes):
    if isinstance(changes.get("batch_size"), int) and changes["batch_size"] > 99: return      # of rows that are not
    torch.manual_seed(0)
    if "folder" in changes or "tracker" in changes: return                                    # writes: see test_places
    log = works_or_says(lambda: fit(MUNI(BENCH.specs, sizes=TINY), BENCH, **{**QUICK, **changes}))
    if log is not None: assert log.term_value.notnull().all()


# drawing ------------------------------------------------------------------------------------------------------------

def few(value) -> bool:
    "Whether a number is small enough to be computed here."
    return not isinstance(value, int | np.integer) or value < 50


def finite(drawn) -> bool: return all(x.isfinite().all() for x in drawn.values() if x.is_floating_point())


ROW = {"kind": torch.tensor([1]), "photo": torch.zeros(1, 3, 8, 8), "feature": torch.zeros(1, 5)}


@given(st.one_of(anything, near(ROW)))
def test_given(given_values):
    drawn = works_or_says(lambda: MODEL.sample(given_values, ["kind"], seed=0))
    if drawn is not None: assert finite(drawn) and ((drawn["kind"] >= 0) & (drawn["kind"] < 3)).all()
    mean = works_or_says(lambda: MODEL.infer(given_values, 1))
    if mean is not None: assert mean.isfinite().all()


@given(st.one_of(anything, near({"kind": [True], "photo": [True]})))
def test_present(present):
    works_or_says(lambda: MODEL.sample(ROW, ["kind"], present=present, seed=0))
    z = works_or_says(lambda: MODEL.posterior(ROW, present=present))
    assert z is None or len(z) == 1


@given(anything.filter(few), anything, anything)
def test_draws(n, want, seed):
    works_or_says(lambda: MODEL.sample({}, want, seed=0, steps=1), "want")
    works_or_says(lambda: MODEL.sample({}, ["kind"], n=n, seed=0), r"\bn\b")
    works_or_says(lambda: MODEL.sample({}, ["kind"], seed=seed), "seed")


@given(st.sampled_from(["steps", "guidance", "solver", "chunk", "temperature"]).flatmap(
    lambda name: st.tuples(st.just(name), anything)))
def test_options(option):
    name, value = option
    if name in ("steps", "chunk") and not few(value): return
    drawn = works_or_says(lambda: MODEL.sample({}, ["photo"], seed=0, **{"steps": 1, name: value}), name)
    if drawn is not None: assert finite(drawn)


@given(st.one_of(anything, arrays()))
def test_latents(z):
    drawn = works_or_says(lambda: MODEL.decode(z, ["kind"]))
    if drawn is not None: assert finite(drawn)


# judging, sweeps, notebooks -----------------------------------------------------------------------------------------

@settings(max_examples=DEAR)
@given(near({}, ["rows", "steps", "guidance", "seed", "routes", "per_class", "probe_steps", "latents", "precision"]))
def test_judging(told):
    if not all(map(few, told.values())) or any(not isinstance(name, str) for name in told): return
    usual = {"rows": 4, "steps": 1, "probe_steps": 1, "routes": [()], "latents": False, "progress": False}
    if {"model", "bench", "judge", "towers"} & set(told): return
    works_or_says(lambda: evaluate(MODEL, BENCH, JUDGE, **usual | told))


@given(near({}, ["runs", "workers", "device", "executor", "records"]))
def test_sweeps(told):
    known = {"runs", "workers", "device", "executor", "records"}
    arguments = {"runs": [], "workers": 0} | {name: value for name, value in told.items() if name in known}
    works_or_says(lambda: sweep(folder="/dev/null/none", **arguments))


PARAMETERS = {"preset": str, "seeds": list, "poolings": list, "steps": int, "size": int, "guidance": float,
              "workers": int, "device": str, "publish": bool, "compute": bool}


@given(near({}, list(PARAMETERS)))
def test_parameters_of_notebooks(told):
    namespace = {"__annotations__": PARAMETERS} | dict.fromkeys(PARAMETERS) | told
    try: study = works_or_says(lambda: Study("routing", namespace, poolings=("poe", "moe")), "parameter")
    except Exception as error: raise AssertionError(told) from error
    if study is None: return
    for name, kind in PARAMETERS.items(): assert namespace[name] is None or type(namespace[name]) is kind, name
