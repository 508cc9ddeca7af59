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
OTHER_NAMES = ("training", "validate", "evaluation", "eval", "devel", "testing")
SIMILAR = 0.8  # as if one letter in five is another


def misspelled_splits(splits: Iterable[str]) -> dict[str, str]:
    """The names with a word that is probably a typo of a usual name -> that name."""
    meant = {}
    for split in splits:
        for word in re.findall(r"[^\W\d_]+", split.casefold()):
            name = _meant(word)
            if name is not None:
                meant[split] = name
    return meant


def _meant(word: str) -> str | None:
    if word in (*SPLIT_NAMES, *OTHER_NAMES):
        return None
    for name in SPLIT_NAMES:
        if sorted(word) == sorted(name) or SequenceMatcher(None, word, name).ratio() >= SIMILAR:
            return name
    return None
