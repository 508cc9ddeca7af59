"""Pretrained encoders of a new model: those that work, those that are refused by name, and what both sides share."""

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    GemmaConfig,
    GraniteConfig,
    PixtralVisionConfig,
    Qwen2AudioEncoderConfig,
    ViTImageProcessorPil,
    ViTMAEConfig,
    ViTModel,
    VivitImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.backbones_egmf import EGMFPretrainedStem
from tests.helpers.backbone_configs import (
    AUDIO_BACKBONES,
    CLIP_BACKBONES,
    SPEECH_BACKBONES,
    TRANSFORMER,
    VISION_BACKBONES,
)
from training.model.encoders import build_encoder
from training.options import ModelArguments


FRONTENDS = {
    "audio": Wav2Vec2FeatureExtractor(),
    "video": ViTImageProcessorPil(size={"height": 16, "width": 16}),
    "clips": VivitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    "whisper": WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=400),
}


@pytest.fixture
def write_encoder(tmp_path):
    """`write_encoder(config, frontend=None)` -> a folder with an encoder of random weights and its front end."""

    def write(config, frontend=None):
        AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
        if frontend is not None:
            FRONTENDS[frontend].save_pretrained(tmp_path / "encoder")
        return tmp_path / "encoder"

    return write


def build(modality, folder, **options):
    return build_encoder(ModelArguments(**{modality: str(folder)}, **options), modality)


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_encoder_of_whole_clips(write_encoder, name):
    encoder = build("video", write_encoder(CLIP_BACKBONES[name], "clips"))
    assert encoder.num_frames == 4


def test_encoder_of_frames_leaves_their_number_to_the_options(write_encoder):
    encoder = build("video", write_encoder(VISION_BACKBONES["vit"], "video"))
    assert encoder.num_frames is None
    assert encoder.config.backbone_pooler


def test_encoder_is_float32_whatever_its_checkpoint(write_encoder):
    folder = write_encoder(SPEECH_BACKBONES["hubert_group_norm"], "audio")
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    encoder = build("audio", folder)
    assert encoder.backbone.dtype == torch.float32


def test_encoder_gives_statistics_of_all_layers_by_default(write_encoder):
    folder = write_encoder(SPEECH_BACKBONES["hubert_group_norm"], "audio")
    config = build("audio", folder, pretrained_chunk_seconds=2.0, pretrained_dtype="bfloat16").config
    assert (config.backbone_layers, config.pooling) == ("weighted", "statistics")
    assert config.backbone_chunk_steps == 2 * 16_000
    assert config.backbone_dtype == "bfloat16"
    config = build("audio", folder, pretrained_layers="last", encoder_pooling="attention").config
    assert (config.backbone_layers, config.pooling) == ("last", "attention")


def test_encoder_without_layers_of_one_width_gives_the_last(write_encoder):
    folder = write_encoder(VISION_BACKBONES["resnet"], "video")
    assert build("video", folder).config.backbone_layers == "last"
    with pytest.raises(ValueError, match="no layers of one width to weight"):
        build("video", folder, pretrained_layers="weighted")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained_chunk_seconds": 0.1}, "--pretrained_chunk_seconds is 0.1; it must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("audio", "whisper-base", **options)


def test_missing_pooler_is_not_used(write_encoder, tmp_path):
    """Its weights would be random, and others whenever the model is loaded."""
    folder = write_encoder(VISION_BACKBONES["vit"], "video")
    ViTModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
    assert not build("video", folder).config.backbone_pooler


def test_encoder_that_takes_clips_in_another_way_is_refused_with_those_that_work(write_encoder):
    """It insists on 30 seconds, as Whisper's own `forward` does, and gives two lengths instead of one."""
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    folder = write_encoder(Qwen2AudioEncoderConfig(**sizes, num_mel_bins=8, max_source_positions=20), "whisper")
    message = (
        r"Qwen2AudioEncoder cannot be used as the audio encoder .* such as Wav2Vec2, .*, or one of .*whisper-base"
    )
    with pytest.raises(ValueError, match=message):
        build("audio", folder, max_clip_seconds=1)


