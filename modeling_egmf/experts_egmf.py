"""Experts, hierarchical gate and gated residual of EGMF (paper: expert-guided fusion, Eq. 3).

    f_fusion ──► GateNetwork ──► w                     stage 1, feature-driven
    [f_fusion ; w] ──► MLP ──► softmax ──► alpha       stage 2, context-aware
    f_enhanced = sum_k alpha_k E_k(f_fusion) + beta f_fusion

The forms of GateNetwork, MLP and beta are our choice; modeling_egmf.py gives the reasons.
Next: prompt_egmf.py, which turns f_enhanced into soft tokens of the prompt.
"""

# B batch  E experts  H fusion width

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration_egmf import EGMFConfig
from .outputs_egmf import EGMFFusionOutput
from .precision_egmf import EGMFFloat32Module, in_float32


class EGMFExpert(EGMFFloat32Module):
    """A bottleneck network E_k: H -> H / bottleneck_ratio -> H."""

    def __init__(self, width: int, bottleneck_ratio: int, activation: str):
        super().__init__()
        bottleneck_width = max(1, width // bottleneck_ratio)
        self.down = nn.Linear(width, bottleneck_width)
        self.activation = ACT2FN[activation]
        self.up = nn.Linear(bottleneck_width, width)

    def forward(self, fused: Tensor) -> Tensor:
        """fused (B, H) -> (B, H)."""
        return self.up(self.activation(self.down(fused)))


def two_layers(width: int, hidden_width: int, output_width: int) -> nn.Sequential:
    """A linear layer, GELU, and another linear layer."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, output_width))


class EGMFHierarchicalGate(EGMFFloat32Module):
    """The two stages of the gate, and the weight of the residual."""

    def __init__(self, width: int, num_experts: int):
        super().__init__()
        hidden_width = max(num_experts, width // 4)
        self.feature_gate = two_layers(width, hidden_width, num_experts)
        self.context_gate = two_layers(width + num_experts, hidden_width, num_experts)
        self.residual_gate = nn.Linear(width, 1)

    def forward(self, fused: Tensor) -> EGMFFusionOutput:
        """fused (B, H) -> output with the weights of the gate."""
        output = EGMFFusionOutput()
        output.gate_weights = torch.softmax(self.feature_gate(fused), dim=-1)
        context = torch.cat([fused, output.gate_weights], dim=-1)  # (B, H + E)
        output.expert_weights = torch.softmax(self.context_gate(context), dim=-1)
        output.residual_weight = torch.sigmoid(self.residual_gate(fused)).squeeze(-1)
        return output


class EGMFExperts(EGMFFloat32Module):
    """Eq. 3: the gate mixes the experts and keeps a share of the fused vector."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        self.experts = nn.ModuleList(
            EGMFExpert(width, expert["bottleneck_ratio"], expert["activation"]) for expert in config.experts
        )
        self.gate = EGMFHierarchicalGate(width, len(self.experts))

    @in_float32
    def forward(self, fused: Tensor) -> EGMFFusionOutput:
        """fused (B, H) -> output with f_enhanced (B, H) and the weights that it was mixed with."""
        output = self.gate(fused)
        expert_outputs = torch.stack([expert(fused) for expert in self.experts], dim=1)  # (B, E, H)
        mixed = torch.einsum("be,beh->bh", output.expert_weights, expert_outputs)  # (B, H)
        output.fused = mixed + output.residual_weight[:, None] * fused
        return output
