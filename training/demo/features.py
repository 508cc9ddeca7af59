"""A demo corpus with feature vectors instead of clips: the outputs of a trained demo's encoders, one per modality.

    python -m training.demo.features runs/demo data/demo-english data/demo-english-features

    clip ─► audio encoder, video encoder of the run ─► one vector each ─► ID-audio.npy, ID-video.npy

The experiments train on them: nothing is decoded and no encoder trained, so that a run takes a fraction of the time.
The run must have been trained on another corpus. Its encoders have memorized their own training clips, and a model
trained on such vectors would trust them too much.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from processing_egmf import EGMFProcessor

from ..cli import CommandParser, command_errors
from ..data.dataset import EGMFDataset, load_examples
from ..model.builder import load
from ..records import write_text


BATCH_SIZE = 16
MODALITIES = ("audio", "video")


@torch.no_grad()
def encode_clips(
    encoder: torch.nn.Module, processor: EGMFProcessor, samples: Sequence[dict[str, Any]]
) -> Iterator[dict[str, np.ndarray]]:
    """Modality -> vector (1, H) of each sample.

    Args:
        encoder: the audio-visual encoder of a model, in evaluation mode.
        processor: the model's.
        samples: of an `EGMFDataset`, each with audio and video.
    """
    batch = processor.collate(samples)
    enabled = torch.ones(len(samples), dtype=torch.bool)
    tokens = {}
    for name in MODALITIES:
        values = batch[f"{name}_values"]
        mask = batch[f"{name}_mask"]
        tokens[name], _ = encoder.encode_modality(name, values, mask, enabled)  # (B, H)
    for index in range(len(samples)):
        yield {name: tokens[name][index : index + 1].numpy() for name in MODALITIES}


def write_features(run: Path, corpus: Path, folder: Path, progress: bool = True) -> Path:
    """Write the corpus with features instead of clips, whole or not at all. Returns its folder.

    Args:
        run: a trained demo, whose model takes waveforms and frames.
        corpus: folder with `metadata.jsonl`, whose clips have audio and video.
        folder: to write.

    Raises:
        ValueError: the corpus is not one, or a clip lacks audio or video.
        FileExistsError: the folder already exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already exists. Remove it, or give another folder.")
    examples = load_examples(corpus)
    model, processor = load(run)
    encoder = model.egmf.audio_visual_encoder.eval()
    dataset = EGMFDataset(examples, processor)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    partial.mkdir(parents=True)
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for start in tqdm(range(0, len(dataset), BATCH_SIZE), desc="batches", disable=not progress):
        samples = [dataset[index] for index in range(start, min(start + BATCH_SIZE, len(dataset)))]
        for sample in samples:
            if not set(MODALITIES) <= set(sample["modalities"]):
                raise ValueError(f"{corpus}: the clip of {sample['id']} lacks audio or video, so it has no features.")
        for sample, vectors in zip(samples, encode_clips(encoder, processor, samples), strict=True):
            row = rows[sample["id"]]
            row.pop("video", None)
            row.pop("audio", None)
            for name, vector in vectors.items():
                path = f"{sample['id']}-{name}.npy"
                np.save(partial / path, vector)
                row[f"{name}_features"] = path
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    write_text(partial / "metadata.jsonl", text)
    os.replace(partial, folder)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("run", type=Path, help="trained demo whose encoders are used")
        parser.add_argument("corpus", type=Path, help="demo corpus that it was not trained on")
        parser.add_argument("folder", type=Path, help="folder to write")
        arguments = parser.parse_args(argv)
        print(f"corpus: {write_features(arguments.run, arguments.corpus, arguments.folder)}")


if __name__ == "__main__":
    main()
