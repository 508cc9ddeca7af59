"""The README of a built demo corpus: the template `corpus_card.md`, filled in with the generator's figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ceilings import SUBSETS
from .phrases import EMOTIONS
from .plan import NOISE_STD, RELIABILITIES


TEMPLATE = Path(__file__).with_name("corpus_card.md")
LANGUAGES_TEMPLATE = Path(__file__).with_name("corpus_card_languages.md")


def render_corpus_card(
    counts: dict[str, int], ceilings: dict[str, Any], languages: Sequence[str] | None = None
) -> str:
    """Fill in the template.

    Args:
        counts: number of clips in each split.
        ceilings: the content of `ceilings.json`.
        languages: of a corpus of the emotion task alone; None for the usual corpus.
    """
    template = TEMPLATE if languages is None else LANGUAGES_TEMPLATE
    return template.read_text(encoding="utf-8").format(
        **counts,
        languages=", ".join(languages or ()),
        reliability=_reliability_rows(),
        table=_ceiling_rows(ceilings, ("emotion", "sentiment") if languages is None else ("emotion",)),
        audio_std=NOISE_STD["audio"],
        video_std=NOISE_STD["video"],
        chance=_accuracy(ceilings["emotion"]["chance"]),
        prior=_error(ceilings["sentiment"]["prior"]),
    )


def _reliability_rows() -> str:
    rows = []
    for index, emotion in enumerate(EMOTIONS):
        cells = [f"{reliability[index]:.2f}" for reliability in RELIABILITIES.values()]
        rows.append(f"| {emotion} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _ceiling_rows(ceilings: dict[str, Any], tasks: Sequence[str]) -> str:
    formats = {"emotion": _accuracy, "sentiment": _error}
    rows = []
    for subset in SUBSETS:
        cells = [formats[task](ceilings[task][subset]) for task in tasks]
        rows.append(f"| {subset} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _accuracy(share: float) -> str:
    return f"{100 * share:.1f}%"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
