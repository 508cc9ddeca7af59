"""Pretrained encoders of `transformers`: speech, images, and whole video clips.

    audio (B, S) or (B, T, F) ── clips of equal length together, without padding ──────► states (B, T', width)
    frames (B, T, 3, y, x) ──┬── image encoder: one vector per frame ──────────────────► states (B, T, width)
                             └── video encoder: the clip as a whole, one vector per step ► states (B, T', width)

`backbone_layers="weighted"` takes the states of all layers side by side, (B, T', layers * width), and sums them with
learned weights, as SUPERB does (Yang et al. 2021): in speech encoders, emotion is in the middle layers.

Padding never reaches an encoder. Many would let it change a clip's output: group norm over time (Wav2Vec2 and HuBERT
"base", Moonshine), convolutions over normalized padding (Data2VecAudio), no mask at all (Whisper).

Next: encoders_egmf.py, where the states become one token.
"""

# B batch  N clips of equal length  S audio samples  T frames or steps in time  F feature width  K layers
# W encoder width

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, ModelOutput
from transformers.utils.generic import maybe_autocast

from .configuration_egmf import EGMFEncoderConfig
from .precision_egmf import EGMFFloat32Module, in_float32


class EGMFClipLayout(NamedTuple):
    """How a video encoder takes a clip, and how it orders its output.

    Args:
        num_frames: of its input.
        num_steps: of its output, in time.
        has_class_token: as the first token.
        time_first: tokens in the order (time, place) rather than (place, time).
    """

    num_frames: int
    num_steps: int
    has_class_token: bool = False
    time_first: bool = True


