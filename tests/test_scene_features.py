"Scenes as features: what the shipped folders hold, and the whole way of a model on it."
import json
import math

import pytest
import torch
from PIL import Image

from muni_nb.data.scenes import CARRIES, RATE, captions, draw_rows, waveform
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.run import Run, bench_of
from muni_nb.features.scenes import WIDTH, encoders, heard, scene_features
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.nets.sentence import FROZEN, TOKENS
from muni_nb.training.fit import fit

torch.set_num_threads(1)
FEW = {"rows": 240, "test_rows": 40}


@pytest.fixture(scope="module")
def benches():
    return {text: scene_features(**FEW, availability="mixed", text=text) for text in ("sentence", "vector")}


def test_files_of_a_row_have_the_features_of_the_row():
    "By the processors and tokenizer in the shipped folders, as `extract` would use them."
    from transformers import AutoFeatureExtractor, AutoTokenizer, CLIPImageProcessorPil
    rows = draw_rows(range(3), "test", heard=heard)
    said = encoders()(rows.values)
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in rows.values["image"]]
    pixels = CLIPImageProcessorPil.from_pretrained(FROZEN / "scenes-image")(pictures, return_tensors="pt")
    words = AutoTokenizer.from_pretrained(FROZEN / "scenes-text")(
        captions(rows.values["text"]), padding=True, return_tensors="pt")
    ear = AutoFeatureExtractor.from_pretrained(FROZEN / "scenes-audio")
    sounds = ear(list(waveform(range(3)).numpy()), sampling_rate=RATE, return_tensors="pt")
    of_files = {
        "image": encoders().image(**pixels).image_embeds,
        "text": encoders().text(words["input_ids"]),
        "audio": encoders().see("audio", sounds["input_features"][:, 0])}
    for name, features in of_files.items():
        assert torch.allclose(features, said[name], atol=0.02 * said[name].std().item()), name


def test_features_are_standardised_by_the_rows_that_have_them(benches):
    train = benches["vector"].train
    for values, there in zip(train.values.values(), train.available.unbind(1)):
        assert values.shape == (240, WIDTH) and torch.allclose(values[there].mean(0), torch.zeros(WIDTH), atol=1e-4)
        assert torch.allclose(values[there].std(0), torch.ones(WIDTH), atol=1e-3)
    sentences = benches["sentence"].train.values["text"]
    assert sentences[:, :WIDTH].equal(train.values["text"]) and sentences.shape == (240, WIDTH + TOKENS)


@pytest.mark.parametrize("text", ["sentence", "vector"])
def test_a_model_is_judged_through_the_renderers(benches, text, tmp_path):
    bench = benches[text]
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    fit(model, bench, steps=2, batch_size=16, progress=False)
    judge = judge_for(bench, None, steps=1_200, width=24, progress=False)
    ds = evaluate(model, bench, judge, rows=30, steps=2, per_class=8, probe_steps=4, routes=[(), ("image",)])
    real = ds.accuracy_real
    for name, carried in CARRIES.items():
        assert all(float(real.sel(want=name, attribute=a)) > 0.7 for a in carried), name
    assert not math.isnan(float(ds.frechet.sel(view="image")))
    twin = MUNI.load(model.save(tmp_path))
    drawn, again = (m.sample({"image": bench.test.values["image"][:3]}, ["text"], seed=0) for m in (model, twin))
    assert drawn["text"].equal(again["text"])


def test_a_run_names_it():
    run = Run("MUNI", bench={"benchmark": "scene_features", **FEW})
    assert bench_of(run.bench).specs["audio"].kind == "regressed" and json.dumps(run.identity())
    with pytest.raises(ValueError, match="text"): scene_features(**FEW, text="words")
