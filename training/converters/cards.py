"""The card of a converted corpus: what it is, how it was made, what was repaired, and how to read it."""

from pathlib import Path
from typing import Any

import datasets
import yaml


WARNING = """Labels are what raters saw in an expression, not what a person felt. Inferring emotions of people is
restricted by law in some places, among them workplaces and schools in the European Union. The terms of the release
hold for this copy as well: it is not to be published unless they allow it."""


def write_card(
    path: Path,
    name: str,
    card: dict[str, Any],
    columns: datasets.Features,
    table: dict[str, Any],
    manifests: list[str],
) -> None:
    """Write README.md with the metadata that `datasets.load_dataset` reads the splits from.

    Args:
        path: the file.
        name: of the corpus.
        card: `language` (a list of codes), `task_categories`, and `text`, what is special about this release.
        columns: the typed columns.
        table: from `Ledger.to_dict`.
        manifests: names of the files under `splits/`.
    """
    splits = [split for split, counts in table["rows"].items() if counts["kept"]]
    metadata = {
        "pretty_name": name,
        "language": card["language"],
        "license": "other",
        "task_categories": card["task_categories"],
        "tags": ["emotion-recognition", "sentiment-analysis", "multimodal", "egmf"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    rows = "\n".join(
        f"| {split} | {counts['read']} | {counts['kept']} | {counts['repaired']} | {counts['dropped']} |"
        for split, counts in table["rows"].items()
    )
    reasons = [
        f"| {kind} | {reason} | {entry['count']} |"
        for kind in ("repaired", "dropped", "noted")
        for reason, entry in table[kind].items()
    ]
    changes = "\n".join(["| what | why | how many |", "|---|---|---|", *reasons]) if reasons else "Nothing."
    typed = "\n".join(f"| `{column}` | `{kind}` |" for column, kind in columns.items())
    files = ", ".join(f"`splits/{manifest}.json`" for manifest in manifests)
    text = f"""---
{yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False)}---
# {name}

{card["text"]}

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder")
```

## Rows

| split | read | kept | repaired | dropped |
|---|---|---|---|---|
{rows}

Splits as lists of ids: {files}.

## Repaired and dropped

{changes}

`conversion.json` names every row.

## Columns

| column | type |
|---|---|
{typed}

Features are lists of float32 vectors, one a step, without padding. A missing value means that the release has none
that can be used.

## Use

{WARNING}
"""
    path.write_text(text, encoding="utf-8")
