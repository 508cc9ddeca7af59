"""16-bit weights, inputs and autocast: answers within rounding of float32, and nothing that an accelerator lacks."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import modeling_egmf
import training
from modeling_egmf.encoders_egmf import EGMFFeatureStem, EGMFWaveformStem, average_over_grid
from modeling_egmf.precision_egmf import EGMFFloat32Module
from processing_egmf.batches_egmf import EGMFBatch
from tests.helpers.backbone_configs import AUDIO_BACKBONES, VISION_BACKBONES


HALF = torch.float16
BFLOAT = torch.bfloat16
DOUBLE = torch.float64
# Of probabilities: rounding inside a language model with random weights, which amplifies it.
TOLERANCES = {HALF: 0.01, BFLOAT: 0.08, DOUBLE: 1e-5}
KINDS = ["features", "media", "waveform encoder", "whisper"]


def unchanged(model):
    return model


def cast_language_model(dtype):
    def cast(model):
        model.language_model.to(dtype)
        return model

    return cast


# name -> how the model is cast, the precision, whether inputs are cast, whether autocast is on
WAYS = {
    "half()": (lambda model: model.half(), HALF, True, False),
    "to(bfloat16)": (lambda model: model.to(BFLOAT), BFLOAT, True, False),
    "bfloat16() with float32 inputs": (lambda model: model.bfloat16(), BFLOAT, False, False),
    "double()": (lambda model: model.double(), DOUBLE, True, False),
    "float16 language model": (cast_language_model(HALF), HALF, False, False),
    "bfloat16 language model": (cast_language_model(BFLOAT), BFLOAT, True, False),
    "float16 inputs": (unchanged, HALF, True, False),
    "float16 autocast": (unchanged, HALF, False, True),
    "bfloat16 autocast": (unchanged, BFLOAT, True, True),
}


@pytest.fixture
def case(make_model, make_processor, make_encoder_config, media_batch, process):
    """`case(kind, with_labels=False)` -> a model and inputs with a silent clip among them."""

    def make(kind, with_labels=False):
        audio = "features" if kind == "features" else "waveform"
        video = "features" if kind == "features" else "frames"
        media = media_batch(audio, video)
        media["audio_values"][1] = 0  # silence, padding included
        if kind in ("waveform encoder", "whisper"):
            name = "wav2vec2" if kind == "waveform encoder" else "whisper"
            audio = make_encoder_config("waveform", backbone_config=AUDIO_BACKBONES[name].to_dict())
            video = make_encoder_config("frames", "video", backbone_config=VISION_BACKBONES["clip"].to_dict())
        if kind == "whisper":
            lengths = torch.tensor([40, 7, 20])
            media["audio_mask"] = torch.arange(40)[None, :] < lengths[:, None]
            media["audio_values"] = media["audio_values"][:, :320].reshape(3, 40, 8)
        if kind == "features":
            media["audio_values"] = media["audio_values"] * 1e5  # more than float16 can hold
        answers = {"answer": ["joy", "anger", "fear"]} if with_labels else {}
        samples = [{"text": text} for text in ("I'm fine.", "no", "I can't believe it!")]
        inputs = process(make_processor(None, None), samples, **answers)
        inputs["modality_mask"][:] = True
        model = make_model(audio, video)
        if kind == "features":
            model.egmf.audio_visual_encoder.audio.stem.std.fill_(5e4)
        return model, EGMFBatch({**inputs, **media})

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_answers_are_those_of_float32(case, way, kind):
    cast, dtype, cast_inputs, autocast = WAYS[way]
    model, inputs = case(kind)
    expected = model.score_answers(**inputs)
    model = cast(model)
    if cast_inputs:
        inputs = inputs.to("cpu", dtype)
    with torch.autocast("cpu", dtype) if autocast else nullcontext():
        actual = model.score_answers(**inputs)
    assert all(parameter.dtype == torch.float32 for parameter in model.egmf.parameters())
    torch.testing.assert_close(actual.probabilities.float(), expected.probabilities, atol=TOLERANCES[dtype], rtol=0)
    torch.testing.assert_close(actual.expert_weights, expected.expert_weights, atol=TOLERANCES[dtype], rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [HALF, BFLOAT])
def test_gradients_under_autocast_are_finite(case, dtype, kind):
    model, inputs = case(kind, with_labels=True)
    model.train()
    with torch.autocast("cpu", dtype):
        loss = model(**inputs).loss
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in trained.values())
    assert sum(parameter.grad is not None for parameter in trained.values()) > len(trained) / 2


@pytest.mark.parametrize("kind", ["features", "media"])
def test_media_cast_by_hand_are_accepted(case, kind):
    model, inputs = case(kind)
    if kind == "features":
        inputs["audio_values"] = inputs["audio_values"] / 10
    expected = model.score_answers(**inputs).probabilities
    for name in ("audio_values", "video_values"):
        inputs[name] = inputs[name].half()
    torch.testing.assert_close(model.score_answers(**inputs).probabilities, expected, atol=0.01, rtol=0)


def test_batch_keeps_media_in_float32(case):
    _, inputs = case("media")
    values = inputs["audio_values"].clone()
    moved = inputs.to("meta", HALF)
    assert moved["audio_values"].dtype == torch.float32
    assert moved["audio_values"].device.type == "meta"
    _, inputs = case("media")
    assert torch.equal(inputs.to(dtype=BFLOAT)["audio_values"], values)
    assert inputs["input_ids"].dtype == torch.int64


# ---- modules by themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [HALF, BFLOAT])
def test_silence_under_autocast_is_finite(make_encoder_config, dtype):
    stem = EGMFWaveformStem(make_encoder_config("waveform"))
    mask = torch.ones(1, 1600, dtype=torch.bool)
    expected, _ = stem(torch.zeros(1, 1600), mask)
    with torch.autocast("cpu", dtype):
        actual, _ = stem(torch.zeros(1, 1600, dtype=dtype), mask)
    assert torch.equal(actual, expected)
    actual, _ = stem.to(dtype)(torch.zeros(1, 1600, dtype=dtype), mask)
    assert torch.equal(actual, expected)


def test_statistics_of_features_survive_a_cast(make_encoder_config):
    stem = EGMFFeatureStem(make_encoder_config("features"))
    stem.mean.fill_(1e6)
    stem.std.fill_(1e-4)
    stem.half()
    assert stem.mean.dtype == stem.projection.weight.dtype == torch.float32
    assert stem.mean[0] == 1e6
    assert stem.std[0] == pytest.approx(1e-4)


def test_moves_still_apply():
    module = EGMFFloat32Module()
    module.layer = nn.Linear(2, 2)
    assert module.double().layer.weight.dtype == torch.float32
    assert module.to("meta", BFLOAT).layer.weight.device.type == "meta"
    assert module.layer.weight.dtype == torch.float32
    assert module.to_empty(device="cpu").layer.weight.device.type == "cpu"


# ---- accelerators --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (6, 6), (6, 9), (7, 4), (2, 3), (1, 5)])
def test_average_over_grid_equals_adaptive_pooling(size):
    states = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.adaptive_avg_pool2d(states, 4)
    torch.testing.assert_close(average_over_grid(states, 4), expected, atol=1e-6, rtol=0)


class RecordOperations(TorchDispatchMode):
    """Records what Apple GPUs lack: float64 tensors, and adaptive pooling of sides that are no multiples."""

    def __init__(self):
        super().__init__()
        self.missing = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        outputs = output if isinstance(output, tuple | list) else [output]
        if any(isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 for tensor in outputs):
            self.missing.add(f"{function} in float64")
        if "adaptive_avg_pool" in str(function):
            sides = zip(args[0].shape[-2:], args[1], strict=True)
            if any(before % after for before, after in sides):
                self.missing.add(str(function))
        return output


@pytest.mark.parametrize("kind", KINDS)
def test_no_operation_is_missing_on_apple_gpus(case, make_encoder_config, make_model, kind):
    model, inputs = case(kind, with_labels=True)
    if kind == "media":  # frames of 24 pixels become 6 x 6 and then a grid of 4 x 4
        frames = make_encoder_config("frames", "video", frame_height=24, frame_width=24)
        model = make_model("waveform", frames)
        inputs["video_values"] = torch.zeros(*inputs["video_values"].shape[:3], 24, 24)
    with RecordOperations() as record:
        model(**inputs).loss.backward()
    labels = inputs.pop("labels")
    answers = torch.arange(2, 8).reshape(1, 3, 2).expand(len(labels), -1, -1)
    with RecordOperations() as record_of_answers:
        model.score_answers(**inputs, answer_ids=answers)
    assert record.missing | record_of_answers.missing == set()


def test_sources_move_to_the_cpu_before_float64():
    offenders = []
    for package in (modeling_egmf, training):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if re.search(r"torch\.(float64|double)\b|(?<!\.cpu\(\))\.double\(\)", line):
                    offenders.append(f"{path.name}:{number}")
    assert offenders == []
