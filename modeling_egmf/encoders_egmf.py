"""Audio-visual encoder of EGMF: one token each for a clip's audio and its video.

    features (B, T, F) ───────────────────────────────┐
    waveform (B, S) ── log-mel, strided convolutions ─┤
    frames (B, T, 3, y, x) ── strided convolutions ───┼─► (B, T', W) ─► GRU / transformer ─► pooling ─► (B, H)
    waveform or frames ── pretrained backbone ────────┘
            EGMF...Stem                                              EGMFModalityEncoder

    features, or a pretrained backbone's states ─► mean and deviation over time ─► (B, H)     `pooling="statistics"`

The paper leaves the encoder open. Ours encodes only the samples that have the modality; the tokens of the others are
zero and masked in every attention. Every step respects the mask, so that padding never changes a sample's token.

Next: backbones_egmf.py for the pretrained backbones; fusion_egmf.py.
"""

# B batch  S audio samples  T frames or vectors in time  F feature width  W encoder width  C channels  H fusion width

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank

from .backbones_egmf import EGMFPretrainedStem, length_mask, put_back_frames, stem_projection, take_frames
from .configuration_egmf import EGMFConfig, EGMFEncoderConfig
from .precision_egmf import EGMFFloat32Module, in_float32


# ---- stems: from raw media or features to a sequence of vectors --------------------------------------------------


