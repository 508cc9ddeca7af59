"""Outputs of frozen pretrained encoders, computed once per clip and kept on disk.

    clip's bytes, its window ─┐
    preprocessing settings ───┼─► key ─► DIR/audio-ENCODER/KEY[:2]/KEY.safetensors: states (T, encoder width)
    encoder's weights ────────┤
    number of a voice copy ───┘   (voice_copies.py)

The key covers everything that the states depend on, so stale entries are never used: a different encoder, revision,
clip or setting gives a different key. Files are written under a temporary name and then renamed, so several runs can
share a folder at the same time. The encoder runs exactly as in the model (backbones_egmf.py): without padding and in
its own precision. A clip without the modality gets a file with no steps. The temporary files of killed processes are
removed a day later, when the cache is opened.

Where the model takes only the mean and deviation over time, a clip is kept as a few steps that have the same ones
(`condense`). This saves nine tenths of the disk and most of the time of a training step.
"""

# T steps of the encoder's output  K layers  W encoder width

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.backbones_egmf import EGMFPretrainedStem
from processing_egmf import EGMFProcessor

from ..records import checksum_of_array, digest_of_bytes, digest_of_file, digest_of_json, expand_home
from .augmentation import AugmentationSettings
from .parquet import StoredMedia
from .voice_copies import change_voice, copy_key


# Incremented when the states of the same clip change, so that those of an older version are computed again.
STATES_VERSION = 3

# Clips that are encoded together on a GPU. On a CPU there is little to gain, and one at a time gives the same bits
# whichever other clips are missing.
BATCH_SIZE = 8

# A temporary file is written in seconds: one that is this old belongs to a process that was killed.
STALE_SECONDS = 24 * 60 * 60

# Processor settings that change an encoder's input.
PREPROCESSING = {
    "audio": ("sampling_rate", "feature_extractor", "max_clip_seconds"),
    "video": (
        "num_frames",
        "frame_height",
        "frame_width",
        "frames",
        "face_detector",
        "image_processor",
        "video_processor",
        "image_backend",
        "max_clip_seconds",
    ),
}


def _checksum(states: torch.Tensor) -> str:
    return checksum_of_array(states.detach().cpu().contiguous().view(torch.uint8).numpy())


def _remove_stale_files(folder: Path) -> None:
    """Remove the temporary files of killed processes."""
    oldest = time.time() - STALE_SECONDS
    for path in folder.glob("*/.*"):
        with suppress(OSError):  # another process has removed it, or the folder is read-only
            if path.stat().st_mtime < oldest:
                path.unlink()


def pretrained_stems(model: EGMFForConditionalGeneration) -> dict[str, EGMFPretrainedStem]:
    """Modality -> its pretrained encoder, frozen or trained, where the model has one."""
    encoder = model.egmf.audio_visual_encoder
    stems = {}
    for modality, part in (("audio", encoder.audio), ("video", encoder.video)):
        if part is not None and isinstance(part.stem, EGMFPretrainedStem):
            stems[modality] = part.stem
    return stems


