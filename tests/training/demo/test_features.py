"""A demo corpus with the vectors of a model's encoders instead of clips."""

import json

import numpy as np
import pytest
import torch

from training.data.dataset import load_examples
from training.demo import features


def test_vectors_are_those_of_the_models_encoders(tmp_path, corpus, monkeypatch, make_model, make_processor):
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    monkeypatch.setattr(features, "load", lambda run: (model, processor))
    folder = tmp_path / "features"
    features.main(["a run", str(corpus), str(folder)])
    original = load_examples(corpus)
    examples = load_examples(folder)
    kept = ("id", "split", "task", "text", "answer", "extra")
    assert [[row[name] for name in kept] for row in examples] == [[row[name] for name in kept] for row in original]
    assert "video" not in json.loads((folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[0])

    sample = processor.prepare(video=original[0]["video"], task="emotion")
    batch = processor.collate([sample])
    with torch.no_grad():
        expected, _ = model.egmf.audio_visual_encoder(
            torch.ones(1, 2, dtype=torch.bool),
            **{name: batch[name] for name in ("audio_values", "audio_mask", "video_values", "video_mask")},
        )
    for index, name in enumerate(("audio", "video")):
        vector = np.load(examples[0][f"{name}_features"])
        np.testing.assert_allclose(vector, expected[:, index].numpy(), rtol=1e-4, atol=1e-5)

    with pytest.raises(SystemExit, match="features already exists. Remove it"):
        features.main(["a run", str(corpus), str(folder)])