def test_encoder_that_hides_patches_at_random_hides_none(write_encoder):
    folder = write_encoder(ViTMAEConfig(image_size=16, patch_size=8, **TRANSFORMER), "video")
    encoder = build("video", folder)
    assert encoder.config.backbone_config.mask_ratio == 0
    stem = EGMFPretrainedStem(encoder.config, encoder.backbone).eval()
    frames = torch.randn(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 5, dtype=torch.bool)
    first, second = (stem(frames, mask)[0] for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_encoder_that_joins_the_frames_of_a_batch_is_refused(write_encoder):
    folder = write_encoder(PixtralVisionConfig(image_size=16, patch_size=8, **TRANSFORMER), "video")
    with pytest.raises(ValueError, match="PixtralVisionModel cannot be used as the video encoder"):
        build("video", folder)


@pytest.mark.parametrize(
    ("modality", "config", "message"),
    [
        ("audio", BertConfig(**TRANSFORMER, vocab_size=8), "BertModel takes 'input_ids', not input_values"),
        ("audio", VISION_BACKBONES["vit"], "ViTModel takes 'pixel_values'.* cannot encode audio"),
        ("video", AUDIO_BACKBONES["wav2vec2"], "Wav2Vec2Model takes 'input_values'.* cannot encode video"),
    ],
)
def test_wrong_kind_of_model_is_refused_before_its_weights(write_encoder, modality, config, message):
    folder = write_encoder(config)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"--{modality} {folder}: {message}"):
        build(modality, folder)


@pytest.mark.parametrize("model_type", ["pe_video_encoder", "xclip", "efficientnet"])
def test_unsupported_encoder_is_refused_by_name(tmp_path, model_type):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    refusal = rf"--video {tmp_path}: .*(whole clips|no encoder for|hidden_size)"
    # transformers 5.18 needs timm to read the configuration of the first.
    with pytest.raises((ValueError, ImportError), match=f"{refusal}|pip install timm"):
        build("video", tmp_path)


def test_folder_without_an_encoder_names_the_option(tmp_path):
    message = f"--audio {tmp_path} is neither a folder with an encoder nor a model on the Hub"
    with pytest.raises(ValueError, match=message):
        build("audio", tmp_path)


def test_encoder_without_preprocessing_is_refused(write_encoder):
    with pytest.raises(ValueError, match="its preprocessing cannot be loaded"):
        build("audio", write_encoder(AUDIO_BACKBONES["wav2vec2"]))


def test_encoder_with_missing_weights_is_refused(write_encoder):
    folder = write_encoder(AUDIO_BACKBONES["wav2vec2"], "audio")
    model = AutoModel.from_pretrained(folder)
    state = {name: values for name, values in model.state_dict().items() if "attention" not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ValueError, match="the checkpoint has no weights for"):
        build("audio", folder)


def test_clips_longer_than_whisper_takes_are_refused(write_encoder):
    folder = write_encoder(AUDIO_BACKBONES["whisper"], "whisper")
    with pytest.raises(ValueError, match="takes at most 1 s of audio; set --max_clip_seconds 1"):
        build("audio", folder, max_clip_seconds=2.0)
    config = build("audio", folder, max_clip_seconds=1.0).config
    assert config.backbone_config.model_type == "whisper"
    assert config.backbone_layers == "weighted"


# ---- pseudo tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [(GemmaConfig, {"head_dim": 8}), (GraniteConfig, {"embedding_multiplier": 3.0})],
)
def test_pseudo_tokens_start_at_the_length_of_a_word(make_encoder_config, config_class, fields):
    """Gemma scales words inside its embedding layer; Granite scales words and pseudo tokens alike after it."""
    sizes = {"num_key_value_heads": 2, "vocab_size": 300, **TRANSFORMER, **fields}
    config = EGMFConfig(
        text_config=config_class(**sizes), audio_config=make_encoder_config("features"), placeholder_token_id=300
    )
    model = EGMFForConditionalGeneration(config)
    model.calibrate_pseudo_tokens()
    words = model.get_input_embeddings()(torch.arange(300))
    expected = words.square().mean().sqrt().item()
    assert model.egmf.pseudo_tokens.scale.item() == pytest.approx(expected)
    tokens = model.egmf.pseudo_tokens(torch.randn(200, config.fusion_hidden_size))
    assert tokens.square().mean().sqrt().item() == pytest.approx(expected, rel=0.3)
