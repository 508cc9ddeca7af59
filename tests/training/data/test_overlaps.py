"""Speakers and clips in more than one split."""

import json
import logging
import os

import pytest

from training.arguments import parse_arguments
from training.converters.core.conversion_report import ConversionReport
from training.data.overlaps import note_overlaps, warn_of_overlaps
from training.trainer.run import TrainingRun


def make_examples(*rows):
    return [{"split": split, "extra": {"speaker": speaker}, "video": path} for split, speaker, path in rows]


def test_shared_speakers_and_clips_are_counted_in_one_warning(caplog, tmp_path):
    clip = str(tmp_path / "a.mp4")
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    examples = make_examples(
        ("train", "ann", clip), ("train", "bob", "/x/b.mp4"), ("test", "ann ", "/x/c.mp4"), ("test", "cy", str(link)),
        ("validation", "bob", "/x/d.mp4"), ("validation", "bob", "/x/e.mp4"),
    )  # fmt: skip
    warn_of_overlaps(examples, tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: in more than one split are 2 speakers, such as 'ann' (train, test) and 1 media file, such as "
        "'a.mp4' (train, test). Figures on these splits are inflated: they do not hold for new speakers and clips. "
        "Put all clips of a speaker into the same split."
    ]


@pytest.mark.parametrize(
    "examples",
    [
        make_examples(("train", "ann", "/x/a.mp4"), ("train", "ann", "/x/a.mp4"), ("test", "bob", "/x/b.mp4")),
        make_examples((None, "ann", "/x/a.mp4"), (None, "ann", "/x/a.mp4"), ("test", "ann", "/x/b.mp4")),
        make_examples(("train", None, None), ("test", None, None)),
        make_examples(("train", "unknown", None), ("test", "unknown", None)),
        [{"split": "train", "text": "Okay."}, {"split": "test", "text": "Okay."}],
    ],
)
def test_disjoint_splits_give_no_warning(examples, caplog, tmp_path):
    report = ConversionReport()
    warn_of_overlaps(examples, tmp_path)
    note_overlaps({"train": examples[:-1], "test": examples[-1:]} if examples[0]["split"] else {}, report.note)
    assert caplog.messages == []
    assert report.reasons["notes"] == {}


@pytest.mark.parametrize(("converter", "level"), [("meld", "INFO"), ("folder", "WARNING")])
def test_speakers_of_official_splits_are_only_mentioned(converter, level, caplog, tmp_path):
    (tmp_path / "conversion.json").write_text(json.dumps({"settings": {"converter": converter}}))
    with caplog.at_level(logging.INFO, "training"):
        warn_of_overlaps(make_examples(("train", "Ross", None), ("test", "Ross", None)), tmp_path)
    (record,) = caplog.records
    assert record.levelname == level
    assert "1 speaker, such as 'Ross' (train, test)" in record.getMessage()


def test_copies_of_clips_are_noted_in_the_report(tmp_path):
    for name, content in (("a", "same"), ("b", "diff"), ("c", "same"), ("d", "longer"), ("e", "same")):
        (tmp_path / f"{name}.mp4").write_text(content)
    paths = {name: str(tmp_path / f"{name}.mp4") for name in "abcde"}
    report = ConversionReport()
    note_overlaps(
        {
            "train": make_examples(("train", "x", paths["a"]), ("train", "x", paths["b"])),
            "test": make_examples(("test", "y", paths["c"]), ("test", "y", paths["d"]), ("test", "x", paths["e"])),
            "validation": make_examples(("validation", "z", paths["e"]), ("validation", "z", paths["b"])),
        },
        report.note,
    )
    why = "in more than one split: figures on these splits are inflated"
    assert report.reasons["notes"] == {
        f"speaker {why}": ["x (train, test)"],
        f"clip {why}": [f"{paths['a']} (train, test, validation)", f"{paths['b']} (train, validation)"],
    }
    os.remove(paths["c"])  # a missing clip is reported by the converter
    report = ConversionReport()
    note_overlaps(
        {"train": make_examples(("train", "x", paths["a"])), "test": make_examples(("test", "y", paths["c"]))},
        report.note,
    )
    assert report.reasons["notes"] == {}


def test_training_reads_all_splits_for_the_warning(caplog, tmp_path):
    rows = "id,split,text,speaker,answer\na,train,Hi.,ann,joy\nb,validation,No.,bob,anger\nc,test,Oh.,ann,joy\n"
    (tmp_path / "metadata.csv").write_text(rows)
    argv = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    TrainingRun(*parse_arguments([*argv, "--text_model_name_or_path", "any/llm"])).read_examples()
    assert "in more than one split are 1 speaker, such as 'ann' (train, test). Figures" in caplog.text
