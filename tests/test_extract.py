"Features of corpora: extraction survives kills, damage is named, what is read is what was written."
import json
import os
import shutil
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile
from tokenizers import Tokenizer, models, pre_tokenizers

from muni_nb.__main__ import main
from muni_nb.data.batches import batch_at, numbers_at
from muni_nb.data.scenes import captions, draw_rows, waveform
from muni_nb.data.spec import Rows
from muni_nb.features.cache import Source, Split, Standard, from_cache, rows_file
from muni_nb.features.corpora import read_corpus
from muni_nb.features.encoders import Captions, Pictures, Sounds, Undecodable, encoder_of, quietly
from muni_nb.features.extract import extract
from muni_nb.features.scenes import encoders, heard
from muni_nb.models.muni import MUNI
from muni_nb.nets.build import Sizes
from muni_nb.nets.sentence import FROZEN
from muni_nb.training.fit import fit

RATE = 8000
WORDS = ["[PAD]", "[BOS]", "[UNK]", "[EOS]", "a", "dog", "cat", "bird", "barks", "sings", "far", "away"]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    "Tiny models of the classes of the published ones, in folders."
    folder = tmp_path_factory.mktemp("frozen")
    with quietly():
        from transformers import (
            ClapAudioConfig, ClapAudioModelWithProjection, ClapFeatureExtractor, CLIPImageProcessor, CLIPVisionConfig,
            CLIPVisionModelWithProjection, Gemma3TextConfig, Gemma3TextModel, PreTrainedTokenizerFast)
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(CLIPVisionConfig(
            image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, projection_dim=12)).save_pretrained(folder / "image")
        side = {"height": 16, "width": 16}
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side).save_pretrained(folder / "image")
        ClapAudioModelWithProjection(ClapAudioConfig(
            num_mel_bins=32, spec_size=64, patch_size=8, patch_stride=[8, 8], window_size=4, depths=[1, 1],
            num_attention_heads=[2, 4], patch_embeds_hidden_size=16, hidden_size=32,
            projection_dim=10)).save_pretrained(folder / "audio")
        ClapFeatureExtractor(
            feature_size=32, sampling_rate=RATE, hop_length=256, fft_window_size=512, max_length_s=2,
            frequency_min=40, frequency_max=4000, truncation="rand_trunc").save_pretrained(folder / "audio")
        Gemma3TextModel(Gemma3TextConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=32, pad_token_id=0,
            bos_token_id=1, eos_token_id=3, use_bidirectional_attention=True)).save_pretrained(folder / "text")
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="[PAD]", bos_token="[BOS]", unk_token="[UNK]",
            eos_token="[EOS]").save_pretrained(folder / "text")
    (folder / "text" / "2_Dense").mkdir()
    save_file({"linear.weight": torch.randn(14, 16)}, folder / "text" / "2_Dense" / "model.safetensors")
    return {k: str(folder / k) for k in ("image", "text", "audio")}


def write_wav(path, seconds=0.5, rate=RATE, pitch=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)
    wavfile.write(path, rate, (wave * 30_000).astype(np.int16))


def write_picture(path, shade=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24), (shade % 256, 90, 255 - shade % 256)).convert(mode).save(path)


def write_corpora(folder, n=24):
    "AudioCaps and COCO as they are distributed, of a few items."
    said = ["a dog barks", "a bird sings far away", "a cat", "a dog sings"]
    lines = ["audiocap_id,youtube_id,start_time,caption"]
    for i in range(n):
        lines.append(f"{100 + i},v{i},{i},{said[i % 4]}")
        write_wav(folder / f"audiocaps/audio/v{i}_{i}.wav", pitch=200 + 10 * i)
    (folder / "audiocaps/train.csv").write_text("\n".join(lines))
    pictures = [{"id": i, "file_name": f"{i:04}.png"} for i in range(n)]
    for i in range(n): write_picture(folder / f"coco/train2014/{i:04}.png", 9 * i)
    told = {"images": pictures, "annotations": [{"image_id": i, "caption": said[i % 4]} for i in range(n)]}
    (folder / "coco/annotations").mkdir()
    (folder / "coco/annotations/captions_train2014.json").write_text(json.dumps(told))


