"""ChatGLM3 made native: logits and token ids of the original code, what is refused, and what an interruption leaves.

`assets/chatglm3_tiny` is a checkpoint of random weights under the original names, beside it the original's logits;
`assets/chatglm3_tokenizer` is a small tokenizer of the same kind with the original's ids.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, GlmConfig
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from processing_egmf import EGMFProcessor
from tests.helpers.chatglm3_files import FULL, TINY, random_tensors, write_config, write_shards, write_sparse
from training.chatglm3 import convert as chatglm3
from training.chatglm3 import tensor_files
from training.chatglm3.convert import convert, locate_source, main
from training.chatglm3.layout import DROPPED, native_config, read_layout, source_shapes
from training.chatglm3.logits import compare_logits, difference, run_case
from training.chatglm3.tensor_files import Piece, StoredTensor, open_checkpoint, read_header, write_shard
from training.chatglm3.tokenizer import EXTRA_TOKENS, check_tokenizer, read_pieces, sample_strings


ASSETS = Path(__file__).parents[2] / "assets"
TINY_SOURCE, TOKENIZER_SOURCE = ASSETS / "chatglm3_tiny", ASSETS / "chatglm3_tokenizer"
EXPECTED = ASSETS / "chatglm3_tiny_expected.safetensors"
CASES = json.loads((TOKENIZER_SOURCE / "cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stored():
    return load_file(EXPECTED)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Both halves, joined: the tiny weights with a tokenizer of another size, which only a test would do."""
    folder = tmp_path_factory.mktemp("native") / "glm"
    convert(TINY_SOURCE, folder, "weights")
    convert(TOKENIZER_SOURCE, folder, "tokenizer")
    return folder


@pytest.fixture(scope="module")
def model(native):
    return AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(native):
    return AutoTokenizer.from_pretrained(native)


@pytest.fixture
def source(tmp_path):
    """A checkpoint to change: two layers of random float16 weights in three shards."""
    folder = write_config(tmp_path / "source")
    return write_shards(folder, random_tensors(folder))


