"""The diagnosis of a language model before training: its figures are those of a plain loop."""

import json
import math

import pytest
import torch

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.experiments.diagnosis import LanguageModelDiagnosis, main, summarize_rows


@pytest.fixture
def place(tmp_path, trained_tokenizer):
    write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)
    rows = [
        {"id": "a", "split": "test", "task": "emotion", "text": "word one", "answer": "joy", "language": "en"},
        {"id": "b", "split": "test", "task": "emotion", "text": "你好", "answer": "fear", "language": "zh"},
        {"id": "c", "split": "test", "task": "emotion", "text": " ", "answer": "fear", "language": "zh"},
    ]
    (tmp_path / "corpus").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "corpus/metadata.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_figures_of_every_group(place, capsys):
    output = place / "diagnosis.json"
    main(
        [
            *(str(place / "llm"), "--dataset", str(place / "corpus"), "--groups", "language"),
            *("--output", str(output), "--device", "cpu"),
        ]
    )
    groups = json.loads(output.read_text())["tasks"]["emotion"]
    assert {group: figures["examples"] for group, figures in groups.items()} == {"all": 2, "en": 1, "zh": 1}
    assert groups["zh"]["tokens_per_character"] > groups["en"]["tokens_per_character"]
    assert groups["en"]["chance"] == pytest.approx(1 / 7)
    assert "| emotion | zh | 1 |" in capsys.readouterr().out


@torch.no_grad()
def test_probability_and_bits_are_those_of_the_language_model(place):
    diagnosis = LanguageModelDiagnosis(str(place / "llm"), str(place / "corpus"), device="cpu")
    row = diagnosis.read_example(0)
    sample = diagnosis.examples[0]
    prompt = [token for token in sample["input_ids"] if token != diagnosis.processor.placeholder_token_id]

    def log_prob(start, tokens):
        ids = torch.tensor([[*start, *tokens]])
        log_probs = diagnosis.model(ids).logits[0].log_softmax(dim=-1)
        return sum(log_probs[len(start) + i - 1, token].item() for i, token in enumerate(tokens))

    scores = torch.tensor([log_prob(prompt, answer) for answer in sample["answer_ids"]])
    assert row["probability"] == pytest.approx(scores.softmax(dim=0)[sample["label_index"]].item(), rel=1e-4)
    tokens = diagnosis.tokenizer("word one", add_special_tokens=False)["input_ids"]
    assert row["bits"] == pytest.approx(-log_prob([diagnosis.tokenizer.bos_token_id], tokens) / math.log(2), rel=1e-4)


def test_summary_weighs_text_by_its_length():
    shared = {"tokens": 10, "bits": 5.0, "chance": 0.1}
    rows = [
        shared | {"characters": 10, "probability": 0.2, "right": True, "unreadable": False},
        shared | {"characters": 30, "probability": 0.4, "right": False, "unreadable": True},
    ]
    figures = summarize_rows(rows)
    assert figures["tokens_per_character"] == 0.5
    assert figures["bits_per_character"] == 0.25
    assert figures["probability"] == pytest.approx(0.3)
    assert (figures["right"], figures["unreadable"]) == (0.5, 0.5)
