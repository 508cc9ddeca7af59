"""Loads the examples of a corpus, and turns each of them into a prepared sample.

    tables (columns.py), Parquet ─► load_examples ─► EGMFDataset[i] ─► SampleCollator ─► model
                                                         │
         decode the clip or its window, or read the encoder cache ─► draw modalities ─► augment ─► processor.prepare

A corpus is a folder with `metadata.jsonl`, `.csv`, `.tsv`, `.json` or `.parquet` next to its media or in its folders
`train`, `validation` and `test`, the output of a converter (see parquet.py), a folder of other Parquet files, a
dataset on the Hub or saved by `datasets` (see hub_datasets.py), or folders named by labels (see class_folders.py). All
columns except `answer` are optional; dataset_options.py gives columns and labels other names:

    id             name used in messages and results (default: the row's number)
    split          train, validation, test
    task           one of the processor's tasks (default: its first)
    text           transcript
    audio, video   paths relative to the folder; without `audio`, the video's soundtrack is used
    audio_features, video_features   paths of .npy files, (steps, width)
    file_name      path of a clip, audio or video by its extension; `audio_file_name` and so on name the column
    context        earlier turns, oldest first: a list of strings or [speaker, text] (JSON in a CSV cell)
    answer         label or score
"""

import copy
import dataclasses
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from processing_egmf import MODALITIES, EGMFProcessor
from processing_egmf.arguments_egmf import errors_named
from processing_egmf.prompts_egmf import is_blank

from .augmentation import AugmentationSettings, augment, augment_voice, choose_modalities
from .class_folders import read_class_folders
from .clips import load_features, read_stored
from .collator import check_modalities
from .columns import check_columns, found_instead, name_media, read_tables, warn_of_unused
from .csv_tables import Table
from .dataset_options import AS_IS, DatasetOptions, map_labels, rename_columns, rename_label, rename_tables
from .encoder_cache import EncoderCache
from .examples import (
    check_answers,
    check_examples,
    check_words,
    describe_errors,
    examples_of_split,
    explain_labels,
    leave_out_blind,
    make_examples,
    parse_answer,
    resolve_media,
    speaker_of,
    split_columns,
    suggest,
    warn_of_unnamed,
)
from .faces import decode_face, prepare_cropped
from .hub_datasets import is_saved, stream_tables
from .hub_datasets import read_tables as read_dataset_tables
from .locations import check_dataset, is_hub_id
from .manifest import FILES, check_files, read_record
from .parquet import RECORD, is_converted, load_converted
from .prepared_samples import PreparedSamples
from .tables import read_table
from .text_files import shorten, shorten_path
from .windows import load_window


# Modality -> input type of its encoder -> columns that hold the input.
SOURCES = {
    "audio": {"waveform": ("audio", "video"), "features": ("audio_features",)},
    "video": {"frames": ("video",), "features": ("video_features",)},
}

BUILD_RECORD = "build.json"  # of the demo corpus


