"""Subsets of the modalities: which of text, audio and video a model is evaluated with.

text, audio, video, text+audio, text+video, audio+video, text+audio+video
"""

from collections.abc import Sequence

from ..data.collator import SUBSETS


SUBSET_NAMES = ["+".join(subset) for subset in SUBSETS]
ALL_MODALITIES = SUBSET_NAMES[-1]


def subset_name(subset: Sequence[str]) -> str:
    """`("text", "audio")` -> `text+audio`."""
    return "+".join(subset)


def parse_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """`all`, `every`, or names such as `text+audio` -> subsets in their usual order, each once.

    Args:
        names: `all` is one subset, that of all modalities; `every` is each of the subsets.

    Raises:
        ValueError: a name is unknown.
    """
    known = {"all": SUBSETS[-1:], "every": SUBSETS}
    for subset in SUBSETS:
        known[subset_name(subset)] = (subset,)
    chosen: set[tuple[str, ...]] = set()
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown subset {name!r}; use any of {', '.join(known)}.")
        chosen.update(known[name])
    return [subset for subset in SUBSETS if subset in chosen]
