"What must hold of every judge, whatever it judges."
import hashlib
import json
import math
import os
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from muni_nb.evaluation.coherence import (
    entropy, every_subset, independent_agreement, pair_agreement, route_name, sampling_variation,
    total_variation,
)
from muni_nb.evaluation.fidelity import frechet, kid
from muni_nb.evaluation.known import KnownJudge, KnownModel, known_benchmark
from muni_nb.evaluation.minimality import leakage
from muni_nb.evaluation.report import evaluate
from muni_nb.data.digits import quadrant_digits
from muni_nb.data.five_views import five_views, mnist_five_views
from muni_nb.data.mnist import mnist_quadrant_digits
from muni_nb.data.scenes import scenes
from muni_nb.evaluation import alignment, verifier
from muni_nb.evaluation.alignment import towers_for
from muni_nb.evaluation.verifier import SHIPPED, exact_readers, judge_for, read_judge, verifier_error
from muni_nb.gate import InputError
from muni_nb.latent.gaussian import Posterior
from muni_nb.training.checkpoint import read_state

seeds = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)


@quick
@given(seeds, st.integers(2, 30), st.integers(1, 4), st.integers(2, 5))
def test_the_independent_control_is_the_mean_over_pairs_of_different_rows_of_one_group(seed, rows, groups, classes):
    torch.manual_seed(seed)
    group = torch.randint(groups, (rows,))
    shown = torch.randint(-1, classes, (3, rows))       # -1 shows nothing, and equals nothing
    views = list(combinations(shown, 2))
    pairs = [(i, j) for i, j in permutations(range(rows), 2) if group[i] == group[j]]
    alike = [bool(x[i] == y[j] and x[i] >= 0) for x, y in views for i, j in pairs]
    found = independent_agreement(views, group)
    assert math.isnan(found) if not alike else found == pytest.approx(np.mean(alike))


@quick
@given(seeds, st.integers(2, 6))
def test_total_variation_and_entropy_stay_in_their_ranges_and_do_not_know_the_names_of_values(seed, classes):
    torch.manual_seed(seed)
    shown = torch.randint(classes, (40,))
    group = torch.randint(3, (40,))
    rename = torch.randperm(classes)
    value = total_variation(shown, group, classes)
    assert 0 <= value <= 1 - 1 / classes + 1e-9
    assert value == pytest.approx(total_variation(rename[shown], group, classes))
    assert 0 < sampling_variation(group, classes) < 1
    nats = entropy(shown.view(4, 10), classes)
    assert torch.allclose(nats, entropy(rename[shown].view(4, 10), classes))
    assert (nats >= 0).all()


@quick
@given(seeds, st.floats(-3, 3), st.floats(0.1, 10))
def test_leakage_does_not_depend_on_the_units_of_the_latent_and_never_exceeds_its_ceiling(seed, shift, scale):
    torch.manual_seed(seed)
    mean = torch.randn(50, 2, 4)
    logvar = torch.randn(50, 2, 4) - 1
    here = Posterior(torch.full((50, 2), -math.log(2)), mean, logvar)
    z = here.sample(torch.randn(50, 4), torch.rand(50))
    there = Posterior(here.logw, scale * mean + shift, logvar + 2 * math.log(scale))
    nats, _, ceiling = leakage(here, z)
    assert nats == pytest.approx(leakage(there, scale * z + shift)[0], abs=1e-3) and nats <= ceiling == math.log(50)


