"""The model of the memory estimate equals the trained model, and is counted part by part."""

import copy

import pytest
import torch

from modeling_egmf import EGMFModel
from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.tensor_memory import kept_bytes
from training.benchmarks.cost.memory_formulas import Batch
from training.benchmarks.cost.memory_model import (
    Load,
    egmf_activations,
    meta_model,
    parameters_by_part,
    quantized_layers,
)
from training.model.backbones import backbone_config
from training.model.builder import build
from training.options import ModelArguments


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("glm3-6b", 6_243_584_000),
        ("glm-4-9b", 9_399_951_360),
        ("llama-3-8b", 8_030_261_248),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_backbones_have_the_published_number_of_parameters(backbone, parameters):
    model = meta_model(ModelArguments(audio="none", video="none"), backbone_config(backbone))
    assert parameters_by_part(model)["language model"] == {"total": parameters, "trainable": 0}
    assert {value.device.type for value in model.parameters()} == {"meta"}


def tensor_facts(model):
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: (tuple(value.shape), value.dtype, value.requires_grad) for name, value in tensors}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora_r": 0, "pseudo_token_projection": "separate", "bidirectional_attention": True},
        {"audio": "features", "audio_feature_size": 7, "video": "none", "sequence_encoder": "transformer"},
        {"text_model_dtype": "bfloat16", "lora_target_modules": ["q_proj", "gate_proj", "down_proj"]},
    ],
)
def test_meta_model_matches_the_trained_model(tmp_path, trained_tokenizer, options):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    arguments = ModelArguments(text_model_name_or_path=str(folder), **options)
    model, _ = build(arguments)
    assert tensor_facts(meta_model(arguments, backbone_config(folder))) == tensor_facts(model)


def test_parameters_by_part_by_hand(small_sizes):
    arguments = ModelArguments(
        audio="none", video="none", fusion_hidden_size=8, lora_r=3, lora_target_modules=["q_proj"], num_pseudo_tokens=2
    )
    parts = parameters_by_part(meta_model(arguments, backbone_config("llama-3-8b", **small_sizes)))
    width = small_sizes["hidden_size"]
    fusion = 8
    assert parts["LoRA"]["total"] == small_sizes["num_hidden_layers"] * 3 * (width + width)
    assert parts["encoders"]["total"] == 2 * fusion  # which of the two modalities a token is
    assert parts["pseudo tokens"]["total"] == 2 * fusion + (fusion + 1) * width + 1
    experts = sum(2 * fusion * hidden + hidden + fusion for hidden in (1, 2, 4))
    gates = sum(inputs * 3 + 3 + 3 * 3 + 3 for inputs in (fusion, fusion + 3))
    residual_gate = fusion + 1
    assert parts["experts"]["total"] == experts + gates + residual_gate
    assert parts.pop("language model")["trainable"] == 0
    assert all(counts["trainable"] == counts["total"] for counts in parts.values())


def test_four_bit_excludes_the_output_matrix_and_lora(make_text_model, small_sizes):
    model, _ = make_text_model("glm3-6b")
    layers = quantized_layers(model)
    assert len(layers) == 6 * small_sizes["num_hidden_layers"]  # q, k, v, o, gate and up in one, down
    for layer in layers:
        assert layer.weight.shape[0] != small_sizes["vocab_size"]
        assert min(layer.weight.shape) > 4


@pytest.mark.parametrize(("audio", "video"), [("waveform", "frames"), ("features", "none"), ("none", "features")])
def test_encoder_count_matches_a_batch(small_sizes, audio, video):
    """Four times the count of one sample is the memory kept by four samples, to a tenth."""
    arguments = ModelArguments(
        audio=audio, video=video, audio_feature_size=9, video_feature_size=9, frame_size=32, num_frames=3
    )
    config = meta_model(arguments, backbone_config("llama-3-8b", **small_sizes)).config
    model = EGMFModel(config).train()
    audio_shape = {"waveform": (8000,), "features": (25, 9)}.get(audio)
    video_shape = {"frames": (3, 3, 32, 32), "features": (3, 9)}.get(video)
    media = {}
    for modality, shape in (("audio", audio_shape), ("video", video_shape)):
        if shape is not None:
            media[f"{modality}_values"] = torch.zeros(4, *shape)
            media[f"{modality}_mask"] = torch.ones(4, shape[0], dtype=torch.bool)
    text = torch.zeros(4, 12, small_sizes["hidden_size"])
    kept = kept_bytes(lambda: model(text, torch.ones(4, 12), **media), model)
    load = Load(Batch(4, 96, 4), seconds=0.5, words=12)
    assert 4 * egmf_activations(config, load, num_frames=3) == pytest.approx(kept, rel=0.1)
