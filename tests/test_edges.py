"Benchmarks at the edge: two modalities or one, few rows, rows with gaps, readers that see little."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from muni_nb.data.digits import quadrant_digits
from muni_nb.data.own import from_arrays
from muni_nb.data.spec import Benchmark, Rows, Spec, Truth
from muni_nb.evaluation.coherence import draw
from muni_nb.evaluation.declare import labels_of, views_of
from muni_nb.evaluation.known import known_benchmark, read_picture
from muni_nb.evaluation.report import evaluate, routes_of, strengths_of
from muni_nb.evaluation.verifier import Exact, judge_for, train_verifier, verifier_error
from muni_nb.experiments.tables import table
from muni_nb.gate import InputError, InputTypeError, number
from muni_nb.latent.prior import FlowPrior
from muni_nb.latent.subsets import proper_subset
from muni_nb.models.classical.mvae import MVAE
from muni_nb.models.flowbind import FlowBind
from muni_nb.models.muni import MUNI, Routes
from muni_nb.models.munite import MUNITE
from muni_nb.nets.build import Sizes
from muni_nb.training.muon import Muon

FEATURE = Spec("feature", "vector", (4,))
OTHER = Spec("other", "vector", (4,))
CLASS = Spec("class", "category", classes=2)


def rows_of(specs, index, gaps=False, dtype=torch.int64):
    "Rows by number: the class is their parity."
    index = torch.as_tensor(list(index))
    parity = index % 2
    noise = torch.Generator().manual_seed(int(index[0]))
    values = {s.name: parity.to(dtype) if s is CLASS else torch.randn(len(index), 4, generator=noise) for s in specs}
    available = torch.ones(len(index), len(specs), dtype=torch.bool)
    if gaps: available[::3, -1] = False
    return Rows(values, {"parity": parity}, {}, available)


def bench_of(*specs, train=100, test=40, truth=True, **options):
    "A benchmark of such rows."
    make = lambda index, split="test": rows_of(specs, index, **options)
    named = {s.name: s for s in specs}
    carries = dict.fromkeys(named, ("parity",))
    drawn = Truth(lambda index, split="test": rows_of(specs, index, dtype=options.get("dtype", torch.int64)))
    return Benchmark("small", named, make(range(train)), make(range(train, train + test)), {"parity": 2}, carries, {},
                     drawn if truth else None)


def report(kind, bench, per_class=20, **options):
    "What `evaluate` says of an untrained model."
    torch.manual_seed(0)
    judge = judge_for(bench, None, progress=False, steps=3)
    model = kind(bench.specs, sizes=Sizes.tiny(), **options).eval()
    return evaluate(model, bench, judge, rows=40, steps=1, per_class=per_class, probe_steps=2)


@pytest.mark.parametrize("kind", (MUNI, MVAE))
@pytest.mark.parametrize("specs", ((FEATURE, OTHER), (FEATURE, CLASS)))
def test_two_modalities(specs, kind):
    ds = report(kind, bench_of(*specs))
    assert ds.given.to_index().is_unique and "+".join(s.name for s in specs) in ds.given


def test_one_modality():
    ds = report(MUNI, bench_of(FEATURE), routes=Routes(prior_subsets="full"))
    assert float(ds.leakage.sel(given="feature")) >= 0


def test_every_route_refused_and_nothing_else():
    features = bench_of(FEATURE, OTHER, truth=False)
    bare = lambda rows: replace(rows, attributes={})
    bench = replace(features, train=bare(features.train), test=bare(features.test), attributes={},
                    carries=dict.fromkeys(features.specs, ()))
    assert "given nothing" in json.loads(report(FlowBind, bench, 0).left_out)


def test_rows_with_gaps_under_a_truth():
    assert "query_dependence" in report(MUNITE, bench_of(FEATURE, CLASS, gaps=True))


def test_few_train_rows():
    ds = report(MUNI, bench_of(FEATURE, CLASS, train=10, truth=False), 0)
    assert (ds.frechet.attrs["n"], ds.frechet_real.attrs["n"]) == (40, 10)
    assert "frechet" not in report(MUNI, bench_of(FEATURE, CLASS, train=2, truth=False), 0)


def test_labels_of_any_whole_number():
    ds = report(MUNI, bench_of(FEATURE, CLASS, dtype=torch.int8))
    assert ds.label_cross_entropy.notnull().any()


def test_attribute_that_no_reader_shows():
    bench = known_benchmark(rows=200, test_rows=200)
    judge = {k: Exact(lambda x: {"quadrant": read_picture(x)["quadrant"]}) for k in bench.views}
    judge |= {k: Exact(lambda x: {}) for k in bench.labels}
    model = MUNI(bench.specs, sizes=Sizes.tiny()).eval()
    ds = evaluate(model, bench, judge, rows=40, steps=1, per_class=20, probe_steps=2, routes=[()])
    assert "leakage" not in ds and "leakage, private_r2" in json.loads(ds.left_out)


def test_chunks_of_pictures_are_not_doubted_again():
    spec = Spec("view", "image", (3, 8, 8))
    model = MUNI({"view": spec, "class": CLASS}, sizes=Sizes.tiny()).eval()
    pictures = torch.rand(5, 3, 8, 8) * 2 - 1
    pictures[4] = 0.5     # alone it could be of [0, 1]
    assert len(model.encoded({"view": pictures}, chunk=4).mean) == 5


def test_mopoe_trains_after_it_was_asked_in_inference_mode():
    specs = [Spec(name, "vector", (3,)) for name in "abcdefg"]     # a number that no other test has
    batch = {s.name: torch.randn(4, 3) for s in specs}
    here = torch.ones(4, len(specs), dtype=torch.bool)
    model = MUNI({s.name: s for s in specs}, Routes(pooling="mopoe"), Sizes.tiny())
    with torch.inference_mode(): model.loss(batch, here)
    model.loss(batch, here)["loss"].backward()


