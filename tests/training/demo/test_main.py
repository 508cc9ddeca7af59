"""`make demo`: what follows its evaluation."""

import copy
import json
from pathlib import Path

import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.run_files import SMALL_RUN
from training.arguments import parse_arguments
from training.demo.__main__ import choose_clips, write_documents
from training.run_eval import main as evaluate
from training.trainer.run import train


KINDS = [("emotion", "zh"), ("sentiment", "en"), ("emotion", "en"), ("emotion", "zh"), ("sentiment", "en")]


def metadata_lines():
    for split in ("train", "test"):
        for i, (task, language) in enumerate(KINDS):
            example = {
                "id": f"{split}_{i}",
                "split": split,
                "task": task,
                "language": language,
                "text": f"text of {split}_{i}",
                "video": f"clips/{split}_{i}.mp4",
                "answer": "joy" if task == "emotion" else 0.5,
            }
            yield json.dumps(example) + "\n"


def test_clips_of_the_evaluated_split_are_chosen(tmp_path):
    (tmp_path / "metadata.jsonl").write_text("".join(metadata_lines()), encoding="utf-8")
    clips = choose_clips({"split": "test"}, tmp_path)
    assert [Path(clip["video"]).stem for clip in clips] == ["test_2", "test_0", "test_1"]
    assert [clip["task"] for clip in clips] == ["emotion", "emotion", "sentiment"]
    assert [clip["truth"] for clip in clips] == ["joy", "joy", 0.5]
    assert [clip["text"] for clip in clips] == ["text of test_2", "text of test_0", "text of test_1"]
    assert all(Path(clip["video"]).parent == Path("clips") for clip in clips)


@pytest.mark.integration
def test_documents_of_a_run_on_the_corpus_as_it_is_built(corpus, tmp_path, trained_tokenizer):
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    run = tmp_path / "run"
    settings = {
        **SMALL_RUN, "dataset": corpus, "text_model_name_or_path": tmp_path / "llm", "output_dir": run,
        "eval_strategy": "no", "save_strategy": "no",
    }  # fmt: skip
    argv = ["--use_cpu"]
    for key, value in settings.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    train(*parse_arguments(argv))
    evaluate(["--model_name_or_path", str(run), "--dataset", str(corpus), "--subsets", "every", "--device", "cpu"])
    documents = write_documents(run, corpus)
    ceilings = json.loads((corpus / "ceilings.json").read_text(encoding="utf-8"))
    report = documents["report"].read_text(encoding="utf-8")
    assert f"{ceilings['emotion']['text+audio+video']:.3f}" in report
    assert "Chance is 0.143" in report
    card = documents["model card"].read_text(encoding="utf-8")
    assert f"{ceilings['sentiment']['audio+video']:.3f}" in card
    clips = choose_clips({"split": "test"}, corpus)
    assert all((corpus / clip["video"]).is_file() for clip in clips)
