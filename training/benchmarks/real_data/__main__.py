"""Real data: EGMF with a small language model beside a plain scikit-learn baseline, on five public corpora.

    python -m training.benchmarks.real_data DATA --only mosi ravdess

DATA holds any of `meld_text/`, `ch_sims_v2_text/`, `emotiontalk_text/`, `cmu_mosi_trimodal/`, `ravdess_speech_16k/`;
no data comes with this project. Each piece is converted, cut, trained, judged and compared alone:

    release ─► converters ─► rows, cut by speaker or video ─┬─► training.train ─► training.evaluation.evaluator ─┬─► real_data.json
                                                             └─► scikit-learn ─► the same metrics ────┘    and .md

Nothing is chosen on the reported split: the epoch is chosen on `inner`, groups taken out of train, or, where
these are few, settings once and for all (LOG.md) and the run has all rows of train. So has the baseline, which chooses
its strength by cross-validation over groups. What is there already is
not made again. The results hold figures alone: no words, no ids. Options that are not named here go to training.train.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ...arguments import parse_arguments
from ...converters import folder as folder_converter
from ...converters import meld as meld_converter
from ...data.dataset import load_examples
from ...demo.stages import training_flags
from ...evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from ...evaluation.metrics import summarize
from ...model.language_model import check_model_location
from ...model.tasks_file import read_tasks
from ...records import check_writable, commit, versions, write_json
from ...trainer.run import train
from .baselines import CHARACTERS, SOUNDS, VECTORS, WORDS, Baseline, evaluate_baseline
from .corpora import (
    GROUP,
    REPORTED,
    TASKS,
    first_groups,
    read_emotiontalk,
    read_mosi,
    read_ravdess,
    read_sims_v2,
)
from .table import render


RESULTS = Path(__file__).resolve().parents[2] / "results"
MANIFEST = "inner"

COMMON = {
    "audio": "none", "video": "none", "encoder_hidden_size": 96, "fusion_hidden_size": 128, "lora_r": 8,
    "lora_dropout": 0.0, "fusion_pretraining_epochs": 3, "fusion_pretraining_learning_rate": 1e-3, "num_train_epochs": 1,
    "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "learning_rate": 1e-3,
    "fusion_learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length", "eval_strategy": "epoch", "save_strategy": "epoch",
    "load_best_model_at_end": "true", "metric_for_best_model": "eval_loss", "greater_is_better": "false",
    "max_eval_samples": 128, "max_length": 256, "logging_steps": 10, "report_to": "none",
}  # fmt: skip

TO_THE_END = {"eval_strategy": "no", "load_best_model_at_end": "false"}  # of a run that keeps its last epoch


# ---- the pieces -----------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """One corpus: how it is read, what it is trained with, what it is compared with."""

    title: str
    folder: str
    task: str
    options: dict[str, Any]
    baseline: Baseline
    shown: tuple[str, ...]
    about: str
    read: Callable[[Path, Path], Path] | None = None  # None: MELD, which has a converter of its own
    group: str = GROUP
    inner: float = 0.1  # share of train that the epoch is chosen on; 0: all of it is trained on, to the last epoch
    most: int | None = None  # rows to train on; None for all that are left
    subsets: tuple[str, ...] = ("all",)
    named: dict[str, str] = {}  # a subset whose name would mislead -> what it is
    aims: tuple[str, ...] = ()  # figures that are to be above the baseline's
    at_least: float | None = None  # what the first of them is to reach as well


EMOTION, SCORE = ("weighted_f1", "accuracy", "macro_f1"), ("acc2_sims", "f1_sims", "mae", "correlation")
PIECES: dict[str, Piece] = {
    "mosi": Piece(
        title="CMU-MOSI, words and three vectors",
        folder="cmu_mosi_trimodal",
        task="sentiment",
        read=read_mosi,
        options={
            "audio": "features", "audio_feature_size": 173, "video": "features", "video_feature_size": 100,
            "sequence_encoder": "none", "modality_dropout": 0.4, "fusion_pretraining_epochs": 5, "num_train_epochs": 4,
            "fusion_learning_rate": 1e-5,
        },
        baseline=VECTORS,
        inner=0,
        shown=("correlation", "acc2_has0", "acc2_non0", "mae"),
        aims=("correlation", "acc2_has0", "acc2_non0"),
        subsets=("text", "audio", "video", "text+audio+video"),
        named={"audio": "vectors of text and audio", "video": "vector of video", "text+audio+video": "everything"},
        about="The official training rows, cut by video. Text and video vectors were trained on these very labels: "
        "all figures are too good. The text's vector stands beside the audio's.",
    ),
    "ravdess": Piece(
        title="RAVDESS speech, raw sound",
        folder="ravdess_speech_16k",
        task="ravdess",
        read=read_ravdess,
        options={
            "audio": "waveform", "max_clip_seconds": 6, "conv_channels": [64, 96, 128], "cache_media": "true",
            "encoder_hidden_size": 128, "sequence_encoder": "none", "voice_augmentation": "true",
            "fusion_pretraining_epochs": 60, "fusion_pretraining_learning_rate": 1e-3, "fusion_pretraining_batch_size": 16, "num_train_epochs": 2,
            "fusion_learning_rate": 1e-5, "train_sampling_strategy": "random",
        },
        baseline=SOUNDS,
        shown=("accuracy", "weighted_f1", "macro_f1"),
        aims=("accuracy",),
        at_least=3 / 8,
        inner=0,
        about="Actors 11 and 12 held out; eight emotions, chance 0.125.",
    ),
    "meld": Piece(
        title="MELD, words",
        folder="meld_text",
        task="meld",
        group="dialogue",
        inner=0.05,
        most=4000,
        options={"max_length": 128},
        baseline=WORDS,
        shown=EMOTION,
        aims=("weighted_f1",),
        about="The official dev split, utterances without context.",
    ),
    "sims_v2": Piece(
        title="CH-SIMS v2, words",
        folder="ch_sims_v2_text",
        task="sims_v2",
        read=read_sims_v2,
        most=1200,
        options={},
        baseline=CHARACTERS,
        shown=SCORE,
        about="The official validation split, in Chinese, of which the language model knows little.",
    ),
    "sims_v2_english": Piece(
        title="CH-SIMS v2, words in machine translation",
        folder="ch_sims_v2_text",
        task="sims_v2_english",
        read=lambda source, folder: read_sims_v2(source, folder, "english", "sims_v2_english"),
        most=1200,
        options={},
        baseline=WORDS,
        shown=SCORE,
        about="The same rows, translated into English by a machine.",
    ),
    "emotiontalk": Piece(
        title="EmotionTalk, words",
        folder="emotiontalk_text",
        task="emotiontalk",
        read=read_emotiontalk,
        most=1200,
        options={},
        baseline=CHARACTERS,
        shown=EMOTION,
        about="The official validation split, other sessions, in Chinese; the label given to the words alone.",
    ),
}  # fmt: skip


# ---- one piece, from the release to its figures ------------------------------------------------------------------


def convert(piece: Piece, name: str, source: Path, work: Path) -> Path:
    """The converted corpus of a piece, made once, with the manifest that cuts `inner` out of train."""
    corpus = work / "corpora" / name
    if not corpus.is_dir():
        quiet = ["--num_workers", "1", "--no_progress"]
        if piece.read is None:
            parts = ["--media", "none", "--splits", "train", REPORTED]
            meld_converter.main([str(source), str(corpus), *parts, *quiet])
        else:
            release = piece.read(source, work / "releases" / name)
            folder_converter.main([str(release), str(corpus), "--tasks_file", str(tasks_file(work)), *quiet])
    return corpus


def cut(piece: Piece, corpus: Path, most: int | None) -> dict[str, int]:
    """Write the manifest: some groups of train become `inner`, and what is more than `most` rows `unused`."""
    splits: dict[str, list[str]] = {"train": [], "inner": [], "unused": [], REPORTED: []}
    rows = load_examples(corpus)
    groups = [row[piece.group] for row in rows if row["split"] == "train"]
    inner = set(first_groups(groups, round(piece.inner * len(groups))))
    others = [group for group in groups if group not in inner]
    kept = set(others if most is None else first_groups(others, most))
    for row in rows:
        group = row[piece.group]
        home = "inner" if group in inner else "train" if group in kept else "unused"
        splits[row["split"] if row["split"] != "train" else home].append(row["id"])
    about = "Groups of train that the epoch is chosen on."
    write_json(corpus / f"splits/{MANIFEST}.json", {"name": MANIFEST, "about": about, "splits": splits})
    return {split: len(ids) for split, ids in splits.items()}


def tasks_file(work: Path) -> Path:
    """The tasks that are not built in, as JSON, which is YAML too."""
    return write_json(work / "tasks.yaml", TASKS)


def train_and_judge(
    piece: Piece, name: str, corpus: Path, seed: int, arguments: argparse.Namespace, extra: Sequence[str]
) -> dict[str, Any]:
    """What training.evaluation.evaluator writes about one run on the reported split; a run that is there is not made again."""
    chosen = {**COMMON, **piece.options, "text_model_name_or_path": arguments.text_model_name_or_path, "seed": seed}
    chosen |= {} if piece.inner else TO_THE_END
    most = None if arguments.all_rows else piece.most
    digest = hashlib.sha256(repr((sorted(chosen.items()), piece.inner, most, *extra)).encode("utf-8")).hexdigest()[:8]
    run = arguments.work / "runs" / f"{name}-{seed}-{digest}"  # with other options it is another run
    if not (run / "training.json").is_file():
        options = {
            **chosen, "dataset": corpus, "split_manifest": MANIFEST, "eval_split": MANIFEST if piece.inner else "train",
            "output_dir": run, "tasks_file": tasks_file(arguments.work),
        }  # fmt: skip
        argv = [
            str(part)
            for key, value in options.items()
            for part in (f"--{key}", *(value if isinstance(value, list) else [value]))
        ]
        train(*parse_arguments([*argv, *training_flags(run), *extra]))
    results = run / f"results-{REPORTED}.json"
    if not results.is_file():
        options = EvaluationOptions(
            model_name_or_path=str(run),
            dataset=str(corpus),
            split=REPORTED,
            split_manifest=MANIFEST,
            subsets=list(piece.subsets),
            seed=seed,
        )
        evaluate_checkpoint(options)
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    return {**json.loads(results.read_text(encoding="utf-8")), "training": record}


def _published(run: dict[str, Any], subset: str, piece: Piece) -> dict[str, Any]:
    return run["subsets"][subset]["tasks"][piece.task]["metrics"]


def measure(name: str, arguments: argparse.Namespace, extra: Sequence[str]) -> dict[str, Any]:
    """Everything that is to be said about one piece."""
    piece = PIECES[name]
    source = arguments.dataset / piece.folder
    if not source.is_dir():
        raise SystemExit(
            f"error: {arguments.dataset} holds no folder {piece.folder}/, which the piece {name!r} needs."
        )
    corpus = convert(piece, name, source, arguments.work)
    sizes = cut(piece, corpus, None if arguments.all_rows else piece.most)
    rows = load_examples(corpus, manifest=MANIFEST)
    for row in rows:
        row[GROUP] = row[piece.group]
    task = read_tasks(tasks_file(arguments.work))[piece.task]
    baseline = evaluate_baseline(piece.baseline, task, rows)
    shown = ", ".join(f"{figure} {baseline['figures'][figure]:.4f}" for figure in piece.shown)
    print(f"{name}: {baseline['name']}: {shown}", flush=True)
    runs = [train_and_judge(piece, name, corpus, seed, arguments, extra) for seed in arguments.seeds]
    subsets = {
        subset: {
            figure: summarize([value for run in runs if (value := _published(run, subset, piece)[figure]) is not None])
            for figure in piece.shown
        }
        for subset in runs[0]["subsets"]
    }
    everything = list(subsets)[-1]
    intervals = _published(runs[0], everything, piece)["confidence_intervals"]
    record = runs[0]["training"]
    return {
        "title": piece.title,
        "about": piece.about,
        "rows": sizes,
        "task": task.to_dict(),
        "text_model": Path(arguments.text_model_name_or_path).name,
        "named": piece.named,
        "shown": piece.shown,
        "baseline": baseline,
        "egmf": {
            "seeds": arguments.seeds,
            "subsets": subsets,
            "everything": everything,
            "confidence_intervals": {figure: intervals[figure] for figure in piece.shown},
            "minutes": [run["training"]["seconds"]["all"] / 60 for run in runs],
            "trained_parameters": record["parameters"]["trained"],
            "settings": {**COMMON, **piece.options, **({} if piece.inner else TO_THE_END), "further": list(extra)},
        },
        "aims": _aims(piece, subsets[everything], baseline["figures"]),
        "commit": runs[0]["commit"],
        "versions": versions(),
    }


def _aims(piece: Piece, ours: dict[str, Any], baseline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figure -> what was to be reached, and whether it was."""
    aims = {}
    for place, figure in enumerate(piece.aims):
        least = piece.at_least if place == 0 else None
        found = ours[figure]["mean"]
        aims[figure] = {
            "above": baseline[figure],
            "at_least": least,
            "reached": found is not None and found > baseline[figure] and (least is None or found >= least),
        }
    return aims


