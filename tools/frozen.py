"""Train the frozen models of the scenes features, and write them to muni_nb/frozen.

  python tools/frozen.py               those that are not there
  python tools/frozen.py image text    these anew, of: encoders, writer, image, audio, text
  python tools/frozen.py --folder /tmp/frozen --steps 2 --rows 256    does it work?

Encoders first: what renders (image, audio, text) reads their features. About an hour of one core for all. After a
change every figure of `scene_features` changes: raise RESULTS_VERSION.
"""
import argparse
import shutil
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from muni_nb.data.scenes import (
    AUDIO, CARRIES, CELLS, IMAGE, RATE, SPECS, VOCABULARY, draw_audio, draw_image, draw_rows, factors_of, log_mel,
    numbers, tokenizer)
from muni_nb.data.spec import Benchmark, Rows, Spec
from muni_nb.features.audio_code import AudioCode
from muni_nb.features.render import DecoderRenderer, pairs_of, write_renderer
from muni_nb.features.scenes import (
    HOP, WIDTH, Encoders, Sentence, audio_features, feature_specs, heard)
from muni_nb.latent.contrast import info_nce
from muni_nb.nets.build import Sizes
from muni_nb.nets.sentence import FROZEN, packed
from muni_nb.nets.text import BOS, EOS, PAD
from muni_nb.training.fit import fit

SEED = 20_512_015     # of rows that no benchmark of a usual seed has
GEMMA = dict(
    vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=128, sliding_window=64,
    pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, attn_implementation="eager")


class Aligned(nn.Module):
    "Encoders of pictures, captions and sounds, trained so that each knows what it shares with either of the others."

    def __init__(self):
        from transformers import ClapAudioConfig, ClapAudioModelWithProjection
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
        from transformers import Gemma3TextConfig, Gemma3TextModel
        super().__init__()
        self.image = CLIPVisionModelWithProjection(CLIPVisionConfig(
            image_size=32, patch_size=8, hidden_size=96, intermediate_size=384, num_hidden_layers=3,
            num_attention_heads=6, projection_dim=WIDTH, attn_implementation="eager"))
        self.text = Sentence(
            Gemma3TextModel(Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)),
            nn.Linear(64, 128, bias=False),
            nn.Linear(128, WIDTH, bias=False))
        self.audio = ClapAudioModelWithProjection(ClapAudioConfig(
            num_mel_bins=32, spec_size=64, patch_size=8, patch_stride=[8, 8], window_size=4, depths=[1, 2],
            num_attention_heads=[3, 6], patch_embeds_hidden_size=48, hidden_size=96, hidden_dropout_prob=0.0,
            projection_dim=WIDTH, attn_implementation="eager"))
        self.heads = nn.ModuleDict({f"{a}-{b}": nn.Linear(WIDTH, WIDTH) for a in CARRIES for b in CARRIES if a != b})
        self.scale = nn.Parameter(torch.tensor(1 / 0.07).log())     # CLIP's first temperature

    def loss(self, batch: dict[str, Tensor], available: Tensor, progress: float | None = None) -> dict[str, Tensor]:
        "InfoNCE of the three pairs, each in a space of its own; for `training.fit`."
        found = {"image": self.image(pixel_values=batch["image"]).image_embeds,
                 "text": self.text(batch["text"]),
                 "audio": audio_features(self.audio, batch["audio"])}
        return self.contrast(found)

    def contrast(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        "The loss of features [B, WIDTH], and its terms."
        temperature = 1 / self.scale.exp().clamp(max=100)
        terms = {}
        for a, b in combinations(CARRIES, 2):
            one = self.heads[f"{a}-{b}"](found[a])
            other = self.heads[f"{b}-{a}"](found[b])
            terms[f"{a}-{b}"] = info_nce(one, other, temperature)
        return {"loss": sum(terms.values()), **terms}


class Looking(nn.Module):
    "Its encoder of pictures going on alone, as pictures take longest: captions and sounds are features already."

    def __init__(self, aligned: Aligned):
        super().__init__()
        self.aligned = aligned

    def loss(self, batch: dict[str, Tensor], available: Tensor, progress: float | None = None) -> dict[str, Tensor]:
        return self.aligned.contrast(batch | {"image": self.aligned.image(pixel_values=batch["image"]).image_embeds})


class Written(nn.Module):
    "A causal language model of captions."

    def __init__(self):
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig
        super().__init__()
        self.model = Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA))

    def loss(self, batch: dict[str, Tensor], available: Tensor, progress: float | None = None) -> dict[str, Tensor]:
        ids = batch["text"]
        said = self.model(input_ids=ids, attention_mask=(ids != PAD).long(), use_cache=False).logits
        target = ids.masked_fill(ids == PAD, -100)
        return {"loss": nn.functional.cross_entropy(said[:, :-1].mT, target[:, 1:])}


