"""The benchmark on small corpora: what it draws, what it writes, and what it compares."""

import numpy as np
import pytest

from processing_egmf import EGMFTask
from training.benchmarks.real_data import small_corpora
from training.data.dataset import load_examples
from training.model.tasks_file import read_tasks


MOODS = ("angry", "calm", "happy", "neutral", "sad")


@pytest.fixture
def examples(tmp_path):
    """Two clips of each mood by each of 13 speakers, of whom twelve are used."""
    found = []
    for speaker in range(13):
        for mood in MOODS:
            for take in range(2):
                path = tmp_path / f"{mood}-{take}-{speaker:02d}.wav"
                path.write_bytes(b"RIFF")
                extra = {"speaker": f"actor_{speaker:02d}"}
                found.append({"id": path.stem, "audio": str(path), "answer": mood, "extra": extra})
    return found


def test_a_corpus_has_three_moods_and_no_speaker_twice(examples):
    drawn = small_corpora.draw(0, examples)
    assert drawn == small_corpora.draw(0, examples)
    assert len({tuple(small_corpora.draw(number, examples).moods) for number in range(8)}) > 1
    assert len(drawn.moods) == 3
    assert "neutral" not in drawn.moods
    counts = {split: list(drawn.splits.values()).count(split) for split in ("train", "validation", "test")}
    assert counts == {"train": 6, "validation": 2, "test": 4}
    assert "actor_12" not in drawn.splits


def test_too_few_speakers_are_refused(examples):
    few = [example for example in examples if example["extra"]["speaker"] < "actor_05"]
    with pytest.raises(ValueError, match="have 5 speakers and 4 moods; this needs 12 and 3"):
        small_corpora.draw(0, few)


def test_the_folder_is_one_that_training_reads(examples, tmp_path):
    drawn = small_corpora.draw(1, examples)
    folder = tmp_path / "corpus"
    for _ in range(2):  # a second call changes nothing
        small_corpora.write_corpus(folder, examples, drawn)
    loaded = load_examples(folder)
    assert len(loaded) == 12 * 3 * 2
    for example in loaded:
        assert example["split"] == drawn.splits[example["extra"]["speaker"]]
    task = read_tasks(folder / "tasks.yaml")["mood"]
    assert isinstance(task, EGMFTask)
    assert sorted(task.labels) == drawn.moods


def test_regression_is_measured_on_speakers_that_it_was_not_fitted_on(examples):
    drawn = small_corpora.draw(2, examples)
    mood = np.array([MOODS.index(example["answer"]) for example in examples])
    held_out = np.array([small_corpora.split_of(example, drawn) == "test" for example in examples])
    by_mood = np.eye(2 * len(MOODS))[mood]
    # The moods of the speakers held out move other columns than everyone else's.
    elsewhere = np.where(held_out[:, None], np.roll(by_mood, len(MOODS), axis=1), by_mood)
    for variant in (drawn, drawn.without_validation()):
        assert small_corpora.fit_baseline(by_mood, examples, variant) == 1.0
        assert small_corpora.fit_baseline(elsewhere, examples, variant) == pytest.approx(1 / 3)


def test_regression_is_also_fitted_on_copies_of_the_training_clips(examples):
    drawn = small_corpora.draw(2, examples)
    mood = np.array([MOODS.index(example["answer"]) for example in examples])
    train = np.array([small_corpora.split_of(example, drawn) == "train" for example in examples])
    by_mood = np.eye(len(MOODS))[mood]
    silent = np.where(train[:, None], 0.0, by_mood)  # says nothing about the mood where it is fitted
    answers = [example["answer"] for example, chosen in zip(examples, train, strict=True) if chosen]
    copies = small_corpora.Copies(by_mood[train], answers)
    assert small_corpora.fit_baseline(silent, examples, drawn) == pytest.approx(1 / 3)
    assert small_corpora.fit_baseline(silent, examples, drawn, copies) == 1.0
    none = small_corpora.Copies(np.zeros((0, 0)), [])
    assert small_corpora.fit_baseline(by_mood, examples, drawn, none) == 1.0


def test_speakers_for_validation_are_trained_on_in_the_second_run(examples):
    drawn = small_corpora.draw(3, examples)
    splits = drawn.without_validation().splits
    assert list(splits.values()).count("train") == 8
    held_out = {name for name, split in drawn.splits.items() if split == "test"}
    assert {name for name, split in splits.items() if split == "test"} == held_out
