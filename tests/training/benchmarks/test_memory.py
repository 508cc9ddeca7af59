"""The memory estimate: exact bytes against a real training step, its formulas against what a step really keeps."""

import copy
import json
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, DynamicCache

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.arguments import ModelArguments
from training.benchmarks.cost.memory import (
    Load,
    adapters_of,
    egmf_activations,
    estimate,
    main,
    meta_model,
    parameters_by_part,
    quantized_layers,
    weight_bytes,
)
from training.benchmarks.cost.memory_formulas import (
    Batch,
    answering_activations,
    cache_per_token,
    four_bit_bytes,
    kept_per_token,
    smallest_card,
    text_shape,
    training_activations,
)
from training.model.backbones import backbone_config, backbone_names
from training.model.builder import build


SMALL = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
# The paper's own, and one of each other architecture.
ARCHITECTURES = ("glm3-6b", "llama-3-8b", "qwen2.5-1.5b")
NOT_OURS = {"audio": "none", "video": "none", "fusion_hidden_size": 8, "lora_r": 4}
BATCH, LENGTH = 4, 96


class Memory(TorchDispatchMode):
    """Bytes of the tensors made while it is on: those alive now, and at most."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive and storage._cdata not in given:
                    self.alive[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.drop, storage._cdata)
        return made

    def drop(self, key):
        self.now -= self.alive.pop(key)


def kept_by(call, model):
    """Bytes that `call()` keeps for its backward pass, weights apart."""
    weights = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        result = call()
    del result
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture
def make_real(make_model):
    """`make_real(backbone, dtype="float32", **options)` -> a small model that runs, and the options it was made of."""

    def make(backbone, dtype="float32", attention="sdpa", **options):
        arguments = ModelArguments(**{**NOT_OURS, **options}, text_model_dtype=dtype, attn_implementation=attention)
        config = backbone_config(backbone, **SMALL)
        config._attn_implementation = attention
        torch.manual_seed(0)
        language_model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        made = meta_model(arguments, config)
        model = make_model(None, None, language_model=language_model, **own_settings(made.config))
        return model, arguments, config

    return make


def own_settings(config):
    names = ("fusion_hidden_size", "fusion_attention_heads", "fusion_dropout", "num_pseudo_tokens", "lora")
    return {name: getattr(config, name) for name in names}


def inputs_of(model, labels=True):
    """A batch with text alone, one sample of it padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, SMALL["vocab_size"], (BATCH, LENGTH), generator=generator)
    ids[:, 2 : 2 + model.config.num_pseudo_tokens] = model.config.placeholder_token_id
    attention = torch.ones(BATCH, LENGTH, dtype=torch.long)
    attention[0, 0] = 0
    utterance = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    utterance[:, 20:30] = 1
    made = {"input_ids": ids, "attention_mask": attention, "utterance_mask": utterance}
    if labels:
        made["labels"] = torch.where(torch.arange(LENGTH) >= LENGTH - 3, ids, torch.full_like(ids, -100))
    return made


# ---- backbones -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("glm3-6b", 6_243_584_000),
        ("glm-4-9b", 9_399_951_360),
        ("llama-3-8b", 8_030_261_248),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_shapes_have_as_many_parameters_as_published(backbone, parameters):
    model = meta_model(ModelArguments(audio="none", video="none"), backbone_config(backbone))
    assert parameters_by_part(model)["language model"] == {"total": parameters, "trainable": 0}
    assert {value.device.type for value in model.parameters()} == {"meta"}


def test_backbones_shipped():
    assert backbone_names() == [
        "glm-4-9b",
        "glm3-6b",
        "llama-3-8b",
        "qwen2.5-1.5b",
        "qwen2.5-7b",
        "smollm2-135m",
    ]


def test_glm3_is_what_the_conversion_makes():
    config = backbone_config("glm3-6b")
    assert (config.rms_norm_eps, config.pad_token_id, config.eos_token_id, config.bos_token_id) == (1e-5, 0, 2, None)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    assert cache_per_token(text_shape(config), 2) == 28_672


def test_backbone_from_a_folder_or_a_file(tmp_path, trained_tokenizer):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    assert backbone_config(folder).vocab_size == len(tokenizer)
    assert backbone_config(folder, num_hidden_layers=7).num_hidden_layers == 7
    (tmp_path / "mine.yaml").write_text("model_type: llama\nhidden_size: 96\n")
    assert backbone_config(tmp_path / "mine.yaml").hidden_size == 96
    (tmp_path / "wrong.yaml").write_text("hidden_size: 96\n")
    with pytest.raises(ValueError, match="model_type"):
        backbone_config(tmp_path / "wrong.yaml")
    with pytest.raises(ValueError, match=r"no backbone 'glm3'.*glm3-6b"):
        backbone_config("glm3")


