"Rows of one's own: what goes in comes out, what is missing stays missing, and what is wrong is named."
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy.io import wavfile

from muni_nb.data.batches import batch_at
from muni_nb.data.folder import Sound, from_folder
from muni_nb.data.own import BLOCK, OnDisk, Words, from_arrays, split
from muni_nb.data.spec import with_labels
from muni_nb.evaluation.report import evaluate
from muni_nb.evaluation.verifier import judge_for
from muni_nb.experiments.tables import table
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.training.fit import fit

N = 120


def columns(seed=0):
    "Rows of every kind that share a label."
    random = np.random.default_rng(seed)
    label = np.arange(N) % 3
    photo = (60 * label[:, None, None, None] + random.integers(0, 60, (N, 8, 10, 3))).astype(np.uint8)
    caption = [f"{('one', 'two', 'three')[k]} of {i % 7}, here" for i, k in enumerate(label)]
    feature = (3 * label[:, None] + random.normal(size=(N, 5))).astype(np.float32)
    sound = random.normal(-4, 2, (N, 8, 12))
    return {"photo": photo, "caption": caption, "feature": feature, "sound": sound, "label": label}


def both(bench, read):
    "What `read` says of the train and test rows, together."
    return torch.cat([read(bench.train), read(bench.test)])


@pytest.mark.parametrize("real", ("vector", "regressed"))
def test_every_kind_goes_there_and_back(real):
    given = columns()
    numbered = {**given, "number": np.arange(N)}
    bench = from_arrays(numbered, attributes=["label"], kinds={"number": real}, held_out=0.25)
    assert [s.kind for s in bench.specs.values()] == ["image", "text", "vector", "audio", "category", real]
    every = []
    for rows in (bench.train, bench.test):
        back = {k: bench.restore[k](bench.specs[k].prepare(rows.values[k])) for k in bench.specs}
        number = back.pop("number").round().astype(int)
        every += number.tolist()
        assert (back["photo"] == given["photo"][number]).all() and (back["label"] == given["label"][number]).all()
        assert back["caption"] == [given["caption"][i] for i in number]
        for k in ("feature", "sound"): assert np.allclose(back[k], given[k][number], atol=1e-4)
    assert len(bench.test) == N // 4 and sorted(every) == list(range(N))
    batch, available = batch_at(bench.train, bench.specs, step=2, batch_size=16, seed=0)
    assert available.all() and abs(bench.train.values["feature"].mean()) < 1e-5 and batch["sound"].shape == (16, 8, 12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("abc ,.!", min_size=1, max_size=30), min_size=1, max_size=8))
def test_captions_of_known_words_come_back_word_for_word(captions):
    if not any(map(split, captions)): return
    words = Words.of(captions)
    assert [split(text) for text in words.decode(words.encode(captions, 40))] == [split(text) for text in captions]