@dataclass(frozen=True)
class Work:
    "Where models go, and what they learn from."
    folder: Path = FROZEN
    rows: int = 20_000
    steps: int | None = None      # at most so many of each training

    def draw(self, **options) -> dict[str, Tensor]:
        "The values of the rows to learn from."
        return draw_rows(range(self.rows), "judge", SEED, **options).values

    def fit(self, model: nn.Module, bench: Benchmark, steps: int, **how) -> None:
        fit(model, bench, steps=min(steps, self.steps or steps), **how)

    def fresh(self, name: str) -> Path:
        "An empty folder of this name."
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name


def bench_of(specs: dict[str, Spec], values: dict[str, Tensor]) -> Benchmark:
    "Rows to learn from, of these modalities."
    rows = len(next(iter(values.values())))
    table = Rows({k: values[k] for k in specs}, {}, {}, torch.ones(rows, len(specs)).bool())
    return Benchmark("lessons", specs, table, table.select(slice(8)), {}, {}, {})


def train_encoders(work: Work) -> None:
    "Pictures', captions' and sounds' encoders, and the audio autoencoder."
    values = work.draw(heard=heard)
    torch.manual_seed(11)
    aligned = Aligned()
    specs = {"image": SPECS["image"], "text": SPECS["text"], "audio": Spec("audio", "audio", (63, 32))}
    how = {"batch_size": 128, "lr": 2e-3, "warmup": 80, "betas": (0.9, 0.98), "weight_decay": 0.02, "ema": 0.99,
           "clip": 5.0, "lr_scales": False, "precision": "float32"}
    work.fit(aligned, bench_of(specs, values), steps=1_000, seed=11, **how)
    with torch.no_grad():
        aligned.eval()
        said = torch.cat([aligned.text(x) for x in values["text"].split(500)])
        clap = torch.cat([audio_features(aligned.audio, x.float()) for x in values["audio"].split(500)])
        aligned.train()
    specs |= {"text": Spec("text", "vector", (WIDTH,)), "audio": Spec("audio", "vector", (WIDTH,))}
    values |= {"text": said, "audio": clap}
    work.fit(Looking(aligned), bench_of(specs, values), steps=1_200, seed=15, **how)
    torch.manual_seed(12)
    code = AudioCode(WIDTH, WIDTH)
    work.fit(code, bench_of({"clap": Spec("clap", "vector", (WIDTH,))}, {"clap": clap}),
             steps=2_000, batch_size=256, lr=2e-3, seed=12, precision="float32")
    write_encoders(work, aligned, code)


def write_encoders(work: Work, aligned: Aligned, code: AudioCode) -> None:
    "As folders of transformers, in half precision; the words' as sentence-transformers lays them out."
    from transformers import ClapFeatureExtractor, CLIPImageProcessor
    folder = work.fresh("scenes-image")
    aligned.half().image.save_pretrained(folder)
    side, grey = {"height": 32, "width": 32}, [0.5, 0.5, 0.5]
    CLIPImageProcessor(size=side, crop_size=side, image_mean=grey, image_std=grey).save_pretrained(folder)

    folder = work.fresh("scenes-text")
    aligned.text.model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    for name, dense in (("2_Dense", aligned.text.up), ("3_Dense", aligned.text.down)):
        (folder / name).mkdir()
        save_file({"linear.weight": dense.weight.detach().contiguous()}, folder / name / "model.safetensors")

    folder = work.fresh("scenes-audio")
    aligned.audio.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=32, sampling_rate=RATE, hop_length=HOP, fft_window_size=512, max_length_s=2, frequency_min=40,
        frequency_max=4000, truncation="rand_trunc").save_pretrained(folder)
    save_file(code.half().state_dict(), folder / "code.safetensors")