@torch.no_grad()
def encode_samples(stems: dict[str, EGMFPretrainedStem], samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples of `processor.prepare` with the outputs of pretrained encoders instead of their inputs, on the CPU.

    The clips are encoded as one batch: frames of all clips together, and audio of equal length together.

    Args:
        stems: modality -> pretrained encoder, in evaluation mode.
        samples: they stay unchanged.
    """
    encoded = [dict(sample) for sample in samples]
    for modality, stem in stems.items():
        values_name = f"{modality}_values"
        mask_name = f"{modality}_mask"
        present = [sample for sample in encoded if values_name in sample]
        if not present:
            continue
        device = stem.backbone.device
        values = pad_sequence([sample[values_name] for sample in present], batch_first=True).to(device)
        mask = pad_sequence([sample[mask_name] for sample in present], batch_first=True).to(device)
        states, state_mask = stem.run_backbone(values, mask)
        for sample, own_states, own_mask in zip(present, states, state_mask, strict=True):
            sample[values_name] = own_states[own_mask].cpu().contiguous()
            sample[mask_name] = torch.ones(len(sample[values_name]), dtype=torch.bool)
    return encoded


def encode_clip(
    stem: EGMFPretrainedStem, processor: EGMFProcessor, modality: str, arrays: dict[str, Any], name: str
) -> torch.Tensor:
    """Decoded media of one clip -> states (T, output size) on the CPU; no steps without the modality."""
    [sample] = encode_samples({modality: stem}, [processor.encode_media(arrays, name)])
    return sample.get(f"{modality}_values", torch.zeros(0, stem.output_size))


def condense(states: torch.Tensor, num_layers: int) -> torch.Tensor:
    """states (T, K * W) of a clip -> (K + 1, K * W) with the same mean, deviations and covariances between layers.

    Every weighted sum over the layers then has the same mean and deviation over time as before, to rounding: all that
    `pooling="statistics"` uses. A clip of no more than K + 1 steps stays as it is.
    """
    num_steps = num_layers + 1
    if len(states) <= num_steps:
        return states
    layers = states.float().unflatten(1, (num_layers, -1))  # (T, K, W)
    mean = layers.mean(dim=0)
    centered = layers - mean
    covariance = torch.einsum("tkw,tlw->wkl", centered, centered) / len(states)
    # In double precision: of layers whose scales differ by orders of magnitude, the smaller ones would be inexact.
    scales, directions = torch.linalg.eigh(covariance.cpu().double())
    factors = directions * scales.clamp(min=0).sqrt()[:, None]  # (W, K, K), covariance = factors @ factors.mT
    # Orthonormal columns, each with a sum of 0: steps made of them have exactly this covariance around the mean.
    columns = torch.cat([torch.ones(num_steps, 1), torch.eye(num_steps, num_layers)], dim=1)
    basis = torch.linalg.qr(columns).Q[:, 1:]  # (K + 1, K)
    steps = mean + num_steps**0.5 * torch.einsum("sj,wkj->skw", basis, factors.float())
    return steps.flatten(1).to(states.dtype)


@contextmanager
def taking_outputs(stems: Iterable[EGMFPretrainedStem]) -> Iterator[None]:
    """Within the context, the model takes the outputs of these encoders instead of their inputs."""
    before = {stem: stem.precomputed for stem in stems}
    for stem in before:
        stem.precomputed = True
    try:
        yield
    finally:
        for stem, precomputed in before.items():
            stem.precomputed = precomputed


class EncoderCache:
    """The outputs of a model's frozen pretrained encoders. Creating it makes the model take these instead of media.

    Args:
        folder: can be shared by any number of runs and encoders.
        model: its frozen pretrained encoders are cached; trained encoders and our own are not.
        processor: the model's processor.

    Raises:
        ValueError: the model has no frozen pretrained encoder.
    """

    def __init__(self, folder: str | Path, model: EGMFForConditionalGeneration, processor: EGMFProcessor):
        self.root = expand_home(folder)
        self.processor = processor
        stems = pretrained_stems(model)
        self.stems = {modality: stem for modality, stem in stems.items() if not stem.trainable}
        encoder = model.egmf.audio_visual_encoder
        self.condensed = {name for name in self.stems if encoder.get_submodule(name).pooling == "statistics"}
        if not self.stems:
            raise ValueError(
                "`encoder_cache` keeps the outputs of frozen pretrained encoders, but this model has none. Set "
                "--audio or --video to the id of one, without --train_backbones, or leave out --encoder_cache."
            )
        self.folders: dict[str, Path] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        fields = processor.to_dict()
        for modality, stem in self.stems.items():
            weights = sorted(stem.backbone.state_dict().items())
            weights = {name: _checksum(values) for name, values in weights}
            config = stem.backbone.config.to_dict()
            config.pop("_name_or_path", None)  # where it was loaded from
            parts = [STATES_VERSION, stem.uses_pooler, weights, config]
            parts += [stem.layer_sum is not None, stem.chunk_steps, modality in self.condensed]
            digest = digest_of_json(parts, sort_keys=True)
            self.folders[modality] = self.root / f"{modality}-{digest[:16]}"
            self.settings[modality] = {name: fields.get(name) for name in PREPROCESSING[modality]}
            stem.precomputed = True
            _remove_stale_files(self.folders[modality])
        self._file_digests: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Data-loader workers only read files, so they get no encoders."""
        return {**vars(self), "stems": dict.fromkeys(self.stems)}

    def _clip_digest(self, clip: str | bytes | StoredMedia) -> str:
        """A hash of the bytes of a clip."""
        if isinstance(clip, StoredMedia):
            clip = clip.read()
        if isinstance(clip, bytes):
            return digest_of_bytes(clip)
        if clip not in self._file_digests:
            self._file_digests[clip] = digest_of_file(clip)
        return self._file_digests[clip]

    def keys(self, example: dict[str, Any]) -> dict[str, str]:
        """Modality -> key of an example's states, for the modalities that the example has."""
        keys = {}
        for modality in self.stems:
            clip = example.get(modality)
            if clip is None:
                clip = example.get("video")  # its soundtrack
            if clip is not None:
                parts = [self._clip_digest(clip), example.get("window"), self.settings[modality]]
                keys[modality] = digest_of_json(parts, sort_keys=True)
        return keys

    def copy_keys(self, example: dict[str, Any], augmentation: AugmentationSettings) -> list[str]:
        """Keys of the audio states of an example's voice copies; none without audio."""
        keys = self.keys(example) if augmentation.voice_copies else {}
        if "audio" not in keys:
            return []
        numbers = range(1, augmentation.voice_copies + 1)
        return [copy_key(keys["audio"], augmentation.seed, number) for number in numbers]

    def path(self, modality: str, key: str) -> Path:
        return self.folders[modality] / key[:2] / f"{key}.safetensors"

    def read(self, modality: str, key: str) -> torch.Tensor:
        """Read the states (T, encoder width) that `fill` has written."""
        with safe_open(self.path(modality, key), "pt") as file:
            return file.get_tensor("states")

    def load(self, modality: str, key: str, sources: dict[str, Any], name: str) -> torch.Tensor:
        """The states (T, encoder width) of one clip, computed and written if they are missing or damaged.

        Args:
            modality: `audio` or `video`.
            key: from `keys`.
            sources: the clip's `audio` and `video`, as the processor takes them.
            name: the clip's name in messages.
        """
        if not self.is_intact(modality, key):
            arrays = self.processor.load_media(**sources, modalities=(modality,), name=name)
            self._store(modality, key, encode_clip(self.stems[modality], self.processor, modality, arrays, name))
        return self.read(modality, key)

    def is_intact(self, modality: str, key: str) -> bool:
        """Whether the file exists and holds the states that were written."""
        try:
            with safe_open(self.path(modality, key), "pt") as file:
                return (file.metadata() or {}).get("digest") == _checksum(file.get_tensor("states"))
        except (OSError, SafetensorError):
            return False

    def _store(self, modality: str, key: str, states: torch.Tensor) -> None:
        """Write states (T, encoder width), condensed where the model takes only their statistics."""
        if modality in self.condensed:
            layer_sum = self.stems[modality].layer_sum
            states = condense(states, 1 if layer_sum is None else len(layer_sum.weights))
        self._write(modality, key, states)

    def _write(self, modality: str, key: str, states: torch.Tensor) -> None:
        path = self.path(modality, key)
        partial = path.with_name(f".{key}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"states": states}, partial, {"digest": _checksum(states)})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            folder = next(parent for parent in path.parents if parent.is_dir())
            free = shutil.disk_usage(folder).free / 2**20
            raise OSError(
                f"{path} could not be written ({error}); the disk has {free:,.0f} MiB free. Free some space or set "
                "another --encoder_cache, and run the same command again: it reuses the stored outputs."
            ) from error

    def fill(
        self, datasets: Sequence[Any], device: torch.device | str, share: tuple[int, int] = (0, 1)
    ) -> dict[str, int]:
        """Compute missing and damaged entries, with the encoders in evaluation mode on the device.

        Args:
            datasets: `EGMFDataset`s whose clips and voice copies to encode.
            device: where the encoders run.
            share: index of this process and number of processes; each computes its part.

        Returns:
            `{"stored", "computed"}`: how many entries of this process's part existed, and how many were computed.
        """
        entries = {}
        for dataset in datasets:
            for example in dataset.examples:
                for modality, key in example["state_keys"].items():
                    entries[modality, key] = (dataset, example)
                for key in example["copy_keys"]:
                    entries["audio", key] = (dataset, example)
        for stem in self.stems.values():
            stem.backbone.to(device).eval()
        index, count = share
        own_entries = list(entries)[index::count]
        batch_size = 1 if torch.device(device).type == "cpu" else BATCH_SIZE
        computed = 0
        missing: list[tuple[str, str]] = []
        for position, (modality, key) in enumerate(
            tqdm(own_entries, desc="frozen encoders", unit="clip", disable=index > 0), start=1
        ):
            if not self.is_intact(modality, key):
                missing.append((modality, key))
            if len(missing) == batch_size or position == len(own_entries):
                self._compute([(*entry, *entries[entry]) for entry in missing])
                computed += len(missing)
                missing = []
        return {"stored": len(own_entries) - computed, "computed": computed}

    def _compute(self, entries: Sequence[tuple[str, str, Any, dict[str, Any]]]) -> None:
        """Encode clips, each given as (modality, key, dataset, example), as one batch per modality, and write them."""
        for modality, stem in self.stems.items():
            chosen = [entry for entry in entries if entry[0] == modality]
            samples = []
            for _, key, dataset, example in chosen:
                arrays = dataset.decode(example, (modality,))
                if key in example["copy_keys"]:
                    longest = round(self.processor.max_clip_seconds * self.processor.sampling_rate)
                    arrays = change_voice(arrays, key, longest)
                samples.append(self.processor.encode_media(arrays, f"example {example['id']!r}"))
            none = torch.zeros(0, stem.output_size)
            for (_, key, _, _), sample in zip(chosen, encode_samples({modality: stem}, samples), strict=True):
                self._store(modality, key, sample.get(f"{modality}_values", none))


def check_voice_copies(count: int, cache: EncoderCache | None, modalities: Sequence[str] | None) -> None:
    """Refuse copies that training would not use.

    Args:
        count: copies of each clip.
        cache: of the model; None without frozen pretrained encoders.
        modalities: those to train with; None for all.

    Raises:
        ValueError: the model has no frozen pretrained audio encoder, or audio is not used.
    """
    advice = "Leave it out; where the recipe sets it, give --voice_copies 0."
    if count and (cache is None or "audio" not in cache.stems):
        raise ValueError(
            "--voice_copies is for a frozen pretrained audio encoder, such as --audio whisper-base, and this model "
            f"has none. {advice}"
        )
    if count and modalities is not None and "audio" not in modalities:
        raise ValueError(f"--voice_copies changes audio, which --modalities leaves out. {advice}")
