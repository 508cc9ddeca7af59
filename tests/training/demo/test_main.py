"""`make demo`: the choice of the clips to predict."""

import json
from pathlib import Path

from training.demo.__main__ import choose_clips


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
