"""Every number of an EGMF model. Those of a new one are checked by the training code, before it is built.

`EGMFConfig` nests the language model's own (`text_config`, any causal LM of `transformers`) and an `EGMFEncoderConfig`
for each of audio and video. Next: encoders_egmf.py, fusion_egmf.py, experts_egmf.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


PIPELINE_TASK = "multimodal-emotion-recognition"

# The paper's three experts as data: name, hidden width as a fraction of the fusion width, activation.
PAPER_EXPERTS = (
    {"name": "local", "bottleneck_ratio": 8, "activation": "mish"},
    {"name": "semantic", "bottleneck_ratio": 4, "activation": "gelu"},
    {"name": "global", "bottleneck_ratio": 2, "activation": "silu"},
)


def _as_config(value: Any, name: str) -> PreTrainedConfig | None:
    """A nested configuration from a dict as stored in config.json, without the local path it may remember."""
    if isinstance(value, dict):
        if "model_type" not in value:
            raise ValueError(f"`{name}` has no `model_type`, so its class is unknown. Give a transformers config.")
        value = AutoConfig.for_model(**value)
    if isinstance(value, PreTrainedConfig):
        value._name_or_path = ""
    return value


@contextmanager
def _attention_kept(owner: PreTrainedConfig, *configs: PreTrainedConfig | None) -> Iterator[None]:
    """Where the owner asks for nothing, its None must not be handed down to models that are built already."""
    before = [(config, config._attn_implementation) for config in configs if config is not None]
    yield
    if owner._attn_implementation is None:
        for config, implementation in before:
            config._attn_implementation = implementation


@strict
class EGMFEncoderConfig(PreTrainedConfig):
    """How one modality becomes one token.

    Args:
        input_type: `"features"` for precomputed vectors (T, feature_size), `"waveform"` for mono samples (S,) in
            [-1, 1], `"frames"` for images (T, 3, height, width).
        feature_size: width of one precomputed vector; only for `"features"`.
        backbone_config: configuration of a pretrained audio or vision encoder of `transformers`, or None for our
            own small one that trains from scratch.
        backbone_id, backbone_revision: where a frozen backbone's weights are fetched from.
        backbone_trainable: train the backbone and store it in the checkpoint.
        sequence_encoder: `"gru"` (bidirectional), `"transformer"`, or `"none"` to pool the vectors as they are.
        hidden_size, num_layers, num_attention_heads, dropout: of the sequence encoder.
        sampling_rate (Hz), num_mel_bins, window_seconds, hop_seconds: log-mel front end of `"waveform"`.
        frame_height, frame_width: pixels of one frame.
        conv_channels: channels of the strided convolutions of our own small encoders.
    """

    model_type = "egmf_encoder"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    input_type: Literal["features", "waveform", "frames"] = "features"
    feature_size: int = 64
    backbone_config: dict | PreTrainedConfig | None = None
    backbone_id: str | None = None
    backbone_revision: str | None = None
    backbone_trainable: bool = False
    sequence_encoder: Literal["gru", "transformer", "none"] = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    num_attention_heads: int = 4
    dropout: float = 0.1
    sampling_rate: int = 16000
    num_mel_bins: int = 64
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    frame_height: int = 64
    frame_width: int = 64
    conv_channels: list[int] | tuple[int, ...] = (32, 64, 128)

    def __post_init__(self, **kwargs):
        self.backbone_config = _as_config(self.backbone_config, "backbone_config")
        with _attention_kept(self, self.backbone_config):
            super().__post_init__(**kwargs)


@strict
class EGMFConfig(PreTrainedConfig):
    """Configuration of an EGMF model.

    Args:
        text_config: configuration of the language model (any causal LM that takes `inputs_embeds`).
        text_model_id, text_model_revision: where the frozen language model lies: a Hub id, a path, or a path
            relative to the checkpoint's folder. Set: the checkpoint is *light*. None: it is *full*.
        text_model_fingerprint: a hash over a piece of the language model's weights, to notice other weights.
        audio_config, video_config: one `EGMFEncoderConfig` each, or None if the model has no such modality.
        fusion_hidden_size: width H of the fusion (the paper's d_h).
        fusion_attention_heads, fusion_dropout: of the two attentions of Eq. 1 and 2.
        bidirectional_attention: let the audio and video tokens attend to the text before the text attends to
            them. The paper mentions it; its equations do not have it.
        experts: one dict an expert with `name`, `bottleneck_ratio` and `activation`.
        num_pseudo_tokens: how many soft tokens stand for the fused vector in the prompt.
        pseudo_token_projection: `"repeat"` (the paper: one projection, repeated) or `"separate"` (one a token).
        lora: keyword arguments of `peft.LoraConfig` (`r`, `lora_alpha`, `target_modules`, ...), or None.
        placeholder_token_id: id of the placeholder that the pseudo tokens replace.
    """

    model_type = "egmf"
    sub_configs: ClassVar = {"text_config": AutoConfig, "audio_config": AutoConfig, "video_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    text_model_id: str | None = None
    text_model_revision: str | None = None
    text_model_fingerprint: str | None = None
    audio_config: dict | PreTrainedConfig | None = None
    video_config: dict | PreTrainedConfig | None = None
    fusion_hidden_size: int = 256
    fusion_attention_heads: int = 4
    fusion_dropout: float = 0.1
    bidirectional_attention: bool = False
    experts: list[dict] | tuple[dict, ...] = PAPER_EXPERTS
    num_pseudo_tokens: int = 4
    pseudo_token_projection: Literal["repeat", "separate"] = "repeat"
    lora: dict | None = None
    placeholder_token_id: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.text_config = _as_config(self.text_config, "text_config") or AutoConfig.for_model("llama")
        for name in ("audio_config", "video_config"):
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, EGMFEncoderConfig(**{k: v for k, v in value.items() if k != "model_type"}))
        self.experts = [dict(expert) for expert in self.experts]
        self.tie_word_embeddings = bool(self.text_config.get_text_config().tie_word_embeddings)
        encoders = [config for config in (self.audio_config, self.video_config) if config is not None]
        with _attention_kept(self, self.text_config, *encoders, *(config.backbone_config for config in encoders)):
            super().__post_init__(**kwargs)
        model = "modeling_egmf.EGMFForConditionalGeneration"
        self.auto_map = {"AutoConfig": "configuration_egmf.EGMFConfig"}
        self.auto_map |= dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM"), model)
        # Carried along by the processor, which `pipeline` needs as well.
        self.custom_pipelines = {PIPELINE_TASK: {"impl": "pipeline_egmf.EGMFPipeline", "pt": ["AutoModel"]}}

    @property
    def expert_names(self) -> list[str]:
        return [expert["name"] for expert in self.experts]
