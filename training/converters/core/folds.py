"""Speaker-disjoint folds of a corpus whose release has no splits.

    speakers or sessions ─► divide into N groups ─► fold K: group K is test, the next one validation, the others train

Every fold is a split manifest: `fold_K` with validation, and `fold_K_train_test`, where those speakers are trained on.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .conversion_report import ConversionReport


MIN_FOLDS = 3  # test, validation, train
UNKNOWN = "unknown"  # split of what belongs to no speaker, in the report


@dataclass(frozen=True)
class SpeakerFolds:
    """The folds of a corpus.

    Args:
        column: column of the examples that holds their speaker or session.
        groups: for each fold, the speakers or sessions that it tests.
        chosen: number of the fold, from 1, that the corpus's own splits are.
    """

    column: str
    groups: list[list[str]]
    chosen: int = 1

    def split_of(self, fold: int, with_validation: bool = True) -> dict[str, str]:
        """Map each speaker or session to its split in a fold, counted from 1."""
        splits = {}
        for number, group in enumerate(self.groups):
            distance = (number - (fold - 1)) % len(self.groups)
            split = "train"
            if distance == 0:
                split = "test"
            elif distance == 1 and with_validation:
                split = "validation"
            splits |= dict.fromkeys(group, split)
        return splits

    def manifests(self, groups_of: dict[str, str]) -> list[dict[str, Any]]:
        """Split manifests of all folds.

        Args:
            groups_of: id of an example -> its speaker or session.
        """
        manifests = []
        for fold, tested in enumerate(self.groups, 1):
            for suffix, with_validation in (("", True), ("_train_test", False)):
                splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
                split_of = self.split_of(fold, with_validation)
                for example_id, group in groups_of.items():
                    splits[split_of[group]].append(example_id)
                about = f"Fold {fold} of {len(self.groups)} by {self.column}: tested on {', '.join(tested)}."
                splits = {split: ids for split, ids in splits.items() if ids}
                manifests.append({"name": f"fold_{fold}{suffix}", "about": about, "splits": splits})
        return manifests


def add_fold_options(parser: argparse.ArgumentParser, num_folds: int) -> None:
    """Add `--folds` and `--fold` to a converter."""
    parser.add_argument(
        "--folds",
        type=int,
        help=f"number of speaker-disjoint folds; all are written to splits/ (default: {num_folds}, or fewer if there "
        "are fewer speakers)",
    )
    parser.add_argument("--fold", type=int, default=1, help="fold to use as the corpus's default splits (default: 1)")
    parser.set_defaults(default_folds=num_folds)


def make_folds(
    arguments: argparse.Namespace, column: str, found: Iterable[str], corpus: str, report: ConversionReport
) -> SpeakerFolds:
    """Divide the speakers, in the order of their names, into groups of equal size.

    Args:
        arguments: with the options of `add_fold_options`.
        column: `speaker` or `session`.
        found: the speakers or sessions of the release, in any order.
        corpus: its name, for errors.
        report: of the plan; an error names why examples were dropped.

    Raises:
        ValueError: too few speakers, or an option out of range.
    """
    names = sorted(set(found))
    if len(names) < MIN_FOLDS:
        num_dropped, shown = report.dropped_for("")
        advice = f"{num_dropped} examples were dropped ({shown})." if num_dropped else "Download the others."
        raise ValueError(
            f"{arguments.source} has {len(names)} {column}(s) of {corpus} ({', '.join(names)}), but training, "
            f"validation and test need {MIN_FOLDS} different ones. {advice}"
        )
    count = arguments.folds
    if count is None:
        count = min(arguments.default_folds, len(names))
    if not MIN_FOLDS <= count <= len(names):
        raise ValueError(f"--folds is {count}; with {len(names)} {column}s, give {MIN_FOLDS} to {len(names)}.")
    if not 1 <= arguments.fold <= count:
        raise ValueError(f"--fold is {arguments.fold}; give a number from 1 to {count}.")
    return SpeakerFolds(column, divide(names, count), arguments.fold)


def divide(names: Sequence[str], count: int) -> list[list[str]]:
    """Consecutive groups whose sizes differ by at most one."""
    size, larger = divmod(len(names), count)
    groups = []
    start = 0
    for number in range(count):
        end = start + size + (number < larger)
        groups.append(list(names[start:end]))
        start = end
    return groups


def split_examples(
    planned: Iterable[tuple[str | None, dict[str, Any] | None]],
    folds: SpeakerFolds,
    report: ConversionReport,
) -> dict[str, list[dict[str, Any]]]:
    """The examples by split of the chosen fold; counts in the report how many were read.

    Args:
        planned: speaker or session, None if unknown, and the example, None if it was dropped.
        folds: of the corpus.
        report: of the plan.
    """
    split_of = folds.split_of(folds.chosen)
    examples: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for group, example in planned:
        split = split_of.get(group, UNKNOWN)
        report.read[split] += 1
        if example is not None:
            examples[split].append(example)
    return examples
