"""The benchmark on RAVDESS's folds: its regression, its summary and its table."""

import json

import numpy as np
import pytest

from training.benchmarks.real_data import ravdess_folds
from training.paths import RESULTS
from training.records import read_json


ANSWERS = ("calm", "angry")


@pytest.fixture
def corpus(monkeypatch):
    """Statistics of eight clips of each of four speakers, of whom two are held out, with their examples."""
    rng = np.random.default_rng(0)
    examples = []
    rows = []
    for speaker in range(4):
        for clip in range(8):
            answer = clip % 2
            split = "test" if speaker < 2 else "train"
            extra = {"speaker": f"actor_{speaker}"}
            examples.append({"id": f"{speaker}-{clip}", "split": split, "answer": ANSWERS[answer], "extra": extra})
            # The emotion moves the audio by one, the speaker by ten times as much.
            rows.append([answer + 10 * speaker, 0.0])
    monkeypatch.setattr(ravdess_folds, "load_examples", lambda corpus, manifest: examples)
    audio = np.array(rows)
    return {"audio": audio, "video": rng.normal(size=audio.shape)}, examples


def test_regression_with_speakers_normalized_reads_what_the_speakers_hide(corpus, tmp_path):
    statistics, examples = corpus
    plain = ravdess_folds.fit_baseline(statistics, examples, tmp_path, fold=1, per_speaker=False)
    per_speaker = ravdess_folds.fit_baseline(statistics, examples, tmp_path, fold=1, per_speaker=True)
    assert list(plain) == ["audio", "video", "audio+video"]
    assert plain["audio"] <= 0.5
    assert per_speaker["audio"] == 1.0


def test_table_has_every_fold_beside_the_regression():
    figures = {"accuracy": 0.5, "macro_f1": 0.4, "calibration_error": 0.1}
    better = {**figures, "accuracy": 0.7}
    runs = []
    for fold, own in ((1, figures), (2, better)):
        runs.append({"fold": fold, "seed": 0, "minutes": 3.0, **dict.fromkeys(ravdess_folds.SUBSETS, own)})
    baselines = [dict.fromkeys(ravdess_folds.SUBSETS, value) for value in (0.3, 0.5)]
    variant = ravdess_folds.summarize_runs(runs, baselines)
    results = {"folds": [1, 2], "seeds": [0], "examples": 240, "actors": 4, "audio": "whisper-base"}
    text = ravdess_folds.render({**results, "variants": {"per_speaker": variant}})
    assert "| audio | yes | 0.400 ± 0.141 | 0.600 ± 0.141 | 0.500, 0.700 | 0.100 ± 0.000 |" in text
    assert json.dumps(variant)


def test_shipped_table_is_rendered_from_the_shipped_results():
    results = read_json(RESULTS / "ravdess.json")
    assert (RESULTS / "ravdess.md").read_text(encoding="utf-8") == ravdess_folds.render(results)
