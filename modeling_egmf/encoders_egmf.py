"""AudioVisualEncoder: what one person sounds and looks like, as one token a modality.

    features (B, T, F) ─────────────────────────────┐
    waveform (B, S) ── log-mel, strided conv ───────┤
    frames (B, T, 3, y, x) ── strided conv a frame ─┼─► (B, T', W) ─► GRU / transformer ─► attention pooling ─► (B, H)
    any of the last two ── pretrained backbone ─────┘

Only samples that have the modality are encoded; the others' slots hold zeros and are masked out of every attention.
Every step respects the mask, so that padding never changes a sample's token. Next: fusion_egmf.py.
"""

# B batch  S audio samples  T frames or vectors in time  F feature width  W encoder width  M modalities  H fusion width

import inspect
import math

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.audio_utils import mel_filter_bank

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig


def downsample_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
    """mask (B, T) bool with the real steps first -> (B, length), the same share of steps, rounded up."""
    valid = -(-mask.sum(dim=1) * length // mask.shape[1])
    return torch.arange(length, device=mask.device)[None, :] < valid[:, None]


def _halving(kind: type[nn.Module], widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(kind(a, b, kernel_size=3, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:]))


def _placed(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """states (real frames, W), mask (B, T) -> (B, T, W), zero where no frame is."""
    return states.new_zeros(*mask.shape, states.shape[-1]).index_put(torch.where(mask), states)


class EGMFFeatureStem(nn.Module):
    """Precomputed vectors, standardized with the statistics of the training set (0 and 1 until they are set)."""

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.feature_size))
        self.register_buffer("std", torch.ones(config.feature_size))
        self.projection = nn.Linear(config.feature_size, config.hidden_size)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values (B, T, F), mask (B, T) -> (B, T, W), (B, T)."""
        width = self.mean.shape[0]
        if values.shape[-1] != width:
            said = f"The features are {values.shape[-1]} wide but the model was built for {width}"
            raise ValueError(f"{said}. Use the extractor that it was trained with, or train one of that feature_size.")
        standardized = (values - self.mean) / self.std.clamp(min=1e-5)
        return self.projection(standardized.clamp(-10, 10)), mask


class EGMFWaveformStem(nn.Module):
    """Mono samples -> log-mel frames in decibels -> convolutions that halve the frame rate, one each channel entry."""

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.window_length = round(config.window_seconds * config.sampling_rate)
        self.hop_length = round(config.hop_seconds * config.sampling_rate)
        self.fft_length = 2 ** math.ceil(math.log2(self.window_length))
        filters = mel_filter_bank(
            num_frequency_bins=self.fft_length // 2 + 1,
            num_mel_filters=config.num_mel_bins,
            min_frequency=20.0,
            max_frequency=config.sampling_rate / 2,
            sampling_rate=config.sampling_rate,
            mel_scale="htk",
        )
        # Kept in the checkpoint: a buffer that is not would be left uninitialized by from_pretrained.
        self.register_buffer("mel_filters", torch.tensor(filters, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(self.window_length))
        widths = [config.num_mel_bins, *config.conv_channels]
        self.convolutions = _halving(nn.Conv1d, widths)
        self.norms = nn.ModuleList(nn.LayerNorm(after) for after in config.conv_channels)
        self.projection = nn.Linear(widths[-1], config.hidden_size)

    def log_mel(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values (B, S), mask (B, S) -> about (B, T, mel bins) in [-1, 1], (B, T): one frame a hop."""
        framing = {"hop_length": self.hop_length, "win_length": self.window_length, "window": self.window}
        # What a longer neighbor in the batch adds behind the clip is silence, as "constant" padding is.
        padding = {"center": True, "pad_mode": "constant"}
        spectrum = torch.stft(values * mask, n_fft=self.fft_length, **framing, **padding, return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.mel_filters  # (B, T, mel bins)
        decibels = 10 * torch.log10(power.clamp(min=1e-10))
        num_frames = mask.sum(dim=1) // self.hop_length + 1
        frame_mask = torch.arange(decibels.shape[1], device=mask.device)[None, :] < num_frames[:, None]
        return (decibels + 30) / 40, frame_mask

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values (B, S), mask (B, S) -> (B, T, W), (B, T)."""
        states, mask = self.log_mel(values, mask)
        # Without the clip's mean level, which tells of the distance to the microphone more than of the speaker.
        count = mask.sum(dim=1)[:, None, None] * states.shape[2]
        states = states - (states * mask[..., None]).sum(dim=(1, 2), keepdim=True) / count
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            states = convolution((states * mask[..., None]).transpose(1, 2)).transpose(1, 2)
            states = nn.functional.gelu(norm(states))
            mask = mask[:, ::2]
        return self.projection(states), mask


class EGMFFrameStem(nn.Module):
    """Each frame, and how it differs from the clip's first, through convolutions that halve its sides, one each
    channel entry. The difference shows what moved and leaves out whose face it is. What is left of the picture is
    averaged over a coarse grid, which keeps where in it something was: a brow is not a mouth."""

    GRID = 4

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.size = (config.frame_height, config.frame_width)
        widths = [6, *config.conv_channels]
        self.convolutions = _halving(nn.Conv2d, widths)
        self.norms = nn.ModuleList(nn.GroupNorm(1, after) for after in config.conv_channels)
        self.projection = nn.Linear(self.GRID**2 * widths[-1], config.hidden_size)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values (B, T, 3, y, x) in about [-1, 1], mask (B, T) -> (B, T, W), (B, T)."""
        if values.shape[-2:] != self.size:
            said = f"The frames are {tuple(values.shape[-2:])} pixels but the model was built for {self.size}"
            raise ValueError(f"{said}. Use the processor that was saved with the model.")
        states = torch.cat([values, 2 * (values - values[:, :1])], dim=2)[mask]  # (real frames, 6, y, x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            states = nn.functional.gelu(norm(convolution(states)))
        return _placed(self.projection(nn.functional.adaptive_avg_pool2d(states, self.GRID).flatten(1)), mask), mask


class EGMFPretrainedStem(nn.Module):
    """Any audio or vision encoder of `transformers`, frozen unless the configuration says otherwise."""

    def __init__(self, config: EGMFEncoderConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.is_vision = config.input_type == "frames"
        self.trainable = config.backbone_trainable
        backbone = backbone or AutoModel.from_config(config.backbone_config)
        # Of Whisper and its like only the half that listens.
        self.backbone = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone
        self.takes_mask = "attention_mask" in inspect.signature(backbone.forward).parameters
        width = getattr(backbone.config, "hidden_size", None) or backbone.config.hidden_sizes[-1]
        self.projection = nn.Linear(width, config.hidden_size)
        self.precomputed = False  # set: values are what the frozen backbone gave before, (B, T, backbone width)

    def train(self, mode: bool = True):
        super().train(mode)
        if not self.trainable:
            self.backbone.eval()  # a frozen tower answers the same in training, so that its outputs can be stored
        return self

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values as the backbone takes them, mask (B, S) of its input steps -> (B, T, W), (B, T)."""
        states, mask = (values, mask) if self.precomputed else self.run_backbone(values, mask)
        return self.projection(states.to(self.projection.weight.dtype)), mask

    def run_backbone(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """values, mask as of `forward` -> (B, T, backbone width), (B, T)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            return self._look(values, mask) if self.is_vision else self._listen(values, mask)

    def _look(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.backbone(values[mask].to(self.backbone.dtype))
        states = output.get("pooler_output")
        if states is None:
            states = output.last_hidden_state
            states = states.mean(dim=1 if states.ndim == 3 else (2, 3))
        return _placed(states.flatten(1), mask), mask

    def _listen(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kwargs = {"attention_mask": mask.long()} if self.takes_mask else {}
        inputs = {self.backbone.main_input_name: values.to(self.backbone.dtype)}
        states = self.backbone(**inputs, **kwargs).last_hidden_state  # (B, T, backbone width)
        if self.backbone.main_input_name == "input_values" and states.shape[1] != mask.shape[1]:
            output_lengths = getattr(self.backbone, "_get_feat_extract_output_lengths", None)
            if output_lengths is not None:  # Wav2Vec2 and its like know exactly
                steps = output_lengths(mask.sum(dim=1))
                return states, torch.arange(states.shape[1], device=mask.device)[None] < steps[:, None]
        return states, downsample_mask(mask, states.shape[1])


class EGMFModalityEncoder(nn.Module):
    """One modality: stem, sequence encoder, attention pooling, projection to the fusion width."""

    def __init__(self, config: EGMFEncoderConfig, fusion_width: int, backbone: PreTrainedModel | None = None):
        super().__init__()
        width = config.hidden_size
        if config.backbone_config is not None:
            self.stem = EGMFPretrainedStem(config, backbone)
        else:
            stems = {"features": EGMFFeatureStem, "waveform": EGMFWaveformStem, "frames": EGMFFrameStem}
            self.stem = stems[config.input_type](config)
        self.dropout = nn.Dropout(config.dropout)
        self.kind = config.sequence_encoder
        if self.kind == "gru":
            self.sequence = nn.GRU(width, width // 2, config.num_layers, batch_first=True, bidirectional=True)
        elif self.kind == "transformer":
            sizes = (width, config.num_attention_heads, 4 * width, config.dropout, "gelu")
            layer = nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True)
            self.sequence = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.pooling_score = nn.Linear(width, 1, bias=False)
        self.projection = nn.Linear(width, fusion_width)

    @staticmethod
    def _positions(length: int, width: int, like: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
        rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
        return torch.stack([(steps * rates).sin(), (steps * rates).cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)

    def _encode(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states, mask = self.stem(values, mask)
        states = self.dropout(states)
        if self.kind == "gru":
            lengths = mask.sum(dim=1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
            encoded, _ = self.sequence(packed)
            encoded, _ = nn.utils.rnn.pad_packed_sequence(encoded, batch_first=True, total_length=states.shape[1])
            states = states + encoded
        elif self.kind == "transformer":
            states = states + self._positions(states.shape[1], states.shape[2], states)
            states = self.sequence(states, src_key_padding_mask=~mask)
        states = self.norm(states)
        scores = self.pooling_score(states).squeeze(-1).masked_fill(~mask, float("-inf"))  # (B, T)
        pooled = torch.einsum("bt,btw->bw", torch.softmax(scores, dim=1), states)
        return self.projection(pooled)

    def forward(self, values: torch.Tensor, mask: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """values (B, T or S, ...), mask (B, T or S) with the real steps first, present (B,) bool -> (B, H)."""
        present = present & mask.any(dim=1)
        token = self.projection.weight.new_zeros(values.shape[0], self.projection.out_features)
        if not present.any():
            return token
        rows = torch.where(present)[0]
        return token.index_copy(0, rows, self._encode(values[rows], mask[rows].bool()).to(token.dtype))


class EGMFAudioVisualEncoder(nn.Module):
    """Audio and video, one token each: (B, 2, H) and which of them are there (B, 2)."""

    def __init__(self, config: EGMFConfig, *backbones: PreTrainedModel | None):
        super().__init__()
        width, (audio, video) = config.fusion_hidden_size, backbones or (None, None)
        self.audio = EGMFModalityEncoder(config.audio_config, width, audio) if config.audio_config else None
        self.video = EGMFModalityEncoder(config.video_config, width, video) if config.video_config else None
        self.modality_embeds = nn.Parameter(torch.zeros(2, width))

    def forward(self, wanted: torch.Tensor, **media: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """wanted (B, 2) bool, which modalities count at most; media as for `EGMFModel.forward`."""
        tokens, masks = [], []
        for index, name in enumerate(("audio", "video")):
            encoder, embed = getattr(self, name), self.modality_embeds[index]
            values, mask = (media.pop(f"{name}_{part}", None) for part in ("values", "mask"))
            if values is None:
                tokens.append(embed.expand(len(wanted), -1) * 0)
                masks.append(torch.zeros_like(wanted[:, index]))
                continue
            if encoder is None:
                raise ValueError(f"The batch holds {name} but this model was built without {name}; leave it out.")
            if mask is None:
                raise ValueError(f"`{name}_values` came without `{name}_mask`; the processor returns both.")
            here = mask.bool().any(dim=1) & wanted[:, index]
            tokens.append((encoder(values, mask, here) + embed) * here[:, None])
            masks.append(here)
        if media:
            raise TypeError(f"Unknown inputs {sorted(media)}.")
        return torch.stack(tokens, dim=1), torch.stack(masks, dim=1)
