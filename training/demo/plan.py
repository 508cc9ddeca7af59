"""The plan of the demo corpus: for every clip a label, a sentence, a speaker, and the cue shown by each modality.

Emotion task: a label is drawn; text, voice and face each show it with a stated reliability, or else another emotion.
Sentiment task: the text is a real sentence with a human rating; voice and face show the rating plus Gaussian noise.

    one rng -> examples {id, split, task, text, video, answer, language, speaker, cues}

Next: `clips.py` renders an example, `ceilings.py` computes the best possible result.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .phrases import EMOTIONS, SPLITS, Phrase, phrase_bank
from .snippets import SCORE_LIMIT, Snippet, select_snippets


NUM_SPEAKERS = {"train": 40, "validation": 8, "test": 14}
# Probability that a cue shows the true label, in the order of EMOTIONS. Voices show anger, sadness and fear best;
# faces show joy, disgust and surprise best.
RELIABILITIES = {
    "text": (0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 0.88),
    "audio": (0.72, 0.60, 0.82, 0.86, 0.56, 0.56, 0.88),
    "video": (0.72, 0.84, 0.56, 0.58, 0.90, 0.84, 0.58),
}
NOISE_STD = {"audio": 1.0, "video": 0.9}  # in points of the sentiment scale
# Any more clips of this split are drawn after all others, so that they leave the train and test clips as they are.
EARLY_VALIDATION = 200
CYCLE = 5
EMOTION_CLIPS = 3  # the first EMOTION_CLIPS of every CYCLE clips belong to the emotion task


class CorpusPlan(NamedTuple):
    """The examples of the metadata, and the rated sentences of each split."""

    examples: list[dict[str, Any]]
    snippets: dict[str, list[Snippet]]


def cue_probabilities(modality: str) -> np.ndarray:
    """P(emotion shown | label) of a modality, (7 labels, 7 shown)."""
    reliability = np.array(RELIABILITIES[modality])
    share_of_each_other = (1 - reliability) / (len(EMOTIONS) - 1)
    table = np.repeat(share_of_each_other[:, None], len(EMOTIONS), axis=1)
    np.fill_diagonal(table, reliability)
    return table


def plan_corpus(
    seed: int,
    counts: dict[str, int],
    snippets: Sequence[tuple[float, str]],
    languages: Sequence[str] | None = None,
    phrase_seed: int | None = None,
) -> CorpusPlan:
    """Draw the metadata of all clips.

    Args:
        seed: seed of the corpus.
        counts: number of clips in each split.
        snippets: pairs of rating and raw text.
        languages: of the phrases, equally often; all clips then belong to the emotion task, because the snippets are
            English. None for both tasks, with the usual phrases.
        phrase_seed: seed of the choice of phrases; None for `seed`.
    """
    rng = np.random.default_rng([seed, 1])
    num_early = min(counts["validation"], EARLY_VALIDATION)
    indices = {split: range(count) for split, count in counts.items()} | {"validation": range(num_early)}
    late = range(num_early, counts["validation"])
    chosen: dict[str, list[Snippet]] = {split: [] for split in SPLITS}
    if languages is None:
        chosen = select_snippets(snippets, {split: count_sentiment(indices[split]) for split in SPLITS}, rng)
    bank = phrase_bank(seed if phrase_seed is None else phrase_seed, languages)
    examples = []
    for split in SPLITS:
        examples += _plan_split(split, indices[split], chosen[split], bank, rng)
    if not late:
        return CorpusPlan(examples, chosen)
    more: list[Snippet] = []
    if languages is None:
        used = [snippet for members in chosen.values() for snippet in members]
        num_more = {"train": 0, "validation": count_sentiment(late), "test": 0}
        more = select_snippets(snippets, num_more, rng, used)["validation"]
    examples += _plan_split("validation", late, more, bank, rng)
    return CorpusPlan(examples, {**chosen, "validation": chosen["validation"] + more})


def is_emotion(index: int) -> bool:
    """Whether the clip with this number in its split belongs to the emotion task of the usual corpus."""
    return index % CYCLE < EMOTION_CLIPS


def count_sentiment(indices: range) -> int:
    """How many of the clips with these numbers belong to the sentiment task of the usual corpus."""
    return sum(not is_emotion(i) for i in indices)


def _plan_split(
    split: str, indices: range, snippets: list[Snippet], bank: list[Phrase], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw the clips of a split that have these numbers."""
    num_emotion = len(indices) - len(snippets)
    labels = iter(rng.permutation(np.arange(num_emotion) % len(EMOTIONS)))
    speakers = iter(rng.permutation(np.arange(len(indices)) % NUM_SPEAKERS[split]))
    remaining = iter(snippets)
    examples = []
    for i in indices:
        if is_emotion(i) or not snippets:
            content = plan_emotion(int(next(labels)), bank, rng)
        else:
            content = _plan_sentiment(next(remaining), rng)
        clip_id = f"{split}_{i:04d}"
        examples.append(
            {
                "id": clip_id,
                "split": split,
                "task": content["task"],
                "text": content["text"],
                "video": f"clips/{clip_id}.mp4",
                "answer": content["answer"],
                "language": content["language"],
                "speaker": f"{split}_speaker_{next(speakers):02d}",
                "cues": content["cues"],
            }
        )
    return examples


def plan_emotion(label: int, bank: Sequence[Phrase], rng: np.random.Generator) -> dict[str, Any]:
    """Draw each modality's cue for a label (an index into EMOTIONS), and a phrase that shows the text's cue."""
    cues = {}
    for modality in RELIABILITIES:
        shown = rng.choice(len(EMOTIONS), p=cue_probabilities(modality)[label])
        cues[modality] = EMOTIONS[shown]
    fitting = [phrase for phrase in bank if cues["text"] in phrase.emotions]
    phrase = fitting[rng.integers(len(fitting))]
    return {
        "task": "emotion",
        "text": phrase.text,
        "answer": EMOTIONS[label],
        "language": phrase.language,
        "cues": cues,
    }


def _plan_sentiment(snippet: Snippet, rng: np.random.Generator) -> dict[str, Any]:
    cues = {"text": snippet.score}
    for modality, std in NOISE_STD.items():
        noisy_score = snippet.score + rng.normal(0, std)
        cues[modality] = round(float(np.clip(noisy_score, -SCORE_LIMIT, SCORE_LIMIT)), 3)
    return {
        "task": "sentiment",
        "text": snippet.text,
        "answer": snippet.score,
        "language": "en",
        "cues": cues,
    }
