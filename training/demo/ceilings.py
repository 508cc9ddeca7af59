"""Best possible results on the demo corpus for every subset of modalities, computed from the generator.

Emotion, with the label y and the observation o of a subset (its cues are independent given y):

    accuracy = sum over o of max over y of P(y) P(o | y)

Sentiment: the expected absolute error of the posterior median, with the scores' own distribution as the prior. With
text there is no such bound, because the rating is a property of the sentence itself.

Next: `corpus.py` writes the figures to `ceilings.json`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from .phrases import EMOTIONS, Phrase
from .plan import NOISE_STD, RELIABILITIES, cue_probabilities
from .snippets import SCORE_LIMIT, Snippet


SUBSETS = ("text", "audio", "video", "text+audio", "text+video", "audio+video", "text+audio+video")
NUM_SCORES = 61  # -3.0, -2.9, ... 3.0


def emotion_ceilings(bank: Sequence[Phrase]) -> dict[str, float]:
    """Best possible accuracy for every subset of modalities, by enumerating all observations.

    The text's observation is the phrase itself: a phrase that fits several emotions is ambiguous.

    Args:
        bank: the phrases that the corpus uses.
    """
    observed = {modality: cue_probabilities(modality) for modality in RELIABILITIES}
    observed["text"] = observed["text"] @ _phrase_given_cue(bank)  # (7 labels, phrases)
    ceilings = {}
    for subset in SUBSETS:
        joint = np.full((len(EMOTIONS), 1), 1 / len(EMOTIONS))
        for modality in subset.split("+"):
            product = joint[:, :, None] * observed[modality][:, None, :]
            joint = product.reshape(len(EMOTIONS), -1)  # (7 labels, observations)
        ceilings[subset] = float(joint.max(axis=0).sum())
    return ceilings


def _phrase_given_cue(bank: Sequence[Phrase]) -> np.ndarray:
    """P(phrase | emotion shown by the text), (7 shown, phrases): uniform over the phrases that fit."""
    fits = [[emotion in phrase.emotions for emotion in EMOTIONS] for phrase in bank]
    fits = np.array(fits, dtype=np.float64)
    return (fits / fits.sum(axis=0)).T


def sentiment_ceilings(scores: Sequence[float], step: float = 0.02) -> dict[str, float]:
    """Best possible mean absolute error without text, over the 61 possible scores.

    The cue of a modality is the score plus Gaussian noise, clipped to the scale. It is integrated over cells of
    `step`, with the two clipped tails as cells of their own.

    Args:
        scores: all scores of the corpus, in [-3, 3] with one decimal.
        step: width of a cell.

    Returns:
        The error for "audio", "video", "audio+video" and, without any modality, "prior".
    """
    grid = np.round(np.linspace(-SCORE_LIMIT, SCORE_LIMIT, NUM_SCORES), 1)
    prior = np.array([np.count_nonzero(np.isclose(scores, score)) for score in grid], dtype=np.float64)
    prior /= prior.sum()
    edges = np.linspace(-SCORE_LIMIT, SCORE_LIMIT, round(2 * SCORE_LIMIT / step) + 1)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    likelihood = {}  # modality -> P(cell | score), (61, cells)
    for modality, std in NOISE_STD.items():
        likelihood[modality] = np.diff(norm.cdf((edges[None] - grid[:, None]) / std), axis=1)
    audio = prior[:, None] * likelihood["audio"]
    video = prior[:, None] * likelihood["video"]
    return {
        "audio": _median_error(audio, grid),
        "video": _median_error(video, grid),
        "audio+video": sum(_median_error(audio * column[:, None], grid) for column in likelihood["video"].T),
        "prior": _median_error(prior[:, None], grid),
    }


def _median_error(joint: np.ndarray, grid: np.ndarray) -> float:
    """Expected absolute error of the posterior median; joint is P(score, cell), (61, cells)."""
    mass = np.cumsum(joint, axis=0)
    median = grid[np.argmax(mass >= mass[-1] / 2, axis=0)]
    return float((joint * np.abs(grid[:, None] - median)).sum())


def all_ceilings(bank: Sequence[Phrase], snippets: dict[str, list[Snippet]]) -> dict[str, Any]:
    """The content of `ceilings.json`.

    Args:
        bank: the phrases of the corpus.
        snippets: the rated sentences of each split.
    """
    scores = [score for members in snippets.values() for score, _ in members]
    return {"emotion": _emotion_record(bank), "sentiment": _sentiment_record(scores)}


def _emotion_record(bank: Sequence[Phrase]) -> dict[str, Any]:
    ceilings = emotion_ceilings(bank)
    chance = round(1 / len(EMOTIONS), 6)
    return {
        "metric": "accuracy",
        "split": "test",
        **{subset: round(accuracy, 6) for subset, accuracy in ceilings.items()},
        "chance": chance,
        "majority": chance,
        "note": "Best possible accuracy, enumerated from the generator's probabilities.",
    }


def _sentiment_record(scores: list[float]) -> dict[str, Any]:
    ceilings = sentiment_ceilings(scores) if scores else {}
    errors: dict[str, float | None] = dict.fromkeys((*SUBSETS, "prior"))
    for subset, error in ceilings.items():
        errors[subset] = round(error, 6)
    return {
        "metric": "mae",
        "split": "test",
        **errors,
        "note": "Best possible mean absolute error: posterior median with the scores of all splits as the prior. "
        "Null with text, because the rating is a property of the sentence itself.",
    }
