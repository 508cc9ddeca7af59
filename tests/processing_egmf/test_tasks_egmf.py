"""Tasks: their answers, looking up a true answer, and parsing free text."""

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask


COUNTS = {"emotion": 7, "meld": 7, "cherma": 7, "sentiment": 61, "mosei": 61, "sims_v2": 11}
EVERY_ANSWER = [(name, answer) for name, task in BUILT_IN_TASKS.items() for answer in task.answers]


def scale(low=-1.0, high=1.0, step=0.5, **changes):
    return EGMFTask(
        "scale",
        "regression",
        low=low,
        high=high,
        step=step,
        prompt="\nThe score is",
        **changes,
    )


def choice(labels, **changes):
    return EGMFTask("choice", "classification", labels=labels, **{"prompt": "\nIt is", **changes})


def test_built_in_tasks_have_their_answers():
    assert {name: len(task.answers) for name, task in BUILT_IN_TASKS.items()} == COUNTS
    assert {name: task.num_answers for name, task in BUILT_IN_TASKS.items()} == COUNTS
    assert all(name == task.name for name, task in BUILT_IN_TASKS.items())


@pytest.mark.parametrize("name", BUILT_IN_TASKS)
def test_answers_are_distinct_and_have_no_negative_zero(name):
    answers = BUILT_IN_TASKS[name].answers
    assert len(set(answers)) == len(answers)
    assert not {"-0", "-0.0", "-0.00", ""} & set(answers)


def test_scales_run_from_low_to_high():
    assert BUILT_IN_TASKS["mosei"].answers[:2] == ["-3.0", "-2.9"]
    assert BUILT_IN_TASKS["mosei"].answers[29:32] == ["-0.1", "0.0", "0.1"]
    assert BUILT_IN_TASKS["mosei"].answers[-1] == "3.0"
    assert BUILT_IN_TASKS["sims_v2"].values == [
        -1.0,
        -0.8,
        -0.6,
        -0.4,
        -0.2,
        0.0,
        0.2,
        0.4,
        0.6,
        0.8,
        1.0,
    ]
    assert BUILT_IN_TASKS["sims_v2"].answers[5] == "0.0"


@pytest.mark.parametrize(
    ("step", "answers"),
    [
        (1.0, ["-1", "0", "1"]),
        (0.5, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (0.25, ["-1.00", "-0.75", "-0.50"]),
    ],
)
def test_decimals_follow_the_step(step, answers):
    assert scale(step=step).answers[: len(answers)] == answers


@pytest.mark.parametrize(("name", "answer"), EVERY_ANSWER)
def test_every_answer_is_read_back(name, answer):
    task = BUILT_IN_TASKS[name]
    for text in (answer, f" {answer}", f"{answer}.", f"{answer}\n", f"  {answer} "):
        read = task.parse(text)
        assert read is not None, text
        assert task.answers[task.index(read)] == answer


def test_parse_returns_the_label_and_not_its_words():
    task = choice({"pos": "very happy", "neg": "sad"})
    assert task.parse(" Very happy, I think") == "pos"
    assert task.index("neg") == 1


@pytest.mark.parametrize("text", ["", " ", "...", "I cannot say", "joyful", "Neutrality", "7", "中性"])
def test_unreadable_text_is_not_an_emotion(text):
    assert BUILT_IN_TASKS["emotion"].parse(text) is None


@pytest.mark.parametrize("text", ["either fear or joy", "the person shows anger, then sadness"])
def test_text_with_two_labels_is_unreadable(text):
    assert BUILT_IN_TASKS["emotion"].parse(text) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Joy", "joy"),
        ("I hear joy.", "joy"),
        ("SADNESS!", "sadness"),
        ("**anger**", "anger"),
        ("fear\n\nfear", "fear"),
    ],
)
def test_label_is_read_as_a_separate_word(text, label):
    assert BUILT_IN_TASKS["emotion"].parse(text) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("高兴。", "高兴"),
        ("这个人很愤怒", "愤怒"),
        ("高兴和悲伤", "高兴"),
        ("是高兴或悲伤", None),
    ],
)
def test_chinese_label_needs_no_spaces(text, label):
    assert BUILT_IN_TASKS["cherma"].parse(text) == label


def test_longest_of_overlapping_labels_wins():
    task = choice({"a": "happy", "b": "happy surprise"})
    assert task.parse("happy surprise") == "b"
    assert task.parse("happy") == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "about 1.0",
        "3.1",
        "-3.1",
        "30",
        "2024",
        ".",
        "-",
        "+",
        "- 1.0",
        "nan",
        "inf",
    ],
)
def test_unreadable_text_is_not_a_number(text):
    assert BUILT_IN_TASKS["mosei"].parse(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0.0", 0.0),
        ("0", 0.0),
        ("+1.5", 1.5),
        ("\u22122.0", -2.0),
        ("1,5", 1.5),
        (" 0.5 (mild)", 0.5),
    ],
)
def test_numbers_are_read_as_written(text, value):
    found = BUILT_IN_TASKS["mosei"].parse(text)
    assert found == value
    assert str(found) == str(value)  # tells 0.0 from -0.0


@pytest.mark.parametrize("text", ["1e5", "1/2", "2nd", "3:1", "1.2.3", "1.5x"])
def test_number_that_continues_is_not_a_score(text):
    assert BUILT_IN_TASKS["mosei"].parse(text) is None


