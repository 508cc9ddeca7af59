"""The scikit-learn baselines learn from informative inputs, and only from the training examples."""

import numpy as np

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.release_tables import english
from training.benchmarks.real_data.baselines import VECTORS, WORDS, evaluate_baseline


def make_examples(num_train, num_reported, **columns):
    """Examples of five groups; each column is a function of the example's number."""
    splits = ["train"] * num_train + ["validation"] * num_reported
    examples = []
    for i, split in enumerate(splits):
        example = {"split": split, "group": str(i % 5)}
        examples.append(example | {name: column(i) for name, column in columns.items()})
    return examples


def test_baseline_learns_informative_words():
    task = EGMFTask("mood", "classification", labels=["calm", "glad"], prompt="\nMood:")
    examples = make_examples(40, 10, text=english, answer=lambda i: ("calm", "glad")[i % 2])
    result = evaluate_baseline(WORDS, task, examples)
    assert result["figures"]["accuracy"] == 1
    assert result["constant"]["accuracy"] == 0.5
    assert result["examples"] == 40
    assert result["name"] == "logistic regression on TF-IDF of words"


def test_baseline_learns_informative_vectors():
    rng = np.random.default_rng(0)

    def features(i):
        return rng.normal((i % 7 - 3, i % 2), 0.01, (3, 2))

    columns = {"audio_features": features, "video_features": features, "answer": lambda i: float(i % 7 - 3)}
    result = evaluate_baseline(VECTORS, BUILT_IN_TASKS["sentiment"], make_examples(70, 14, **columns))
    assert result["figures"]["correlation"] > 0.99
    assert result["name"] == "ridge regression on the vectors"


def test_reported_examples_do_not_teach_the_baseline():
    """A label that only the reported examples have cannot be predicted."""
    task = EGMFTask("mood", "classification", labels=["calm", "glad", "sad"], prompt="\nMood:")
    examples = make_examples(40, 10, text=english, answer=lambda i: "sad" if i >= 40 else ("calm", "glad")[i % 2])
    assert evaluate_baseline(WORDS, task, examples)["figures"]["accuracy"] == 0
