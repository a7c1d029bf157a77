"What is given from outside is used rightly, or refused in one sentence of ours: by kind, entry and model."
import math
import re
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from muni_nb.data.batches import batch_at
from muni_nb.data.digits import quadrant_digits
from muni_nb.data.five_views import five_views
from muni_nb.data.folder import Sound
from muni_nb.data.own import from_arrays
from muni_nb.data.scenes import log_mel, scenes
from muni_nb.data.spec import Benchmark, Rows, Spec
from muni_nb.evaluation.alignment import Towers
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for, learns_from, train_verifier
from muni_nb.experiments.run import BENCHMARKS, MODELS, Run, bench_of
from muni_nb.gate import scalar
from muni_nb.latent.gaussian import pool
from muni_nb.models.base import Latents
from muni_nb.models.classical.mopoe import MoPoE
from muni_nb.models.classical.mvae import MVAE
from muni_nb.models.mld import Codes
from muni_nb.models.muni import MUNI, Routes
from muni_nb.nets.build import Sizes
from muni_nb.nets.image import ImageSizes
from muni_nb.training.fit import NonFiniteLoss, fit

TINY = Sizes.tiny()
QUICK = dict(steps=2, batch_size=8, warmup=0, log_every=1, precision="float32", progress=False)
OURS = str(Path(__file__).resolve().parent.parent / "muni_nb")
REFUSALS = (ValueError, TypeError, NonFiniteLoss)
WRONG: list[str] = []              # what went wrong in the test that runs


@pytest.fixture(autouse=True)
def every_wrong_is_told():
    WRONG.clear()
    yield
    assert not WRONG, f"{len(WRONG)} wrong\n" + "\n".join(WRONG)


def complain(kind, complaint):
    line = traceback.extract_stack()[-3].lineno
    WRONG.append(f"  {kind}, line {line}: {complaint}")


def told(error):
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} from {frame.filename.split('site-packages/')[-1]}:{frame.lineno}: {error}"


def refused(kind, what, words):
    "Call `what`: it must raise an error of ours, from our code and of no other, whose one sentence has the `words`."
    try: found = what()
    except Exception as error:
        here = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(OURS)
        first = error.__context__ is None or error.__suppress_context__ and error.__cause__ is None
        ours = isinstance(error, REFUSALS) and here and first and "\n" not in str(error)
        good = ours and re.search(words, str(error))
        if not good: complain(kind, f"want {words!r}: {told(error)[:300]}")
    else: complain(kind, f"want {words!r}: accepted, {str(found)[:100]!r}")


def right(kind, what):
    "Call `what`: it must return what is true, or nothing; an error is wrong."
    try: found = what()
    except Exception as error: return complain(kind, f"want it right: {told(error)[:300]}")
    if scalar(found) is False: complain(kind, "want it right: it is not")


N = 48


def columns(n=N):
    "Rows of every kind that share a label."
    random = np.random.default_rng(0)
    kind = np.arange(n) % 3
    photo = (60 * kind[:, None, None, None] + random.integers(0, 60, (n, 8, 10, 3))).astype(np.uint8)
    caption = [f"{('one', 'two', 'three')[k]} of {i % 7}, here" for i, k in enumerate(kind)]
    feature = (3 * kind[:, None] + random.normal(size=(n, 5))).astype(np.float32)
    sound = random.normal(-4, 2, (n, 8, 12)).astype(np.float32)
    return {"photo": photo, "caption": caption, "feature": feature, "sound": sound, "kind": kind}


BENCH = from_arrays(columns(), held_out=0.25)
NAMES = list(BENCH.specs)
BUILT = {}


def built(name, bench=BENCH):
    "A model of a name, untrained; the same one each time."
    if (name, id(bench)) not in BUILT:
        torch.manual_seed(0)
        BUILT[name, id(bench)] = Run("test", model=name, sizes=TINY).build(bench.specs)
    return BUILT[name, id(bench)]


def rows_of(n, bench=BENCH): return {k: bench.test.values[k][:n] for k in bench.specs}


def drawn(model, given, want=("kind",), **options):
    return model.sample(given, list(want), seed=0, **{"steps": 1, **options})


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


CAPTIONED = [name for name in MODELS if name not in ("FlowBind", "JointFlow", "CoDi")]      # models that take captions
each_model = pytest.mark.parametrize("name", CAPTIONED)


# what is given, asked and drawn -------------------------------------------------------------------------------------

@each_model
def test_given_values(name):
    model, kind = built(name), "given values"
    two = drawn(model, {"kind": torch.tensor([1, 2])})
    series = pd.Series([1, 2], index=[7, 9])
    for good in ([1, 2], (1, 2), np.array([1, 2]), np.array([1, 2], np.uint16), series, [np.int64(1), np.int64(2)],
                 [torch.tensor(1), torch.tensor(2)], torch.tensor([1, 2], dtype=torch.uint8)):
        right(kind, lambda: same(drawn(model, {"kind": good}), two))
    one = drawn(model, {"kind": [2]})
    for good in (2, np.int64(2), torch.tensor(2), np.array(2)):
        right(kind, lambda: same(drawn(model, {"kind": good}), one))
    for bad, words in (
            ("two", "kind.*labels.*text|kind.*text"), ([1.0, 2.0], "kind: want integer labels"),
            ([True, False], "kind: want integer labels"),
            ([3], r"kind: want labels in 0\.\.2, got 3"), ([-1], r"kind: want labels in 0\.\.2"),
            ([[1, 2]], r"kind: want shape \[B\], got \[1, 2\]"),
            ([None], "kind"), (None, "kind"), ([1j], "kind"), ({1, 2}, "kind"), ([[1], [1, 2]], "kind"),
            ([], "no rows"), (lambda: 1, "kind"),
            (np.array([2**64 - 1], np.uint64), "kind"), (["1", "2"], "kind"),
            (torch.zeros(0, dtype=torch.int64), "no rows")):
        refused(kind, lambda: drawn(model, {"kind": bad}), words)
    for bad, words in ((None, "given"), ([("kind", [1])], "given"), ("kind", "given"),
                       ({"knid": [1]}, "knid.*did you mean kind|cannot be given"),
                       ({3: [1]}, "3"), ([1, 2], "given"), (torch.tensor([1]), "given")):
        refused(kind, lambda: drawn(model, bad), words)
    if name == "Oracle": return
    given = rows_of(2)
    refused(kind, lambda: drawn(model, {"kind": [1, 2], "feature": given["feature"][:1]}), "number of rows")
    for k, bad, words in (
            ("caption", "one of 2, here", "caption: .*token ids.*text"),
            ("caption", ["one of 2"], "caption: .*token ids.*text"),
            ("photo", torch.rand(2, 3, 8, 10), r"photo: .*\[-1, 1\]"),
            ("photo", 255 * torch.rand(2, 3, 8, 10), r"photo: .*\[-1, 1\]"),
            ("photo", torch.full((2, 3, 8, 10), math.nan), "photo: .*finite|photo: .*NaN"),
            ("photo", given["photo"].long(), "photo: want uint8"),
            ("photo", given["photo"][0], "photo: want shape"),
            ("photo", given["photo"].permute(0, 2, 3, 1), "photo: want shape"),
            ("feature", torch.full((2, 5), math.inf), "feature: .*finite"),
            ("feature", np.full((2, 5), 1e300), "feature: .*finite"),
            ("feature", torch.zeros(2, 5, dtype=torch.int64), "feature: .*floats"),
            ("feature", [["a"] * 5], "feature"),
            ("sound", torch.full((2, 8, 12), math.nan), "sound: .*finite"),
            ("sound", torch.zeros(2, 12, 8), "sound: want shape")):
        refused(kind, lambda: drawn(model, {k: bad}), words)
    numpy = {k: v.numpy() for k, v in given.items()}
    lists = {k: v.tolist() if v.dtype != torch.uint8 else list(v) for k, v in given.items()}
    base = drawn(model, given, NAMES)
    for good in (numpy, lists): right(kind, lambda: same(drawn(model, good, NAMES), base))
    floats = {"photo": given["photo"].float() / 127.5 - 1}
    right(kind, lambda: same(drawn(model, floats), drawn(model, {"photo": given["photo"]})))
    for constant in (1.0, -1.0, 0.0):
        right(kind, lambda: drawn(model, {"photo": torch.full((1, 3, 8, 10), constant)}))
    right(kind, lambda: drawn(model, {"feature": given["feature"].requires_grad_()}))
    right(kind, lambda: same(drawn(model, {"feature": given["feature"].double()}),
                             drawn(model, {"feature": given["feature"]})))


