"""Options of the model as fields of its configuration."""

import pytest

from training.model.builder import read_experts


def test_experts_from_the_command_line():
    names = ["local", "wide:3.4:mixture:learned"]
    assert read_experts(names) == [
        {"name": "local", "bottleneck_ratio": 8, "activation": "mish"},
        {"name": "wide", "bottleneck_ratio": 3.4, "activation": "mixture", "learned_width": True},
    ]
    for wrong in ("locl", "a:b:gelu", "a:2:gelu:learnt"):
        with pytest.raises(ValueError, match=r"--experts .*give one of local, semantic, global"):
            read_experts([wrong])
