"""Names of examples: labels, splits, tasks and speakers are the same in every way of writing them."""

import json
import unicodedata
from decimal import Decimal

import pytest

from processing_egmf import EGMFTask
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.labels import check_label
from training.data.dataset import EGMFDataset, load_examples
from training.data.dataset_options import DatasetOptions
from training.data.examples import parse_answer, speaker_of
from training.data.selection import select_examples, select_values, warn_of_missing_labels
from training.data.speakers import check_speakers
from training.evaluation.predictor import find_clips
from training.evaluation.task_map import read_task_map
from training.model.tasks_file import read_tasks


COMPOSED = "gaieté"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
SPELLINGS = (COMPOSED, DECOMPOSED, f" {COMPOSED}\u00a0", f"{DECOMPOSED}\t")


def write_table(folder, rows):
    lines = [json.dumps({"id": str(number), **row}) + "\n" for number, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_names_are_one_however_they_are_written(tmp_path):
    assert COMPOSED != DECOMPOSED
    rows = [
        {"split": name, "task": name, "answer": name, "speaker": name, "place": f"Caf{name[-1]}", "text": DECOMPOSED}
        for name in SPELLINGS
    ]
    examples = load_examples(write_table(tmp_path, rows))
    for column in ("split", "task", "answer"):
        assert {example[column] for example in examples} == {COMPOSED}
    assert {speaker_of(example) for example in examples} == {COMPOSED}
    assert {example["text"] for example in examples} == {DECOMPOSED}  # transcripts stay as they are
    for spelling in (COMPOSED, DECOMPOSED):
        assert len(load_examples(tmp_path, split=spelling)) == 4
        assert len(select_examples(examples, [spelling], None, "")) == 4
    assert len(select_values(examples, [f"speaker={DECOMPOSED}"], "train")) == 4


def test_spaces_within_a_label(tmp_path):
    rows = [{"answer": answer} for answer in ("very happy", "very\u00a0happy", "very  happy")]
    assert {example["answer"] for example in load_examples(write_table(tmp_path, rows))} == {"very happy"}


def test_labels_and_columns_of_the_command_line(tmp_path):
    column = unicodedata.normalize("NFD", "étiquette")
    write_table(tmp_path, [{unicodedata.normalize("NFC", column): DECOMPOSED}])
    arguments = dict.fromkeys(
        ("text_column", "audio_column", "video_column", "id_column", "split_column", "task_column", "context_column")
    )
    arguments |= {"dataset_config": None, "dataset_revision": None, "streaming": False}
    arguments |= {"label_column": column, "label_map": [f"{DECOMPOSED}=joie\u0301"]}
    (example,) = load_examples(tmp_path, options=DatasetOptions.from_arguments(arguments))
    assert example["answer"] == unicodedata.normalize("NFC", "joie\u0301")


def test_labels_of_tasks_files_and_task_maps(tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text(f"mood: {{kind: classification, labels: [{DECOMPOSED}, low], prompt: It is}}\n", encoding="utf-8")
    assert list(read_tasks(path)["mood"].labels) == [COMPOSED, "low"]
    twice = f"mood: {{kind: classification, labels: [{DECOMPOSED}, {COMPOSED}], prompt: It is}}\n"
    path.write_text(twice, encoding="utf-8")
    with pytest.raises(ValueError, match="tasks.yaml.*mood"):
        read_tasks(path)
    task_map = read_task_map(json.dumps({"mood": {"task": "a", "labels": {DECOMPOSED: "joy"}}}, ensure_ascii=False))
    assert task_map["mood"].labels == {COMPOSED: "joy"}


def test_a_checkpoint_may_have_its_labels_in_another_form():
    task = EGMFTask("mood", "classification", labels=[DECOMPOSED, "low"], prompt="It is")
    assert parse_answer(COMPOSED, task, "example 'a'") == DECOMPOSED
    assert parse_answer("other", task, "example 'a'") == "other"  # refused by the task


def test_speakers_that_differ_only_in_case_are_named(caplog):
    examples = [{"id": str(number), "extra": {"speaker": name}} for number, name in enumerate(["Ann", "ann ", "Bo"])]
    check_speakers(examples)
    assert "The speakers 'Ann' and 'ann' differ only in case" in caplog.text


def test_a_transcript_is_found_in_either_form(tmp_path):
    (tmp_path / f"{COMPOSED}.wav").write_bytes(b"RIFF")
    (tmp_path / f"{DECOMPOSED}.txt").write_text("Bonjour.", encoding="utf-8")
    (clip,), skipped = find_clips(tmp_path)
    assert clip.transcript_file.name == f"{DECOMPOSED}.txt"
    assert not skipped.total()


def split_rows(*answers_of_test):
    answers = ("joy", "fear", *answers_of_test)
    return [
        {"split": "test" if number > 1 else "train", "text": "a", "answer": answer}
        for number, answer in enumerate(answers)
    ]


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_split_without_answers_is_left_out_of_all_and_can_be_predicted(tmp_path, caplog, missing):
    """The test split of a shared task: nothing but its own evaluation is refused."""
    caplog.set_level("INFO")
    folder = write_table(tmp_path, split_rows(missing, missing))
    assert [example["id"] for example in load_examples(folder)] == ["0", "1"]
    assert "2 examples without an `answer` are left out, all of split test. egmf predict --split" in caplog.text
    assert [example["id"] for example in load_examples(folder, "test", with_answers=False)] == ["2", "3"]
    with pytest.raises(
        ValueError, match=r"'2' has no `answer` \(.*line 3\).* A split without any is predicted by egmf"
    ):
        load_examples(folder, "test")


def test_missing_answers_among_others_are_refused(tmp_path):
    folder = write_table(tmp_path, split_rows("joy", None))
    with pytest.raises(ValueError, match="example '3' has no `answer` .* leave out the rows.$"):
        load_examples(folder)
    folder = write_table(tmp_path, [{"text": "a", "answer": None}, {"text": "b", "answer": ""}])
    with pytest.raises(ValueError, match="example '0' has no `answer`"):
        load_examples(folder)


@pytest.mark.parametrize("column", ["answer", "label"])
def test_the_table_of_a_split_without_answers_needs_no_column_for_them(tmp_path, column):
    for split, rows in {"train": f"text,{column}\na,joy\n", "test": "text\nb\n"}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(rows)
    options = DatasetOptions(columns={"answer": "label"} if column == "label" else {})
    assert [example["answer"] for example in load_examples(tmp_path, options=options)] == ["joy"]
    assert [example["text"] for example in load_examples(tmp_path, "test", "official", options, False)] == ["b"]
    with pytest.raises(ValueError, match="no such column: --text_column 'words'"):
        load_examples(tmp_path, options=DatasetOptions(columns={"text": "words", **options.columns}))


def test_scores_of_databases_are_numbers():
    task = EGMFTask("s", "regression", low=-3, high=3, step=0.1, prompt="It is")
    assert parse_answer(Decimal("1.50"), task, "a") == 1.5


@pytest.mark.parametrize("answers", [(2, 0), (2.0, 0.0), ("2", "0")])
def test_labels_that_are_numbers_match_their_text(tmp_path, make_processor, caplog, answers):
    (tmp_path / "tasks.yaml").write_text(
        'mood: {kind: classification, labels: {"2": glad, "0": sad}, prompt: "It is"}'
    )
    write_table(tmp_path, [{"text": "Hi.", "task": "mood", "answer": answer} for answer in answers])
    task = read_tasks(tmp_path / "tasks.yaml")["mood"]
    processor = make_processor(None, None)
    processor.add_task(task)
    examples = load_examples(tmp_path)
    assert [example["answer"] for example in EGMFDataset(examples, processor).examples] == ["2", "0"]
    warn_of_missing_labels(examples, {"mood": task}, "train")
    assert "no example with the labels" not in caplog.text
    report = ConversionReport()
    assert [check_label(task, answer, "a", report) for answer in answers] == ["2", "0"]
    mapped = load_examples(tmp_path, options=DatasetOptions(label_map={"2": "joy"}))
    assert mapped[0]["answer"] == "joy"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("Hi.", "example '0': context must be a list of turns, not str. Give them oldest first"),
        ([{"speaker": "A", "text": "Hi."}], "example '0': a turn of the context must be a string or a pair"),
    ],
)
def test_earlier_turns_of_another_form_are_refused_before_training(tmp_path, make_processor, context, message):
    write_table(tmp_path, [{"text": "Hi.", "answer": "joy", "context": context}])
    with pytest.raises(ValueError, match=message):
        EGMFDataset(load_examples(tmp_path), make_processor(None, None))
