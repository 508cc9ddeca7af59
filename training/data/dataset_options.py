"""How a dataset is read: its configuration and revision on the Hub, the names of its columns, and its labels.

--text_column transcript --label_column label --label_map happy=joy ─► DatasetOptions ─► rename_columns, map_labels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .csv_tables import Table, column_name, tidy_name
from .examples import label_text
from .tables import KNOWN_COLUMNS
from .text_files import shorten


# Option -> the column that it names.
COLUMN_OPTIONS = {
    "text_column": "text",
    "audio_column": "audio",
    "video_column": "video",
    "label_column": "answer",
    "id_column": "id",
    "split_column": "split",
    "task_column": "task",
    "context_column": "context",
}
INPUTS = ("text", "audio", "video", "context")  # that the model reads


@dataclass(frozen=True)
class DatasetOptions:
    """Options of all commands that read a dataset.

    Args:
        config: configuration of a dataset on the Hub; None if it has only one.
        revision: commit, branch or tag on the Hub; None for its default branch.
        columns: our column -> its name in the dataset, for those with other names.
        label_map: label in the dataset -> label of the task.
        streaming: read a dataset on the Hub while it is used, without downloading all of it first.
    """

    config: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    streaming: bool = False

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "DatasetOptions":
        """From the arguments of a command, by their names.

        Raises:
            ValueError: an entry of `label_map` is not OLD=NEW, or two name the same label.
        """
        named = {column: arguments[option] for option, column in COLUMN_OPTIONS.items()}
        return cls(
            config=arguments["dataset_config"],
            revision=arguments["dataset_revision"],
            columns={column: column_name(name) for column, name in named.items() if name is not None},
            label_map=_read_label_map(arguments["label_map"] or ()),
            streaming=arguments["streaming"],
        )

    def command_line(self) -> list[str]:
        """As arguments of a command."""
        arguments = ["--streaming"] if self.streaming else []
        named = {"--dataset_config": self.config, "--dataset_revision": self.revision}
        named |= {f"--{option}": self.columns.get(column) for option, column in COLUMN_OPTIONS.items()}
        for option, value in named.items():
            if value is not None:
                arguments += [option, value]
        if self.label_map:
            arguments += ["--label_map", *[f"{old}={new}" for old, new in self.label_map.items()]]
        return arguments

    def describe(self) -> dict[str, Any]:
        """Those that are given, for a results file."""
        described = {
            "dataset_config": self.config,
            "dataset_revision": self.revision,
            "columns": dict(self.columns),
            "label_map": dict(self.label_map),
        }
        return {name: value for name, value in described.items() if value}


AS_IS = DatasetOptions()


def _read_label_map(entries: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for entry in entries:
        old, separator, new = entry.partition("=")
        if not separator or not old or not new:
            raise ValueError(f"--label_map {entry} is not OLD=NEW, such as happiness=joy.")
        old = tidy_name(old)
        if old in labels:
            raise ValueError(f"--label_map names the label {old!r} twice.")
        labels[old] = tidy_name(new)
    return labels


def rename_tables(tables: Sequence[Table], columns: Mapping[str, str]) -> list[Table]:
    """As `rename_columns` for the tables of a dataset's splits, some of which may have no answers.

    Raises:
        ValueError: a table lacks another column, or all lack that of the answers.
    """
    name = columns.get("answer")
    others = {column: old for column, old in columns.items() if column != "answer"}
    has_answers = name is not None and any(_find_column(name, table) in table.columns for table in tables)
    renamed = []
    for table in tables:
        is_blind = has_answers and not {"answer", _find_column(name, table)} & set(table.columns)
        renamed.append(rename_columns(table, others if is_blind else columns))
    return renamed


def rename_columns(table: Table, columns: Mapping[str, str]) -> Table:
    """Give the columns that the options name their names in EGMF. A column may be named by several options, such as
    paths that are also the ids.

    Args:
        table: of the dataset.
        columns: our column -> its name in the table.

    Raises:
        ValueError: the table has no such column, or the answers are an input as well.
    """
    options = {column: option for option, column in COLUMN_OPTIONS.items()}
    missing = []
    targets: dict[str, list[str]] = {}  # column of the table -> those that it is in EGMF
    for column, name in columns.items():
        found = _find_column(name, table)
        if found not in table.columns:
            missing.append(f"--{options[column]} {shorten(name)}")
        targets.setdefault(found, []).append(column)
    if missing:
        raise ValueError(
            f"{table.path} has no such column: {', '.join(missing)}. Its columns are {', '.join(table.columns)}."
        )
    for name, ours in targets.items():
        inputs = [column for column in ours if column in INPUTS]
        if "answer" in ours and inputs:
            raise ValueError(
                f"--{options['answer']} and --{options[inputs[0]]} both name the column {shorten(name)}: the model "
                "would read the answers. Name another one."
            )
    names: dict[str, list[str]] = {}
    for name in table.columns:
        # A column of ours that another one replaces is not read.
        names[name] = targets.get(name, [] if name in columns else [name])
    rows = []
    for row in table.rows:
        renamed = {}
        for name, value in row.items():
            renamed.update(dict.fromkeys(names.get(name, [name]), value))
        rows.append(renamed)
    return table._replace(columns=[column for ours in names.values() for column in ours], rows=rows)


def _find_column(name: str, table: Table) -> str:
    """The name under which a table was read: `Text`, as its file may write it, is there as `text`."""
    return name if name in table.columns else column_name(name, KNOWN_COLUMNS)


def map_labels(examples: Sequence[dict[str, Any]], label_map: Mapping[str, str]) -> None:
    """Replace the labels of examples.

    Raises:
        ValueError: the map names a label that no example has.
    """
    labels = {str(label_text(example["answer"])) for example in examples if example.get("answer") is not None}
    unknown = [label for label in label_map if label not in labels]
    if unknown:
        raise ValueError(
            f"--label_map names {', '.join(map(shorten, unknown))}, which no example has. "
            f"The labels are {shorten(sorted(labels))}."
        )
    for example in examples:
        rename_label(example, label_map)


def rename_label(example: dict[str, Any], label_map: Mapping[str, str]) -> None:
    """Replace the label of an example, if the map names it."""
    answer = example.get("answer")
    example["answer"] = label_map.get(str(label_text(answer)), answer)
