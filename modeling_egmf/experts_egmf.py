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

from .configuration_egmf import LEARNED_ACTIVATION, PAPER_EXPERTS, EGMFConfig
from .outputs_egmf import EGMFFusionOutput
from .precision_egmf import EGMFFloat32Module, in_float32


class EGMFMixedActivation(EGMFFloat32Module):
    """A learned mixture of the paper's three activations, which starts with equal shares."""

    def __init__(self):
        super().__init__()
        names = [expert["activation"] for expert in PAPER_EXPERTS]
        self.activations = nn.ModuleList(ACT2FN[name] for name in names)
        self.mixture = nn.Parameter(torch.zeros(len(names)))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (B, units) -> (B, units)."""
        outputs = [activation(hidden) for activation in self.activations]
        shares = torch.softmax(self.mixture, dim=0)
        return torch.einsum("k,kbu->bu", shares, torch.stack(outputs))


class EGMFExpert(EGMFFloat32Module):
    """A bottleneck network E_k: H -> H / bottleneck_ratio -> H."""

    def __init__(
        self,
        width: int,
        bottleneck_ratio: float,
        activation: str,
        learned_width: bool = False,
        name: str = "",
    ):
        super().__init__()
        self.name = name
        num_units = max(1, int(width / bottleneck_ratio))
        self.down = nn.Linear(width, num_units)
        if activation == LEARNED_ACTIVATION:
            self.activation = EGMFMixedActivation()
        else:
            self.activation = ACT2FN[activation]
        self.up = nn.Linear(num_units, width)
        self.unit_gates = None
        if learned_width:
            # sigmoid(2) = 0.88: units start nearly open, where the gradient of their gate is not yet small.
            self.unit_gates = nn.Parameter(torch.full((num_units,), 2.0))

    def forward(self, fused: Tensor) -> Tensor:
        """fused (B, H) -> (B, H)."""
        # (B, units)
        hidden = self.activation(self.down(fused))
        if self.unit_gates is not None:
            hidden = hidden * torch.sigmoid(self.unit_gates)
        return self.up(hidden)


def two_layers(width: int, hidden_width: int, output_width: int) -> nn.Sequential:
    """A linear layer, GELU, and another linear layer."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, output_width))


class EGMFHierarchicalGate(EGMFFloat32Module):
    """The two stages of the gate, and the weight of the residual. `gate` and `expert_residual` leave parts out."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        num_experts = len(config.experts)
        hidden_width = max(num_experts, width // 4)
        self.config = config
        self.feature_gate = None
        self.context_gate = None
        self.residual_gate = None
        if config.gate != "uniform":
            self.feature_gate = two_layers(width, hidden_width, num_experts)
        if config.gate == "two_stage":
            self.context_gate = two_layers(width + num_experts, hidden_width, num_experts)
        if config.expert_residual:
            self.residual_gate = nn.Linear(width, 1)

    def forward(self, fused: Tensor) -> EGMFFusionOutput:
        """fused (B, H) -> output with the weights of the gate."""
        output = EGMFFusionOutput()
        # Equal weights.
        logits = fused.new_zeros(fused.shape[0], len(self.config.experts))
        if self.feature_gate is not None:
            logits = self.feature_gate(fused)
        output.gate_weights = torch.softmax(logits, dim=-1)
        if self.context_gate is not None:
            # (B, H + E)
            context = torch.cat([fused, output.gate_weights], dim=-1)
            logits = self.context_gate(context)
        active = self.config.active_experts
        if active is not None:
            # They may have been set in memory.
            self.config.validate_experts()
            masked = [name not in active for name in self.config.expert_names]
            logits = logits.masked_fill(torch.tensor(masked, device=logits.device), -torch.inf)
        output.expert_weights = torch.softmax(logits, dim=-1)
        output.residual_weight = fused.new_zeros(fused.shape[0])
        if self.residual_gate is not None:
            output.residual_weight = torch.sigmoid(self.residual_gate(fused)).squeeze(-1)
        return output


class EGMFExperts(EGMFFloat32Module):
    """Eq. 3: the gate mixes the experts and keeps a share of the fused vector."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        self.experts = nn.ModuleList(EGMFExpert(width, **expert) for expert in config.experts)
        self.gate = EGMFHierarchicalGate(config)

    @in_float32
    def forward(self, fused: Tensor) -> EGMFFusionOutput:
        """fused (B, H) -> output with f_enhanced (B, H) and the weights that it was mixed with."""
        output = self.gate(fused)
        # (B, E, H)
        expert_outputs = torch.stack([expert(fused) for expert in self.experts], dim=1)
        mixed = torch.einsum("be,beh->bh", output.expert_weights, expert_outputs)  # (B, H)
        output.fused = mixed + output.residual_weight[:, None] * fused
        return output