# ---- exact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora_r": 0, "pseudo_token_projection": "separate", "bidirectional_attention": True},
        {"audio": "features", "audio_feature_size": 7, "video": "none", "sequence_encoder": "transformer"},
        {"text_model_dtype": "bfloat16", "lora_target_modules": ["q_proj", "gate_proj", "down_proj"]},
    ],
)
def test_meta_model_is_the_one_that_is_trained(tmp_path, trained_tokenizer, options):
    tokenizer = copy.deepcopy(trained_tokenizer)
    folder = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    arguments = ModelArguments(text_model_name_or_path=str(folder), **options)
    real, _ = build(arguments)
    meta = meta_model(arguments, backbone_config(folder))

    def facts(model):
        values = (*model.named_parameters(), *model.named_buffers())
        return {name: (tuple(v.shape), v.dtype, v.requires_grad) for name, v in values}

    assert facts(meta) == facts(real)


def test_tensor_bytes_are_those_of_a_training_step(make_real):
    model, arguments, config = make_real("glm3-6b", "bfloat16")
    record = estimate(arguments, config, Load(Batch(BATCH, LENGTH, 4), 1.0, 10))
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    model.train()(**inputs_of(model)).loss.backward()
    optimizer.step()
    sizes = record["bytes"]
    tensors = (*model.parameters(), *model.buffers())
    assert sum(sizes["weights"].values()) == sum(value.nbytes for value in tensors)
    assert sizes["gradients"] == sum(value.grad.nbytes for value in model.parameters() if value.grad is not None)
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert sizes["optimizer"] == sum(value.nbytes for value in states)


def test_parameters_by_part_by_hand():
    arguments = ModelArguments(
        audio="none", video="none", fusion_hidden_size=8, lora_r=3, lora_target_modules=["q_proj"], num_pseudo_tokens=2
    )
    parts = parameters_by_part(meta_model(arguments, backbone_config("llama-3-8b", **SMALL)))
    layers, width, fusion = SMALL["num_hidden_layers"], SMALL["hidden_size"], 8
    assert parts["LoRA"]["total"] == layers * 3 * (width + width)
    assert parts["encoders"]["total"] == 2 * fusion  # which of the two a token is
    assert parts["pseudo tokens"]["total"] == 2 * fusion + (fusion + 1) * width + 1
    assert parts["experts"]["total"] == sum(2 * fusion * h + h + fusion for h in (1, 2, 4)) + sum(
        (i * 3 + 3 + 3 * 3 + 3) for i in (fusion, fusion + 3)
    ) + (fusion + 1)
    assert all(counts["trainable"] == counts["total"] for name, counts in parts.items() if name != "language model")
    assert parts["language model"]["trainable"] == 0


def test_cache_bytes_are_those_of_a_cache(make_real):
    model, _, config = make_real("qwen2.5-1.5b", "bfloat16")
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model.language_model(torch.ones(BATCH, LENGTH, dtype=torch.long), past_key_values=cache, use_cache=True)
    found = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found == BATCH * LENGTH * cache_per_token(text_shape(config), 2)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(256, 192), (100, 52), (640, 640)])
def test_four_bit_bytes_are_those_of_bitsandbytes(shape, double):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = bitsandbytes.nn.Params4bit(
        torch.randn(shape), requires_grad=False, quant_type="nf4", compress_statistics=double
    ).to("cpu")
    state = weight.quant_state
    tensors = [weight, state.absmax, state.code]
    if double:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    assert sum(value.nbytes for value in tensors) == four_bit_bytes(weight.numel() * 2, double)


def test_four_bit_by_hand():
    assert four_bit_bytes(64 * 256, False) == 64 * 128 + 4 * 256 + 64
    assert four_bit_bytes(64 * 256, True) == 64 * 128 + 256 + 4 + 1028 + 64
    assert four_bit_bytes(65, False) == 33 + 8 + 64


