"Published scores: against other people's code where it is installed, and at published sizes."
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from muni_nb.data.scenes import scenes
from muni_nb.data.spec import Benchmark, Rows, Spec, Truth
from muni_nb.evaluation import frozen_scorers
from muni_nb.evaluation.alignment import ais, cosine_score, towers_for
from muni_nb.evaluation.cider import cider, cider_each, words_of
from muni_nb.evaluation.fidelity import frechet
from muni_nb.evaluation.tasks import TASKS, figure_name
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.scorers import Scorer, canonical
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.published import COMPONENTS, IMAGE_TEXT_AUDIO, task_table
from muni_nb.models.flowbind import FlowBind


def some_captions(n, seed, longest=14):
    "Captions of some words, of which few are frequent and many rare; some are empty, or a single word."
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(200)])
    law = 1 / np.arange(1, 201)
    return [list(rng.choice(words, rng.integers(0, longest), p=law / law.sum())) for _ in range(n)]


def plain_cider(written, true, sigma=6.0):
    "CIDEr-D by its formula, vector by vector over all runs that occur."
    total = np.zeros(len(true))
    for n in range(1, 5):
        runs = lambda words: [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
        known = {run: i for i, run in enumerate({run for words in [*written, *true] for run in runs(words)})}
        count = np.zeros((2, len(true), max(1, len(known))))
        for side, captions in enumerate((written, true)):
            for row, words in enumerate(captions):
                for run in runs(words): count[side, row, known[run]] += 1
        df = (count[1] > 0).sum(0)
        g, r = count * np.log(len(true) / np.maximum(df, 1))
        norm = np.linalg.norm(g, axis=1) * np.linalg.norm(r, axis=1)
        total += (np.minimum(g, r) * r).sum(1) / np.where(norm > 0, norm, 1)
    shift = np.array([len(w) - len(t) for w, t in zip(written, true)])
    return 10 * total / 4 * np.exp(-shift**2 / (2 * sigma**2))


@pytest.mark.parametrize("seed", range(5))
def test_cider_is_its_formula(seed):
    true = some_captions(60, seed)
    written = [some_captions(1, 100 + seed)[0] if i % 3 else words[::-1] + words[:2] for i, words in enumerate(true)]
    assert np.allclose(cider_each(written, true), plain_cider(written, true), atol=1e-12)


def test_cider_is_that_of_pycocoevalcap():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    true = [words or ["w0"] for words in some_captions(80, 1)]
    written = [words[1:] + words[:1] for words in true]
    theirs = scorer.CiderScorer(n=4, sigma=6.0)
    for w, t in zip(written, true): theirs += (" ".join(w), [" ".join(t)])
    mean, each = theirs.compute_score()
    assert np.allclose(cider_each(written, true), each) and math.isclose(cider(written, true), 100 * mean)


def test_words_are_those_of_a_caption():
    assert words_of("") == [] and words_of("Two DOGS, barking (loudly)") == ["two", "dogs", "barking", "loudly"]
    assert words_of("Ein Käuzchen ruft") == ["ein", "käuzchen", "ruft"]


class Largest(TorchDispatchMode):
    "How many numbers the largest tensor has that is made meanwhile."
    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        if isinstance(made, torch.Tensor): self.numbers = max(self.numbers, made.numel())
        return made


def test_ais_at_the_published_size_needs_no_table():
    n = 15_446
    torch.manual_seed(0)
    g, c = torch.randn(2, n, 4)
    with Largest() as largest: found = ais(g, c, block=256)
    assert abs(found - 50) < 1 and 256 * n <= largest.numbers < n**2 / 50


def test_frechet_of_scaled_gaussians():
    "Of N(0, I) and N(m, s^2 I): |m|^2 + F (s - 1)^2."
    torch.manual_seed(0)
    a, b = torch.randn(2, 40_000, 6)
    assert frechet(a, 2 * b + 1) == pytest.approx(6 + 6, rel=0.05)


def test_canonical_correlations_of_more_dimensions_than_rows():
    "The ridge keeps them finite, and rows that share nothing stay near nothing in cosine on others."
    torch.manual_seed(0)
    a, b = torch.randn(30, 40), torch.randn(30, 50)
    to_a, to_b, correlation = canonical(a, b)
    assert correlation.isfinite().all() and correlation.max() <= 1 + 1e-9
    fresh = torch.randn(2000, 40).double() @ to_a, torch.randn(2000, 50).double() @ to_b
    assert abs(cosine_score(*fresh)) < 3


def test_published_tables_name_figures_of_the_tasks():
    names = {figure_name(name, s) for name, task in TASKS.items() for s in task.scores}
    for frame in IMAGE_TEXT_AUDIO.values():
        assert set(frame.columns) <= names and frame.attrs["source"] and "no error bars" in frame.attrs["conditions"]
    assert not COMPONENTS.isna().any(axis=None)


class Stub(torch.nn.Module):
    "Stands for a model of another package: says what it was given."
    def __init__(self, answer):
        super().__init__()
        self.answer, self.embeddings = answer, torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())

    def forward(self, x, *rate): return self.answer(x, *rate)


