"""Best possible accuracy on the actual test clips of a demo corpus, next to the expected one in `ceilings.json`.

`ceilings.json` holds the expected best accuracy. On a few hundred test clips even a predictor that knows the generator
reaches a little more or less than that, and no model knows from the start which emotions a phrase fits: it learns
that from the noisy labels of the training clips. Two ideal predictors separate these effects from what a model misses:

    ideal     sees every cue without error, and knows the generator and the emotions that each phrase fits
    learner   the same, but infers what a phrase fits from the labels of the training clips alone

    python -m training.demo.ideal data/demo        # writes training/results/demo_ideal.json
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import CommandParser, command_errors
from ..evaluation.calibration import calibration_error
from ..paths import RESULTS
from ..records import read_json, write_json
from .ceilings import SUBSETS
from .phrases import EMOTIONS, Phrase, corpus_phrases
from .plan import cue_probabilities


METADATA = "metadata.jsonl"


def likelihoods_of_texts(bank: Sequence[Phrase]) -> dict[str, np.ndarray]:
    """Text of every phrase -> P(phrase | label) up to a factor, (7,), for one who knows what each phrase fits."""
    return dict(zip((phrase.text for phrase in bank), phrase_likelihoods(bank, _fits(bank)), strict=True))


def learned_likelihoods(bank: Sequence[Phrase], examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Text of every phrase -> P(phrase | label) up to a factor, (7,), inferred from the labels of clips.

    What the phrase fits is unknown. Every combination of emotions is as probable beforehand as it is frequent in the
    bank, and is weighted by how well it explains the labels of the clips that have the phrase.

    Args:
        bank: gives the frequency of the combinations only.
        examples: of the emotion task, with `text` and `answer`.
    """
    counts = {phrase.text: np.zeros(len(EMOTIONS)) for phrase in bank}
    for example in examples:
        counts[example["text"]][EMOTIONS.index(example["answer"])] += 1
    frequencies = Counter(phrase.emotions for phrase in bank)
    prior = np.array([*frequencies.values()]) / len(bank)
    fits = np.array([[emotion in emotions for emotion in EMOTIONS] for emotions in frequencies], dtype=np.float64)
    candidates = phrase_likelihoods(bank, fits)  # (combinations, 7)
    candidates /= candidates.sum(axis=1, keepdims=True)
    learned = {}
    for text, seen in counts.items():
        log_weights = np.log(prior) + np.log(candidates) @ seen
        weights = np.exp(log_weights - log_weights.max())
        learned[text] = weights @ candidates
    return learned


def phrase_likelihoods(bank: Sequence[Phrase], fits: np.ndarray) -> np.ndarray:
    """P(one phrase | label), (n, 7), for rows of `fits` (n, 7): 1 for emotions that the phrase fits, otherwise 0."""
    given_cue = fits / _fits(bank).sum(axis=0)
    return given_cue @ cue_probabilities("text").T


def _fits(bank: Sequence[Phrase]) -> np.ndarray:
    return np.array([[emotion in phrase.emotions for emotion in EMOTIONS] for phrase in bank], dtype=np.float64)


def posteriors(examples: Sequence[dict[str, Any]], subset: str, of_text: dict[str, np.ndarray]) -> np.ndarray:
    """P(label | cues) for each clip, (N, 7).

    Args:
        examples: of the emotion task, with `text`, `cues` and `answer`.
        subset: modalities, such as "text+audio".
        of_text: text -> P(phrase | label) up to a factor, (7,).
    """
    products = np.ones((len(examples), len(EMOTIONS)))
    for product, example in zip(products, examples, strict=True):
        for modality in subset.split("+"):
            if modality == "text":
                product *= of_text[example["text"]]
            else:
                product *= cue_probabilities(modality)[:, EMOTIONS.index(example["cues"][modality])]
    return products / products.sum(axis=1, keepdims=True)


def best_accuracy(examples: Sequence[dict[str, Any]], subset: str, of_text: dict[str, np.ndarray]) -> float:
    """Accuracy of the most probable label on these clips; labels that are equally probable share the hit. Arguments as
    for `posteriors`."""
    found = posteriors(examples, subset, of_text)
    is_best = found >= found.max(axis=1, keepdims=True) * (1 - 1e-9)
    hits = is_best[np.arange(len(examples)), true_labels(examples)] / is_best.sum(axis=1)
    return float(hits.mean())


def true_labels(examples: Sequence[dict[str, Any]]) -> np.ndarray:
    """Indices (N,) of the labels of the emotion task."""
    return np.array([EMOTIONS.index(example["answer"]) for example in examples])


def error_of_best(examples: Sequence[dict[str, Any]], subset: str, of_text: dict[str, np.ndarray]) -> float:
    """Calibration error of the most probable label on these clips. Arguments as for `posteriors`."""
    found = posteriors(examples, subset, of_text)
    return calibration_error(found.max(axis=1), found.argmax(axis=1) == true_labels(examples))


def read_settings(folder: Path) -> dict[str, Any]:
    """Settings of a demo corpus.

    Raises:
        ValueError: the folder is not a demo corpus.
    """
    record = folder / "build.json"
    if not record.is_file():
        raise ValueError(f"{folder} is not a demo corpus: it has no build.json. `make demo` builds one.")
    return read_json(record)["settings"]


def read_emotions(folder: Path, split: str) -> list[dict[str, Any]]:
    """The examples of the emotion task in one split of a demo corpus."""
    examples = map(json.loads, (folder / METADATA).read_text(encoding="utf-8").splitlines())
    return [example for example in examples if example["task"] == "emotion" and example["split"] == split]


def ideal_accuracies(folder: Path, tested: Path | None = None) -> dict[str, Any]:
    """Answerer -> subset of the modalities -> accuracy on test clips; for the learner, `learner_error` has calibration
    errors.

    Args:
        folder: corpus to learn from.
        tested: corpus whose test clips are taken, with phrases of the other; None for the same corpus.

    Raises:
        ValueError: a folder is not a demo corpus, or the second has other phrases.
    """
    bank = corpus_phrases(read_settings(folder))
    tested = tested or folder
    if corpus_phrases(read_settings(tested)) != bank:
        raise ValueError(
            f"{tested} has other phrases than {folder}. Build it with --phrase_seed, the seed of the other."
        )
    examples = read_emotions(tested, "test")
    known = likelihoods_of_texts(bank)
    learned = learned_likelihoods(bank, read_emotions(folder, "train"))
    return {
        "examples": len(examples),
        "ideal": {subset: round(best_accuracy(examples, subset, known), 6) for subset in SUBSETS},
        "learner": {subset: round(best_accuracy(examples, subset, learned), 6) for subset in SUBSETS},
        "learner_error": {subset: round(error_of_best(examples, subset, learned), 6) for subset in SUBSETS},
    }


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("dataset", type=Path, help="folder of the demo corpus")
        parser.add_argument("--output", type=Path, default=RESULTS / "demo_ideal.json", help="JSON file to write")
        arguments = parser.parse_args(argv)
        print(f"results: {write_json(arguments.output, ideal_accuracies(arguments.dataset))}")


if __name__ == "__main__":
    main()
