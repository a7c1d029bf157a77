"What holds between scenes and their readers: batches, transformers, pictures of rows, the whole grammar."
import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muni_nb.data.batches import batch_at
from muni_nb.data.scenes import (
    ATTRIBUTES, CARRIES, LENGTH, LEXICON, MIXTURES, RATE, VOCABULARY, captions, draw_rows, factors_of, log_mel,
    parse, scenes, tokenise, tokenizer, unseen, waveform, write_captions)
from muni_nb.nets.text import BOS, EOS, PAD
from muni_nb.evaluation.alignment import PAIRS, Towers
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.run import MODELS, Run
from muni_nb.models.muni import MUNI
from muni_nb.models.mld import Codes
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import Recipe, fit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bench():
    return scenes(rows=240, test_rows=60, seed=3, availability="mixed")


def equal(a, b):
    pairs = [(a.values, b.values), (a.attributes, b.attributes), (a.private, b.private)]
    same = lambda x, y: x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)
    return all(same(x, y) for x, y in pairs) and a.available.equal(b.available)


@settings(max_examples=20, deadline=None)
@given(index=st.lists(st.integers(0, 239), min_size=1, max_size=5), block=st.integers(1, 5))
def test_a_row_is_a_function_of_its_number(bench, index, block):
    assert equal(draw_rows(index, "train", 3, "mixed", block=block), bench.train.select(index))


def test_seeds_splits_and_availability(bench):
    assert equal(bench.draw(range(60), "test"), bench.test) and bench.test.available.all()
    assert not bench.draw(range(60), "train").values["image"].equal(bench.test.values["image"])
    other = scenes(rows=60, test_rows=1, seed=4, availability="pairs").train
    assert other.attributes["kind"].equal(bench.train.attributes["kind"][:60])
    assert other.available.sum(1).eq(2).all()
    assert not other.values["audio"].equal(bench.train.values["audio"][:60])
    assert bench.draw(range(240), "train").values["text"].equal(bench.train.values["text"])


def test_sounds_are_those_of_the_rows(bench):
    wave = waveform(range(20), "test", seed=3)
    assert wave.shape == (20, 2 * RATE) and wave.dtype == torch.float32 and wave.abs().max() <= 1
    assert torch.allclose(log_mel(wave), bench.test.values["audio"][:20].float(), atol=5e-3)
    parted = draw_rows([1590], "train", held_out=0.1)   # beyond the 1,555 cells that are left
    wave = waveform([1590], "train", held_out=0.1)
    assert torch.allclose(log_mel(wave), parted.values["audio"].float(), atol=5e-3)


def test_every_caption_is_read():
    n = 100_000
    g = torch.Generator().manual_seed(0)
    said = {k: torch.randint(ATTRIBUTES[k], (n,), generator=g) for k in ATTRIBUTES}
    texts = write_captions(said, torch.rand(n, 5, generator=g, dtype=torch.float64))["text"]
    truth = [dict(zip(LEXICON, row)) for row in zip(*(said[k].tolist() for k in LEXICON))]
    assert [parse(text) for text in texts] == truth
    ids = tokenise(texts[:5000])
    assert ids.shape == (5000, LENGTH)
    assert [parse(row) for row in ids.tolist()] == truth[:5000]
    assert captions(ids) == texts[:5000]


@settings(max_examples=100, deadline=None)
@given(row=st.integers(0, 59), place=st.integers(1, LENGTH - 1), word=st.integers(0, len(VOCABULARY) - 1))
def test_one_wrong_token_changes_the_reading_only_as_it_should(bench, row, place, word):
    ids = bench.test.values["text"][row].tolist()
    before, ids[place] = ids[place], word
    said = parse(ids)
    truth = {k: int(bench.test.attributes[k][row]) for k in LEXICON}
    if word == before:
        assert said == truth
    elif EOS in (before, word) or PAD in (before, word):
        assert said is None
    elif said is not None:
        assert sum(said[k] != truth[k] for k in LEXICON) <= 1


def test_transformers_read_the_tokenizer(tmp_path):
    from transformers import AutoTokenizer
    tokenizer().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = ["two red bells in the rain", "as wind blows, one pink frog"]
    assert torch.tensor(again(texts, padding="max_length")["input_ids"]).equal(tokenise(texts))
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (PAD, BOS, EOS)
    assert len(again) == len(VOCABULARY)


def test_batches_are_ready_for_networks(bench):
    batch, available = batch_at(bench.train, bench.specs, step=3, batch_size=32, seed=0)
    assert {k: (x.dtype, tuple(x.shape[1:])) for k, x in batch.items()} == {
        "image": (torch.float32, (3, 32, 32)),
        "text": (torch.int64, (LENGTH,)),
        "audio": (torch.float32, (32, 64)),
    }
    assert available.shape == (32, 3) and (available.sum(1) >= 2).all()


