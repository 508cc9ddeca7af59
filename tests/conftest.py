"""Shared fixtures: a tiny tokenizer, language model, EGMF model and processor, built in code, offline and seeded.

    tiny_tokenizer ─► make_processor(audio=..., video=...) ─► inputs ─┐
    tiny_text_config ─► make_model(audio=..., video=...) ─────────────┴─► model.score_answers(**inputs)

`make_model` and `make_processor` take the same `audio` and `video` ("features", "waveform" or "frames", None), so that
the model accepts what the processor returns.
"""

import copy
import gc
import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor, EGMFTask
from tests.helpers.tiny_tokenizer import train_tokenizer
from tests.helpers.warm_python import TRAINING, WarmPython


AUDIO_FEATURE_SIZE = 6
VIDEO_FEATURE_SIZE = 5
SAMPLING_RATE = 16_000
FRAME_SIZE = 16
NUM_FRAMES = 4
NUM_PSEUDO_TOKENS = 3

LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


# The files with the longest tests: they come first, so that no worker is left alone with one of them at the end.
LONGEST_FILES = (
    "test_distributed.py",
    "test_interrupted_runs.py",
    "test_round_trip.py",
    "test_run.py",
    "test_checkpoints_egmf_fresh_process.py",
    "test_fresh_process.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The models are too small for a second thread to pay off."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _frozen_modules():
    """The garbage collector, which `Trainer` calls often, need not look at everything that was imported."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_flush_to_disk():
    """No file of a test needs to survive a crash of the machine, and `os.fsync` takes 20 ms for each one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A temporary folder that all processes of the test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def warm_python(shared_folder):
    """An executable like `sys.executable`, for fresh processes: torch is imported already, no library above it."""
    folder = shared_folder / "warm"
    folder.mkdir(exist_ok=True)
    with WarmPython(folder) as executable:
        yield executable


@pytest.fixture(scope="session")
def warm_training_python(shared_folder, warm_python):
    """An executable like `sys.executable` for processes of training: our own modules are imported already."""
    folder = shared_folder / "warm_training"
    folder.mkdir(exist_ok=True)
    with WarmPython(folder, TRAINING, warm_python) as executable:
        yield executable


@pytest.fixture(scope="session")
def trained_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few lines of English and Chinese. Read only: `tiny_tokenizer` is a copy."""
    return train_tokenizer()


@pytest.fixture
def tiny_tokenizer(trained_tokenizer) -> PreTrainedTokenizerFast:
    """A copy that a test may change. Texts begin with <s> (0); </s> (1) ends them; there is no padding token."""
    return copy.deepcopy(trained_tokenizer)


def _text_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
    )


@pytest.fixture
def tiny_text_config(trained_tokenizer) -> LlamaConfig:
    """A two-layer Llama over the vocabulary of `tiny_tokenizer`, with weights large enough that inputs matter."""
    return _text_config(len(trained_tokenizer))


@pytest.fixture(scope="session")
def make_language_model(trained_tokenizer):
    """`make_language_model(seed=0, dtype=torch.float32, **text_config_fields)` -> a tiny random causal LM."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float32, **fields):
        config = _text_config(len(trained_tokenizer))
        for name, value in fields.items():
            setattr(config, name, value)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)
        model.config.dtype = dtype
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_encoder_config():
    """`make_encoder_config(kind, modality, **fields)` -> a tiny `EGMFEncoderConfig`; None for kind None."""

    def make(kind: str | EGMFEncoderConfig | None, modality: str = "audio", **fields) -> EGMFEncoderConfig | None:
        if kind is None or isinstance(kind, EGMFEncoderConfig):
            return kind
        defaults = {
            "input_type": kind,
            "feature_size": AUDIO_FEATURE_SIZE if modality == "audio" else VIDEO_FEATURE_SIZE,
            "hidden_size": 8,
            "num_attention_heads": 2,
            "dropout": 0.0,
            "num_mel_bins": 16,
            "sampling_rate": SAMPLING_RATE,
            "frame_height": FRAME_SIZE,
            "frame_width": FRAME_SIZE,
            "conv_channels": (6, 8),
        }
        return EGMFEncoderConfig(**{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def make_config(trained_tokenizer, make_encoder_config):
    """`make_config(audio="features", video="features", lora=True, **config_fields)` -> a tiny `EGMFConfig`.

    `audio` and `video` are a kind, an `EGMFEncoderConfig`, or None; `lora` is True, None, or arguments of LoraConfig.
    """

    def make(audio="features", video="features", lora: bool | dict | None = True, **fields) -> EGMFConfig:
        text_config = fields.pop("text_config", None) or _text_config(len(trained_tokenizer))
        defaults = {
            "text_config": text_config,
            "audio_config": make_encoder_config(audio, "audio"),
            "video_config": make_encoder_config(video, "video"),
            "fusion_hidden_size": 16,
            "fusion_attention_heads": 2,
            "fusion_dropout": 0.0,
            "num_pseudo_tokens": NUM_PSEUDO_TOKENS,
            "lora": dict(LORA) if lora is True else lora,
            "placeholder_token_id": text_config.vocab_size,
        }
        return EGMFConfig(**{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def make_model(make_config, make_language_model):
    """`make_model(audio="features", video="features", seed=0, dtype=torch.float32, lively=True, **config_fields)`.

    An `EGMFForConditionalGeneration` in eval mode around a tiny random language model of `dtype`. `lively` gives every
    trainable parameter random values, LoRA's zeros included, so that each of them moves the answer. `language_model`,
    `audio_backbone` and `video_backbone` may be given.
    """

    def make(
        audio="features",
        video="features",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        lively: bool = True,
        language_model=None,
        audio_backbone=None,
        video_backbone=None,
        **fields,
    ) -> EGMFForConditionalGeneration:
        if language_model is None:
            language_model = make_language_model(seed, dtype)
        fields.setdefault("text_config", language_model.config)
        config = make_config(audio, video, **fields)
        torch.manual_seed(seed + 1)
        model = EGMFForConditionalGeneration(config, language_model, audio_backbone, video_backbone).eval()
        return _enliven(model, seed + 2) if lively else model

    return make


def _enliven(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(scope="session")
def enliven():
    """`enliven(module, seed=0)` adds noise to every trainable parameter, so that each one has an effect."""
    return _enliven


@pytest.fixture(scope="session")
def make_processor(trained_tokenizer):
    """`make_processor(audio="features", video="features", **arguments)` -> a processor that fits `make_model`."""

    def make(audio="features", video="features", **arguments) -> EGMFProcessor:
        defaults = {
            "num_pseudo_tokens": NUM_PSEUDO_TOKENS,
            "audio_input": audio,
            "audio_feature_size": AUDIO_FEATURE_SIZE if audio == "features" else None,
            "sampling_rate": SAMPLING_RATE,
            "video_input": video,
            "video_feature_size": VIDEO_FEATURE_SIZE if video == "features" else None,
            "num_frames": NUM_FRAMES,
            "frame_height": FRAME_SIZE,
            "frame_width": FRAME_SIZE,
        }
        return EGMFProcessor(copy.deepcopy(trained_tokenizer), **{**defaults, **arguments})

    return make


@pytest.fixture
def two_label_task() -> EGMFTask:
    """A small task besides the built-in ones; one label is a prefix of the other."""
    return EGMFTask("mood", "classification", labels={"low": "joy", "high": "joy and joy"}, prompt="\nThe mood is")


@pytest.fixture(scope="session")
def make_samples():
    """`make_samples(count=3, audio="features", video="features", seed=0)` -> a list of the processor's arguments.

    Samples differ in text, and in the length of their random media: `audio_features` / `video_features`
    (T, F), `audio` (samples,) with `sampling_rate`, or `video` (T, y, x, 3) uint8 with `fps`.
    """
    texts = ("I'm fine, thank you.", "真没想到！我很好", "no", "That was a wonderful film, I can't believe it!", "好")

    def make(count: int = 3, audio="features", video="features", seed: int = 0) -> list[dict]:
        rng = np.random.default_rng(seed)
        samples = []
        for i in range(count):
            sample = {"text": texts[i % len(texts)]}
            if audio == "features":
                sample["audio_features"] = rng.normal(size=(3 + 2 * i, AUDIO_FEATURE_SIZE)).astype(np.float32)
            elif audio == "waveform":
                sample["audio"] = rng.uniform(-0.5, 0.5, size=1600 + 777 * i).astype(np.float32)
                sample["sampling_rate"] = SAMPLING_RATE
            if video == "features":
                sample["video_features"] = rng.normal(size=(6 - i % 5, VIDEO_FEATURE_SIZE)).astype(np.float32)
            elif video == "frames":
                shape = (NUM_FRAMES + i, FRAME_SIZE, FRAME_SIZE, 3)
                sample["video"] = rng.integers(0, 256, size=shape).astype(np.uint8)
                sample["fps"] = 12.5
            samples.append(sample)
        return samples

    return make


@pytest.fixture(scope="session")
def process():
    """`process(processor, samples, **arguments)` -> one call of the processor for a list of samples."""

    def run(processor: EGMFProcessor, samples: list[dict], **arguments):
        names = {name for sample in samples for name in sample}
        return processor(**{name: [sample.get(name) for sample in samples] for name in names}, **arguments)

    return run


@pytest.fixture(scope="session")
def media_batch():
    """`media_batch(audio="features", video="features", batch_size=3, seed=0)` -> audio and video values and masks.

    Tensors as the model takes them, each sample with another length, with zeros after its real steps.
    """

    def make(audio="features", video="features", batch_size: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "features": {"audio": (AUDIO_FEATURE_SIZE,), "video": (VIDEO_FEATURE_SIZE,)},
            "waveform": {"audio": ()},
            "frames": {"video": (3, FRAME_SIZE, FRAME_SIZE)},
        }
        batch = {}
        for modality, kind in (("audio", audio), ("video", video)):
            if kind is None:
                continue
            lengths = [(1600 + 777 * i) if kind == "waveform" else (2 + 2 * i) for i in range(batch_size)]
            mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
            shape = shapes[kind][modality]
            values = torch.rand((*mask.shape, *shape), generator=generator) * 2 - 1
            batch[f"{modality}_values"] = values * mask.view(*mask.shape, *[1] * len(shape))
            batch[f"{modality}_mask"] = mask
        return batch

    return make
