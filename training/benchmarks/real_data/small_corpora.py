"""Small corpora, as one's own: the recipe first-corpus on three moods of RAVDESS, beside logistic regression.

    python -m training.benchmarks.real_data.small_corpora RAVDESS

RAVDESS is the folder of the unpacked archives, of which the actors 1 to 12 are used. Each corpus draws three moods and
divides the actors anew: six to train, two to validate and four to test, with 24 clips of each. The recipe is
`first-corpus.yaml` without video; its settings were chosen on other corpora of these actors, and its voice copies on
these. Logistic regression gets mean and deviation over time of one layer of the same frozen encoder, of the clips, and
a second time of the recipe's voice copies as well. All are trained again on all eight actors, where nothing is left to
select an epoch.

    draw ─► a folder with metadata.csv ─► training.train, recipe first-corpus ─► run_eval ─┬─► small_corpora.json
    mean and deviation over time of the same frozen features ─► scikit-learn ──────────────┘

Existing corpora, encoder outputs, runs and results are reused; a corpus takes about ten minutes on a CPU core.
"""

import csv
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arguments import parse_arguments
from ...cli import CommandParser, command_errors
from ...data.augmentation import AugmentationSettings
from ...data.dataset import EGMFDataset, load_examples
from ...data.encoder_cache import EncoderCache
from ...data.examples import EXTRA
from ...demo.stages import training_flags
from ...evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from ...evaluation.metrics import summarize
from ...model.builder import build
from ...model.language_model import check_model_location
from ...model.tasks_file import read_tasks
from ...paths import CONFIGS, RESULTS
from ...records import check_writable, commit, digest_of_json, read_json, versions, write_json, write_text
from ...trainer.run import train
from .ravdess_folds import LAYER, STRENGTH, convert, fit_regression, measure_statistics, pool


RECIPE = CONFIGS / "first-corpus.yaml"
TASK = "mood"
SPLIT = "test"
NUM_MOODS = 3
EXCLUDED = "neutral"  # has half as many clips as the other moods
NUM_ACTORS = {"train": 6, "validation": 2, SPLIT: 4}
METRICS = ("accuracy", "macro_f1", "negative_log_likelihood", "calibration_error")
ON_ALL = "_on_all"  # suffix of the figures with the actors for validation among those to train
TO_LAST_EPOCH = ["--eval_split", "train", "--eval_strategy", "no", "--load_best_model_at_end", "false"]


class Draw(NamedTuple):
    """One corpus.

    Args:
        moods: its labels.
        splits: speaker -> split.
    """

    moods: list[str]
    splits: dict[str, str]

    def without_validation(self) -> "Draw":
        """The same corpus, with the speakers for validation among those to train."""
        splits = {name: SPLIT if split == SPLIT else "train" for name, split in self.splits.items()}
        return Draw(self.moods, splits)


