"""Converted corpora, read with `load_examples` and `EGMFDataset` and used in training."""

import copy
import math

import datasets
import numpy as np
import pytest

from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.release_files import (
    AUDIO_WIDTH,
    VIDEO_WIDTH,
    mmsa,
    sims_row,
    write_clip,
    write_csv,
    write_pickle,
)
from training.arguments import parse_arguments
from training.converters import mmsa as mmsa_converter
from training.converters import sims
from training.data.dataset import EGMFDataset, load_examples
from training.trainer.run import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def features(tmp_path):
    source = write_pickle(tmp_path / "a.pkl", mmsa(train=8, valid=4, test=4))
    arguments = ["--corpus", "sims_v2", "--no_progress", "--num_workers", "1"]
    mmsa_converter.main([str(source), str(tmp_path / "dest"), *arguments])
    return tmp_path / "dest"


def test_splits_and_manifests(features, tmp_path):
    assert [row["id"] for row in load_examples(features, "validation")] == mmsa(valid=4)["valid"]["id"]
    rows = load_examples(features)
    other = load_examples(features, manifest="video_disjoint")
    assert {row["id"] for row in rows} == {row["id"] for row in other}
    with pytest.raises(ValueError, match="no examples of split 'dev'. Its splits are test, train, validation"):
        load_examples(features, "dev")
    with pytest.raises(ValueError, match="no split manifest 'x'"):
        load_examples(features, manifest="x")
    with pytest.raises(ValueError, match="was not made by a converter"):
        load_examples(tmp_path, manifest="x")


def test_test_split_without_scores(tmp_path):
    """As that of a shared task: it is kept for prediction, and not trained or evaluated on."""
    values = mmsa(train=8, valid=4, test=4)
    values["test"]["regression_labels"][:] = np.nan
    source = write_pickle(tmp_path / "a.pkl", values)
    mmsa_converter.main([str(source), str(tmp_path / "dest"), "--corpus", "sims_v2", "--no_progress"])
    rows = load_examples(tmp_path / "dest", "test", with_answers=False)
    assert [(row["id"], row["answer"]) for row in rows] == [(name, None) for name in values["test"]["id"]]
    assert {row["split"] for row in load_examples(tmp_path / "dest")} == {"train", "validation"}
    assert {row["split"] for row in load_examples(tmp_path / "dest", manifest="video_disjoint")} <= {
        "train",
        "validation",
    }
    with pytest.raises(ValueError, match="has no `answer`.* A split without any is predicted by egmf predict --split"):
        load_examples(tmp_path / "dest", "test")


@pytest.fixture(scope="module")
def clip_folders(tmp_path_factory):
    """One corpus converted twice: with the paths of its clips, and with the clips embedded."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "SIMS/Raw/v/1.mp4")
    write_csv(folder / "SIMS/meta.csv", [sims_row("v", "1"), sims_row("v", "2")])
    for media in ("paths", "embed"):
        arguments = ["--corpus", "sims_v2", "--media", media, "--no_progress", "--num_workers", "1"]
        sims.main([str(folder / "SIMS"), str(folder / media), *arguments])
    return folder / "paths", folder / "embed"


@pytest.mark.parametrize("kinds", [("waveform", "frames"), ("waveform", None), (None, "frames"), (None, None)])
@pytest.mark.parametrize("cached", [True, False])
def test_embedded_clips_are_decoded_like_files(clip_folders, make_processor, kinds, cached):
    sets = [EGMFDataset(load_examples(path), make_processor(*kinds), cache_media=cached) for path in clip_folders]
    for index in range(len(sets[0])):
        left, right = (dataset.load_media(index) for dataset in sets)
        assert left.keys() == right.keys()
        for name, values in left.items():
            assert np.array_equal(values, right[name])
    if kinds != (None, None):
        assert sets[1].load_media(0) and not sets[1].load_media(1)
    assert sets[0].ids_without(["audio", "video"]) == sets[1].ids_without(["audio", "video"])


@pytest.mark.integration
@pytest.mark.parametrize("manifest", ["official", "video_disjoint"])
def test_training_runs_on_a_converted_corpus(tmp_path, features, trained_tokenizer, manifest):
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    settings = {
        "dataset": features,
        "split_manifest": manifest,
        "text_model_name_or_path": tmp_path / "llm",
        "text_model_dtype": "float32",
        "output_dir": tmp_path / "run",
        "audio": "features",
        "audio_feature_size": AUDIO_WIDTH,
        "video": "features",
        "video_feature_size": VIDEO_WIDTH,
        "encoder_hidden_size": 8,
        "fusion_hidden_size": 16,
        "lora_r": 2,
        "max_length": 160,
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": "true",
        "dataloader_num_workers": 2,
        "per_device_train_batch_size": 2,
    }
    argv = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    trainer = train(*parse_arguments(["--use_cpu", *argv]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(float(loss)) for loss in losses)
    assert len(trainer.train_dataset) + len(trainer.eval_dataset) < 16  # the test split is left alone
