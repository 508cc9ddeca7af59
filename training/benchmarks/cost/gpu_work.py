"""Workload of the GPU benchmark: a model with random weights, its batches, and their floating-point operations.

Model FLOPs count each operation once (no recomputation under gradient checkpointing), with n parameters in the frozen
matrices, r in LoRA, S tokens per sample and K tokens with logits:

    per token    2 n forward, 2 n backward for its input (a frozen matrix needs no gradient), 6 r
    attention    4 S A d forward and 8 S A d backward per layer and token, not halved for the causal mask
    logits       2 D V forward and 2 D V backward for each of the K
"""

# B batch  S tokens per sample  K tokens with logits  P pseudo tokens  D width  V vocabulary  A heads  d head size

import argparse

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration

from ...model.backbones import backbone_config
from .memory_formulas import text_shape


NUM_LABELS = 7
CLIP_SECONDS = 2.5
NUM_FRAMES = 8
FIRST_TOKENS = 4  # before the placeholders
ORDINARY_TOKEN = 3  # the first id that is not special


def tiny_config() -> PreTrainedConfig:
    """GLM3's architecture, small enough for a CPU."""
    return backbone_config(
        "glm3-6b",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
    )


def model_config(text_config: PreTrainedConfig, arguments: argparse.Namespace) -> EGMFConfig:
    """Configuration of EGMF around the language model, in a matching size."""
    is_tiny = arguments.shape == "tiny"
    is_raw = arguments.media == "raw"
    encoder = {"hidden_size": 16, "conv_channels": (8, 16)} if is_tiny else {"hidden_size": 128}
    audio_input = "waveform" if is_raw else "features"
    video_input = "frames" if is_raw else "features"
    return EGMFConfig(
        text_config=AutoConfig.for_model(**text_config.to_dict()),
        audio_config=EGMFEncoderConfig(input_type=audio_input, feature_size=64, **encoder),
        video_config=EGMFEncoderConfig(input_type=video_input, feature_size=64, **encoder),
        fusion_hidden_size=32 if is_tiny else 256,
        placeholder_token_id=text_config.vocab_size,
        lora={"r": arguments.lora_r, "lora_alpha": 2 * arguments.lora_r, "target_modules": ["q_proj", "v_proj"]},
    )


def build_model(arguments: argparse.Namespace) -> EGMFForConditionalGeneration:
    """EGMF with random weights, on the device."""
    text_config = tiny_config() if arguments.shape == "tiny" else backbone_config(arguments.shape)
    text_config.dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    with torch.device(arguments.device):
        language_model = AutoModelForCausalLM.from_config(text_config, dtype=text_config.dtype)
        model = EGMFForConditionalGeneration(model_config(text_config, arguments), language_model)
    if arguments.gradient_checkpointing:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        model.language_model.enable_input_require_grads()
    return model.to(arguments.device)


def media_shapes(config: EGMFConfig, media: str) -> dict[str, tuple[int, ...]]:
    """Shape of one clip per modality; features have MELD's shapes."""
    if media == "features":
        return {"audio": (157, 64), "video": (32, 64)}
    num_samples = round(CLIP_SECONDS * config.audio_config.sampling_rate)
    frame = (3, config.video_config.frame_height, config.video_config.frame_width)
    return {"audio": (num_samples,), "video": (NUM_FRAMES, *frame)}


def make_batch(
    model: EGMFForConditionalGeneration, size: int, arguments: argparse.Namespace, labeled: bool
) -> dict[str, torch.Tensor]:
    """A batch like the processor's for clips of 2.5 seconds: prompts of `length` tokens, without padding.

    Args:
        model: its config gives sizes and placeholders.
        size: number of samples.
        arguments: `length`, `words`, `answer_tokens`, `media` and `device` are used.
        labeled: True adds `labels`, for training; False adds `answer_ids`, for `score_answers`.
    """
    generator = torch.Generator().manual_seed(size)
    config = model.config
    length = arguments.length
    vocabulary = config.text_config.vocab_size
    first_word = FIRST_TOKENS + config.num_pseudo_tokens
    ids = torch.randint(ORDINARY_TOKEN, vocabulary, (size, length), generator=generator)  # (B, S)
    ids[:, FIRST_TOKENS:first_word] = config.placeholder_token_id
    utterance_mask = torch.zeros(size, length, dtype=torch.long)
    utterance_mask[:, first_word : first_word + arguments.words] = 1
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "utterance_mask": utterance_mask}
    for modality, shape in media_shapes(config, arguments.media).items():
        batch[f"{modality}_values"] = torch.randn(size, *shape, generator=generator) * 0.1
        batch[f"{modality}_mask"] = torch.ones(size, shape[0], dtype=torch.bool)
    if labeled:
        prompt_positions = torch.arange(length - arguments.answer_tokens)
        batch["labels"] = ids.clone().index_fill_(1, prompt_positions, -100)
    else:
        answers = torch.randint(ORDINARY_TOKEN, vocabulary, (NUM_LABELS, arguments.answer_tokens), generator=generator)
        answers[:, 0] = torch.arange(ORDINARY_TOKEN, ORDINARY_TOKEN + NUM_LABELS)
        answers[NUM_LABELS // 2 :, 1:] = -1  # some labels have one token, some several
        batch["answer_ids"] = answers.expand(size, -1, -1)
    return {name: value.to(arguments.device) for name, value in batch.items()}


def bare_inputs(model: EGMFForConditionalGeneration, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tokens for the bare language model, with an ordinary token at each placeholder."""
    ids = batch["input_ids"]
    is_placeholder = ids == model.config.placeholder_token_id
    return {
        "input_ids": ids.masked_fill(is_placeholder, ORDINARY_TOKEN),
        "attention_mask": batch["attention_mask"],
        "position_ids": torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
    }


def training_flops(model: EGMFForConditionalGeneration, size: int, length: int, logit_tokens: int) -> int:
    """Floating-point operations of one training step of the language model with LoRA.

    Args:
        model: the model; only its language model is counted.
        size: number of samples.
        length: tokens per sample.
        logit_tokens: tokens with logits per sample.
    """
    shape = text_shape(model.config.text_config)
    output = model.get_output_embeddings().weight.numel()
    lora = 0
    frozen = 0
    for name, module in model.language_model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if "lora_" in name:
            lora += module.weight.numel()
        else:
            frozen += module.weight.numel()
    frozen -= output
    attention = 12 * length * shape.layers * shape.heads * shape.head_size
    per_token = 4 * frozen + 6 * lora + attention
    return size * (length * per_token + 4 * logit_tokens * output)
