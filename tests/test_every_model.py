"What holds of every model on rows of one's own; costs before a run; torch's generator stays as it was."
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from muni_nb.data.own import from_arrays
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.cost import judging_seconds, operations, rehearse_cost
from muni_nb.experiments.execute import execute
from muni_nb.experiments.run import MODELS, Run, settings
from muni_nb.gate import InputError
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import fit

DRAWING = [name for name in MODELS if name != "Oracle"]     # an oracle draws from attributes alone


@pytest.fixture(scope="module")
def bench():
    random = np.random.default_rng(0)
    n = 32
    return from_arrays({
        "photo": random.integers(0, 255, (n, 8, 10, 3)).astype(np.uint8),
        "feature": random.normal(size=(n, 5)).astype("f4"),
        "sound": random.normal(-4, 2, (n, 8, 12)).astype("f4"),
        "kind": np.arange(n) % 3,
    }, held_out=0.25)


def built(name, bench):
    torch.manual_seed(0)
    return Run("tiny", model=name, sizes=Sizes.tiny()).build(bench.specs)


def first(rows, n): return {k: x[:n] for k, x in rows.values.items()}


def blanked(x, there, fill):
    "Values of floats with `fill` where they are not there; ids and labels as they are."
    if not x.is_floating_point(): return x
    return x.masked_fill(~there.view(-1, *[1] * (x.dim() - 1)), fill)


GAPS = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 1]]).bool()


@pytest.mark.parametrize("progress", (0.1, 0.5, 1.0))
@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_observed_teaches_nothing(name, progress, bench):
    def taught(fill):
        model = built(name, bench).train()
        values, _ = model.prepare(first(bench.train, len(GAPS)))
        torch.manual_seed(1)
        gaps = {k: blanked(x, there, fill) for (k, x), there in zip(values.items(), GAPS.unbind(1))}
        loss = model.loss(gaps, GAPS, progress)["loss"]
        if loss.requires_grad: loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    zeros, unknown = taught(0.0), taught(math.nan)
    assert len(zeros) == len(unknown) and all(map(torch.equal, zeros, unknown))


@pytest.mark.parametrize("name", DRAWING)
def test_draws_under_autocast_are_of_the_usual_types(name, bench):
    model = built(name, bench).eval()
    draw = lambda: model.sample({"feature": bench.test.values["feature"][:2]}, list(bench.specs), seed=0, steps=1)
    usual = draw()
    with torch.autocast("cpu", torch.bfloat16): coarse = draw()
    assert {k: x.dtype for k, x in coarse.items()} == {k: x.dtype for k, x in usual.items()}
    assert all(x.isfinite().all() for x in coarse.values())


@pytest.mark.parametrize("name", DRAWING)
def test_rows_say_themselves_what_is_present(name, bench):
    model = built(name, bench).eval()
    for weight in model.parameters(): weight.data.add_(torch.randn_like(weight), alpha=0.02)     # some begin as zeros
    rows = replace(bench.test.select(slice(len(GAPS))), available=GAPS).only(["photo", "feature", "kind"])
    present = dict(zip(rows.values, rows.available.unbind(1)))

    def inferred(given, present=None):
        torch.manual_seed(0)
        return model.infer(given, present=present)

    assert inferred(rows).equal(inferred(rows.values, present)) and not inferred(rows).equal(inferred(rows.values))
    assert len(model.sample(rows, ["sound"], n=2, steps=1)["sound"]) == 2 * len(GAPS)


@pytest.mark.parametrize("name", [name for name in DRAWING if hasattr(MODELS[name], "posterior")])
def test_a_row_is_read_alone_as_among_others(name, bench):
    model = built(name, bench).eval()
    shown = first(bench.test, 4)
    among = model.posterior(shown)
    alone = model.posterior({k: x[3:] for k, x in shown.items()})
    assert torch.allclose(among.mean[3:], alone.mean, atol=1e-5)


TINY_RUN = Run("tiny", **settings(small=True))
ENTRIES = {
    "judge_for": lambda bench, folder: judge_for(bench, folder, progress=False, steps=2),
    "operations": lambda bench, folder: operations(TINY_RUN),
    "rehearse_cost": lambda bench, folder: rehearse_cost(TINY_RUN),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_generator_of_torch_is_left_as_it_was(entry, bench, tmp_path):
    before = torch.get_rng_state()
    ENTRIES[entry](bench, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_operations_of_a_batch_larger_than_a_few_rows_are_counted():
    few, many = (replace(TINY_RUN, recipe=replace(TINY_RUN.recipe, batch_size=size)) for size in (256, 512))
    assert operations(many) == pytest.approx(2 * operations(few), rel=0.1)


@pytest.mark.parametrize("name", ("MLD", "JointFlow", "MVAE"))
def test_judging_costs_time_without_flow_decoders_too(name):
    assert rehearse_cost(Run("tiny", model=name, **settings(small=True))).judging > 0


def test_what_no_row_knows_together_is_not_said_to_be_known():
    i = np.arange(64)
    feature = np.random.default_rng(0).normal(size=(64, 4)).astype("f4")
    bench = from_arrays({"feature": feature, "x": i // 2 % 3, "y": i // 2 % 3},
                        available={"x": i % 2 == 0, "y": i % 2 == 1})
    assert math.isnan(bench.nats["joint"]) and math.isnan(bench.chance(["x", "y"]))
    assert math.isfinite(bench.entropy(["x"]))


@pytest.mark.parametrize("asked", (
    {"rows": 1}, {"steps": 0}, {"probe_steps": 0}, {"guidance": -1.0}, {"precision": "half"}))
def test_numbers_that_nothing_can_be_judged_by_are_refused_when_a_run_is_made(asked):
    with pytest.raises(InputError, match=f"evaluate: {next(iter(asked))}"): Run("tiny", evaluation=asked)


class Refusing(MUNI):
    def unsupported(self, given): return "it has not learned to draw"


@pytest.mark.parametrize("model, bench, evaluation, message", (
    ("FlowBind", {}, {"routes": [[]]}, "no route is left"),
    ("test_every_model:Refusing", {}, {}, "no route is left: it has not learned to draw"),
    ("MUNI", {}, {"routes": [["smell"]]}, "smell"),
    ("MUNI", {"test_rows": 3}, {}, "3 test rows, want 4"),
))
def test_what_cannot_be_judged_is_refused_before_it_trains(model, bench, evaluation, message, tmp_path):
    told = settings(small=True)
    run = Run("tiny", model=model, **{**told, "bench": told["bench"] | bench, "evaluation": evaluation})
    with pytest.raises(InputError, match=message): execute(run, tmp_path)
    assert not (tmp_path / "models").exists()


def test_judging_costs_time_without_a_complete_row():
    "It draws from nothing then."
    i = np.arange(60)
    bench = from_arrays({"a": np.ones((60, 4), "f4"), "b": np.ones((60, 4), "f4"), "kind": i % 3},
                        available={"a": i % 2 == 0, "b": i % 2 == 1}, held_out=0.5)
    assert judging_seconds(built("MUNI", bench), bench, Run("tiny", **settings(small=True)).config()["evaluation"]) > 0


def test_rows_that_are_never_met_are_told():
    there = np.arange(32) > 2
    random = np.random.default_rng(0)
    gaps = from_arrays({"a": random.normal(size=(32, 4)).astype("f4"), "kind": np.arange(32) % 3},
                       available={"a": there}, held_out=0.1)
    with pytest.warns(UserWarning, match="rows are never met: their patterns fill no batch of 8"):
        fit(built("MUNI", gaps), gaps, steps=1, batch_size=8, by_pattern=True, progress=False)