@each_model
def test_captions(name):
    if name == "Oracle": return
    model, kind = built(name), "captions"
    spec, good = BENCH.specs["caption"], BENCH.test.values["caption"][:2]
    length = spec.shape[0]
    right(kind, lambda: drawn(model, {"caption": good}))
    right(kind, lambda: drawn(model,
                              {"caption": [[1, 3] + [0] * (length - 2)]}))               # no word is a caption, too
    cut = [1] + [4] * (length - 1)
    for bad, words in ((cut, "caption: .*no end"), ([0] * length, "caption: .*begin"),
                       ([4] * (length - 1) + [3], "caption: .*begin"),
                       ([1, 0, 4] + [3] * (length - 3), "caption: .*inside"),
                       ([1, 4, 1] + [3] * (length - 3), "caption: .*inside"),
                       ([101] * length, "caption: want token ids in")):
        refused(kind, lambda: drawn(model, {"caption": [good[0].tolist(), bad]}), words)
    refused(kind, lambda: drawn(model, {"caption": good[:, :-1]}), "caption: want shape")


@each_model
def test_present(name):
    if name == "Oracle": return
    model, kind, given = built(name), "present", rows_of(2)
    here = drawn(model, given, present={"photo": torch.tensor([True, False])})
    for good in ([True, False], (1, 0), np.array([True, False]), np.array([1, 0]), pd.Series([True, False]),
                 torch.tensor([1.0, 0.0])):
        right(kind, lambda: same(drawn(model, given, present={"photo": good}), here))
    broken = {**given, "photo": given["photo"].float() / 127.5 - 1, "kind": torch.tensor([-1, 1]),
              "caption": given["caption"].clone()}
    broken["photo"][0], broken["caption"][0] = math.nan, 0
    absent = {k: [False, True] for k in ("photo", "kind", "caption")}
    mended = {**given, "photo": given["photo"].float() / 127.5 - 1}
    right(kind, lambda: same(drawn(model, broken, present=absent), drawn(model, mended, present=absent)))
    right(kind, lambda: drawn(model, given, present={k: [False, False] for k in given}))
    right(kind, lambda: same(drawn(model, given, present={"photo": False}),
                             drawn(model, given, present={"photo": [False] * 2})))
    for bad, words in (({"photo": [True]}, "present.*photo.*2"), ({"photo": [[True, False]]}, "present.*photo"),
                       ({"foto": [True]}, "foto.*photo"),
                       ({"photo": [0.3, 1]}, "present.*photo"), ({"photo": "yes"}, "present.*photo"),
                       ({"photo": [2, 0]}, "present.*photo"),
                       ([True, False], "present"), ({"photo": None}, "present.*photo"),
                       ({"photo": [None, True]}, "present.*photo")):
        refused(kind, lambda: drawn(model, given, present=bad), words)


@each_model
def test_draws(name):
    model, kind = built(name), "draws"
    base = drawn(model, {"kind": [1]}, ["photo", "kind"])
    for good in (k for k in [("photo", "kind"), {"photo": 1, "kind": 1},
                             dict.fromkeys(["photo", "kind"]).keys(), np.array(["photo", "kind"])]):
        right(kind, lambda: same(model.sample({"kind": [1]}, good, seed=0, steps=1), base))
    right(kind, lambda: same(model.sample({"kind": [1]}, (k for k in ("photo", "kind")), seed=0, steps=1), base))
    right(kind, lambda: same(model.sample({"kind": [1]}, ["photo", "kind"], n=np.int64(1), seed=np.int32(0),
            steps=torch.tensor(1)), base))
    for bad, words in ((["photo", "photo"], "photo.*twice"), ("photo", "want must be"),
                       ([], "want must be a non-empty list"), (None, "want must be"), (3, "want must be"),
                       (["foto"], "foto.*did you mean photo"), ([3], "want"), ([["photo"]], "want"),
                       ({"photo", 3}, "want")):
        refused(kind, lambda: model.sample({}, bad, seed=0), words)
        refused(kind, lambda: model.decode(model.infer({}), bad), words)
    for bad, words in ((1.5, "n.* whole number"), (0, "n.*at least 1"), (-1, "n.*at least 1"),
                       (True, "n.* whole number"), ("2", "n.* whole number"), (None, "n.* whole number"),
                       (math.nan, "n.* whole number"), ([1, 2], "n.* whole number"),
                       (np.float64(2), "n.* whole number")):
        refused(kind, lambda: drawn(model, {}, n=bad), words)
        refused(kind, lambda: model.infer({}, bad), words)
        if hasattr(model, "prior_sample"): refused(kind, lambda: model.prior_sample(bad), words)
        refused(kind, lambda: model.draw({}, bad), words)
    for bad in (1.5, "0", True, [0], math.nan, 2**65):
        refused(kind, lambda: model.sample({}, ["kind"], seed=bad), "seed")


@each_model
def test_options(name):
    model, kind = built(name), "options of decoders"
    right(kind, lambda: drawn(model, {}, NAMES, temperature=0, steps=np.int64(1), guidance=np.float32(2),
                              solver="heun", chunk=1))
    right(kind, lambda: drawn(model, {}, ["kind"], steps=2, guidance=2, solver="euler"))
    right(kind, lambda: same(drawn(model, {"kind": [1]}, ["photo"], n=3, chunk=2),
                             drawn(model, {"kind": [1]}, ["photo"], n=3, chunk=np.int64(2))))
    for bad, words in (({"step": 2}, "step.*did you mean steps"),
                       ({"guidence": 2.0}, "guidence.*did you mean guidance"),
                       ({"temprature": 1}, "temprature.*temperature"),
                       ({"steps": 0}, "steps.*at least 1"), ({"steps": 1.5}, "steps.*whole"),
                       ({"steps": "2"}, "steps.*whole"), ({"steps": True}, "steps.*whole"),
                       ({"guidance": math.nan}, "guidance.*finite"),
                       ({"guidance": math.inf}, "guidance.*finite"), ({"guidance": -1}, "guidance.*at least 0"),
                       ({"guidance": "high"}, "guidance.*number"),
                       ({"guidance": [1.0, 2.0]}, "guidance.*number"), ({"guidance": None}, "guidance.*number"),
                       ({"solver": "eular"}, "solver.*eular.*did you mean euler"), ({"solver": None}, "solver"),
                       ({"chunk": 0}, "chunk.*at least 1"), ({"chunk": 2.0}, "chunk.*whole"),
                       ({"chunk": None}, "chunk.*whole"),
                       ({"temperature": -1}, "temperature.*at least 0"),
                       ({"temperature": math.nan}, "temperature.*finite"),
                       ({"temperature": "hot"}, "temperature.*number")):
        refused(kind, lambda: drawn(model, {}, ["photo", "caption", "kind"], **bad), words)
        refused(kind, lambda: model.decode(model.infer({}), ["photo", "caption"], **bad), words)
    refused(kind, lambda: drawn(model, {}, ["kind"], temperature=1), "kind.*temperature")


