"""Rated sentences for the sentiment task: tweets and product reviews from the source archive of vaderSentiment.

    archive -> (rating in [-4, 4], raw text) -> cleaned -> (score in [-3, 3], text) -> splits of similar distribution

Source: Hutto and Gilbert (2014), "VADER: A parsimonious rule-based model for sentiment analysis of social media text",
ICWSM. Next: `plan.py` gives each sentence a voice and a face.
"""

import html
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records import digest_of_bytes
from .phrases import SPLITS


VADER_FILE = "vaderSentiment-3.3.2.tar.gz"
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATED_FILES = ("tweets_GroundTruth.txt", "amazonReviewSnippets_GroundTruth.txt")

SCORE_LIMIT = 3.0
SCORE_PER_RATING = 0.75  # VADER ratings in [-4, 4] become scores in [-3, 3]
MIN_WORDS = 3
MAX_WORDS = 25
MIN_LETTER_SHARE = 0.8
# A demo should not show slurs or sexual violence.
_OFFENSIVE = re.compile(r"nigg|fagg|retard|\brap(e|ist)|cunt|bitch|whore|slut|porn|\bdick\b|\bgay\b", re.IGNORECASE)


class Snippet(NamedTuple):
    """A cleaned sentence and the sentiment that people read in it."""

    score: float
    text: str


def read_vader_snippets(sources: str | Path) -> list[tuple[float, str]]:
    """Read the rated tweets and product reviews from the VADER source archive without unpacking it.

    Args:
        sources: folder that holds `vaderSentiment-3.3.2.tar.gz`.

    Returns:
        Pairs of the mean human rating, roughly in [-4, 4], and the raw text.

    Raises:
        FileNotFoundError: the folder has no such archive.
        ValueError: the archive is not the expected one.
    """
    path = Path(sources) / VADER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Download it once with "
            f"`pip download vaderSentiment==3.3.2 --no-deps --no-binary :all: -d {path.parent}`."
        )
    data = path.read_bytes()
    digest = digest_of_bytes(data)
    if digest != VADER_SHA256:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {VADER_SHA256}. Delete the file and download it again."
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        inner_data = archive.extractfile(_INNER_ARCHIVE).read()
    snippets = []
    with tarfile.open(fileobj=io.BytesIO(inner_data)) as archive:
        for name in _RATED_FILES:
            content = archive.extractfile(f"hutto_ICWSM_2014/{name}").read()
            for line in content.decode("latin-1").splitlines():
                _, rating, text = line.split("\t", 2)
                snippets.append((float(rating), text))
    return snippets


def clean_snippet(text: str) -> str | None:
    """Make a tweet or a review look like spoken text; None if that is not possible."""
    text = html.unescape(html.unescape(text))
    text = re.sub(r"(https?://|www\.)\S+|\bRT\b|\{?link\}?:?$", " ", text)
    text = re.sub(r"^(\s*[.:,-]*\s*@\w+[:,]?)+", " ", text)
    text = re.sub(r"(\s@\w+)+\s*$", " ", text)
    text = re.sub(r"#(\w+)", r"\1", text)
    text = text.replace("''", '"').replace("`", "'")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.!?;:])(?=\s|$)", r"\1", text).strip(" -|~*")
    if "@" in text or not text.isascii():
        return None
    if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
        return None
    num_letters = sum(character.isalpha() or character.isspace() for character in text)
    if num_letters < MIN_LETTER_SHARE * len(text):
        return None
    if _OFFENSIVE.search(text):
        return None
    return text[0].upper() + text[1:]


def score_of_rating(rating: float) -> float:
    """Map a VADER rating in [-4, 4] linearly to a score in [-3, 3] with one decimal; anything outside is clipped."""
    score = np.clip(rating * SCORE_PER_RATING, -SCORE_LIMIT, SCORE_LIMIT)
    return round(float(score), 1) + 0.0  # never -0.0


def select_snippets(
    snippets: Sequence[tuple[float, str]],
    counts: dict[str, int],
    rng: np.random.Generator,
    used: Sequence[Snippet] = (),
) -> dict[str, list[Snippet]]:
    """Pick snippets with evenly spread scores and divide them into splits of similar distribution.

    Args:
        snippets: pairs of rating in [-4, 4] and raw text.
        counts: number of snippets in each split.
        rng: decides which snippets are picked.
        used: snippets that must not be picked again.

    Returns:
        Split -> snippets; no text occurs twice.

    Raises:
        ValueError: too few snippets are usable.
    """
    bins = _bins_of_scores(snippets, used)
    num_asked = sum(counts.values())
    num_usable = sum(len(members) for members in bins.values())
    if num_usable < num_asked:
        raise ValueError(
            f"The sentiment task needs {num_asked} snippets but only {num_usable} of {len(snippets)} are usable. "
            "Ask for fewer clips or provide more snippets."
        )
    picked = _pick_evenly(bins, num_asked, rng)
    splits = _deal_into_splits(sorted(picked), counts)
    return {split: [members[i] for i in rng.permutation(len(members))] for split, members in splits.items()}


def _bins_of_scores(snippets: Sequence[tuple[float, str]], used: Sequence[Snippet]) -> dict[int, list[Snippet]]:
    """Cleaned snippets without duplicates and those in `used`, in bins of half a point."""
    seen = {_letters(snippet.text) for snippet in used}
    bins: dict[int, list[Snippet]] = {}
    for rating, raw_text in snippets:
        text = clean_snippet(raw_text)
        if text is None:
            continue
        key = _letters(text)
        if key in seen:
            continue
        seen.add(key)
        score = score_of_rating(rating)
        bins.setdefault(int(np.floor(score * 2 + 0.5)), []).append(Snippet(score, text))
    return dict(sorted(bins.items()))


def _letters(text: str) -> str:
    """The letters and digits of a text, by which duplicates are found."""
    return re.sub(r"\W+", "", text.lower())


def _pick_evenly(bins: dict[int, list[Snippet]], count: int, rng: np.random.Generator) -> list[Snippet]:
    """Take one snippet from every bin in turn, so that the scores are as evenly spread as the source allows."""
    queues = {key: [members[i] for i in rng.permutation(len(members))] for key, members in bins.items()}
    picked: list[Snippet] = []
    while len(picked) < count:
        nonempty = [key for key, queue in queues.items() if queue]
        for key in rng.permutation(nonempty)[: count - len(picked)]:
            picked.append(queues[int(key)].pop())
    return picked


def _deal_into_splits(ordered: list[Snippet], counts: dict[str, int]) -> dict[str, list[Snippet]]:
    """Go through the snippets by score and give each to the split that is furthest behind its share."""
    total = len(ordered)
    splits: dict[str, list[Snippet]] = {split: [] for split in SPLITS}
    for i, snippet in enumerate(ordered):
        lag = {split: counts[split] * (i + 1) / total - len(splits[split]) for split in SPLITS}
        splits[max(lag, key=lag.get)].append(snippet)
    return splits
