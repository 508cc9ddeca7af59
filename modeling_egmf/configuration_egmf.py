"""Configuration of EGMF: every hyperparameter of the model, described and validated in this one place.

    EGMFConfig
    ├── text_config    the language model's own configuration, any causal LM of `transformers`
    ├── audio_config   EGMFEncoderConfig ── backbone_config   (a pretrained audio encoder, optional)
    └── video_config   EGMFEncoderConfig ── backbone_config   (a pretrained vision encoder, optional)

Both classes are `@strict`: the type of every field is checked when it is assigned, and every `validate_*` is called at
the end of `__init__` and in `save_pretrained`. huggingface_hub's `StrictDataclassError` names field, value and bound.

Next: fields_egmf.py for what both share; encoders_egmf.py, fusion_egmf.py, experts_egmf.py.
"""

import copy
import os
import re
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME
from transformers.utils.type_validators import interval, positive_int_field

from .fields_egmf import (
    RegisteredPipelines,
    UnknownFieldError,
    as_sub_config,
    attention_of_parts,
    check_fields,
    field_names,
    read_changes,
    refuse_typos,
    ties_word_embeddings,
    unknown_fields,
    validate_attention_width,
)
from .settings_egmf import check_settings


PIPELINE_TASK = "multimodal-emotion-recognition"
CUSTOM_PIPELINES = {PIPELINE_TASK: {"impl": "pipeline_egmf.EGMFPipeline", "pt": ["AutoModel"]}}
# Whether this is the code of a checkpoint, loaded with `trust_remote_code=True`, not that of the installed package.
IS_REMOTE_CODE = __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)

# The paper's three experts: name, hidden width as a fraction of the fusion width, activation.
PAPER_EXPERTS = (
    {"name": "local", "bottleneck_ratio": 8, "activation": "mish"},
    {"name": "semantic", "bottleneck_ratio": 4, "activation": "gelu"},
    {"name": "global", "bottleneck_ratio": 2, "activation": "silu"},
)
# Activation of an expert: a learned mixture of the paper's three.
LEARNED_ACTIVATION = "mixture"


class EGMFConfigError(StrictDataclassError, ValueError):
    """A config.json that is not valid."""


