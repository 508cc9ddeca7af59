"""Equation 3 against plain loops: three bottlenecks, two stages of the gate, the gated residual."""

import math

import pytest
import torch

from modeling_egmf.experts_egmf import EGMFExpert, EGMFExperts


WIDTH = 16

# The paper's table: role, ratio of the bottleneck, activation as a formula.
PAPER = {
    "local": (8, "mish", lambda x: x * math.tanh(math.log(1 + math.exp(x)))),
    "semantic": (4, "gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
    "global": (2, "silu", lambda x: x / (1 + math.exp(-x))),
}


def affine(layer, vector):
    """W x + b, one product at a time."""
    return [
        sum(float(w) * x for w, x in zip(row, vector, strict=True)) + float(b)
        for row, b in zip(layer.weight, layer.bias, strict=True)
    ]


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def gelu(values):
    return [PAPER["semantic"][2](value) for value in values]


def mixture(experts, fused):
    """f_enhanced, alpha, w and beta of one vector, in the paper's order."""
    gate = experts.gate
    w = softmax(affine(gate.feature_gate[2], gelu(affine(gate.feature_gate[0], fused))))
    alpha = softmax(affine(gate.context_gate[2], gelu(affine(gate.context_gate[0], fused + w))))
    beta = 1 / (1 + math.exp(-affine(gate.residual_gate, fused)[0]))
    enhanced = [beta * x for x in fused]
    for share, expert, (_, _, activation) in zip(alpha, experts.experts, PAPER.values(), strict=True):
        output = affine(expert.up, [activation(x) for x in affine(expert.down, fused)])
        enhanced = [a + share * b for a, b in zip(enhanced, output, strict=True)]
    return enhanced, alpha, w, beta


@pytest.fixture
def experts(make_config, enliven):
    torch.manual_seed(0)
    return enliven(EGMFExperts(make_config())).eval()


@pytest.fixture
def fused():
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))


def test_paper_experts_are_the_default(make_config):
    actual = [(e["name"], e["bottleneck_ratio"], e["activation"]) for e in make_config().experts]
    assert actual == [(name, ratio, activation) for name, (ratio, activation, _) in PAPER.items()]


@pytest.mark.parametrize("name", PAPER)
def test_bottleneck_width_is_the_ratio(experts, name):
    expert = experts.experts[list(PAPER).index(name)]
    assert expert.down.weight.shape == (WIDTH // PAPER[name][0], WIDTH)
    assert expert.up.weight.shape == (WIDTH, WIDTH // PAPER[name][0])


@pytest.mark.parametrize("name", PAPER)
def test_expert_equals_loops(enliven, fused, name):
    ratio, activation, formula = PAPER[name]
    expert = enliven(EGMFExpert(WIDTH, ratio, activation))
    for row in fused:
        expected = affine(expert.up, [formula(x) for x in affine(expert.down, row.tolist())])
        assert expert(row).tolist() == pytest.approx(expected, abs=1e-5)


def test_mixture_equals_loops(experts, fused):
    output = experts(fused)
    for i, row in enumerate(fused.tolist()):
        enhanced, alpha, w, beta = mixture(experts, row)
        assert output.fused[i].tolist() == pytest.approx(enhanced, abs=1e-5)
        assert output.expert_weights[i].tolist() == pytest.approx(alpha, abs=1e-5)
        assert output.gate_weights[i].tolist() == pytest.approx(w, abs=1e-5)
        assert output.residual_weight[i].item() == pytest.approx(beta, abs=1e-5)


def test_weights_are_shares(experts, fused):
    output = experts(10 * fused)
    for weights in (output.expert_weights, output.gate_weights):
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    assert ((output.residual_weight > 0) & (output.residual_weight < 1)).all()


def test_gate_depends_on_the_input(experts, fused):
    assert experts(fused).expert_weights.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("stage", ["feature_gate", "context_gate"])
def test_each_stage_moves_alpha(experts, fused, stage):
    before = experts(fused).expert_weights
    with torch.no_grad():
        getattr(experts.gate, stage)[2].bias[0] += 1
    assert (experts(fused).expert_weights - before).abs().max() > 1e-3


@pytest.mark.parametrize("index", range(3))
def test_each_expert_moves_the_mixture(experts, fused, index):
    before = experts(fused).fused
    with torch.no_grad():
        experts.experts[index].up.bias += 1
    torch.testing.assert_close(
        experts(fused).fused - before, experts(fused).expert_weights[:, index, None].expand(-1, WIDTH)
    )


def test_residual_moves_the_mixture(experts, fused):
    before = experts(fused).fused
    with torch.no_grad():
        experts.gate.residual_gate.bias += 1
    assert (experts(fused).fused - before).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_experts(make_config, fused, count):
    chosen = [{"name": f"e{i}", "bottleneck_ratio": 2**i, "activation": "relu"} for i in range(count)]
    output = EGMFExperts(make_config(experts=chosen))(fused)
    assert output.expert_weights.shape == output.gate_weights.shape == (4, count)
    assert output.fused.shape == fused.shape


def test_bottleneck_keeps_one_unit():
    assert EGMFExpert(6, 5, "gelu").down.out_features == 1


def test_samples_do_not_touch_each_other(experts, fused):
    single = torch.cat([experts(row[None]).fused for row in fused])
    torch.testing.assert_close(experts(fused).fused, single, atol=1e-6, rtol=0)