def load_examples(
    folder: str | Path,
    split: str | None = None,
    manifest: str = "official",
    options: DatasetOptions = AS_IS,
    with_answers: bool = True,
    needed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Load the examples of a corpus, with media as absolute paths. Arrays and embedded clips of a converted corpus and
    of Parquet files stay on disk until they are used.

    Args:
        folder: the corpus: a folder, a table, or the id of a dataset on the Hub.
        split: the split to load; None for all.
        manifest: split manifest of a converted corpus, the name of a file in its `splits/`.
        options: names of columns and labels, and what to read of a dataset on the Hub.
        with_answers: whether every example must have an answer. A split without any, as the test split of a shared
            task, is then left out if all splits are loaded, unless it is one of those `needed`, which are refused.

    Returns:
        Examples with the columns above; all other columns are in the dict `extra`.

    Raises:
        ValueError: not a corpus, a missing column or file, a repeated id, or an empty split.
    """
    folder = Path(folder)
    if options.streaming:
        raise ValueError("--streaming is for egmf evaluate and egmf predict. Leave it out.")
    places: dict[str, str] = {}  # id -> file and line
    converted = is_converted(folder)
    if converted:
        if options.columns or options.label_map:
            raise ValueError(
                f"{folder} is a converted corpus: its columns and labels already have EGMF's names. Leave out the "
                "options that rename them."
            )
        examples = [split_columns(row) for row in load_converted(folder, manifest)]
    else:
        if manifest != "official":
            raise ValueError(
                f"{folder} has no split manifest {manifest!r}: it was not made by a converter, or its {RECORD} is "
                "missing. Leave out --split_manifest."
            )
        examples = _read_corpus(folder, places, options, with_answers)
    check_examples(examples, folder)
    chosen = examples if split is None else examples_of_split(examples, split, folder)
    if with_answers and split is None:
        chosen = leave_out_blind(chosen, folder, needed)
    if with_answers:
        check_answers(chosen, folder, places)
    resolve_media(chosen, folder.parent if folder.is_file() else folder, places, converted)
    if split is None and not converted and folder.is_dir():
        warn_of_unnamed(chosen, folder)
    return chosen


def stream_examples(
    dataset: str | Path, split: str, options: DatasetOptions, size: int, with_answers: bool = True
) -> Iterator[list[dict[str, Any]]]:
    """The examples of a dataset on the Hub, `size` at a time, without downloading all of it.

    Raises:
        ValueError: as for `load_examples`, or the dataset is not on the Hub.
    """
    if not is_hub_id(dataset):
        raise ValueError(f"--streaming is for datasets on the Hub, but --dataset {dataset} is local. Leave it out.")
    number = 0
    for table in stream_tables(dataset, split, options, size):
        table = name_media(rename_columns(table, options.columns))
        check_columns(table, with_answers)
        if number == 0:
            warn_of_unused(table)
        examples = make_examples(table, number)
        number += len(examples)
        for example in examples:
            rename_label(example, options.label_map)
        if with_answers:
            check_answers(examples, Path(dataset), {})
        yield examples
    if number == 0:
        raise ValueError(f"{dataset} has no rows in its split {split!r}.")


def _read_corpus(
    folder: Path, places: dict[str, str], options: DatasetOptions, with_answers: bool
) -> list[dict[str, Any]]:
    """The examples of all tables; the location of each is added to `places`."""
    if (folder / "splits/official.json").is_file():
        raise ValueError(f"{folder} is a converted corpus without its {RECORD}. Convert it again, or copy all files.")
    if (folder / BUILD_RECORD).is_file():
        record = read_record(folder / BUILD_RECORD)
        if FILES in record:
            check_files(folder, record, ("clips",))
    examples: list[dict[str, Any]] = []
    tables = _read_tables(folder, options)
    with_answers = with_answers and not any("answer" in table.columns for table in tables)
    for table in tables:
        check_columns(table, with_answers)
        warn_of_unused(table)
        rows = make_examples(table, len(examples))
        places.update((example["id"], table.place(index)) for index, example in enumerate(rows))
        examples += rows
    if options.label_map:
        map_labels(examples, options.label_map)
    return examples


def _read_tables(dataset: Path, options: DatasetOptions) -> list[Table]:
    """The tables of a dataset of any kind, with our names for their columns."""
    check_dataset(dataset)
    columns = options.columns
    if is_hub_id(dataset) or is_saved(dataset):
        tables = read_dataset_tables(dataset, options)
    elif dataset.is_file():
        tables = [read_table(dataset)]
    else:
        tables = read_tables(dataset)
        if not tables and any(dataset.glob("**/*.parquet")):
            tables = read_dataset_tables(dataset, options)
        if not tables and not found_instead(dataset):
            table = read_class_folders(dataset)
            tables = [] if table is None else [table]
            columns = {"answer": "label", **columns}
    if not tables:
        raise ValueError(
            f"{shorten_path(dataset)} is not a corpus: it has neither metadata.jsonl nor metadata.csv nor Parquet "
            f"files.{found_instead(dataset)}"
        )
    return [name_media(table) for table in rename_tables(tables, columns)]


class SampleIndex(NamedTuple):
    """One use of an example in training."""

    index: int  # of the example
    seed: int  # of the run
    epoch: int
    weight: float  # of this process's loss in the mean over processes; 1 if the batch divides evenly


class EGMFDataset(Dataset):
    """A torch dataset of prepared samples: unpadded, from `processor.prepare`, with these additional fields:

        id, task, answer, label_index   of the example
        modalities                      to keep: those present, or the ones that modality dropout keeps
        sample_seed, loss_weight        of a `SampleIndex`

    A sample without any of the modalities has only these fields.

    Args:
        examples: from `load_examples`, or cut into windows by `cut_examples`.
        processor: decodes the media and knows the tasks; every answer is checked against its task here.
        with_labels: append the answer to the prompt and return `labels` (training), or return `answer_ids` to score.
        modalities: the modalities to use; None for all.
        augmentation: random changes for training; None for none.
        cache_media: decode all clips up front and keep them in memory.
        encoder_cache: cached outputs of frozen encoders, used instead of decoding their clips.

    Raises:
        ValueError: an unknown task or modality, or an answer that is not in the task's answer set.
    """

    def __init__(
        self,
        examples: list[dict[str, Any]],
        processor: EGMFProcessor,
        with_labels: bool = False,
        modalities: Sequence[str] | None = None,
        augmentation: AugmentationSettings | None = None,
        cache_media: bool = False,
        encoder_cache: EncoderCache | None = None,
    ):
        self.processor = processor
        self.with_labels = with_labels
        self.modalities = check_modalities(modalities)
        self.augmentation = augmentation or AugmentationSettings()
        self.encoder_cache = encoder_cache
        self.speaker_normalization: Callable[..., Any] | None = None  # of speakers.py, which needs a dataset
        self.prepared = PreparedSamples()
        self.examples = self._check_all(examples)
        self.media = self._decode_all() if cache_media else None

    def _check_all(self, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        checked = []
        errors = []
        for example in examples:
            try:
                checked.append(self._check(example))
            except ValueError as error:
                errors.append((example["id"], str(error)))
        if errors:
            raise ValueError(describe_errors(errors) + explain_labels(errors))
        return checked

    def _check(self, example: dict[str, Any]) -> dict[str, Any]:
        """A copy of the example with its task, its label's index and the keys of its encoder outputs."""
        tasks = self.processor.task_objects
        name = f"example {example['id']!r}"
        example = dict(example, task=example.get("task") or next(iter(tasks)))
        if not isinstance(example["task"], str) or example["task"] not in tasks:
            raise ValueError(
                f"{name}: unknown task {shorten(example['task'])}; the model knows {', '.join(tasks)}."
                f"{suggest(example['task'], tasks)} Define other tasks when training (--tasks_file)."
            )
        check_words(example, name)
        task = tasks[example["task"]]
        example["answer"] = parse_answer(example["answer"], task, name)
        with errors_named(name):
            example["label_index"] = task.index(example["answer"])
        if self.encoder_cache is not None:
            example["state_keys"] = self.encoder_cache.keys(example)
            example["copy_keys"] = self.encoder_cache.copy_keys(example, self.augmentation)
        return example

    def _decode_all(self) -> list[dict[str, Any]]:
        pool = ThreadPoolExecutor(os.cpu_count())  # FFmpeg releases the GIL while it decodes
        try:
            decoded = pool.map(lambda example: decode_face(self, example), self.examples)
            return list(tqdm(decoded, total=len(self.examples), desc="decoding clips", unit="clip"))
        finally:
            pool.shutdown(cancel_futures=True)

    def decode(self, example: dict[str, Any], modalities: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Decode the clip of an example into arrays for the processor, for the modalities that the model has encoders
        for.

        Args:
            example: one of `examples`.
            modalities: the modalities to decode; None for all whose encoder outputs are not cached.
        """
        name = f"example {example['id']!r}"
        if modalities is None:
            cached = self.encoder_cache.stems if self.encoder_cache is not None else ()
            modalities = [modality for modality in ("audio", "video") if modality not in cached]
        inputs = self._inputs()
        inputs = {modality: inputs[modality] for modality in modalities if inputs[modality] is not None}
        sources: dict[str, Any] = {}
        for modality, input_type in inputs.items():
            if input_type == "features":
                column = f"{modality}_features"
                sources[column] = load_features(example.get(column), name)
            else:
                sources[modality] = read_stored(example.get(modality))
        if inputs.get("audio") == "waveform" and example.get("audio") is None and "video" not in sources:
            # The clip's audio is the soundtrack of its video file. A model whose video input is features takes no
            # `video`, so that the file is passed as `audio`; otherwise as `video`, which may lack a soundtrack.
            track = "audio" if inputs.get("video") == "features" else "video"
            sources[track] = read_stored(example.get("video"))
        if example.get("window") is not None:
            window = example["window"]
            return load_window(self.processor, window, name=name, modalities=tuple(inputs), **sources)
        return self.processor.load_media(name=name, modalities=tuple(inputs), **sources)

    def _inputs(self) -> dict[str, str | None]:
        """Modality -> input type of the model's encoder."""
        return {"audio": self.processor.audio_input, "video": self.processor.video_input}

    def load_vectors(self, index: int) -> dict[str, np.ndarray | torch.Tensor]:
        """Modality -> precomputed features or cached encoder outputs (T, width) of an example, where it has them."""
        example = self.examples[index]
        with_features = [modality for modality, kind in self._inputs().items() if kind == "features"]
        media = self.media[index] if self.media is not None else self.decode(example, with_features)
        vectors: dict[str, np.ndarray | torch.Tensor] = dict(self._read_states(example))
        for modality in with_features:
            if f"{modality}_features" in media:
                vectors[modality] = media[f"{modality}_features"]
        return vectors

    def load_media(self, index: int) -> dict[str, Any]:
        """The decoded clip of an example, from memory if it is cached there; with `frames="face"`, only its face."""
        return self.media[index] if self.media is not None else decode_face(self, self.examples[index])

    def ids_without(self, modalities: Sequence[str]) -> list[str]:
        """Ids of the examples that have none of these modalities. Unless clips are in memory, the columns decide, and
        a video is assumed to have sound."""
        return [
            example["id"]
            for index, example in enumerate(self.examples)
            if not set(self._find_modalities(index, example)) & set(modalities)
        ]

    def _find_modalities(self, index: int, example: dict[str, Any]) -> list[str]:
        if self.media is not None:
            return _present_modalities(example, self.media[index], example.get("state_keys", ()))
        present = set()
        for modality, input_type in self._inputs().items():
            columns = SOURCES[modality].get(input_type, ())
            if any(example.get(column) is not None for column in columns):
                present.add(modality)
        if _has_text(example, bool(present)):
            present.add("text")
        return [modality for modality in MODALITIES if modality in present]

    def remove(self, ids: Sequence[str]) -> None:
        """Remove the examples with these ids."""
        removed = set(ids)
        kept = [index for index, example in enumerate(self.examples) if example["id"] not in removed]
        if self.media is not None:
            self.media = [self.media[index] for index in kept]
        self.examples = [self.examples[index] for index in kept]
        self.prepared = PreparedSamples()

    def normalize_speakers(self, normalization: Callable[..., Any]) -> None:
        """Take each speaker's own mean and deviation off: a `SpeakerNormalization` of this dataset."""
        self.speaker_normalization = normalization
        self.prepared = PreparedSamples()

    def without_labels(self) -> "EGMFDataset":
        """The same examples, sharing decoded clips, without labels in the prompt and without modality dropout."""
        dataset = copy.copy(self)
        dataset.with_labels = False
        dataset.prepared = PreparedSamples()
        dataset.augmentation = dataclasses.replace(self.augmentation, modality_dropout=0.0)
        return dataset

    @property
    def lengths(self) -> list[int]:
        """Number of tokens in each example's transcript and context, to batch examples of similar length."""
        texts = []
        for example in self.examples:
            turns = map(str, example.get("context") or ())
            texts.append(" ".join([example.get("text") or "", *turns]))
        encoded = self.processor.tokenizer(texts, add_special_tokens=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        use = index if isinstance(index, SampleIndex) else None
        index = use.index if use is not None else index
        example = self.examples[index]
        fields = ("id", "task", "answer", "label_index")
        sample: dict[str, Any] = {name: example[name] for name in fields}
        if use is not None:
            sample["sample_seed"] = (use.seed, use.epoch, zlib.crc32(example["id"].encode()))
            sample["loss_weight"] = use.weight
        # Outside training, torch's generator gives a seed, which differs in every worker. It is drawn even if nothing
        # is random, so that a run's later random numbers do not depend on the options.
        seed = sample["sample_seed"] if use is not None else int(torch.randint(2**31, ()))
        rng = np.random.default_rng(seed)
        # One generator makes all choices for a sample: its voice copy, the modalities, the voice, then the rest.
        copies = example.get("copy_keys", ())
        number = int(rng.integers(len(copies) + 1)) if copies and use is not None else 0  # 0: the clip itself
        modality_dropout = self.augmentation.modality_dropout
        if (index, number) in self.prepared:
            present, prepared = self.prepared[index, number]
            sample["modalities"] = choose_modalities(present, modality_dropout, rng)
            return {**sample, **prepared}
        media, states = self._read(index, number)
        present = _present_modalities(example, media, states)
        present = [modality for modality in present if modality in self.modalities]
        sample["modalities"] = choose_modalities(present, modality_dropout, rng)
        if self.augmentation.voice_augmentation and "audio" in media:
            media = {**media, "audio": augment_voice(media["audio"], rng)}
        if self.augmentation.augmentation:
            media = augment(media, rng)
        prepared = self._prepare(example, media, states, present) if present else {}
        if not (self.augmentation.voice_augmentation or self.augmentation.augmentation):
            self.prepared.keep((index, number), (present, prepared))
        return {**sample, **prepared}

    def _read(self, index: int, copy_number: int) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
        """The clip of an example and its, or its copy's, cached outputs, normalized by speaker if that is wanted."""
        example = self.examples[index]
        media = self.load_media(index)
        states = self._read_states(example, copy_number)
        if self.speaker_normalization is not None:
            media, states = self.speaker_normalization(speaker_of(example), media, states)
        return media, states

    def _read_states(self, example: dict[str, Any], copy_number: int = 0) -> dict[str, torch.Tensor]:
        """Modality -> cached encoder outputs (T, encoder width), if there are any; of a voice copy, or 0."""
        states = {}
        keys = dict(example.get("state_keys", {}))
        if copy_number:
            keys["audio"] = example["copy_keys"][copy_number - 1]
        for modality, key in keys.items():
            values = self.encoder_cache.read(modality, key)
            if len(values):
                states[modality] = values
        return states

    def _prepare(
        self,
        example: dict[str, Any],
        media: dict[str, np.ndarray],
        states: dict[str, torch.Tensor],
        modalities: list[str],
    ) -> dict[str, Any]:
        inputs = media | {f"{modality}_states": values for modality, values in states.items()}
        return prepare_cropped(
            self.processor,
            text=example.get("text"),
            context=example.get("context"),
            task=example["task"],
            answer=example["answer"] if self.with_labels else None,
            modalities=modalities,
            sampling_rate=self.processor.sampling_rate,
            name=f"example {example['id']!r}",
            **inputs,
        )


def _present_modalities(example: dict[str, Any], *media: Any) -> list[str]:
    """The modalities that an example's text and the names of its media provide, in the usual order."""
    present = {name.removesuffix("_features") for names in media for name in names}
    if _has_text(example, bool(present)):
        present.add("text")
    return [modality for modality in MODALITIES if modality in present]


def _has_text(example: dict[str, Any], has_media: bool) -> bool:
    """Whether there is any text to read: a transcript, or earlier turns next to audio or video."""
    return not is_blank(example.get("text") or "") or (has_media and bool(example.get("context")))