@each_model
def test_latents_to_decode(name):
    model, kind = built(name), "latents to decode"
    z = model.infer({}, 2)
    base = lambda z: (torch.manual_seed(0), model.decode(z, ["kind", "feature"], steps=1))[1]
    right(kind, lambda: same(base(z), base(z.numpy())))
    right(kind, lambda: same(base(z), base(z.double())))
    for bad, words in ((z[:, 1:], "latents.*shape"), (z[0], "latents.*shape"),
                       (z * math.nan, "latents.*finite"), (None, "latents"), ("z", "latents"),
                       (z.long(), "latents.*float"), (z[:0], "no rows")):
        refused(kind, lambda: base(bad), words)


@each_model
def test_few_rows(name):
    model, kind = built(name), "0, 1, 2 rows"
    for n in (1, 2):
        right(kind, lambda: all(len(x) == 3 * n for x in drawn(model, {"kind": [1] * n}, NAMES, n=3).values()))
    if name == "Oracle": return
    for n in (1, 2): right(kind, lambda: all(len(x) == n for x in drawn(model, rows_of(n), NAMES).values()))
    refused(kind, lambda: drawn(model, rows_of(0)), "no rows")
    refused(kind, lambda: model.infer(rows_of(0)), "no rows")
    if hasattr(model, "posterior"):
        for n in (1, 2):
            right(kind, lambda: len(model.posterior(rows_of(n))) == n and model.rate(rows_of(n))[0].isfinite().all())
        refused(kind, lambda: model.posterior(rows_of(0)), "no rows")
        refused(kind, lambda: model.rate(rows_of(0)), "no rows")
        refused(kind, lambda: model.encoded(rows_of(0)), "no rows")
        refused(kind, lambda: model.posterior({}), "given nothing")
        refused(kind, lambda: model.posterior(rows_of(2), present={"photo": [True]}), "present")
        refused(kind, lambda: model.encoded(rows_of(2)).only(["foto"]), "foto.*photo")
        refused(kind, lambda: model.encoded(rows_of(2)).only("photo"), "list of names")
        refused(kind, lambda: model.rate(rows_of(2), draws=0), "draws")


@each_model
def test_rows_that_observe_nothing(name):
    model, kind = built(name), "rows that observe nothing"
    batch, available = batch_at(BENCH.train, BENCH.specs, 0, 8, 0)
    for progress in (0.0, 0.99):
        for empty in (slice(0, 3), slice(0, 8), slice(0, 7)):
            mask = available.clone()
            mask[empty] = False
            terms = model.train().loss(batch, mask, progress=progress)
            right(kind, lambda: all(torch.as_tensor(v).isfinite().all() for v in terms.values()))
            right(kind, lambda: isinstance(terms["loss"], Tensor))
            if empty == slice(0, 8): right(kind, lambda: terms["loss"].item() == 0)
    few = replace(BENCH.train, available=BENCH.train.available.clone())
    few.available[::2] = False
    bench = replace(BENCH, train=few)
    right(kind, lambda: fit(Run("test", model=name, sizes=TINY).build(bench.specs), bench,
                            **QUICK).term_value.notnull().any())


@each_model
def test_weights(name):
    kind = "weights"
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = Run("test", model=name, sizes=TINY).build(BENCH.specs).to(dtype)
        refused(kind, lambda: drawn(model, {"kind": [1]}), "weights.*float32")
        refused(kind, lambda: model.decode(torch.zeros(1, 4), ["kind"]), "weights.*float32")
        refused(kind, lambda: fit(model, BENCH, **QUICK), "weights.*float32")


# specs, names, models ----------------------------------------------------------------------------------------------

def test_names():
    kind = "names"
    for bad in ("my.photo", "type", "values", "keys", "train", "half", "", 3, None, "training", "items", "pop",
                "forward", "a+b", "a/b", "nothing", "both", "strict",
                "loss", "rate", "step", "prior", "distillation", "contrastive", "_modules", "float", "to",
                "eval", "__init__", "score", "apart", " photo", True):
        refused(kind, lambda: Spec(bad, "category", classes=3), "modality|name")
        if bad in ("loss", "rate", "step", "prior", "distillation", "contrastive", "score", "apart"): continue
        refused(kind, lambda: from_arrays({"feature": columns()["feature"], bad: columns()["kind"]},
                held_out=0.25), "called|text")
        refused(kind, lambda: replace(BENCH, attributes={bad: 3}), "attribute")
    for good in ("photo", "Photo_2", "größe", "my photo", "x", "photo-1", "types", "0"):
        right(kind, lambda: MUNI({good: Spec(good, "category", classes=3)}, sizes=TINY))
    for bad in ({"photo": BENCH.specs["kind"]}, {"photo": BENCH.specs["photo"], "kin": BENCH.specs["kind"]}):
        for name in MODELS:
            refused(kind, lambda: Run("test", model=name, sizes=TINY).build(bad), "kind.*Spec|Spec.*kind")
        refused(kind, lambda: replace(BENCH, specs=bad), "Spec")


def test_specs():
    kind = "specs"
    for arguments, words in (
            (("x", "imge", (3, 8, 8)), "kind.*imge.*did you mean image"), (("x", "image", (3, 8)), "shape"),
            (("x", "image", (3, 2, 2)), "sides"), (("x", "image", (3, 16, 2)), "sides"),
            (("x", "image", (5, 8, 8)), "channels"), (("x", "image", 8), "shape"),
            (("x", "image", (3, 8.0, 8)), "shape"), (("x", "image", ("3", 8, 8)), "shape"),
            (("x", "image", (3, 8, True)), "shape"), (("x", "category", (), 1), "classes"),
            (("x", "category", (), 3.0), "classes"), (("x", "category", (), "3"), "classes"),
            (("x", "category"), "classes"), (("x", "text", (6,), 4), "classes"), (("x", "text", (1,), 9), "L"),
            (("x", "text", (0,), 9), "L"), (("x", "audio", (0, 64)), "audio"),
            (("x", "vector", (0,)), "vector"), (("x", "vector", (-3,)), "vector"), (("x", None, (3,)), "kind"),
            (("x", "image", (3, 8, 8), 3), "image")):
        refused(kind, lambda: Spec(*arguments), words)
    for name in ("MUNI", "MVAE"):
        refused(kind, lambda: MODELS[name]({"x": Spec("x", "audio", (2, 64))}, sizes=TINY), "sides from 4 on")
    for good in (np.int64(3), torch.tensor(3), np.uint8(3)):
        right(kind, lambda: type(Spec("x", "category", classes=good).classes) is int)
    for good in ([3, 8, 8], torch.Size([3, 8, 8]), np.array([3, 8, 8]), (np.int64(3), 8, 8)):
        right(kind, lambda: Spec("x", "image", good) == Spec("x", "image",
                (3, 8, 8)) and type(Spec("x", "image", good).shape[0]) is int)
    for name in MODELS:
        build = lambda specs: Run("test", model=name, sizes=TINY).build(specs)
        for bad in ({}, None, [BENCH.specs["kind"]], {"kind": 3}, BENCH, "kind"):
            refused(kind, lambda: build(bad), "specs")


