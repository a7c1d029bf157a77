"""What CONTRIBUTING.md promises.

A pooling rule, a model and a kind of modality are one definition and one line of a registry."""
from dataclasses import dataclass

import pytest
import torch

from muni_nb.data.digits import quadrant_digits
from muni_nb.data.spec import KINDS, Rows, Spec, show_rows
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import exact_readers
from muni_nb.experiments.tables import headline
from muni_nb.latent.gaussian import POOLINGS
from muni_nb.models.base import LatentModel
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets.build import Sizes
from muni_nb.nets.vector import VectorKind, VectorSizes
from muni_nb.training.fit import fit

QUICK = dict(steps=3, batch_size=16, warmup=0, precision="float32", progress=False)


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=100, test_rows=80)


@pytest.fixture(scope="module")
def judge(bench):
    class Guess:
        "Reads 0 everywhere."
        def read(self, x):
            zeros = torch.zeros(len(x), dtype=torch.long)
            return {"digit": zeros, "quadrant": zeros}

    from muni_nb.evaluation.verifier import Exact
    return exact_readers(bench) | {k: Exact(Guess().read) for k in bench.views}


def test_a_pooling_rule(bench, monkeypatch):
    def sharpest(mean, logvar, mask):
        "The most confident expert alone."
        alone = mask & (logvar.mean(2) == logvar.mean(2).where(mask, torch.inf).amin(1, keepdim=True))
        return POOLINGS["poe"](mean, logvar, alone)

    monkeypatch.setitem(POOLINGS, "sharpest", sharpest)
    model = MUNI(bench.specs, Routes(pooling="sharpest"), Sizes.tiny())
    fit(model, bench, **QUICK)
    assert model.sample({"digit": [3]}, ["view0"], steps=1, seed=0)["view0"].isfinite().all()


def test_a_model(bench, judge):
    class Deaf(LatentModel):
        "Draws everything from noise, whatever it is given."
        def loss(self, batch, available, progress=1.0):
            z = torch.randn(len(available), self.sizes.latent)
            terms = self.decoder_terms(batch, available, lambda rows, target: z[rows])
            return {**terms, "loss": self.weigh(terms, 1.0)}

        def infer(self, given, n=1, present=None):
            return torch.randn(len(self.prepare(given, present)[1]) * n, self.sizes.latent)

    model = Deaf(bench.specs, Sizes.tiny())
    fit(model, bench, **QUICK)
    ds = evaluate(model, bench, judge, rows=40, steps=1)
    values = headline(ds.expand_dims(cell=["Deaf"], seed=[0]))["value"]
    assert "rate" not in ds and values.sel(metric="nothing → all agree: both").notnull().all()


def test_a_kind(monkeypatch):
    @dataclass(frozen=True)
    class AngleSizes(VectorSizes):
        "As of vectors."

    class Angle(VectorKind):
        "Directions, as cosine and sine."
        name, form, sizes = "angle", "(2,)", AngleSizes
        def fits(self, spec): return spec.shape == (2,)

    monkeypatch.setitem(KINDS, "angle", Angle())
    specs = {"heading": Spec("heading", "angle", (2,)), "side": Spec("side", "category", classes=2)}
    turn = torch.rand(64) * 6.28
    values = {"heading": torch.stack([turn.cos(), turn.sin()], 1), "side": (turn > 3.14).long()}
    rows = Rows(values, {}, {}, torch.ones(64, 2, dtype=torch.bool))
    model = MUNI(specs, sizes=Sizes.tiny().but(angle_decoder=16))
    model.loss(rows.values, rows.available)["loss"].backward()
    drawn = model.sample({"side": [0, 1]}, ["heading"], steps=2, seed=0)
    assert specs["heading"].prepare(drawn["heading"]).shape == (2, 2)
    assert show_rows(rows.select(slice(3)), specs).images