def tensors_of(folder):
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def native_tensors(tensors, sizes=TINY):
    """What the conversion should make of a checkpoint, written out."""
    heads, groups = (sizes[name] * sizes["kv_channels"] for name in ("num_attention_heads", "multi_query_group_num"))
    made = {
        "model.embed_tokens.weight": tensors["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": tensors["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": tensors["transformer.output_layer.weight"],
    }
    for i in range(sizes["num_layers"]):
        old, new = f"transformer.encoder.layers.{i}.", f"model.layers.{i}."
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            made[new + name] = tensors[old + name]
        made[new + "self_attn.o_proj.weight"] = tensors[old + "self_attention.dense.weight"]
        made[new + "mlp.gate_up_proj.weight"] = tensors[old + "mlp.dense_h_to_4h.weight"]
        made[new + "mlp.down_proj.weight"] = tensors[old + "mlp.dense_4h_to_h.weight"]
        for kind in ("weight", "bias"):
            joined = tensors[f"{old}self_attention.query_key_value.{kind}"]
            parts = joined.split([heads, groups, groups])
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                made[f"{new}self_attn.{name}.{kind}"] = part
    return made


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


# ---- logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain", "long", "leftpad", "cached_leftpad", "fusion"])
def test_logits_are_the_originals(model, stored, case):
    found = difference(case, run_case(model, case, stored), stored)
    assert found.relative <= 1e-6
    if case != "cached_leftpad":  # over a cache rounding differs with the order in memory; see the next test but one
        assert found.absolute <= 1e-6


def test_logits_with_another_rotary_base_are_the_originals(native, stored):
    found = compare_logits(native, EXPECTED)
    assert set(found) == {"plain", "long", "leftpad", "cached_leftpad", "fusion", "plain_rope_ratio_50"}
    assert found["plain_rope_ratio_50"].absolute <= 1e-6
    assert not torch.equal(stored["logits/plain"], stored["logits/plain_rope_ratio_50"])


def sequence_first(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention whose keys and values lie in memory as the original's: a token after the other, heads repeated."""

    def laid_out(states, repeats):
        return states.permute(2, 0, 1, 3).repeat_interleave(repeats, dim=2).contiguous().permute(1, 2, 0, 3)

    groups = module.num_key_value_groups
    attended = torch.nn.functional.scaled_dot_product_attention(
        laid_out(query, 1), laid_out(key, groups), laid_out(value, groups), attention_mask,
        is_causal=attention_mask is None and query.shape[2] > 1,
    )  # fmt: skip
    return attended.transpose(1, 2), None


def test_cached_logits_are_the_originals_in_its_order_of_memory(native, stored):
    AttentionInterface.register("sequence_first", sequence_first)
    AttentionMaskInterface.register("sequence_first", sdpa_mask)
    model = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    model.set_attn_implementation("sequence_first")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):  # the stored ones were made with two
            torch.set_num_threads(count)
            found.append(difference("cached_leftpad", run_case(model, "cached_leftpad", stored), stored).absolute)
    finally:
        torch.set_num_threads(threads)
    assert min(found) <= 1e-6


def changed_config(native, folder, **changes):
    """The converted folder with another config.json."""
    shutil.copytree(native, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": GlmConfig().rms_norm_eps},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10001.0, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
    ],
)
def test_wrong_settings_are_noticed(native, tmp_path, changes):
    folder = changed_config(native, tmp_path / "wrong", **changes)
    found = compare_logits(folder, EXPECTED)
    assert all(case.relative > 3e-6 for case in found.values())
    with pytest.raises(ValueError, match="differs from the stored logits"):
        chatglm3.verify(folder, EXPECTED, 1e-6)


def test_swapped_keys_and_values_are_noticed(native, tmp_path, stored):
    tensors = tensors_of(native)
    layer = "model.layers.1.self_attn"
    tensors[f"{layer}.k_proj.weight"], tensors[f"{layer}.v_proj.weight"] = (
        tensors[f"{layer}.v_proj.weight"],
        tensors[f"{layer}.k_proj.weight"],
    )
    shutil.copytree(native, tmp_path / "wrong")
    save_file(tensors, tmp_path / "wrong" / "model.safetensors", metadata={"format": "pt"})
    assert compare_logits(tmp_path / "wrong", EXPECTED)["plain"].relative > 1e-3


def test_not_a_number_is_a_difference(native, tmp_path):
    tensors = tensors_of(native)
    tensors["model.norm.weight"][0] = float("nan")
    shutil.copytree(native, tmp_path / "wrong")
    save_file(tensors, tmp_path / "wrong" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="differs"):
        chatglm3.verify(tmp_path / "wrong", EXPECTED, 1e-6)


def test_verify_needs_logits(native, tmp_path):
    save_file({"in/input_ids": torch.ones(1, 2)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no logits"):
        compare_logits(native, tmp_path / "none.safetensors")
    save_file({"logits/other": torch.ones(1, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="'other'"):
        compare_logits(native, tmp_path / "other.safetensors")


# ---- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_weight_is_where_it_belongs(tmp_path, kind, dtype):
    folder = write_config(tmp_path / "source")
    tensors = random_tensors(folder, dtype)
    write_shards(folder, tensors, kind)
    convert(folder, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "dest", output_loading_info=True)
    assert type(loaded).__name__ == "GlmForCausalLM"
    assert loaded.dtype == dtype
    assert not any(info.values())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_checkpoint_in_one_file(tmp_path, kind):
    folder = write_config(tmp_path / "source")
    tensors = random_tensors(folder)
    if kind == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))


def test_shards_with_an_index_load(source, tmp_path, monkeypatch):
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)
    monkeypatch.setattr(tensor_files, "BUFFER_BYTES", 100)  # no multiple of a row
    convert(source, tmp_path / "dest", "weights")
    index = json.loads((tmp_path / "dest" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "dest").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert sorted(set(index["weight_map"].values())) == shards
    tensors = tensors_of(source)
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors))
    assert index["metadata"]["total_size"] == sum(v.nbytes for n, v in tensors.items() if n != DROPPED)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    assert torch.equal(loaded.lm_head.weight, tensors["transformer.output_layer.weight"])


def test_settings_of_the_real_model(tmp_path):
    layout = read_layout(write_config(tmp_path, FULL, rope_ratio=50))
    config = native_config(layout, "F16")
    found = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    assert found == {"vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 13696, "head_dim": 128}
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (28, 32, 2)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-5, 32768)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 2, None)
    assert config.rope_parameters == {
        "rope_type": "default",
        "rope_theta": 500_000.0,
        "partial_rotary_factor": 0.5,
    }
    assert config.attention_bias
    assert not config.tie_word_embeddings
    assert config.dtype == torch.float16
    assert sum(torch.Size(shape).numel() for shape in source_shapes(layout).values()) == 6_243_584_000