def test_four_bit_leaves_the_output_matrix_and_lora(make_real):
    model, _, config = make_real("glm3-6b")
    layers = quantized_layers(model)
    assert len(layers) == 6 * config.num_hidden_layers  # q, k, v, o, gate and up in one, down
    assert all(layer.weight.shape[0] != config.vocab_size and min(layer.weight.shape) > 4 for layer in layers)


# ---- activations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_formula_is_what_a_step_keeps(make_real, backbone, dtype, attention):
    """To a fiftieth. Without what stands in front of the language model, which is a hundredth of it here."""
    model, _, config = make_real(backbone, dtype, attention, lora_dropout=0.1)
    inputs = inputs_of(model)
    found = kept_by(lambda: model.train()(**inputs).loss, model)
    itemsize, shape = getattr(torch, dtype).itemsize, text_shape(config)
    kept = kept_per_token(shape, adapters_of(model), itemsize, LENGTH, attention == "eager", dropout_bytes=4)
    expected = BATCH * (LENGTH * (kept + 4 * shape.width) + 4 * 4 * shape.vocabulary)
    assert found == pytest.approx(expected, rel=1 / 50)


def peak_of_a_step(model, checkpointing):
    """Bytes beside weights and their gradients, which are there from the beginning."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    inputs = inputs_of(model)
    with Memory() as memory:
        model.train()(**inputs).loss.backward()
    return memory.most


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_peak_of_training_is_within_a_fortieth(make_real, backbone, dtype, checkpointing):
    model, _, config = make_real(backbone, dtype, lora_dropout=0.1)
    batch = Batch(BATCH, LENGTH, 4)
    itemsize = getattr(torch, dtype).itemsize
    expected = training_activations(
        text_shape(config), adapters_of(model), batch, itemsize, checkpointing, dropout_bytes=4
    )
    assert peak_of_a_step(model, checkpointing) == pytest.approx(expected, rel=1 / 40)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_peak_of_a_prefill_is_within_a_sixth(make_real, backbone, dtype):
    """The formula is that of gate and up in one matrix; apart they need a little less."""
    model, _, config = make_real(backbone, dtype)
    inputs = inputs_of(model, labels=False)
    with torch.no_grad(), Memory() as memory:
        output = model.eval()(**inputs, use_cache=True, logits_to_keep=1)
    shape, itemsize = text_shape(config), getattr(torch, dtype).itemsize
    cache = BATCH * LENGTH * cache_per_token(shape, itemsize)
    expected = cache + answering_activations(shape, Batch(BATCH, LENGTH, 1), itemsize)
    assert memory.most == pytest.approx(expected, rel=1 / 6)
    assert output.logits.shape[1] == 1


@pytest.mark.parametrize(("audio", "video"), [("waveform", "frames"), ("features", "none"), ("none", "features")])
def test_encoders_are_counted_as_a_batch_keeps_them(audio, video):
    """One sample's count times four is what four samples keep together, to a tenth."""
    arguments = ModelArguments(
        audio=audio, video=video, audio_feature_size=9, video_feature_size=9, frame_size=32, num_frames=3
    )
    config = meta_model(arguments, backbone_config("llama-3-8b", **SMALL)).config
    load = Load(Batch(4, LENGTH, 4), 0.5, 12)
    one = egmf_activations(config, load, 3)
    from modeling_egmf import EGMFModel

    model = EGMFModel(config).train()
    shapes = {
        "waveform": (8000,),
        "frames": (3, 3, 32, 32),
        "features": (25, 9) if audio == "features" else (3, 9),
    }
    media = {}
    for modality, kind in (("audio", audio), ("video", video)):
        if kind != "none":
            media[f"{modality}_values"] = torch.zeros(4, *shapes[kind])
            media[f"{modality}_mask"] = torch.ones(4, shapes[kind][0], dtype=torch.bool)
    text = torch.zeros(4, 12, SMALL["hidden_size"])
    found = kept_by(lambda: model(text, torch.ones(4, 12), **media), model)
    assert 4 * one == pytest.approx(found, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_the_demos_backbone(make_model, checkpointing):
    """SmolLM2-135M's real shape, random weights, in bfloat16."""
    arguments = ModelArguments(**{**NOT_OURS, "lora_r": 8})
    config = backbone_config("smollm2-135m")
    language_model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made = meta_model(arguments, config)
    model = make_model(None, None, language_model=language_model, **own_settings(made.config))
    assert sum(weight_bytes(made).values()) == sum(v.nbytes for v in (*model.parameters(), *model.buffers()))
    batch = Batch(BATCH, LENGTH, 4)
    expected = training_activations(text_shape(config), adapters_of(made), batch, 2, checkpointing, dropout_bytes=4)
    assert peak_of_a_step(model, checkpointing) == pytest.approx(expected, rel=1 / 40)


# ---- the record ----------------------------------------------------------------------------------------------


def record_of(backbone="glm3-6b", samples=8, length=128, **options):
    return estimate(ModelArguments(**options), backbone_config(backbone), Load(Batch(samples, length, 6), 2.0, 16))


def test_peaks_add_up():
    record = record_of()
    sizes, peaks = record["bytes"], record["peaks"]
    fixed = sum(sizes["weights"].values()) + sizes["gradients"] + sizes["optimizer"] + sizes["context"]
    kept = sizes["activations"]
    plain = peaks["training"]["float16, plain"]["bytes"]
    assert plain == fixed + kept["plain"] + kept["encoders_and_fusion"]
    saved = kept["plain"] - kept["checkpointed"]
    assert plain - peaks["training"]["float16, checkpointed"]["bytes"] == saved > 0
    widest = 2 * 2 * 13696 * 4096  # gate and up in one, unpacked to 16 bit
    smaller = sum(sizes["weights"].values()) - sizes["weights_4_bit"] - widest
    assert plain - peaks["training"]["4-bit, plain"]["bytes"] == smaller > 0
    assert sizes["cache"] == 8 * 128 * 28_672
    assert record["trainable_share"] == pytest.approx(
        sum(part["trainable"] for part in record["parameters"].values())
        / sum(part["total"] for part in record["parameters"].values())
    )


def test_activations_follow_the_batch():
    once, twice = (record_of(samples=samples)["bytes"]["activations"] for samples in (4, 8))
    assert {name: 2 * value for name, value in once.items()} == pytest.approx(twice, abs=1)
    longer = record_of(length=256)["bytes"]
    assert longer["activations"]["plain"] > 1.9 * record_of()["bytes"]["activations"]["plain"]
    assert longer["gradients"] == record_of()["bytes"]["gradients"]


def test_eager_attention_takes_more():
    plain, eager = (
        record_of(length=1024, attn_implementation=kind)["bytes"]["activations"] for kind in ("sdpa", "eager")
    )
    assert eager["plain"] > 1.5 * plain["plain"]


def test_settings_of_lora_count():
    few, many = record_of(lora_r=4), record_of(lora_r=8)
    assert 2 * few["parameters"]["LoRA"]["total"] == many["parameters"]["LoRA"]["total"]
    assert record_of(lora_r=0)["parameters"]["LoRA"]["total"] == 0
    assert record_of(lora_r=0)["bytes"]["activations"]["plain"] < few["bytes"]["activations"]["plain"]


def test_cards():
    assert smallest_card(0) == 16
    assert smallest_card(0.95 * 16 * 2**30) == 16
    assert smallest_card(0.95 * 16 * 2**30 + 1) == 24
    assert [smallest_card(n * 2**30) for n in (22, 23, 39, 47, 77, 133)] == [24, 40, 48, 80, 141, 141]
    assert smallest_card(200 * 2**30) is None


# ---- command line --------------------------------------------------------------------------------------------


def test_table_for_people(capsys):
    main(["--backbone", "glm3-6b", "--lora_r", "16"])
    said = capsys.readouterr().out
    for words in ("6,243,584,000", "28,672 bytes a token", "24 GB", "pseudo tokens", "4-bit, checkpointed", "trained"):
        assert words in said
    assert max(map(len, said.splitlines())) < 120


def test_record_for_programs(capsys, tmp_path):
    main(["--backbone", "smollm2-135m", "--json", "--batch_size", "2", "--output", str(tmp_path / "memory.json")])
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "memory.json").read_text())
    assert record["backbone"] == "smollm2-135m"
    assert record["batch"]["samples"] == 2
    assert set(record["peaks"]["answering"]) == {"bfloat16", "4-bit"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "gpt-5"], "no backbone 'gpt-5'"),
        (["--backbone", "glm3-6b", "--length", "0"], "at least 1"),
        (["--backbone", "glm3-6b", "--audio", "features"], "audio_feature_size"),
    ],
)
def test_bad_requests_say_why(options, said):
    with pytest.raises(SystemExit, match=said):
        main(options)


def test_unknown_options_are_errors():
    with pytest.raises(SystemExit, match="lora_rank"):
        main(["--backbone", "glm3-6b", "--lora_rank", "4"])
