"""Evaluates a checkpoint on chosen subsets of the modalities: raw predictions, and metrics computed from them.

    examples ─► dataset, loader ─► one batch per subset ─► score_answers ─► records ─► windows merged
        └─► records of all processes ─► task_metrics per subset and task ─► results-SPLIT.json

A results file holds metrics, configuration, seed, versions, commit and every raw prediction; tables and plots are
made from it. Several processes share the examples, and the main process gathers their records. Several runs of one
recipe are evaluated by seeds.py; the options are in training/run_eval.py.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BitsAndBytesConfig, set_seed

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor, EGMFTask

from ..data.collator import SampleCollator
from ..data.dataset import EGMFDataset, load_examples, stream_examples
from ..data.dataset_options import DatasetOptions
from ..data.encoder_cache import EncoderCache, encode_samples, pretrained_stems, taking_outputs
from ..data.media_paths import relative_media
from ..data.selection import select_examples, select_values, warn_of_unread_modalities
from ..data.speakers import SpeakerNormalization
from ..data.windows import cut_examples, merge_records
from ..model.builder import load
from ..model.language_model import quantization
from ..options import ModelArguments
from ..records import check_writable, commit, only_writer, peak_gib, versions, weights_digest, write_json
from .calibration import calibration_figures
from .gates import expert_weights, find_collapse, gate_figures
from .metrics import logged_warnings, numbers_of, task_metrics
from .processes import choose_device, merge_over_processes, own_part, processes, require_all, require_examples
from .run_records import trained_with_normalization, warn_of_other_examples
from .subsets import parse_subsets, subset_name, trained_modalities
from .task_map import apply_task_map, describe_task_map, read_task_map


BOOTSTRAP = 1000  # resamples for the confidence intervals
STREAMED = 16  # batches whose examples are in memory together
HEADLINES = ("accuracy", "weighted_f1", "macro_f1", "mae", "correlation")  # printed; the results file has all metrics

logger = logging.getLogger(__name__)


@dataclass
class EvaluationOptions:
    """Options of an evaluation: checkpoint, data and output.

    Args:
        model_name_or_path: checkpoint, a folder or a Hub id.
        dataset: the corpus: a folder, a table, or the id of a dataset on the Hub.
        split: the split to evaluate on.
        split_manifest: split manifest of a converted corpus: the name of a file in its `splits/`.
        subsets: `all` (of the model's modalities at once), `every` (subset of them), or names such as `text+audio`.
        output: results file; None for `results-SPLIT.json` in the checkpoint's folder.
        overwrite: replace the results file if it exists.
        batch_size: examples per batch.
        num_workers: processes that decode clips.
        only_tasks: names of the tasks whose examples are evaluated; None for all.
        where: COLUMN=VALUE, values of columns that the examples must have; None for all examples.
        max_samples: number of examples to evaluate, stratified by label; None for all.
        window_hop: seconds between the windows that longer clips are cut into; None to cut off their end.
        encoder_cache: folder for the outputs of frozen pretrained encoders; None to compute them.
        speaker_normalization: whether to normalize per speaker; None to do as in training.
        reading: names of columns and labels, what to read of a dataset on the Hub, and whether to stream it.
        seed: random seed.
        device: `cpu` or `cuda`; None for CUDA if there is a GPU.
        text_model_name_or_path: language model of an adapter checkpoint, if it was moved.
        load_in_4bit: load the language model in 4 bits.
        experts: names of the experts to use; the others get no weight. None for all.
        task_map: tasks and labels of the corpus -> those of the model, a YAML file or JSON (task_map.py).
    """

    model_name_or_path: str
    dataset: str
    split: str = "test"
    split_manifest: str = "official"
    subsets: list[str] = field(default_factory=lambda: ["all"])
    output: Path | None = None
    overwrite: bool = False
    batch_size: int = 16
    num_workers: int = 0
    only_tasks: list[str] | None = None
    where: list[str] | None = None
    max_samples: int | None = None
    window_hop: float | None = None
    encoder_cache: str | None = None
    speaker_normalization: bool | None = None
    reading: DatasetOptions = field(default_factory=DatasetOptions)
    seed: int = 0
    device: str | None = None
    text_model_name_or_path: str | None = None
    load_in_4bit: bool = False
    experts: list[str] | None = None
    task_map: str | None = None

    def __post_init__(self):
        for name in ("max_samples", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1.")
        self.device = choose_device(self.device)

    def results_file(self) -> Path:
        """The file to write.

        Raises:
            ValueError: it exists, is a folder, cannot be written, or has no default because the model is on the Hub.
        """
        if self.output is None and not Path(self.model_name_or_path).is_dir():
            raise ValueError(
                f"There is no folder {self.model_name_or_path}. Check the path; for a checkpoint on the Hub give "
                "--output, the file for the results."
            )
        output = self.output or Path(self.model_name_or_path) / f"results-{self.split}.json"
        if output.exists() and not output.is_file():
            raise ValueError(f"{output} is a folder or a device. Give --output the name of a file.")
        if output.exists() and not self.overwrite:
            raise ValueError(f"{output} already exists. Give another --output, or --overwrite.")
        check_writable(output.parent)
        return output


# ---- predictions ------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict_batch(
    model: EGMFForConditionalGeneration, collator: SampleCollator, samples: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Score the samples of one batch.

    Returns:
        Per sample, `answer` (from `post_process_answers`, plus `id`, `truth` and `gate`, the weights of the gate's
        first stage) and `probabilities` of its task's answers.
    """
    inputs = collator(samples).to(model.device)
    inputs.pop("label_index")
    output = model.score_answers(**inputs)
    answers = collator.processor.post_process_answers(output)
    predictions = []
    for index, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        task = collator.processor.task_objects[sample["task"]]
        answer["id"] = sample["id"]
        answer["truth"] = sample["answer"]
        answer["gate"] = dict(zip(output.expert_names, output.gate_weights[index].tolist(), strict=True))
        if "face_share" in sample and "video" in answer["modalities"]:
            answer["face_share"] = sample["face_share"]
        probabilities = output.probabilities[index, : task.num_answers].tolist()
        predictions.append({"answer": answer, "probabilities": probabilities})
    return predictions


def load_batches(
    dataset: EGMFDataset, batch_size: int, num_workers: int
) -> Iterator[list[tuple[dict[str, Any], dict[str, Any], int]]]:
    """Batches of examples of one task and of similar length, which need little padding of prompts and answers.

    Yields:
        Per example of a batch: the example, its sample, and the length of its transcript in characters.
    """
    lengths = [len(example.get("text") or "") for example in dataset.examples]
    order = sorted(range(len(dataset)), key=lambda i: (dataset.examples[i]["task"], lengths[i]))
    loader = DataLoader(dataset, batch_size, sampler=order, collate_fn=list, num_workers=num_workers)
    start = 0
    for samples in tqdm(loader, desc="scoring", unit="batch", leave=False):
        indices = order[start : start + len(samples)]
        start += len(samples)
        yield [(dataset.examples[i], sample, lengths[i]) for i, sample in zip(indices, samples, strict=True)]


def predict_dataset(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    dataset: EGMFDataset,
    subsets: Sequence[Sequence[str]],
    batch_size: int,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """One record per clip and subset: its answer and probabilities, both None if it has none of the modalities.

    The answer has the table's other columns as `columns`.

    Clips are decoded and encoded once, a batch at a time, for all subsets. A clip that was cut into windows
    (see windows.py) has one record.

    Args:
        subsets: subsets of the modalities.
        batch_size: examples per batch.
        num_workers: processes that decode clips.
    """
    model.eval()
    collators = {subset_name(subset): SampleCollator(processor, subset) for subset in subsets}
    stems = {modality: stem for modality, stem in pretrained_stems(model).items() if not stem.precomputed}
    records = []
    for batch in load_batches(dataset, batch_size, num_workers):
        encoded = encode_samples(stems, [sample for _, sample, _ in batch])
        for name, collator in collators.items():
            usable = [sample for sample in encoded if set(sample["modalities"]) & set(collator.modalities)]
            with taking_outputs(stems.values()):
                predictions = predict_batch(model, collator, usable) if usable else []
            by_id = {sample["id"]: prediction for sample, prediction in zip(usable, predictions, strict=True)}
            for example, sample, length in batch:
                record = {
                    "subset": name,
                    "length": length,
                    "clip": example.get("clip") or sample["id"],
                    "task": sample["task"],
                    "truth": sample["label_index"],
                    "rated": sample["answer"],
                }
                prediction = by_id.get(sample["id"], {"answer": None, "probabilities": None})
                columns = example.get("extra")
                if columns and prediction["answer"] is not None:
                    prediction["answer"]["columns"] = columns
                records.append(record | prediction)
    return merge_records(processor, records)


# ---- metrics ----------------------------------------------------------------------------------------------------


def compute_results(
    records: Sequence[dict[str, Any]],
    tasks: dict[str, EGMFTask],
    subsets: Sequence[Sequence[str]],
    bootstrap: int = 0,
    gate: str = "two_stage",
) -> dict[str, dict[str, Any]]:
    """Compute the results that `evaluate` returns from the records of all examples.

    Args:
        records: from `predict_dataset`.
        tasks: the processor's tasks, by name.
        subsets: subsets of the modalities, in the order of the results.
        bootstrap: resamples for `confidence_intervals`; 0 for none.
        gate: the model's `config.gate`; a collapsed gate is warned of.
    """
    results = {}
    for subset in map(subset_name, subsets):
        of_subset = [record for record in records if record["subset"] == subset]
        usable = [record for record in of_subset if record["answer"] is not None]
        parts = {}
        for name, task in tasks.items():
            of_task = [record for record in usable if record["task"] == name]
            if of_task:
                with logged_warnings(name, subset):
                    parts[name] = _compute_task_results(task, of_task, bootstrap)
                    parts[name]["calibration"] = calibration_figures(parts[name]["predictions"], task.calibration)
                print_figures(subset, name, parts[name])
                if "experts" in of_task[0]["answer"]:
                    parts[name]["gate"] = _describe_gate(parts[name]["predictions"], f"{subset}, {name}", gate)
        results[subset] = {"left_out": len(of_subset) - len(usable), "tasks": parts}
    return results


def _compute_task_results(task: EGMFTask, records: Sequence[dict[str, Any]], bootstrap: int) -> dict[str, Any]:
    probabilities = np.array([record["probabilities"] for record in records])
    truth = np.array([record["truth"] for record in records])
    scores = None
    if task.kind == "regression":
        scores = np.array([float(record["rated"]) for record in records])
    return {
        "examples": len(records),
        "metrics": task_metrics(task, probabilities, truth, scores, bootstrap),
        "predictions": [record["answer"] for record in records],
    }


def _describe_gate(predictions: Sequence[dict[str, Any]], name: str, gate: str) -> dict[str, Any]:
    """The figures of the gate; warns if it has collapsed."""
    figures = gate_figures(*expert_weights(predictions))
    collapse = find_collapse(figures, len(predictions), gate)
    if collapse is not None:
        logger.warning(f"{name}: {collapse}")
    return figures


def print_figures(subset: str, task: str, part: dict[str, Any]) -> None:
    """Print a line with the main metrics of a task, and how many clips were seen whole because no face was found."""
    metrics = numbers_of(part["metrics"])
    figures = [f"{name} {metrics[name]:.3f}" for name in HEADLINES if name in metrics]
    shares = [prediction["face_share"] for prediction in part["predictions"] if "face_share" in prediction]
    if 0 in shares:
        figures.append(f"whole frames, for want of a face, in {shares.count(0)} of {len(shares)} clips")
    print(f"{subset:18} {task:10} n={part['examples']:<5} {', '.join(figures)}", flush=True)


def evaluate(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    dataset: EGMFDataset,
    subsets: Sequence[Sequence[str]],
    batch_size: int = 16,
) -> dict[str, dict[str, Any]]:
    """Metrics and raw predictions for every subset of modalities.

    Returns:
        `{subset: {"left_out", "tasks": {task: {"examples", "metrics", "predictions", "calibration"}}}}`. Examples that
        have none of a subset's modalities are left out of it and counted. Predictions are as the model gave them;
        `calibration` has figures before and after.
    """
    records = predict_dataset(model, processor, dataset, subsets, batch_size)
    return compute_results(records, processor.task_objects, subsets)


# ---- a checkpoint -----------------------------------------------------------------------------------------------


def evaluate_checkpoint(options: EvaluationOptions) -> Path | None:
    """Evaluate a checkpoint and write its results file. Returns its path; None on all processes but the main one.

    Raises:
        ValueError, OSError: a file or model that the options name is missing, or does not fit.
    """
    parse_subsets(options.subsets)  # a misspelled name is reported before anything is loaded
    four_bit = quantization(ModelArguments(load_in_4bit=options.load_in_4bit))
    output = options.results_file()
    set_seed(options.seed)
    state = processes(options.device)
    with only_writer(output, "evaluation") if state.is_main_process else nullcontext():
        return _write_results(options, output, state, four_bit)


def _write_results(
    options: EvaluationOptions, output: Path, state: PartialState, four_bit: BitsAndBytesConfig | None
) -> Path | None:
    task_map = read_task_map(options.task_map)
    examples = _choose_examples(options, state)
    model, processor = load(
        options.model_name_or_path, options.text_model_name_or_path, four_bit, active_experts=options.experts
    )
    if task_map:
        examples = apply_task_map(examples, task_map, processor.task_objects)
    modalities = trained_modalities(Path(options.model_name_or_path), processor.modalities)
    subsets = parse_subsets(options.subsets, modalities)
    warn_of_other_examples(Path(options.model_name_or_path), options.split_manifest, options.where)
    model.to(state.device if state.num_processes > 1 else options.device)
    if options.speaker_normalization is None:
        options.speaker_normalization = trained_with_normalization(Path(options.model_name_or_path))
    started = time.time()
    if examples is None:
        records = _predict_stream(model, processor, subsets, options)
    else:
        warn_of_unread_modalities(examples, processor, show=state.is_main_process)
        records = _predict_own_part(model, processor, examples, subsets, options, state)
    num_examples = len({record["place"] for record in records}) if examples is None else len(examples)
    records = merge_over_processes(state, records, output, key=("subset", "length", "place"))
    state.destroy_process_group()
    if records is None:
        return None
    for name in map(subset_name, subsets):
        require_all((record["place"] for record in records if record["subset"] == name), num_examples)
    results = {
        **describe_evaluation(options),
        "seed": options.seed,
        "versions": versions(),
        "commit": commit(),
        "device": options.device,
        "processes": state.num_processes,
        "weights": weights_digest(Path(options.model_name_or_path)),
        "modalities": list(modalities),
        "tasks": {name: task.to_dict() for name, task in processor.task_objects.items()},
        "subsets": compute_results(records, processor.task_objects, subsets, BOOTSTRAP, model.config.gate),
        "config": model.config.to_dict(),
        "seconds": time.time() - started,
        "peak_gib": peak_gib(model.device.type),
    }
    print(f"results: {write_json(output, results)}")
    return output


def describe_evaluation(options: EvaluationOptions) -> dict[str, Any]:
    """Entries of a results file that say what was evaluated. Files with equal entries are comparable."""
    return {
        "model": str(options.model_name_or_path),
        "dataset": str(options.dataset),
        "split": options.split,
        "split_manifest": options.split_manifest,
        "only_tasks": options.only_tasks,
        "where": options.where,
        "max_samples": options.max_samples,
        "window_hop": options.window_hop,
        "speaker_normalization": bool(options.speaker_normalization),
        "load_in_4bit": options.load_in_4bit,
        "experts": options.experts,
        "task_map": describe_task_map(read_task_map(options.task_map)),
        **options.reading.describe(),
    }


def _choose_examples(options: EvaluationOptions, state: PartialState) -> list[dict[str, Any]] | None:
    """The examples to evaluate; None if they are streamed.

    Raises:
        ValueError: there are fewer than processes, or several processes would stream them.
    """
    if options.reading.streaming:
        if state.num_processes > 1:
            raise ValueError("--streaming is for one process. Leave it out, or start one (--num_processes 1).")
        for name in ("speaker_normalization", "only_tasks", "where", "task_map"):
            if getattr(options, name):
                raise ValueError(f"--{name} needs all examples at once. Leave out --streaming.")
        return None
    examples = load_examples(options.dataset, options.split, options.split_manifest, options.reading)
    examples = select_values(examples, options.where, options.split)
    examples = select_examples(examples, options.only_tasks, options.max_samples, default_task="")
    require_examples(len(examples), state.num_processes, f"examples of split {options.split!r}")
    return examples


def _predict_own_part(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    examples: Sequence[dict[str, Any]],
    subsets: Sequence[Sequence[str]],
    options: EvaluationOptions,
    state: PartialState,
) -> list[dict[str, Any]]:
    """Records of this process's examples; `place` is an example's index among all of them."""
    indices, own_examples = own_part(examples, state)
    cache = _open_cache(model, processor, options)
    dataset = EGMFDataset(cut_examples(own_examples, processor, options.window_hop), processor, encoder_cache=cache)
    if cache is not None:
        cache.fill((dataset,), model.device)
    if options.speaker_normalization:
        state.wait_for_everyone()  # until the outputs of all processes are stored
        # A speaker's clips may be on several processes.
        all_examples = cut_examples(examples, processor, options.window_hop)
        whole = EGMFDataset(all_examples, processor, encoder_cache=cache)
        dataset.normalize_speakers(SpeakerNormalization(model, whole, state.is_main_process))
    records = predict_dataset(model, processor, dataset, subsets, options.batch_size, options.num_workers)
    index_of_clip = {example["id"]: index for index, example in zip(indices, own_examples, strict=True)}
    media = {example["id"]: relative_media(example, Path(options.dataset)) for example in own_examples}
    for record in records:
        record["place"] = index_of_clip[record["clip"]]
        if record["answer"] is not None and media[record["clip"]]:
            record["answer"]["media"] = media[record["clip"]]
    return records


def _open_cache(
    model: EGMFForConditionalGeneration, processor: EGMFProcessor, options: EvaluationOptions
) -> EncoderCache | None:
    if options.encoder_cache is None:
        return None
    check_writable(Path(options.encoder_cache))
    return EncoderCache(options.encoder_cache, model, processor)


def _predict_stream(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    subsets: Sequence[Sequence[str]],
    options: EvaluationOptions,
) -> list[dict[str, Any]]:
    """Records of a streamed dataset, or of its first `max_samples` examples, as from `_predict_own_part`."""
    records: list[dict[str, Any]] = []
    cache = _open_cache(model, processor, options)
    left = options.max_samples
    first = 0
    for examples in stream_examples(options.dataset, options.split, options.reading, STREAMED * options.batch_size):
        examples = examples[:left]
        dataset = EGMFDataset(cut_examples(examples, processor, options.window_hop), processor, encoder_cache=cache)
        if cache is not None:
            cache.fill((dataset,), model.device)
        of_chunk = predict_dataset(model, processor, dataset, subsets, options.batch_size, options.num_workers)
        place_of_clip = {example["id"]: first + index for index, example in enumerate(examples)}
        records += [record | {"place": place_of_clip[record["clip"]]} for record in of_chunk]
        first += len(examples)
        left = None if left is None else left - len(examples)
        if left == 0:
            break
    return records
