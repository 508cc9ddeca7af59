"""The fast tokenizer: same ids as the original slow one, and refused files."""

import json
import shutil
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from processing_egmf import EGMFProcessor
from tests.helpers.chatglm3_files import TINY_SOURCE, TOKENIZER_SOURCE, changed_tokenizer
from training.chatglm3.convert import convert
from training.chatglm3.tokenizer import EXTRA_TOKENS, check_tokenizer, read_pieces, sample_strings


CASES = json.loads((TOKENIZER_SOURCE / "cases.json").read_text(encoding="utf-8"))


def reload(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_ids_match_the_original(tokenizer, tmp_path, times):
    for i in range(times):
        tokenizer = reload(tokenizer, tmp_path / str(i))
    assert len(CASES["cases"]) > 600
    texts = [case["text"] for case in CASES["cases"]]
    plain = [case["input_ids"] for case in CASES["cases"]]
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == plain
    assert tokenizer(texts)["input_ids"] == [case["with_special"] for case in CASES["cases"]]
    assert tokenizer.batch_decode(plain) == [case["decoded"] for case in CASES["cases"]]
    assert tokenizer(texts[-1])["input_ids"] == CASES["cases"][-1]["with_special"]  # alone as in a batch


def test_batch_is_padded_like_the_original(tokenizer):
    expected = CASES["left_padded_batch"]
    batch = tokenizer(expected["texts"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]
    assert (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0).tolist() == expected["position_ids"]


def test_special_ids(tokenizer):
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in EXTRA_TOKENS}
    assert found == CASES["special_token_ids"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        CASES["eos_token_id"],
        CASES["pad_token_id"],
    )
    assert len(tokenizer) == 12_009
    assert tokenizer("a", "b")["input_ids"] == [12_001, 12_003, *tokenizer("a", add_special_tokens=False)["input_ids"],
                                                *tokenizer("b", add_special_tokens=False)["input_ids"], 2]  # fmt: skip


def test_generation_stops_at_the_next_turn(native):
    config = json.loads((native / "generation_config.json").read_text())
    roles = CASES["special_token_ids"]
    assert config["eos_token_id"] == [2, roles["<|user|>"], roles["<|observation|>"]]
    assert AutoModelForCausalLM.from_pretrained(native).generation_config.eos_token_id == config["eos_token_id"]


def test_processor_encodes_prompts_in_this_vocabulary(tokenizer, tmp_path):
    processor = EGMFProcessor(reload(tokenizer, tmp_path), audio_input=None, video_input=None, num_pseudo_tokens=2)
    assert processor.placeholder_token_id == 12_009
    inputs = processor(text="I'm fine.", task="sentiment")
    assert inputs["input_ids"][0, :2].tolist() == [12_001, 12_003]
    assert (inputs["input_ids"] == processor.placeholder_token_id).sum() == 2
    for name in processor.task_objects:
        answers = processor.answer_token_ids(name)
        assert len(set(map(tuple, answers))) == len(answers) == processor.task_objects[name].num_answers


def test_merges_follow_scores_not_ids(tmp_path):
    """On a model whose pieces are not sorted by their scores."""

    def shuffle(model):
        normal = [i for i, piece in enumerate(model.pieces) if piece.type == 1]
        pieces = [(model.pieces[i].piece, model.pieces[i].score) for i in normal]
        for i, (piece, score) in zip(normal, reversed(pieces), strict=True):
            model.pieces[i].piece = piece
            model.pieces[i].score = score

    (tmp_path / "tokenizer.model").write_bytes(changed_tokenizer(shuffle))
    convert(tmp_path, tmp_path / "dest", "tokenizer")
    pieces = read_pieces(tmp_path / "tokenizer.model")
    assert check_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "dest"), pieces) == 2000
    text = CASES["cases"][-1]["text"]
    assert pieces.encode(text) != CASES["cases"][-1]["input_ids"]


def test_check_detects_differences(native, tokenizer, tmp_path):
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


def test_sample_strings_are_deterministic():
    pieces = read_pieces(TOKENIZER_SOURCE / "tokenizer.model")
    assert sample_strings(pieces, 200) == sample_strings(pieces, 200)
    assert len(set(sample_strings(pieces))) > 1900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model.trainer_spec, "model_type", 1), "differs from sentencepiece"),
        (
            lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", False),
            "differs from sentencepiece",
        ),
        (
            lambda model: setattr(model.normalizer_spec, "remove_extra_whitespaces", True),
            "differs from sentencepiece",
        ),
        (lambda model: setattr(model.trainer_spec, "byte_fallback", False), "not a SentencePiece model"),
        (lambda model: setattr(model.pieces[9000], "type", 4), "differs from sentencepiece"),
        (lambda model: setattr(model.pieces[9000], "piece", "<|user|>"), "as pieces"),
    ],
)
def test_tokenizers_of_another_kind_are_refused(tmp_path, change, message):
    (tmp_path / "tokenizer.model").write_bytes(changed_tokenizer(change))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, tmp_path / "dest", "tokenizer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.model"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"IQ== 0\nIg== 1\n", "not a SentencePiece model"),
        (b"", "not a SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (None, "There is no .*tokenizer.model"),
    ],
)
def test_files_that_are_not_tokenizers_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=message):
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
