"""Examples of a corpus's tables: ids, answers and paths of media, with all problems in one error.

Table ─► make_examples ─► of one split ─► check_answers, resolve_media ─► warn_of_unnamed
"""

import difflib
import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from processing_egmf.prompts_egmf import format_turn, read_context

from .csv_tables import Table, compose, parse_number, tidy_name
from .media_paths import AUDIO_SUFFIXES, FEATURES_SUFFIXES, VIDEO_SUFFIXES, MediaFolder, list_media
from .split_names import SPLIT_NAMES, misspelled_splits
from .tables import COLUMNS, MEDIA, SPEAKER
from .text_files import MAX_SHOWN, shorten


EXTRA = "extra"  # the field for columns that training does not read, so that none overwrites a field of ours
NAMES = ("split", "task")
TIDIED = (*NAMES, "answer")
MAX_LISTED = 5  # examples in an error
MAX_KINDS = 20  # errors in a message
MAX_ID_LENGTH = 500
MAX_SCORE = 1e9
MISSING_VALUES = ("nan", "null", "<na>", "#n/a")  # as pandas, databases and Excel write them
MISSING_CAPITALS = ("NA", "N/A")  # as R writes them; "Na" is a word of some languages
THOUSANDS = re.compile(r"[-+]?\d{1,3},\d{3}")  # 1,234 is 1.234 or 1234

logger = logging.getLogger(__name__)


def make_examples(table: Table, first_number: int = 0) -> list[dict[str, Any]]:
    """The rows of a table as examples.

    Args:
        table: from `read_tables`.
        first_number: number of rows in the corpus's earlier tables; a row without an id is named by its number.

    Returns:
        Examples with the columns that training reads, and `EXTRA`.

    Raises:
        ValueError: an id, split or task is not text or a number.
    """
    examples = []
    for index, row in enumerate(table.rows):
        example = split_columns(row)
        place = table.place(index)
        example["id"] = _read_id(row.get("id", first_number + index), place)
        example |= {name: _read_name(name, example[name], place) for name in NAMES if example.get(name) is not None}
        examples.append(example)
    return examples


def split_columns(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that training reads, and the others under `EXTRA`. Names are tidied, so that each is one however it
    was typed."""
    example = {name: value for name, value in row.items() if name in COLUMNS}
    for name in TIDIED:
        if isinstance(example.get(name), str):
            example[name] = tidy_name(example[name])
    example[EXTRA] = {}
    for name, value in row.items():
        if name not in COLUMNS:
            tidy = tidy_name if name == SPEAKER else compose
            example[EXTRA][name] = tidy(value) if isinstance(value, str) else value
    return example


def speaker_of(example: dict[str, Any]) -> str | None:
    """The speaker of an example as text; None without one."""
    speaker = (example.get(EXTRA) or {}).get(SPEAKER)
    return None if speaker is None else tidy_name(str(speaker)) or None


def _read_name(column: str, value: Any, place: str) -> str:
    """A value that names something, as text: other values would match nothing, and their rows be left out."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{place}: {column} is {shorten(value)}; it must be text or a number.")
    # Of a column with empty cells, pandas makes whole numbers floats.
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole and column in NAMES else value)


def _read_id(name: Any, place: str) -> str:
    name = _read_name("id", name, place)
    if len(name) > MAX_ID_LENGTH:
        raise ValueError(f"{place}: id {shorten(name)} has more than {MAX_ID_LENGTH} characters.")
    return name


def check_examples(examples: Sequence[dict[str, Any]], folder: Path) -> None:
    """Check ids and splits, and warn of transcripts that are missing.

    Raises:
        ValueError: as for `check_ids` and `check_splits`.
    """
    check_ids(examples, folder)
    check_splits(examples, folder)
    warn_of_missing_texts(examples, folder)


def check_ids(examples: Sequence[dict[str, Any]], folder: Path) -> None:
    """Check that no two examples have the same id.

    Raises:
        ValueError: two of them do.
    """
    numbers: dict[str, int] = {}
    for number, example in enumerate(examples):
        name = example["id"]
        if name in numbers:
            raise ValueError(f"{folder}: rows {numbers[name]} and {number} have the same id {name!r}.")
        numbers[name] = number


