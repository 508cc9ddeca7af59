"""RAVDESS on unseen speakers: EGMF with a frozen Whisper and face landmarks, beside logistic regression on the same.

    python -m training.benchmarks.real_data.ravdess_folds RAVDESS --landmarks LANDMARKS

RAVDESS is the folder of the unpacked archives, LANDMARKS that of the tables of face landmarks. The model is that of
`make real`, with and without per-speaker normalization, trained on all actors but those of a fold; each is evaluated
with every subset of its modalities:

    fold ─► training.train, recipe ravdess-whisper-base ─► run_eval, every subset ─┬─► ravdess.json and .md
    mean and deviation over time of the same frozen features ─► scikit-learn ──────┘

Existing corpora, encoder outputs, runs and results are reused; a fold takes about five minutes on a CPU core.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_egmf.encoders_egmf import mean_and_deviation

from ...arguments import parse_arguments
from ...cli import CommandParser, command_errors
from ...converters import ravdess
from ...data.dataset import EGMFDataset, load_examples
from ...data.encoder_cache import EncoderCache
from ...data.examples import EXTRA
from ...demo.stages import training_flags
from ...evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from ...evaluation.metrics import summarize
from ...evaluation.tables import format_mean_std, format_number, format_subset, markdown_table
from ...model.builder import build
from ...model.language_model import check_model_location
from ...model.tasks_file import read_tasks
from ...paths import CONFIGS, RESULTS
from ...real.inputs import choose_inputs
from ...records import check_writable, commit, digest_of_json, read_json, versions, write_json, write_text
from ...trainer.run import train


RECIPE = CONFIGS / "ravdess-whisper-base.yaml"
TASK = "ravdess"
SPLIT = "test"
SUBSETS = ("audio", "video", "audio+video")
VARIANTS = ("as_it_is", "per_speaker")  # without and with per-speaker normalization
# Of logistic regression. They are the best on these very folds, which flatters it.
LAYER = 3
STRENGTH = 0.01
HEADER = ("evaluated with", "per speaker", "logistic regression", "EGMF", "each fold", "calibration error")


def make_parser() -> ArgumentParser:
    parser = CommandParser(description=__doc__.splitlines()[0], epilog="Other options are passed to training.train.")
    parser.add_argument("source", type=Path, help="folder of the unpacked archives")
    parser.add_argument("--landmarks", type=Path, help="folder of the tables of face landmarks")
    parser.add_argument("--audio", help="audio encoder, a preset, folder or Hub id (default: the recipe's)")
    parser.add_argument("--text_model_name_or_path", default=".cache/assets/SmolLM2-135M-Instruct")
    parser.add_argument(
        "--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="folds to hold out (default: all)"
    )
    parser.add_argument("--seeds", type=int, minimum=0, nargs="+", default=[0], help="one run per fold and seed")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: both")
    parser.add_argument("--work", type=Path, default=Path("runs/ravdess"), help="folder for corpora and runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "ravdess.json", help="results file")
    return parser


def convert(arguments: Namespace) -> Path:
    """The converted corpus."""
    corpus = arguments.work / "corpus"
    landmarks = [] if arguments.landmarks is None else ["--landmarks", str(arguments.landmarks)]
    ravdess.main([str(arguments.source), str(corpus), *landmarks, "--no_progress"])
    return corpus


def manifest_name(fold: int) -> str:
    return f"fold_{fold}_train_test"


def training_options(arguments: Namespace, corpus: Path, fold: int, seed: int, per_speaker: bool) -> list[str]:
    """Arguments of training.train, without the folder of the run."""
    options = ["--config", str(RECIPE), "--dataset", str(corpus), "--tasks_file", str(corpus / "tasks.yaml")]
    options += ["--split_manifest", manifest_name(fold), "--seed", str(seed)]
    options += ["--text_model_name_or_path", arguments.text_model_name_or_path]
    options += ["--encoder_cache", str(arguments.work / "encoders")]
    if arguments.audio is not None:
        options += ["--audio", arguments.audio]
    if per_speaker:
        options += ["--speaker_normalization"]
    return [*options, *choose_inputs(corpus).options(), *arguments.training_options]


# ---- EGMF -----------------------------------------------------------------------------------------------------


def train_and_evaluate(arguments: Namespace, corpus: Path, fold: int, seed: int, per_speaker: bool) -> dict[str, Any]:
    """Subset -> figures on the actors held out, and the minutes of training."""
    options = training_options(arguments, corpus, fold, seed, per_speaker)
    settings = digest_of_json([options, RECIPE.read_text(encoding="utf-8")])
    run = arguments.work / "runs" / f"fold{fold}-seed{seed}-{settings[:8]}"
    if not (run / "training.json").is_file():
        train(*parse_arguments([*options, "--output_dir", str(run), *training_flags(run)]))
    results = run / f"results-{SPLIT}.json"
    if not results.is_file():
        evaluation = EvaluationOptions(
            model_name_or_path=str(run),
            dataset=str(corpus),
            split=SPLIT,
            split_manifest=manifest_name(fold),
            subsets=["every"],
            seed=seed,
            encoder_cache=str(arguments.work / "encoders"),
        )
        evaluate_checkpoint(evaluation)
    evaluated = read_json(results)["subsets"]
    training = read_json(run / "training.json")
    figures: dict[str, Any] = {"fold": fold, "seed": seed, "minutes": training["seconds"]["all"] / 60}
    for subset in evaluated:
        metrics = evaluated[subset]["tasks"][TASK]["metrics"]
        figures[subset] = {name: metrics[name] for name in ("accuracy", "macro_f1", "calibration_error")}
    return figures


# ---- logistic regression --------------------------------------------------------------------------------------


def measure_statistics(
    arguments: Namespace, corpus: Path, modalities: Sequence[str] = ("audio", "video")
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Modality -> mean and deviation over time of the frozen features, (N, 2 * width), and the N examples.

    Raises:
        ValueError: a clip lacks one of the `modalities`.
    """
    options = training_options(arguments, corpus, arguments.folds[0], 0, per_speaker=False)
    model_arguments, *_ = parse_arguments([*options, "--output_dir", str(arguments.work / "unused")])
    model, processor = build(model_arguments, read_tasks(corpus / "tasks.yaml"))
    cache = EncoderCache(arguments.work / "encoders", model, processor)
    dataset = EGMFDataset(load_examples(corpus), processor, encoder_cache=cache)
    cache.fill((dataset,), "cpu")
    width = cache.stems["audio"].width
    vectors: dict[str, list[np.ndarray]] = {}
    for index in range(len(dataset)):
        for modality, values in dataset.load_vectors(index).items():
            states = torch.as_tensor(values).float()
            if modality == "audio":
                states = states[:, LAYER * width : (LAYER + 1) * width]
            vectors.setdefault(modality, []).append(pool(states))
    lacking = [modality for modality in modalities if len(vectors.get(modality, [])) < len(dataset)]
    if lacking:
        raise ValueError(f"{corpus}: some clips lack {' and '.join(lacking)}. Give --landmarks with a table per clip.")
    return {modality: np.stack(rows) for modality, rows in vectors.items()}, dataset.examples