def test_from_files_to_a_trained_model_by_the_commands(tmp_path, frozen, capsys):
    write_corpora(tmp_path)
    cache = str(tmp_path / "cache")
    of = [word for k in frozen for word in (f"--{k}", frozen[k])]
    small = ["--cache", cache, "--batch", "8", "--shard-items", "10"]
    (tmp_path / "coco/train2014/0003.png").write_bytes(b"no picture")
    for share in ("2/2", "1/2"):
        arguments = ["extract", "coco", str(tmp_path / "coco"), "--split", "train2014", "--share", share]
        assert main([*arguments, *of, *small]) == 0
    said = capsys.readouterr().out
    assert "skipped 3: train2014/0003.png: it does not decode" in said
    assert "items a second; 2 shards are still lacking" in said
    assert main(["extract", "audiocaps", str(tmp_path / "audiocaps"), *of, *small]) == 0
    assert main(["audio-code", cache, "--wide", "12", "--steps", "3"]) == 2       # 512 rows a batch, here are 24
    assert "batch_size is 512, but there are only 24 rows" in capsys.readouterr().err
    assert main(["cache", cache, "--check"]) == 0
    bench = from_cache(cache, text="sentence", tokenizer=frozen["text"], held_out=0.25)
    assert {k: s.shape for k, s in bench.specs.items()} == {"image": (12,), "text": (78,), "audio": (10,)}
    assert len(bench.train) + len(bench.test) == 47
    model = MUNI(bench.specs, sizes=Sizes.tiny())
    curve = fit(model, bench, steps=4, batch_size=6, by_pattern=True, progress=False)
    assert curve.term_value.notnull().all()
    drawn = model.sample({"audio": bench.test.values["audio"][:2]}, ["text", "image"], n=1, seed=0)
    assert drawn["image"].shape == (2, 12) and len(bench.decode(drawn["text"][:, -64:].long())) == 2


class Sizer:
    "Stands for an encoder: the size of a file, or the length of a caption."

    def __init__(self, width=3):
        self.source = Source("sizer", "", "0" * 64, "none", width)

    def read(self, told):
        value = float(len(told) if isinstance(told, str) else told.stat().st_size)
        if value == 0: raise Undecodable("it is empty")
        return np.full(self.source.width, value, np.float32)

    def encode(self, read):
        return torch.from_numpy(np.stack(read))


def sizers(width=3): return {"image": Sizer(width), "text": Sizer()}


def listed(folder, n=40):
    "A folder of files and its table; every seventh is empty."
    for i in range(n): (folder / f"{i}.bin").write_bytes(bytes(i % 7 and i + 1))
    (folder / "train.csv").write_text("image,caption\n" + "".join(f"{i}.bin,{'x' * (i + 1)}\n" for i in range(n)))
    return read_corpus("folder", folder, name="things")


def die_after(events):
    "From now on each encoding, flush and renaming is an event; at the one after so many, the process is killed."
    left = iter(range(events))

    def then(function):
        def counted(*arguments):
            if next(left, None) is None: os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)
        return counted

    os.fsync, os.replace, Sizer.encode = then(os.fsync), then(os.replace), then(Sizer.encode)


def bytes_of(cache):
    paths = [path for path in (cache / "things/train").iterdir() if path.suffix not in (".lock", ".tmp")]
    return {path.name: path.read_bytes() for path in paths}


def test_killed_anywhere_and_repeated_the_bytes_are_the_same(tmp_path):
    (tmp_path / "files").mkdir()
    corpus = listed(tmp_path / "files")
    how = {"shard": 6, "batch": 2, "progress": False}
    unbroken = tmp_path / "unbroken"
    extract(corpus, sizers(), unbroken, **how)
    killed = tmp_path / "killed"
    for deaths in range(40):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            signal.alarm(120)
            die_after(3 * deaths + 1)
            try: extract(corpus, sizers(), killed, **how)
            except BaseException: os._exit(3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status): break
    assert os.waitstatus_to_exitcode(status) == 0 and deaths > 4 and bytes_of(killed) == bytes_of(unbroken)
    assert not list(killed.rglob("*.safetensors.*.tmp"))
    split = Split(killed / "things/train")
    assert [int(row["id"]) for row in split.skipped] == list(range(0, 40, 7))


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "files").mkdir()
    extract(listed(tmp_path / "files"), sizers(), tmp_path / "cache", shard=10, progress=False)
    return tmp_path / "cache"


def damage_rows(path): (path / "rows-00001.jsonl").write_bytes((path / "rows-00001.jsonl").read_bytes()[:-9])


def cut_features(path): os.truncate(path / "text-00002.safetensors", 190)


def cut_head(path): os.truncate(path / "text-00002.safetensors", 20)


def empty_features(path): os.truncate(path / "image-00000.safetensors", 0)


def swap_features(path): shutil.copy(path / "text-00000.safetensors", path / "text-00003.safetensors")


