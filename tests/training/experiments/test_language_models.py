"""Copies of a language model: its first layers, or new weights."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from training.experiments.language_models import main


@pytest.fixture
def source(tmp_path, trained_tokenizer):
    return write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)


def copy(source, name="copy", **changes):
    folder = source.with_name(name)
    main([str(source), str(folder), "--changes", json.dumps(changes)])
    return AutoModelForCausalLM.from_pretrained(folder)


def test_first_layers_keep_their_weights(source):
    original = AutoModelForCausalLM.from_pretrained(source)
    model = copy(source, layers=1)
    assert len(model.model.layers) == 1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, original.state_dict()[name]), name


def test_random_weights_of_another_size(source):
    model = copy(source, random=True, layers=1, intermediate_size=16)
    assert model.config.intermediate_size == 16
    assert len(model.model.layers) == 1
    again = copy(source, "again", random=True, layers=1, intermediate_size=16)
    assert all(
        torch.equal(first, second) for first, second in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_wrong_changes(source):
    with pytest.raises(SystemExit, match="has 2 layers; it cannot keep 3 of them"):
        copy(source, layers=3)
    with pytest.raises(SystemExit, match="hidden_size can only be changed together with new weights"):
        copy(source, hidden_size=8)
    with pytest.raises(SystemExit, match="has no field hiden_size"):
        copy(source, random=True, hiden_size=8)
    with pytest.raises(SystemExit, match="layers is '1'; it must be a whole number"):
        copy(source, layers="1")
    with pytest.raises(SystemExit, match=r"--changes \[1\] is not a JSON object"):
        main([str(source), str(source), "--changes", "[1]"])


def test_what_exists_is_not_replaced(source):
    """Above all the language model itself, of which two layers would be left."""
    weights = (source / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="llm already exists. Remove it, or give another folder"):
        copy(source, source.name, layers=1)
    assert (source / "model.safetensors").read_bytes() == weights


def test_an_interrupted_copy_is_not_taken_for_a_whole_one(source, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
        with pytest.raises(SystemExit, match="No space left"):
            copy(source, layers=1)
    assert not source.with_name("copy").exists()
    assert len(copy(source, layers=1).model.layers) == 1


def test_the_output_matrix_of_fewer_layers_is_fitted_to_the_states_of_all(source, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(lines[0]) | {"id": f"r{i}", "text": f"Words {i * i} of {i} things"} for i in range(40)]
    (corpus / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    original = AutoModelForCausalLM.from_pretrained(source)
    plain = copy(source, layers=1)
    main([str(source), str(source.with_name("fit")), "--changes", '{"layers": 1}', "--fit_on", str(corpus)])
    fitted = AutoModelForCausalLM.from_pretrained(source.with_name("fit"))
    assert len(fitted.model.layers) == 1
    tokens = AutoTokenizer.from_pretrained(source)("Words 1521 of 39 things", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = original(tokens).logits[:, 1:]
        errors = [(model(tokens).logits[:, 1:] - expected).square().mean().item() for model in (plain, fitted)]
    assert errors[1] < errors[0]
    other = write_corpus(tmp_path / "other")
    (other / "metadata.jsonl").write_text(json.dumps(rows[0] | {"task": "mood"}), encoding="utf-8")
    with pytest.raises(SystemExit, match="the tasks with texts are 'mood'"):
        main([str(source), str(source.with_name("refused")), "--changes", '{"layers": 1}', "--fit_on", str(other)])
    with pytest.raises(SystemExit, match="--fit_on is for the first layers"):
        main([str(source), str(source.with_name("refused")), "--changes", '{"random": true}', "--fit_on", str(corpus)])
