"""Which language models FSDP2 may shard."""

import pytest
from transformers import LlamaConfig, MambaConfig, MistralConfig

from training.trainer.distributed import check_sharded_decoder


def test_full_attention_is_sharded():
    check_sharded_decoder(LlamaConfig())


@pytest.mark.parametrize("config", [MambaConfig(), MistralConfig(sliding_window=16)], ids=["mamba", "sliding"])
def test_other_layers_are_refused(config):
    with pytest.raises(ValueError, match=f"FSDP cannot shard a '{config.model_type}'.*Use DDP"):
        check_sharded_decoder(config)