def clip_layout(config: PreTrainedConfig) -> EGMFClipLayout | None:
    """The layout of a video encoder's clips, or None for an encoder of single images or audio."""
    model_type = config.model_type
    if model_type == "timesformer":
        return EGMFClipLayout(config.num_frames, config.num_frames, has_class_token=True, time_first=False)
    if model_type == "vivit":
        return EGMFClipLayout(config.num_frames, config.num_frames // config.tubelet_size[0], has_class_token=True)
    if model_type == "videomae":
        return EGMFClipLayout(config.num_frames, config.num_frames // config.tubelet_size)
    if model_type == "vjepa2":
        return EGMFClipLayout(config.frames_per_clip, config.frames_per_clip // config.tubelet_size)
    return None


def backbone_width(config: PreTrainedConfig) -> int:
    """Width of a pretrained encoder's output; convolutional ones have one width per stage."""
    width = getattr(config, "hidden_size", None)
    widths = getattr(config, "hidden_sizes", None)
    if width is None and not widths:
        raise ValueError(f"{config.model_type!r} cannot be used as an encoder: it has no `hidden_size`.")
    return width or widths[-1]


class EGMFLayerSum(EGMFFloat32Module):
    """A learned weighted sum over the layers of a backbone, each standardized with statistics of the training set.

    Without the statistics (mean 0 and std 1 until they are set), a few dimensions of the last layers would dominate.
    """

    # A step of Adam changes every parameter by about the learning rate, which is slow for weights of a softmax.
    SPEED = 10

    def __init__(self, num_layers: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_layers * width))
        self.register_buffer("std", torch.ones(num_layers * width))
        self.weights = nn.Parameter(torch.zeros(num_layers))

    @in_float32
    def forward(self, states: Tensor) -> Tensor:
        """states (..., K * width) of all layers -> (..., width)."""
        num_layers = len(self.weights)
        shares = torch.softmax(self.SPEED * self.weights, dim=0)
        # (K, width)
        mean = self.mean.unflatten(0, (num_layers, -1))
        scales = shares[:, None] / self.std.unflatten(0, (num_layers, -1)).clamp(min=1e-5)
        total = -(scales * mean).sum(dim=0)
        # Layer by layer: a standardized copy of all states would take most of a step's memory and time.
        for scale, layer in zip(scales, states.chunk(num_layers, dim=-1), strict=True):
            total = total + scale * layer
        return total


class EGMFPretrainedStem(EGMFFloat32Module):
    """Any audio or vision encoder of `transformers`, frozen unless the configuration says otherwise.

    A frozen one runs in its own precision, also under autocast, so that training, evaluation and stored outputs agree.

    Attributes:
        precomputed: if true, `forward` takes the stored output of the frozen backbone, as `run_backbone` returns it,
            instead of raw media.
        width: width of the backbone's states.
        output_size: width of `run_backbone`'s states, over all layers if they are weighted.
    """

    def __init__(self, config: EGMFEncoderConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.is_vision = config.input_type == "frames"
        self.trainable = config.backbone_trainable
        self.uses_pooler = config.backbone_pooler
        self.chunk_steps = config.backbone_chunk_steps
        self.precomputed = False
        self.backbone_dtype = getattr(torch, config.backbone_dtype)
        if backbone is None:
            backbone = AutoModel.from_config(config.backbone_config, dtype=self.backbone_dtype)
        # Only the encoder of an encoder-decoder such as Whisper.
        self.backbone = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone
        # Shared, so that `set_attn_implementation` finds it. Without its local path, which is not to be published.
        backbone.config.name_or_path = ""
        config.backbone_config = backbone.config
        self.takes_mask = "attention_mask" in inspect.signature(self.backbone.forward).parameters
        self.clip_layout = clip_layout(backbone.config)
        model_type = backbone.config.model_type
        # Arguments of every call of the backbone.
        self.options = {"skip_predictor": True} if model_type == "vjepa2" else {}
        if model_type == "vit_mae":
            # Else it hides patches at random.
            backbone.config.mask_ratio = 0.0
        self.width = backbone_width(backbone.config)
        self.output_size = self.width
        self.layer_sum = None
        if config.backbone_layers == "weighted":
            # With the embeddings.
            num_layers = backbone.config.num_hidden_layers + 1
            self.output_size = num_layers * self.width
            self.options["output_hidden_states"] = True
            self.layer_sum = EGMFLayerSum(num_layers, self.width)
        self.projection = stem_projection(self.width, config)

    @property
    def input_sizes(self) -> tuple[int | str, ...]:
        """Sizes of a sample's values, as for `encoders_egmf.check_values`."""
        if self.precomputed:
            return ("steps", self.output_size)
        return ("steps", 3, "height", "width") if self.is_vision else ("steps", "...")

    def train(self, mode: bool = True) -> "EGMFPretrainedStem":
        super().train(mode)
        if not self.trainable:
            # So that its output is the same in training and can be stored.
            self.backbone.eval()
        for module in self.backbone.modules():
            # Clips are encoded in groups, whose statistics are not those of the corpus, and a step alone has none.
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values as the backbone takes them, mask (B, S) or (B, T) of its input -> (B, T, width or W), (B, T)."""
        states = values
        if not self.precomputed:
            states, mask = self.run_backbone(values, mask)
        return self.project(states), mask

    @in_float32
    def project(self, states: Tensor) -> Tensor:
        """states (B, T, output size) -> (B, T, width or W)."""
        if self.layer_sum is not None:
            states = self.layer_sum(states)
        return self.projection(states)

    def run_backbone(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values and mask as in `forward`, a real step in every row -> (B, T, output size), (B, T)."""
        values = values.to(self.backbone.dtype)
        device_type = values.device.type
        allow_autocast = self.trainable and torch.is_autocast_enabled(device_type)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable),
            maybe_autocast(device_type, enabled=allow_autocast),
        ):
            if not self.is_vision:
                return self.encode_audio(values, mask)
            if self.clip_layout is not None:
                return self.encode_video(values, mask)
            return self.encode_images(values, mask)

    def layers_of(self, output: ModelOutput) -> list[Tensor]:
        """The backbone's last hidden states, or those of all of its layers."""
        if self.layer_sum is None:
            return [output.last_hidden_state]
        return list(output.hidden_states)

    # ---- vision ----

    def encode_images(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, T, 3, y, x), mask (B, T) -> (B, T, output size), (B, T): one vector per frame."""
        output = self.backbone(take_frames(values, mask), **self.options)
        pooled = output.get("pooler_output") if self.uses_pooler and self.layer_sum is None else None
        if pooled is not None:
            return put_back_frames(pooled.flatten(1), mask), mask
        # Sequences of patches, or maps (real frames, backbone width, y, x).
        layers = [states.mean(dim=1 if states.ndim == 3 else (2, 3)) for states in self.layers_of(output)]
        return put_back_frames(torch.cat(layers, dim=1), mask), mask

    def encode_video(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, T, 3, y, x), mask (B, T) -> (B, steps, output size), (B, steps), all real.

        The encoder takes a fixed number of frames, taken evenly from the clip; a shorter clip repeats some.
        """
        layout = self.clip_layout
        lengths = mask.sum(dim=1).tolist()
        frames = [evenly_spaced(length, layout.num_frames) for length in lengths]
        clips = [clip[indices] for clip, indices in zip(values, frames, strict=True)]
        output = self.backbone(torch.stack(clips), **self.options)
        tokens = torch.cat(self.layers_of(output), dim=-1)
        if layout.has_class_token:
            tokens = tokens[:, 1:]
        if layout.time_first:
            states = tokens.unflatten(1, (layout.num_steps, -1)).mean(dim=2)
        else:
            states = tokens.unflatten(1, (-1, layout.num_steps)).mean(dim=1)
        return states, mask.new_ones(states.shape[:2], dtype=torch.bool)

    # ---- audio ----

    def encode_audio(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, S), (B, T, F) or (B, F, T), mask (B, S) or (B, T) -> (B, T', output size), (B, T').

        Clips of equal length are encoded together, each without its padding.
        """
        if values.shape[1] != mask.shape[1]:
            # (B, T, F)
            values = values.transpose(1, 2)
        lengths = mask.sum(dim=1)
        states = {}
        for length in lengths.unique().tolist():
            rows = torch.where(lengths == length)[0]
            chunks = values[rows, :length].split(self.chunk_steps or length, dim=1)
            encoded = torch.cat([self.encode_clips(chunk) for chunk in chunks], dim=1)
            states |= zip(rows.tolist(), encoded, strict=True)
        states = [states[row] for row in range(len(values))]
        num_steps = torch.tensor([*map(len, states)], device=mask.device)
        padded = pad_sequence(states, batch_first=True)
        return padded, length_mask(num_steps, padded.shape[1])

    def encode_clips(self, clips: Tensor) -> Tensor:
        """clips (N, S) or (N, T, F) without padding -> (N, T', output size)."""
        if self.backbone.config.model_type == "whisper":
            output = run_whisper_encoder(self.backbone, clips.transpose(1, 2))
            return torch.cat(self.layers_of(output), dim=-1)
        clips = self.fill_receptive_field(clips)
        inputs = {self.backbone.main_input_name: clips, **self.options}
        if self.takes_mask:
            inputs["attention_mask"] = clips.new_ones(clips.shape[:2], dtype=torch.long)
        # SpecAugment, which only the backbone itself applies, needs a clip as long as one of its spans.
        min_steps = getattr(self.backbone.config, "mask_time_length", 0)
        is_maskable = self.num_convolved_steps(clips.shape[1]) >= min_steps
        self.backbone.training = self.training and self.trainable and is_maskable
        return torch.cat(self.layers_of(self.backbone(**inputs)), dim=-1)

    def num_convolved_steps(self, length: int) -> int:
        """Number of steps that the backbone's convolutions turn a clip into; `length` if it has no such method."""
        # Of Wav2Vec2 and similar, and of Parakeet and similar.
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            output_length = getattr(self.backbone, name, None)
            if output_length is not None:
                return int(output_length(torch.tensor(length)))
        return length

    def fill_receptive_field(self, clips: Tensor) -> Tensor:
        """clips (N, S) or (N, T, F) -> the same, with zeros appended to clips too short for a single output step."""
        # SEW pools the convolutions' steps.
        min_steps = getattr(self.backbone.config, "squeeze_factor", 1)
        length = clips.shape[1]
        while self.num_convolved_steps(length) < min_steps:
            length *= 2
        padding = (0, 0) * (clips.ndim - 2) + (0, length - clips.shape[1])
        return nn.functional.pad(clips, padding)


def run_whisper_encoder(encoder: PreTrainedModel, features: Tensor) -> BaseModelOutput:
    """features (N, mel bins, T) of any length up to 30 seconds -> states (N, ceil(T / 2), width), also of all layers.

    The encoder's own `forward` insists on 30 seconds, most of it padding: ten times the work for a clip of three, and
    states that attend to silence. These are its steps with the positions of the clip.
    """
    states = nn.functional.gelu(encoder.conv1(features))
    # (N, T / 2, width)
    states = nn.functional.gelu(encoder.conv2(states)).transpose(1, 2)
    states = states + encoder.embed_positions.weight[: states.shape[1]]
    states = nn.functional.dropout(states, encoder.dropout, encoder.training)
    hidden_states = []
    for layer in encoder.layers:
        hidden_states.append(states)
        states = layer(states, None)
    states = encoder.layer_norm(states)
    return BaseModelOutput(last_hidden_state=states, hidden_states=(*hidden_states, states))


# ---- shared steps -------------------------------------------------------------------------------------------------


def set_attention(encoders: nn.Module, names: dict, **kwargs: Any) -> None:
    """Set `attn_implementation`, by part of the model, of the pretrained ones among the encoders."""
    for name, encoder in encoders.named_children():
        stem = encoder.stem
        if not isinstance(stem, EGMFPretrainedStem):
            continue
        value = names[f"{name}_config"]
        if isinstance(value, dict):
            value = value.get("backbone_config", {})
        stem.backbone.set_attn_implementation(value, **kwargs)


def stem_projection(width: int, config: EGMFEncoderConfig) -> nn.Module:
    """From the width of a stem's vectors to W; statistics are pooled of the vectors themselves."""
    return nn.Linear(width, config.hidden_size) if config.pooling == "attention" else nn.Identity()


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices from the first to the last of `length` frames; some repeat if there are fewer frames."""
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def length_mask(lengths: Tensor, max_length: int) -> Tensor:
    """lengths (B,) -> (B, max_length) bool, true on the first steps."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def take_frames(values: Tensor, mask: Tensor) -> Tensor:
    """values (B, T, ...), mask (B, T) -> (real frames, ...). An exported program takes the padding along."""
    if torch.compiler.is_exporting():
        return values.flatten(0, 1)
    return values[mask]


def put_back_frames(states: Tensor, mask: Tensor) -> Tensor:
    """states of `take_frames` (real frames, W), mask (B, T) -> (B, T, W), zero on padding."""
    if torch.compiler.is_exporting():
        return states.unflatten(0, mask.shape) * mask[..., None]
    # Raises an error if the encoder has joined frames.
    return states.new_zeros(*mask.shape, states.shape[-1]).masked_scatter(mask[..., None], states)
