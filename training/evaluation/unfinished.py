"""Predictions of a command that was interrupted, kept beside its output until that is complete.

    .predictions.jsonl.unfinished-0-of-1    what the predictions depend on, then one line per predicted clip

The same command reads them and predicts only the other clips. A clip whose files, text or options have changed is
predicted again, and so is one that could not be read. Several processes keep a file each.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.parquet import StoredMedia
from ..records import checksum_of_array, digest_of_bytes, digest_of_json, real_path
from .prediction_clips import Clip


MODEL_FILES = ("*.safetensors", "*/adapter_*", "config.json", "processor_config.json", "token*.json")
NOT_IN_ANSWERS = ("output", "overwrite", "device", "encoder_cache")  # options that no answer depends on


def identify(value: Any) -> Any:
    """JSON that changes with a clip's input: of a file, its size and time instead of its content."""
    if isinstance(value, (str, Path)) and Path(value).is_file():
        status = Path(value).stat()
        return [str(value), status.st_size, status.st_mtime_ns]
    if isinstance(value, bytes):
        return digest_of_bytes(value)
    if isinstance(value, np.ndarray):
        return checksum_of_array(value)
    if isinstance(value, StoredMedia):
        return value.mark()
    if isinstance(value, dict):
        return {name: identify(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [identify(entry) for entry in value]
    return value if value is None or isinstance(value, str) else repr(value)


def identify_clip(clip: Clip) -> str:
    """A digest of all fields of a clip and of its files."""
    fields = {entry.name: identify(getattr(clip, entry.name)) for entry in dataclasses.fields(clip)}
    return digest_of_json(fields)


def identify_options(options: Any, clips: Sequence[Clip]) -> str:
    """A digest of what all predictions depend on: the options, and the files of a checkpoint on this machine.

    Args:
        options: `PredictionOptions`.
        clips: of all processes; with speaker normalization, each prediction depends on all of them.
    """
    given = {name: repr(value) for name, value in vars(options).items() if name not in NOT_IN_ANSWERS}
    folder = Path(options.model_name_or_path)
    files = [path for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))] if folder.is_dir() else []
    speakers = [identify_clip(clip) for clip in clips] if options.speaker_normalization else None
    return digest_of_json([given, [identify(path) for path in files], speakers])


class UnfinishedPredictions:
    """The file of one process.

    Args:
        output: the output file of the command.
        key: of `identify_options`; a file with another one is begun anew.
        process: number of the process.
        processes: how many there are.
    """

    def __init__(self, output: Path, key: str, process: int = 0, processes: int = 1):
        target = real_path(output)
        self.prefix = f".{target.name}.unfinished-"
        self.path = target.with_name(f"{self.prefix}{process}-of-{processes}")
        self.key = key

    def read(self) -> dict[str, dict[str, Any]]:
        """Digest of a clip -> its prediction. A last line that was cut off is left out."""
        finished: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            return finished
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines[:1] != [self.key]:
            return finished
        for line in lines[1:]:
            try:
                clip, prediction = json.loads(line)
            except ValueError:
                continue
            finished[clip] = prediction
        return finished

    def predict(
        self, clips: Sequence[Clip], predict_all: Callable[[Sequence[Clip]], Iterable[dict[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """The predictions of all clips in their order, of which those that are finished are not made again."""
        finished = self.read()
        names = [identify_clip(clip) for clip in clips]
        others = [clip for clip, name in zip(clips, names, strict=True) if name not in finished]
        if finished:
            print(f"{len(clips) - len(others)} clips were predicted before the interruption; {len(others)} are left.")
        predictions = iter(predict_all(others))
        with self.path.open("a" if finished else "w", encoding="utf-8") as file:
            print("" if finished else self.key, file=file, flush=True)  # ends a line that was cut off
            for name in names:
                prediction = finished.get(name)
                if prediction is None:
                    prediction = next(predictions)
                    if "error" not in prediction:
                        print(json.dumps([name, prediction]), file=file, flush=True)
                yield prediction

    def remove(self) -> None:
        """Remove the files of all processes, because the output is complete."""
        for path in self.path.parent.iterdir():
            if path.name.startswith(self.prefix):
                path.unlink(missing_ok=True)