def test_license_goes_along(source, tmp_path):
    (source / "MODEL_LICENSE").write_text("terms")
    convert(source, tmp_path / "dest", "weights")
    assert (tmp_path / "dest" / "MODEL_LICENSE").read_text() == "terms"
    left = {path.name for path in (tmp_path / "dest").iterdir()}
    assert left == {"MODEL_LICENSE", "config.json", "model.safetensors"}


def test_writing_holds_one_buffer(tmp_path):
    """A tensor of 64 MB, as a hole in a file, goes through in 9."""
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 64 * 2**20)
    large = StoredTensor("F16", (2**15, 2**10), tmp_path / "large")
    tracemalloc.start()
    try:
        write_shard(tmp_path / "out.safetensors", [Piece("a", large, 0, 2**15)], lambda count: None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 9 * 2**20
    assert read_header(tmp_path / "out.safetensors")["a"].shape == (2**15, 2**10)


@pytest.mark.slow
def test_full_size_peaks_below_a_gigabyte(tmp_path):
    """The real shapes, as files that are all hole; 12.5 GB are really written."""
    if shutil.disk_usage(tmp_path).free < 14 * 10**9:
        pytest.skip("needs 14 GB of disk")
    source = write_sparse(tmp_path / "source")
    (source / "tokenizer.model").write_bytes(large_tokenizer())
    code = (
        "import sys; from training.chatglm3.convert import main; main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read())"  # getrusage would count what this process held when it forked
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "dest")]
    done = subprocess.run(command, cwd=ASSETS.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout).group(1)) * 1024
    print(f"peak {peak / 1e9:.2f} GB")
    assert peak < 10**9
    written = open_checkpoint(tmp_path / "dest")
    assert len(written) == 4 + 28 * 11 - 1
    assert AutoConfig.from_pretrained(tmp_path / "dest").rms_norm_eps == 1e-5
    shutil.rmtree(tmp_path / "dest")


# ---- tokenizer -----------------------------------------------------------------------------------------------