@pytest.mark.parametrize("name", MODELS)
def test_numbers_of_models(name):
    kind, made = "settings", MODELS[name]
    specs = {k: BENCH.specs[k] for k in ("feature", "kind")}
    refused(kind, lambda: made(specs, sizes=Routes()), "sizes must be Sizes")
    refused(kind, lambda: made(specs, sizes=16), "sizes must be Sizes")
    if name in ("MUNI", "ConditionalMUNI"): refused(kind, lambda: made(specs, TINY), "routes must be Routes")
    else: refused(kind, lambda: made(specs, Routes()), "sizes must be Sizes")
    options = {"max_logsnr": [("3", "number"), (math.nan, "finite"), (True, "number")],
               "encoder_lr": [(0, "above 0|positive"), ("1", "number")],
               "stage": [(0.0, "stage"), ("x", "stage"), (2, "stage")],
               "latents": [(3, "latents must be"), (Routes(), "latents must be")],
               "subsets": [(1.5, "whole"), (-1, "at least 0"), (True, "whole")],
               "draws": [(0, "at least 1"), (1.0, "whole"), ("2", "whole")],
               "stratified": [("no", "True or False"), (1, "True or False")],
               "beta": [(-1, "at least 0"), (math.nan, "finite"), ("1", "number")],
               "scale": [(0, "above 0|positive"), (math.inf, "finite")],
               "warmup": [(2, "at most 1|fraction"), ("1", "number")],
               "label_weight": [(-1, "at least 0"), (None, "number")],
               "likelihood": [("laplac", "did you mean laplace"), (3, "likelihood")],
               "alpha": [(-1, "alpha"), ("x", "alpha"), *[(2, "alpha")] * (name == "MVTCAE")],
               "private": [(0, "private"), (1.5, "private"), ("1", "private"), (99, "private")],
               "width": [(0, "at least 1"), (8.0, "whole"), ("8", "whole")],
               "hidden": [(0, "at least 1"), (8.0, "whole")],
               "depth": [(0, "at least 1"), (1.5, "whole"), (True, "whole")],
               "heads": [(0, "at least 1"), (3.0, "whole")],
               "registers": [(0, "at least 1"), (1.0, "whole")], "patches": [(0, "at least 1"), (2.5, "whole")],
               "temperature": [(0, "temperature"), (math.nan, "temperature"), ("1", "temperature")],
               "ramp": [(2, "ramp"), ("x", "ramp")], "detach": [("no", "True or False"), (1, "True or False")],
               "full_only": [("no", "True or False")], "crossed": [(2, "crossed"), ("x", "crossed")],
               "teacher_steps": [(0, "at least 1"), (4.0, "whole")],
               "distillation": [(-1, "at least 0"), (math.nan, "finite")], "contrastive": [("x", "number")],
               "reconstruction": [(math.inf, "finite")],
               "variant": [("unii", "did you mean uni"), (3, "variant")],
               "process": [("vpp", "did you mean vp"), (None, "process")],
               "conditioned": [(2, "conditioned"), ("x", "conditioned")],
               "code": [({"imge": 3}, "imge.*did you mean image"), ({"category": 0}, "code"),
                        ({"category": 2.0}, "code"), (3, "code")]}
    from muni_nb.experiments.run import arguments_of
    takes = arguments_of(made, "specs", "sizes", "routes")
    for option, bad in options.items():
        if option not in takes: continue
        for value, words in bad:
            refused(kind, lambda: made(specs, sizes=TINY, **{option: value}), f"(?s){option}.*({words})|{words}")
        default = takes[option]
        if type(default) in (int, float):
            for convert in (np.float32, np.float64, torch.tensor) if isinstance(default, float) else (np.int64,
                    torch.tensor, np.int32):
                model = made(specs, sizes=TINY, **{option: convert(default)})
                held = model.config()[option]
                right(kind, lambda: type(held) is type(default) and abs(held - default) < 1e-6)
    refused(kind, lambda: made(specs, sizes=TINY, nonsense=3), "nonsense")


def test_settings():
    kind = "settings"
    for bad, words in (({"detach": "no"}, "detach must be True or False"), ({"detach": 1}, "detach"),
                       ({"pooling": "peo"}, "pooling.*did you mean poe"), ({"pooling": None}, "pooling"),
                       ({"prior_subsets": "leave_one_ou"}, "did you mean leave_one_out"),
                       ({"targets": "al"}, "targets.*all"), ({"rate_weight": "0.2"}, "rate_weight"),
                       ({"rate_weight": math.nan}, "rate_weight.*finite"), ({"rate_weight": -1}, "rate_weight"),
                       ({"label_weight": math.inf}, "label_weight"), ({"rate_ramp": 1.5}, "rate_ramp"),
                       ({"crossed": True}, "crossed"), ({"crossed": 2}, "crossed"),
                       ({"prior_gradient": None}, "prior_gradient"),
                       ({"crossed": 0.5, "targets": "shown"}, "crossed")):
        refused(kind, lambda: Routes(**bad), words)
    right(kind, lambda: Routes(rate_weight=np.float64(0.2), detach=np.bool_(True), label_weight=5) == Routes())
    for bad, words in (({"steps": 0}, "steps"), ({"steps": 50.0}, "steps.*whole"), ({"steps": True}, "steps"),
                       ({"power": 0}, "power"), ({"power": math.nan}, "power"), ({"power": "3"}, "power"),
                       ({"solver": "eulr"}, "solver.*did you mean euler"), ({"solver": 3}, "solver")):
        refused(kind, lambda: Latents(**bad), words)
    for bad, words in (({"steps": 0}, "steps"), ({"steps": 5.0}, "steps"),
                       ({"sampler": "od"}, "sampler.*did you mean ode"), ({"resample": 0}, "resample"),
                       ({"resample": "1"}, "resample")):
        refused(kind, lambda: Codes(**bad), words)
    right(kind, lambda: Latents(np.int64(50)) == Latents() and type(Latents(np.int64(50)).steps) is int)
    right(kind, lambda: Codes(torch.tensor(50)) == Codes())
    for bad, words in (({"latent": 0}, "latent"), ({"latent": 8.0}, "latent.*whole"),
                       ({"latent": "8"}, "latent"), ({"latent": True}, "latent"), ({"prior": -1}, "prior"),
                       ({"prior_depth": 0}, "prior_depth"),
                       ({"image_decodr": (8,)}, "did you mean image_decoder"),
                       ({"image_decoder": 8}, "image_decoder.*list or tuple"),
                       ({"image_decoder": ()}, "image_decoder"), ({"image_decoder": (8.0,)}, "image_decoder"),
                       ({"image_encoder": (12,)}, "image_encoder.*8"), ({"image_patch": 0}, "image_patch"),
                       ({"image_pool": "no"}, "image_pool"), ({"text_encoder": 6}, "text_encoder.*4"),
                       ({"category_encoder": 0}, "category_encoder"),
                       ({"category_encoder": (8,)}, "category_encoder"), ({"image_time": "x"}, "image_time"),
                       ({"image_time": math.nan}, "image_time")):
        refused(kind, lambda: Sizes(**bad), words)
    right(kind, lambda: Sizes(latent=np.int64(16), image_decoder=[np.int64(32), 64],
                              image_time=0).values() == Sizes(latent=16, image_decoder=(32, 64)).values())
    right(kind, lambda: type(Sizes(latent=np.int64(16)).latent) is int)
    refused(kind, lambda: Sizes.cpu("16"), "size")
    refused(kind, lambda: Sizes.cpu(0), "size")
    refused(kind, lambda: ImageSizes(encoder="abc"), "encoder")
    refused(kind, lambda: Sound(rate=0), "rate")
    refused(kind, lambda: Sound(seconds=-1), "seconds")
    refused(kind, lambda: Sound(mels=3.5), "mels")


