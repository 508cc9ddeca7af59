"""Names of splits: the usual ones, their aliases, and names that are probably typos of one.

"dev" ─► SPLIT_NAMES ─► "validation"        {"train", "trian"} ─► misspelled_splits ─► {"trian": "train"}
"""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher


# Name in a release, on the Hub, or of a folder -> name in EGMF.
SPLIT_NAMES = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "validation": "validation",
    "test": "test",
}
# Also usual, and similar to the names above.
OTHER_NAMES = ("training", "validate", "evaluation", "eval", "devel", "testing", "invalid", "retest")
SIMILAR = 0.8  # as if one letter in five is another


def misspelled_splits(splits: Iterable[str]) -> dict[str, str]:
    """The names with a word that is probably a typo of a usual name, and without a usual one -> the split in EGMF."""
    meant = {}
    for split in splits:
        words = re.findall(r"[^\W\d_]+", split.casefold())
        is_usual = any(word in SPLIT_NAMES or word in OTHER_NAMES for word in words)
        similar = [] if is_usual else [name for name in map(_meant, words) if name is not None]
        if similar:
            meant[split] = similar[0]
    return meant


def _meant(word: str) -> str | None:
    for name, split in SPLIT_NAMES.items():
        if sorted(word) == sorted(name) or SequenceMatcher(None, word, name).ratio() >= SIMILAR:
            return split
    return None
