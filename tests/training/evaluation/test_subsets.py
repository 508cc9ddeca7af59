"""Names of the subsets of the modalities."""

import pytest

from training.evaluation.subsets import (
    SUBSET_NAMES,
    full_subset,
    modalities_of_run,
    parse_subsets,
    subset_name,
)
from training.records import write_json


NAMES = [
    "text",
    "audio",
    "video",
    "text+audio",
    "text+video",
    "audio+video",
    "text+audio+video",
]


def test_names_in_their_usual_order():
    assert SUBSET_NAMES == NAMES


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["all"], NAMES[-1:]),
        (["every"], NAMES),
        (["text+audio+video", "text"], ["text", "text+audio+video"]),
        (["audio+video", "video", "video"], ["video", "audio+video"]),
        (["every", "text"], NAMES),
    ],
)
def test_subsets_are_named(names, expected):
    assert [subset_name(subset) for subset in parse_subsets(names)] == expected


def test_only_what_the_model_has_is_evaluated():
    names = [subset_name(subset) for subset in parse_subsets(["every"], ("text", "audio"))]
    assert names == ["text", "audio", "text+audio"]
    assert parse_subsets(["all"], ("text", "audio")) == [("text", "audio")]
    message = (
        r"--subsets text\+video: the model was built or trained without video. Use any of all, every, text, audio,"
    )
    with pytest.raises(ValueError, match=message):
        parse_subsets(["text+video"], ("text", "audio"))


def test_modalities_of_a_run_are_those_that_it_has_and_was_trained_on(tmp_path):
    assert modalities_of_run(tmp_path / "absent") == ("text", "audio", "video")
    write_json(tmp_path / "config.json", {"audio_config": {}, "video_config": None})
    assert modalities_of_run(tmp_path) == ("text", "audio")
    write_json(tmp_path / "training.json", {"data_arguments": {"modalities": ["text", "video"]}})
    assert modalities_of_run(tmp_path) == ("text",)


def test_full_subset_is_that_of_the_evaluated_model():
    assert full_subset({"subsets": {}}) == "text+audio+video"
    assert full_subset({"config": {"audio_config": {}, "video_config": None}}) == "text+audio"
    assert full_subset({"modalities": ["text", "video"]}) == "text+video"


@pytest.mark.parametrize("name", ["smell", "audio+text", "text,audio", ""])
def test_unknown_subset_is_refused(name):
    with pytest.raises(ValueError, match=r"Unknown subset .*use any of all, every, text, .*text\+audio\+video"):
        parse_subsets(["text", name])
