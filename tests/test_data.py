"What has to hold across the modules of data: rows, specs, batches and the readers together."
import gzip
import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muni_nb.data.batches import batch_at
from muni_nb.data.digits import VIEWS, draw_rows, handwriting, quadrant_digits
from muni_nb.data.five_views import mnist_five_views
from muni_nb.data.mnist import KNOWN, digest_of, mnist_quadrant_digits, read_mnist
from muni_nb.data.spec import Rows, Spec

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bench():
    return quadrant_digits(16, rows=400, test_rows=80, availability="published")


def equal(a: Rows, b: Rows) -> bool:
    pairs = [(a.values, b.values), (a.attributes, b.attributes), (a.private, b.private)]
    same = all(x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x) for x, y in pairs)
    return same and a.available.equal(b.available)


@settings(max_examples=20, deadline=None)
@given(index=st.lists(st.integers(0, 399), min_size=1, max_size=5), block=st.integers(1, 5))
def test_a_row_is_a_function_of_its_number(bench, index, block):
    alone = draw_rows(index, "train", handwriting("train"), 16, availability="published", block=block)
    assert equal(alone, bench.train.select(index))


@pytest.mark.parametrize("size", [32, 64])
def test_chosen_rows_at_every_size(size):
    whole = quadrant_digits(size, rows=20, test_rows=1, seed=3).train
    assert equal(whole.select([5, 17]), draw_rows([5, 17], "train", handwriting("train"), size, seed=3))


def test_same_scene_at_every_size():
    small, large = (quadrant_digits(size, rows=200, test_rows=1).train.private for size in (16, 64))
    for view in VIEWS:
        assert small[f"{view}.source"].equal(large[f"{view}.source"])
        near = (small[f"{view}.crop"] - large[f"{view}.crop"]).abs().amax(1) < 0.03
        assert near.float().mean() > 0.9


def test_handwriting_of_test_rows_is_unseen(bench):
    seen, unseen = (set(handwriting(split).source.tolist()) for split in ("train", "test"))
    assert not seen & unseen
    for view in VIEWS:
        assert set(bench.train.private[f"{view}.source"].tolist()) <= seen
        assert set(bench.test.private[f"{view}.source"].tolist()) <= unseen


def test_every_pair_is_equally_frequent_and_views_are_independent(bench):
    pairs = bench.train.attributes["digit"] * 4 + bench.train.attributes["quadrant"]
    assert pairs.bincount().tolist() == [10] * 40
    sources = torch.stack([bench.train.private[f"{view}.source"] for view in VIEWS])
    assert (sources[0] == sources[1]).float().mean() < 0.05
    crops = torch.cat([bench.train.private[f"{view}.crop"] for view in VIEWS], 1).T
    assert (torch.corrcoef(crops)[:2, 2:].abs() < 0.2).all()


def test_published_availability(bench):
    views = bench.train.available[:, :3]
    assert bench.train.available[:, 3:].all() and views.any(1).all() and bench.test.available.all()
    share = views.sum(1).bincount(minlength=4) / len(views)
    assert torch.allclose(share, torch.tensor([0, 0.5, 0.25, 0.25]), atol=0.08)
    full = quadrant_digits(16, rows=40, test_rows=1)
    assert full.train.available.all() and full.train.values["view0"].equal(bench.train.values["view0"][:40])


