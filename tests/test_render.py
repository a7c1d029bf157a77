"Renderers: the small ones on disk, and the pipelines of the published benchmark from tiny configurations."
from dataclasses import replace

import pytest
import torch

from muni_nb.data.spec import Benchmark, Rows, Spec, rendered
from muni_nb.evaluation.verifier import Exact, judge_for
from muni_nb.features.render import AudioLDM, DecoderRenderer, UnCLIP, read_renderer, write_renderer
from muni_nb.files import FileError
from muni_nb.gate import InputError
from muni_nb.nets.build import Sizes

torch.set_num_threads(1)
WIDTH = 32
VOCABULARY = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}


@pytest.fixture(scope="module")
def words():
    "A tokenizer of one word."
    from transformers import PreTrainedTokenizerFast
    from tokenizers import Tokenizer, models
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=16, **names)


def autoencoder(channels: int):
    from diffusers import AutoencoderKL
    return AutoencoderKL(
        in_channels=channels, out_channels=channels, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4,
        sample_size=16)


@pytest.fixture(scope="module")
def unclip(words):
    from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection)
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**tiny, image_size=32, patch_size=16, projection_dim=WIDTH)),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=words,
        text_encoder=CLIPTextModel(CLIPTextConfig(**tiny, vocab_size=len(VOCABULARY), max_position_embeddings=16)),
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), attention_head_dim=4,
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH, cross_attention_dim=16,
            layers_per_block=1, norm_num_groups=4),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        vae=autoencoder(3))


@pytest.fixture(scope="module")
def audioldm(words):
    from diffusers import AudioLDMPipeline, DDIMScheduler, UNet2DConditionModel
    from transformers import ClapTextConfig, ClapTextModelWithProjection, SpeechT5HifiGan, SpeechT5HifiGanConfig
    torch.manual_seed(0)
    return AudioLDMPipeline(
        vae=autoencoder(1),
        text_encoder=ClapTextModelWithProjection(ClapTextConfig(
            vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=2 + WIDTH, projection_dim=WIDTH, pad_token_id=1)),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"), block_out_channels=(8, 16), class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=WIDTH, class_embeddings_concat=True, layers_per_block=1,
            norm_num_groups=4, cross_attention_dim=16),
        scheduler=DDIMScheduler(),
        vocoder=SpeechT5HifiGan(SpeechT5HifiGanConfig(
            model_in_dim=16, sampling_rate=16_000, upsample_initial_channel=16, upsample_rates=[8, 4],
            upsample_kernel_sizes=[16, 8], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]],
            normalize_before=False)))


def test_pictures_by_stable_unclip(unclip, tmp_path):
    unclip.set_progress_bar_config(disable=True)
    renderer = UnCLIP(unclip, steps=2)
    features = torch.randn(3, WIDTH)
    made = renderer(features)
    assert renderer.spec.shape == (3, 16, 16) and made.shape == (3, 3, 16, 16) and made.dtype == torch.uint8
    assert renderer(features).equal(made) and not renderer(features, seed=1).equal(made)
    assert not renderer.of(torch.ones(WIDTH), torch.full((WIDTH,), 2.0))(features).equal(made)
    unclip.save_pretrained(tmp_path)
    again = UnCLIP.load(str(tmp_path), steps=2).of(torch.ones(WIDTH), torch.full((WIDTH,), 2.0))
    assert again(features).equal(renderer(features))


def test_sounds_by_audioldm(audioldm):
    audioldm.set_progress_bar_config(disable=True)
    code = torch.nn.Linear(8, WIDTH)
    options = {"width": 8, "steps": 2, "seconds": 0.256}
    renderer = AudioLDM(audioldm, code, **options)
    features = torch.randn(3, 8)
    heard = renderer.listen(features)
    made = renderer(features)
    assert heard.shape == (3, renderer.samples) and heard.equal(renderer.listen(features)) and heard.abs().max() <= 1
    assert made.shape[1:] == renderer.spec.shape and made.isfinite().all()
    assert not AudioLDM(audioldm, code, unit=True, **options).listen(features).equal(heard)


def test_a_model_that_is_not_there_is_asked_for_by_name():
    for kind, load in (("unclip", UnCLIP.load), ("audioldm", lambda: AudioLDM.load(torch.nn.Identity()))):
        with pytest.raises(FileError, match=f"{kind}.*is not on this machine.*hf download.*licence"): load()


def test_features_are_shown_and_read_through_their_renderers(tmp_path):
    spec = Spec("image", "image", (3, 16, 16))
    path = tmp_path / "renderer.safetensors"
    write_renderer(path, DecoderRenderer(spec, 4, Sizes(image_decoder=(16, 16), image_cond=32), steps=2))
    renderer = read_renderer(path)
    features = {"a": Spec("a", "vector", (4,))}
    torch.manual_seed(0)
    rows = Rows({"a": torch.randn(60, 4)}, {"digit": torch.arange(60) % 3}, {}, torch.ones(60, 1).bool())
    seen = {"a": Spec("a", "image", (3, 16, 16))}
    pictures = Rows({"a": renderer(rows.values["a"])}, rows.attributes, {}, rows.available)
    known = {"attributes": {"digit": 3}, "carries": {"a": ("digit",)}}
    pixels = Benchmark("pixels", seen, pictures, pictures, config={}, **known)
    of_features = {"config": {}, "render": {"a": renderer}, **known}
    bench = Benchmark("features", features, rows, rows, source=pixels, **of_features)
    training = {"steps": 2, "width": 4, "progress": False}
    reader = judge_for(bench, tmp_path, **training)["a"]
    shown = judge_for(pixels, tmp_path, **training)["a"].read(seen["a"].prepare(pictures.values["a"]))
    drawn = bench.shown["a"].prepare(rendered(rows.values, bench.render)["a"])
    assert bench.shown == {"a": spec} and bench.test_shown.values["a"].equal(pictures.values["a"])
    assert reader.read(drawn)["digit"].equal(shown["digit"]) and reader.features(drawn).shape == (60, 256)
    assert bench.show(3).images[0].get_array().shape == (16, 3 * 16 + 2, 3)

    bright = lambda x: {"digit": (x[:, 0, 0, 0] > 0).long()}
    exact = replace(bench, source=replace(pixels, reads={"a": bright}))
    assert isinstance(judge_for(exact, tmp_path, **training)["a"], Exact)
    with pytest.raises(InputError, match="render speaks of 'b'"): replace(bench, render={"b": renderer})
