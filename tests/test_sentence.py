"Features, and sentences that a language model writes: the three kinds of the published image-text-audio run together."
import shutil

import pytest
import torch

from muni_nb.data.spec import Benchmark, Rows
from muni_nb.files import FileError, read_tensors
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets import sentence
from muni_nb.nets.build import Sizes, Spec
from muni_nb.nets.sentence import TOKENS, ids_of, own_model, packed
from muni_nb.nets.text import EOS, PAD
from muni_nb.training.fit import fit

WIDTH, WORDS = 6, 9
SPECS = {
    "text": Spec("text", "sentence", (WIDTH + TOKENS,), WORDS),
    "image": Spec("image", "vector", (WIDTH,)),
    "audio": Spec("audio", "regressed", (WIDTH,))}
QUICK = dict(steps=3, batch_size=16, warmup=0, log_every=1, save_every=1, precision="float32", progress=False)


def table(n, seed, lacking):
    """Rows whose modalities say one of five things; the sentence in one word or two.

    `lacking`: which rows lack one modality."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(5, (n,), generator=generator)
    features = [torch.randn(5, WIDTH, generator=generator)[said] for _ in SPECS]
    ids = torch.stack([said + EOS + 1, torch.where(said > 2, EOS, said + EOS + 1), torch.where(said > 2, PAD, EOS)], 1)
    values = {"text": packed(features[0], ids), "image": features[1], "audio": features[2]}
    available = torch.ones(n, len(SPECS), dtype=torch.bool)
    available[lacking, torch.randint(3, (n,), generator=generator)[lacking]] = False
    return Rows(values, {"said": said}, {}, available)


def bench(pairs):
    "Rows of pairs alone, or mixed with complete ones."
    lacking = torch.arange(64) % (1 if pairs else 2) == 0
    every = dict.fromkeys(SPECS, ("said",))
    return Benchmark("small", SPECS, table(64, 0, lacking), table(8, 1, torch.zeros(8, dtype=torch.bool)),
                     {"said": 5}, every, {"pairs": pairs})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A language model of another's."
    torch.manual_seed(7)
    place = tmp_path_factory.mktemp("lm")
    own_model(WORDS, width=16, depth=2).save_pretrained(place)
    return place


def fresh(pooling, lm="", seed=0):
    torch.manual_seed(seed)
    return MUNI(SPECS, Routes(pooling=pooling, crossed=0.5), Sizes.tiny().but(sentence_lm=str(lm), sentence_lora=2))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("pairs, pooling, adapted", (
    (True, "poe", False), (False, "poe", True), (True, "hellinger", True), (False, "hellinger", False)))
def test_three_kinds_train_draw_save_and_resume(pairs, pooling, adapted, folder, tmp_path, monkeypatch):
    rows = bench(pairs)
    lm = folder if adapted else ""
    model = fresh(pooling, lm)
    log = fit(model, rows, **QUICK)
    assert log.term_value.notnull().all() and set(SPECS) < set(log.term.values)

    twin = MUNI.load(model.save(tmp_path / "saved"))
    for given in ((), ("text",), ("image", "audio"), tuple(SPECS)):
        values = {k: rows.test.values[k][:2] for k in given}
        drawn = model.sample(values, list(SPECS), n=2, steps=2, seed=3)
        torch.manual_seed(9)                                            # what surrounds a seeded draw is nothing to it
        again = twin.sample(values, list(SPECS), n=2, steps=2, seed=3)
        for k, x in drawn.items(): assert SPECS[k].prepare(x).equal(again[k])
        assert drawn["text"][:, :WIDTH].eq(0).all()

    import muni_nb.training.fit as training
    step = training.train_step

    def cut(model, optimiser, bench, recipe, at, *where):
        if at == 2: raise KeyboardInterrupt
        return step(model, optimiser, bench, recipe, at, *where)

    monkeypatch.setattr(training, "train_step", cut)
    with pytest.raises(KeyboardInterrupt): fit(fresh(pooling, lm), rows, folder=tmp_path / "run", **QUICK)
    monkeypatch.undo()
    resumed = fresh(pooling, lm, seed=5)
    fit(resumed, rows, folder=tmp_path / "run", **QUICK)
    assert same(model, resumed)


def test_what_is_frozen_is_nowhere_but_at_its_source(folder, tmp_path):
    model = fresh("poe", folder)
    base = {name: p.clone() for name, p in model.decoders["text"].lm.named_parameters() if not p.requires_grad}
    fit(model, bench(False), folder=tmp_path, **QUICK)
    now = dict(model.decoders["text"].lm.named_parameters())
    assert base and all(p.equal(now[name]) for name, p in base.items())
    trained = {p for p in model.parameters()}
    assert trained.isdisjoint(now[name] for name in base) and all(p.requires_grad for p in trained)
    kept, _ = read_tensors(tmp_path / "checkpoint.safetensors", "checkpoint", "")
    sizes = {name: value.numel() for name, value in kept.items()}
    texts = sum(count for name, count in sizes.items() if name.startswith("model.decoders.text."))
    assert texts == sum(p.numel() for p in model.decoders["text"].parameters()) + 32       # and a digest


def test_another_base_is_refused(tmp_path):
    torch.manual_seed(0)
    own_model(WORDS, width=16, depth=2).save_pretrained(tmp_path / "lm")
    place = fresh("poe", tmp_path / "lm").save(tmp_path / "model")
    torch.manual_seed(1)
    own_model(WORDS, width=16, depth=2).save_pretrained(tmp_path / "lm")
    with pytest.raises(FileError, match="not those that this model was trained with"): MUNI.load(place)
    with pytest.raises(FileError, match="hf download some/where"): fresh("poe", "some/where")
    shutil.rmtree(tmp_path / "lm")
    with pytest.raises(FileError, match="sentence_lm: no causal language model"): MUNI.load(place)


@pytest.mark.filterwarnings("ignore:bfloat16 was asked for")
@pytest.mark.parametrize("adapted", (False, True), ids=("own", "adapted"))
def test_sentences_train_in_bfloat16_and_in_parts(adapted, folder, monkeypatch):
    monkeypatch.setattr(sentence, "LOGITS", 100)                # two rows at once
    log = fit(fresh("poe", folder if adapted else ""), bench(False), **QUICK | {"steps": 2, "precision": "bfloat16"})
    assert log.term_value.notnull().all()


@pytest.mark.parametrize("adapted", (False, True), ids=("own", "adapted"))
def test_parts_of_a_batch_teach_what_the_whole_does(adapted, folder, monkeypatch):
    decoder = fresh("poe", folder if adapted else "").decoders["text"]
    x, z = bench(False).test.values["text"], torch.randn(8, 32)
    found = []
    for held in (2**29, 100):
        monkeypatch.setattr(sentence, "LOGITS", held)
        decoder.zero_grad()
        loss = decoder.loss(x, z, None)
        (loss * torch.arange(8)).sum().backward()
        found.append([loss.detach(), *(p.grad.clone() for p in decoder.parameters())])
    for whole, parts in zip(*found, strict=True):       # summed in another order: off by roundings of the largest term
        assert (whole - parts).abs().max() <= 1e-5 * whole.abs().max()


def test_a_row_is_drawn_alike_alone_and_among_others(folder):
    model = fresh("poe", folder)
    z = torch.randn(5, model.sizes.latent)
    together = ids_of(model.decode(z, ["text"])["text"])
    alone = [ids_of(model.decode(row[None], ["text"])["text"]) for row in z]
    assert together.equal(torch.cat(alone))


def test_the_published_run_has_its_stated_size():
    specs = {
        "text": Spec("text", "sentence", (768 + TOKENS,), 262_144),
        "image": Spec("image", "vector", (768,)),
        "audio": Spec("audio", "regressed", (768,))}
    with torch.device("meta"): model = MUNI(specs, sizes=Sizes.features())
    trained = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.decoders["text"].lm.parameters() if not p.requires_grad)
    assert abs(trained / 1e6 - 328.90) < 0.005 and frozen == 999_885_952