@pytest.mark.parametrize(
    ("score", "answer"),
    [(-3, "-3.0"), (0.04, "0.0"), (-0.04, "0.0"), (1.26, "1.3"), (3.04, "3.0")],
)
def test_scores_go_to_the_nearest_step(score, answer):
    task = BUILT_IN_TASKS["mosei"]
    assert task.answers[task.index(score)] == answer


@pytest.mark.parametrize("score", [3.2, -3.2, float("inf"), float("-inf"), pytest.param(10**5000, id="huge")])
def test_score_outside_the_scale_is_refused(score):
    with pytest.raises(ValueError, match=r"outside the range \[-3.0, 3.0\]"):
        BUILT_IN_TASKS["mosei"].index(score)


@pytest.mark.parametrize(
    "score", ["1.0", None, True, float("nan"), [1.0], np.ones(2), pytest.param("9" * 10**6, id="long")]
)
def test_score_must_be_a_number(score):
    with pytest.raises(ValueError, match=r"needs a number"):
        BUILT_IN_TASKS["mosei"].index(score)


@pytest.mark.parametrize("label", ["happiness", "Joy", "", None, 3])
def test_unknown_label_is_refused_with_the_known_ones(label):
    with pytest.raises(ValueError, match=r"unknown label .*emotion.*neutral, surprise"):
        BUILT_IN_TASKS["emotion"].index(label)


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"'mood' has unknown keys \['lables'\].*Did you mean 'labels'"):
        EGMFTask.from_dict({"name": "mood", "kind": "classification", "lables": {}, "prompt": "\nIs"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ranking"}, "`kind` is 'ranking'"),
        ({"kind": "classification"}, "at least two labels"),
        ({"kind": "classification", "labels": {"a": "x"}}, "at least two labels"),
        ({"kind": "classification", "labels": {"a": "Joy", "b": "joy!"}}, "words of its own"),
        ({"kind": "classification", "labels": {"a": "x", "b": "?"}}, "words of its own"),
        ({"kind": "regression"}, "low < high"),
        ({"kind": "regression", "low": 1.0, "high": 0.0}, "low < high"),
        ({"kind": "regression", "high": 1.0, "step": 0.0}, "step > 0"),
        ({"kind": "regression", "high": float("nan")}, "'mood': high is nan; give a number between"),
        ({"kind": "regression", "low": -float("inf"), "high": 1.0}, "'mood': low is -inf; give a number"),
        ({"kind": "regression", "high": 10**5000}, "'mood': high is a value of type int that is too large"),
        ({"kind": "regression", "high": 1.0, "step": 1e-8}, "has more than six decimals. Round `low` and `step`"),
        ({"kind": "regression", "high": True}, "'mood': high is True; give a number"),
        ({"kind": "regression", "high": 1.0, "prefix": None}, "'mood': prefix is None; give text"),
        ({"kind": "classification", "labels": ["a", "b\ud800"]}, "half a character"),
        ({"kind": "classification", "labels": ["a", "b"], "suffix": "\0"}, "a null character"),
        ({"kind": "classification", "labels": ["a", "b", "a"]}, r"the labels \['a'\] are given more than once"),
        ({"kind": "classification", "labels": [str(i) for i in range(1002)]}, "has 1002 answers; at most 1001"),
        ({"kind": "regression", "high": 1000.0}, "at most 1001 are supported. Raise `step`"),
        ({"kind": "regression", "high": 1.0, "prompt": ""}, "must not be empty"),
        ({"kind": "regression", "high": 1.0, "prompt": "\nIt is "}, "end in a space"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        EGMFTask(**{"name": "mood", "prompt": "\nIt is", **fields})
    assert "'mood'" in str(caught.value)


def test_steps_must_reach_the_end_of_the_scale():
    with pytest.raises(ValueError, match=r"'scale': steps of 0.3 from 0.0 do not reach 1.0"):
        scale(low=0.0, high=1.0, step=0.3)


def test_decimals_follow_the_low_end_too():
    assert scale(low=0.25, high=1.25, step=0.5).answers == ["0.25", "0.75", "1.25"]


def test_regression_takes_no_labels():
    with pytest.raises(ValueError, match="labels"):
        scale(labels={"a": "x", "b": "y"})


def test_labels_may_be_a_list():
    task = choice(["good", "bad"])
    assert task.labels == {"good": "good", "bad": "bad"}


@pytest.mark.parametrize(
    "labels",
    [
        [True, False],
        [1, 2],
        {True: "yes", False: "no"},
        {"a": 1, "b": 2},
        [["a"], ["b"]],
        [["a", "x", "y"], "b"],
    ],
)  # the first is what YAML makes of [yes, no]
def test_labels_that_are_not_words_are_refused(labels):
    with pytest.raises(ValueError, match=r"'choice': labels and their words must be strings"):
        choice(labels)


def test_labels_are_stored_as_pairs_in_their_order():
    """The keys of a stored dict are sorted; a list keeps the order."""
    task = choice({"b": "good", "a": "bad"})
    assert task.to_dict()["labels"] == [["b", "good"], ["a", "bad"]]
    assert list(EGMFTask.from_dict(task.to_dict()).labels.items()) == [
        ("b", "good"),
        ("a", "bad"),
    ]


@pytest.mark.parametrize("name", BUILT_IN_TASKS)
def test_dict_round_trip(name):
    task = BUILT_IN_TASKS[name]
    assert EGMFTask.from_dict(task.to_dict()) == task
