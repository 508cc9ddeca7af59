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
    """How one modality becomes one token."""

    model_type = "egmf_encoder"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    # Precomputed vectors (T, feature_size), mono samples (S,) in [-1, 1], or images (T, 3, height, width).
    input_type: Literal["features", "waveform", "frames"] = "features"
    feature_size: int = 64
    backbone_config: dict | PreTrainedConfig | None = None  # a pretrained encoder's; None: our own, from scratch
    backbone_id: str | None = None  # where a frozen backbone's weights are fetched from
    backbone_revision: str | None = None
    backbone_trainable: bool = False  # train the backbone and store it in the checkpoint
    # Bidirectional; "none" pools the vectors as they are. The next four are those of the sequence encoder.
    sequence_encoder: Literal["gru", "transformer", "none"] = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    num_attention_heads: int = 4
    dropout: float = 0.1
    sampling_rate: int = 16000  # Hz; this and the next three: log-mel front end of "waveform"
    num_mel_bins: int = 64
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    frame_height: int = 64  # pixels
    frame_width: int = 64
    conv_channels: list[int] | tuple[int, ...] = (32, 64, 128)  # of the strided convolutions of our own encoders

    def __post_init__(self, **kwargs):
        self.backbone_config = _as_config(self.backbone_config, "backbone_config")
        with _attention_kept(self, self.backbone_config):
            super().__post_init__(**kwargs)


@strict
class EGMFConfig(PreTrainedConfig):
    """Configuration of an EGMF model."""

    model_type = "egmf"
    sub_configs: ClassVar = {"text_config": AutoConfig, "audio_config": AutoConfig, "video_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None  # of any causal language model that takes `inputs_embeds`
    # Where the frozen language model of a *light* checkpoint lies: a Hub id, a path, or a path relative to the
    # checkpoint's folder; None: the checkpoint is *full*. The fingerprint, of its weights, tells that it is another.
    text_model_id: str | None = None
    text_model_revision: str | None = None
    text_model_fingerprint: str | None = None
    audio_config: dict | PreTrainedConfig | None = None  # an `EGMFEncoderConfig`; None: the model has no such modality
    video_config: dict | PreTrainedConfig | None = None
    fusion_hidden_size: int = 256  # width H of the fusion (the paper's d_h)
    fusion_attention_heads: int = 4  # of the two attentions of Eq. 1 and 2, as is the dropout
    fusion_dropout: float = 0.1
    bidirectional_attention: bool = False  # audio and video attend to the text first: in the paper's words alone
    experts: list[dict] | tuple[dict, ...] = PAPER_EXPERTS  # each with `name`, `bottleneck_ratio` and `activation`
    num_pseudo_tokens: int = 4  # how many soft tokens stand for the fused vector in the prompt
    pseudo_token_projection: Literal["repeat", "separate"] = "repeat"  # the paper's one, repeated, or one a token
    lora: dict | None = None  # keyword arguments of `peft.LoraConfig` (`r`, `lora_alpha`, `target_modules`, ...)
    placeholder_token_id: int | None = None  # id of the placeholder that the pseudo tokens replace
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