def test_subsets_of_many_modalities():
    share = proper_subset(torch.ones(2000, 30, dtype=torch.bool)).float().mean(0)
    assert (share - 0.5).abs().max() < 0.06
    with pytest.raises(InputError, match="at most 52"): proper_subset(torch.ones(1, 60, dtype=torch.bool))


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="max_logsnr"): FlowPrior(2, torch.nn.Identity(), max_logsnr=200)
    bench = bench_of(FEATURE, CLASS)
    model = MUNITE(bench.specs, sizes=Sizes.tiny())
    with pytest.raises(InputError, match="names"): model.encoded(bench.test.values).only([])
    model.latents = replace(model.latents, solver="heun")
    with pytest.raises(InputError, match="heun"): model.sample({}, ["feature"], n=2)


def test_muon_counts_steps_where_weights_are():
    weight = torch.nn.Parameter(torch.zeros(3, device="meta"))
    weight.grad = torch.zeros_like(weight)
    groups = [{"params": [weight], "orthogonal": False}]
    optimiser = Muon(groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    try: optimiser.step()
    except (NotImplementedError, RuntimeError): pass      # there is no such kernel; what it was given counts
    assert optimiser.state[weight]["step"].device == weight.device and optimiser.param_groups[0]["fused"]


def test_bounds_of_another_type_bind():
    for bounds in ({"most": 1.5}, {"below": 0.5}, {"least": 7.5}, {"above": 7.0}):
        with pytest.raises(InputError): number(7, "x", **bounds)


def test_a_verifier_is_of_modalities_that_carry_the_same():
    bench = replace(bench_of(FEATURE, OTHER), carries={"feature": ("parity",), "other": ()})
    with pytest.raises(InputError, match="must carry the same attributes: feature carries parity, other nothing"):
        train_verifier(bench, ["feature", "other"], steps=1, progress=False)


def two_labels(**options):
    "Two vectors that show two labels, each by numbers of its own."
    chance = np.random.default_rng(0)
    first, second = chance.integers(0, 3, 400), chance.integers(0, 2, 400)
    seen = lambda turn: np.c_[4 * np.eye(3)[(first + turn) % 3], 4 * np.eye(2)[(second + turn) % 2]]
    noisy = {k: seen(turn) + chance.normal(size=(400, 5)) for turn, k in enumerate("ab")}
    return from_arrays(noisy | {"first": first, "second": second}, held_out=0.25, **options)


QUICK = {"progress": False, "precision": "float32", "width": 8}


def test_vectors_of_one_width_have_a_reader_each_and_pictures_of_one_shape_share_theirs():
    bench = two_labels()
    judge = judge_for(bench, None, steps=200, **QUICK)
    assert judge["a"] is not judge["b"]
    assert verifier_error(judge, bench, bench.test).verifier_accuracy.min() > 0.9
    pictures = judge_for(quadrant_digits(16, rows=20, test_rows=20), None)
    assert pictures["view0"] is pictures["view1"] is pictures["view2"]


def test_a_kept_judge_is_of_the_attributes_that_rows_carry(tmp_path):
    bench = two_labels(carries={"a": ["first"], "b": ["first"]})
    for changed in (bench, replace(bench, carries={**bench.carries, "a": ("first", "second")}),
                    replace(bench, attributes={**bench.attributes, "first": 4})):
        heads = judge_for(changed, tmp_path, steps=1, **QUICK)["a"].heads
        assert {k: head.out_features for k, head in heads.items()} == {
            a: changed.attributes[a] for a in changed.carries["a"]}
    assert len(list(tmp_path.glob("*.safetensors"))) == 5     # in the second, that of "b" is the same


def test_routes_are_named_in_the_order_of_the_benchmark():
    bench = two_labels()
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    assert routes_of(model, bench, [("b", "a"), (), ["a", "b"], ("second", "a")]) == [
        ("a", "b"), (), ("a", "second")]


def test_a_label_that_is_not_judged_is_a_label():
    bench = two_labels(attributes=["first"])
    ds = report(MUNI, bench)
    assert (labels_of(ds), views_of(ds)) == (["first", "second"], ["a", "b"])
    told = table(ds.expand_dims(cell=["x"], seed=[0]))["x"]
    for figure, given in (("rate, one view (nats)", ["a", "b"]), ("rate, one label (nats)", ["first", "second"])):
        rate = ds.rate - ds.rate_gap
        assert told[figure] == pytest.approx(float(rate.sel(given=given).mean()), abs=1e-3)


def test_a_label_is_told_by_what_it_carries():
    told = table(report(MUNI, bench_of(FEATURE, OTHER, CLASS)).expand_dims(cell=["x"], seed=[0]))
    assert "class → view: parity" in told.index


def test_an_attribute_is_not_called_as_a_view():
    with pytest.raises(InputError, match="attributes: 'feature' is a modality of kind 'vector', which is no label"):
        replace(bench_of(FEATURE, OTHER), attributes={"parity": 2, "feature": 2})


def test_strengths_of_guidance_differ():
    with pytest.raises(InputError, match="guidance has 1 twice: name each strength once"): strengths_of([1, 2, 1.0])


def test_latents_are_as_many_as_rows():
    bench = bench_of(FEATURE, CLASS)
    model = MUNI(bench.specs, sizes=Sizes.tiny()).eval()
    model.infer = lambda given, n=1: torch.zeros(1, 4)     # n is forgotten
    said = r"infer of MUNI must return n latents .*\[B \* n, D\], here \[1 \* 40, D\]; got \[1, 4\]"
    with pytest.raises(InputTypeError, match=said): draw(model, bench, bench.test, [()])
