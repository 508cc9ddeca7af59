"""Media in folders named by their labels, without a table: audiofolder and videofolder of `datasets`.

train/joy/a.wav, test/anger/b.mp4 ─► rows with split, label, audio or video; the path is the id
"""

from pathlib import Path

from ..records import in_utf_8
from .csv_tables import Table
from .media_paths import AUDIO_SUFFIXES, VIDEO_SUFFIXES, column_of_file, list_media
from .split_names import SPLIT_NAMES


def read_class_folders(folder: Path) -> Table | None:
    """A table of the media files that lie in folders `[SPLIT/]LABEL/`; None if there are fewer than two labels.

    Args:
        folder: the dataset. Without folders for splits, all rows are of the split `train`, as for `datasets`.
    """
    rows = []
    for path in list_media(folder, AUDIO_SUFFIXES + VIDEO_SUFFIXES):
        relative = Path(path).relative_to(folder.absolute())
        parents = relative.parts[:-1]
        split = SPLIT_NAMES.get(parents[0]) if parents else None
        labels = parents if split is None else parents[1:]
        if len(labels) == 1:
            column = column_of_file(path)
            rows.append(
                {"id": in_utf_8(str(relative)), "split": split or "train", column: str(relative), "label": labels[0]}
            )
    if len({row["label"] for row in rows}) < 2:
        return None
    columns = ["id", "split", "audio", "video", "label"]
    return Table(folder, columns, rows, list(range(1, len(rows) + 1)), "file")
