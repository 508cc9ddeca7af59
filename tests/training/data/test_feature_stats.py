"""Feature statistics: measured once on the training examples and kept in the checkpoint."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.preprocessing import StandardScaler

from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.arguments import parse_arguments
from training.data.dataset import EGMFDataset
from training.data.feature_stats import clip_weights, deviations, set_feature_stats
from training.trainer.run import train


pytestmark = pytest.mark.integration
WIDTHS = {"audio": 3, "video": 2}
SCALES = np.array([1e4, 1.0, 1e-3])
STATISTICS = ("audio_visual_encoder.audio.stem.mean", "audio_visual_encoder.audio.stem.std")


def write_rows(folder, split_sizes, seed=0):
    """Examples of the task `sentiment` with features of very different scales; one has no audio."""
    rng = np.random.default_rng(seed)
    rows = []
    folder.mkdir()
    for split, size in split_sizes.items():
        for i in range(size):
            row = {
                "id": f"{split}{i}",
                "split": split,
                "task": "sentiment",
                "text": "fine",
                "answer": i / 10,
            }
            for modality, width in WIDTHS.items():
                if (modality, i) != ("audio", 1):
                    values = (rng.normal(5, 1, (2 + i, width)) * SCALES[:width]).astype(np.float32)
                    values[:, -1] = values[:, -1] if modality == "audio" else 7.5  # a column that is constant
                    np.save(folder / f"{split}{i}-{modality}.npy", values)
                    row[f"{modality}_features"] = f"{split}{i}-{modality}.npy"
            rows.append(row)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


def by_hand(folder, modality):
    """Mean and standard deviation over the training examples, which all have the same weight."""
    clips = [np.load(path).astype(np.float64) for path in sorted(folder.glob(f"train*-{modality}.npy"))]
    mean = np.mean([clip.mean(axis=0) for clip in clips], axis=0)
    return mean, np.mean([((clip - mean) ** 2).mean(axis=0) for clip in clips], axis=0) ** 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    folder = tmp_path_factory.mktemp("place")
    write_rows(folder / "corpus", {"train": 6, "validation": 3})
    write_rows(folder / "other", {"train": 6, "validation": 3}, seed=1)
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    return folder


def run(place, name, **changes):
    settings = {
        "dataset": place / "corpus", "text_model_name_or_path": place / "llm", "output_dir": place / "runs" / name,
        "text_model_dtype": "float32", "audio": "features", "audio_feature_size": 3, "video": "features",
        "video_feature_size": 2, "encoder_hidden_size": 8, "fusion_hidden_size": 16, "lora_r": 2, "max_steps": 4,
        "save_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": "true",
    }  # fmt: skip
    argv = [str(part) for key, value in {**settings, **changes}.items() for part in (f"--{key}", value)]
    return train(*parse_arguments(["--use_cpu", *argv]))


@pytest.fixture(scope="module")
def plain(place):
    """The model of a finished run, `runs/plain`."""
    return run(place, "plain").model


def stem(model, modality):
    return getattr(model.egmf.audio_visual_encoder, modality).stem


def test_statistics_cover_all_training_examples(place, plain):
    for modality in WIDTHS:
        mean, std = by_hand(place / "corpus", modality)
        np.testing.assert_allclose(stem(plain, modality).mean, mean, rtol=1e-5)
        np.testing.assert_allclose(stem(plain, modality).std, np.where(std > 0, std, 1), rtol=1e-5)
    values = torch.from_numpy(np.load(place / "corpus/train3-audio.npy"))
    standardized = (values - stem(plain, "audio").mean) / stem(plain, "audio").std
    assert standardized.abs().max() < 6


def test_statistics_are_in_the_adapter_checkpoint(place, plain):
    mean, std = by_hand(place / "corpus", "audio")
    for part in ("", "checkpoint-2", "checkpoint-4"):
        weights = load_file(place / "runs/plain" / part / "model.safetensors")
        for name, expected in zip(STATISTICS, (mean, std), strict=True):
            np.testing.assert_allclose(weights[f"egmf.{name}"], expected, rtol=1e-5)


def test_resumed_run_keeps_its_statistics(place, plain, monkeypatch):
    left_out = shutil.ignore_patterns("checkpoint-4", "training.json")
    shutil.copytree(place / "runs/plain", place / "runs/broken", ignore=left_out)
    calls = []
    monkeypatch.setattr("training.trainer.run.set_feature_stats", lambda *a, **k: calls.append(a))
    resumed = run(place, "broken")
    assert resumed.state.global_step == 4
    assert calls == []
    np.testing.assert_allclose(stem(resumed.model, "audio").mean, by_hand(place / "corpus", "audio")[0], rtol=1e-5)


def test_trained_model_keeps_its_statistics(place, plain):
    trainer = run(place, "second", model_name_or_path=place / "runs/plain", dataset=place / "other", max_steps=1)
    np.testing.assert_allclose(stem(trainer.model, "audio").mean, by_hand(place / "corpus", "audio")[0], rtol=1e-5)


def test_modality_missing_from_all_examples_is_unchanged(make_model, make_processor, tmp_path):
    model = make_model("waveform", "features")
    processor = make_processor("waveform", "features")
    rows = [{"id": "a", "task": "sentiment", "text": "fine", "answer": 1.0}]
    assert set_feature_stats(model, EGMFDataset(rows, processor), progress=False) == []
    assert stem(model, "video").mean.tolist() == [0.0] * 5
    assert stem(model, "video").std.tolist() == [1.0] * 5


def test_model_without_features_reads_no_examples(make_model):
    assert set_feature_stats(make_model("waveform", "frames"), None) == []


def test_constant_column_keeps_a_deviation_of_one():
    scaler = StandardScaler()
    for length in range(1, 40):
        values = np.full((length, 2), [0.3, 7e4], np.float32)
        scaler.partial_fit(values, sample_weight=clip_weights(values))
    assert deviations(scaler).tolist() == [1, 1]