def check_words(example: dict[str, Any], name: str) -> None:
    """Check the types of an example's transcript and earlier turns.

    Raises:
        ValueError: the transcript is not text, or the turns are not those that the processor takes.
    """
    if not isinstance(example.get("text") or "", str):
        raise ValueError(f"{name}: text is {shorten(example['text'])}; it must be a string. Quote it.")
    try:
        for turn in read_context(example.get("context")):
            format_turn(turn)
    except TypeError as error:
        raise ValueError(f'{name}: {error} Give them oldest first, such as [["Ann", "Hi."], "Oh."].') from error


def check_splits(examples: Sequence[dict[str, Any]], folder: Path) -> None:
    """Check that no two splits differ only in case, and warn of examples without a split among others with one, and of
    a split that is probably a typo of another one.

    Raises:
        ValueError: two splits do; the examples of one of them would not be used.
    """
    splits = sorted({str(example["split"]) for example in examples if example.get("split") is not None})
    alike = [name for name in splits if sum(name.casefold() == other.casefold() for other in splits) > 1]
    if alike:
        raise ValueError(f"{folder}: the splits {', '.join(alike)} differ only in case. Write them alike.")
    usual = {SPLIT_NAMES.get(name.casefold()) for name in splits}
    for split, meant in misspelled_splits(splits).items():
        if meant in usual:
            logger.warning(
                f"{folder}: the split {split!r} may be a typo of {meant!r}; its examples are not used with those. "
                f"The splits are {', '.join(splits)}."
            )
    without = [example["id"] for example in examples if example.get("split") is None]
    if splits and without:
        logger.warning(
            f"{folder}: {len(without)} of {len(examples)} examples have no split, such as {without[0]!r}, and are in "
            f"none of {', '.join(splits)}. Fill it in to use them."
        )


def examples_of_split(examples: Sequence[dict[str, Any]], split: str, folder: Path) -> list[dict[str, Any]]:
    """The examples of a split.

    Raises:
        ValueError: there are none.
    """
    chosen = [example for example in examples if example.get("split") == tidy_name(split)]
    if not chosen:
        splits = sorted({str(example.get("split")) for example in examples})
        raise ValueError(
            f"{folder} has no examples of split {split!r}. Its splits are {', '.join(splits)}: give --split."
        )
    return chosen


def is_missing_value(cell: Any) -> bool:
    """Whether a cell is text, but only the name of a missing value."""
    text = cell.strip() if isinstance(cell, str) else ""
    return text in MISSING_CAPITALS or text.casefold() in MISSING_VALUES


def warn_of_missing_texts(examples: Sequence[dict[str, Any]], folder: Path) -> None:
    """Warn of transcripts that are only the name of a missing value, as programs write it."""
    suspects = [example for example in examples if is_missing_value(example.get("text"))]
    if suspects:
        logger.warning(
            f"{folder}: {len(suspects)} of {len(examples)} transcripts are {suspects[0]['text']!r} or the like, such "
            f"as that of {suspects[0]['id']!r}, and are read as words. Leave these cells empty if they are missing."
        )


def describe_assumed_task(tasks: dict[str, EGMFTask], named: Iterable[Any]) -> str:
    """Which task examples without one have, and how to give them another; empty if any names its task, or if there is
    no other task than the built-in ones.

    Args:
        tasks: the built-in ones, and those of the tasks file.
        named: the task of every example; None for examples without one.
    """
    default = next(iter(tasks))
    own = [name for name, task in tasks.items() if BUILT_IN_TASKS.get(name) != task]
    if not own or default in own or any(named):
        return ""
    return (
        f"No example has a `task`, so the task is {default!r}, the first of the built-in ones; --tasks_file defines "
        f"{', '.join(own)}. Add a column `task` with {' or '.join(own)}."
    )


