"""Pretrained encoders: padding never changes their output, and clips of any length are encoded."""

import pytest
import torch
from transformers import CvtConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from modeling_egmf.backbones_egmf import (
    EGMFLayerSum,
    EGMFPretrainedStem,
    backbone_width,
    clip_layout,
    evenly_spaced,
    run_whisper_encoder,
)
from modeling_egmf.encoders_egmf import EGMFModalityEncoder
from tests.helpers.backbone_configs import (
    AUDIO_BACKBONES,
    CLIP_BACKBONES,
    SPECTROGRAM_BACKBONES,
    SPEECH,
    SPEECH_BACKBONES,
    VISION_BACKBONES,
)
from tests.helpers.model_inputs import assert_close


FUSION_WIDTH = 16
SPECTROGRAM_CONFIGS = {name: config for name, (config, _) in SPECTROGRAM_BACKBONES.items()}
AUDIO_CONFIGS = {**AUDIO_BACKBONES, **SPEECH_BACKBONES, **SPECTROGRAM_CONFIGS}
CONFIGS = {**AUDIO_CONFIGS, **VISION_BACKBONES, **CLIP_BACKBONES}
BASIC = [*AUDIO_BACKBONES, *VISION_BACKBONES, *CLIP_BACKBONES]


def all_present(mask):
    return torch.ones(len(mask), dtype=torch.bool)


def backbone_inputs(name, lengths=None):
    """Clips of different lengths as the backbone takes them, padded with zeros; the first two are equally long."""
    shape = ()
    if name in SPECTROGRAM_BACKBONES:
        shape = (SPECTROGRAM_BACKBONES[name][1],)
        default = [40, 40, 40] if name == "ast" else [20, 20, 40, 29]  # AST's own extractor pads every clip
    elif name in AUDIO_CONFIGS:
        default = [2000, 2000, 4000, 2900]
    else:
        shape = (3, 16, 16)
        default = [2, 2, 5, 3]
    lengths = torch.tensor(lengths or default)
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(lengths.max())[None, :] < lengths[:, None]
    values = torch.rand(*mask.shape, *shape, generator=generator) - 0.5
    return values * mask.view(*mask.shape, *[1] * len(shape)), mask


@pytest.fixture
def make_backbone_encoder(make_encoder_config):
    def make(name, trainable=False, **fields):
        torch.manual_seed(0)
        input_type, modality = ("waveform", "audio") if name in AUDIO_CONFIGS else ("frames", "video")
        config = make_encoder_config(
            input_type,
            modality,
            backbone_config=CONFIGS[name].to_dict(),
            backbone_trainable=trainable,
            **fields,
        )
        return EGMFModalityEncoder(config, FUSION_WIDTH).eval()

    return make


# ---- padding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_clip_beside_a_longer_one_equals_the_clip_alone(make_backbone_encoder, name):
    encoder = make_backbone_encoder(name)
    values, mask = backbone_inputs(name)
    together = encoder(values, mask, all_present(mask))
    assert together.std(dim=0).max() > 1e-4  # the clips differ
    noisy = values.clone()
    noisy[~mask] = 7.0  # the content of padding does not matter either
    assert_close(encoder(noisy, mask, all_present(mask)), together)
    for i, length in enumerate(mask.sum(dim=1)):
        alone = encoder(values[i : i + 1, :length], mask[i : i + 1, :length], all_present(mask[:1]))
        assert_close(together[i], alone[0])


def test_spectrogram_may_have_its_bands_first(make_backbone_encoder):
    """As `transformers` orders Whisper's input."""
    encoder = make_backbone_encoder("whisper")
    values, mask = backbone_inputs("whisper")
    expected = encoder(values, mask, all_present(mask))
    assert torch.equal(encoder(values.transpose(1, 2), mask, all_present(mask)), expected)


# ---- length --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPEECH_BACKBONES, *SPECTROGRAM_CONFIGS])
def test_shortest_clips_are_encoded_and_train(make_backbone_encoder, name):
    """Shorter than the receptive field of the convolutions, and than one span of SpecAugment."""
    encoder = make_backbone_encoder(name, trainable=True)
    in_samples = [1, 160, 1600]  # 0.1 ms, 0.01 s, 0.1 s
    in_frames = [40] if name == "ast" else [1, 10]
    for length in in_samples if name in SPEECH_BACKBONES else in_frames:
        values, mask = backbone_inputs(name, [length] * 2)
        assert torch.isfinite(encoder(values, mask, all_present(mask))).all()
        tokens = encoder.train()(values, mask, all_present(mask))
        encoder.eval()
        tokens.square().sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_longer_clips_keep_spec_augment(make_encoder_config):
    """In training, masking changes the output of a clip that is long enough, and of no other."""
    no_dropout = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
    backbone = Wav2Vec2Model(Wav2Vec2Config(**SPEECH, **no_dropout, mask_time_prob=0.9))
    config = make_encoder_config("waveform", backbone_config=backbone.config, backbone_trainable=True)
    stem = EGMFPretrainedStem(config, backbone)
    for length, is_masked in ((4000, True), (600, False), (4000, True)):
        values, mask = backbone_inputs("wav2vec2", [length])
        in_evaluation, _ = stem.eval()(values, mask)
        in_training, _ = stem.train()(values, mask)
        assert ((in_evaluation - in_training).abs().max() > 1e-3) == is_masked