def merge(path: Path, lock: Path, name: str, found: dict[str, Any], text_model: str) -> None:
    """Put one piece into the results file and make the table again, whole or not at all."""
    with FileLock(lock):
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"pieces": {}}
        pieces = known["pieces"] | {name: found}
        ordered = {key: pieces[key] for key in PIECES if key in pieces}
        write_json(path, {"text_model": text_model, "commit": commit(), "pieces": ordered})
        results = json.loads(path.read_text(encoding="utf-8"))
        part = path.with_suffix(".md.part")
        part.write_text(render(results), encoding="utf-8")
        part.replace(path.with_suffix(".md"))


def main(argv: Sequence[str] | None = None) -> None:
    said = "Other options go to training.train."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=said, allow_abbrev=False)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the corpora's folders")
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES), help="these pieces alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a run for each")
    parser.add_argument("--all_rows", action="store_true", help="train on all rows where a part is the default")
    parser.add_argument(
        "--text_model_name_or_path", default=".cache/assets/SmolLM2-135M-Instruct", help="folder or Hub id"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/real_data"), help="corpora and runs, kept")
    parser.add_argument("--output", type=Path, default=RESULTS / "real_data.json", help="the project's own by default")
    arguments, extra = parser.parse_known_args(argv)
    try:
        check_model_location(arguments.text_model_name_or_path)
        check_writable(arguments.output.parent)
    except ValueError as error:
        parser.error(str(error))
    for name in arguments.only:
        found = measure(name, arguments, extra)
        merge(
            arguments.output,
            arguments.work / "results.lock",
            name,
            found,
            Path(arguments.text_model_name_or_path).name,
        )
        print(f"{name}: results in {arguments.output} and {arguments.output.with_suffix('.md')}", flush=True)


if __name__ == "__main__":
    main()