@pytest.fixture
def packages(monkeypatch):
    "Other packages' models as stubs, their weights on this machine."
    modules = {
        "pytorch_fid.inception": SimpleNamespace(InceptionV3=lambda: Stub(lambda x: [x.mean((2, 3), keepdim=True)])),
        "wav2clip": SimpleNamespace(get_model=lambda device: Stub(lambda x: x[:, :512])),
        "resampy": None}
    vggish = Stub(lambda x, rate: torch.full((len(x) * 100 // rate // 96, 128), float(len(x))))
    monkeypatch.setattr(frozen_scorers, "package", lambda name, what, install: modules[name])
    monkeypatch.setattr(frozen_scorers, "weights_of", lambda what, *files, fetch: list(files))
    monkeypatch.setattr(torch.hub, "load", lambda code, name, source: vggish)


def test_pictures_reach_inception_in_zero_to_one(packages):
    read = frozen_scorers.fid_scorer().reads["image"]
    pictures = torch.randint(256, (5, 3, 8, 6), dtype=torch.uint8)
    found = read(pictures)
    assert torch.allclose(found, pictures.float().mean((2, 3)) / 255, atol=1e-6)
    assert torch.allclose(read(pictures.float() / 127.5 - 1), found, atol=1e-6)           # as decoders draw them
    sizes = [pictures[0].permute(1, 2, 0).numpy(), pictures[1, :, :4].permute(1, 2, 0).numpy()]
    assert torch.allclose(read(sizes)[0], found[0], atol=1e-6) and len(read(sizes)) == 2


def test_sounds_reach_other_models_at_their_rate(packages):
    wave = torch.rand(2, 48_000) - 0.5                                                    # two seconds
    clip = Scorer({"image": len}, "clip")
    heard = frozen_scorers.ais_scorer(clip, rate=24_000)
    assert heard.reads["audio"](wave).shape == (2, 512) and heard.reads["image"] is len
    frames = frozen_scorers.fad_scorer(rate=24_000).reads["audio"](wave)
    assert frames.shape == (2, 2, 128) and (frames == 32_000).all()                     # two of 0.96 s a sound


class Nearest:
    "Renders features as the value, among some, whose features are nearest."
    def __init__(self, spec, table, features): self.spec, self.table, self.features = spec, table, features

    def __call__(self, x, seed=0): return self.table[torch.cdist(x.float(), self.features).argmin(1)]


def projected_scenes(rows):
    "Scenes as eight random projections of each modality, which are rendered as the nearest test row."
    seen = scenes(1, rows)
    torch.manual_seed(0)
    maps = {k: torch.randn(v[0].numel(), 8) for k, v in seen.test.values.items()}
    project = lambda rows: {k: v.flatten(1).float() @ maps[k] for k, v in rows.values.items()}
    norms = {k: (v.mean(0), v.std(0)) for k, v in project(seen.test).items()}

    def told(rows):
        values = {k: (v - norms[k][0]) / norms[k][1] for k, v in project(rows).items()}
        return Rows(values, rows.attributes, rows.private, rows.available)

    draw = lambda index, split="test": told(seen.draw(index, split))
    test = told(seen.test)
    return Benchmark(
        "projected scenes", {k: Spec(k, "vector", (8,)) for k in seen.specs}, draw(range(100), "train"), test,
        seen.attributes, seen.carries, {}, truth=Truth(draw), decode=seen.decode, source=seen,
        render={k: Nearest(seen.specs[k], seen.test.values[k], test.values[k]) for k in seen.specs})


def test_evaluation_of_features_scores_the_tasks():
    bench = projected_scenes(60)
    judge = judge_for(bench, None, progress=False, steps=1_200, width=24)
    towers = towers_for(bench, None, progress=False)
    model = FlowBind(bench.specs, width=8, depth=1).eval()
    ds = evaluate(model, bench, judge, rows=40, steps=2, latents=False, towers=towers)
    table = task_table(ds.expand_dims(cell=["FlowBind"], seed=[0]))
    assert (table.loc["FlowBind", ["nothing → all: CLIP", "nothing → all: AIS"]] == "unsupported").all()
    drawn = [name for name in table.columns if not name.startswith("nothing")]
    assert len(drawn) == 21 and (table.loc["FlowBind", drawn] != "").all()
    paired = [name for name in drawn if name.endswith(("CLIP", "CLAP", "AIS"))]
    assert (table.loc["real features, rendered", paired] == table.loc["real rows", paired]).all()    # a perfect one
    assert set(ds.scorer.values) == {"towers of scenes", "verifier of scenes", "words"}
