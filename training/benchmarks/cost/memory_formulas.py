"""Memory of a frozen language model with LoRA, as formulas that test_memory_formulas.py verifies.

Training keeps for the backward pass, for each token and layer:

    norms       8 D                              the input of two RMSNorms in float32
    attention   4 A d b + 4 A + S b              queries, keys and values repeated over the heads, output; the
                                                 softmax's sums; the padding mask
      eager     3 A d b + A S (4 + b)            no output, but A S probabilities, twice below 32 bits
    MLP         3 F b                            gate, activated gate, up
    LoRA        (4 + m) I + 4 r                  for each adapted layer: its input in float32, the dropout mask, and
                                                 the r numbers between A and B; without dropout m = 0

with b bytes per number (2 in 16 bits), m = 1 on a GPU and 4 on a CPU. A frozen matrix keeps nothing, because it needs
no gradient. The peak is either at the loss, with 4 D per token of the final norm and V (b + 8) for each of the K
tokens whose logits are needed, or in the widest step of the last layer's backward pass, 3 F b + 6 D per token. With
gradient checkpointing, only each layer's input is kept, D b, and one layer at a time is recomputed.

Answering keeps keys and values, 2 G d b per token and layer, and needs (4 F + 4 D) b per token for its activations;
eager attention needs A S (4 + b) more. 4-bit weights (NF4) take half a byte each, plus a scale for every 64 of them: 4
bytes, or with double quantization 1 byte, plus 4 bytes for every 256 scales.

Next: `memory_estimate.py` adds up parameters, optimizer and activations.
"""

# D width  F intermediate size  A heads  G key-value heads  d head size  V vocabulary  I inputs of an adapted layer
# r rank of LoRA  S tokens per sample  K tokens with logits  b bytes per number

import math
from typing import TYPE_CHECKING, NamedTuple


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


GPU_GIGABYTES = (16, 24, 40, 48, 80, 141)
# Memory reserved by the GPU (one of 16 GB may report less than 15 GiB), and CUDA's context: not yet measured on a GPU.
USABLE_SHARE = 0.93
CONTEXT_BYTES = 600 * 2**20
FLOAT32_BYTES = 4
NF4_BLOCK = 64  # weights that share a scale


class TextShape(NamedTuple):
    """The sizes of a language model that determine its activations."""

    layers: int
    width: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int


class Adapters(NamedTuple):
    """LoRA in the complete language model: total inputs and ranks of all adapted layers, and the dropout."""

    inputs: int
    ranks: int
    dropout: float


class Batch(NamedTuple):
    """Samples that are processed together."""

    samples: int
    length: int  # tokens per sample, including padding
    logit_tokens: int  # tokens per sample whose logits are computed


class Precision(NamedTuple):
    """Storage of numbers and kind of attention."""

    itemsize: int  # bytes per number
    eager: bool = False  # attention without a fused kernel
    dropout_bytes: int = 1  # bytes per entry of a dropout mask: 1 on a GPU, 4 on a CPU


def text_shape(config: "PreTrainedConfig") -> TextShape:
    """The sizes in a language model's configuration."""
    heads = config.num_attention_heads
    return TextShape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )


def kept_per_token(shape: TextShape, adapters: Adapters, precision: Precision, length: int) -> float:
    """Bytes per token that all layers together keep for the backward pass."""
    itemsize = precision.itemsize
    head = shape.head_size * itemsize
    if precision.eager:
        probabilities = FLOAT32_BYTES + (itemsize if itemsize < FLOAT32_BYTES else 0)
        attention = shape.heads * (3 * head + length * probabilities)
    else:
        attention = shape.heads * (4 * head + FLOAT32_BYTES) + length * itemsize
    layer = 8 * shape.width + attention + 3 * shape.intermediate * itemsize
    per_input = FLOAT32_BYTES + (precision.dropout_bytes if adapters.dropout else 0)
    lora = adapters.inputs * per_input + FLOAT32_BYTES * adapters.ranks
    return shape.layers * layer + lora


def training_activations(
    shape: TextShape, adapters: Adapters, batch: Batch, precision: Precision, checkpointing: bool
) -> int:
    """Bytes of the language model's activations at the peak of a training step, without the weights' gradients.

    Args:
        shape: sizes of the language model.
        adapters: its LoRA.
        batch: the batch of one step.
        precision: precision of the language model.
        checkpointing: recompute activations instead of keeping them.
    """
    itemsize = precision.itemsize
    kept = kept_per_token(shape, adapters, precision, batch.length)
    at_loss = kept
    in_layer = kept
    if checkpointing:
        at_loss = shape.layers * shape.width * itemsize  # the layers' inputs
        in_layer = at_loss + kept / shape.layers
    logits = batch.logit_tokens * shape.vocabulary * (itemsize + 8)
    at_loss = batch.length * (at_loss + 4 * shape.width) + logits
    in_layer = batch.length * (in_layer + 3 * shape.intermediate * itemsize + 6 * shape.width)
    return round(batch.samples * max(at_loss, in_layer))


def cache_per_token(shape: TextShape, itemsize: int) -> int:
    """Bytes of keys and values of one token."""
    return 2 * shape.layers * shape.key_value_heads * shape.head_size * itemsize


def answering_activations(shape: TextShape, batch: Batch, precision: Precision) -> int:
    """Bytes at the peak of a prefill, without the cache."""
    itemsize = precision.itemsize
    per_token = 4 * (shape.intermediate + shape.width) * itemsize
    if precision.eager:
        per_token += shape.heads * batch.length * (FLOAT32_BYTES + itemsize)
    logits = batch.logit_tokens * shape.vocabulary * (itemsize + 8)
    return batch.samples * (batch.length * per_token + logits)


def four_bit_bytes(num_weights: int, double_quantization: bool = True) -> int:
    """Bytes of one matrix in NF4, including its tables."""
    blocks = math.ceil(num_weights / NF4_BLOCK)
    scales = FLOAT32_BYTES * blocks
    if double_quantization:
        scales = blocks + FLOAT32_BYTES * math.ceil(blocks / 256) + FLOAT32_BYTES * 256 + FLOAT32_BYTES
    code = FLOAT32_BYTES * 16
    return math.ceil(num_weights / 2) + scales + code


def smallest_gpu(num_bytes: float) -> int | None:
    """Size in GB of the smallest common GPU with enough usable memory; None if there is none."""
    for gigabytes in GPU_GIGABYTES:
        if num_bytes <= USABLE_SHARE * gigabytes * 2**30:
            return gigabytes
    return None