@quick
@given(seeds, st.floats(0.5, 2))
def test_distances_of_laws_are_symmetric_and_grow_as_they_should(seed, scale):
    torch.manual_seed(seed)
    a = torch.randn(40, 6)
    b = 1 + torch.randn(50, 6)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
    assert kid(a, b)[0] == pytest.approx(kid(b, a)[0], rel=1e-9)
    assert frechet(scale * a, scale * b) == pytest.approx(scale**2 * frechet(a, b), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_every_route_can_be_judged():
    bench = known_benchmark(rows=400, test_rows=80)
    routes = [(), *(g for g in every_subset(bench) if len(g) < len(bench.specs))]
    torch.manual_seed(0)
    judge = exact_readers(bench) | dict.fromkeys(bench.views, KnownJudge())
    quickly = {"rows": 80, "per_class": 50, "probe_steps": 8, "precision": "float32"}
    ds = evaluate(KnownModel(bench), bench, judge, routes=routes, **quickly)
    assert ds.given.values.tolist() == [*map(route_name, routes), "+".join(bench.specs)]
    for route in routes[1:]:
        for attribute in {a for k in route for a in bench.carries[k]}:
            assert (ds.accuracy.sel(given=route_name(route), attribute=attribute).dropna("want") == 1).all()
    assert ds.attribute.values.tolist() == ["digit", "quadrant", "both"]


def test_pairs_that_always_agree_and_pairs_that_never_do():
    one = torch.zeros(5, dtype=torch.int64)
    assert pair_agreement([(one, one)]).mean() == 1
    assert pair_agreement([(one, one + 1)]).mean() == 0
    assert pair_agreement([(one - 1, one - 1)]).mean() == 0     # both show nothing


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_judge_of_the_package_is_what_its_name_says(path):
    who = read_state(path)[1]["who"]
    assert read_judge(path, who)
    assert path.stem == hashlib.sha256(json.dumps(who, sort_keys=True).encode()).hexdigest()[:12]
    with pytest.raises(ValueError, match="holds another judge.*install the package again"):
        read_judge(path, {**who, "version": 0})


def test_default_benchmarks_wait_for_no_judge(monkeypatch):
    def never(*arguments, **named): raise AssertionError("a judge is trained")
    monkeypatch.setattr(verifier, "train_verifier", never)
    monkeypatch.setattr(alignment, "train_towers", never)
    few = {"rows": 40, "test_rows": 80}
    benches = [
        quadrant_digits(16, **few),
        quadrant_digits(32, **few),
        five_views(16, **few),
        five_views(16, filled=True, **few),
        quadrant_digits(16, availability="published", **few),
        scenes(**few),
    ]
    for bench in benches:
        training = {"steps": 1_200, "width": 24} if bench is benches[-1] else {}
        judge = judge_for(bench, None, **training)
        for name in bench.views:
            shown = judge[name].read(bench.specs[name].prepare(bench.test.values[name]))
            for attribute in bench.carries[name]:
                right = shown[attribute] == bench.test.attributes[attribute]
                assert right.float().mean() > 0.9, (bench.name, name, attribute)
    towers_for(scenes(**few), None)


def test_a_judge_of_other_attributes_than_are_carried_is_told():
    bench = quadrant_digits(16, rows=64, test_rows=40)
    only_digits = replace(bench, carries=bench.carries | dict.fromkeys(bench.views, ("digit",)))
    with pytest.raises(InputError, match="view0, view1, view2 carry digit, but .* config of its own"):
        judge_for(only_digits, None, progress=False)
    told = judge_for(replace(only_digits, config={"name": "digits"}), None, progress=False, steps=1, rows=64)
    assert list(told["view0"].heads) == ["digit"]


@pytest.mark.skipif(not os.environ.get("MUNI_NB_MNIST"), reason="MUNI_NB_MNIST names no folder with MNIST")
@pytest.mark.parametrize("made", [partial(mnist_quadrant_digits, size=32), mnist_five_views])
def test_judges_of_mnist_come_with_the_package_and_read_handwriting_that_they_have_not_seen(made, monkeypatch):
    def never(*arguments, **named): raise AssertionError("a judge is trained")
    monkeypatch.setattr(verifier, "train_verifier", never)
    bench = made(rows=40, test_rows=400)
    read = verifier_error(judge_for(bench, None), bench, bench.test)
    assert read.verifier_accuracy.min() > 0.98        # what they read of 10,000 rows: evaluation.verifier