def test_held_out_cells_are_never_trained_on():
    cells = lambda f: set(zip(*(v.tolist() for v in f.values())))
    trained = cells(factors_of(range(5000), "train", 0.1))
    new = cells(factors_of(unseen(173, 0.1), "test"))
    assert not trained & new
    assert len(trained | new) == 1728 == len(cells(factors_of(range(1728), "test", 0.1)))
    for a, b in itertools.combinations(ATTRIBUTES, 2):
        names = list(ATTRIBUTES)
        assert len({(c[names.index(a)], c[names.index(b)]) for c in trained}) == ATTRIBUTES[a] * ATTRIBUTES[b]


def test_benchmark_describes_itself(bench):
    assert json.loads(json.dumps(bench.config)) == bench.config
    assert list(bench.specs) == list(CARRIES) == list(bench.test.values) == list(bench.carries)
    assert bench.cells == 1728
    assert {k.split(".")[0] for k in bench.test.private} == set(CARRIES)
    assert bench.nats["joint"] == pytest.approx(7.4547, abs=1e-4)
    ax = bench.show(3, "test")
    shown = {" ".join(t.get_text().split()) for t in ax.texts}
    assert len(shown) == 3 and shown <= set(captions(bench.test.values["text"]))


@pytest.mark.parametrize("bad", [
    {"rows": 0}, {"test_rows": 0}, {"seed": -1}, {"availability": "published"},
    {"held_out": 0.6}, {"held_out": "tenth"}])
def test_a_wrong_option_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        scenes(**{"rows": 1, "test_rows": 1} | bad)


def test_wrong_values_are_named(bench):
    with pytest.raises(ValueError, match="'purple'.*no word"):
        tokenise(["two purple bells in the rain"])
    with pytest.raises(ValueError, match="44100 Hz: want 8000"):
        log_mel(torch.zeros(1, 2 * RATE), 44_100)
    with pytest.raises(ValueError, match="text: want shape"):
        bench.specs["text"].prepare(bench.test.values["text"][:, :-1])
    with pytest.raises(ValueError, match="split is 'val'"):
        waveform([0], "val")
    assert set(MIXTURES) == {"full", "pairs", "mixed"}


@pytest.mark.parametrize("name", [m for m in MODELS if m not in ("Oracle", "FlowBind", "JointFlow", "CoDi")])
def test_every_model_takes_pictures_captions_and_sounds(name):
    "No model knows what a modality is: the same code trains on scenes and draws what is missing."
    some = scenes(rows=64, test_rows=8, availability="pairs")       # rows that lack a modality, too
    torch.manual_seed(0)
    options = {"latents": Codes(steps=2)} if name == "MLD" else {}
    model = Run("scenes", model=name, sizes=Sizes.tiny(), options=options).build(some.specs)
    curves = fit(model, some, folder=None, progress=False, recipe=Recipe(steps=3, batch_size=16, warmup=0))
    assert curves.term_value.isel(step=-1).notnull().any()
    drawn = model.eval().sample({"text": some.test.values["text"][:3]}, ["image", "audio"], 2, steps=2)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == {"image": (6, 3, 32, 32), "audio": (6, 32, 64)}
    assert all(v.isfinite().all() for v in drawn.values())
    assert model.sample({}, ["text"], 4)["text"].shape == (4, LENGTH)


def test_scenes_are_judged(bench):
    judge = judge_for(bench, None, steps=2, width=8, rows=64, progress=False)
    torch.manual_seed(0)
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    towers = Towers(bench.specs).eval()
    ds = evaluate(model, bench, judge, rows=32, steps=2, latents=False, precision="float32", towers=towers)
    sets = ["nothing", "image", "text", "audio", "image+text", "image+audio", "text+audio"]
    assert list(ds.given.values) == sets
    from_text = ds.sel(given="text")
    carried = from_text.accuracy.sel(want="image").notnull()
    assert set(ds.attribute.values[carried.values]) == {"kind", "count", "colour"}
    assert ds.valid.sel(given="nothing", want="text") < 1
    assert from_text.agreement.notnull().sel(attribute=["size", "kind"]).all()
    assert from_text.agreement.sel(attribute="colour").isnull()
    assert set(ds.attribute.values[from_text.total_variation.notnull().values]) == {"size"}
    assert set(ds.frechet.dropna("view").view.values) == {"image", "audio"}
    assert (ds.accuracy_real.sel(want="text") == 1).sum() == 4
    assert ds.drawn_image.shape == (8, 3, 32, 32)
    assert ds.drawn_text.shape == (8, LENGTH)
    assert ds.drawn_audio.shape == (8, 32, 64)
    assert "picture" not in ds
    for score in PAIRS:
        assert ds[f"{score}_score"].sel(given="nothing").notnull() and ds[f"{score}_real"].notnull()