@strict
class EGMFEncoderConfig(PreTrainedConfig):
    """Configuration of the encoder of one modality, which turns a clip into one token of the fusion.

    Args:
        input_type (`str`, *optional*, defaults to `"features"`):
            Input of the encoder: `"features"`, precomputed vectors (T, feature_size), as shipped with the benchmark
            releases; `"waveform"`, mono samples (S,) in [-1, 1], for audio only; `"frames"`, normalized images
            (T, 3, height, width), for video only.
        feature_size (`int`, *optional*, defaults to 64):
            Width of one precomputed vector, at least 1. Used by `"features"`.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of a pretrained audio or vision encoder of `transformers` for raw media. `None` builds our
            own convolutional encoder, trained from scratch. A dict needs a `model_type`.
        backbone_id (`str`, *optional*):
            Source of a frozen backbone's weights when an adapter checkpoint is loaded: a Hub id, a path, or a path
            relative to the checkpoint's folder. `None` stores them in the checkpoint.
        backbone_revision (`str`, *optional*):
            Branch, tag or commit of `backbone_id`. `None` means `"main"`.
        backbone_checksum (`str`, *optional*):
            Checksum of a frozen backbone's weights, from `parts_egmf.sum_of_bits`, recorded when it is first loaded.
            If it is set, loading the checkpoint with other weights is refused.
        backbone_trainable (`bool`, *optional*, defaults to `False`):
            Train the backbone and store it in every checkpoint. Frozen by default, because the corpora are small.
        backbone_pooler (`bool`, *optional*, defaults to `True`):
            Take an image encoder's own pooled output, if it has one. `False` averages its patches, for a checkpoint
            without weights for the pooler.
        backbone_layers (`str`, *optional*, defaults to `"last"`):
            `"last"`: states of the backbone's last layer; `"weighted"`: a learned weighted sum over all layers, for
            backbones with `num_hidden_layers` of one width.
        backbone_dtype (`str`, *optional*, defaults to `"float32"`):
            Precision in which a frozen backbone runs: `"float32"`, `"bfloat16"` or `"float16"`. A trained one needs
            `"float32"`.
        backbone_chunk_steps (`int`, *optional*):
            Input steps (samples, or frames of a spectrogram) that an audio backbone takes at once, at least 1; longer
            clips are encoded in consecutive pieces, which bounds memory. `None` encodes every clip as a whole.
        sequence_encoder (`str`, *optional*, defaults to `"gru"`):
            Bidirectional encoder over time: `"gru"`, `"transformer"`, or `"none"`, which pools the vectors directly.
            A GRU by default, because it learns from few examples.
        pooling (`str`, *optional*, defaults to `"attention"`):
            From the sequence to one vector: `"attention"`, a learned weighted mean of the sequence encoder's output;
            `"statistics"`, mean and deviation over time of the features or the backbone's states themselves, without
            a sequence encoder. Statistics suit pretrained encoders, which have seen the sequence already.
        hidden_size (`int`, *optional*, defaults to 128):
            Width W of the encoder, at least 1, a multiple of `num_attention_heads`, and even for a GRU (half of it for
            each direction).
        num_layers (`int`, *optional*, defaults to 1):
            Layers of the sequence encoder, at least 1.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of the transformer sequence encoder, at least 1.
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout before the sequence encoder and in the transformer's layers, at least 0 and below 1.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the waveform in Hz, at least 1. The rate of nearly all speech encoders.
        num_mel_bins (`int`, *optional*, defaults to 64):
            Mel bands of our own waveform encoder, at least 1.
        window_seconds (`float`, *optional*, defaults to 0.025):
            Window length of that encoder's spectrogram in seconds, at least one sample. The usual value for speech.
        hop_seconds (`float`, *optional*, defaults to 0.010):
            Step between two windows in seconds, at least one sample. The usual value for speech.
        frame_height (`int`, *optional*, defaults to 64):
            Height of a frame in pixels, at least 1.
        frame_width (`int`, *optional*, defaults to 64):
            Width of a frame in pixels, at least 1.
        conv_channels (`list[int]`, *optional*, defaults to `(32, 64, 128)`):
            Channels of the convolutions of our own waveform and frame encoders. Each convolution halves the frame rate
            or the sides of the frame.
    """

    model_type = "egmf_encoder"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    input_type: Literal["features", "waveform", "frames"] = "features"
    feature_size: int = interval(min=1)(default=64)
    backbone_config: dict | PreTrainedConfig | None = None
    backbone_id: str | None = None
    backbone_revision: str | None = None
    backbone_checksum: str | None = None
    backbone_trainable: bool = False
    backbone_pooler: bool = True
    backbone_layers: Literal["last", "weighted"] = "last"
    backbone_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backbone_chunk_steps: int | None = positive_int_field(default=None)
    sequence_encoder: Literal["gru", "transformer", "none"] = "gru"
    pooling: Literal["attention", "statistics"] = "attention"
    hidden_size: int = interval(min=1)(default=128)
    num_layers: int = interval(min=1)(default=1)
    num_attention_heads: int = interval(min=1)(default=4)
    dropout: float = interval(min=0, max=1, exclude_max=True)(default=0.1)
    sampling_rate: int = interval(min=1)(default=16000)
    num_mel_bins: int = interval(min=1)(default=64)
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    frame_height: int = interval(min=1)(default=64)
    frame_width: int = interval(min=1)(default=64)
    conv_channels: list[int] | tuple[int, ...] = (32, 64, 128)

    def __post_init__(self, **kwargs):
        check_fields(self, kwargs)
        self.backbone_config = as_sub_config(self.backbone_config, "backbone_config")
        if kwargs.get("attn_implementation") is None:
            # The backbone keeps its own; `None` would be passed down.
            kwargs["attn_implementation"] = {"backbone_config": {}}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the width of the encoder."""
        validate_attention_width(self, "hidden_size", "num_attention_heads")
        if self.sequence_encoder == "gru" and self.hidden_size % 2:
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}; a bidirectional GRU needs an even number. "
                "Change it, or choose another `sequence_encoder`."
            )

    def validate_backbone(self):
        """Part of `@strict`-powered validation. Only raw media go through a pretrained encoder."""
        if self.input_type == "features" and self.backbone_config is not None:
            raise ValueError(
                "Precomputed features do not use a backbone. Leave out `backbone_config`, or set `input_type` to "
                "'waveform' or 'frames'."
            )
        if self.backbone_trainable and self.backbone_dtype != "float32":
            raise ValueError(
                f"`backbone_dtype` is {self.backbone_dtype!r}, but a backbone is trained in float32. "
                "Leave it out, or set `backbone_trainable` to False."
            )

    def validate_pooling(self):
        """Part of `@strict`-powered validation. Statistics are those of features or of a pretrained encoder."""
        has_own_stem = self.input_type != "features" and self.backbone_config is None
        if self.pooling == "statistics" and has_own_stem:
            raise ValueError(
                "`pooling` is 'statistics', for features and pretrained encoders. Use 'attention' for an "
                "encoder that is trained from scratch."
            )

    def validate_spectrogram(self):
        """Part of `@strict`-powered validation. Validates the front end of our own waveform encoder."""
        for name in ("window_seconds", "hop_seconds"):
            seconds = getattr(self, name)
            if round(seconds * self.sampling_rate) < 1:
                shortest = f"{1 / self.sampling_rate:.2g} seconds at {self.sampling_rate} Hz"
                raise ValueError(f"`{name}` is {seconds}; it must be at least one sample long, {shortest}.")


@strict
class EGMFConfig(PreTrainedConfig):
    """Configuration of an EGMF model: encoders, fusion, experts and pseudo tokens, and the language model they feed.

    Example:

    ```python
    >>> from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
    >>> from processing_egmf import EGMFProcessor
    >>> from transformers import AutoTokenizer

    >>> # A new model around a language model, with its processor
    >>> processor = EGMFProcessor(AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M"), video_input=None)
    >>> audio_config = EGMFEncoderConfig(input_type="waveform")
    >>> config = EGMFConfig(audio_config=audio_config, placeholder_token_id=processor.placeholder_token_id)
    >>> model = EGMFForConditionalGeneration.from_language_model("HuggingFaceTB/SmolLM2-135M", config)
    ```

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the language model: any causal LM of `transformers` that takes `inputs_embeds`. A dict
            needs a `model_type`. Without it, the configuration describes no model that can be built.
        text_model_id (`str`, *optional*):
            Where the frozen language model of an *adapter* checkpoint is: a Hub id or a path. In config.json, the path
            starts at the checkpoint's folder. `None` makes the checkpoint *standalone*: it holds everything.
        text_model_revision (`str`, *optional*):
            Branch, tag or commit of `text_model_id`. `None` means `"main"`.
        text_model_fingerprint (`str`, *optional*):
            Hash of some of the language model's weights, from `parts_egmf.fingerprint`. If it is set, loading the
            checkpoint with a different language model warns.
        text_model_checksum (`dict[str, str]`, *optional*):
            Checksum of all its weights in each precision that a copy may have, from `parts_egmf.text_model_checksum`.
            If it is set, loading the checkpoint with other weights is refused; not for quantized or offloaded ones.
        weights_checksum (`dict[str, str]`, *optional*):
            Written into config.json by `save_pretrained`: path of a weights' file -> checksum of its tensors, from
            `weights_egmf.checksum`, and of an adapter's configuration -> checksum of its fields. Loading compares
            them. `None` for checkpoints without any.
        adapters (`dict[str, bool]`, *optional*):
            Written into config.json by `save_pretrained`: name of each PEFT adapter of the language model -> whether
            it was active. Each has a folder of its name in the checkpoint. `None` for a model in memory.
        audio_config (`EGMFEncoderConfig` or `dict`, *optional*):
            The audio encoder, of `input_type` `"features"` or `"waveform"`. `None` builds a model without audio.
        video_config (`EGMFEncoderConfig` or `dict`, *optional*):
            The video encoder, of `input_type` `"features"` or `"frames"`. `None` builds a model without video.
        fusion_hidden_size (`int`, *optional*, defaults to 256):
            Width H of the fusion, the paper's d_h, at least 1 and a multiple of `fusion_attention_heads`. 256 as in
            the closest published code; the paper does not state it.
        fusion_attention_heads (`int`, *optional*, defaults to 4):
            Heads of the attentions of Eq. 1 and 2, at least 1.
        fusion_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of their attention weights, at least 0 and below 1.
        bidirectional_attention (`bool`, *optional*, defaults to `False`):
            Let the audio and video tokens attend to the text before Eq. 1. Off by default: the paper calls its
            attention bidirectional, but its equations have no such term.
        experts (`list[dict]`, *optional*, defaults to `PAPER_EXPERTS`):
            One dict per expert, at least one: `name`, unique; `bottleneck_ratio`, H divided by the expert's hidden
            width, from 1 to `fusion_hidden_size`; `activation`, a name from `transformers.activations`, or
            `"mixture"`, a learned mixture of the paper's three; optionally `learned_width`, whether every hidden unit
            has a learned gate.
        active_experts (`list[str]`, *optional*):
            Names of the experts that are used; the others get no weight, and the rest share it. `None` uses all. For
            asking a trained model without one of its experts.
        gate (`str`, *optional*, defaults to `"two_stage"`):
            Weights of the experts: `"two_stage"`, as in the paper; `"one_stage"`, the feature-driven stage alone;
            `"uniform"`, the same weight for each, without a gate.
        expert_residual (`bool`, *optional*, defaults to `True`):
            Add the gated share beta of f_fusion to the experts' mixture, as in the paper.
        fusion_norms (`bool`, *optional*, defaults to `True`):
            Layer norms of text and media tokens before Eq. 1 and of the pooled vector, which the paper does not have.
        num_pseudo_tokens (`int`, *optional*, defaults to 4):
            Number P of soft tokens that carry the fused vector, at least 1. 4 as in the closest published code.
        pseudo_token_projection (`str`, *optional*, defaults to `"repeat"`):
            `"repeat"`, as in the paper: one vector, P times. `"separate"`: one projection per token.
        pseudo_token_norm (`bool`, *optional*, defaults to `True`):
            A layer norm before that projection and a learned scale after it, which the paper does not have.
        lora (`dict`, *optional*):
            The adapter of a new model's language model: fields of `peft.LoraConfig` (`r`, `lora_alpha`,
            `target_modules`, `use_dora`, `use_rslora`, ...), or of another method's configuration, which `peft_type`
            names (`{"peft_type": "LOHA", "r": 8}`). `None` builds none. In a checkpoint, adapter_config.json says it.
        placeholder_token_id (`int`, *optional*):
            Token id that the pseudo tokens replace in the prompt, the processor's `placeholder_token_id`. It is
            outside the language model's vocabulary and is never embedded.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial modality embeddings and of the learned query for samples without text.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Always copied from `text_config`; a value passed here is overwritten.
        id2label, label2id, num_labels (*optional*):
            The labels of the processor's first classification task, for those who look for them here: nothing reads
            them. Empty without such a task.
    """

    model_type = "egmf"
    sub_configs: ClassVar = {
        "text_config": AutoConfig,
        "audio_config": EGMFEncoderConfig,
        "video_config": EGMFEncoderConfig,
    }

    text_config: dict | PreTrainedConfig | None = None
    text_model_id: str | None = None
    text_model_revision: str | None = None
    text_model_fingerprint: str | None = None
    text_model_checksum: dict[str, str] | None = None
    weights_checksum: dict | None = None
    adapters: dict[str, bool] | None = None
    audio_config: dict | PreTrainedConfig | None = None
    video_config: dict | PreTrainedConfig | None = None
    fusion_hidden_size: int = interval(min=1)(default=256)
    fusion_attention_heads: int = interval(min=1)(default=4)
    fusion_dropout: float = interval(min=0, max=1, exclude_max=True)(default=0.1)
    bidirectional_attention: bool = False
    experts: list[dict] | tuple[dict, ...] = PAPER_EXPERTS
    active_experts: Any = None
    gate: Literal["two_stage", "one_stage", "uniform"] = "two_stage"
    expert_residual: bool = True
    fusion_norms: bool = True
    num_pseudo_tokens: int = interval(min=1)(default=4)
    pseudo_token_projection: Literal["repeat", "separate"] = "repeat"
    pseudo_token_norm: bool = True
    lora: dict | None = None
    placeholder_token_id: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        is_stored = check_fields(self, kwargs)
        self.text_config = as_sub_config(self.text_config, "text_config")
        self.audio_config = as_encoder_config(self.audio_config, is_stored)
        self.video_config = as_encoder_config(self.video_config, is_stored)
        # Copies, because PAPER_EXPERTS is shared.
        self.experts = [dict(expert) for expert in self.experts]
        if isinstance(self.active_experts, tuple):
            self.active_experts = list(self.active_experts)
        if self.text_config is not None:
            self.tie_word_embeddings = ties_word_embeddings(self.text_config)
        if self.id2label is None and "num_labels" not in kwargs:
            # `transformers` would make up two labels.
            self.id2label = {}
        if self.label2id is None:
            self.label2id = {label: int(index) for index, label in (self.id2label or {}).items()}
        kwargs.pop("custom_pipelines", None)
        # A copy: `pipeline` changes it.
        self.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        if not IS_REMOTE_CODE and PIPELINE_TASK in PIPELINE_REGISTRY.get_supported_tasks():
            self.custom_pipelines = RegisteredPipelines(CUSTOM_PIPELINES)
        attention = kwargs.get("attn_implementation")
        kwargs["attn_implementation"] = attention_of_parts(attention, self)
        super().__post_init__(**kwargs)

        # Where the Auto classes and `pipeline` find a checkpoint's code. The processor saves pipeline_egmf.py.
        auto_classes = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM")
        self.auto_map = dict.fromkeys(auto_classes, "modeling_egmf.EGMFForConditionalGeneration")
        self.auto_map["AutoConfig"] = "configuration_egmf.EGMFConfig"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "custom_pipelines": copy.deepcopy(CUSTOM_PIPELINES)}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        **kwargs: Any,
    ) -> "EGMFConfig":
        """Read the config.json of a checkpoint; fields in `kwargs` replace its own.

        Raises:
            OSError: config.json is missing or is not the one of an EGMF checkpoint.
            EGMFConfigError: a field has a wrong value.
            UnknownFieldError: a keyword is unknown, also in the dict of a nested configuration.
        """
        # The Auto classes and `pipeline` pass those of tokenizers and models as well.
        is_from_auto = "_from_auto" in kwargs
        returns_unused = kwargs.get("return_unused_kwargs", False)
        kwargs["return_unused_kwargs"] = True
        try:
            config, unused = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except UnknownFieldError:
            raise
        except (StrictDataclassError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            problem = " ".join(str(error).split())
            changes = "".join(f" with your {name}" for name in sorted(field_names(cls) & kwargs.keys()))
            raise EGMFConfigError(
                f"The config.json of {pretrained_model_name_or_path}{changes} is not valid: {problem[:300]} "
                "If this code is of another version, renew the checkpoint: training/PYTHON_API.md."
            ) from error
        if returns_unused:
            return config, unused
        unknown = [name for name, value in unused.items() if value is not None]
        if unknown and not is_from_auto:
            raise unknown_fields(cls.__name__, unknown, field_names(cls))
        return config

    @classmethod
    def get_config_dict(cls, checkpoint: str | os.PathLike, **kwargs: Any) -> tuple[dict, dict]:
        """As in `transformers`, but the file must be there and describe an EGMF model."""
        config_dict, rest = super().get_config_dict(checkpoint, **kwargs)
        fields = config_dict if isinstance(config_dict, dict) else {}
        model_type = fields.get("model_type")
        if model_type != cls.model_type or not isinstance(fields.get("text_config"), dict):
            raise OSError(
                f"The config.json of {os.path.join(checkpoint, kwargs.get('subfolder', ''))} is missing, or not "
                f"that of an EGMF model with a `text_config`: it has `model_type` {model_type!r}. "
                "Give an EGMF checkpoint, or download or save it again."
            )
        return config_dict, rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `transformers`, but a dict for a nested configuration replaces only the fields that it names.

        Raises:
            ValueError: `config_dict` is not as it was saved.
            UnknownFieldError: a keyword is misspelled, or in the dict of a nested configuration.
        """
        config_dict = dict(config_dict)
        refuse_typos(cls, kwargs)
        check_settings(config_dict)
        for name in field_names(cls) & set(kwargs) - {"dtype"}:
            value = kwargs.pop(name)
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if name in cls.sub_configs and isinstance(value, dict):
                stored = config_dict.get(name) or {}
                changes = read_changes(name, value, stored)
                if name == "text_config" and "dtype" in changes:
                    # The precision of the language model is that of the model.
                    kwargs.setdefault("dtype", changes["dtype"])
                value = {**stored, **changes}
                refuse_typos(cls, {name: value}, stored={name: stored})
            config_dict[name] = value
        return super().from_dict({**config_dict, "_is_stored": True}, **kwargs)

    @property
    def expert_names(self) -> list[str]:
        return [expert["name"] for expert in self.experts]

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the width of the fusion."""
        validate_attention_width(self, "fusion_hidden_size", "fusion_attention_heads")

    def validate_experts(self):
        """Part of `@strict`-powered validation. Every expert can be built and has a unique name."""
        if not self.experts:
            raise ValueError("`experts` is empty; give at least one expert.")
        for expert in self.experts:
            if set(expert) - {"learned_width"} != {"name", "bottleneck_ratio", "activation"}:
                raise ValueError(
                    f"An expert needs name, bottleneck_ratio and activation, and may have learned_width; got {expert}."
                )
            if expert["activation"] not in (*ACT2FN, LEARNED_ACTIVATION):
                raise ValueError(
                    f"Unknown activation {expert['activation']!r} of expert {expert['name']!r}. "
                    f"Choose one of transformers.activations.ACT2FN, or {LEARNED_ACTIVATION!r}."
                )
            if not 1 <= expert["bottleneck_ratio"] <= self.fusion_hidden_size:
                raise ValueError(
                    f"`bottleneck_ratio` of expert {expert['name']!r} is {expert['bottleneck_ratio']}; "
                    f"it must be in [1, {self.fusion_hidden_size}] (`fusion_hidden_size`)."
                )
        if len(set(self.expert_names)) < len(self.experts):
            raise ValueError(f"Two experts share a name: {self.expert_names}. Rename one.")
        active = self.active_experts
        names = self.expert_names
        is_known = isinstance(active, list) and all(name in names for name in active)
        if active is not None and not (active and is_known):
            raise ValueError(f"`active_experts` is {active}; name at least one of {', '.join(names)}, in a list.")

    def validate_adapters(self):
        """Part of `@strict`-powered validation. An adapter's name is that of a folder and of a module."""
        for name in self.adapters or {}:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"`adapters` names {name!r}; use letters, digits, '_' and '-'.")

    def validate_modalities(self):
        """Part of `@strict`-powered validation. No waveform in the video encoder, no frames in the audio encoder."""
        if self.audio_config is not None and self.audio_config.input_type == "frames":
            raise ValueError("`audio_config.input_type` is 'frames'; use 'features' or 'waveform'.")
        if self.video_config is not None and self.video_config.input_type == "waveform":
            raise ValueError("`video_config.input_type` is 'waveform'; use 'features' or 'frames'.")


# ---- nested configurations -------------------------------------------------------------------------------------


def as_encoder_config(value: Any, is_stored: bool) -> PreTrainedConfig | None:
    """Like `as_sub_config`, but without `AutoConfig`, which does not know "egmf_encoder"; needs no `model_type`.

    Args:
        is_stored: whether a dict is that of a config.json, which may be of another version of `transformers`.
    """
    if isinstance(value, dict):
        fields = {name: field for name, field in value.items() if name != "model_type"}
        value = EGMFEncoderConfig(**fields, _is_stored=is_stored)
    return value
