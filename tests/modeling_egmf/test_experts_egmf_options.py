"""Departures from Eq. 3 that are options: the gate's stages, the residual, masked and learned experts, the norms."""

import pytest
import torch
from torch import nn

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.experts_egmf import EGMFExpert, EGMFExperts
from modeling_egmf.fusion_egmf import EGMFFusion
from modeling_egmf.prompt_egmf import EGMFPseudoTokens


WIDTH = 16


@pytest.fixture
def fused():
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))


def build(make_config, enliven, **options):
    torch.manual_seed(0)
    return enliven(EGMFExperts(make_config(**options))).eval()


def test_uniform_gate(make_config, enliven, fused):
    experts = build(make_config, enliven, gate="uniform")
    output = experts(fused)
    assert torch.equal(output.expert_weights, torch.full((4, 3), 1 / 3))
    assert experts.gate.feature_gate is experts.gate.context_gate is None
    plain = sum(expert(fused) for expert in experts.experts) / 3
    torch.testing.assert_close(output.fused, plain + output.residual_weight[:, None] * fused)


def test_one_stage_gate(make_config, enliven, fused):
    experts = build(make_config, enliven, gate="one_stage")
    output = experts(fused)
    assert experts.gate.context_gate is None
    assert torch.equal(output.expert_weights, output.gate_weights)
    torch.testing.assert_close(output.gate_weights, torch.softmax(experts.gate.feature_gate(fused), dim=-1))
    assert output.expert_weights.std(dim=0).min() > 1e-3


def test_without_the_residual(make_config, enliven, fused):
    experts = build(make_config, enliven, expert_residual=False)
    output = experts(fused)
    assert output.residual_weight.tolist() == [0.0] * 4
    outputs = torch.stack([expert(fused) for expert in experts.experts], dim=1)
    torch.testing.assert_close(output.fused, (output.expert_weights[..., None] * outputs).sum(dim=1))


def test_a_masked_expert_gets_no_weight_and_the_others_keep_their_proportions(make_config, enliven, fused):
    everything = build(make_config, enliven)
    masked = EGMFExperts(make_config(active_experts=["local", "global"]))
    masked.load_state_dict(everything.state_dict())
    before, after = everything(fused), masked(fused)
    expected = before.expert_weights.clone()
    expected[:, 1] = 0
    torch.testing.assert_close(after.expert_weights, expected / expected.sum(dim=1, keepdim=True))
    assert torch.equal(after.gate_weights, before.gate_weights)


def test_experts_that_are_chosen_in_memory(make_config, enliven, fused):
    """The choice was read only when the model was built, and ignored afterwards."""
    config = make_config()
    torch.manual_seed(0)
    experts = enliven(EGMFExperts(config)).eval()
    before = experts(fused).expert_weights
    config.active_experts = ["local", "global"]
    assert experts(fused).expert_weights[:, 1].tolist() == [0.0] * 4
    config.active_experts = ["local", "globe"]
    with pytest.raises(ValueError, match=r"`active_experts` is \['local', 'globe'\]; name at least one of local, sem"):
        experts(fused)
    config.active_experts = None
    assert torch.equal(experts(fused).expert_weights, before)


def test_experts_may_be_chosen_by_a_tuple(make_config):
    config = make_config(active_experts=("local",))
    assert config.active_experts == ["local"] == EGMFConfig.from_dict(config.to_dict()).active_experts
    assert EGMFConfig.from_dict(config.to_dict(), active_experts=("global",)).active_experts == ["global"]


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_experts_that_are_chosen_in_a_loaded_model(request, kind):
    folder, _, inputs = request.getfixturevalue(kind)
    model = EGMFForConditionalGeneration.from_pretrained(folder)
    model.config.active_experts = ["semantic"]
    weights = model.score_answers(**inputs).expert_weights
    assert weights.tolist() == [[0.0, 1.0, 0.0]] * len(weights)


def test_learned_width_and_activation(enliven, fused):
    torch.manual_seed(0)
    expert = enliven(EGMFExpert(WIDTH, 3.3, "mixture", learned_width=True))
    assert expert.down.out_features == expert.unit_gates.numel() == 4
    down = expert.down(fused)
    shares = torch.softmax(expert.activation.mixture, dim=0)
    activated = sum(
        share * activation(down) for share, activation in zip(shares, (nn.Mish(), nn.GELU(), nn.SiLU()), strict=True)
    )
    expected = expert.up(activated * torch.sigmoid(expert.unit_gates))
    torch.testing.assert_close(expert(fused), expected)
    expert(fused).sum().backward()
    assert expert.unit_gates.grad.abs().min() > 0
    assert expert.activation.mixture.grad.abs().min() > 0


def test_norms_can_be_left_out(make_config):
    fusion = EGMFFusion(make_config(fusion_norms=False))
    assert not any(isinstance(module, nn.LayerNorm) for module in fusion.modules())
    tokens = EGMFPseudoTokens(make_config(pseudo_token_norm=False))
    enhanced = torch.randn(2, WIDTH)
    torch.testing.assert_close(tokens(enhanced)[:, 0], tokens.projection(enhanced))
    assert "scale" not in tokens.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"active_experts": ["local", "globe"]}, "name at least one of local, semantic, global"),
        ({"active_experts": []}, "name at least one of"),
        (
            {"active_experts": (0, 1)},
            r"`active_experts` is \[0, 1\]; name at least one of local, semantic, global, in a",
        ),
        ({"active_experts": "local"}, "`active_experts` is local; name at least one of .*, in a list"),
        ({"active_experts": {"local": 1}}, "in a list"),
        ({"active_experts": [["local"]]}, "in a list"),
        ({"gate": "three_stage"}, "gate"),
    ],
)
def test_wrong_options(make_config, options, message):
    with pytest.raises(Exception, match=message):
        make_config(**options)
