"""What a checkpoint's weights hold: types, finite values, and a checksum that tells of flipped bits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.weights_egmf import checksum, not_finite
from tests.helpers.checkpoint_files import edit_weights


load = EGMFForConditionalGeneration.from_pretrained
NAME = "egmf.fusion.no_text_query"


@pytest.fixture(params=["adapter", "standalone"])
def folder(request):
    return request.getfixturevalue(request.param)[0]


# ---- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn, torch.uint8])
def test_weights_of_another_type_are_refused(folder, dtype):
    edit_weights(folder, lambda state: state.update({NAME: state[NAME].to(dtype)}))
    with pytest.raises(ValueError, match=rf"wrong types: \['{NAME} \({dtype}\)'\]"):
        load(folder)


def test_weights_that_overflow_float32_are_refused(folder):
    edit_weights(folder, lambda state: state.update({NAME: state[NAME].double() + 1e300}))
    with pytest.raises(ValueError, match=rf"NaN or infinite: \['{NAME}'\]"):
        load(folder)


@pytest.mark.parametrize("kind", ["adapter", "standalone"])
def test_language_model_that_overflows_float16_is_refused(request, kind, make_language_model, tmp_path):
    folder = request.getfixturevalue(kind)[0]
    (tmp_path / "llm").unlink(missing_ok=True)
    make_language_model().save_pretrained(tmp_path / "llm")
    stored = folder if kind == "standalone" else tmp_path / "llm"
    name = "language_model.model.norm.weight" if kind == "standalone" else "model.norm.weight"
    edit_weights(stored, lambda state: state[name].fill_(1e6))
    with pytest.raises(ValueError, match=rf"NaN or infinite: \['{name}'\].*dtype=torch.bfloat16"):
        load(folder, dtype=torch.float16)


def test_language_model_of_an_adapter_with_nan_is_refused(adapter, make_language_model, tmp_path):
    (tmp_path / "llm").unlink()
    make_language_model().save_pretrained(tmp_path / "llm")
    edit_weights(tmp_path / "llm", lambda state: state["model.layers.0.mlp.up_proj.weight"][0, :1].fill_(float("nan")))
    with pytest.raises(
        ValueError, match=r"llm do not match.*NaN or infinite: \['model.layers.0.mlp.up_proj.weight'\]"
    ):
        load(adapter[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_not_finite(dtype, value):
    weights = {"good": torch.ones(3), "bad": torch.tensor([1.0, value, 2.0]).to(dtype), "empty": torch.ones(0)}
    assert not_finite({**weights, "integers": torch.ones(2, dtype=torch.int8)}) == ["bad"]


# ---- the checksum -------------------------------------------------------------------------------------------


def test_checksum_depends_on_everything_but_the_order():
    weights = {"a": torch.arange(6.0), "b": torch.tensor(2), "c": torch.ones(0, dtype=torch.bool)}
    expected = checksum(weights.items())
    assert checksum(reversed(weights.items())) == expected
    changes = (
        {"a": torch.arange(6.0).reshape(2, 3)},
        {"a": torch.arange(6.0).half()},
        {"b": torch.tensor(3)},
        {"d": torch.ones(1)},
    )
    assert len({checksum({**weights, **change}.items()) for change in changes} | {expected}) == 5


def test_flipped_bit_is_told(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors of .* has changed"):
        load(folder)


def test_pointer_of_git_lfs_is_named(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(OSError, match=f"{folder}.* could not be loaded .*Git LFS pointer.*Download"):
        load(folder)


def test_checkpoint_without_a_checksum_loads(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    files = ("adapter_model.safetensors", "adapter_config.json") if config["adapters"] else ()
    assert set(config.pop("weights_checksum")) == {"model.safetensors", *[f"default/{name}" for name in files]}
    path.write_text(json.dumps(config))
    edit_weights(folder, lambda state: state[NAME].add_(1))
    load(folder)


def test_shards_have_the_checksum_of_the_whole(adapter, tmp_path, bases):
    _, model, _ = adapter
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    whole = EGMFConfig.from_pretrained(adapter[0]).weights_checksum
    assert EGMFConfig.from_pretrained(tmp_path / "shards").weights_checksum == whole
    names = ("model.safetensors", "default/adapter_model.safetensors")
    assert {name: whole[name] for name in names} == {
        name: checksum(load_file(adapter[0] / name).items()) for name in names
    }


def test_model_in_memory_has_no_checksum(folder):
    assert load(folder).config.weights_checksum is None