@pytest.mark.parametrize("harm, message", [
    (lambda path: (path / "rows-00001.jsonl").unlink(), "lacks 1 of 4 shards, the first is rows-00001.jsonl"),
    (lambda path: (path / "image-00001.safetensors").unlink(), r"image-00001.safetensors .*\(it is missing\)"),
    (lambda path: (path / "meta.json").write_text("{"), "meta.json is not a readable feature cache"),
    (lambda path: (path / "meta.json").write_text('{"corpus": "things"}'), "meta.json is not a readable feature cache"),
    (damage_rows, r"rows-00001.jsonl is not a readable list of rows \(damaged"),
    (cut_features, "text-00002.safetensors is not a readable file of features .it was cut off: 190 of"),
    (cut_head, "text-00002.safetensors is not a readable file of features .its head is damaged"),
    (empty_features, "image-00000.safetensors is not a readable file of features .its head is damaged"),
    (swap_features, r"text-00003.safetensors .*it holds F16 \[8, 3\], not F16 \[9, 3\]"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_cache_is_one_clear_error(cache, harm, message):
    from_cache(cache, held_out=0.2)
    harm(cache / "things/train")
    with pytest.raises(ValueError, match=message): from_cache(cache, held_out=0.2)


def test_an_extraction_mends_what_was_deleted_and_refuses_what_differs(cache, tmp_path):
    whole = bytes_of(cache)
    corpus = read_corpus("folder", tmp_path / "files", name="things")
    rows_file(cache / "things/train", 2).unlink()
    (cache / "things/train/image-00002.safetensors").unlink()
    again = {"shard": 10, "progress": False}
    assert extract(corpus, sizers(), cache, **again).rows == 8 and bytes_of(cache) == whole
    for others, options, message in [
            (sizers(4), again, "sources.image.width: 3 -> 4"),
            (sizers(), {"progress": False}, "shard: 10 -> 20000"),
            (sizers(), again | {"precision": "float32"}, "precision: 'float16' -> 'float32'")]:
        with pytest.raises(ValueError, match=f"holds another extraction .*{message}"):
            extract(corpus, others, cache, **options)
    assert bytes_of(cache) == whole


def test_a_folder_with_gaps_is_a_cache_with_gaps(tmp_path):
    for i in range(6): (tmp_path / f"{i}.bin").write_bytes(bytes(i + 1))
    pictures = [f"{i}.bin" if i % 3 else "" for i in range(6)]
    said = ["x" * (i + 1) if i % 2 == 0 else "" for i in range(6)]
    table = pd.DataFrame({"id": [f"n{i}" for i in range(6)], "image": pictures, "caption": said})
    table.to_csv(tmp_path / "train.csv", index=False)
    corpus = read_corpus("folder", tmp_path, name="gaps")
    assert [item.id for item in corpus.items] == ["n0", "n1", "n2", "n4", "n5"]           # n3 has nothing
    extract(corpus, sizers(), tmp_path / "cache", progress=False)
    bench = from_cache(tmp_path / "cache", held_out=0.2)
    rows = {k: torch.cat([bench.train.values[k][:], bench.test.values[k][:]]) for k in bench.specs}
    there = torch.cat([bench.train.available, bench.test.available])
    assert there.sum(0).tolist() == [4, 3]
    raw = {k: bench.restore[k](rows[k])[there[:, i], 0] for i, k in enumerate(bench.specs)}
    assert sorted(raw["image"].round().tolist()) == [2, 3, 5, 6] and sorted(raw["text"].round().tolist()) == [1, 3, 5]
    assert torch.allclose(rows["image"][there[:, 0]].std(0, correction=0), torch.ones(3), atol=1e-4)


def test_the_published_corpora_make_702_batches_of_one_pattern():
    counts = {(1, 1, 0): 272_703, (1, 0, 1): 183_449, (0, 1, 1): 91_028, (1, 1, 1): 173_576}     # image, text, audio
    available = torch.cat([torch.tensor([pattern]).expand(n, 3) for pattern, n in counts.items()])
    rows = Rows({k: torch.empty(len(available), 0) for k in ("image", "text", "audio")}, {}, {}, available)
    first = [numbers_at(rows, step, 1024, 0, by_pattern=True) for step in range(702)]
    found = Counter()
    for numbers in first:
        patterns = available[numbers].unique(dim=0)
        assert len(patterns) == 1 and len(numbers) == 1024
        found[tuple(patterns[0].tolist())] += 1
    assert found == {(1, 1, 0): 266, (1, 0, 1): 179, (0, 1, 1): 88, (1, 1, 1): 169}
    assert len(torch.cat(first).unique()) == 702 * 1024
    second = numbers_at(rows, 702, 1024, 0, by_pattern=True)
    assert not any(second.equal(numbers) for numbers in first)


def test_rows_are_read_from_disk_a_batch_at_a_time(cache):
    bench = from_cache(cache, held_out=0.2)
    assert all(column.on_disk for column in bench.train.values.values())
    batch, available = batch_at(bench.train, bench.specs, 0, 8, 0)
    assert available.all() and batch["image"].shape == (8, 3)
    assert bench.config == from_cache(cache, held_out=0.2).config != from_cache(cache, held_out=0.3).config


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "L", "LA", "P", "1", "I;16"])
def test_pictures_of_every_mode_are_encoded(mode, frozen, tmp_path):
    suffix = "tif" if mode in ("CMYK", "I;16") else "png"
    path = tmp_path / f"picture.{suffix}"
    if mode == "I;16": Image.fromarray(np.full((20, 20), 30_000, np.uint16)).save(path)
    else: write_picture(path, 50, mode)
    pictures = Pictures(frozen["image"])
    assert pictures.encode([pictures.read(path)]).isfinite().all()


def test_sounds_are_resampled_and_it_is_said_once(frozen, tmp_path, capsys):
    sounds = Sounds(frozen["audio"])
    for i, rate in enumerate((RATE, 16_000, 16_000)): write_wav(tmp_path / f"{i}.wav", rate=rate)
    one, two, three = (sounds.encode([sounds.read(tmp_path / f"{i}.wav")]) for i in range(3))
    assert capsys.readouterr().out.count("16000 Hz are resampled to 8000 Hz") == 1
    assert two.equal(three) and (one * two).sum() > 0.99
    write_wav(tmp_path / "empty.wav", seconds=0)
    with pytest.raises(Undecodable, match="it holds no sound"): sounds.read(tmp_path / "empty.wav")


def test_scenes_from_files_are_the_scenes_of_the_package(tmp_path):
    rows = draw_rows(range(6), "test", 0, heard=heard)
    table = pd.DataFrame({"caption": captions(rows.values["text"])})
    table["image"], table["audio"] = [f"{i}.png" for i in range(6)], [f"{i}.wav" for i in range(6)]
    table.to_csv(tmp_path / "train.csv", index=False)
    for i, wave in enumerate(waveform(range(6), "test", 0)):
        Image.fromarray(rows.values["image"][i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
        wavfile.write(tmp_path / f"{i}.wav", RATE, wave.numpy())
    arguments = ["extract", "folder", str(tmp_path), "--name", "scenes", "--cache", str(tmp_path / "cache")]
    of = [word for k in ("image", "text", "audio") for word in (f"--{k}", f"scenes-{k}")]
    assert main([*arguments, *of, "--precision", "float32"]) == 0
    bench = from_cache(tmp_path / "cache", held_out=0.2, audio_code=FROZEN / "scenes-audio" / "code.safetensors")
    want = encoders()(rows.values)
    for k, values in want.items():
        found = torch.cat([bench.restore[k](part.values[k][:]) for part in (bench.train, bench.test)])
        assert torch.cdist(found, values).min(0).values.max() < 0.01 * values.std() * 8, k


@pytest.mark.parametrize("modality, name, message", [
    ("text", "google/embeddinggemma-300m", "accept its licence .* `hf auth login` and `hf download google/embedding"),
    ("image", "openai/clip-vit-large-patch14", "no encoder of images .* `hf download openai/clip-vit-large-patch14`"),
    ("audio", "no such/model", "no encoder of sounds 'no such/model' on this machine"),
    ("sound", "", "unknown modality 'sound'")])
def test_a_model_that_is_not_here_is_one_error(modality, name, message):
    with pytest.raises(ValueError, match=message): encoder_of(modality, name)


def test_a_model_of_another_class_is_refused(frozen):
    with pytest.raises(ValueError, match="holds no CLIPVisionModelWithProjection .*: name another"):
        encoder_of("image", frozen["text"])
    made = Captions(frozen["text"])
    assert made.source.width == 14 and len(made.source.checksum) == 64


def test_standardised_and_back():
    raw = torch.randn(50, 4) * torch.tensor([1.0, 5.0, 0.01, 3.0]) + 2
    standard = Standard(raw.mean(0), raw.std(0))
    assert torch.allclose(standard.raw(standard(raw)), raw, atol=1e-5)