def test_whisper_encodes_the_length_of_the_clip(make_backbone_encoder):
    stem = make_backbone_encoder("whisper").stem
    values, mask = backbone_inputs("whisper", [40, 7, 1])
    states, state_mask = stem.run_backbone(values, mask)
    assert state_mask.sum(dim=1).tolist() == [20, 4, 1]  # half the frames, rounded up
    full = stem.backbone(values[:1].transpose(1, 2)).last_hidden_state  # its own forward only takes this length
    assert_close(states[0], full[0])
    output = run_whisper_encoder(stem.backbone, values[:1].transpose(1, 2))
    assert_close(output.last_hidden_state, full)


# ---- whole clips ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_clip_is_encoded_as_a_whole(make_backbone_encoder, name):
    """The vectors of a clip follow its time, and each one sees the other frames."""
    stem = make_backbone_encoder(name).stem
    layout = clip_layout(stem.backbone.config)
    values, mask = backbone_inputs(name, [layout.num_frames])
    states, state_mask = stem.run_backbone(values, mask)
    assert states.shape == (1, layout.num_steps, stem.output_size)
    assert state_mask.all()
    changed = values.clone()
    changed[:, -1] = -changed[:, -1]
    moved = (stem.run_backbone(changed, mask)[0] - states).abs().mean(dim=(0, 2))
    assert moved[0] > 0
    assert moved.argmax() == layout.num_steps - 1


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_clip_of_another_length_is_sampled(make_backbone_encoder, name):
    stem = make_backbone_encoder(name).stem
    num_frames = clip_layout(stem.backbone.config).num_frames
    for length in (1, 2, 7):
        values, mask = backbone_inputs(name, [length])
        indices = evenly_spaced(length, num_frames)
        expected, _ = stem.run_backbone(values[:, indices], torch.ones(1, num_frames, dtype=torch.bool))
        assert_close(stem.run_backbone(values, mask)[0], expected)


def test_evenly_spaced():
    assert evenly_spaced(7, 4) == [0, 2, 4, 6]
    assert evenly_spaced(2, 4) == [0, 0, 1, 1]
    assert evenly_spaced(1, 3) == [0, 0, 0]
    assert evenly_spaced(5, 1) == [0]


# ---- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", BASIC)
def test_backbone_learns_only_if_trainable(make_backbone_encoder, name, trainable):
    encoder = make_backbone_encoder(name, trainable).train()
    values, mask = backbone_inputs(name)
    encoder(values, mask, all_present(mask)).square().sum().backward()
    backbone = list(encoder.stem.backbone.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in backbone) == trainable
    assert encoder.stem.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("trainable", [False, True])
def test_only_a_trainable_backbone_goes_into_training_mode(
    make_backbone_encoder,
    trainable,
):
    encoder = make_backbone_encoder("resnet", trainable).train()
    assert encoder.training
    assert any(module.training for module in encoder.stem.backbone.modules()) == trainable


@pytest.mark.parametrize("name", ["resnet", "wav2vec2_conformer"])
def test_batch_norm_of_a_trained_backbone_keeps_its_statistics(make_backbone_encoder, name):
    """Clips are encoded in groups of equal length: what is in a batch would change a clip's output."""
    stem = make_backbone_encoder(name, trainable=True).stem.train()
    norms = [module for module in stem.backbone.modules() if "BatchNorm" in type(module).__name__]
    before = [norm.running_mean.clone() for norm in norms]
    stem(*backbone_inputs(name))
    assert norms and not any(norm.training for norm in norms)
    assert all(norm.running_mean.equal(mean) for norm, mean in zip(norms, before, strict=True))


def test_only_the_encoder_of_whisper_is_kept(make_backbone_encoder):
    stem = make_backbone_encoder("whisper").stem
    assert stem.backbone.__class__.__name__ == "WhisperEncoder"
    assert not any("decoder" in name for name in stem.state_dict())


def test_given_backbone_is_used(make_encoder_config):
    backbone = ViTModel(VISION_BACKBONES["vit"])
    config = make_encoder_config("frames", "video", backbone_config=VISION_BACKBONES["vit"].to_dict())
    assert EGMFPretrainedStem(config, backbone).backbone is backbone