@pytest.mark.parametrize("as_list", (True, False))
def test_what_is_missing_is_not_observed(as_list):
    given = columns()
    gone = {"photo": 2, "caption": 3, "feature": 5, "sound": 7, "label": 11}           # every so many rows
    label = pd.Series(given["label"]).where(np.arange(N) % 11 > 0)            # floats with NaN, as tables have them
    if as_list: told = {k: [None if i % gone[k] == 0 and i else x for i, x in enumerate(given[k])] for k in gone}
    else:
        caption = [float("nan") if i % 3 == 0 and i else x for i, x in enumerate(given["caption"])]
        told = {**given, "label": label.to_numpy(), "caption": caption}
        for k in ("feature", "sound"):
            told[k] = given[k].copy()
            told[k][::gone[k]] = np.nan
    there = {} if as_list else {"photo": (np.arange(N) % 2 > 0) | (np.arange(N) == 0)}
    bench = from_arrays(told, available=there)
    counts = both(bench, lambda rows: rows.available).sum(0)
    for k, count in zip(gone, counts.tolist()):
        first = as_list or k in ("photo", "caption")
        assert count == N - len(range(gone[k] if first else 0, N, gone[k])), k
    unknown = both(bench, lambda rows: rows.attributes["label"] < 0)
    assert unknown.equal(both(bench, lambda rows: ~rows.available[:, 4]))
    batch, _ = batch_at(bench.train, bench.specs, 0, 32, 0)
    assert all(x.isfinite().all() for x in batch.values())
    known = bench.train.values["feature"][bench.train.available[:, 2]]
    assert torch.allclose(known.mean(0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(known.std(0, correction=0), torch.ones(5), atol=1e-4)
    assert with_labels(from_arrays({"photo": given["photo"]}, {"mood": told["label"]})).specs["mood"].classes == 3


class Watched(np.memmap):
    "A memory map that keeps the largest number of rows that were read at once."
    most = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, np.ndarray) and found.ndim == self.ndim > 1: Watched.most = max(Watched.most, len(found))
        return found


def test_rows_on_disk_are_never_read_as_a_whole(tmp_path):
    n = 3 * BLOCK
    random = np.random.default_rng(0)
    photo, feature = random.integers(0, 256, (n, 8, 8), np.uint8), random.normal(5, 3, (n, 4))
    arrays = {"photo": photo, "feature": feature, "label": np.arange(n) % 4}
    maps = {}
    for k, x in arrays.items():
        maps[k] = Watched(tmp_path / k, x.dtype, "w+", shape=x.shape)
        maps[k][:] = x
        maps[k].flush()
    Watched.most = 0
    bench, inside = (from_arrays(rows, held_out=0.2) for rows in (maps, arrays))
    on_disk = [bench.train.values[k] for k in ("photo", "feature")]
    assert all(isinstance(x, OnDisk) and x.array is maps[k] for k, x in zip(("photo", "feature"), on_disk))
    for step in (0, 5):
        one, two = (batch_at(b.train, b.specs, step, 64, 0)[0] for b in (bench, inside))
        assert all(torch.allclose(one[k], two[k]) for k in one)
    assert Watched.most <= BLOCK and json.dumps(bench.config) == json.dumps(inside.config)
    assert repr(bench).startswith("Benchmark(own")
    assert bench.train.select(slice(5)).values["photo"].shape == (5, 1, 8, 8)


def test_identity_differs_when_data_differ():
    config = lambda rows, **options: json.dumps(from_arrays(rows, **options).config)
    one, changed = columns(), columns()
    changed["photo"][5, 0, 0, 0] += 1
    untold = {**one, "caption": [*one["caption"][:-1], None]}
    finer = {**one, "feature": one["feature"].astype(np.float64)}
    options = [{"seed": 1}, {"held_out": 0.2}, {"max_length": 5}]
    options += [{"attributes": {"mood": one["label"]}}, {"carries": {"photo": ()}}]
    told = [config(rows) for rows in (one, changed, untold, finer, columns(1))]
    told += [config(one, **changes) for changes in options]
    assert len(set(told)) == len(told) and config(columns()) == told[0] == config(one, name="another name")


def wrong(**changes): return {**columns(), **changes}


FEATURE = np.ones((N, 5))
SOME_NAN, SOME_INFINITE = FEATURE.copy(), FEATURE.copy()
SOME_NAN[:, 2], SOME_INFINITE[9] = np.nan, np.inf
LABEL = pd.Series(np.arange(N) % 3)
MUTE = dict.fromkeys(["photo", "caption", "feature", "sound"], ())


@pytest.mark.parametrize("columns, options, message", [
    ({}, {}, "no column"),
    (wrong(label=np.arange(N - 1) % 3), {}, "rows differ .*label 119.*None where"),
    (wrong(feature=[None] * N), {}, "feature: nothing is there"),
    (wrong(feature=SOME_NAN), {}, "feature: row 0 has NaN beside numbers"),
    (wrong(feature=SOME_INFINITE), {}, "feature: row 9 has an infinite value"),
    (wrong(feature=np.zeros((N, 3, 8), np.int64)), {}, "feature: int64 .* no kind"),
    (wrong(feature=FEATURE * 1e300), {}, "feature: row 0 has a value beyond 3.4e.38.*another unit"),
    (wrong(photo=np.zeros((N, 8, 8, 5), np.uint8)), {}, "photo: pictures .* 1 to 4"),
    (wrong(photo=np.full((N, 8, 8, 3), 200.0)), {}, "photo: pictures of floats up to 200 .*in .-1, 1."),
    (wrong(photo=[np.zeros((8, 8 + i % 2), np.uint8) for i in range(N)]), {}, "photo: values have shapes"),
    (wrong(label=["a", "b"] * (N // 2)), {"kinds": {"label": "category"}}, "label: labels .* not integers.*factorize"),
    (wrong(label=np.arange(N) / 2), {"kinds": {"label": "category"}}, "label: labels .* not integers.*factorize"),
    (wrong(label=np.arange(N) * 50), {}, "label: labels from 0 to .*factorize"),
    (wrong(label=np.zeros(N, int)), {}, "label: labels from 0 to 0"),
    (wrong(), {"kinds": {"photo": "images"}}, "photo: unknown kind 'images': did you mean image"),
    (wrong(), {"kinds": {"foto": "image"}}, "no column 'foto': did you mean photo"),
    (wrong(), {"kinds": {"photo": "audio"}}, "photo: audio of shape"),
    (wrong(), {"kinds": {"label": "text"}}, "label: captions of type"),
    (wrong(), {"kinds": {"caption": "vector"}}, "caption: vector of strings"),
    (wrong(), {"kinds": {"caption": "regressed"}}, "caption: regressed of strings"),
    (wrong(label=LABEL, mood=LABEL[::-1]), {}, "label and mood are Series whose indices differ.*DataFrame"),
    (wrong(label=LABEL), {"attributes": {"mood": LABEL[::-1]}}, "label and attribute mood are Series"),
    (wrong(label=LABEL), {"available": {"photo": LABEL[::-1] > 0}}, "label and available photo are Series"),
    (wrong(), {"available": {"foto": [True] * N}}, "no column 'foto'"),
    (wrong(), {"available": {"photo": [True]}}, "rows differ"),
    (wrong(), {"attributes": ["labels"]}, "attribute 'labels' is no column of labels: did you mean label"),
    (wrong(), {"attributes": {"mood": [0.5] * N}}, "mood: labels .* not integers"),
    (wrong(), {"attributes": {"mood": np.arange(N) % 2}, "carries": MUTE}, "attribute mood: no modality carries it"),
    (wrong(), {"carries": {"photo": ("labl",)}}, "unknown attribute 'labl': did you mean label"),
    (wrong(), {"held_out": 1.0}, "held_out is 1.0"),
    (wrong(), {"least_count": 1000}, "no word occurs 1000 times"),
    (wrong(**{"a+b": np.arange(N) % 2}), {}, "no .* can be called 'a.b'"),
    (wrong(items=np.arange(N) % 2), {}, "no .* can be called 'items'"),
    ({"caption": [None if i == 3 else "a" for i in range(N)]}, {}, "row 3 holds nothing"),
])
def test_what_is_no_benchmark_is_named_before_work_starts(columns, options, message):
    with pytest.raises(ValueError, match=message): from_arrays(columns, **options)


@pytest.fixture
def shop(tmp_path):
    "A folder of files with a table."
    told = columns()
    rows = []
    for i in range(40):
        Image.fromarray(told["photo"][i]).save(tmp_path / f"{i}.png")
        np.save(tmp_path / f"{i}.npy", told["feature"][i])
        tone = np.sin(np.arange(9000) * (1 + told["label"][i]) / 20)
        wavfile.write(tmp_path / f"{i}.wav", 16_000, np.int16(9000 * tone))
        files = {"photo": f"{i}.png", "sound": f"{i}.wav", "feature": f"{i}.npy"}
        rows.append({**files, "caption": told["caption"][i], "label": told["label"][i]})
    rows[4] |= {"sound": None, "label": None}
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def test_a_folder_is_read_as_its_table_says(shop):
    bench = from_folder(shop, held_out=0.25)
    assert [s.kind for s in bench.specs.values()] == ["image", "audio", "vector", "text", "category"]
    assert bench.name == shop.name
    assert both(bench, lambda rows: rows.available).sum(0).tolist() == [40, 39, 40, 40, 39]
    as_arrays = columns()
    photos = np.concatenate([bench.restore["photo"](rows.values["photo"]) for rows in (bench.train, bench.test)])
    assert sorted(x.tobytes() for x in photos) == sorted(x.tobytes() for x in as_arrays["photo"][:40])
    assert from_folder(shop, held_out=0.25).config == bench.config
    small = from_folder(shop, columns=["photo", "sound"], size=(16, 12), sound=Sound(seconds=0.5, mels=16, frames=24))
    assert small.specs["photo"].shape == (3, 16, 12) and small.specs["sound"].shape == (16, 24)
    assert small.attributes == {}
    pd.read_csv(shop / "table.csv").to_parquet(shop / "rows.parquet")
    assert from_folder(shop, "rows.parquet", held_out=0.25).config == bench.config


def refused(message, kind=ValueError): return pytest.raises(kind, match=message)


def test_files_and_tables_that_cannot_be_read_are_named(shop):
    with refused("there is no table .*rows.csv", FileNotFoundError): from_folder(shop, "rows.csv")
    with refused("table.csv has no column 'foto': did you mean photo"): from_folder(shop, columns=["foto"])
    with refused("no column 'sond': did you mean sound"): from_folder(shop, kinds={"sond": "audio"})
    with refused("want a table that ends in .csv or .parquet"): from_folder(shop, "3.png")
    (shop / "broken.parquet").write_bytes(b"none")
    with refused("broken.parquet: cannot be read as a table"): from_folder(shop, "broken.parquet")
    Image.new("RGB", (9, 9)).save(shop / "3.png")
    with refused("photo: .*3.png has shape .*`size`"): from_folder(shop)
    for column, name in {"photo": "3.png", "sound": "5.wav", "feature": "6.npy"}.items():
        (shop / name).write_bytes(b"RIFF, or none")
        with refused(f"{column}: .*{name} does not decode .*leave its cell empty"): from_folder(shop, columns=[column])
    (shop / "3.png").unlink()
    with refused("photo: there is no file .*3.png", FileNotFoundError): from_folder(shop)


def test_a_column_names_files_in_all_its_rows_or_in_none(shop):
    told = pd.read_csv(shop / "table.csv")
    usual = from_folder(shop)
    told.assign(photo=told.photo + " ", sound=" " + told.sound).to_csv(shop / "spaced.csv", index=False)
    assert from_folder(shop, "spaced.csv").config == usual.config
    for odd in ("3.heic", "three", "3"):
        told.assign(photo=told.photo.where(told.index != 3, odd)).to_csv(shop / "odd.csv", index=False)
        with refused(f"photo: row 3, '{odd}', names no file that can be read.*leave the cell empty.*kinds"):
            from_folder(shop, "odd.csv")
        assert from_folder(shop, "odd.csv", columns=["sound", "feature"]).specs["sound"] == usual.specs["sound"]
        assert from_folder(shop, "odd.csv", kinds={"photo": "text"}).specs["photo"].kind == "text"
    assert from_folder(shop, kinds={"photo": "text"}).specs["photo"].kind == "text"       # the names themselves
    told.assign(photo=told.photo.where(told.index != 3)).to_csv(shop / "empty.csv", index=False)
    assert both(from_folder(shop, "empty.csv"), lambda rows: rows.available).sum(0).tolist() == [39, 39, 40, 40, 39]


def test_a_comma_too_many_is_no_row_name(shop):
    for cells in ("a, cat,1", "a cat,1,"):
        (shop / "commas.csv").write_text("\n".join(["caption,label", *[cells] * 40]))
        with refused("commas.csv: rows have more cells than the head: quote texts"): from_folder(shop, "commas.csv")


def test_what_files_hold_is_kept_on_disk(shop, monkeypatch):
    inside = from_folder(shop, held_out=0.25)
    given = {"photo": np.arange(40) != 7}
    keep = shop / "kept"
    bench = from_folder(shop, held_out=0.25, keep=keep, available=given)
    assert isinstance(bench.train.values["photo"], OnDisk)
    assert bench.config == from_folder(shop, held_out=0.25, available=given).config != inside.config
    assert both(bench, lambda rows: rows.available).sum(0).tolist() == [39, 39, 40, 40, 39]
    for one, two in zip((bench.train, bench.test), (inside.train, inside.test)):
        for k in ("photo", "sound", "feature"):
            there = one.available[:, list(bench.specs).index(k)]
            assert torch.equal(one.values[k][:][there], two.values[k][there])
    written = {path: path.stat().st_mtime_ns for path in keep.iterdir()}
    from_folder(shop, held_out=0.25, keep=keep)
    assert written == {path: path.stat().st_mtime_ns for path in keep.iterdir()} and len(written) == 3
    Image.new("RGB", (10, 8)).save(shop / "3.png")
    from_folder(shop, held_out=0.25, keep=keep)
    assert len(list(keep.iterdir())) == 4                                  # a file has changed
    monkeypatch.setattr("muni_nb.data.folder.IN_MEMORY", 1000)
    assert isinstance(from_folder(shop).test.values["feature"], OnDisk) and len(list((shop / "decoded").iterdir())) == 3


def test_a_column_is_kept_whole_or_not_at_all(shop):
    keep = shop / "kept"
    np.save(shop / "6.npy", np.zeros(5))
    with refused("feature: .*6.npy is of type float64, .*0.npy of float32"):
        from_folder(shop, columns=["feature"], keep=keep)
    assert not list(keep.iterdir())
    with refused("available\\['photo'\\]"):
        from_folder(shop, columns=["photo"], keep=keep, available={"photo": [1.5] * 40})
    kept = set(keep.iterdir())
    code = f"""
import os
from muni_nb.data import folder
read = folder.read_picture
folder.READERS[".png"] = lambda path, *how: os._exit(9) if path.name == "30.png" else read(path, *how)
folder.from_folder({str(shop)!r}, columns=["photo"], size=(9, 9), keep={str(keep)!r})"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert {path for path in keep.iterdir() if path.suffix == ".npy"} == kept
    again = from_folder(shop, columns=["photo"], size=(9, 9), keep=keep)
    assert len(again.train) + len(again.test) == 40 and again.specs["photo"].shape == (3, 9, 9)


def tiny(bench):
    "A dataset of figures of a model that has learned next to nothing."
    torch.manual_seed(0)
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    fit(model, bench, steps=4, batch_size=16, progress=False)
    judge = judge_for(bench, None, progress=False, steps=8)
    return evaluate(model, bench, judge, rows=30, steps=2, probe_steps=8)


def test_rows_without_truth_are_judged_as_far_as_they_go(capsys):
    bench = from_arrays(columns(), held_out=0.25)
    ds = tiny(bench)
    left_out = json.loads(ds.attrs["left_out"])
    assert {"accuracy", "agreement", "coherence", "predictive_gap", "rate", "rate_excess", "nat_value"} <= set(ds)
    assert {"frechet", "kid", "frechet_real"} <= set(ds)
    assert not {"copies", "leakage", "private_r2", "total_variation"} & set(ds)
    assert "copies, leakage, private_r2" in left_out and "no verifier reads kind 'text'" in left_out["label of caption"]
    assert ds.accuracy.sel(want="caption").isnull().all()
    assert list(ds.view.values) == ["photo", "feature", "sound"] and "left out" in capsys.readouterr().out
    assert float(ds.accuracy_chance.sel(attribute="label")) == pytest.approx(1 / 3, abs=0.02)
    assert all(v.attrs.get("units") and v.attrs.get("long_name") for v in ds.data_vars.values())
    shown = table(ds.expand_dims(cell=["MUNI"], seed=[0]))
    assert shown["MUNI"].notna().all() and any("all agree" in name for name in shown.index)


def test_a_reader_of_ones_own_is_asked():
    known = columns()
    bench = from_arrays(known, held_out=0.25)
    first = {"one": 0, "two": 1, "three": 2}
    read = lambda ids: {"label": torch.tensor([first.get(split(text + ".")[0], -1) for text in bench.decode(ids)])}
    ds = tiny(dataclasses.replace(bench, reads={"caption": read}))
    assert "label of caption" not in json.loads(ds.attrs["left_out"])
    assert ds.accuracy_real.sel(want="caption", attribute="label") == 1


def lacking(kind):
    "Rows that want something."
    known = columns()
    views = {k: known[k] for k in ("photo", "feature")}
    if kind == "no attribute": return from_arrays(views, held_out=0.25)
    if kind == "two views": return from_arrays(views, {"label": known["label"]}, held_out=0.25)
    if kind == "no complete row":
        turn = np.arange(N) % 4
        names = ("photo", "feature", "sound", "label")
        seen = {k: np.isin(turn, [i, (i + 1) % 4]) for i, k in enumerate(names)}
        return from_arrays({k: known[k] for k in seen}, held_out=0.25, available=seen)
    many = {f"a{i}": np.random.default_rng(i).integers(0, 20, N) for i in range(4)}
    return from_arrays(views, many, held_out=0.25)


@pytest.mark.parametrize("kind, named, held, absent", [
    ("no attribute", "coherence, predictivity", {"rate"}, {"accuracy", "predictive_gap"}),
    ("two views", "total_variation", {"rate", "accuracy", "predictive_gap"}, {"leakage"}),
    ("no complete row", "coherence, predictivity, minimality", set(), {"rate", "accuracy", "predictive_gap"}),
    ("many combinations", "predictivity", {"rate", "accuracy"}, {"predictive_gap"}),
])
def test_what_is_wanting_is_left_out_and_named(kind, named, held, absent):
    ds = tiny(lacking(kind))
    assert named in json.loads(ds.attrs["left_out"]) and held <= set(ds) and not absent & set(ds)
    assert ds.frechet.notnull().all() and ds.kid.notnull().all()
