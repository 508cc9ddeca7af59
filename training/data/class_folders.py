"""Media in folders named by their labels, without a table: audiofolder and videofolder of `datasets`.

train/joy/a.wav, test/anger/b.mp4 ─► rows with split, label, audio or video; the path is the id
"""

import logging
from pathlib import Path

from ..records import in_utf_8
from .csv_tables import Table
from .media_paths import AUDIO_SUFFIXES, VIDEO_SUFFIXES, column_of_file, list_media
from .split_names import SPLIT_NAMES
from .text_files import shorten


logger = logging.getLogger(__name__)


def read_class_folders(folder: Path) -> Table | None:
    """A table of the media files that lie in folders `[SPLIT/]LABEL/`; None if there are fewer than two labels.

    Args:
        folder: the dataset. Without folders for splits, all rows are of the split `train`, as for `datasets`. Files
            that lie elsewhere are left out, with a warning.

    Raises:
        ValueError: there are files, but all lie elsewhere.
    """
    rows = []
    elsewhere = []
    for path in list_media(folder, AUDIO_SUFFIXES + VIDEO_SUFFIXES):
        relative = Path(path).relative_to(folder.absolute())
        parents = relative.parts[:-1]
        split = SPLIT_NAMES.get(parents[0].casefold()) if parents else None
        labels = parents if split is None else parents[1:]
        name = in_utf_8(str(relative))
        if len(labels) != 1:
            elsewhere.append(shorten(name))
            continue
        rows.append({"id": name, "split": split or "train", column_of_file(path): str(relative), "label": labels[0]})
    if elsewhere and not rows:
        raise ValueError(
            f"{folder} is not a corpus: it has neither metadata.jsonl nor metadata.csv nor Parquet files, and its "
            f"recordings ({len(elsewhere)}, such as {elsewhere[0]}) are not in folders of their labels, as joy/a.wav "
            "or train/joy/a.wav would be. Move them, or write a table with columns audio or video, answer and split."
        )
    if len({row["label"] for row in rows}) < 2:
        return None
    if elsewhere:
        logger.warning(
            f"{folder}: {len(elsewhere)} of {len(rows) + len(elsewhere)} recordings are left out: they are not in "
            f"folders of their labels, as joy/a.wav or train/joy/a.wav would be; such as {elsewhere[0]}."
        )
    columns = ["id", "split", "audio", "video", "label"]
    return Table(folder, columns, rows, list(range(1, len(rows) + 1)), "file")
