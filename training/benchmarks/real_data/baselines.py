"""Plain scikit-learn beside EGMF: TF-IDF, mean vectors or mean cepstra under logistic or ridge regression.

Figures come from the same metric modules as EGMF's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import dct
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers.audio_utils import mel_filter_bank, spectrogram

from processing_egmf import EGMFTask
from processing_egmf.audio_egmf import load_audio

from ...evaluation.metrics import answer_metrics
from .corpora import GROUP, REPORTED


def words_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["text"] or "" for row in rows]


def vectors_of(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, F) the mean vectors of both streams side by side."""
    return np.stack(
        [np.concatenate([np.asarray(row[f"{m}_features"]).mean(0) for m in ("audio", "video")]) for row in rows]
    )


def sounds_of(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 160) mean and spread over time of 40 cepstral coefficients and of their differences."""
    filters = mel_filter_bank(257, 64, 20.0, 8000.0, 16_000, mel_scale="htk")
    found = []
    for row in rows:
        samples = load_audio(row["audio"], None, 16_000, 30.0, "a clip").astype(np.float64)
        mel = spectrogram(samples, np.hanning(400), 400, 160, fft_length=512, power=2.0, mel_filters=filters)
        cepstrum = dct(np.log(mel + 1e-10), axis=0, norm="ortho")[:40]  # (40, T)
        moved = np.diff(cepstrum, axis=1)
        found.append(np.concatenate([part for x in (cepstrum, moved) for part in (x.mean(1), x.std(1))]))
    return np.stack(found)


class Baseline(NamedTuple):
    """What a linear model sees of a row, and what it may be strengthened by."""

    sees: str
    inputs: Callable[[Sequence[dict[str, Any]]], Any]
    transform: BaseEstimator
    strengths: tuple[float, ...]  # of logistic regression
    alphas: tuple[float, ...]  # of ridge regression

    def name(self, task: EGMFTask) -> str:
        return f"{'ridge' if task.kind == 'regression' else 'logistic'} regression on {self.sees}"


_GRAMS = {"sublinear_tf": True, "min_df": 2}
_OF_WORDS, _OF_VECTORS = ((1.0, 10.0), (1.0, 3.0, 10.0)), ((0.003, 0.03, 0.3, 3.0), (100.0, 300.0, 1e3, 3e3, 1e4, 3e4))
WORDS = Baseline("TF-IDF of words", words_of, TfidfVectorizer(ngram_range=(1, 2), **_GRAMS), *_OF_WORDS)
CHARACTERS = Baseline(
    "TF-IDF of characters", words_of, TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **_GRAMS), *_OF_WORDS
)
VECTORS = Baseline("the vectors", vectors_of, StandardScaler(), *_OF_VECTORS)
SOUNDS = Baseline("mean cepstra", sounds_of, StandardScaler(), *_OF_VECTORS)


def evaluate_baseline(baseline: Baseline, task: EGMFTask, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a baseline and of a constant answer on the reported split, fitted on all other rows.

    Args:
        baseline: its strength is chosen by cross-validation over groups.
        task: the answers.
        rows: of every split, with `GROUP`.
    """
    seen, asked = ([row for row in rows if (row["split"] == REPORTED) == wanted] for wanted in (False, True))
    answers, rated = np.array([row["answer"] for row in seen]), task.kind == "regression"
    if rated:
        model, grid = Ridge(), {"ridge__alpha": baseline.alphas}
    else:
        model = LogisticRegression(max_iter=2000)
        grid = {"logisticregression__C": baseline.strengths, "logisticregression__class_weight": [None, "balanced"]}
    search = GridSearchCV(
        make_pipeline(baseline.transform, model),
        grid,
        scoring="neg_mean_absolute_error" if rated else "f1_weighted",
        cv=GroupKFold(4),
    )
    inputs, asked_inputs = baseline.inputs(seen), baseline.inputs(asked)
    search.fit(inputs, answers, groups=[row[GROUP] for row in seen])
    constant = (DummyRegressor if rated else DummyClassifier)().fit(inputs, answers)
    return {
        "name": baseline.name(task),
        "rows": len(seen),
        "chosen": search.best_params_,
        "figures": _figures(task, search.best_estimator_, asked_inputs, asked),
        "constant": _figures(task, constant, asked_inputs, asked),
    }


def _figures(task: EGMFTask, model: Any, inputs: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    truth = [row["answer"] for row in rows]
    if task.kind == "regression":
        scores = np.clip(model.predict(inputs), task.low, task.high)
        return answer_metrics(task, scores.tolist(), [float(score) for score in truth], bootstrap=1000)
    labels = list(task.labels)
    probabilities = np.zeros((len(rows), len(labels)))
    probabilities[:, [labels.index(name) for name in model.classes_]] = model.predict_proba(inputs)
    predictions = [labels[index] for index in probabilities.argmax(axis=1)]
    return answer_metrics(task, predictions, truth, probabilities, bootstrap=1000)