def pool(states: torch.Tensor) -> np.ndarray:
    """states (T, width) of a clip -> its mean and deviation over time, (2 * width,)."""
    return mean_and_deviation(states[None], torch.ones(1, len(states)))[0].numpy()


def normalize_speakers(vectors: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """vectors (N, F), speakers (N,) -> (N, F): each speaker's own mean and deviation taken off."""
    normalized = np.empty_like(vectors)
    for speaker in np.unique(speakers):
        chosen = speakers == speaker
        normalized[chosen] = StandardScaler().fit_transform(vectors[chosen])
    return normalized


def fit_baseline(
    statistics: dict[str, np.ndarray], examples: Sequence[dict[str, Any]], corpus: Path, fold: int, per_speaker: bool
) -> dict[str, float]:
    """Subset -> accuracy of logistic regression on the actors held out."""
    splits = {example["id"]: example["split"] for example in load_examples(corpus, manifest=manifest_name(fold))}
    held_out = np.array([splits[example["id"]] == SPLIT for example in examples])
    answers = np.array([example["answer"] for example in examples])
    speakers = np.array([example[EXTRA]["speaker"] for example in examples])
    accuracies = {}
    for subset in SUBSETS:
        inputs = np.concatenate([statistics[modality] for modality in subset.split("+")], axis=1)
        if per_speaker:
            inputs = normalize_speakers(inputs, speakers)
        accuracies[subset] = fit_regression(inputs, answers, ~held_out, held_out)
    return accuracies


def fit_regression(inputs: np.ndarray, answers: np.ndarray, fitted: np.ndarray, held_out: np.ndarray) -> float:
    """Accuracy of logistic regression.

    Args:
        inputs: (N, F).
        answers: labels, (N,).
        fitted: which examples it is fitted on, bool (N,).
        held_out: which examples it is measured on, bool (N,).
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
    model.fit(inputs[fitted], answers[fitted])
    return float(model.score(inputs[held_out], answers[held_out]))


# ---- results --------------------------------------------------------------------------------------------------


def summarize_runs(runs: Sequence[dict[str, Any]], baselines: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Subset -> summaries over the runs, and over the folds of logistic regression."""
    subsets = {}
    for subset in SUBSETS:
        subsets[subset] = {
            "logistic_regression": summarize([baseline[subset] for baseline in baselines]),
            "accuracy": summarize([run[subset]["accuracy"] for run in runs]),
            "macro_f1": summarize([run[subset]["macro_f1"] for run in runs]),
            "calibration_error": summarize([run[subset]["calibration_error"] for run in runs]),
        }
    return {"subsets": subsets, "minutes": [run["minutes"] for run in runs]}


def render(results: dict[str, Any]) -> str:
    """Markdown from `ravdess.json`."""
    rows = []
    for name, variant in results["variants"].items():
        for subset, figures in variant["subsets"].items():
            folds = ", ".join(format_number(value) for value in figures["accuracy"]["values"])
            row = [format_subset(subset), "yes" if name == "per_speaker" else "no"]
            row += [format_mean_std(figures["logistic_regression"]), format_mean_std(figures["accuracy"])]
            rows.append([*row, folds, format_mean_std(figures["calibration_error"])])
    lines = [
        "# RAVDESS, unseen speakers",
        "",
        "Rendered by `python -m training.benchmarks.real_data.ravdess_folds` from `ravdess.json`. Accuracy over eight "
        f"emotions (chance 0.125), mean ± standard deviation over folds {results['folds']} and seeds "
        f"{results['seeds']}: {results['examples']} clips of {results['actors']} actors, those of a fold held out. "
        f"Audio goes through a frozen {results['audio']}, faces are landmarks; the sentences say nothing about the "
        "emotion. Per speaker: features are standardized for each speaker, which needs other, unlabeled clips of the "
        "same speaker. "
        "Logistic regression is fitted on mean and deviation over time of the same features "
        f"(layer {LAYER}, C={STRENGTH}: the best on these folds, which flatters it). EGMF is one model, trained on "
        "both and evaluated with each subset; its dropout, weight decay, mixup, fitted pseudo tokens, distillation, "
        "batch size and epochs were chosen on these folds.",
        "",
        *markdown_table(HEADER, rows),
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments, arguments_of_training = make_parser().parse_known_args(argv)
        arguments.training_options = arguments_of_training
        if not arguments.source.is_dir():
            raise ValueError(f"{arguments.source} is not a folder. Give the folder of RAVDESS's unpacked archives.")
        check_model_location(arguments.text_model_name_or_path)
        check_writable(arguments.output.parent)
        corpus = convert(arguments)
        statistics, examples = measure_statistics(arguments, corpus)
        results: dict[str, Any] = {
            "audio": Path(arguments.audio or "whisper-base").name,
            "text_model": Path(arguments.text_model_name_or_path).name,
            "examples": len(examples),
            "actors": len({example[EXTRA]["speaker"] for example in examples}),
            "folds": arguments.folds,
            "seeds": arguments.seeds,
            "commit": commit(),
            "versions": versions(),
            "variants": {},
        }
        for name in arguments.variants:
            per_speaker = name == "per_speaker"
            baselines = [fit_baseline(statistics, examples, corpus, fold, per_speaker) for fold in arguments.folds]
            runs = []
            for seed in arguments.seeds:
                for fold in arguments.folds:
                    run = train_and_evaluate(arguments, corpus, fold, seed, per_speaker)
                    runs.append(run)
                    accuracies = ", ".join(f"{subset} {run[subset]['accuracy']:.3f}" for subset in SUBSETS)
                    print(f"{name}, fold {fold}, seed {seed}: {accuracies}", flush=True)
            results["variants"][name] = summarize_runs(runs, baselines)
            write_json(arguments.output, results)
            write_text(arguments.output.with_suffix(".md"), render(results))
        print(f"results in {arguments.output} and {arguments.output.with_suffix('.md')}")


if __name__ == "__main__":
    main()
