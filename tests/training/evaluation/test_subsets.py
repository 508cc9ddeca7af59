"""Names of the subsets of the modalities."""

import pytest

from training.evaluation.subsets import SUBSET_NAMES, parse_subsets, subset_name


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


@pytest.mark.parametrize("name", ["smell", "audio+text", "text,audio", ""])
def test_unknown_subset_is_refused(name):
    with pytest.raises(ValueError, match=r"Unknown subset .*use any of all, every, text, .*text\+audio\+video"):
        parse_subsets(["text", name])
