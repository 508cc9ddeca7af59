"""Evaluate a checkpoint, with all modalities or with every subset, and write a results JSON.

    python -m training.run_eval --model_name_or_path runs/demo --dataset data/demo --split test --subsets every
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m training.run_eval --model_name_or_path runs/demo --dataset DATA
    python -m training.run_eval --model_name_or_path 'runs/meld-{seed}' --dataset data/meld --seeds 0 1 2 --config my_recipe.yaml

The file holds metrics, the configuration, seed, versions, commit and every raw prediction: every table and plot can be
made from it again. Several processes share the rows, and the main one puts their answers together. The third line
judges several runs of one recipe together: see seeds.py.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import set_seed

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor

from ..arguments import ModelArguments
from ..data.collator import SUBSETS, EGMFDataCollator, available
from ..data.dataset import EGMFDataset, load_examples
from ..data.windows import cut_examples, merge_records
from ..model.builder import FOUR_BIT_HELP, load, quantization
from ..records import check_writable, commit, versions, write_json
from ..trainer.sampling import merge_over_processes, own_part, processes, require_all, require_examples
from .metrics import add_published, task_metrics
from .seeds import evaluate_seeds


def subset_name(subset: Sequence[str]) -> str:
    return "+".join(subset)


def parse_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """`all`, `every`, or names such as `text+audio` -> subsets in their usual order.

    Raises:
        ValueError: a name is none of these.
    """
    known = {"all": SUBSETS[-1:], "every": SUBSETS, **{subset_name(subset): (subset,) for subset in SUBSETS}}
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown subset {name!r}; use any of {', '.join(known)}.")
    chosen = {subset for name in names for subset in known[name]}
    return [subset for subset in SUBSETS if subset in chosen]


@torch.no_grad()
def judge_batch(
    model: EGMFForConditionalGeneration, collator: EGMFDataCollator, samples: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Samples of one batch -> `answer` (of `post_process_answers`, with `id`, `truth` and the first stage's `gate`)
    and `probabilities` (of its task's answers)."""
    inputs = collator(samples).to(model.device)
    inputs.pop("label_index")
    output = model.score_answers(**inputs)
    answers = collator.processor.post_process_answers(output)
    tasks = collator.processor.task_objects
    judged = []
    for i, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        gate = dict(zip(output.expert_names, output.gate_weights[i].tolist(), strict=True))
        probabilities = output.probabilities[i, : tasks[sample["task"]].num_answers].tolist()
        answer |= {"id": sample["id"], "truth": sample["answer"], "gate": gate}
        judged.append({"answer": answer, "probabilities": probabilities})
    return judged


