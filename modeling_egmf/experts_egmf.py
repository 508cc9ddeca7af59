"""Three experts, hierarchical gate, gated residual (paper: expert-guided fusion, Eq. 3).

    f_fusion ──► GateNetwork ──► w                     stage 1, feature-driven
    [f_fusion ; w] ──► MLP ──► softmax ──► alpha       stage 2, context-aware
    f_enhanced = sum_k alpha_k E_k(f_fusion) + beta f_fusion

Next: modeling_egmf.py, which turns f_enhanced into pseudo tokens.
"""

# B batch  E experts  H fusion width

from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_egmf import EGMFConfig


class ExpertMixture(NamedTuple):
    """What the experts made of the fused vector."""

    fused: torch.Tensor  # (B, H) f_enhanced
    expert_weights: torch.Tensor  # (B, E) alpha, sums to 1
    gate_weights: torch.Tensor  # (B, E) w, sums to 1
    residual_weight: torch.Tensor  # (B,) beta in (0, 1)


class EGMFExpert(nn.Module):
    """A bottleneck network: H -> H / bottleneck_ratio -> H."""

    def __init__(self, width: int, bottleneck_ratio: int, activation: str):
        super().__init__()
        self.down = nn.Linear(width, max(1, width // bottleneck_ratio))
        self.activation = ACT2FN[activation]
        self.up = nn.Linear(self.down.out_features, width)

    def forward(self, fused: torch.Tensor) -> torch.Tensor:
        return self.up(self.activation(self.down(fused)))


class EGMFHierarchicalGate(nn.Module):
    """Two stages a sample. The paper leaves the form of w and beta open: w is a softmax, beta a sigmoid."""

    def __init__(self, width: int, num_experts: int):
        super().__init__()
        hidden, wider = max(num_experts, width // 4), width + num_experts
        self.feature_gate = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, num_experts))
        self.context_gate = nn.Sequential(nn.Linear(wider, hidden), nn.GELU(), nn.Linear(hidden, num_experts))
        self.residual_gate = nn.Linear(width, 1)

    def forward(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gate_weights = torch.softmax(self.feature_gate(fused), dim=-1)  # (B, E)
        gate_logits = self.context_gate(torch.cat([fused, gate_weights], dim=-1))  # (B, E)
        residual_weight = torch.sigmoid(self.residual_gate(fused)).squeeze(-1)  # (B,)
        return torch.softmax(gate_logits, dim=-1), gate_weights, residual_weight


class EGMFExperts(nn.Module):
    """Eq. 3: the gate mixes the experts and keeps a share of what came in."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width, kinds = config.fusion_hidden_size, config.experts
        self.experts = nn.ModuleList(EGMFExpert(width, k["bottleneck_ratio"], k["activation"]) for k in kinds)
        self.gate = EGMFHierarchicalGate(width, len(self.experts))

    def forward(self, fused: torch.Tensor) -> ExpertMixture:
        """fused (B, H) -> ExpertMixture."""
        expert_weights, gate_weights, residual_weight = self.gate(fused)
        expert_outputs = torch.stack([expert(fused) for expert in self.experts], dim=1)  # (B, E, H)
        mixed = torch.einsum("be,beh->bh", expert_weights, expert_outputs)  # (B, H)
        return ExpertMixture(mixed + residual_weight[:, None] * fused, expert_weights, gate_weights, residual_weight)