def changed_tokenizer(change):
    """The bytes of the tokenizer after `change(model)`."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((TOKENIZER_SOURCE / "tokenizer.model").read_bytes())
    change(model)
    return model.SerializeToString()


def large_tokenizer(count=64_789):
    """As many pieces as the real one has: the small one's, and pairs of them."""

    def grow(model):
        words = [piece.piece for piece in model.pieces if piece.type == 1]
        known, i = set(words), 0
        while len(model.pieces) < count:
            joined = words[i * 7919 % len(words)] + words[(i * 104_729 + i // len(words)) % len(words)]
            i += 1
            if joined not in known:
                known.add(joined)
                model.pieces.add(piece=joined, score=-float(len(model.pieces)))

    return changed_tokenizer(grow)


def reload(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_ids_are_the_originals(tokenizer, tmp_path, times):
    for i in range(times):
        tokenizer = reload(tokenizer, tmp_path / str(i))
    assert len(CASES["cases"]) > 600
    texts = [case["text"] for case in CASES["cases"]]
    plain = [case["input_ids"] for case in CASES["cases"]]
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == plain
    assert tokenizer(texts)["input_ids"] == [case["with_special"] for case in CASES["cases"]]
    assert tokenizer.batch_decode(plain) == [case["decoded"] for case in CASES["cases"]]
    assert tokenizer(texts[-1])["input_ids"] == CASES["cases"][-1]["with_special"]  # alone as in a batch


def test_a_batch_is_padded_as_the_original_pads_it(tokenizer):
    expected = CASES["left_padded_batch"]
    batch = tokenizer(expected["texts"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]
    assert (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0).tolist() == expected["position_ids"]


def test_special_ids(tokenizer):
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in EXTRA_TOKENS}
    assert found == CASES["special_token_ids"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (CASES["eos_token_id"], CASES["pad_token_id"])
    assert len(tokenizer) == 12_009
    assert tokenizer("a", "b")["input_ids"] == [12_001, 12_003, *tokenizer("a", add_special_tokens=False)["input_ids"],
                                                *tokenizer("b", add_special_tokens=False)["input_ids"], 2]  # fmt: skip


def test_generation_stops_at_the_next_turn(native):
    config = json.loads((native / "generation_config.json").read_text())
    roles = CASES["special_token_ids"]
    assert config["eos_token_id"] == [2, roles["<|user|>"], roles["<|observation|>"]]
    assert AutoModelForCausalLM.from_pretrained(native).generation_config.eos_token_id == config["eos_token_id"]


def test_processor_asks_in_this_vocabulary(tokenizer, tmp_path):
    processor = EGMFProcessor(reload(tokenizer, tmp_path), audio_input=None, video_input=None, num_pseudo_tokens=2)
    assert processor.placeholder_token_id == 12_009
    inputs = processor(text="I'm fine.", task="sentiment")
    assert inputs["input_ids"][0, :2].tolist() == [12_001, 12_003]
    assert (inputs["input_ids"] == processor.placeholder_token_id).sum() == 2
    for name in processor.task_objects:
        answers = processor.answer_token_ids(name)
        assert len(set(map(tuple, answers))) == len(answers) == processor.task_objects[name].num_answers


def test_merges_follow_scores_not_ids(tmp_path):
    """On a model whose pieces stand in another order than their scores."""

    def shuffle(model):
        normal = [i for i, piece in enumerate(model.pieces) if piece.type == 1]
        pieces = [(model.pieces[i].piece, model.pieces[i].score) for i in normal]
        for i, (piece, score) in zip(normal, reversed(pieces), strict=True):
            model.pieces[i].piece, model.pieces[i].score = piece, score

    (tmp_path / "tokenizer.model").write_bytes(changed_tokenizer(shuffle))
    convert(tmp_path, tmp_path / "dest", "tokenizer")
    pieces = read_pieces(tmp_path / "tokenizer.model")
    assert check_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "dest"), pieces) == 2000
    text = CASES["cases"][-1]["text"]
    assert pieces.encode(text) != CASES["cases"][-1]["input_ids"]


def test_check_notices_what_is_wrong(native, tokenizer, tmp_path):
    pieces = read_pieces(TOKENIZER_SOURCE / "tokenizer.model")
    assert check_tokenizer(tokenizer, pieces) == 2000
    shutil.copytree(native, tmp_path / "wrong")
    saved = json.loads((tmp_path / "wrong" / "tokenizer.json").read_text())
    saved["model"]["merges"][:400] = reversed(saved["model"]["merges"][:400])
    (tmp_path / "wrong" / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="differs from sentencepiece on"):
        check_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "wrong"), pieces)
    torn = AutoTokenizer.from_pretrained(native)
    torn.add_tokens(["sop", "eop"])
    torn.split_special_tokens = False
    with pytest.raises(ValueError, match="differs"):
        check_tokenizer(torn, pieces)
    right = AutoTokenizer.from_pretrained(native)
    right.padding_side = "right"
    with pytest.raises(ValueError, match="padding_side"):
        check_tokenizer(right, pieces)