# rows, benchmarks, builders ----------------------------------------------------------------------------------------

def table(n=24, **changes):
    "Rows by hand, and what a benchmark of them wants."
    label = torch.arange(n) % 3
    photo = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parts = {"values": {"photo": photo, "kind": label}, "attributes": {"kind": label}, "private": {},
             "available": torch.ones(n, 2, dtype=torch.bool)}
    return Rows(**parts | changes)


SPECS = {"photo": Spec("photo", "image", (3, 8, 8)), "kind": Spec("kind", "category", classes=3)}


def by_hand(train=None, test=None, **changes):
    "A benchmark of one's own, made by hand."
    parts = {"name": "mine", "specs": SPECS, "train": train or table(), "test": test or table(),
             "attributes": {"kind": 3}, "carries": {"photo": ("kind",), "kind": ("kind",)}, "config": {}}
    return Benchmark(**parts | changes)


def trained(bench, name="MUNI", model=None, **options):
    torch.manual_seed(0)
    model = model or MODELS[name](bench.specs, sizes=TINY)
    fit(model, bench, **QUICK | options)
    return model.state_dict()


def test_own_rows():
    kind, base = "own rows", trained(by_hand())
    label, photo = table().values["kind"], table().values["photo"]
    values = lambda **changes: table(values=table().values | changes)
    for good in (photo.numpy(), photo.double(), list(photo), list(photo.numpy()), photo.tolist(),
                 photo.requires_grad_()):
        right(kind, lambda: same(trained(by_hand(values(photo=good))), base))
    photo = photo.detach()
    for good in (label.numpy(), label.tolist(), pd.Series(label.numpy(), index=range(100, 124)),
                 label.to(torch.uint8), label.numpy().astype(np.uint16), pd.Series(label.numpy(), dtype="Int64")):
        right(kind, lambda: same(trained(by_hand(values(kind=good))), base))
        right(kind, lambda: by_hand(table(attributes={"kind": good})).train.attributes["kind"].dtype == torch.int64)
    read_only = photo.numpy().copy()
    read_only.flags.writeable = False
    right(kind, lambda: same(trained(by_hand(values(photo=read_only))), base))
    mask = torch.ones(24, 2, dtype=torch.bool)
    mask[::2, 0] = False
    part = trained(by_hand(table(available=mask)))
    for good in (mask.numpy(), mask.tolist(), mask.long(), mask.float(), mask.to(torch.uint8),
                 pd.DataFrame(mask.numpy(), columns=list(SPECS))):
        right(kind, lambda: same(trained(by_hand(table(available=good))), part))
    for bad, words in ((mask.T, "available.*24.*2"), (mask[:, 0], "available"), (mask[:20], "available.*24"),
                       (mask[:, :1], "available"), (mask.float() * 0.5, "available"),
                       (mask.long() * 2, "available"),
                       (None, "available"), ("all", "available"), (True, "available"),
                       (torch.ones(24, 3).bool(), "available")):
        refused(kind, lambda: by_hand(table(available=bad)), words)
    empty = photo.clone()
    empty[::2] = math.nan
    zero = photo.clone()
    zero[::2] = 0
    observed = lambda photo: by_hand(table(values={"photo": photo, "kind": label}, available=mask))
    right(kind, lambda: same(trained(observed(empty)), trained(observed(zero))))
    unknown = label.clone()
    unknown[1::2] = -1
    hidden = torch.stack([torch.ones(24).bool(), torch.arange(24) % 2 == 0], 1)
    for name in MODELS:
        right(kind, lambda: all(v.isfinite().all() for v in trained(by_hand(table(values={"photo": photo,
                "kind": unknown}, available=hidden)), name).values()))
    for bad, words in (({"photo": photo[:20], "kind": label}, "photo.*20.*24|rows"),
                       ({"photo": empty, "kind": label}, "train.*photo.*row 0|photo.*row 0"),
                       ({"photo": photo, "kind": unknown}, "kind.*row 1"),
                       ({"photo": (photo + 1) / 2, "kind": label}, r"photo.*\[-1, 1\]"),
                       ({"photo": photo + 2, "kind": label}, r"photo.*\[-1, 1\]"),
                       ({"photo": (photo + 1) * 127.5, "kind": label}, r"photo.*\[-1, 1\]"),
                       ({"photo": photo}, "available, a column each for photo: "),
                       ({"photo": photo, "kind": label, "sound": label}, "available.*sound"),
                       ({"foto": photo, "kind": label}, "photo"),
                       ({"photo": photo, "kind": label.float()}, "kind.*integer"),
                       ({"photo": photo, "kind": label + 1}, r"kind.*0\.\.2"),
                       ({"photo": photo, "kind": ["a"] * 24}, "kind.*text"),
                       ({"photo": photo[:, 0], "kind": label}, "photo.*shape"),
                       ({"photo": None, "kind": label}, "photo"), ([photo, label], "values"), (None, "values"),
                       ({"photo": photo, "kind": [0, [1]] * 12}, "kind"), ({}, "available")):
        refused(kind, lambda: by_hand(table(values=bad)), words)
    for bad, words in (({"kind": label[:3]}, "kind"), ({"knd": label}, "kind"),
                       ({"kind": label.float()}, "kind.*integer"), ({"kind": label + 5}, "kind"),
                       (None, "attributes"), ({"kind": label - 2}, "kind")):
        refused(kind, lambda: by_hand(table(attributes=bad)), words)
    right(kind, lambda: by_hand(table(attributes={"kind": unknown})).train.attributes["kind"].min() == -1)
    right(kind, lambda: same(trained(by_hand(table(values=dict(reversed(table().values.items()))))), base))