def test_patches_are_averaged_without_a_pooler(make_backbone_encoder):
    stem = make_backbone_encoder("vit", backbone_pooler=False).stem
    values, mask = backbone_inputs("vit", [3])
    patches = stem.backbone(values[0]).last_hidden_state
    assert_close(stem.run_backbone(values, mask)[0][0], patches.mean(dim=1))


def test_encoder_of_unknown_width_is_refused():
    with pytest.raises(ValueError, match="'cvt' cannot be used as an encoder"):
        backbone_width(CvtConfig())


# ---- precision -----------------------------------------------------------------------------------------------


def test_bfloat16_backbone_gives_float32_tokens(make_backbone_encoder):
    encoder = make_backbone_encoder("vit")
    encoder.stem.backbone.to(torch.bfloat16)
    values, mask = backbone_inputs("vit")
    actual = encoder(values, mask, all_present(mask))
    assert actual.dtype == torch.float32
    assert torch.isfinite(actual).all()


def test_frozen_backbone_ignores_autocast(make_backbone_encoder):
    """So that training under autocast sees the outputs that evaluation sees and that the cache stores."""
    for trainable in (False, True):
        encoder = make_backbone_encoder("vit", trainable)
        values, mask = backbone_inputs("vit")
        expected = encoder(values, mask, all_present(mask))
        with torch.autocast("cpu", torch.bfloat16):
            actual = encoder(values, mask, all_present(mask))
        assert torch.equal(actual, expected) == (not trainable)
        torch.testing.assert_close(actual, expected, atol=0.05, rtol=0)


# ---- all layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["whisper", "wav2vec2_group_norm", "vit", "videomae", "timesformer"])
def test_all_layers_end_with_the_last(make_backbone_encoder, name):
    """Images are averaged over their patches, with the class token."""
    last = make_backbone_encoder(name, backbone_pooler=False).stem
    weighted = make_backbone_encoder(name, backbone_layers="weighted").stem
    weighted.backbone.load_state_dict(last.backbone.state_dict())
    values, mask = backbone_inputs(name)
    expected, expected_mask = last.run_backbone(values, mask)
    states, state_mask = weighted.run_backbone(values, mask)
    assert torch.equal(state_mask, expected_mask)
    assert states.shape[-1] == weighted.output_size == 2 * last.output_size
    layers = states.unflatten(-1, (2, -1))
    if name not in ("vit", "timesformer"):  # whose hidden states do not have the final norm
        assert_close(layers[..., 1, :], expected)
    assert (layers[..., 0, :] - layers[..., 1, :]).abs().max() > 1e-3


def test_weighted_sum_standardizes_each_layer():
    layer_sum = EGMFLayerSum(num_layers=3, width=2)
    layer_sum.mean.copy_(torch.arange(6))
    layer_sum.std.copy_(torch.tensor([1.0, 2, 4, 8, 16, 0]))
    layer_sum.weights.data.copy_(torch.tensor([0.0, 0.1, 0.3]))
    states = torch.randn(2, 5, 6)
    shares = torch.softmax(10 * layer_sum.weights, dim=0)
    expected = torch.zeros(2, 5, 2)
    for layer in range(3):
        for column in range(2):
            index = 2 * layer + column
            std = max(layer_sum.std[index].item(), 1e-5)
            expected[..., column] += shares[layer] * (states[..., index] - index) / std
    torch.testing.assert_close(layer_sum(states), expected)


def test_statistics_of_a_clip_beside_a_longer_one(make_backbone_encoder):
    encoder = make_backbone_encoder("wav2vec2", backbone_layers="weighted", pooling="statistics")
    values, mask = backbone_inputs("wav2vec2")
    together = encoder(values, mask, all_present(mask))
    alone = encoder(values[3:, :2900], mask[3:, :2900], all_present(mask[3:]))
    assert_close(together[3], alone[0])
    together.sum().backward()
    assert encoder.stem.layer_sum.weights.grad.abs().max() > 0


def test_long_clips_are_encoded_in_pieces(make_backbone_encoder):
    stem = make_backbone_encoder("whisper", backbone_chunk_steps=16).stem
    values, mask = backbone_inputs("whisper", [40])
    states, state_mask = stem.run_backbone(values, mask)
    assert state_mask.sum() == 20
    for start, stop in ((0, 16), (16, 32), (32, 40)):
        piece, _ = stem.run_backbone(values[:, start:stop], mask[:, start:stop])
        assert_close(states[:, start // 2 : stop // 2], piece)


def test_frozen_backbone_may_run_in_bfloat16(make_backbone_encoder):
    encoder = make_backbone_encoder("wav2vec2", backbone_dtype="bfloat16")
    assert encoder.stem.backbone.dtype == torch.bfloat16
    values, mask = backbone_inputs("wav2vec2")
    assert encoder(values, mask, all_present(mask)).dtype == torch.float32
