"""Predicts clips: one, every media file in a folder, or every example of a dataset.

    prediction_clips.py ─► Clip ─► Predictor.predict: processor ─► score_answers ─► post_process_answers
                              │                                                              └─► JSON lines, Parquet
                              └─► with a window hop: the same for each window of a long clip, then their mean

The options are in training/predict.py. Several processes share the clips, and the main one writes all predictions.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor, EGMFTask
from processing_egmf.arguments_egmf import errors_named, refuse_unknown
from processing_egmf.frontends_egmf import read_features

from ..data.dataset_options import DatasetOptions
from ..data.encoder_cache import EncoderCache, taking_outputs
from ..data.examples import EXTRA
from ..data.speakers import SpeakerNormalization
from ..data.tables import SPEAKER
from ..data.windows import predict_windows, require_hop
from ..model.builder import load
from ..model.language_model import quantization
from ..options import ModelArguments
from ..records import check_writable, in_utf_8, real_path, replacing
from .prediction_clips import Clip, check_speaker_folders, find_clips, read_clips
from .processes import choose_device, merge_over_processes, own_part, processes, require_all, require_examples
from .run_records import trained_with_normalization
from .unfinished import UnfinishedPredictions, identify_options


COLUMNS = {  # of Parquet; then `answer`, the complete answer as JSON
    "clip": "string",
    "task": "string",
    "label": "string",
    "score": "float64",
    "value": "float64",
    "error": "string",
}

logger = logging.getLogger(__name__)


@dataclass
class PredictionOptions:
    """Options of a prediction: checkpoint, clips and output.

    Args:
        model_name_or_path: checkpoint, a folder or a Hub id.
        text_model_name_or_path: language model of an adapter checkpoint, if it was moved.
        load_in_4bit: load the language model in 4 bits.
        device: `cpu` or `cuda`; None for CUDA if there is a GPU.
        text: transcript of the clip.
        audio: its audio file.
        video: its video file.
        folder: folder of clips, instead of a single clip.
        dataset: a dataset, instead of a single clip; its examples need no answers.
        split: the split of the dataset.
        reading: names of its columns, what to read of a dataset on the Hub, and whether to stream it.
        task: name of a task; None for the checkpoint's first one.
        modalities: the modalities to use; None for all.
        window_hop: seconds between the windows that longer clips are cut into; None to cut off their end.
        encoder_cache: folder for the outputs of frozen pretrained encoders; None to compute them.
        top_k: number of probabilities to keep; None for all.
        labels: answer only with these labels; None for all.
        calibrated: apply the calibration that `egmf calibrate` stored with the checkpoint.
        speaker_normalization: take each speaker's own mean and deviation off, over all of the speaker's clips.
        output: file to write, JSON lines or Parquet; None for the terminal.
        overwrite: replace the file if it exists.
    """

    model_name_or_path: str
    text_model_name_or_path: str | None = None
    load_in_4bit: bool = False
    device: str | None = None
    text: str | None = None
    audio: str | None = None
    video: str | None = None
    folder: Path | None = None
    dataset: str | None = None
    split: str = "test"
    reading: DatasetOptions = field(default_factory=DatasetOptions)
    task: str | None = None
    modalities: list[str] | None = None
    window_hop: float | None = None
    encoder_cache: str | None = None
    top_k: int | None = None
    labels: list[str] | None = None
    calibrated: bool = False
    speaker_normalization: bool = False
    output: Path | None = None
    overwrite: bool = False

    def __post_init__(self):
        self.device = choose_device(self.device)


@dataclass
class Predictor:
    """A model and its processor with the settings that all clips share.

    Args:
        model: the model, on its device.
        processor: its processor.
        task: name of a task; None for the processor's default.
        modalities: the modalities to use; None for all.
        top_k: number of probabilities to keep; None for all.
        window_hop: seconds between the windows that longer clips are cut into; None to cut off their end.
        encoder_cache: stored outputs of the model's frozen encoders, for clips that are not cut; None to compute them.
        calibrated: apply the calibration that is stored with the processor's tasks.
        labels: answer only with these labels; None for all.
        speakers: normalizes features and encoder outputs by speaker; None to take every speaker for an average one.
    """

    model: EGMFForConditionalGeneration
    processor: EGMFProcessor
    task: str | None = None
    modalities: Sequence[str] | None = None
    top_k: int | None = None
    window_hop: float | None = None
    encoder_cache: EncoderCache | None = None
    calibrated: bool = False
    labels: Sequence[str] | None = None
    speakers: SpeakerNormalization | None = None

    def predict(self, speaker: str | None = None, **sample: Any) -> dict[str, Any]:
        """One sample's processor arguments -> its answer, over all of its windows if it is cut."""
        inputs = {**sample, "modalities": self.modalities}
        inputs["task"] = self.task or sample.get("task")
        if self.processor.video_input is None and inputs.get("audio") is None:
            inputs["audio"] = inputs.pop("video", None)  # a model without video hears the soundtrack
        options = {"top_k": self.top_k, "labels": self.labels, "calibrated": self.calibrated}
        if self.window_hop is not None:
            answer = predict_windows(self.model, self.processor, inputs, self.window_hop, **options)
            if answer is not None:
                return answer
        prepared = self._prepare(inputs, speaker)
        stems = self.encoder_cache.stems.values() if self.encoder_cache is not None else ()
        with taking_outputs(stems):
            output = self.model.score_answers(**self.processor.collate([prepared]).to(self.model.device))
        answer = self.processor.post_process_answers(output, **options)[0]
        if "face_share" in prepared:
            answer["face_share"] = prepared["face_share"]
        return answer

    def _prepare(self, inputs: dict[str, Any], speaker: str | None) -> dict[str, Any]:
        """One prepared sample, with the stored outputs of the encoders that are cached."""
        inputs = dict(inputs)
        name = inputs.pop("sample_names", None) or "the clip"
        states = self.load_states(inputs, name)
        features = self.load_features(inputs, name)
        if self.speakers is not None:
            features, states = self.speakers(speaker, features, states)
        inputs |= features
        inputs |= {f"{modality}_states": values for modality, values in states.items()}
        return self.processor.prepare(**inputs, name=name)

    def load_states(self, inputs: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
        """Modality -> stored outputs (T, encoder width) of the encoders that are cached."""
        if self.encoder_cache is None:
            return {}
        sources = {modality: inputs.get(modality) for modality in ("audio", "video")}
        chosen = self.modalities or self.processor.modalities
        states = {}
        for modality, key in self.encoder_cache.keys(sources).items():
            values = self.encoder_cache.load(modality, key, sources, name) if modality in chosen else ()
            if len(values):  # not of a silent clip, or a video without sound
                states[modality] = values
        return states

    def load_features(self, inputs: dict[str, Any], name: str) -> dict[str, np.ndarray]:
        """`audio_features` and `video_features`, as far as they are given, (T, width)."""
        sizes = {
            "audio": self.processor.audio_feature_size,
            "video": self.processor.video_feature_size,
        }
        features = {}
        for modality, size in sizes.items():
            column = f"{modality}_features"
            if inputs.get(column) is not None:
                with errors_named(name):
                    features[column] = read_features(modality, inputs[column], size)
        return features

    def predict_all(self, clips: Iterable[Clip]) -> Iterator[dict[str, Any]]:
        """Per clip, `clip` (its name) with the fields of its answer, or with `error` (why there is no answer)."""
        is_single = isinstance(clips, Sequence) and len(clips) < 2
        for clip in tqdm(clips, desc="predicting", unit="clip", disable=is_single):
            try:
                answer = self.predict(clip.speaker, **clip.processor_arguments(self.processor))
            except (ValueError, TypeError, OSError) as error:
                answer = {"error": str(error)}
            yield {"clip": clip.name, **answer}


# ---- speakers ---------------------------------------------------------------------------------------------------


class ClipVectors:
    """The features and encoder outputs of clips, in the form in which `SpeakerNormalization` reads a dataset.

    Args:
        predictor: loads them.
        clips: of all speakers.
    """

    def __init__(self, predictor: Predictor, clips: Sequence[Clip]):
        self.predictor = predictor
        self.clips = clips
        self.processor = predictor.processor
        self.encoder_cache = predictor.encoder_cache
        self.examples = [{"id": clip.name, EXTRA: {SPEAKER: clip.speaker}} for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def load_vectors(self, index: int) -> dict[str, np.ndarray | torch.Tensor]:
        """Modality -> (T, width); nothing for a clip that cannot be read, which gets an error when it is predicted."""
        clip = self.clips[index]
        try:
            inputs = clip.processor_arguments(self.processor)
            vectors: dict[str, np.ndarray | torch.Tensor] = dict(self.predictor.load_states(inputs, clip.name))
            features = self.predictor.load_features(inputs, clip.name)
        except (ValueError, TypeError, OSError):
            return {}
        for column, values in features.items():
            vectors[column.removesuffix("_features")] = values
        return vectors


# ---- output ---------------------------------------------------------------------------------------------------


def write_parquet(predictions: Iterable[dict[str, Any]], path: Path) -> int:
    """One row per prediction. Returns the number of predictions that are errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for prediction in predictions:
        row = {name: prediction.get(name) for name in COLUMNS} | {"answer": json.dumps(prediction, ensure_ascii=False)}
        rows.append({name: in_utf_8(value) if isinstance(value, str) else value for name, value in row.items()})
    fields = [(name, pa.type_for_alias(kind)) for name, kind in {**COLUMNS, "answer": "string"}.items()]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)
    return sum(row["error"] is not None for row in rows)


def write_lines(predictions: Iterable[dict[str, Any]], file: TextIO, indent: int | None) -> int:
    """One JSON text per prediction. Returns the number of predictions that are errors."""
    failed = 0
    in_unicode = (file.encoding or "utf-8").casefold().startswith("utf")  # unlike a terminal of another encoding
    for prediction in predictions:
        failed += "error" in prediction
        print(in_utf_8(json.dumps(prediction, ensure_ascii=not in_unicode, indent=indent)), file=file)
    return failed


def write_predictions(predictions: Iterable[dict[str, Any]], options: PredictionOptions) -> int:
    """Write to the output file or the terminal. Returns the number of predictions that are errors."""
    indent = None if options.folder or options.dataset else 1
    if options.output is None:
        return write_lines(predictions, sys.stdout, indent)
    with replacing(options.output) as temporary:
        if options.output.suffix.casefold() == ".parquet":
            return write_parquet(predictions, temporary)
        with temporary.open("w", encoding="utf-8") as file:
            return write_lines(predictions, file, indent)


def check_labels(labels: Sequence[str], tasks: Sequence[EGMFTask]) -> None:
    """Refuse labels that none of the tasks has, and, of a single task, those that it cannot choose from.

    Raises:
        ValueError: the message lists the labels.
    """
    if len(tasks) == 1:
        with errors_named("--labels"):
            tasks[0].choose_labels(labels)
        return
    known = dict.fromkeys(label for task in tasks for label in task.labels)
    refuse_unknown(labels, known, "--labels: the model does not have", ValueError)


# ---- the command ----------------------------------------------------------------------------------------------


def predict(options: PredictionOptions) -> int:
    """Load the checkpoint, predict all clips, write the predictions. Returns the number of clips that failed.

    Raises:
        ValueError, OSError: a file or model that the options name is missing, or does not fit.
    """
    skipped: Counter = Counter()
    if options.dataset is not None:
        clips = read_clips(options.dataset, options.split, options.reading)
    elif options.folder is not None:
        clips, skipped = find_clips(options.folder)
    else:
        clips = [Clip(options.video or options.audio or "the text", options.text, options.audio, options.video)]
    four_bit = quantization(ModelArguments(load_in_4bit=options.load_in_4bit))
    if options.output is not None:
        check_writable(real_path(options.output).parent)
    state = processes(options.device)
    if state.num_processes > 1 and options.output is None:
        raise ValueError("Several processes need --output, the file to merge their predictions into.")
    if skipped and state.is_main_process:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())
        hint = " The transcript of a.mp4 is a.txt, next to it." if ".txt" in skipped else ""
        logger.warning(f"{options.folder}: skipped {skipped.total()} files that are not recordings: {counts}.{hint}")
    if isinstance(clips, list):
        require_examples(len(clips), state.num_processes, "clips")
    elif state.num_processes > 1:
        raise ValueError("--streaming is for one process. Leave it out, or start one (--num_processes 1).")
    model, processor = load(options.model_name_or_path, options.text_model_name_or_path, four_bit)
    require_hop(options.window_hop, processor.max_clip_seconds)
    if options.modalities is not None and not set(options.modalities) <= set(processor.modalities):
        raise ValueError(
            f"--modalities {' '.join(options.modalities)}: this model has {', '.join(processor.modalities)}."
        )
    tasks = processor.task_objects
    if options.task is not None and options.task not in tasks:
        raise ValueError(f"Unknown task {options.task!r}; use any of {', '.join(tasks)}.")
    asked = list(tasks.values()) if options.task is None else [tasks[options.task]]
    if options.calibrated and not any(task.calibration for task in asked):
        raise ValueError(
            f"--calibrated: {options.model_name_or_path} is not calibrated. Run egmf calibrate on it, or leave it out."
        )
    if options.labels is not None:
        check_labels(options.labels, asked if options.dataset is not None else asked[:1])
    model.to(state.device if state.num_processes > 1 else options.device)
    is_normalized = trained_with_normalization(Path(options.model_name_or_path))
    if is_normalized and not options.speaker_normalization and state.is_main_process:
        logger.warning(
            f"{options.model_name_or_path} was trained with --speaker_normalization, and without it every speaker is "
            "taken for an average one, which is less accurate. Give it with --folder, which has a folder for each "
            f"speaker, or with --dataset, which has a column {SPEAKER!r}."
        )
    cache = None
    if options.encoder_cache is not None:
        check_writable(Path(options.encoder_cache))
        cache = EncoderCache(options.encoder_cache, model, processor)
        for stem in cache.stems.values():
            stem.precomputed = False  # windows are encoded anew
    predictor = Predictor(model, processor, options.task, options.modalities, options.top_k, options.window_hop, cache)
    predictor.calibrated = options.calibrated
    predictor.labels = options.labels
    if options.speaker_normalization:
        if options.folder is not None:
            check_speaker_folders(options.folder, clips)
        if state.num_processes > 1:  # each encodes its part, and then reads what all have stored
            own = ClipVectors(predictor, own_part(clips, state)[1])
            for index in range(len(own)):
                own.load_vectors(index)
            state.wait_for_everyone()
        predictor.speakers = SpeakerNormalization(model, ClipVectors(predictor, clips), state.is_main_process)
    unfinished = None
    if options.output is not None and isinstance(clips, list):
        key = identify_options(options, clips)
        unfinished = UnfinishedPredictions(options.output, key, state.process_index, state.num_processes)
    predictions: Iterable[dict[str, Any]]
    if state.num_processes == 1:
        predictions = unfinished.predict(clips, predictor.predict_all) if unfinished else predictor.predict_all(clips)
    else:
        indices, own_clips = own_part(clips, state)
        predictions = unfinished.predict(own_clips, predictor.predict_all)
        records = ({"place": index, "answer": answer} for index, answer in zip(indices, predictions, strict=True))
        merged = merge_over_processes(state, records, options.output, key=("place",))
        state.destroy_process_group()
        if merged is None:
            return 0
        require_all((record["place"] for record in merged), len(clips))
        predictions = [record["answer"] for record in merged]
    failed = write_predictions(predictions, options)
    if unfinished:
        unfinished.remove()
    if failed:
        total = f" of {len(clips)}" if isinstance(clips, list) else ""
        logger.warning(f"{failed}{total} clips could not be predicted; each line gives the reason.")
    return failed
