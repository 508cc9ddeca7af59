"""Dataset card of a converted corpus: its description, how it was made, what was repaired, and how to load it."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ...hub.card_metadata import check_card
from ...paths import HUB_CARDS
from .conversion_report import KINDS
from .corpus import Corpus


TEMPLATE = HUB_CARDS / "templates/dataset_card.md"
TAGS = ["emotion-recognition", "sentiment-analysis", "multimodal", "egmf"]


def write_card(path: Path, corpus: Corpus, table: dict[str, Any], manifests: list[str]) -> None:
    """Write README.md with checked metadata, from which `datasets.load_dataset` reads the splits.

    Args:
        path: the file.
        corpus: gives the name, languages, description and columns.
        table: from `ConversionReport.to_dict`.
        manifests: names of the files in `splits/`.

    Raises:
        ValueError: the Hub would refuse the metadata.
    """
    splits = [split for split, counts in table["rows"].items() if counts["kept"]]
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    metadata = DatasetCardData(
        pretty_name=corpus.name,
        language=corpus.languages,
        license="other",
        task_categories=["video-classification"],
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": files}],
    )
    changes = []
    for kind in KINDS:
        for reason, entry in table[kind].items():
            changes.append((kind, reason, entry["count"]))
    card = DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=corpus.name,
        text=corpus.description,
        table=table,
        changes=changes,
        columns=corpus.columns,
        manifests=manifests,
        files=files,
    )
    card.content = re.sub(r"\n{3,}", "\n\n", card.content)
    check_card(str(card), "dataset")
    card.save(path)
