"""Ideal answerers, worked out by hand and compared with the expected best accuracy."""

import json

import numpy as np
import pytest

from training.demo.ceilings import emotion_ceilings
from training.demo.ideal import (
    best_accuracy,
    error_of_best,
    ideal_accuracies,
    learned_likelihoods,
    likelihoods_of_texts,
    posteriors,
)
from training.demo.phrases import EMOTIONS, phrase_bank
from training.demo.plan import plan_corpus


COUNTS = {"train": 4000, "validation": 0, "test": 4000}


@pytest.fixture(scope="module")
def examples():
    """The emotion examples of a large corpus, by split, without clips."""
    planned = [
        example
        for example in plan_corpus(0, COUNTS, [], languages=("en", "zh")).examples
        if example["task"] == "emotion"
    ]
    return {split: [example for example in planned if example["split"] == split] for split in ("train", "test")}


def test_on_many_clips_the_ideal_reaches_the_expectation(examples):
    expected = emotion_ceilings(phrase_bank(languages=("en", "zh")))
    known = likelihoods_of_texts(phrase_bank(languages=("en", "zh")))
    for subset, ceiling in expected.items():
        assert best_accuracy(examples["test"], subset, known) == pytest.approx(ceiling, abs=0.03)


def test_a_learner_gains_from_more_clips_and_stays_below_the_ideal(examples):
    bank = phrase_bank(languages=("en", "zh"))
    reached = [
        best_accuracy(examples["test"], "text", learned_likelihoods(bank, examples["train"][:number]))
        for number in (0, 400, len(examples["train"]))
    ]
    assert reached[0] == pytest.approx(1 / len(EMOTIONS), abs=0.02)
    assert reached[0] < reached[1] < reached[2]
    assert reached[2] < best_accuracy(examples["test"], "text", likelihoods_of_texts(bank))


def test_the_ideal_is_calibrated_and_a_learner_of_few_clips_less_so(examples):
    bank = phrase_bank(languages=("en", "zh"))
    known, learned = likelihoods_of_texts(bank), learned_likelihoods(bank, examples["train"][:400])
    found = posteriors(examples["test"], "text+audio", known)
    assert found.shape == (len(examples["test"]), len(EMOTIONS))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    errors = [error_of_best(examples["test"], "text", of_text) for of_text in (known, learned)]
    assert errors[0] < 0.02 < errors[1]
    sure = {"a": np.eye(len(EMOTIONS))[EMOTIONS.index("joy")]}
    clips = [{"text": "a", "cues": {}, "answer": answer} for answer in ("joy", "joy", "joy", "anger")]
    assert error_of_best(clips, "text", sure) == pytest.approx(0.25)


def test_labels_that_are_equally_probable_share_the_hit():
    unknown = {"a": np.ones(len(EMOTIONS))}
    example = {"text": "a", "cues": {}, "answer": "joy"}
    assert best_accuracy([example], "text", unknown) == pytest.approx(1 / len(EMOTIONS))


def test_a_folder_that_is_no_demo_corpus_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"text": "a"}), encoding="utf-8")
    with pytest.raises(ValueError, match="is not a demo corpus"):
        ideal_accuracies(tmp_path)


def test_learned_from_one_corpus_and_tested_on_another_with_the_same_phrases(tmp_path):
    counts = {"train": 300, "validation": 0, "test": 100}
    for name, seed, phrase_seed in (("own", 0, 0), ("new", 1, 0), ("other", 1, 1)):
        examples = plan_corpus(seed, counts, [], ("en",), phrase_seed).examples
        (tmp_path / name).mkdir()
        lines = [json.dumps(example) for example in examples]
        (tmp_path / name / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
        settings = {"seed": seed, "phrase_seed": phrase_seed, "languages": ["en"]}
        (tmp_path / name / "build.json").write_text(json.dumps({"settings": settings}))
    found = ideal_accuracies(tmp_path / "own", tmp_path / "new")
    assert found["examples"] == 100
    assert found["ideal"] == ideal_accuracies(tmp_path / "new")["ideal"]
    assert found["learner"] != ideal_accuracies(tmp_path / "new")["learner"]
    assert found["learner_error"].keys() == found["learner"].keys()
    with pytest.raises(ValueError, match="other has other phrases than .*own. Build it with --phrase_seed"):
        ideal_accuracies(tmp_path / "own", tmp_path / "other")