def make_parser() -> ArgumentParser:
    parser = CommandParser(description=__doc__.splitlines()[0], epilog="Other options are passed to training.train.")
    parser.add_argument("source", type=Path, help="folder of the unpacked archives")
    parser.add_argument("--audio", help="audio encoder, a preset, folder or Hub id (default: the recipe's)")
    parser.add_argument("--text_model_name_or_path", default=".cache/assets/SmolLM2-135M-Instruct")
    parser.add_argument("--corpora", type=int, minimum=1, default=8, help="how many to draw (default: 8)")
    parser.add_argument("--work", type=Path, default=Path("runs/small_corpora"), help="folder for corpora and runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "small_corpora.json", help="results file")
    parser.set_defaults(landmarks=None, folds=[1])  # of ravdess_folds
    return parser


# ---- corpora --------------------------------------------------------------------------------------------------


def draw(number: int, examples: Sequence[dict[str, Any]]) -> Draw:
    """The moods and the division of the speakers of a corpus; the same number draws the same corpus.

    Raises:
        ValueError: too few speakers or moods.
    """
    moods = sorted({example["answer"] for example in examples} - {EXCLUDED})
    speakers = sorted({example[EXTRA]["speaker"] for example in examples})[: sum(NUM_ACTORS.values())]
    if len(moods) < NUM_MOODS or len(speakers) < sum(NUM_ACTORS.values()):
        raise ValueError(
            f"The examples have {len(speakers)} speakers and {len(moods)} moods; this needs "
            f"{sum(NUM_ACTORS.values())} and {NUM_MOODS}. Download the other archives of RAVDESS."
        )
    rng = np.random.default_rng(number)
    chosen = sorted(rng.choice(moods, NUM_MOODS, replace=False).tolist())
    roles = np.repeat(list(NUM_ACTORS), list(NUM_ACTORS.values())).tolist()
    return Draw(chosen, dict(zip(rng.permutation(speakers).tolist(), roles, strict=True)))


def split_of(example: dict[str, Any], drawn: Draw) -> str | None:
    """The split of an example in a corpus; None if it is not part of it."""
    return drawn.splits.get(example[EXTRA]["speaker"]) if example["answer"] in drawn.moods else None


def write_corpus(folder: Path, examples: Sequence[dict[str, Any]], drawn: Draw) -> None:
    """A folder as a user would lay it out: metadata.csv, tasks.yaml, and links to the clips."""
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["id", "split", "task", "audio", "answer", "speaker"])
    for example in examples:
        split = split_of(example, drawn)
        if split is None:
            continue
        source = Path(example["audio"])
        link = clips / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
        speaker = example[EXTRA]["speaker"]
        writer.writerow([example["id"], split, TASK, f"clips/{source.name}", example["answer"], speaker])
    labels = ", ".join(drawn.moods)
    task = f"{TASK}:\n  kind: classification\n  labels: [{labels}]\n"
    write_text(folder / "tasks.yaml", task + '  prompt: "\\nThe speaker\'s mood is"\n')
    write_text(folder / "metadata.csv", table.getvalue())


# ---- EGMF -----------------------------------------------------------------------------------------------------


def training_options(arguments: Namespace, corpus: Path, *further: str) -> list[str]:
    """Arguments of training.train, with `further` ones, without the recipe and the folder of the run."""
    options = ["--dataset", str(corpus), "--tasks_file", str(corpus / "tasks.yaml")]
    options += ["--modalities", "audio", "--video", "none"]
    options += ["--text_model_name_or_path", arguments.text_model_name_or_path]
    options += ["--encoder_cache", str(arguments.work / "encoders")]
    if arguments.audio is not None:
        options += ["--audio", arguments.audio]
    return [*options, *further, *arguments.training_options]


def train_and_evaluate(arguments: Namespace, corpus: Path, options: Sequence[str]) -> dict[str, Any]:
    """Metrics on the speakers held out, and the minutes of training."""
    contents = [path.read_text(encoding="utf-8") for path in (RECIPE, corpus / "metadata.csv", corpus / "tasks.yaml")]
    settings = digest_of_json([options, contents])
    run = arguments.work / "runs" / f"{corpus.name}-{settings[:8]}"
    if not (run / "training.json").is_file():
        places = ["--config", str(RECIPE), "--output_dir", str(run)]
        train(*parse_arguments([*places, *options, *training_flags(run)]))
    results = run / f"results-{SPLIT}.json"
    if not results.is_file():
        evaluate_checkpoint(
            EvaluationOptions(
                model_name_or_path=str(run),
                dataset=str(corpus),
                split=SPLIT,
                encoder_cache=str(arguments.work / "encoders"),
            )
        )
    (evaluated,) = read_json(results)["subsets"].values()
    metrics = evaluated["tasks"][TASK]["metrics"]
    minutes = read_json(run / "training.json")["seconds"]["all"] / 60
    return {**{name: metrics[name] for name in METRICS}, "minutes": minutes}


class Copies(NamedTuple):
    """The voice copies of the training clips, for logistic regression.

    Args:
        statistics: (N, F), N being the copies of all clips.
        answers: N labels.
    """

    statistics: np.ndarray
    answers: list[str]


