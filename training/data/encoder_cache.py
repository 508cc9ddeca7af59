"""Frozen encoder_cache are paid for once: what a pretrained encoder gives for a clip is computed once and kept on disk.

    clip's bytes, its window ─┐
    how it is prepared ───────┼─► key ─► DIR/audio-ENCODER/KEY[:2]/KEY.safetensors: states (T, encoder width)
    encoder's weights ────────┘

The key says everything that the states depend on, so that nothing old is ever used: another encoder, revision, clip
or setting makes another key. Files are written whole under a name of their own and then renamed, so that runs may
share a folder at the same time. Each clip goes through the encoder alone, unpadded: an encoder whose answer depends on
its neighbors' padding (Wav2Vec2 with group norm) gives here what it gives for a single clip. Only steps that its mask
calls real are kept. A clip without the modality has a file of no steps.
"""

# T steps of the encoder's output

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.encoders_egmf import EGMFPretrainedStem
from processing_egmf import EGMFProcessor

from .parquet import StoredMedia


if TYPE_CHECKING:
    from .dataset import EGMFDataset

# What the processor does to a clip before an encoder sees it.
PREPARATION = {
    "audio": ("sampling_rate", "audio_frontend", "max_clip_seconds"),
    "video": ("num_frames", "frame_height", "frame_width", "video_frontend", "max_clip_seconds"),
}


def _digest(data: torch.Tensor) -> str:
    return hashlib.blake2b(data.detach().cpu().contiguous().view(torch.uint8).numpy(), digest_size=16).hexdigest()


class EncoderCache:
    """What the frozen pretrained encoders of a model give for clips; the model is set to take these from now on.

    Args:
        folder: shared by any number of runs and encoders.
        model: its frozen encoders are looked at; those that are trained, and our own, are left alone.
        processor: that of the model.

    Raises:
        ValueError: the model has no frozen pretrained encoder.
    """

    def __init__(self, folder: str | Path, model: EGMFForConditionalGeneration, processor: EGMFProcessor):
        encoder = model.egmf.audio_visual_encoder
        parts = {"audio": encoder.audio, "video": encoder.video}
        found = {name: part.stem for name, part in parts.items() if part is not None}
        self.stems: dict[str, EGMFPretrainedStem] = {
            name: stem for name, stem in found.items() if isinstance(stem, EGMFPretrainedStem) and not stem.trainable
        }
        if not self.stems:
            raise ValueError(
                "`encoder_cache` keeps what a frozen pretrained encoder gives, and this model has none. Give --audio "
                "or --video the id of one, without --train_backbones, or leave --encoder_cache out."
            )
        self.root, self.processor, self.folders, self.settings = Path(folder), processor, {}, {}
        for name, stem in self.stems.items():
            parts = {key: _digest(value) for key, value in sorted(stem.backbone.state_dict().items())}
            told = json.dumps([parts, stem.backbone.config.to_dict()], default=str, sort_keys=True)
            self.folders[name] = self.root / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
            self.settings[name] = {field: getattr(processor, field) for field in PREPARATION[name]}
            stem.precomputed = True
        self._content: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A data loader's worker reads files; it needs no encoder."""
        return {**vars(self), "stems": dict.fromkeys(self.stems)}

    def _content_of(self, clip: str | StoredMedia) -> str:
        """A hash over the bytes of a clip."""
        if isinstance(clip, StoredMedia):
            return hashlib.sha256(clip.read()).hexdigest()
        if clip not in self._content:
            with open(clip, "rb") as file:
                self._content[clip] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._content[clip]

    def keys(self, row: dict[str, Any]) -> dict[str, str]:
        """Modality -> key of a row's states, for those encoders that have something to look at."""
        found = {}
        for name in self.stems:
            clip = row.get(name) if row.get(name) is not None or name == "video" else row.get("video")
            if clip is not None:
                parts = [self._content_of(clip), row.get("window"), self.settings[name]]
                told = json.dumps(parts, default=str, sort_keys=True)
                found[name] = hashlib.sha256(told.encode()).hexdigest()
        return found

    def path(self, modality: str, key: str) -> Path:
        return self.folders[modality] / key[:2] / f"{key}.safetensors"

    def read(self, modality: str, key: str) -> torch.Tensor:
        """States (T, encoder width) as `fill` has left them."""
        with safe_open(self.path(modality, key), "pt") as file:
            return file.get_tensor("states")

    def is_whole(self, modality: str, key: str) -> bool:
        """Whether the states are there, and are those that were written."""
        try:
            with safe_open(self.path(modality, key), "pt") as file:
                return (file.metadata() or {}).get("digest") == _digest(file.get_tensor("states"))
        except (OSError, SafetensorError):
            return False

    def _write(self, modality: str, key: str, states: torch.Tensor) -> None:
        path = self.path(modality, key)
        partial = path.with_name(f".{key}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"states": states}, partial, {"digest": _digest(states)})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            place = next(parent for parent in path.parents if parent.is_dir())
            free = shutil.disk_usage(place).free / 2**20
            raise OSError(
                f"{path} could not be written ({error}); {free:,.0f} MiB are free there. Make room or give another "
                "--encoder_cache, and start the same line again: what is stored is used."
            ) from error

    @torch.no_grad()
    def compute(self, modality: str, arrays: dict[str, Any], device: torch.device | str) -> torch.Tensor:
        """Decoded media of one clip -> states (T, encoder width) of its real steps, on the CPU."""
        stem = self.stems[modality]
        encoded = self.processor.encode_media(arrays)
        if f"{modality}_values" not in encoded:
            return torch.zeros(0, stem.projection.in_features)
        values, mask = (encoded[f"{modality}_{part}"][None].to(device) for part in ("values", "mask"))
        states, mask = stem.run_backbone(values, mask)
        return states[mask].cpu().contiguous()

    def fill(
        self, datasets: Sequence["EGMFDataset"], device: torch.device | str, share: tuple[int, int] = (0, 1)
    ) -> dict[str, int]:
        """Compute what is missing or damaged, with the encoders in evaluation mode on the device.

        Args:
            share: which of how many processes this is; each computes its part.

        Returns:
            `{"stored", "computed"}`, how many of this process's part.
        """
        wanted = {
            (modality, key): (dataset, row)
            for dataset in datasets
            for row in dataset.rows
            for modality, key in row["states"].items()
        }
        counts, (index, count) = {"stored": 0, "computed": 0}, share
        for stem in self.stems.values():
            stem.backbone.to(device).eval()
        for modality, key in tqdm(list(wanted)[index::count], desc="frozen encoders", unit="clip", disable=index > 0):
            whole = self.is_whole(modality, key)
            counts["stored" if whole else "computed"] += 1
            if not whole:
                dataset, row = wanted[modality, key]
                self._write(modality, key, self.compute(modality, dataset.decode(row, (modality,)), device))
        return counts
