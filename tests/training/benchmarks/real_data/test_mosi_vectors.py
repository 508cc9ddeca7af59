"""CMU-MOSI's vectors as a corpus: every video in one split, in the format that training reads."""

import json

import numpy as np

from training.benchmarks.real_data.mosi_vectors import main
from training.data.dataset import load_examples


def test_videos_are_in_one_split(tmp_path):
    names = [f"video{i // 4:02d}_{i % 4}" for i in range(80)]
    np.savez(
        tmp_path / "train.npz",
        id=np.array(names),
        text=np.array(["I LIKED IT"] * 80),
        text_feat=np.ones((80, 3)),
        audio_feat=np.ones((80, 4)),
        video_feat=np.ones((80, 5)),
        label=np.linspace(-3, 3, 80),
    )
    main([str(tmp_path), str(tmp_path / "corpus")])
    rows = [json.loads(line) for line in (tmp_path / "corpus/metadata.jsonl").read_text().splitlines()]
    splits = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    assert counts == {"train": 52, "validation": 12, "test": 16}
    example = load_examples(tmp_path / "corpus", "test")[0]
    assert np.load(example["audio_features"]).shape == (1, 4)
    assert example["text"] == "I liked it"
