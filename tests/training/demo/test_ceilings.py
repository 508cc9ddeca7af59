"""Best possible results, worked out by hand and compared with a simulation of the generator."""

import numpy as np
import pytest
from scipy.stats import norm

from training.demo import ceilings, plan
from training.demo.ceilings import SUBSETS, all_ceilings, emotion_ceilings, sentiment_ceilings
from training.demo.phrases import EMOTIONS, Phrase, phrase_bank
from training.demo.plan import NOISE_STD, RELIABILITIES, cue_probabilities, plan_corpus
from training.records import read_json


def test_emotion_ceilings_by_hand(monkeypatch):
    """Two labels, cues with reliabilities 0.8 and 0.6, and three phrases, one of which fits both labels."""
    reliabilities = {"text": (1.0, 1.0), "audio": (0.8, 0.8), "video": (0.6, 0.6)}
    for module in (ceilings, plan):
        monkeypatch.setattr(module, "EMOTIONS", ("joy", "anger"))
        monkeypatch.setattr(module, "RELIABILITIES", reliabilities)
    bank = [Phrase("a", "en", ("joy",)), Phrase("b", "en", ("anger",)), Phrase("c", "en", ("joy", "anger"))]
    best = emotion_ceilings(bank)
    assert best["text"] == pytest.approx(0.5 + 0.5 * 0.5)
    assert best["audio"] == pytest.approx(0.8)
    assert best["video"] == pytest.approx(0.6)
    assert best["text+audio"] == pytest.approx(0.5 + 0.5 * 0.8)
    assert best["audio+video"] == pytest.approx(0.8)  # the weaker cue never overrules the stronger one


def test_emotion_ceilings_against_simulation():
    """The best guess according to the enumeration, evaluated on draws from the generator."""
    rng = np.random.default_rng(0)
    bank = phrase_bank(0)
    fits = np.array([[emotion in phrase.emotions for emotion in EMOTIONS] for phrase in bank], dtype=float)
    num_draws = 20_000
    labels = rng.integers(len(EMOTIONS), size=num_draws)
    tables = {}
    observed = {}
    for modality in RELIABILITIES:
        tables[modality] = cue_probabilities(modality)
        uniform = rng.uniform(size=(num_draws, 1))
        observed[modality] = (uniform > tables[modality].cumsum(axis=1)[labels]).sum(axis=1)
    fitting = [np.flatnonzero(fits[:, emotion]) for emotion in range(len(EMOTIONS))]
    observed["text"] = np.array([rng.choice(fitting[emotion]) for emotion in observed["text"]])
    tables["text"] = tables["text"] @ (fits / fits.sum(axis=0)).T
    best = emotion_ceilings(bank)
    for subset in SUBSETS:
        likelihoods = [tables[modality][:, observed[modality]] for modality in subset.split("+")]
        posterior = np.prod(likelihoods, axis=0)  # (7, draws)
        # Ties are broken evenly rather than by the first label.
        guess = (posterior * (1 + 1e-9 * rng.uniform(size=posterior.shape))).argmax(axis=0)
        assert (guess == labels).mean() == pytest.approx(best[subset], abs=4 * 0.5 / np.sqrt(num_draws))


def test_more_modalities_are_better():
    emotion = emotion_ceilings(phrase_bank(0))
    for pair in ("text+audio", "text+video", "audio+video"):
        assert all(emotion[pair] > emotion[single] + 0.04 for single in pair.split("+"))
        assert emotion["text+audio+video"] > emotion[pair] + 0.04
    sentiment = sentiment_ceilings(np.round(np.linspace(-2.5, 2.5, 51), 1))
    assert sentiment["audio+video"] < sentiment["video"] < sentiment["audio"] < sentiment["prior"]


def likelihood_of(observed, grid, std):
    """Density of clipped noisy scores, given each score of the grid, (N, scores)."""
    observed = observed[:, None]
    inside = norm.pdf((observed - grid) / std)
    tail = np.where(observed > 0, norm.sf((3 - grid) / std), norm.cdf((-3 - grid) / std))
    return np.where(np.abs(observed) >= 3, tail, inside)


def test_sentiment_ceilings_against_simulation():
    rng = np.random.default_rng(0)
    scores = np.round(rng.uniform(-3, 3, 300), 1)
    best = sentiment_ceilings(scores)
    grid, counts = np.unique(scores, return_counts=True)
    truth = rng.choice(scores, size=8_000)
    likelihoods = {}
    for modality, std in NOISE_STD.items():
        observed = np.clip(truth + rng.normal(0, std, len(truth)), -3, 3)
        likelihoods[modality] = likelihood_of(observed, grid, std)
    for subset in ("audio", "video", "audio+video"):
        posterior = counts * np.prod([likelihoods[modality] for modality in subset.split("+")], axis=0)
        mass = np.cumsum(posterior, axis=1)
        median = grid[(mass >= mass[:, -1:] / 2).argmax(axis=1)]
        errors = np.abs(median - truth)
        assert errors.mean() == pytest.approx(best[subset], abs=4 * errors.std() / np.sqrt(len(errors)))
    error_of_median = np.abs(scores - np.median(scores)).mean()
    assert best["prior"] == pytest.approx(error_of_median, abs=1e-9)


def test_sentiment_ceiling_by_hand():
    """Only scores of -3 and 3: without a clip the error is 3, and the voice misleads only past the middle."""
    best = sentiment_ceilings([-3.0, 3.0])
    assert best["prior"] == pytest.approx(3)
    assert best["audio"] == pytest.approx(6 * norm.cdf(-3 / NOISE_STD["audio"]), rel=1e-6)


def test_ceilings_file(corpus, options, snippets):
    stored = read_json(corpus / "ceilings.json")
    plan = plan_corpus(options.seed, options.counts, snippets)
    assert stored == all_ceilings(phrase_bank(options.seed), plan.snippets)
    for task in ("emotion", "sentiment"):
        assert set(SUBSETS) <= set(stored[task])
    assert all(stored["sentiment"][subset] is None for subset in SUBSETS if "text" in subset)