def train_writer(work: Work) -> None:
    "A language model that knows captions and nothing else."
    torch.manual_seed(13)
    written = Written()
    work.fit(written, bench_of({"text": SPECS["text"]}, work.draw()), steps=1_000, batch_size=128, lr=2e-3,
             lr_scales=False, seed=13, precision="float32")
    folder = work.fresh("scenes-lm")
    written.model.half().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def plain_rows(name: str) -> Tensor:
    """Pictures or log-mels of the 1,728 cells, what features do not say drawn in one way.

    Icons upright and in reading order on a dark ground, hits at even times in one ambience of each kind."""
    cells = torch.arange(len(CELLS))
    factors = factors_of(cells, "judge")
    if name == "image":
        u = {k: torch.full((len(cells), n), 0.5, dtype=torch.float64) for k, n in IMAGE.items()}
        u["order"] = torch.arange(4.0, dtype=torch.float64).expand(len(cells), -1) / 4
        return draw_image(factors, torch.cat(list(u.values()), 1), torch.full((len(cells), 3 * 32 * 32), 0.5))["image"]
    u = torch.full((len(cells), sum(AUDIO.values())), 0.5, dtype=torch.float64)
    phases = numbers([0], "judge", SEED)["phases"].expand(len(cells), -1)
    waves = [draw_audio({k: v[i] for k, v in factors.items()}, u[i], phases[i])[0] for i in cells.split(64)]
    return torch.cat([log_mel(wave).half() for wave in waves])


RENDERERS = {   # sizes, how it draws, how it learns: from real rows, then from plain ones
    "image": (Sizes(image_decoder=(32, 64, 96), image_cond=64, image_time=-0.7), {"steps": 2, "guidance": 1.0},
              {"steps": 3_000, "batch_size": 64, "lr": 2e-3, "optimiser": "muon"}),
    "audio": (Sizes(audio_decoder=(32, 64, 96), audio_cond=64, audio_time=-1.0), {"steps": 2, "guidance": 1.0},
              {"steps": 1_000, "batch_size": 64, "lr": 2e-3, "optimiser": "muon"}),
    "text": (Sizes(), {}, {"steps": 2_000, "batch_size": 128, "lr": 1e-3}),
}
PLAIN = {"steps": 400, "lr": 1e-3, "warmup": 25, "ema": 0.98, "seed": 17}


def train_renderer(name: str, work: Work) -> None:
    "From features of real rows to what they are of."
    features = Encoders(work.folder)({name: work.draw(heard=heard)[name]})[name]
    values = work.draw()[name]
    spec = SPECS[name]
    if name == "text":
        spec = feature_specs()["text"]
        values = packed(torch.zeros(work.rows, WIDTH), values[:, 1:])
    sizes, options, how = RENDERERS[name]
    torch.manual_seed(14)
    renderer = DecoderRenderer(spec, WIDTH, sizes, **options)
    renderer.centre.copy_(features.mean(0))
    renderer.scale.copy_(features.std(0))
    how = {"seed": 14, "precision": "float32", "ema": 0.998, **how}
    work.fit(renderer, pairs_of(features, spec, values), **how)
    if name != "text":
        plain = plain_rows(name)[torch.arange(work.rows) % len(CELLS)]
        work.fit(renderer, pairs_of(features, spec, plain), **how | PLAIN)
    write_renderer(work.folder / f"scenes-render-{name}.safetensors", renderer)


# by a file that each writes late, so that half a set does not count as whole
TRAINING = {"encoders": ("scenes-audio/code.safetensors", train_encoders),
            "writer": ("scenes-lm/tokenizer.json", train_writer)}
TRAINING |= {k: (f"scenes-render-{k}.safetensors", partial(train_renderer, k)) for k in RENDERERS}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"to train anew, of: {', '.join(TRAINING)}")
    parser.add_argument("--folder", type=Path, default=FROZEN)
    parser.add_argument("--rows", type=int, default=Work.rows, help="to learn from")
    parser.add_argument("--steps", type=int, help="at most so many of each training")
    told = parser.parse_args(arguments)
    if unknown := [name for name in told.names if name not in TRAINING]:
        parser.error(f"{unknown[0]} is none of {', '.join(TRAINING)}")
    work = Work(told.folder, told.rows, told.steps)
    for name, (made, train) in TRAINING.items():
        if name in told.names or not (work.folder / made).exists(): train(work)
    for path in sorted(path for path in work.folder.rglob("*") if path.is_file()):
        print(f"{path.relative_to(work.folder)} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__": main()