def test_benchmarks_by_hand():
    kind = "benchmarks by hand"
    for changes, words in (({"specs": list(SPECS.values())}, "specs"), ({"specs": {}}, "specs"),
                           ({"carries": {"photo": ("kind",)}}, "carries.*kind"),
                           ({"carries": {"foto": ("kind",)}}, "foto.*photo"),
                           ({"carries": {"photo": ("knd",), "kind": ("kind",)}}, "knd.*kind"),
                           ({"carries": {"photo": "kind", "kind": ("kind",)}}, "carries.*photo.*list"),
                           ({"attributes": {"kind": 3.0}}, "kind.*whole"),
                           ({"attributes": {"kind": 0}}, "kind"), ({"attributes": {"kind": 2}}, "kind"),
                           ({"attributes": ["kind"]}, "attributes"), ({"config": {"x": object()}}, "config.*x"),
                           ({"config": None}, "config"),
                           ({"config": {"x": math.nan}}, "config.*x"), ({"config": {3: 1}}, "config"),
                           ({"name": 3}, "name"), ({"train": 3}, "train must be Rows"),
                           ({"reads": {"foto": len}}, "foto.*photo"),
                           ({"restore": {"foto": len}}, "foto.*photo"), ({"truth": 3}, "truth")):
        refused(kind, lambda: by_hand(**changes), words)
    config = {"rows": np.int64(3), "rate": np.float32(0.5), "deep": [torch.tensor(1), {"x": np.bool_(True)}]}
    held = by_hand(config=config).config
    right(kind, lambda: held == {"rows": 3, "rate": 0.5, "deep": [1, {"x": True}]} and type(held["rows"]) is int)
    right(kind, lambda: by_hand(attributes={"kind": np.int64(3)}).attributes == {"kind": 3})
    right(kind, lambda: by_hand(carries={"photo": ["kind"], "kind": ["kind"]}).carries == {"photo": ("kind",),
            "kind": ("kind",)})


def test_builders():
    kind = "builders"
    for build in (quadrant_digits, five_views, scenes):
        sized = {} if build is scenes else {"size": 16}
        small = lambda **changes: build(**{**sized, "rows": 4, "test_rows": 2, **changes})
        base = small(seed=3)
        for good in (np.int64, torch.tensor, np.int32):
            again = small(seed=good(3), rows=good(4))
            right(kind, lambda: again.config == base.config and same(again.train.values, base.train.values))
        for option in ("rows", "test_rows"):
            for bad in (0, -1, 4.0, True, "4", None, math.nan):
                refused(kind, lambda: small(**{option: bad}), option)
        for bad in (-1, 1.5, "0", True, None, 2**70): refused(kind, lambda: small(seed=bad), "seed")
        for bad in ("ful", None, 3, ["full"]): refused(kind, lambda: small(availability=bad), "availability.*full")
        if sized:
            for bad in (2, 0, 16.0, "16", True, 17, None): refused(kind, lambda: small(size=bad), "size.*16")
            right(kind, lambda: small(size=np.int64(16)).config["size"] == 16)
    for bad in (1, -0.1, "0.1", math.nan, True, None):
        refused(kind, lambda: scenes(rows=4, test_rows=2, held_out=bad), "held_out")
    right(kind, lambda: type(scenes(rows=4, test_rows=2, held_out=np.float64(0.1)).config["held_out"]) is float)
    for bad in ("no", 1, None): refused(kind, lambda: five_views(16, 4, 2, filled=bad), "filled")
    wave = torch.zeros(1, 16000)
    for bad, words in ((wave * math.nan, "finite"), (wave + math.inf, "finite"), (wave[:, 1:], "waveform"),
                       (wave.long(), "waveform"), (20000 + wave, r"\[-1, 1\]"), (None, "waveform"),
                       ("wave", "waveform")):
        refused(kind, lambda: log_mel(bad), words)
    right(kind, lambda: log_mel(wave.numpy()).equal(log_mel(wave)))
    refused(kind, lambda: Sound().log_mels(wave * math.nan, 8000), "finite")
    refused(kind, lambda: Sound().log_mels(wave, 0), "rate")


def test_own_columns():
    kind, known = "own columns", columns()
    made = lambda changes={}, **options: from_arrays({k: known[k] for k in ("photo", "caption",
            "kind")} | changes, **{"held_out": 0.25, **options})
    floats = known["photo"] / 127.5 - 1
    right(kind, lambda: made({"photo": floats.astype(np.float32)}))
    for bad, words in ((known["photo"] / 255, r"photo.*\[-1, 1\]"),
                       (known["photo"].astype(float), r"photo.*\[-1, 1\]"),
                       (floats + math.inf, "photo.*infinite"), (known["photo"][:20], "numbers of rows differ"),
                       (known["photo"].astype(np.int64), "photo: int64.* no kind of modality"),
                       (known["photo"][:, :2, :2], "photo.*sides"), (None, "photo"), (3, "photo"),
                       ("photo", "photo"), ([None] * N, "photo: nothing"), ({}, "photo")):
        refused(kind, lambda: made({"photo": bad}), words)
    for bad, words in (([N] * N, "labels from 48 to 48"), (known["kind"] - 1, "labels from -1"),
                       (known["kind"] + 0.5, "number them 0, 1|integers"), ([math.inf] * N, "infinite")):
        refused(kind, lambda: made({"kind": bad}, kinds={"kind": "category"}), words)
    right(kind, lambda: made({"kind": np.where(np.arange(N) % 4 > 0, known["kind"], -1)},
                             available={"kind": np.arange(N) % 4 > 0}))
    right(kind, lambda: same(made({"kind": pd.Series(known["kind"], index=range(5, 5 + N))}).train.values,
                             made().train.values))
    partly = made(available={"photo": np.arange(N) % 4 > 0}).train.available
    for good in (np.arange(N) % 4 > 0, (np.arange(N) % 4 > 0).tolist(), (np.arange(N) % 4 > 0).astype(int),
                 pd.Series(np.arange(N) % 4 > 0)):
        right(kind, lambda: made(available={"photo": good}).train.available.equal(partly))
    for bad, words in (({"photo": [True]}, "rows differ.*available photo"),
                       ({"photo": np.full(N, 0.5)}, "available.*photo"),
                       ({"photo": np.full((N, 2), True)}, "available.*photo"),
                       ({"photo": None}, "available.*photo"),
                       ({"photo": ["yes"] * N}, "available.*photo"), ([True] * N, "available"),
                       ({"foto": [True] * N}, "foto.*photo"), ({"photo": 2 * np.ones(N)}, "available.*photo")):
        refused(kind, lambda: made(available=bad), words)
    for options, words in (({"held_out": 0}, "held_out"), ({"held_out": 1}, "held_out"),
                           ({"held_out": "0.1"}, "held_out"), ({"held_out": math.nan}, "held_out"),
                           ({"held_out": True}, "held_out"), ({"seed": 1.5}, "seed"), ({"seed": -1}, "seed"),
                           ({"seed": "0"}, "seed"), ({"least_count": 0}, "least_count"),
                           ({"least_count": 1.0}, "least_count"), ({"max_length": 2}, "max_length"),
                           ({"max_length": "9"}, "max_length"), ({"kinds": {"photo": "imge"}}, "imge.*image"),
                           ({"kinds": {"foto": "image"}}, "foto.*photo"), ({"kinds": "image"}, "kinds"),
                           ({"carries": {"photo": ["knd"]}}, "knd.*kind"),
                           ({"carries": {"foto": ["kind"]}}, "foto.*photo"),
                           ({"carries": {"photo": "kind"}}, "carries.*list"),
                           ({"attributes": "knd"}, "knd.*kind"), ({"attributes": 3}, "attributes"),
                           ({"attributes": {"type": known["kind"]}}, "type"),
                           ({"attributes": {"a": known["kind"][:3]}}, "rows differ"), ({"name": 3}, "name"),
                           ({"reads": {"foto": len}}, "foto.*photo")):
        refused(kind, lambda: made(**options), words)
    again = made(seed=np.int64(3), held_out=np.float64(0.25)).config
    right(kind, lambda: again == made(seed=3).config and type(again["seed"]) is int)
    for bad, words in (({}, "no column"), (None, "columns"), ([1, 2], "columns"), ("photo", "columns")):
        refused(kind, lambda: from_arrays(bad), words)
    refused(kind, lambda: from_arrays(pd.DataFrame(np.zeros((N, 2)))), "text")
    right(kind, lambda: len(from_arrays(pd.DataFrame({"x": np.linspace(-1, 1, N), "kind": known["kind"]}),
                                        held_out=0.25).train) == 36)
    right(kind, lambda: made({"caption": [""] + known["caption"][1:]}))


