"""Plain scikit-learn baselines: logistic or ridge regression on TF-IDF, mean vectors or mean cepstra.

examples -> inputs (texts or (N, F)) -> transform -> cross-validation over groups -> the metrics of EGMF
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


Examples = Sequence[dict[str, Any]]
SAMPLING_RATE = 16_000
MAX_SECONDS = 30.0
NUM_CEPSTRA = 40
NUM_FOLDS = 4
BOOTSTRAP = 1000


# ---- inputs ---------------------------------------------------------------------------------------------------


def texts_of(examples: Examples) -> list[str]:
    return [example["text"] or "" for example in examples]


def vectors_of(examples: Examples) -> np.ndarray:
    """Mean vectors of audio and video, concatenated, (N, F)."""
    vectors = []
    for example in examples:
        audio = np.asarray(example["audio_features"]).mean(0)
        video = np.asarray(example["video_features"]).mean(0)
        vectors.append(np.concatenate([audio, video]))
    return np.stack(vectors)


def cepstra_of(examples: Examples) -> np.ndarray:
    """Mean and standard deviation over time of 40 cepstral coefficients and of their differences, (N, 160)."""
    filters = mel_filter_bank(257, 64, 20.0, 8000.0, SAMPLING_RATE, mel_scale="htk")
    vectors = []
    for example in examples:
        samples = load_audio(example["audio"], None, SAMPLING_RATE, MAX_SECONDS, "a clip").astype(np.float64)
        mel = spectrogram(samples, np.hanning(400), 400, 160, fft_length=512, power=2.0, mel_filters=filters)
        cepstra = dct(np.log(mel + 1e-10), axis=0, norm="ortho")[:NUM_CEPSTRA]  # (40, T)
        changes = np.diff(cepstra, axis=1)
        statistics = [cepstra.mean(1), cepstra.std(1), changes.mean(1), changes.std(1)]
        vectors.append(np.concatenate(statistics))
    return np.stack(vectors)


class Baseline(NamedTuple):
    """A linear model.

    Args:
        input_name: description of the inputs, for the baseline's name.
        inputs: function from examples to the inputs.
        transform: applied to the inputs before the linear model.
        strengths: candidates for C of logistic regression.
        alphas: candidates for alpha of ridge regression.
    """

    input_name: str
    inputs: Callable[[Examples], Any]
    transform: BaseEstimator
    strengths: tuple[float, ...]
    alphas: tuple[float, ...]

    def name(self, task: EGMFTask) -> str:
        kind = "ridge" if task.kind == "regression" else "logistic"
        return f"{kind} regression on {self.input_name}"


WORDS = Baseline(
    "TF-IDF of words",
    texts_of,
    TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
    strengths=(1.0, 10.0),
    alphas=(1.0, 3.0, 10.0),
)
CHARACTERS = Baseline(
    "TF-IDF of characters",
    texts_of,
    TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2),
    strengths=(1.0, 10.0),
    alphas=(1.0, 3.0, 10.0),
)
VECTORS = Baseline(
    "the vectors",
    vectors_of,
    StandardScaler(),
    strengths=(0.003, 0.03, 0.3, 3.0),
    alphas=(100.0, 300.0, 1e3, 3e3, 1e4, 3e4),
)
SOUNDS = Baseline(
    "mean cepstra",
    cepstra_of,
    StandardScaler(),
    strengths=(0.003, 0.03, 0.3, 3.0),
    alphas=(100.0, 300.0, 1e3, 3e3, 1e4, 3e4),
)


# ---- fitting and figures --------------------------------------------------------------------------------------


def evaluate_baseline(baseline: Baseline, task: EGMFTask, examples: Examples) -> dict[str, Any]:
    """Figures of a baseline and of a constant prediction on the reported split, fitted on all other examples.

    Args:
        baseline: the baseline; its regularization is chosen by cross-validation over groups.
        task: has the labels, or the scale.
        examples: examples of every split, with the column `GROUP`.
    """
    train = [example for example in examples if example["split"] != REPORTED]
    reported = [example for example in examples if example["split"] == REPORTED]
    inputs = baseline.inputs(train)
    answers = np.array([example["answer"] for example in train])
    search = make_search(baseline, task)
    search.fit(inputs, answers, groups=[example[GROUP] for example in train])
    constant = DummyRegressor() if task.kind == "regression" else DummyClassifier()
    constant.fit(inputs, answers)
    reported_inputs = baseline.inputs(reported)
    return {
        "name": baseline.name(task),
        "examples": len(train),
        "chosen": search.best_params_,
        "figures": _figures(task, search.best_estimator_, reported_inputs, reported),
        "constant": _figures(task, constant, reported_inputs, reported),
    }


def make_search(baseline: Baseline, task: EGMFTask) -> GridSearchCV:
    """Grid search over the regularization of the task's linear model."""
    if task.kind == "regression":
        model = Ridge()
        grid = {"ridge__alpha": baseline.alphas}
        scoring = "neg_mean_absolute_error"
    else:
        model = LogisticRegression(max_iter=2000)
        grid = {"logisticregression__C": baseline.strengths, "logisticregression__class_weight": [None, "balanced"]}
        scoring = "f1_weighted"
    return GridSearchCV(make_pipeline(baseline.transform, model), grid, scoring=scoring, cv=GroupKFold(NUM_FOLDS))


def _figures(task: EGMFTask, model: Any, inputs: Any, examples: Examples) -> dict[str, Any]:
    truth = [example["answer"] for example in examples]
    if task.kind == "regression":
        scores = np.clip(model.predict(inputs), task.low, task.high)
        return answer_metrics(task, scores.tolist(), [float(score) for score in truth], bootstrap=BOOTSTRAP)
    labels = list(task.labels)
    columns = [labels.index(name) for name in model.classes_]
    probabilities = np.zeros((len(examples), len(labels)))
    probabilities[:, columns] = model.predict_proba(inputs)
    predictions = [labels[index] for index in probabilities.argmax(axis=1)]
    return answer_metrics(task, predictions, truth, probabilities, bootstrap=BOOTSTRAP)