def test_sample_strings_repeat():
    pieces = read_pieces(TOKENIZER_SOURCE / "tokenizer.model")
    assert sample_strings(pieces, 200) == sample_strings(pieces, 200)
    assert len(set(sample_strings(pieces))) > 1900


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model.trainer_spec, "model_type", 1), "differs from sentencepiece"),
        (lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", False), "differs from sentencepiece"),
        (lambda model: setattr(model.normalizer_spec, "remove_extra_whitespaces", True), "differs from sentencepiece"),
        (lambda model: setattr(model.trainer_spec, "byte_fallback", False), "no SentencePiece model"),
        (lambda model: setattr(model.pieces[9000], "type", 4), "differs from sentencepiece"),
        (lambda model: setattr(model.pieces[9000], "piece", "<|user|>"), "as pieces"),
    ],
)
def test_tokenizers_of_another_kind_are_refused(tmp_path, change, said):
    (tmp_path / "tokenizer.model").write_bytes(changed_tokenizer(change))
    with pytest.raises(ValueError, match=said):
        convert(tmp_path, tmp_path / "dest", "tokenizer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.model"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"IQ== 0\nIg== 1\n", "no SentencePiece model"),
        (b"", "no SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (None, "There is no .*tokenizer.model"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        convert(tmp_path, tmp_path / "dest", "tokenizer")


def test_tokenizer_needs_sentencepiece(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"egmf\[conversion\]"):
        convert(TOKENIZER_SOURCE, tmp_path / "dest", "tokenizer")
    convert(TINY_SOURCE, tmp_path / "dest", "weights")  # the other half does not


def test_ids_past_the_weights_are_refused(source, tmp_path):
    shutil.copy(TOKENIZER_SOURCE / "tokenizer.model", source)
    with pytest.raises(ValueError, match="needs 12009 ids; the weights have 40"):
        convert(source, tmp_path / "dest")
    assert not list(tmp_path.glob("dest*"))


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_name_or_path": "THUDM/chatglm2-6b"}, "is ChatGLM2"),
        ({"_name_or_path": "THUDM/codegeex2-6b"}, "is ChatGLM2"),
        ({"quantization_bit": 4}, "quantized"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"pre_seq_len": 128}, "prefix"),
        ({"padded_vocab_size": 151_552}, "GLM-4"),
        ({"padded_vocab_size": "151552"}, "padded_vocab_size in config.json is '151552'"),
        ({"inner_hidden_size": 16384}, "first ChatGLM-6B"),
        ({"model_type": "glm"}, "native checkpoint already"),
        ({"model_type": "llama"}, "'llama' model"),
        ({"multi_query_attention": False}, "multi_query_attention is False"),
        ({"multi_query_attention": None}, "multi_query_attention is None"),
        ({"add_qkv_bias": None}, "add_qkv_bias is None"),
        ({"add_bias_linear": True}, "add_bias_linear is True"),
        ({"rmsnorm": False}, "rmsnorm is False"),
        ({"original_rope": False}, "original_rope is False"),
        ({"apply_residual_connection_post_layernorm": True}, "not known"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"layernorm_epsilon": None}, "layernorm_epsilon in config.json is None"),
        ({"num_layers": "two"}, "num_layers in config.json is 'two'"),
        ({"kv_channels": 2.5}, "kv_channels in config.json is 2.5"),
        ({"rope_ratio": 0}, "rope_ratio in config.json is 0"),
        ({"multi_query_group_num": 3}, "divide evenly"),
        ({"eos_token_id": [2, 3]}, "eos_token_id"),
        ({"ffn_hidden_size": 14}, "config.json makes it"),
        ({"num_layers": 3}, "7 tensors are missing"),
        ({"num_layers": 1}, "7 tensors are unknown"),
    ],
)
def test_other_models_are_refused_with_the_reason(source, tmp_path, changes, said):
    write_config(source, **changes)
    with pytest.raises(ValueError, match=said):
        convert(source, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))


def test_chatglm2_is_known_by_its_code_too(source, tmp_path):
    (source / "tokenization_chatglm.py").write_text('special_tokens = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]')
    for only in ("weights", "tokenizer"):
        with pytest.raises(ValueError, match="is ChatGLM2"):
            convert(source, tmp_path / "dest", only)
    (source / "tokenization_chatglm.py").write_text('special_tokens = ["sop", "eop", "<|user|>"]')
    write_config(source, _name_or_path="mine/tuned-from-chatglm2")  # the code knows better than a name
    convert(source, tmp_path / "dest", "weights")