# model and benchmark -----------------------------------------------------------------------------------------------

def reordered(bench):
    "The same rows with modalities in another order."
    back = lambda rows: replace(rows, values=dict(reversed(rows.values.items())), available=rows.available.flip(1))
    return replace(bench, specs=dict(reversed(bench.specs.items())), train=back(bench.train), test=back(bench.test))


def without(bench, name):
    "The same rows without a modality."
    keep = [i for i, k in enumerate(bench.specs) if k != name]
    less = lambda table: {k: v for k, v in table.items() if k != name}
    cut = lambda rows: replace(rows, values=less(rows.values), available=rows.available[:, keep])
    return replace(bench, specs=less(bench.specs), carries=less(bench.carries), reads=less(bench.reads),
                   restore=less(bench.restore), store=less(bench.store), train=cut(bench.train), test=cut(bench.test))


@each_model
def test_order_and_identity_of_modalities(name):
    kind = "order and identity of modalities"
    mask = torch.rand(len(BENCH.train), len(NAMES), generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, -1] = True
    bench = replace(BENCH, train=replace(BENCH.train, available=mask))
    make = lambda bench: Run("test", model=name, sizes=TINY).build(bench.specs)
    torch.manual_seed(0)
    base, again = make(bench), make(bench)
    again.load_state_dict(base.state_dict())
    right(kind, lambda: same(trained(bench, model=base), trained(reordered(bench), model=again)))
    fewer = without(bench, "feature")
    for model, rows, words in ((make(bench), fewer, "feature"), (make(fewer), bench, "feature")):
        refused(kind, lambda: fit(model, rows, **QUICK), words)
        refused(kind, lambda: evaluate(model, rows,
                                       JUDGE if rows is bench else {k: JUDGE[k] for k in rows.specs}, rows=4),
                                       words)
    other = replace(bench, specs=bench.specs | {"feature": Spec("feature", "vector", (4,))},
                    **{part: replace(getattr(bench, part), values=getattr(bench,
                            part).values | {"feature": getattr(bench, part).values["feature"][:,
                                    :4]}) for part in ("train", "test")})
    refused(kind, lambda: fit(make(bench), other, **QUICK), "feature")
    refused(kind, lambda: evaluate(make(bench), other, JUDGE, rows=4), "feature")


def test_identity_of_data(tmp_path):
    kind = "identity of data"
    one, two = by_hand(), by_hand(table(values={"photo": -table().values["photo"], "kind": table().values["kind"]}))
    trained(one, folder=tmp_path)
    right(kind, lambda: same(trained(one, folder=tmp_path), trained(by_hand())))
    refused(kind, lambda: trained(two, folder=tmp_path), "another run")
    mask = torch.ones(24, 2, dtype=torch.bool)
    mask[0, 0] = False
    refused(kind, lambda: trained(by_hand(table(available=mask)), folder=tmp_path), "another run")
    mine = quadrant_digits(16, rows=40, test_rows=10)
    changed = replace(mine, train=replace(mine.train,
            values=mine.train.values | {"digit": 9 - mine.train.values["digit"]}))
    trained(mine, folder=tmp_path / "built")
    refused(kind, lambda: trained(changed, folder=tmp_path / "built"), "another run")
    other = by_hand(table(attributes={"kind": (table().attributes["kind"] + 1) % 3}))
    for bench in (two, other): right(kind, lambda: learns_from(one) != learns_from(bench))
    right(kind, lambda: learns_from(one) == learns_from(by_hand()))
    right(kind, lambda: learns_from(mine) == {"builder": "quadrant_digits", "size": 16, "seed": 0,
            "style": mine.config["style"]})
    BENCHMARKS["anew"] = lambda rows=24: one
    first = bench_of({"benchmark": "anew"})
    BENCHMARKS["anew"] = lambda rows=24: two
    right(kind, lambda: first is one and bench_of({"benchmark": "anew"}) is two)
    del BENCHMARKS["anew"]


JUDGE = judge_for(BENCH, None, progress=False, steps=2, batch_size=8)


def judged(model, bench=BENCH, judge=None, **options):
    return evaluate(model, bench, judge or JUDGE, **{"rows": 8, "steps": 1, "probe_steps": 2,
            "routes": [(), ("kind",)], "latents": False, **options})


@each_model
def test_evaluation(name):
    model, kind = built(name), "evaluation"
    right(kind, lambda: judged(model, rows=np.int64(8), steps=torch.tensor(1), guidance=np.float32(1.5),
                               seed=np.int64(0)).equals(judged(model)))
    right(kind, lambda: judged(model, guidance=np.array([1.0, 2.0])).guidance.values.tolist() == [1, 2])
    right(kind, lambda: judged(model, routes=(g for g in [(), ["kind"]])).equals(judged(model)))
    for options, words in (({"rows": 0}, "rows.*at least"), ({"rows": 8.0}, "rows.*whole"),
                           ({"rows": True}, "rows"), ({"rows": "8"}, "rows"), ({"steps": 0}, "steps"),
                           ({"steps": 1.5}, "steps"), ({"guidance": math.nan}, "guidance.*finite"),
                           ({"guidance": math.inf}, "guidance"), ({"guidance": -1}, "guidance"),
                           ({"guidance": "1.5"}, "guidance"), ({"guidance": []}, "guidance"),
                           ({"guidance": [1, math.nan]}, "guidance"), ({"seed": 1.5}, "seed"),
                           ({"seed": "0"}, "seed"),
                           ({"precision": "half"}, "precision"), ({"progress": "no"}, "progress"),
                           ({"latents": "no"}, "latents must be True"), ({"per_class": -1}, "per_class"),
                           ({"per_class": 1.5}, "per_class"), ({"per_class": 1}, "per_class"),
                           ({"probe_steps": 0}, "probe_steps"), ({"probe_steps": 2.0}, "probe_steps"),
                           ({"routes": ["kind"]}, "routes"), ({"routes": "kind"}, "routes"),
                           ({"routes": [("knd",)]}, "knd.*kind"), ({"routes": [("kind", "kind")]}, "kind.*twice"),
                           ({"routes": [tuple(NAMES)]}, "everything"), ({"routes": []}, "routes"),
                           ({"routes": 3}, "routes"), ({"towers": 3}, "towers"), ({"rowz": 3}, "rowz"),
                           ({"bench": None}, "bench")):
        refused(kind, lambda: judged(model, **options), words)
    refused(kind, lambda: judged(None), "model")
    for judge, words in ({}, "photo|judge"), ({k: v for k, v in JUDGE.items() if k != "sound"}, "sound"), ([1],
            "judge"), ({**JUDGE, "photo": 3}, "photo"): refused(kind,
                    lambda: judged(model, judge=judge or {"x": 1}), words)
    if name != "Oracle": return
    refused(kind, lambda: judged(model, routes=[("photo",)]), "photo")