def measure_copies(arguments: Namespace, corpus: Path, options: Sequence[str]) -> Copies:
    """The voice copies that EGMF is trained on."""
    places = ["--config", str(RECIPE), "--output_dir", str(arguments.work / "unused")]
    model_arguments, data_arguments, training_arguments = parse_arguments([*places, *options])
    model, processor = build(model_arguments, read_tasks(corpus / "tasks.yaml"))
    cache = EncoderCache(arguments.work / "encoders", model, processor)
    augmentation = AugmentationSettings.from_arguments(data_arguments, training_arguments.seed)
    examples = load_examples(corpus, "train")
    dataset = EGMFDataset(examples, processor, augmentation=augmentation, encoder_cache=cache)
    cache.fill((dataset,), "cpu")
    width = cache.stems["audio"].width
    rows = []
    answers = []
    for example in dataset.examples:
        for key in example["copy_keys"]:
            states = cache.read("audio", key).float()
            rows.append(pool(states[:, LAYER * width : (LAYER + 1) * width]))
            answers.append(example["answer"])
    return Copies(np.array(rows).reshape(len(rows), -1), answers)


def fit_baseline(
    statistics: np.ndarray, examples: Sequence[dict[str, Any]], drawn: Draw, copies: Copies | None = None
) -> float:
    """Accuracy of logistic regression on the speakers held out, fitted on the training speakers, and on `copies`."""
    splits = [split_of(example, drawn) or "" for example in examples]
    answers = [example["answer"] for example in examples]
    if copies is not None and copies.answers:
        statistics = np.concatenate([statistics, copies.statistics])
        answers += copies.answers
        splits += ["train"] * len(copies.answers)
    roles = np.array(splits)
    return fit_regression(statistics, np.array(answers), roles == "train", roles == SPLIT)


def measure(arguments: Namespace, number: int, statistics: np.ndarray, examples: Sequence[dict[str, Any]]) -> dict:
    """All figures of a corpus: of regression and EGMF, trained on the training speakers, and on all but those to
    test."""
    drawn = draw(number, examples)
    held_out = [name for name, split in drawn.splits.items() if split == SPLIT]
    figures: dict[str, Any] = {"moods": drawn.moods, "test_speakers": held_out}
    for suffix, variant, further in (("", drawn, []), (ON_ALL, drawn.without_validation(), TO_LAST_EPOCH)):
        corpus = arguments.work / "corpora" / f"corpus_{number}{suffix}"
        write_corpus(corpus, examples, variant)
        options = training_options(arguments, corpus, *further)
        measured = train_and_evaluate(arguments, corpus, options)
        copies = measure_copies(arguments, corpus, options)
        figures[f"logistic_regression{suffix}"] = fit_baseline(statistics, examples, variant)
        figures[f"logistic_regression_copies{suffix}"] = fit_baseline(statistics, examples, variant, copies)
        figures |= {name + suffix: value for name, value in measured.items()}
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments, arguments.training_options = make_parser().parse_known_args(argv)
        if not arguments.source.is_dir():
            raise ValueError(f"{arguments.source} is not a folder. Give the folder of RAVDESS's unpacked archives.")
        check_model_location(arguments.text_model_name_or_path)
        check_writable(arguments.output.parent)
        statistics, examples = measure_statistics(arguments, convert(arguments), ("audio",))
        rows = []
        for number in range(arguments.corpora):
            row = measure(arguments, number, statistics["audio"], examples)
            rows.append(row)
            print(json.dumps(row), flush=True)
            figures = [name for name, value in row.items() if isinstance(value, float)]
            results = {
                "audio": Path(arguments.audio or "whisper-base").name,
                "text_model": Path(arguments.text_model_name_or_path).name,
                "strength": STRENGTH,
                "commit": commit(),
                "versions": versions(),
                "summary": {name: summarize([row[name] for row in rows]) for name in figures},
                "corpora": rows,
            }
            write_json(arguments.output, results)
        print(f"results in {arguments.output}")


if __name__ == "__main__":
    main()