def test_a_folder_without_configuration_is_refused(source, tmp_path):
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        convert(source, tmp_path / "dest", "weights")
    (source / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object"):
        convert(source, tmp_path / "dest", "weights")


def quantized(tensors):
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    return tensors | {name: tensors[name].to(torch.int8)}


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (quantized, r"quantized \(weights in I8\)"),
        (
            lambda t: t | {"transformer.encoder.layers.0.mlp.dense_4h_to_h.weight_scale": torch.ones(16)},
            "weight_scale",
        ),
        (lambda t: t | {"transformer.prefix_encoder.embedding.weight": torch.ones(2)}, "unknown to ChatGLM3"),
        (lambda t: {f"base_model.{name}": value for name, value in t.items()}, "unknown to ChatGLM3"),
        (without("transformer.output_layer.weight"), "missing, among them transformer.output_layer.weight"),
        (lambda t: t | {"transformer.output_layer.weight": torch.ones(41, 16).half()}, r"\[41, 16\]"),
        (lambda t: t | {"transformer.output_layer.weight": torch.ones(40, 16)}, "F16 and F32"),
    ],
)
def test_other_tensors_are_refused_with_the_reason(tmp_path, change, said):
    folder = write_config(tmp_path / "source")
    write_shards(folder, change(random_tensors(folder)))
    with pytest.raises(ValueError, match=said):
        convert(folder, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "cut short"),
        (lambda path: os.truncate(path, 5), "no whole safetensors file"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_bytes((4).to_bytes(8, "little") + b"{{{{"), "not JSON"),
        (lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{}"), "no whole safetensors file"),
        (Path.unlink, "names files that are not there: model-00002"),
        (lambda path: save_file({"other": torch.ones(1)}, path), "differ in"),
        (lambda path: shutil.copy(path.with_name(path.name.replace("2-of", "1-of")), path), "and again in"),
    ],
)
def test_broken_files_are_refused_with_the_reason(source, tmp_path, harm, said):
    harm(source / "model-00002-of-00003.safetensors")
    with pytest.raises(ValueError, match=said):
        convert(source, tmp_path / "dest", "weights")
    assert not list(tmp_path.glob("dest*"))