@each_model
@pytest.mark.filterwarnings("ignore")
def test_few_rows_judged(name):
    model, kind = built(name), "0, 1, 2 rows"
    for n in (1, 2, 3):
        few = replace(BENCH, test=BENCH.test.select(slice(n)))
        refused(kind, lambda: judged(model, few, rows=8), "test rows")
        refused(kind, lambda: judged(model, rows=n), "rows")
    four = replace(BENCH, test=BENCH.test.select(slice(4)))
    right(kind, lambda: judged(model, four, rows=4))
    if name not in ("MUNI", "MLD"): return
    bench = quadrant_digits(16, rows=40, test_rows=4)
    judge = judge_for(bench, None, progress=False)
    right(kind, lambda: evaluate(built(name, bench), bench, judge, rows=4, steps=1, per_class=8, probe_steps=2))
    few = replace(bench, test=bench.test.select(slice(2)))
    refused(kind, lambda: evaluate(built(name, few), few, judge, rows=4, steps=1, per_class=8, probe_steps=2),
            "test rows")


def test_judges():
    kind = "judges"
    train = lambda **options: judge_for(BENCH, None, progress=False, **{"steps": 2, "batch_size": 8, **options})
    for options, words in (({"steps": 0}, "steps"), ({"steps": 2.0}, "steps"),
                           ({"batch_size": 0}, "batch_size"), ({"batch_size": "8"}, "batch_size"),
                           ({"lr": 0}, "lr"), ({"lr": math.nan}, "lr"), ({"seed": 1.5}, "seed"),
                           ({"width": 0}, "width"), ({"width": 8.5}, "width"),
                           ({"rows": 0}, "rows"), ({"precision": "half"}, "precision"),
                           ({"stepz": 2}, "stepz.*steps")):
        refused(kind, lambda: train(**options), words)
    for names, words in (([], "names"), ("photo", "names"), (["foto"], "foto.*photo"),
                         (["photo", "sound"], "alike"), (["photo", "photo"], "twice")): refused(kind,
                                 lambda: train_verifier(BENCH, names, steps=2, progress=False), words)
    right(kind, lambda: train(steps=np.int64(2), width=np.int64(8), lr=np.float32(1e-3)))
    refused(kind, lambda: judge_for(None), "bench")


def test_pictures():
    kind, label = "pictures", np.arange(N) % 3
    random = np.random.default_rng(0)
    looks = {"wide": (16, 32, 3), "tall": (32, 16, 3), "grey": (16, 16), "colour": (16, 16, 3),
             "alpha": (16, 16, 4), "odd": (9, 31, 1)}
    for pair in (("wide", "tall"), ("grey", "colour"), ("alpha", "odd"), ("colour", "wide")):
        pictures = {k: random.integers(0, 255, (N, *looks[k]), np.uint8) for k in pair}
        bench = from_arrays(pictures | {"kind": label}, held_out=0.25)
        judge = judge_for(bench, None, progress=False, steps=2, batch_size=8)
        for name in ("MUNI", "MVAE", "MLD", "MUNITE") if pair == ("wide", "tall") else ("MUNI",):
            model = MODELS[name](bench.specs, sizes=TINY)
            right(kind, lambda: judged(model, bench, judge).frechet.notnull().all())
        right(kind, lambda: bench.show(4))
    specs = lambda photo: {"photo": Spec("photo", "image", photo), "words": Spec("words", "text", (6,), 9),
                           "sound": Spec("sound", "audio", (32, 64))}
    for shape in ((3, 16, 32), (3, 32, 16), (1, 16, 16), (4, 32, 32), (3, 20, 36)):
        towers = Towers(specs(shape))
        right(kind, lambda: towers.embed("clip", "image", torch.zeros(3, *shape)).shape == (3, 64))
    refused(kind, lambda: Towers(specs((3, 4, 2))) , "sides")


def test_many_modalities():
    kind = "many modalities"
    many = lambda m: {f"m{i}": Spec(f"m{i}", "category", classes=3) for i in range(m)}
    refused(kind, lambda: MUNI(many(12), Routes(pooling="mopoe"), TINY), "12.*4,095")
    refused(kind, lambda: pool(torch.zeros(1, 12, 2), torch.zeros(1, 12, 2), torch.ones(1, 12).bool(), "mopoe"),
            "12.*4,095")
    right(kind, lambda: MoPoE(many(8), TINY))
    batch = {k: torch.zeros(4, dtype=torch.int64) for k in many(24)}
    right(kind, lambda: MVAE(many(24), TINY).loss(batch, torch.ones(4, 24).bool())["loss"].isfinite())
    mask = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    drawn = MVAE(many(12), TINY).bounds(mask)[:, -1]
    right(kind, lambda: (drawn <= mask).all() and bool((drawn.any(1) == mask.any(1)).all()))
    full = MVAE(many(12), TINY).bounds(torch.ones(8000, 12).bool())[:, -1].double()
    right(kind, lambda: (full.mean(0) - 2048 / 4095).abs().max() < 0.03)
    for name in MODELS:
        model = MODELS[name](many(24), sizes=TINY)
        right(kind, lambda: model.loss({k: torch.zeros(4, dtype=torch.int64) for k in many(24)},
                                       torch.ones(4, 24).bool())["loss"].isfinite())


def test_a_loss_that_is_not_finite_names_its_cause():
    kind = "losses that are not finite"
    feature = BENCH.train.values["feature"].clone()
    feature[5] = 1e30
    bench = replace(BENCH, train=replace(BENCH.train, values=BENCH.train.values | {"feature": feature}))
    for name in CAPTIONED:
        if name == "Oracle": continue
        refused(kind, lambda: fit(Run("test", model=name, sizes=TINY).build(bench.specs), bench,
                                  **QUICK | {"batch_size": 36}), "feature.*row 5.*1e.30")
    spoilt = Run("test", sizes=TINY).build(BENCH.specs)
    with torch.no_grad(): next(spoilt.parameters()).fill_(math.nan)
    refused(kind, lambda: fit(spoilt, BENCH, **QUICK), "weights")


def test_weights_shared_by_two_encoders_are_saved(tmp_path):
    kind = "weights"
    specs = {k: Spec(k, "vector", (5,)) for k in ("left", "right")}
    model = MUNI(specs, sizes=TINY)
    model.encoders["right"] = model.encoders["left"]
    right(kind, lambda: same(MUNI.load(model.save(tmp_path)).sample({"right": torch.zeros(1, 5)}, ["left"],
            seed=0), model.sample({"right": torch.zeros(1, 5)}, ["left"], seed=0)))
    both = {"left": np.random.default_rng(0).normal(size=(N, 5)),
            "right": np.random.default_rng(1).normal(size=(N, 5))}
    bench = from_arrays(both, held_out=0.25)
    right(kind, lambda: fit(model, bench, folder=tmp_path / "run", **QUICK))