class EGMFFeatureStem(EGMFFloat32Module):
    """Precomputed vectors, standardized with statistics of the training set (mean 0 and std 1 until they are set)."""

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.feature_size))
        self.register_buffer("std", torch.ones(config.feature_size))
        self.width = config.feature_size
        self.input_sizes = ("steps", self.width)
        self.projection = stem_projection(self.width, config)

    @in_float32
    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, T, F), mask (B, T) -> (B, T, F or W), (B, T)."""
        return self.projection(standardize(values, self.mean, self.std)), mask


class EGMFWaveformStem(EGMFFloat32Module):
    """Mono samples to log-mel frames in decibels, then convolutions that each halve the frame rate."""

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.input_sizes = ("steps",)
        self.window_length = round(config.window_seconds * config.sampling_rate)
        self.hop_length = round(config.hop_seconds * config.sampling_rate)
        self.fft_length = 2 ** math.ceil(math.log2(self.window_length))
        mel_filters = mel_filter_bank(
            num_frequency_bins=self.fft_length // 2 + 1,
            num_mel_filters=config.num_mel_bins,
            min_frequency=20.0,
            max_frequency=config.sampling_rate / 2,
            sampling_rate=config.sampling_rate,
            mel_scale="htk",
        )
        # Stored in the checkpoint: from_pretrained leaves a non-persistent buffer uninitialized.
        self.register_buffer("mel_filters", torch.tensor(mel_filters, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(self.window_length))
        channels = [config.num_mel_bins, *config.conv_channels]
        self.convolutions = strided_convolutions(nn.Conv1d, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in config.conv_channels)
        self.projection = nn.Linear(channels[-1], config.hidden_size)

    @in_float32
    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, S), mask (B, S) -> (B, T, W), (B, T)."""
        states, mask = self.log_mel(values, mask)
        # The clip's mean level mostly reflects the distance to the microphone.
        num_values = mask.sum(dim=1)[:, None, None] * states.shape[2]
        states = states - (states * mask[..., None]).sum(dim=(1, 2), keepdim=True) / num_values
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            states = states * mask[..., None]
            # (B, T / 2, C)
            states = convolution(states.transpose(1, 2)).transpose(1, 2)
            states = nn.functional.gelu(norm(states))
            mask = length_mask((mask.sum(dim=1) + 1) // 2, states.shape[1])
        return self.projection(states), mask

    def log_mel(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, S), mask (B, S) -> (B, T, mel bins) in about [-1, 1], (B, T): one frame per hop."""
        spectrum = torch.stft(
            values * mask,
            n_fft=self.fft_length,
            hop_length=self.hop_length,
            win_length=self.window_length,
            window=self.window,
            center=True,
            # Silence, like the padding after shorter clips of a batch.
            pad_mode="constant",
            return_complex=True,
        )
        # (B, T, mel bins)
        power = spectrum.abs().square().transpose(1, 2) @ self.mel_filters
        decibels = 10 * torch.log10(power.clamp(min=1e-10))
        num_frames = mask.sum(dim=1) // self.hop_length + 1
        # Maps -70 to 10 dB to [-1, 1].
        return (decibels + 30) / 40, length_mask(num_frames, decibels.shape[1])


class EGMFFrameStem(EGMFFloat32Module):
    """Each frame, and its difference from the clip's first, through convolutions that each halve its sides.

    The difference shows motion and removes the identity of the face. The result is averaged over a coarse grid, which
    keeps positions, so that a brow is not mistaken for a mouth.
    """

    GRID_SIZE = 4

    def __init__(self, config: EGMFEncoderConfig):
        super().__init__()
        self.input_sizes = ("steps", 3, config.frame_height, config.frame_width)
        # Red, green, blue, and the difference in each.
        channels = [6, *config.conv_channels]
        self.convolutions = strided_convolutions(nn.Conv2d, channels)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in config.conv_channels)
        self.projection = nn.Linear(self.GRID_SIZE**2 * channels[-1], config.hidden_size)

    @in_float32
    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, T, 3, y, x) in about [-1, 1], mask (B, T) -> (B, T, W), (B, T)."""
        # Motion is doubled, so that a small one has more weight.
        motion = 2 * (values - values[:, :1])
        # (real frames, 6, y, x)
        states = take_frames(torch.cat([values, motion], dim=2), mask)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # (real frames, C, y / 2, x / 2)
            states = nn.functional.gelu(norm(convolution(states)))
        grid = average_over_grid(states, self.GRID_SIZE)
        states = self.projection(grid.flatten(1))
        return put_back_frames(states, mask), mask


STEMS = {"features": EGMFFeatureStem, "waveform": EGMFWaveformStem, "frames": EGMFFrameStem}


# ---- one modality -------------------------------------------------------------------------------------------------


class EGMFModalityEncoder(EGMFFloat32Module):
    """One modality: stem, sequence encoder and attention pooling or statistics, projection to the fusion width."""

    def __init__(
        self,
        config: EGMFEncoderConfig,
        fusion_width: int,
        backbone: PreTrainedModel | None = None,
    ):
        super().__init__()
        self.pooling = config.pooling
        self.sequence_type = config.sequence_encoder
        if config.backbone_config is not None:
            self.stem = EGMFPretrainedStem(config, backbone)
        else:
            self.stem = STEMS[config.input_type](config)
        self.dropout = nn.Dropout(config.dropout)
        if self.pooling == "statistics":
            width = 2 * self.stem.width
            # Of pooled features over the training set's clips; set for features only.
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))
            self.projection = nn.Linear(width, fusion_width)
            return
        width = config.hidden_size
        if self.sequence_type == "gru":
            self.sequence = nn.GRU(width, width // 2, config.num_layers, batch_first=True, bidirectional=True)
        elif self.sequence_type == "transformer":
            layer = nn.TransformerEncoderLayer(
                d_model=width,
                nhead=config.num_attention_heads,
                dim_feedforward=4 * width,
                dropout=config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.sequence = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        # A bias would not change the softmax.
        self.pooling_score = nn.Linear(width, 1, bias=False)
        self.projection = nn.Linear(width, fusion_width)

    def forward(self, values: Tensor, mask: Tensor, present: Tensor) -> Tensor:
        """Encode the samples that have the modality.

        Args:
            values: (B, T or S, ...) as the stem takes them.
            mask: (B, T or S), 1 on real steps, which come first.
            present: (B,) bool, which samples to encode; each has a real step.

        Returns:
            (B, H), zeros where the sample does not have the modality.
        """
        tokens = values.new_zeros(len(values), self.projection.out_features, dtype=torch.float32)
        if not present.any():
            return tokens
        indices = torch.where(present)[0]
        states, state_mask = self.stem(values[indices], mask[indices].bool())
        encoded = self.encode_sequence(states, state_mask)
        return tokens.index_copy(0, indices, encoded.to(tokens.dtype))

    @in_float32
    def encode_sequence(self, states: Tensor, mask: Tensor) -> Tensor:
        """states (B, T, W), mask (B, T) -> (B, H)."""
        if self.pooling == "statistics":
            # (B, 2 * W)
            statistics = mean_and_deviation(states, mask)
            return self.projection(self.dropout(standardize(statistics, self.mean, self.std)))
        # (B, T, W)
        states = self.norm(self.run_sequence(self.dropout(states), mask))
        # (B, T)
        scores = self.pooling_score(states).squeeze(-1)
        scores = scores.masked_fill(~mask, float("-inf"))
        weights = torch.softmax(scores, dim=1)
        # (B, W)
        pooled = torch.einsum("bt,btw->bw", weights, states)
        return self.projection(pooled)

    def run_sequence(self, states: Tensor, mask: Tensor) -> Tensor:
        """states (B, T, W), mask (B, T) -> (B, T, W)."""
        if self.sequence_type == "transformer":
            return self.sequence(states + sinusoidal_positions(states), src_key_padding_mask=~mask)
        if self.sequence_type == "none":
            return states
        # Packed, so that the backward GRU starts at a real step.
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
        encoded, _ = self.sequence(packed)
        encoded, _ = pad_packed_sequence(encoded, batch_first=True, total_length=states.shape[1])
        return states + encoded


# ---- both modalities ----------------------------------------------------------------------------------------------


class EGMFAudioVisualEncoder(EGMFFloat32Module):
    """Audio and video, one token each, with a learned embedding that tells them apart."""

    def __init__(
        self,
        config: EGMFConfig,
        audio_backbone: PreTrainedModel | None = None,
        video_backbone: PreTrainedModel | None = None,
    ):
        super().__init__()
        width = config.fusion_hidden_size
        self.audio = None
        self.video = None
        if config.audio_config is not None:
            self.audio = EGMFModalityEncoder(config.audio_config, width, audio_backbone)
        if config.video_config is not None:
            self.video = EGMFModalityEncoder(config.video_config, width, video_backbone)
        self.modality_embeds = nn.Parameter(torch.zeros(2, width))

    def forward(
        self,
        enabled: Tensor,
        audio_values: Tensor | None = None,
        audio_mask: Tensor | None = None,
        video_values: Tensor | None = None,
        video_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode audio and video.

        Args:
            enabled: (B, 2) bool, false to leave out audio or video that a sample has.
            audio_values, audio_mask, video_values, video_mask: as for `EGMFModel.forward`.

        Returns:
            Tokens (B, 2, H), zeros where a modality is absent, and (B, 2) bool, true where it is present.
        """
        audio, has_audio = self.encode_modality("audio", audio_values, audio_mask, enabled[:, 0])
        video, has_video = self.encode_modality("video", video_values, video_mask, enabled[:, 1])
        return torch.stack([audio, video], dim=1), torch.stack([has_audio, has_video], dim=1)

    def encode_modality(
        self,
        modality: str,
        values: Tensor | None,
        mask: Tensor | None,
        enabled: Tensor | bool = True,
    ) -> tuple[Tensor, Tensor]:
        """values (B, T or S, ...), mask (B, T or S), enabled (B,) -> token (B, H), and which samples have one (B,)."""
        encoder = getattr(self, modality)
        embed = self.modality_embeds[("audio", "video").index(modality)]
        if (values is None) != (mask is None):
            raise ValueError(f"`{modality}_values` and `{modality}_mask` go together; the processor returns both.")
        if values is None:
            # Times zero keeps the embedding in the graph: DDP waits for the gradient of every parameter.
            return embed.expand(enabled.shape[0], -1) * 0, torch.zeros_like(enabled)
        if encoder is None:
            raise ValueError(f"The batch has {modality}, but this model was built without {modality}.")
        num_samples = mask.shape[:1] if enabled is True else enabled.shape
        check_values(modality, values, mask, (*num_samples, *encoder.stem.input_sizes))
        # An exported program cannot raise.
        if not torch.compiler.is_exporting():
            is_wrong = mask != length_mask(mask.sum(dim=1), mask.shape[1])
            if is_wrong.any():
                raise ValueError(f"`{modality}_mask` must be ones, then zeros.")
        present = mask.bool().any(dim=1) & enabled
        token = (encoder(values, mask, present) + embed) * present[:, None]
        return token, present


def check_values(modality: str, values: Tensor, mask: Tensor, sizes: tuple[int | str, ...]) -> None:
    """Refuse values that the encoder does not take, or a mask that does not belong to them.

    Args:
        modality: for the message.
        values, mask: of a batch.
        sizes: of the values; a name stands for any size, "..." for any further ones.
    """
    shape = tuple(values.shape)
    is_open = "..." in sizes
    fits = is_open or len(shape) == len(sizes)
    fits &= all(isinstance(size, str) or size == actual for size, actual in zip(sizes, shape))
    lengths = shape[1:3] if is_open else shape[1:2]
    has_mask = mask.ndim == 2 and mask.shape[0] == sizes[0] and mask.shape[1] in lengths
    if not (fits and has_mask and values.is_floating_point()):
        expected = ", ".join(map(str, sizes))
        raise ValueError(
            f"`{modality}_values` has shape {shape} and type {values.dtype}, "
            f"`{modality}_mask` {tuple(mask.shape)}. "
            f"Give floats ({expected}) and their mask, as the processor returns them."
        )


# ---- shared steps -------------------------------------------------------------------------------------------------


def strided_convolutions(convolution: type[nn.Module], channels: list[int]) -> nn.ModuleList:
    """One convolution of stride 2 for each pair of consecutive channel counts."""
    pairs = zip(channels[:-1], channels[1:], strict=True)
    return nn.ModuleList(convolution(before, after, 3, stride=2, padding=1) for before, after in pairs)


def sinusoidal_positions(states: Tensor) -> Tensor:
    """states (B, T, W) -> (T, W), interleaved sines and cosines of the step."""
    _, length, width = states.shape
    # (T, 1)
    steps = torch.arange(length, device=states.device, dtype=torch.float32)[:, None]
    even = torch.arange(0, width, 2, device=states.device)
    # (T, W / 2)
    angles = steps * torch.exp(even * (-math.log(10000.0) / width))
    positions = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return positions[:, :width].to(states.dtype)


def standardize(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """values (..., F), mean and std (F,) -> (..., F); 10 deviations bound outliers."""
    return ((values - mean) / std.clamp(min=1e-5)).clamp(-10, 10)


def mean_and_deviation(states: Tensor, mask: Tensor) -> Tensor:
    """states (B, T, W), mask (B, T) -> (B, 2 * W): mean and standard deviation over the real steps."""
    # (B, T, 1)
    weights = (mask / mask.sum(dim=1, keepdim=True))[..., None]
    mean = (weights * states).sum(dim=1)
    variance = (weights * (states - mean[:, None]).square()).sum(dim=1)
    # The root of 0, of a clip of one step, has no gradient.
    return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)


def average_over_grid(states: Tensor, size: int) -> Tensor:
    """states (N, C, y, x) -> (N, C, size, size), the means of cells as equal as whole pixels allow.

    The same as `adaptive_avg_pool2d`, which Apple GPUs only have for sides that are multiples of `size`.
    """
    height, width = states.shape[-2:]
    # (size, y)
    rows = cell_means(height, size).to(states)
    # (size, x)
    columns = cell_means(width, size).to(states)
    return rows @ states @ columns.T


def cell_means(length: int, num_cells: int) -> Tensor:
    """(num_cells, length): the matrix that averages `length` pixels into cells, which may overlap by one pixel."""
    pixels = torch.arange(length) * num_cells
    starts = torch.arange(num_cells)[:, None] * length
    is_inside = (pixels + num_cells > starts) & (pixels < starts + length)
    return is_inside / is_inside.sum(dim=1, keepdim=True)