def test_no_weights_at_all(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        convert(write_config(tmp_path / "source"), tmp_path / "dest", "weights")


class Harm:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_bin_file_is_run(tmp_path):
    folder = write_config(tmp_path / "source")
    torch.save({"transformer.output_layer.weight": Harm(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be read as plain tensors"):
        convert(folder, tmp_path / "dest", "weights")
    assert not (tmp_path / "harm").exists()
    torch.save({"transformer.output_layer.weight": 3}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="something else than named tensors"):
        convert(folder, tmp_path / "dest", "weights")


# ---- where it goes -------------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_there_is_not_touched(source, tmp_path):
    dest = tmp_path / "dest"
    convert(source, dest, "weights")
    before = contents(dest)
    for only in (None, "weights"):
        with pytest.raises(ValueError, match="holds the weights.*--overwrite"):
            convert(source, dest, only)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        convert(source, tmp_path / "mine", "weights")
    with pytest.raises(ValueError, match="is a file"):
        convert(source, tmp_path / "mine" / "notes.txt", "weights")
    assert contents(dest) == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not list(tmp_path.glob("*.partial"))


def test_overwrite_moves_aside(source, tmp_path):
    dest = tmp_path / "dest"
    convert(source, dest, "weights")
    first = contents(dest)
    write_shards(source, random_tensors(source, seed=1))
    for _ in range(2):
        convert(source, dest, "weights", overwrite=True)
    assert contents(tmp_path / "dest.replaced-1") == first
    assert contents(tmp_path / "dest.replaced-2") == contents(dest) != first
    assert_same(tensors_of(dest), native_tensors(tensors_of(source)))


def test_one_half_is_replaced_alone(tmp_path):
    dest = tmp_path / "dest"
    convert(TINY_SOURCE, dest, "weights")
    convert(TOKENIZER_SOURCE, dest, "tokenizer")
    both = contents(dest)
    tokenizer_files = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(both) == {"config.json", "model.safetensors"} | tokenizer_files
    with pytest.raises(ValueError, match="holds the tokenizer and the weights"):
        convert(TOKENIZER_SOURCE, dest, "tokenizer")
    convert(TOKENIZER_SOURCE, dest, "tokenizer", overwrite=True)
    assert contents(dest) == both
    assert set(contents(tmp_path / "dest.replaced-1")) == tokenizer_files


def test_both_halves_at_once(tmp_path, capsys):
    source = write_config(tmp_path / "source", TINY | {"padded_vocab_size": 12_100})
    write_shards(source, random_tensors(source))
    shutil.copy(TOKENIZER_SOURCE / "tokenizer.model", source)
    (tmp_path / "dest").mkdir()  # an empty folder is as good as none
    main([str(source), str(tmp_path / "dest")])
    assert "equal to sentencepiece on 2000 strings" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dest")
    inputs = tokenizer(["joy", "真的 philosophy"], padding=True, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 2
    main([str(source), str(tmp_path / "dest"), "--overwrite"])
    assert contents(tmp_path / "dest") == contents(tmp_path / "dest.replaced-1")
    assert not list(tmp_path.glob("*.partial"))


def test_source_and_destination_apart(source):
    for dest in (source, source.parent):
        with pytest.raises(ValueError, match="lies in"):
            convert(source, dest, "weights", overwrite=True)


def test_an_unwritable_place_is_said_at_once(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Nothing can be written"):
        convert(source, tmp_path / "file" / "dest", "weights")


def test_a_foreign_folder_of_the_same_name_stays(source, tmp_path):
    (tmp_path / "dest.partial").mkdir()
    (tmp_path / "dest.partial" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no unfinished conversion"):
        convert(source, tmp_path / "dest", "weights")
    assert (tmp_path / "dest.partial" / "notes.txt").read_text() == "mine"


def test_too_small_a_disk_is_said_before_writing(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(chatglm3.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(chatglm3, "write_shard", lambda *_: pytest.fail("wrote"))
    with pytest.raises(ValueError, match="needs 0.00 GB more, and 0.00 GB are free"):
        convert(source, tmp_path / "dest", "weights")


# ---- interruptions -------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch):
    """Small shards; the names of those that are written."""
    names = []
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)

    def write(path, *rest):
        names.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(chatglm3, "write_shard", write)
    return names


def fail_at(monkeypatch, count, error):
    """From the `count`-th shard on, writing fails in the middle of a file."""
    done = []

    def write(path, pieces, progress):
        done.append(path.name)
        if len(done) >= count:
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise error
        write_shard(path, pieces, progress)

    monkeypatch.setattr(chatglm3, "write_shard", write)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_run_goes_on(source, tmp_path, monkeypatch, error):
    monkeypatch.setattr(chatglm3, "SHARD_BYTES", 2000)
    convert(source, tmp_path / "whole", "weights")
    with monkeypatch.context() as patch:
        fail_at(patch, 3, error)
        with pytest.raises(SystemExit, match=r"Make room and run the same line|The same line goes on"):
            main([str(source), str(tmp_path / "dest"), "--only", "weights"])
    assert not (tmp_path / "dest").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "dest.partial").glob("model-*")}
    assert len(kept) == 2
    main([str(source), str(tmp_path / "dest"), "--only", "weights"])
    assert contents(tmp_path / "dest") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "dest" / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(tmp_path.glob("*.partial"))


def test_a_changed_source_begins_anew(source, tmp_path, monkeypatch, written):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "dest", "weights")
    time.sleep(0.01)
    write_shards(source, random_tensors(source, seed=1))
    convert(source, tmp_path / "dest", "weights")
    assert len(written) == len(list((tmp_path / "dest").glob("model-*.safetensors"))) > 3
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


def test_a_shard_of_another_header_is_written_again(source, tmp_path, monkeypatch, written):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "dest", "weights")
    first, second = sorted((tmp_path / "dest.partial").glob("model-*"))
    cut(first)
    convert(source, tmp_path / "dest", "weights")
    assert first.name in written
    assert second.name not in written
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


@pytest.mark.integration
def test_killed_and_started_again(source, tmp_path):
    """A process killed between two shards leaves no DEST, and the same line finishes it."""
    code = (
        "import sys, time; from training.chatglm3 import convert as chatglm3; write = chatglm3.write_shard\n"
        "def slow(path, *rest):\n"
        "    write(path, *rest); print(path.name, flush=True); time.sleep(60)\n"
        "chatglm3.write_shard, chatglm3.SHARD_BYTES = slow, 2000\n"
        "chatglm3.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "dest"), "--only", "weights"]
    with subprocess.Popen(
        command, cwd=ASSETS.parents[1], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert first.startswith(b"model-00001-of-")
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "dest").exists()
    assert len(list((tmp_path / "dest.partial").glob("model-*"))) == 1
    convert(source, tmp_path / "dest", "weights")
    assert_same(tensors_of(tmp_path / "dest"), native_tensors(tensors_of(source)))


def test_two_at_once_are_one_too_many(source, tmp_path):
    (tmp_path / "dest.partial").mkdir()
    with (tmp_path / "dest.partial" / chatglm3.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another conversion is writing"):
            convert(source, tmp_path / "dest", "weights")
    convert(source, tmp_path / "dest", "weights")


def test_a_failed_check_leaves_no_destination(source, tmp_path, monkeypatch):
    def spoil(path, pieces, progress):
        write_shard(path, pieces, progress)
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")

    monkeypatch.setattr(chatglm3, "write_shard", spoil)
    with pytest.raises(ValueError, match="is not what the source holds"):
        convert(source, tmp_path / "dest", "weights")
    assert not (tmp_path / "dest").exists()


# ---- command line --------------------------------------------------------------------------------------------


def test_convert_and_verify_from_the_shell(tmp_path, capsys):
    options = [str(TINY_SOURCE), str(tmp_path / "dest"), "--only", "weights", "--verify", str(EXPECTED)]
    main(options)
    said = capsys.readouterr()
    assert "36 tensors" in said.out
    assert "verified: 6 cases within 1e-06" in said.out
    assert "100%" in said.err  # progress
    main(options)
    assert "is there already: nothing is converted" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="differs from the stored logits by more than 1e-12 in cached_leftpad"):
        main([*options, "--tolerance", "1e-12"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere", "dest"], "There is no folder nowhere"),
        (["./owner/name", "dest"], "There is no folder"),
        ([str(TINY_SOURCE), "dest"], "There is no .*tokenizer.model.*--only weights"),
        ([str(TINY_SOURCE), "dest", "--verify", "nowhere"], "There is no nowhere"),
    ],
)
def test_bad_requests_say_why(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        main(options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "halves", "weights"),
    [
        (["model-1.safetensors", "pytorch_model.bin"], ("weights", "tokenizer"), "*.safetensors"),
        (["pytorch_model.bin"], ("weights",), "*.bin"),
        (["pytorch_model.bin"], ("tokenizer",), None),
    ],
)
def test_a_hub_id_fetches_what_is_needed(tmp_path, monkeypatch, names, halves, weights):
    import huggingface_hub

    asked = {}

    def download(repo, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision: names)
    assert locate_source("owner/name", halves, "v1") == tmp_path
    assert (asked["repo"], asked["revision"]) == ("owner/name", "v1")
    assert "tokenizer.model" in asked["patterns"]
    assert {pattern for pattern in asked["patterns"] if pattern in ("*.safetensors", "*.bin")} == {weights} - {None}


def test_a_hub_id_out_of_reach_says_so(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match="owner/name is no folder, and could not be fetched from the Hub: no network"):
        locate_source("owner/name", ("tokenizer",))