def test_benchmark_describes_itself(bench):
    assert json.loads(json.dumps(bench.config))["size"] == 16
    assert list(bench.specs) == [*VIEWS, "digit", "quadrant"] == list(bench.train.values)
    assert bench.nats["joint"] == pytest.approx(np.log(40))
    assert bench.nats["total_correlation"] == pytest.approx(11.067, abs=1e-3)
    for name, spec in bench.specs.items():
        assert len(spec.prepare(bench.test.values[name])) == 80
    assert "400 rows" in repr(bench) and len(bench.show(4, "test").get_xticks()) == 4


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 99), epoch=st.integers(0, 99), data=st.data())
def test_batches_have_no_state(n, size, seed, epoch, data):
    rows = Rows({"number": torch.arange(n)}, {}, {}, torch.ones(n, 1, dtype=torch.bool))
    specs = {"number": Spec("number", "category", classes=60)}
    if size > n:
        with pytest.raises(ValueError, match=f"batch_size is {size}.*only {n} rows"):
            batch_at(rows, specs, epoch, size, seed)
        return
    steps = range(epoch * (n // size), (epoch + 1) * (n // size))
    read = {step: batch_at(rows, specs, step, size, seed)[0]["number"] for step in data.draw(st.permutations(steps))}
    assert len(torch.cat(list(read.values())).unique()) == len(steps) * size
    assert all(batch_at(rows, specs, step, size, seed)[0]["number"].equal(read[step]) for step in steps)


def test_batches_carry_the_mask(bench):
    batch, available = batch_at(bench.train, bench.specs, 11, 32, seed=5)
    images = bench.specs["view0"].prepare(bench.train.values["view0"])
    where = [(images == image).all((1, 2, 3)).nonzero()[0, 0] for image in batch["view0"]]
    assert available.equal(bench.train.available[torch.stack(where)])


def write_idx(path, array):
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    "A folder of noise that is taken for MNIST."
    rng = np.random.default_rng(0)
    for split, stem, n in (("train", "train", 30), ("test", "t10k", 20)):
        images, labels = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), np.arange(n) % 10
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{stem}-labels.idx1-ubyte.gz", labels)
        monkeypatch.setitem(KNOWN, digest_of(images, labels), split)
    return tmp_path


def test_mnist_rows_use_the_split_of_their_own(mnist):
    bench = mnist_quadrant_digits(mnist, size=16, rows=40, test_rows=40)
    assert bench.train.private["view0.source"].max() > 19 >= bench.test.private["view0.source"].max()
    assert read_mnist(mnist, "test").digits.bincount().tolist() == [2] * 10


def test_mnist_renamed_or_another_set(mnist):
    for kind in ("images-idx3-ubyte", "labels.idx1-ubyte.gz"):
        (mnist / f"t10k-{kind}").write_bytes((mnist / f"train-{kind}").read_bytes())
    with pytest.raises(ValueError, match="not MNIST's test split: they are MNIST's train split: were files renamed"):
        read_mnist(mnist, "test")
    write_idx(mnist / "train-images-idx3-ubyte", np.zeros((30, 28, 28)))
    with pytest.raises(ValueError, match="not MNIST's train split: 30 pictures, by class"):
        read_mnist(mnist, "train")


def test_mnist_is_where_the_environment_says(mnist, monkeypatch):
    monkeypatch.setenv("MUNI_NB_MNIST", str(mnist))
    bench = mnist_five_views(size=16, rows=30, test_rows=20)
    assert bench.config["mnist"] and "path" not in bench.config and bench.config["filled"]
    monkeypatch.delenv("MUNI_NB_MNIST")
    with pytest.raises(ValueError, match="MUNI_NB_MNIST"):
        mnist_five_views()


@pytest.mark.skipif(not os.environ.get("MUNI_NB_MNIST"), reason="MUNI_NB_MNIST names no folder with MNIST")
def test_mnist_itself():
    whole, five = mnist_quadrant_digits(test_rows=40), mnist_five_views(rows=60, test_rows=20)
    assert len(whole.train) == 220_000
    batch, available = batch_at(whole.train, whole.specs, 7, 16, seed=0)
    assert batch["view0"].shape == (16, 3, 64, 64) and available.all() and whole.train.values["view0"].nbytes == 0
    assert five.train.values["view4"].shape == (60, 3, 28, 28)


def test_mnist_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte and train-labels-idx1-ubyte.*parquet"):
        mnist_quadrant_digits(tmp_path)


@pytest.mark.parametrize("head, keep, tail", [(0, 0, b""), (0, -1, b""), (0, None, b"0"), (4, None, b"")])
def test_mnist_damaged(mnist, head, keep, tail):
    file = mnist / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[head:keep] + tail)
    with pytest.raises(ValueError, match=f"{file.name}.*fetch it again"):
        mnist_quadrant_digits(mnist, size=16, rows=1, test_rows=1)


def test_mnist_damaged_gzip_and_wrong_labels(mnist):
    file = mnist / "train-labels.idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_mnist(mnist, "train")
    write_idx(file, np.arange(29) % 10)
    with pytest.raises(ValueError, match="not MNIST's train split"):
        read_mnist(mnist, "train")


@pytest.mark.parametrize("columns", [None, {"digit": [1]}, {"image": [b"1"], "label": [1]}])
def test_mnist_damaged_parquet(tmp_path, columns):
    file = tmp_path / "train-0.parquet"
    if columns is None:
        file.write_bytes(b"PAR1")
    else:
        pq.write_table(pa.table(columns), file)
    with pytest.raises(ValueError, match="train-0.parquet.*fetch it again"):
        read_mnist(tmp_path, "train")


def test_mnist_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "train-0.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="muni_nb\\[mnist\\]"):
        read_mnist(tmp_path, "train")
