"""Everything in front of the language model as one module that `torch.export` can trace.

    text_embeds, masks, audio, video ─► ExportableFusion ─► {"pseudo_tokens", "fused", "expert_weights", ...}

It is the model's own code with its weights. Three steps of the encoders are replaced by steps of the same result that
can be traced: samples without a modality are encoded as well, and set to zero afterwards; the GRU, which the model
runs over packed sequences, is a scan over the steps that passes padding; PyTorch's transformer is written out, because
its fused kernel exists in no other format.
"""

# B batch  L transcript columns  T frames or steps in time  W encoder width  G width of one direction of the GRU

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling_egmf import EGMFEncoderConfig, EGMFModel
from modeling_egmf.backbones_egmf import EGMFPretrainedStem
from modeling_egmf.encoders_egmf import EGMFModalityEncoder, sinusoidal_positions


# Names of the outputs -> fields of `EGMFFusionOutput`. An ONNX output cannot have the name of an input.
OUTPUTS = {
    "pseudo_tokens": "pseudo_tokens",
    "fused": "fused",
    "expert_weights": "expert_weights",
    "gate_weights": "gate_weights",
    "residual_weight": "residual_weight",
    "used_modalities": "modality_mask",
}


class ExportableFusion(nn.Module):
    """The model's encoders, fusion, experts and pseudo tokens, in evaluation mode and float32.

    Weights are copied, except those of pretrained encoders, which are shared and become float32 in the model as well.
    A pretrained encoder whose stored outputs the model takes (`precomputed`) is left out.
    """

    def __init__(self, model: EGMFModel):
        super().__init__()
        config = model.config
        source = model.audio_visual_encoder
        self.egmf = EGMFModel(config, backbone_of(source.audio), backbone_of(source.video))
        encoder = self.egmf.audio_visual_encoder
        if source.audio is not None:
            encoder.audio = ExportableEncoder(source.audio, config.audio_config, config.fusion_hidden_size)
        if source.video is not None:
            encoder.video = ExportableEncoder(source.video, config.video_config, config.fusion_hidden_size)
        self.egmf.load_state_dict(model.state_dict())
        for stem in self.egmf.modules():
            if isinstance(stem, EGMFPretrainedStem) and stem.precomputed:
                stem.backbone = nn.Identity()
        self.eval().float().requires_grad_(False)

    def forward(
        self,
        text_embeds: Tensor,
        utterance_mask: Tensor,
        modality_mask: Tensor,
        audio_values: Tensor | None = None,
        audio_mask: Tensor | None = None,
        video_values: Tensor | None = None,
        video_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Arguments as in `EGMFModel.forward`; the fields of `EGMFFusionOutput` by name."""
        output = self.egmf(
            text_embeds=text_embeds,
            utterance_mask=utterance_mask,
            modality_mask=modality_mask,
            audio_values=audio_values,
            audio_mask=audio_mask,
            video_values=video_values,
            video_mask=video_mask,
        )
        return {name: output[field] for name, field in OUTPUTS.items()}


def backbone_of(encoder: EGMFModalityEncoder | None) -> PreTrainedModel | None:
    """The pretrained encoder of a modality, if there is one."""
    if encoder is None or not isinstance(encoder.stem, EGMFPretrainedStem):
        return None
    return encoder.stem.backbone


class ExportableEncoder(EGMFModalityEncoder):
    """The encoder of one modality without control flow that depends on the data."""

    def __init__(self, source: EGMFModalityEncoder, config: EGMFEncoderConfig, fusion_width: int):
        super().__init__(config, fusion_width, backbone_of(source))
        if isinstance(source.stem, EGMFPretrainedStem):
            self.stem.precomputed = source.stem.precomputed

    def forward(self, values: Tensor, mask: Tensor, present: Tensor) -> Tensor:
        """Encode every sample, and set those without the modality to zero: (B, H)."""
        first_step = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = mask.bool() | (first_step & ~present[:, None])  # pooling over no steps would be NaN
        states, mask = self.stem(values, mask)  # (B, T, W), (B, T)
        return self.encode_sequence(states, mask).masked_fill(~present[:, None], 0)

    def run_sequence(self, states: Tensor, mask: Tensor) -> Tensor:
        """states (B, T, W), mask (B, T) -> (B, T, W)."""
        if self.sequence_type == "gru":
            return states + run_gru(self.sequence, states, mask)
        if self.sequence_type == "transformer":
            return run_transformer(self.sequence, states + sinusoidal_positions(states), mask)
        return states


def run_transformer(transformer: nn.TransformerEncoder, states: Tensor, mask: Tensor) -> Tensor:
    """states (B, T, W), mask (B, T) -> (B, T, W)."""
    for layer in transformer.layers:
        states = states + attend(layer.self_attn, layer.norm1(states), mask)
        hidden = layer.activation(layer.linear1(layer.norm2(states)))
        states = states + layer.linear2(hidden)
    return states


def attend(attention: nn.MultiheadAttention, states: Tensor, mask: Tensor) -> Tensor:
    """states (B, T, W), mask (B, T) -> (B, T, W): self-attention over real steps."""
    projected = nn.functional.linear(states, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.unflatten(-1, (3, attention.num_heads, attention.head_dim))  # (B, T, 3, heads, W / heads)
    queries, keys, values = heads.permute(2, 0, 3, 1, 4)  # (B, heads, T, W / heads) each
    attended = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :])
    return attention.out_proj(attended.transpose(1, 2).flatten(2))


def run_gru(gru: nn.GRU, states: Tensor, mask: Tensor) -> Tensor:
    """states (B, T, W), mask (B, T) -> (B, T, W)."""
    weights = gru.all_weights  # forward and backward, layer by layer
    for forward_weights, backward_weights in zip(weights[::2], weights[1::2], strict=True):
        states = run_gru_layer(states, mask, forward_weights, backward_weights)
    return states


def run_gru_layer(
    states: Tensor,
    mask: Tensor,
    forward_weights: list[Tensor],
    backward_weights: list[Tensor],
) -> Tensor:
    """A layer of a bidirectional GRU, whose hidden state passes padding unchanged.

    Args:
        states: (B, T, W).
        mask: (B, T) bool, true on real steps.
        forward_weights, backward_weights: from the inputs and from the hidden state, and their biases.

    Returns:
        (B, T, 2 G), equal to that of packed sequences on real steps.
    """
    gates = []
    for values, (weight, _, bias, _) in ((states, forward_weights), (states.flip(1), backward_weights)):
        gates.append(nn.functional.linear(values, weight, bias).transpose(0, 1))  # (T, B, 3 G)
    is_real = torch.stack([mask, mask.flip(1)]).permute(2, 0, 1)[..., None]  # (T, 2, B, 1)
    hidden_weights = torch.stack([forward_weights[1].T, backward_weights[1].T])  # (2, G, 3 G)
    hidden_biases = torch.stack([forward_weights[3], backward_weights[3]])[:, None]  # (2, 1, 3 G)
    start = states.new_zeros(2, states.shape[0], hidden_weights.shape[1])
    _, outputs = torch.ops.higher_order.scan(
        gru_step,
        [start],
        [torch.stack(gates, dim=1), is_real],
        [hidden_weights, hidden_biases],
    )
    forward_states, backward_states = outputs.unbind(1)  # (T, B, G)
    return torch.cat([forward_states, backward_states.flip(0)], dim=-1).transpose(0, 1)


def gru_step(
    hidden: Tensor,
    gates: Tensor,
    is_real: Tensor,
    hidden_weights: Tensor,
    hidden_biases: Tensor,
) -> tuple[Tensor, Tensor]:
    """hidden (2, B, G), gates (2, B, 3 G), is_real (2, B, 1) -> the next hidden state, and the step's output."""
    reset, update, new = gates.chunk(3, dim=-1)
    hidden_reset, hidden_update, hidden_new = (hidden @ hidden_weights + hidden_biases).chunk(3, dim=-1)
    reset = torch.sigmoid(reset + hidden_reset)
    update = torch.sigmoid(update + hidden_update)
    new = torch.tanh(new + reset * hidden_new)
    following = torch.where(is_real, new + update * (hidden - new), hidden)
    return following, following.clone()
