"""How many bytes a frozen language model with LoRA takes, as formulas that tests/training/benchmarks/test_memory.py checks.

Training, for each token and layer, keeps for the backward pass:

    norms       8 D                              the input of two RMSNorms in float32
    attention   4 A d b + 4 A + S b              queries, keys and values repeated over the heads, output; the
                                                 softmax's sums; the padding mask
      eager     3 A d b + A S (4 + b)            no output, but A S probabilities, twice below 32 bit
    MLP         3 F b                            gate, activated gate, up
    LoRA        (4 + m) I + 4 r                  for each adapted layer: its input in float32, what dropout kept, and
                                                 the r numbers between A and B; without dropout m = 0

with b bytes a number (2 in 16 bit), m = 1 on a GPU and 4 on a CPU. A frozen matrix keeps nothing: its own gradient is
not asked for. The peak lies either at the loss, with 4 D a token of the final norm and V (b + 8) for each of the K
tokens whose logits are needed, or in the widest step of the last layer's backward pass, 3 F b + 6 D a token. With
gradient checkpointing only each layer's input is kept, D b, and one layer at a time is computed again.

Answering keeps keys and values, 2 G d b a token and layer, and works in (4 F + 4 D) b a token; eager attention in
A S (4 + b) more.
Weights in 4 bit (NF4) lie two to a byte, with a scale to 64 of them: 4 bytes, or quantized again 1 byte and 4 to 256.
"""

# D width  F intermediate size  A heads  G key-value heads  d head size  V vocabulary  I inputs of an adapted layer
# r rank of LoRA  S tokens of a sample  K tokens with logits  b bytes a number

import math
from typing import NamedTuple

from transformers import PreTrainedConfig


CARD_GIGABYTES = (16, 24, 40, 48, 80, 141)
# What a card keeps for itself, and CUDA's own context: measured on no card yet, chosen to be on the safe side.
USABLE_SHARE = 0.95
CONTEXT_BYTES = 600 * 2**20


class TextShape(NamedTuple):
    """The sizes of a language model that decide its activations."""

    layers: int
    width: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int


class Adapters(NamedTuple):
    """LoRA over the whole language model: inputs and ranks of all adapted layers added up, and its dropout."""

    inputs: int
    ranks: int
    dropout: float


class Batch(NamedTuple):
    """What goes through at once."""

    samples: int
    length: int  # tokens of a sample, padding included
    logit_tokens: int  # tokens of a sample whose logits are computed


def text_shape(config: PreTrainedConfig) -> TextShape:
    """Sizes from a language model's configuration."""
    heads = config.num_attention_heads
    return TextShape(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.vocab_size,
    )


def kept_per_token(
    shape: TextShape, adapters: Adapters, itemsize: int, length: int, eager: bool = False, dropout_bytes: int = 1
) -> float:
    """Bytes that all layers together keep for one token of the backward pass."""
    head = shape.head_size * itemsize
    if eager:
        attention = shape.heads * (3 * head + length * (4 + (itemsize if itemsize < 4 else 0)))
    else:
        attention = shape.heads * (4 * head + 4) + length * itemsize
    layer = 8 * shape.width + attention + 3 * shape.intermediate * itemsize
    lora = adapters.inputs * (4 + (dropout_bytes if adapters.dropout else 0)) + 4 * adapters.ranks
    return shape.layers * layer + lora


def training_activations(
    shape: TextShape,
    adapters: Adapters,
    batch: Batch,
    itemsize: int,
    checkpointing: bool,
    eager: bool = False,
    dropout_bytes: int = 1,
) -> int:
    """Bytes of activations of the language model at the peak of a training step, gradients of weights apart."""
    kept = kept_per_token(shape, adapters, itemsize, batch.length, eager, dropout_bytes)
    layer, inputs = kept / shape.layers, shape.layers * shape.width * itemsize
    at_loss, in_layer = (inputs, inputs + layer) if checkpointing else (kept, kept)
    logits = batch.logit_tokens * shape.vocabulary * (itemsize + 8)
    at_loss = batch.length * (at_loss + 4 * shape.width) + logits
    in_layer = batch.length * (in_layer + 3 * shape.intermediate * itemsize + 6 * shape.width)
    return round(batch.samples * max(at_loss, in_layer))


def cache_per_token(shape: TextShape, itemsize: int) -> int:
    """Bytes of keys and values of one token."""
    return 2 * shape.layers * shape.key_value_heads * shape.head_size * itemsize


def answering_activations(shape: TextShape, batch: Batch, itemsize: int, eager: bool = False) -> int:
    """Bytes at the peak of a prefill, the cache apart."""
    working = 4 * (shape.intermediate + shape.width) * itemsize
    if eager:
        working += shape.heads * batch.length * (4 + itemsize)
    logits = batch.logit_tokens * shape.vocabulary * (itemsize + 8)
    return batch.samples * (batch.length * working + logits)


def four_bit_bytes(weights: int, double_quantization: bool = True) -> int:
    """Bytes of one matrix of so many weights in NF4, its tables included."""
    blocks = math.ceil(weights / 64)
    scales = blocks + 4 * math.ceil(blocks / 256) + 4 * 256 + 4 if double_quantization else 4 * blocks
    return math.ceil(weights / 2) + scales + 4 * 16


def smallest_card(num_bytes: float) -> int | None:
    """The smallest common card, in GB, whose usable memory is enough; None if none of them is."""
    fitting = [card for card in CARD_GIGABYTES if num_bytes <= USABLE_SHARE * card * 2**30]
    return fitting[0] if fitting else None
