"""The settings of a new model, checked before it is built: each error has the bound, the value and what to change.

A stored model was checked when it was new, so this is no part of the code that travels with it.
"""

from collections.abc import Iterator

from transformers.activations import ACT2FN

from modeling_egmf import EGMFConfig, EGMFEncoderConfig


ENCODER_COUNTS = ("feature_size", "hidden_size", "num_layers", "num_attention_heads", "sampling_rate", "num_mel_bins")


def check_config(config: EGMFConfig) -> None:
    """Refuse what cannot be built.

    Raises:
        ValueError: everything that is wrong, one sentence each.
    """
    wrong = list(_of_fusion(config))
    for name, raw in (("audio", "waveform"), ("video", "frames")):
        encoder = getattr(config, f"{name}_config")
        if encoder is not None:
            wrong += [f"{name}_config: {said}" for said in _of_encoder(encoder)]
            if encoder.input_type not in ("features", raw):
                wrong.append(f"`{name}_config.input_type` is {encoder.input_type!r}; use 'features' or {raw!r}.")
    if wrong:
        raise ValueError("\n".join(wrong))


def _below_one(config: EGMFConfig | EGMFEncoderConfig, *names: str) -> Iterator[str]:
    yield from (f"`{n}` is {getattr(config, n)}; it must be at least 1." for n in names if getattr(config, n) < 1)


def _of_encoder(config: EGMFEncoderConfig) -> Iterator[str]:
    yield from _below_one(config, *ENCODER_COUNTS, "frame_height", "frame_width")
    width, heads = config.hidden_size, config.num_attention_heads
    for name in ("window_seconds", "hop_seconds"):
        if round(getattr(config, name) * config.sampling_rate) < 1:
            yield f"`{name}` is {getattr(config, name)}; it must be at least one sample long."
    if not 0 <= config.dropout < 1:
        yield f"`dropout` is {config.dropout}; it must lie in [0, 1)."
    if config.sequence_encoder == "gru" and width % 2:
        yield f"`hidden_size` is {width}; a bidirectional GRU needs an even one."
    if heads > 0 and width % heads:
        yield f"`hidden_size` {width} is no multiple of `num_attention_heads` {heads}."
    if config.input_type == "features" and config.backbone_config is not None:
        yield "Precomputed features take no backbone: leave out `backbone_config`, or give raw media."


def _of_fusion(config: EGMFConfig) -> Iterator[str]:
    yield from _below_one(config, "fusion_hidden_size", "fusion_attention_heads", "num_pseudo_tokens")
    width, heads = config.fusion_hidden_size, config.fusion_attention_heads
    if heads > 0 and width % heads:
        yield f"`fusion_hidden_size` {width} is no multiple of `fusion_attention_heads` {heads}."
    if not 0 <= config.fusion_dropout < 1:
        yield f"`fusion_dropout` is {config.fusion_dropout}; it must lie in [0, 1)."
    if not config.experts:
        yield "`experts` is empty; at least one expert is needed."
    names = [expert.get("name") for expert in config.experts]
    if len(set(names)) < len(names):
        yield f"Two experts share a name: {names}. Give each its own."
    for expert in config.experts:
        if set(expert) != {"name", "bottleneck_ratio", "activation"}:
            yield f"An expert needs exactly name, bottleneck_ratio and activation; got {expert}."
        elif expert["activation"] not in ACT2FN:
            yield f"Unknown activation {expert['activation']!r}; transformers.activations lists them."
        elif not 1 <= expert["bottleneck_ratio"] <= width:
            yield f"bottleneck_ratio of {expert} must lie in [1, {width}]."