def judge_rows(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    dataset: EGMFDataset,
    subsets: Sequence[Sequence[str]],
    batch_size: int,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """A record of every clip and subset: its answer and probabilities, both None where it has nothing of the subset.

    Clips are decoded once, a batch at a time, whatever the number of subsets. A clip that was cut into windows (see
    windows.py) has one record.

    Args:
        num_workers: processes that decode.
    """
    model.eval()
    length = [len(row.get("text") or "") for row in dataset.rows]
    order = sorted(range(len(dataset)), key=length.__getitem__)  # neighbors of one length need little padding
    loader = DataLoader(dataset, batch_size, sampler=order, collate_fn=list, num_workers=num_workers)
    collators = {subset_name(subset): EGMFDataCollator(processor, False, subset) for subset in subsets}
    numbers, records = iter(order), []
    for samples in tqdm(loader, desc="scoring", unit="batch", leave=False):
        rows = list(zip(itertools.islice(numbers, len(samples)), samples, strict=True))
        for name, collator in collators.items():
            usable = [sample for sample in samples if set(available(sample)) & set(collator.modalities)]
            judged = judge_batch(model, collator, usable) if usable else []
            found = {sample["id"]: said for sample, said in zip(usable, judged, strict=True)}
            for number, sample in rows:
                clip = dataset.rows[number].get("clip") or sample["id"]
                record = {"subset": name, "length": length[number], "clip": clip, "task": sample["task"]}
                record |= {"truth": sample["label_index"], "rated": sample["answer"]}
                records.append(record | found.get(sample["id"], {"answer": None, "probabilities": None}))
    return merge_records(processor, records)


def summarize(
    records: Sequence[dict[str, Any]], processor: EGMFProcessor, subsets: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Records of all rows -> what `evaluate` returns."""
    results: dict[str, dict[str, Any]] = {}
    for name in map(subset_name, subsets):
        rows = [record for record in records if record["subset"] == name]
        usable = [record for record in rows if record["answer"] is not None]
        found: dict[str, Any] = {}
        for task_name, task in processor.task_objects.items():
            chosen = [record for record in usable if record["task"] == task_name]
            if chosen:
                truth = np.array([record["truth"] for record in chosen])
                rated = task.kind == "regression"
                scores = np.array([float(record["rated"]) for record in chosen]) if rated else None
                probabilities = np.array([record["probabilities"] for record in chosen])
                found[task_name] = {
                    "rows": len(chosen),
                    "metrics": task_metrics(task, probabilities, truth, scores),
                    "predictions": [record["answer"] for record in chosen],
                }
        results[name] = {"left_out": len(rows) - len(usable), "tasks": found}
        for task_name, part in found.items():
            shown = ", ".join(f"{key} {value:.3f}" for key, value in list(part["metrics"].items())[:3])
            print(f"{name:18} {task_name:10} n={part['rows']:<5} {shown}", flush=True)
    return results


def evaluate(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    dataset: EGMFDataset,
    subsets: Sequence[Sequence[str]],
    batch_size: int = 16,
) -> dict[str, dict[str, Any]]:
    """Metrics and raw predictions for every subset of modalities: `{subset: {task: {"metrics", "predictions"}}}`.

    Rows that have none of a subset's modalities are left out of it and counted.
    """
    return summarize(judge_rows(model, processor, dataset, subsets, batch_size), processor, subsets)


def warn_of_other_splits(model: Path, manifest: str) -> None:
    """Says where a run was trained on other splits than it is judged by: what it learned may be among what is asked."""
    record = model / "training.json"
    if record.is_file():
        trained = json.loads(record.read_text(encoding="utf-8"))["data_arguments"].get("split_manifest", manifest)
        if trained != manifest:
            said = f"{model} was trained on the splits {trained!r} and is judged by {manifest!r}"
            print(f"warning: {said}: rows that it learned from may be among them.", file=sys.stderr)


def run(argv: Sequence[str] | None = None) -> None:
    """What the command line asks.

    Raises:
        ValueError, OSError: something that is asked for is not there, or does not fit.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint: a folder or a Hub id")
    parser.add_argument("--dataset", required=True, help="corpus folder, see training/data/dataset.py")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--split_manifest", default="official", help="which splits of a converted corpus: a name under its splits/"
    )
    parser.add_argument(
        "--subsets", nargs="+", default=["all"], help="all (modalities at once), every (subset), or names: text+audio"
    )
    parser.add_argument("--output", type=Path, help="results file; default: MODEL/results-SPLIT.json")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode clips")
    parser.add_argument("--max_samples", type=int)
    parser.add_argument("--window_hop", type=float, help="cut longer clips into windows, one every so many seconds")
    parser.add_argument("--overwrite", action="store_true", help="replace a results file that is there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--text_model_name_or_path", help="where the language model of a light checkpoint lies")
    parser.add_argument("--load_in_4bit", action="store_true", help=FOUR_BIT_HELP)
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="judge these runs, {seed} in --model_name_or_path, and sum up"
    )
    parser.add_argument("--config", type=Path, help="with --seeds: recipe that trains the runs that are missing")
    arguments = parser.parse_args(argv)
    for name in ("max_samples", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be at least 1.")
    subsets = parse_subsets(arguments.subsets)
    four_bit = quantization(ModelArguments(load_in_4bit=arguments.load_in_4bit))
    if arguments.seeds is not None:
        evaluate_seeds(arguments, [subset_name(subset) for subset in subsets])
        return
    if arguments.output is None and not Path(arguments.model_name_or_path).is_dir():
        parser.error(
            f"{arguments.model_name_or_path} is no folder here; give --output, the file to write the results into."
        )
    output = arguments.output or Path(arguments.model_name_or_path) / f"results-{arguments.split}.json"
    if output.is_dir():
        parser.error(f"{output} is a folder; give the name of a file.")
    if output.exists() and not arguments.overwrite:
        parser.error(f"{output} is there already; give another --output, or --overwrite.")
    check_writable(output.parent)
    set_seed(arguments.seed)
    state = processes(arguments.device)
    rows = load_examples(arguments.dataset, arguments.split, arguments.split_manifest)[: arguments.max_samples]
    require_examples(len(rows), state.num_processes, f"rows of split {arguments.split!r}")
    model, processor = load(arguments.model_name_or_path, arguments.text_model_name_or_path, four_bit)
    warn_of_other_splits(Path(arguments.model_name_or_path), arguments.split_manifest)
    model.to(state.device if state.num_processes > 1 else arguments.device)
    places, own = own_part(rows, state)
    dataset = EGMFDataset(cut_examples(own, processor, arguments.window_hop), processor)
    started = time.time()
    judged = judge_rows(model, processor, dataset, subsets, arguments.batch_size, arguments.num_workers)
    place_of = {row["id"]: place for place, row in zip(places, own, strict=True)}
    judged = [{**record, "place": place_of[record["clip"]]} for record in judged]
    records = merge_over_processes(state, judged, output, key=("subset", "length", "place"))
    state.destroy_process_group()
    if records is None:
        return
    for subset in map(subset_name, subsets):
        require_all((record["place"] for record in records if record["subset"] == subset), len(rows))
    results = summarize(records, processor, subsets)
    add_published(results, processor.task_objects)
    record = {
        "model": str(arguments.model_name_or_path),
        "data": str(arguments.dataset),
        "split": arguments.split,
        "split_manifest": arguments.split_manifest,
        "max_samples": arguments.max_samples,
        "window_hop": arguments.window_hop,
        "load_in_4bit": arguments.load_in_4bit,
        "seed": arguments.seed,
        "versions": versions(),
        "commit": commit(),
        "device": arguments.device,
        "processes": state.num_processes,
        "seconds": time.time() - started,
        "config": model.config.to_dict(),
        "subsets": results,
    }
    print(f"results: {write_json(output, record)}")


def main(argv: Sequence[str] | None = None) -> None:
    try:
        run(argv)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
