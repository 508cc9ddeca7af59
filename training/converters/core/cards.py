"""The card of a converted corpus: what it is, how it was made, what was repaired, and how to read it."""

import re
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import DatasetCard, DatasetCardData

from ...hub.card_metadata import check_card


TEMPLATE = Path(__file__).resolve().parents[3] / "hub_cards/templates/dataset_card.md"
TAGS = ["emotion-recognition", "sentiment-analysis", "multimodal", "egmf"]


def write_card(
    path: Path,
    name: str,
    card: dict[str, Any],
    columns: datasets.Features,
    table: dict[str, Any],
    manifests: list[str],
) -> None:
    """Write README.md with checked metadata, from which `datasets.load_dataset` reads the splits.

    Args:
        path: the file.
        name: of the corpus.
        card: `language` (a list of codes), `task_categories`, and `text`, what is special about this release.
        columns: the typed columns.
        table: from `ConversionReport.to_dict`.
        manifests: names of the files under `splits/`.

    Raises:
        ValueError: the metadata would be refused by the Hub.
    """
    splits = [split for split, counts in table["rows"].items() if counts["kept"]]
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    metadata = DatasetCardData(
        pretty_name=name,
        language=card["language"],
        license="other",
        task_categories=card["task_categories"],
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": files}],
    )
    changes = [
        (kind, reason, entry["count"])
        for kind in ("repaired", "dropped", "noted")
        for reason, entry in table[kind].items()
    ]
    found = DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=name,
        text=card["text"],
        table=table,
        changes=changes,
        columns=columns,
        manifests=manifests,
        files=files,
    )
    found.content = re.sub(r"\n{3,}", "\n\n", found.content)
    check_card(str(found), "dataset")
    found.save(path)
