"""From the model's outputs to answers: distributions as labels and scores, and generated text."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from modeling_egmf import EGMFAnswerOutput
from processing_egmf import EGMFTask


def make_output(processor, task, probabilities, **changes):
    probabilities = torch.atleast_2d(torch.tensor(probabilities, dtype=torch.float64))
    count = len(probabilities)
    return EGMFAnswerOutput(
        probabilities=probabilities,
        log_probs=probabilities.log(),
        task_ids=torch.tensor([list(processor.task_objects).index(task)] * count),
        expert_names=("local", "semantic", "global"),
        expert_weights=torch.tensor([[0.5, 0.25, 0.25]] * count),
        residual_weight=torch.tensor([0.125] * count),
        modality_mask=torch.tensor([[True, False, True]] * count),
        **changes,
    )


def test_classification_by_hand(features):
    given = [0.05, 0.05, 0.1, 0.5, 0.1, 0.15, 0.05]
    found = features.post_process_answers(make_output(features, "emotion", given))[0]
    labels = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    assert found["label"] == "sadness"
    assert found["score"] == pytest.approx(0.5)
    assert list(found["probabilities"]) == labels
    assert list(found["probabilities"].values()) == pytest.approx(given)
    assert found["experts"] == {"local": 0.5, "semantic": 0.25, "global": 0.25}
    assert found["residual"] == 0.125
    assert found["modalities"] == ["text", "video"]
    assert found["task"] == "emotion"


@pytest.fixture
def scale(make_processor):
    task = EGMFTask("scale", "regression", low=-1.0, high=1.0, step=0.5, prompt="\nIt is")
    return make_processor(tasks={"scale": task})


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (
            [0.1, 0.2, 0.3, 0.25, 0.15],
            {"mean": 0.075, "median": 0.0, "most_likely": 0.0, "interval": [-1.0, 1.0]},
        ),
        (
            [0.0, 0.05, 0.15, 0.2, 0.6],
            {"mean": 0.675, "median": 1.0, "most_likely": 1.0, "interval": [-0.5, 1.0]},
        ),
        (
            [0.04, 0.46, 0.0, 0.46, 0.04],
            {"mean": 0.0, "median": -0.5, "most_likely": -0.5, "interval": [-0.5, 0.5]},
        ),
        (
            [0.45, 0.0, 0.1, 0.0, 0.45],
            {"mean": 0.0, "median": 0.0, "most_likely": -1.0, "interval": [-1.0, 1.0]},
        ),
        (
            [1.0, 0.0, 0.0, 0.0, 0.0],
            {"mean": -1.0, "median": -1.0, "most_likely": -1.0, "interval": [-1.0, -1.0]},
        ),
    ],
)
def test_regression_by_hand(scale, probabilities, expected):
    found = scale.post_process_answers(make_output(scale, "scale", probabilities))[0]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["value"] == found["median"]
    assert not {"label", "score"} & set(found)
    assert list(found["probabilities"]) == ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
    low, high = found["interval"]
    held = sum(p for v, p in zip([-1, -0.5, 0, 0.5, 1], probabilities, strict=True) if low <= v <= high)
    assert held >= 0.9 - 1e-9


def test_interval_share(scale):
    output = make_output(scale, "scale", [0.1, 0.2, 0.3, 0.25, 0.15])
    assert scale.post_process_answers(output, interval=0.5)[0]["interval"] == [-0.5, 0.5]


@pytest.mark.parametrize("interval", [0, 1, -0.1, 90, float("nan"), "x"])
def test_interval_must_be_a_share(scale, interval):
    with pytest.raises(ValueError, match="between 0 and 1"):
        scale.post_process_answers(make_output(scale, "scale", [0.2] * 5), interval=interval)


def test_output_that_is_not_that_of_score_answers_is_refused(features):
    output = make_output(features, "emotion", [0.4] + [0.1] * 6)
    with pytest.raises(ValueError, match="There are 2 tasks for 1 samples; give one for each"):
        features.post_process_answers(output, tasks=["emotion"] * 2)
    output.task_ids = None
    with pytest.raises(ValueError, match=r"without task_ids\. Give what `model.score_answers` returns"):
        features.post_process_answers(output)


def test_probabilities_that_are_not_finite_are_refused(features):
    output = make_output(features, "emotion", [[1 / 7] * 7, [float("nan")] + [1 / 6] * 6])
    with pytest.raises(ValueError, match=r"samples \[1\] are not finite\. Load the model in float32"):
        features.post_process_answers(output)


@pytest.mark.parametrize(
    ("labels", "value"), [(2, float("nan")), (2, float("inf")), (slice(None), float("-inf"))], ids=str
)
def test_log_probs_that_are_not_finite_are_refused_where_they_are_read(features, labels, value, monkeypatch):
    output = make_output(features, "emotion", [[1 / 7] * 7, [0.4] + [0.1] * 6])
    output.log_probs[1, labels] = value
    assert len(features.post_process_answers(output)) == 2
    numbers = {"text+video": {"temperature": 2.0, "uniform_weight": 0.1}}
    monkeypatch.setattr(features.task_objects["emotion"], "calibration", numbers)
    for options in ({"labels": ["joy", "anger"]}, {"calibrated": True}):
        with pytest.raises(ValueError, match=r"samples \[1\] are not finite\. Load the model in float32"):
            features.post_process_answers(output, **options)


def test_fewer_answers_than_the_task_has_are_refused(features):
    with pytest.raises(ValueError, match="'emotion' has 7 answers, but the output has 3; use the processor"):
        features.post_process_answers(make_output(features, "emotion", [0.5, 0.3, 0.2]))


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3"])
def test_top_k_keeps_at_least_one(features, top_k):
    with pytest.raises(ValueError, match=f"`top_k` is {top_k!r}; give a whole number, at least 1"):
        features.post_process_answers(make_output(features, "emotion", [0.4] + [0.1] * 6), top_k=top_k)


def test_top_k_keeps_the_largest_first(features):
    given = [0.05, 0.05, 0.1, 0.5, 0.1, 0.15, 0.05]
    found = features.post_process_answers(make_output(features, "emotion", given), top_k=3)[0]
    assert list(found["probabilities"]) == ["sadness", "disgust", "fear"]
    assert found["label"] == "sadness"


def test_labels_restrict_the_answers_exactly(features):
    given = [0.05, 0.05, 1e-12, 0.5, 0.1, 1e-30, 0.05]
    output = make_output(features, "emotion", given)
    output.probabilities = output.probabilities.masked_fill(output.probabilities < 1e-20, 0.0)
    found = features.post_process_answers(output, labels=["joy", "sadness"])[0]
    assert (found["label"], list(found["probabilities"])) == ("sadness", ["joy", "sadness"])
    assert found["score"] == found["probabilities"]["sadness"] == pytest.approx(0.5 / 0.6, rel=1e-12)
    found = features.post_process_answers(output, labels=("disgust", "fear"), top_k=1)[0]
    assert found["probabilities"] == {"fear": found["score"]}
    found = features.post_process_answers(output, labels=["disgust", "fear"])[0]
    assert found["probabilities"]["disgust"] == pytest.approx(1e-18, rel=1e-9)  # from log_probs: not 0


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("emotion", ["joy", "rage", "awe"], r"`labels` that .* not have: \['awe', 'rage'\]; use any of neutral"),
        ("emotion", ["joi"], r"use any of neutral, .*, anger\. Did you mean 'joy' instead of 'joi'\?"),
        ("emotion", [["joy"], 1, "joy"], r"does not have: \[.*'1'"),
        ("emotion", ["joy"], "give a list of at least two labels, each once"),
        ("emotion", ["joy", "joy"], "at least two labels, each once"),
        ("emotion", "joy", "`labels` is 'joy'; give a list"),
        ("mosei", ["joy", "anger"], "task 'mosei' is a regression. Leave `labels` out"),
    ],
)
def test_labels_that_do_not_fit_the_task(features, task, labels, message):
    num_answers = features.task_objects[task].num_answers
    output = make_output(features, task, [1 / num_answers] * num_answers)
    with pytest.raises(ValueError, match=message):
        features.post_process_answers(output, labels=labels)


def test_padding_of_a_smaller_task_is_ignored(features):
    given = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4] + [0.0] * 54
    found = features.post_process_answers(make_output(features, "meld", given))[0]
    assert found["label"] == "anger"
    assert len(found["probabilities"]) == 7


def test_answers_are_plain_json(features, scale):
    for processor, task, count in ((features, "emotion", 7), (scale, "scale", 5)):
        found = processor.post_process_answers(make_output(processor, task, [1 / count] * count))
        assert json.loads(json.dumps(found)) == found


def test_tasks_may_be_named_where_ids_are_missing(features):
    output = make_output(features, "emotion", [0.4] + [0.1] * 6)
    output.task_ids = None
    assert features.post_process_answers(output, tasks=["cherma"])[0]["label"] == "愤怒"


def test_tasks_of_a_batch_are_mixed(features):
    rows = torch.zeros(2, 61)
    rows[0, 4] = 1
    rows[1, 60] = 1
    output = make_output(features, "emotion", rows.tolist())
    names = list(features.task_objects)
    output.task_ids = torch.tensor([names.index("emotion"), names.index("mosei")])
    found = features.post_process_answers(output)
    assert (found[0]["label"], found[1]["value"]) == ("joy", 3.0)


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.parametrize(
    ("task", "said", "answer"),
    [
        ("emotion", " joy.", "joy"),
        ("emotion", " hard to tell", None),
        ("mosei", " -1.5", -1.5),
        ("mosei", " very good", None),
        ("cherma", "高兴", "高兴"),
        ("sims_v2", "0.4", 0.4),
        ("sims_v2", "2", None),
    ],
)
def test_generation_is_parsed_with_and_without_the_prompt(features, with_prompt, task, said, answer):
    inputs = features(text=["joy 0.4", "a longer text: anger 1.0 高兴"], task=task)
    new = torch.tensor(
        [features.tokenizer(said, add_special_tokens=False)["input_ids"] + [features.tokenizer.eos_token_id]] * 2
    )
    ids = torch.cat([inputs["input_ids"], new], dim=1) if with_prompt else new
    found = features.post_process_generation(ids, inputs)
    assert [entry["answer"] for entry in found] == [answer] * 2
    assert [entry["text"] for entry in found] == [said] * 2
    assert {entry["task"] for entry in found} == {task}


@pytest.mark.parametrize("with_prompt", [True, False])
def test_generation_of_several_sequences_per_sample(features, with_prompt):
    inputs = features(text=["joy", "a longer text: anger"], task=["emotion", "mosei"])
    said = [
        " joy",
        " fear",
        " 1.5",
        " -2.0",
    ]  # `num_return_sequences=2`: those of a sample follow one another
    new = [features.tokenizer(words, add_special_tokens=False)["input_ids"] for words in said]
    longest = max(map(len, new))
    ids = torch.tensor([row + [features.tokenizer.eos_token_id] * (longest - len(row)) for row in new])
    if with_prompt:
        ids = torch.cat([inputs["input_ids"].repeat_interleave(2, dim=0), ids], dim=1)
    found = features.post_process_generation(ids, inputs)
    assert [entry["answer"] for entry in found] == ["joy", "fear", 1.5, -2.0]
    assert [entry["task"] for entry in found] == ["emotion", "emotion", "mosei", "mosei"]


def test_generation_longer_than_the_prompt_is_not_cut(features):
    inputs = features(text="a", task="emotion")
    long = " joy" + " and so on" * 60
    ids = torch.tensor([features.tokenizer(long, add_special_tokens=False)["input_ids"]])
    assert ids.shape[1] > inputs["input_ids"].shape[1]
    assert features.post_process_generation(ids, inputs)[0]["text"] == long


def test_calibrated_answers_by_hand(features, scale):
    given = [0.05, 0.05, 0.1, 0.5, 0.1, 0.15, 0.05]
    output = make_output(features, "emotion", given)
    with pytest.raises(ValueError, match="not calibrated for text\\+video .calibrated: none.*egmf calibrate"):
        features.post_process_answers(output, calibrated=True)
    with pytest.raises(ValueError, match="`calibrated` is 'yes'; use one of True, False"):
        features.post_process_answers(output, calibrated="yes")
    processor = copy.copy(features)
    numbers = {"temperature": 2.0, "uniform_weight": 0.0}
    calibrated = EGMFTask.from_dict(
        {**features.task_objects["emotion"].to_dict(), "calibration": {"text+video": numbers}}
    )
    processor.task_objects = {**features.task_objects, "emotion": calibrated}
    powers = [share**0.5 for share in given]
    found = processor.post_process_answers(output, calibrated=True)[0]
    assert list(found["probabilities"].values()) == pytest.approx([power / sum(powers) for power in powers])
    assert found["label"] == "sadness"
    assert processor.post_process_answers(output)[0]["score"] == pytest.approx(0.5)
    two = processor.post_process_answers(output, calibrated=True, labels=["joy", "sadness"])[0]
    assert two["score"] == pytest.approx(0.5**0.5 / (0.5**0.5 + 0.1**0.5))
    assert features.task_objects["emotion"] == calibrated  # the question is the same
    calibrated.calibration["text+video"] = {"temperature": 2.0, "uniform_weight": 0.21}
    mixed = processor.post_process_answers(output, calibrated=True)[0]
    expected = {label: 0.79 * share + 0.03 for label, share in found["probabilities"].items()}
    assert mixed["probabilities"] == pytest.approx(expected)
    two = processor.post_process_answers(output, calibrated=True, labels=["joy", "sadness"])[0]
    assert two["score"] == pytest.approx(expected["sadness"] / (expected["sadness"] + expected["joy"]))
    calibrated.calibration["text+video"] = {"temperature": 2.0, "uniform_weight": 0.0, "exponent": 2.0}
    raised = processor.post_process_answers(output, calibrated=True)[0]
    powers = [math.exp(-((math.log(0.5 / share) / 2) ** 2)) for share in given]
    assert list(raised["probabilities"].values()) == pytest.approx([power / sum(powers) for power in powers])
    scale.task_objects["scale"].calibration = {"text+video": {"temperature": 0.5, "uniform_weight": 0.0}}
    output = make_output(scale, "scale", [0.1, 0.2, 0.4, 0.2, 0.1])
    assert scale.post_process_answers(output, calibrated=True)[0]["interval"] == [-0.5, 0.5]
    assert scale.post_process_answers(output)[0]["interval"] == [-1.0, 1.0]


def test_a_number_in_the_calibration_is_a_temperature_alone():
    task = EGMFTask("mood", "classification", ["good", "bad"], prompt="\nMood:", calibration={"text": 2.0})
    assert task.find_calibration(["text"]) == {"temperature": 2.0, "uniform_weight": 0.0}


@pytest.mark.parametrize(
    "calibration",
    [
        1.5,
        {"text": 0.0},
        {"text": {"temperature": 1.0}},
        {"text": {"temperature": 0, "uniform_weight": 0}},
        {"text": {"temperature": "high", "uniform_weight": 0}},
        {"text": {"temperature": float("nan"), "uniform_weight": 0}},
        {"text": {"temperature": 1.0, "uniform_weight": 1.0}},
        {"text": {"temperature": 1.0, "uniform_weight": -0.1}},
        {"text": {"temperature": 1.0, "uniform_weight": 0.1, "bias": 1}},
        {"text": {"temperature": 1.0, "uniform_weight": 0.1, "exponent": 0.0}},
        {"text": {"temperature": 1.0, "exponent": 2.0}},
        {"text": {}},
    ],
)
def test_calibration_has_its_numbers_for_each_subset(calibration):
    with pytest.raises(ValueError, match="Task 'mood': calibration is .*give a positive `temperature`, a `uniform_w"):
        EGMFTask("mood", "classification", ["good", "bad"], prompt="\nMood:", calibration=calibration)


# ---- another processor than the one that prepared the inputs --------------------------------------------------

LABELS = ["joy", "anger", "fear"]
OTHERS = {
    "another order": ["anger", "joy", "fear"],
    "other words": {"joy": "happy", "anger": "anger", "fear": "fear"},
    "fewer labels": ["joy", "anger"],
}


def feeling(labels):
    return EGMFTask("feeling", "classification", labels, prompt="\nThe feeling is")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("of_call", [False, True])
def test_answers_of_another_processor_are_refused(make_processor, make_model, kind, of_call):
    asked, other = feeling(LABELS), feeling(OTHERS[kind])
    processor = make_processor(tasks=None if of_call else [asked])
    inputs = processor(text=["Well, well.", "no"], task=asked)
    output = make_model().score_answers(**inputs)
    assert list(processor.post_process_answers(output)[0]["probabilities"]) == LABELS
    another = make_processor(tasks=None if of_call else [other])
    another(text="Well.", task=other)
    with pytest.raises(ValueError, match="not those of task 'feeling', or in another order; use the processor that"):
        another.post_process_answers(output)
    with pytest.raises(ValueError, match="not those of task 'feeling'"):
        another.post_process_answers(output, tasks=[other] * 2)


def test_same_answers_under_other_names_are_accepted(make_processor, make_model):
    processor = make_processor(tasks=[feeling(LABELS)])
    output = make_model().score_answers(**processor(text="Well, well."))
    names = {"Freude": "joy", "Wut": "anger", "Angst": "fear"}
    expected = processor.post_process_answers(output)[0]["probabilities"]
    found = make_processor(tasks=[feeling(names)]).post_process_answers(output)[0]["probabilities"]
    assert list(found) == list(names)
    assert list(found.values()) == list(expected.values())


def test_answers_of_sets_of_different_sizes_are_those_of_their_tasks(make_processor, make_model):
    processor = make_processor()
    output = make_model().score_answers(**processor(text=["Well.", "no"], task=["emotion", "mosei"]))
    assert len(processor.post_process_answers(output)[0]["probabilities"]) == 7
    with pytest.raises(ValueError, match="not those of task 'cherma'"):
        processor.post_process_answers(output, tasks=["cherma", "mosei"])


@pytest.mark.parametrize(("texts", "num_generated"), [(["I feel joy."], 1), (["joy"] * 2, 3), (["joy"] * 3, 2)])
def test_sequences_of_other_inputs_are_refused(features, texts, num_generated):
    """A label in their transcripts would be taken for the answer."""
    other = features(text=["Such joy!"] * num_generated)
    ids = torch.nn.functional.pad(other["input_ids"], (0, 1), value=5)
    message = f"The {num_generated} sequences are not those of the {len(texts)} `inputs`; give what `model.generate"
    with pytest.raises(ValueError, match=message):
        features.post_process_generation(ids, features(text=texts))


def test_a_task_of_a_call_is_calibrated_as_it_says(make_processor, make_model):
    """Tasks are equal whatever their calibration, so that the second one had that of the first."""
    processor = make_processor()
    model = make_model("features", "features")
    mood = EGMFTask("mood", "classification", ["low", "high"], prompt="\nThe mood is")
    scores = []
    for temperature in (1.0, 4.0):
        calibration = {"text": {"temperature": temperature, "uniform_weight": 0.0}}
        task = dataclasses.replace(mood, calibration=calibration)
        output = model.score_answers(**processor(text="Hello.", task=task))
        (answer,) = processor.post_process_answers(output, calibrated=True)
        assert answer == processor.post_process_answers(output, tasks=[task], calibrated=True)[0]
        scores.append(answer["score"])
    assert scores[0] > scores[1] > 0.5
