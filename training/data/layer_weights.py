"""Initial weights of a pretrained encoder's layers: those whose states predict the answers of unfamiliar speakers.

    states of a layer ─► mean and deviation over time ─► linear model, cross-validated over speakers ─► log-likelihoods
    initial weight of the layer ◄─ how often it has the largest sum of them, over weighted draws of the clips ◄──┘

A weighted sum of layers learns from the training clips, which every layer can fit when they are few: its weights stay
spread over layers that predict the moods of unfamiliar speakers worse. Before training, they are therefore set to
pseudo-BMA+ weights (Yao et al., 2018, "Using stacking to average Bayesian predictive distributions", Bayesian Analysis
13(3)), from which they are trained as usual. training/log/ravdess.md has the figures.
"""

# N clips  K layers  W width of a layer  T steps

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from accelerate.logging import get_logger
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import mean_and_deviation
from processing_egmf import EGMFTask

from .dataset import EGMFDataset
from .encoder_cache import pretrained_stems
from .examples import speaker_of
from .feature_stats import read_vectors


MAX_CLIPS = 1000  # drawn at random from more
MAX_FOLDS = 10
STRENGTH = 0.01  # of the fit, the inverse of the penalty: weak, because there are more columns than clips
NUM_DRAWS = 1000
# Of the weights that are spread evenly, so that a layer without any can still gain some; and of a held-out clip's
# probability, because the clips that are left may lack its label.
FLOOR = 0.01

logger = get_logger(__name__)


class Pooled:
    """What the layers make of the clips of one task.

    Attributes:
        values: mean and deviation over time of each clip's states, one (K, 2 * W) per clip.
        answers: index of each clip's answer.
        groups: each clip's speaker; without speakers, the recording that it comes from.
    """

    def __init__(self):
        self.values: list[np.ndarray] = []
        self.answers: list[int] = []
        self.groups: list[str] = []


def fit_layer_weights(
    model: EGMFForConditionalGeneration, dataset: EGMFDataset, progress: bool = True
) -> dict[str, list[float]]:
    """Set the weights of every frozen encoder's layers.

    Args:
        model: a new model, whose feature statistics have been measured; changed in place.
        dataset: the training set.
        progress: show a progress bar.

    Returns:
        Modality -> weight of each layer, (K,), whose sum is 1; only of encoders whose weights were set. Of an encoder
        whose clips have one speaker or one answer, the weights stay equal, with a warning.
    """
    stems = pretrained_stems(model)
    stems = {name: stem for name, stem in stems.items() if stem.layer_sum is not None and not stem.trainable}
    weights = {}
    for modality, stem in stems.items():
        layer_sum = stem.layer_sum
        pooled = pool_layers(model, dataset, modality, progress)
        parts = []
        for name, of_task in pooled.items():
            if min(len(set(of_task.groups)), len(set(of_task.answers))) > 1:
                parts.append(measure_layers(dataset.processor.task_objects[name], of_task))
        if not parts:
            logger.warning(
                f"--fit_layer_weights has no effect on {modality}: its clips have only one speaker or one answer."
            )
            continue
        shares = weigh_layers(np.concatenate(parts))
        with torch.no_grad():
            layer_sum.weights.copy_(torch.from_numpy(np.log(shares) / layer_sum.SPEED))
        weights[modality] = shares.tolist()
        print(f"Weights of the layers ({modality}): {', '.join(f'{share:.2f}' for share in shares)}.")
    if not stems:
        logger.warning("--fit_layer_weights has no effect: this model has no frozen encoder with weighted layers.")
    return weights


def pool_layers(
    model: EGMFForConditionalGeneration, dataset: EGMFDataset, modality: str, progress: bool = True
) -> dict[str, Pooled]:
    """Task -> statistics of its clips that have the modality."""
    stem = pretrained_stems(model)[modality]
    num_layers = len(stem.layer_sum.weights)
    chosen = np.random.default_rng(0).permutation(len(dataset))[:MAX_CLIPS]
    pooled: dict[str, Pooled] = {}
    for index in tqdm(sorted(chosen), desc=f"pooling {modality} layers", unit="example", disable=not progress):
        states = read_vectors(model, dataset, int(index), [modality]).get(modality)
        if states is None:
            continue
        example = dataset.examples[index]
        speaker = speaker_of(example)
        states = torch.as_tensor(states).float()
        if dataset.speaker_normalization is not None:
            states = dataset.speaker_normalization(speaker, {}, {modality: states})[1][modality]
        statistics = mean_and_deviation(states[None], torch.ones(1, len(states), dtype=torch.bool))  # (1, 2 * K * W)
        of_task = pooled.setdefault(example["task"], Pooled())
        of_task.values.append(statistics.view(2, num_layers, -1).transpose(0, 1).flatten(1).numpy())
        of_task.answers.append(example["label_index"])
        of_task.groups.append(speaker or example.get("clip") or example["id"])
    return pooled


def measure_layers(task: EGMFTask, pooled: Pooled) -> np.ndarray:
    """Log-likelihood of each clip's answer by each layer, without the clips of its group, (N, K)."""
    values = np.stack(pooled.values)  # (N, K, 2 * W)
    answers = np.array(pooled.answers)
    folds = GroupKFold(min(MAX_FOLDS, len(set(pooled.groups)))).split(values, groups=pooled.groups)
    predict = predict_labels if task.kind == "classification" else predict_scores
    return predict(values, answers, list(folds))


def predict_labels(
    values: np.ndarray, answers: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """values (N, K, F), answers (N,) -> log-likelihoods (N, K) by logistic regression."""
    likelihoods = np.zeros(values.shape[:2])
    num_labels = len(np.unique(answers))
    for fitted, held_out in folds:
        if len(np.unique(answers[fitted])) == 1:
            likelihoods[held_out] = answers[held_out, None] == answers[fitted][0]
            continue
        for layer in range(values.shape[1]):
            regression = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a comparison
                regression.fit(values[fitted, layer], answers[fitted])
            of_labels = regression.predict_proba(values[held_out, layer])
            likelihoods[held_out, layer] = (of_labels * (regression.classes_ == answers[held_out, None])).sum(axis=1)
    return np.log((1 - FLOOR) * likelihoods + FLOOR / num_labels)


def predict_scores(
    values: np.ndarray, answers: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """values (N, K, F), answers (N,) -> log-likelihoods (N, K) by ridge regression with normal errors."""
    errors = np.zeros(values.shape[:2])
    for fitted, held_out in folds:
        for layer in range(values.shape[1]):
            regression = make_pipeline(StandardScaler(), Ridge(alpha=1 / STRENGTH))
            regression.fit(values[fitted, layer], answers[fitted])
            errors[held_out, layer] = regression.predict(values[held_out, layer]) - answers[held_out]
    variances = np.square(errors).mean(axis=0).clip(min=1e-12)  # (K,)
    return -0.5 * (np.log(2 * np.pi * variances) + np.square(errors) / variances)


def weigh_layers(likelihoods: np.ndarray) -> np.ndarray:
    """Log-likelihoods (N, K) -> pseudo-BMA+ weights (K,), positive, whose sum is 1.

    Each draw weighs the clips at random (Bayesian bootstrap), and gives the layers the softmax of their weighted sums.
    """
    num_clips, num_layers = likelihoods.shape
    draws = np.random.default_rng(0).dirichlet(np.ones(num_clips), NUM_DRAWS) * num_clips
    sums = draws @ likelihoods  # (draws, K)
    shares = np.exp(sums - sums.max(axis=1, keepdims=True))
    shares = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return (1 - FLOOR) * shares + FLOOR / num_layers
