"""The module that is exported gives the model's outputs, with and without the steps that it replaces."""

import pytest
import torch

from tests.helpers.backbone_configs import AUDIO_BACKBONES, VISION_BACKBONES
from tests.helpers.model_inputs import assert_close
from training.export.fusion import OUTPUTS, ExportableFusion


@pytest.fixture
def text_inputs(tiny_text_config):
    """Embeddings of five tokens for each of three samples, of which the second has no text."""
    generator = torch.Generator().manual_seed(5)
    utterance_mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    return {
        "text_embeds": torch.randn(3, 5, tiny_text_config.hidden_size, generator=generator),
        "utterance_mask": utterance_mask,
        "modality_mask": torch.ones(3, 3, dtype=torch.bool),
    }


def assert_same_outputs(model, inputs):
    with torch.no_grad():
        expected = model.egmf(**inputs)
        actual = ExportableFusion(model.egmf)(**inputs)
    assert list(actual) == list(OUTPUTS)
    for name, field in OUTPUTS.items():
        assert_close(actual[name].float(), expected[field].float())


@pytest.mark.parametrize(
    ("audio", "video", "sequence_encoder", "num_layers"),
    [
        ("features", "features", "gru", 2),
        ("waveform", "frames", "gru", 1),
        ("waveform", "frames", "transformer", 1),
        ("features", None, "none", 1),
        (None, "frames", "gru", 1),
    ],
)
def test_same_outputs_as_the_model(
    make_model, make_encoder_config, media_batch, text_inputs, audio, video, sequence_encoder, num_layers
):
    fields = {"sequence_encoder": sequence_encoder, "num_layers": num_layers}
    model = make_model(
        make_encoder_config(audio, "audio", **fields),
        make_encoder_config(video, "video", **fields),
        lora=None,
    )
    inputs = text_inputs | media_batch(audio, video)
    assert_same_outputs(model, inputs)
    for modality in ("audio", "video"):
        if f"{modality}_mask" in inputs:
            inputs[f"{modality}_mask"][0] = False  # the sample has text
    inputs["modality_mask"][2, 1:] = False
    assert_same_outputs(model, inputs)


def test_values_of_an_absent_modality_are_not_read(make_model, media_batch, text_inputs):
    model = make_model(lora=None)
    inputs = text_inputs | media_batch()
    inputs["audio_mask"][0] = False
    inputs["audio_values"][0] = float("nan")
    output = ExportableFusion(model.egmf)(**inputs)
    assert output["pseudo_tokens"].isfinite().all()
    assert output["used_modalities"].tolist() == [[True, False, True], [False, True, True], [True, True, True]]


def test_pretrained_encoders(make_model, make_encoder_config, media_batch, text_inputs):
    """That of images is part of the module; that of audio is not, if the model takes its stored outputs."""
    model = make_model(
        make_encoder_config("waveform", "audio", backbone_config=AUDIO_BACKBONES["wav2vec2"]),
        make_encoder_config("frames", "video", backbone_config=VISION_BACKBONES["vit"]),
        lora=None,
    )
    stem = model.egmf.audio_visual_encoder.audio.stem
    stem.precomputed = True
    inputs = text_inputs | media_batch(None, "frames")
    inputs["audio_values"] = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(6))
    inputs["audio_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    assert_same_outputs(model, inputs)
    names = ExportableFusion(model.egmf).state_dict()
    assert any(".video.stem.backbone." in name for name in names)
    assert not any(".audio.stem.backbone." in name for name in names)


def test_float32_whatever_the_language_model(make_model):
    model = make_model(lora=None, dtype=torch.bfloat16)
    parameters = ExportableFusion(model.egmf).parameters()
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
