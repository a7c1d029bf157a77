"""Every kind of modality, at odd shapes, in every registered model.

Whoever adds a kind or a model has these tests for nothing."""
import pytest
import torch

from muni_nb.data.batches import batch_at
from muni_nb.data.spec import KINDS, Rows, Spec
from muni_nb.experiments.run import MODELS, Run
from muni_nb.models.munite import MUNITE
from muni_nb.nets.build import Sizes
from muni_nb.nets.sentence import TOKENS, packed
from muni_nb.nets.text import BOS, EOS
from muni_nb.nets.vector import VectorKind

SPECS = {
    "grey": Spec("grey", "image", (1, 28, 28)),
    "wide": Spec("wide", "image", (3, 24, 40)),
    "caption": Spec("caption", "text", (6,), 12),
    "sound": Spec("sound", "audio", (12, 20)),
    "feature": Spec("feature", "vector", (13,)),
    "expected": Spec("expected", "regressed", (13,)),
    "sentence": Spec("sentence", "sentence", (13 + TOKENS,), 12),
    "label": Spec("label", "category", classes=3),
}


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, spec in SPECS.items():
        if KINDS[spec.kind].discrete: continue
        value = torch.randn(8, *spec.shape, generator=generator).clamp(-1, 1)
        values[name] = KINDS[spec.kind].stored(value)
    words = torch.randint(EOS + 1, 12, (8, 6), generator=generator)
    words[:, 0] = BOS
    words[:, 4:] = EOS
    sentences = packed(torch.randn(8, 13, generator=generator), words[:, 1:5])
    values |= {"caption": words, "sentence": sentences, "label": torch.arange(8) % 3}
    available = torch.rand(8, len(SPECS), generator=generator) < 0.8
    available[:, -1] = True
    return Rows({k: values[k] for k in SPECS}, {}, {}, available)


REAL = ("FlowBind", "JointFlow", "CoDi")      # these take real numbers and labels, no captions


def taken(name):
    "The modalities that a model takes."
    return {k: s for k, s in SPECS.items() if name not in REAL or k not in ("caption", "sentence")}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_draws_and_saves_every_kind(name, rows, tmp_path):
    torch.manual_seed(0)
    specs = taken(name)
    options = {"width": 16, "depth": 1} if name in REAL else {}
    model = Run("test", model=name, sizes=Sizes.tiny(), options=options).build(specs)
    columns = [list(SPECS).index(k) for k in specs]
    rows = Rows({k: rows.values[k] for k in specs}, {}, {}, rows.available[:, columns])
    batch, available = batch_at(rows, specs, step=0, batch_size=8, seed=0)
    terms = model.loss(batch, available)
    terms["loss"].backward()
    assert all(v.isfinite() for v in terms.values())
    given = {k: rows.values[k][:2] for k in ("grey", "feature", "sentence") if k in specs}
    if name == "Oracle": given = {"label": [0, 2]}
    twin = type(model).load(model.save(tmp_path))
    drawn, again = (m.sample(given, list(specs), steps=2, seed=0) for m in (model, twin))
    for k, x in drawn.items():
        assert SPECS[k].prepare(x).shape == (2, *SPECS[k].shape)
        assert torch.allclose(x.float(), again[k].float(), atol=1e-4)


@pytest.mark.parametrize("name", REAL)
def test_captions_are_refused_where_there_are_real_numbers_alone(name):
    for kind in ("caption", "sentence"):
        with pytest.raises(ValueError, match=f"{kind}: .*no real numbers.*kind 'vector'"):
            MODELS[name]({k: SPECS[k] for k in ("feature", kind)})


def test_a_kind_that_a_model_cannot_use_is_refused_by_name():
    class Mute(VectorKind):
        name = "mute"
        tokens = KINDS["vector"].__class__.__mro__[1].tokens

    KINDS["mute"] = Mute()
    try:
        with pytest.raises(ValueError, match="odd: MUNITE cannot use kind 'mute'"):
            MUNITE({"odd": Spec("odd", "mute", (4,)), "label": SPECS["label"]}, Sizes.tiny())
    finally: del KINDS["mute"]