def suggest(name: Any, known: Iterable[str]) -> str:
    """` Did you mean 'mood'?`, or an empty string if no known name is similar."""
    similar = difflib.get_close_matches(str(name)[:MAX_SHOWN], list(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""


def label_text(answer: Any) -> Any:
    """A label that is a whole number as text: `2` is "2", and so is `2.0`, as pandas writes it next to empty cells.
    Anything else is unchanged."""
    is_whole = isinstance(answer, float) and answer.is_integer()
    is_number = isinstance(answer, int) and not isinstance(answer, bool) and abs(answer) <= MAX_SCORE
    return str(int(answer)) if is_whole or is_number else answer


def parse_answer(answer: Any, task: EGMFTask, name: str) -> Any:
    """Convert a score to a number, and a label to text; in a CSV file a score is a string, possibly with a decimal
    comma.

    Raises:
        ValueError: not a label of the task, or not a number that can be read in only one way.
    """
    if task.kind == "classification":
        answer = label_text(answer)
    is_label = task.kind == "classification" and isinstance(answer, str)
    if is_label and len(answer) <= MAX_SHOWN:
        # Tasks of earlier checkpoints may have labels in another form than the examples.
        same = [label for label in task.labels if tidy_name(label) == tidy_name(answer)]
        return same[0] if same else answer
    if task.kind == "classification":
        known = ", ".join(task.labels)
        raise ValueError(f"{name}: unknown label {shorten(answer)} for task {task.name!r}. Known labels: {known}.")
    if isinstance(answer, Decimal):  # as databases store it
        answer = float(answer)
    if isinstance(answer, int) and abs(answer) > MAX_SCORE:
        raise ValueError(f"{name}: score {shorten(answer)} is outside the range of task {task.name!r}.")
    if not isinstance(answer, str):
        return answer
    number = parse_number(answer)
    if number is None:
        raise ValueError(f"{name}: {shorten(answer)} is not a number, and task {task.name!r} needs a number.")
    if THOUSANDS.fullmatch(answer.strip()) and task.low <= 1000 * number <= task.high:
        raise ValueError(f"{name}: {answer!r} may be {number:g} or {1000 * number:g}. Write it with a decimal point.")
    return number


def check_answers(examples: Sequence[dict[str, Any]], folder: Path, places: dict[str, str]) -> None:
    """Check that every example has an answer.

    Args:
        examples: of the splits in use.
        folder: the corpus, for the message.
        places: id -> file and line, for the message.

    Raises:
        ValueError: some have none; the message lists the first and counts all.
    """
    described = []
    for example in examples:
        if example.get("answer") in (None, ""):
            described.append(f"example {example['id']!r} has no `answer`{_where(example, places)}")
    if described:
        is_blind = len(described) == len(examples)
        hint = " A split without any is predicted by egmf predict --split." if is_blind else ""
        raise ValueError(f"{folder}: {list_first(described)}. Fill it in, or leave out the rows.{hint}")


def leave_out_blind(
    examples: list[dict[str, Any]], folder: Path, needed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The examples of the splits in which some have an answer; unchanged if none has one. Test splits of shared tasks
    have none.

    Raises:
        ValueError: a split that is needed with answers has none.
    """
    with_answers = {example.get("split") for example in examples if example.get("answer") not in (None, "")}
    kept = [example for example in examples if example.get("split") in with_answers]
    if not kept or len(kept) == len(examples):
        return examples
    blind = sorted({str(example.get("split")) for example in examples} - set(map(str, with_answers)))
    for split in map(tidy_name, needed):
        if split in blind:
            raise ValueError(
                f"{folder}: no example of the split {split!r} has an `answer`, and training and its evaluation need "
                "them. Fill them in, or give another --train_split or --eval_split. To train without an evaluation, "
                "give --eval_strategy no --eval_split train."
            )
    logger.info(
        f"{folder}: {len(examples) - len(kept)} examples without an `answer` are left out, all of split "
        f"{', '.join(blind)}. egmf predict --split predicts them."
    )
    return kept


def resolve_media(
    examples: Sequence[dict[str, Any]], folder: Path, places: dict[str, str], converted: bool = False
) -> None:
    """Make the paths of media absolute.

    Args:
        examples: of the splits in use.
        folder: the corpus; paths are relative to it.
        places: id -> file and line, for the message.
        converted: whether a converter wrote the paths, for the message.

    Raises:
        ValueError: files are missing, or a value is not a path; the message lists the first and counts all.
    """
    media = MediaFolder(folder)
    missing = []
    for example in examples:
        for column in MEDIA:
            value = example.get(column)
            if isinstance(value, bool | int | float):
                where = _where(example, places)
                raise ValueError(
                    f"{folder}: example {example['id']!r}{where}: {column} is {value!r}; give the path of a file."
                )
            if not isinstance(value, str):
                continue
            path = media.find(value)
            if path is None:
                missing.append((example, column, value))
            else:
                example[column] = path
    if missing:
        described = []
        for number, (example, column, value) in enumerate(missing):
            reason = media.explain(value) if number < MAX_LISTED else ""
            name = f"example {example['id']!r}: {column} {shorten(value)} is not a file"
            described.append(f"{name}{reason}{_where(example, places)}")
        advice = _where_clips_were(folder, missing[0][2]) if converted else "Give paths relative to the folder."
        raise ValueError(f"{folder}: {list_first(described)}. {advice}")


def _where_clips_were(folder: Path, path: str) -> str:
    place = os.path.normpath(os.path.dirname(path))
    return (
        f"When the corpus was converted, the clips were in {os.path.relpath(place, folder.absolute())} seen from this "
        f"folder, which is {place} now. Move them, or this folder, back, or convert again: `--media embed` keeps the "
        "clips inside."
    )


def _where(example: dict[str, Any], places: dict[str, str]) -> str:
    place = places.get(example["id"])
    return "" if place is None else f" ({place})"


def list_first(described: Sequence[str]) -> str:
    """The first few problems, and how many more there are."""
    more = len(described) - MAX_LISTED
    listed = "; ".join(described[:MAX_LISTED])
    return listed if more <= 0 else f"{listed}; and {more} more, {len(described)} in all"


def explain_labels(errors: Sequence[tuple[str, str]]) -> str:
    """How to use labels that the task does not have; empty if none of the errors, as below, is about labels."""
    if not any("unknown label" in message for _, message in errors):
        return ""
    return " Rename labels with --label_map OLD=NEW ..., or train with a task that has them (--tasks_file)."


def describe_errors(errors: Sequence[tuple[str, str]]) -> str:
    """All errors in one message: each with the number of examples that have it, and the first of them.

    Args:
        errors: id and message of each example, which begins with its name.
    """
    if len(errors) == 1:
        return errors[0][1]
    ids_of: dict[str, list[str]] = {}
    for name, message in errors:
        ids_of.setdefault(message.removeprefix(f"example {name!r}: "), []).append(name)
    parts = []
    for message, ids in list(ids_of.items())[:MAX_KINDS]:
        shown = ", ".join(map(repr, ids[:MAX_LISTED]))
        more = ", ..." if len(ids) > MAX_LISTED else ""
        noun = "example" if len(ids) == 1 else f"{len(ids)} examples,"
        parts.append(f"{noun} {shown}{more}: {message}")
    if len(ids_of) > MAX_KINDS:
        parts.append(f"and {len(ids_of) - MAX_KINDS} more kinds of errors")
    return f"{len(errors)} examples cannot be used. " + " ".join(parts)


def warn_of_unnamed(examples: Iterable[dict[str, Any]], folder: Path) -> None:
    """Warn about the media files in a folder that no example names, with their number."""
    named = set()
    columns = set()
    for example in examples:
        for column in MEDIA:
            if isinstance(example.get(column), str):
                named.add(os.path.normpath(example[column]))
                columns.add(column)
    suffixes = AUDIO_SUFFIXES + VIDEO_SUFFIXES
    if any(column.endswith("_features") for column in columns):
        suffixes += FEATURES_SUFFIXES
    left = [path for path in list_media(folder, suffixes) if path not in named]
    if left:
        shown = ", ".join(shorten(path.removeprefix(f"{folder.absolute()}/")) for path in left[:MAX_LISTED])
        more = ", ..." if len(left) > MAX_LISTED else ""
        logger.warning(f"{folder}: {len(left)} media files are not used, because no row names them: {shown}{more}")
