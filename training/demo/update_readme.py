"""The figures in the pages, rendered from the results files between markers.

python -m training.demo.update_readme     # after the commands that create the results files

results files ─┬─► short tables, quickstart ─► README.md
               ├─► full tables ─► training/results/README.md
               └─► data ─► training/YOUR_FIRST_CORPUS.md
"""

import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors
from ..evaluation.subsets import ALL_MODALITIES, SUBSET_NAMES
from ..evaluation.tables import (
    MISSING,
    format_mean_std,
    format_number,
    format_subset,
    markdown_table,
    replace_block,
)
from ..hub.model_card import VARIANT_NAMES
from ..paths import RESULTS
from ..records import read_json, short_commit, write_text


REPOSITORY = Path(__file__).resolve().parents[2]
LINE_LENGTH = 120
MEDIA = {"features": "with precomputed features", "raw": "from samples and frames"}
HEADER = (
    "modalities",
    "emotion accuracy",
    "of what can be learned",
    "best on these clips",
    "best expected",
    "sentiment MAE",
    "best expected",
)
SUMMARY_COLUMNS = (0, 1, 3, 5)  # of HEADER, in the README
CALIBRATION_HEADER = (
    "modalities",
    "accuracy",
    "of what can be learned",
    "best on these clips",
    "mean confidence",
    "calibration error",
    "calibrated",
    "of a calibrated model, by chance",
    "of the learner",
)
PEAKS = ("train, bfloat16", "train, 4-bit", "predict, bfloat16")
SUMMARY_SUBSETS = ("text", "audio", "video", ALL_MODALITIES)
COMMANDS = {  # results file -> the command that creates it
    "demo.json": "make demo-study",
    "demo_ideal.json": "python -m training.demo.ideal data/demo",
    "demo_calibration.json": "python -m training.demo.calibration",
    "ravdess.json": "python -m training.benchmarks.real_data.ravdess_folds",
    "small_corpora.json": "python -m training.benchmarks.real_data.small_corpora",
    "real_data.json": "python -m training.benchmarks.real_data",
    "speed.json": "python -m training.benchmarks.cost.speed",
    "memory.json": "python -m training.benchmarks.cost.memory --backbone all --output training/results/memory.json",
    "quickstart.json": "python -m training.demo.quickstart",
}


def render_blocks() -> dict[str, dict[str, str]]:
    """Page -> name of the block -> Markdown, from the files in `training/results/`.

    Raises:
        ValueError: a results file is missing.
    """
    for name, command in COMMANDS.items():
        if not (RESULTS / name).is_file():
            raise ValueError(f"There is no {RESULTS / name}. Run `{command}` to create it.")
    files = {name.removesuffix(".json"): read_json(RESULTS / name) for name in COMMANDS}
    return {
        "README.md": {
            "quickstart": render_quickstart(files["quickstart"]),
            "results": "\n\n".join(
                [
                    summarize_demo(files["demo"], files["demo_ideal"]),
                    summarize_real_data(files["ravdess"], files["real_data"]),
                ]
            ),
            "backbones": summarize_backbones(files["memory"]),
        },
        "training/results/README.md": {
            "demo": render_demo(files["demo"], files["demo_ideal"]),
            "demo_calibration": render_calibration(files["demo_calibration"]),
            "ravdess": render_ravdess(files["ravdess"]),
            "small_corpora": render_small_corpora(files["small_corpora"]),
            "real_data": render_real_data(files["real_data"]),
            "speed": _describe_speed(files["speed"]),
            "backbones": render_backbones(files["memory"]),
        },
        "training/YOUR_FIRST_CORPUS.md": {"data": render_data_needed(files["real_data"])},
    }


# ---- the quickstart -------------------------------------------------------------------------------------------


def render_quickstart(record: dict[str, Any]) -> str:
    """The call of the quickstart and, as comments, what it prints, from `quickstart.json`."""
    arguments = f'text="{record["text"]}", task="{record["task"]}", top_k={record["top_k"]}'
    printed = pprint.pformat(record["prediction"], sort_dicts=False, width=LINE_LENGTH)
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        'pipe = pipeline("multimodal-emotion-recognition", model="runs/demo", trust_remote_code=True)',
        f'print(pipe("data/demo/{record["clip"]}", {arguments}))',
        *(f"# {line}" for line in printed.splitlines()),
        "```",
    ]
    return "\n".join(lines)


# ---- the demo -------------------------------------------------------------------------------------------------


def summarize_demo(results: dict[str, Any], ideal: dict[str, Any]) -> str:
    """Each modality and all of them, from `demo.json` and `demo_ideal.json`."""
    egmf = results["variants"]["egmf"]
    introduction = (
        f"**The demo**, synthetic clips, {len(egmf['seeds'])} seeds (mean ± standard deviation, chance "
        f"{results['ceilings']['emotion']['chance']:.3f}). Training took {_format_range(egmf['minutes']['values'])} "
        "minutes here. *Best on these clips* is the accuracy of an ideal observer, which sees every cue and knows the "
        "generator. "
        "[All subsets, variants, and how to rebuild them](training/results/README.md#the-demo)."
    )
    rows = accuracy_rows(results, ideal)
    columns = zip(HEADER, *(rows[subset] for subset in SUMMARY_SUBSETS), strict=True)
    header, *shown = [column for index, column in enumerate(columns) if index in SUMMARY_COLUMNS]
    return "\n".join([introduction, "", *markdown_table(header, shown)])


def render_demo(results: dict[str, Any], ideal: dict[str, Any]) -> str:
    """The demo's table, from `demo.json` and `demo_ideal.json`."""
    num_seeds = len(results["variants"]["egmf"]["seeds"])
    introduction = (
        f"**The demo**, synthetic test clips, {num_seeds} seeds (mean ± standard deviation), from "
        f"`training/results/demo.json`, which `{COMMANDS['demo.json']}` rebuilds:"
    )
    table = "\n".join(accuracy_table(results, ideal))
    return "\n\n".join([introduction, table, _describe_bounds(ideal), _describe_training(results)])


def accuracy_table(results: dict[str, Any], ideal: dict[str, Any]) -> list[str]:
    """Markdown table of every subset of modalities, and of the variants, next to the best possible figures."""
    variants = results["variants"]
    bounds = _bounds(results, ideal)
    rows = list(accuracy_rows(results, ideal).values())
    for name, label in VARIANT_NAMES.items():
        if name in variants:
            subset = "text" if name == "text_only" else ALL_MODALITIES
            rows.append(_variant_row(label, variants[name], subset, bounds))
    return markdown_table(HEADER, rows)


def accuracy_rows(results: dict[str, Any], ideal: dict[str, Any]) -> dict[str, list[str]]:
    """Subset of the modalities -> its row of the table, by `HEADER`."""
    bounds = _bounds(results, ideal)
    rows = {}
    for subset in SUBSET_NAMES:
        best_mae = format_number(bounds["sentiment"].get(subset))
        rows[subset] = _table_row(format_subset(subset), results["variants"]["egmf"], subset, bounds, best_mae)
    return rows


def _bounds(results: dict[str, Any], ideal: dict[str, Any]) -> dict[str, Any]:
    return {**results["ceilings"], "ideal": ideal["ideal"], "learner": ideal["learner"]}


def _variant_row(label: str, variant: dict[str, Any], subset: str, bounds: dict[str, Any]) -> list[str]:
    label = f"{label} (n = {len(variant['seeds'])})"
    return _table_row(label, variant, subset, bounds, format_number(None))


def _table_row(label: str, variant: dict[str, Any], subset: str, bounds: dict[str, Any], best_mae: str) -> list[str]:
    tasks = variant["subsets"].get(subset, {})
    accuracy = tasks.get("emotion", {}).get("accuracy")
    learner = bounds["learner"][subset]
    return [
        label,
        format_mean_std(accuracy),
        f"{accuracy['mean'] / learner:.0%} of {learner:.3f}" if accuracy else MISSING,
        format_number(bounds["ideal"][subset]),
        format_number(bounds["emotion"][subset]),
        format_mean_std(tasks.get("sentiment", {}).get("mae")),
        best_mae,
    ]


def _describe_bounds(ideal: dict[str, Any]) -> str:
    return (
        "*Best on these clips*: an ideal observer, which sees every cue and knows the generator, on the same "
        f"{ideal['examples']} clips. *What can be learned*: the same, but what each phrase expresses is inferred from "
        "the noisy labels of the training clips; every cue of voice and face is still seen without error "
        f"(`training/results/demo_ideal.json`, `{COMMANDS['demo_ideal.json']}`)."
    )


def _describe_training(results: dict[str, Any]) -> str:
    egmf = results["variants"]["egmf"]
    earlier = {commit for variant in results["variants"].values() for commit in variant["commits"]}
    earlier -= set(egmf["commits"])
    others = f", the variants below it at {', '.join(map(short_commit, sorted(earlier)))}" if earlier else ""
    return (
        f"Chance is {results['ceilings']['emotion']['chance']:.3f}. Training the {egmf['trained_parameters']:,} "
        f"parameters of a run took {_format_range(egmf['minutes']['values'])} minutes here. "
        f"Measured at commit {', '.join(map(short_commit, egmf['commits']))}{others}."
    )


def render_calibration(results: dict[str, Any]) -> str:
    """The demo's accuracy and calibration on new clips, from `demo_calibration.json`."""
    rows = []
    for subset in SUBSET_NAMES:
        before, after = results["subsets"][subset]["before"], results["subsets"][subset]["after"]
        learner = results["learner"][subset]
        figures = (before["confidence"], before["error"], after["error"], after["error_by_chance"])
        rows.append(
            [
                format_subset(subset),
                format_mean_std(before["accuracy"]),
                f"{before['accuracy']['mean'] / learner:.0%} of {learner:.3f}",
                f"{results['ideal'][subset]:.3f}",
                *map(format_mean_std, figures),
                f"{results['learner_error'][subset]:.3f}",
            ]
        )
    introduction = (
        f"**On {results['examples']:,} new clips** with emotions, drawn as the demo's own, "
        f"{_count_seeds(results['seeds'])}, from `training/results/demo_calibration.json` "
        f"(`{COMMANDS['demo_calibration.json']}`). *Calibrated*: with what `egmf calibrate` fits on the demo's "
        "validation split. The last columns are the calibration error that a calibrated model is measured to have on "
        "as many clips, and that of the predictor that reaches what can be learned:"
    )
    return "\n".join([introduction, "", *markdown_table(CALIBRATION_HEADER, rows)])


def _count_seeds(seeds: Sequence[int]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _format_range(values: Sequence[float]) -> str:
    low = f"{min(values):.1f}"
    high = f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _describe_speed(speed: dict[str, Any]) -> str:
    settings = speed["settings"]
    ratios = speed["ratios"]
    return (
        f"On two CPU cores in {settings['dtype']}, {MEDIA[settings['media']]}, batch {settings['batch_size']}, a "
        f"training step takes {ratios['training_step']:.2f} times as long as with the bare language model and the "
        f"same LoRA, and `score_answers` over {speed['answers']} labels takes {ratios['score_answers']:.2f} times as "
        f"long as a plain prefill ({speed['answering_s_per_sample']:.3f} s per sample, without decoding and "
        f"tokenizing), from `training/results/speed.json` (`{COMMANDS['speed.json']}`; the file holds its settings)."
    )


# ---- real data ------------------------------------------------------------------------------------------------


def summarize_real_data(ravdess: dict[str, Any], real_data: dict[str, Any]) -> str:
    """Every corpus beside its baseline, losses included, from `ravdess.json` and `real_data.json`."""
    introduction = (
        f"**Real data**, {real_data['text_model']} on a CPU. `make real` trains on the outputs of a frozen "
        f"{ravdess['audio']} and face landmarks: eight emotions (chance 0.125), actors unseen in each of "
        f"{len(ravdess['folds'])} folds, {_count_seeds(ravdess['seeds'])} (mean ± standard deviation); *per speaker*: "
        "features normalized with other, unlabeled clips of the same speaker. The others, some trained on a part of "
        "their corpus, mostly have one seed. Baselines are scikit-learn's logistic and ridge regression. "
        "[Intervals and conditions](training/results/README.md#other-corpora)."
    )
    header = ["corpus", "metric"]
    for name in ravdess["variants"]:
        header += [f"baseline{_per_speaker(name)}", f"EGMF{_per_speaker(name)}"]
    rows = []
    for subset in next(iter(ravdess["variants"].values()))["subsets"]:
        row = [f"RAVDESS by `make real`, {format_subset(subset)}", "accuracy"]
        for variant in ravdess["variants"].values():
            figures = variant["subsets"][subset]
            baseline = figures["logistic_regression"]
            row += [format_mean_std(baseline), _beside_baseline(figures["accuracy"], baseline["mean"])]
        rows.append(row)
    for benchmark in real_data["benchmarks"].values():
        metric = _main_figure(benchmark)
        row = [benchmark["title"], metric, *_compared(benchmark, metric)[1:]]
        rows.append(row + [""] * (len(header) - len(row)))
    return "\n".join([introduction, "", *markdown_table(header, rows)])


def _per_speaker(variant: str) -> str:
    return ", per speaker" if variant == "per_speaker" else ""


def render_ravdess(results: dict[str, Any]) -> str:
    """EGMF on unseen speakers beside logistic regression on the same frozen features, from `ravdess.json`."""
    introduction = (
        f"**Real voices and faces**, RAVDESS, {results['actors']} actors, eight emotions (chance 0.125), unseen "
        f"actors in each of {len(results['folds'])} folds, {_count_seeds(results['seeds'])} (mean ± standard "
        f"deviation), the model of `make real`: a frozen {results['audio']} and face landmarks; *per speaker*: "
        "features normalized with other, unlabeled clips of the same speaker; "
        f"[every figure and its conditions](ravdess.md), rebuilt by `{COMMANDS['ravdess.json']}`:"
    )
    rows = []
    for subset in next(iter(results["variants"].values()))["subsets"]:
        row = [format_subset(subset)]
        for variant in results["variants"].values():
            figures = variant["subsets"][subset]
            row += [format_mean_std(figures["logistic_regression"]), format_mean_std(figures["accuracy"])]
        rows.append(row)
    header = ["evaluated with"]
    for name in results["variants"]:
        header += [f"logistic regression{_per_speaker(name)}", f"EGMF{_per_speaker(name)}"]
    return "\n".join([introduction, "", *markdown_table(header, rows)])


def render_small_corpora(results: dict[str, Any]) -> str:
    """Each corpus of three moods beside logistic regression on the same features, from `small_corpora.json`."""
    corpora = results["corpora"]
    introduction = (
        f"**Small corpora**, as one's own: three moods of RAVDESS, accuracy on four unseen actors in each of "
        f"{len(corpora)} corpora (chance 0.333); audio through a frozen {results['audio']}, the recipe of [your first "
        "corpus](../YOUR_FIRST_CORPUS.md), whose settings were chosen on other corpora of these actors, and its voice "
        "copies on these. *Six actors*: "
        "the clips of two more select the epoch; *eight*: those are trained on as well, to the last epoch. *With "
        "copies*: also fitted on the recipe's copies of the training clips with another voice, as EGMF is. The layer "
        "and strength of logistic regression are the best on RAVDESS's folds ([chosen on the training speakers "
        "instead](../log/ravdess.md#a-layer-chosen-on-the-training-speakers)). "
        f"One seed; rebuilt by `{COMMANDS['small_corpora.json']}`:"
    )
    models = ("logistic_regression", "logistic_regression_copies", "accuracy")
    figures = [name + suffix for suffix in ("", "_on_all") for name in models]
    rows = [[", ".join(corpus["moods"]), *(format_number(corpus[name]) for name in figures)] for corpus in corpora]
    rows.append(["mean ± standard deviation", *(format_mean_std(results["summary"][name]) for name in figures)])
    names = ("logistic regression", "the same with copies", "EGMF")
    header = ["moods"]
    header += [f"{name}, {actors} actors" for actors in ("six", "eight") for name in names]
    return "\n".join([introduction, "", *markdown_table(header, rows)])


def render_real_data(results: dict[str, Any]) -> str:
    """EGMF compared with the baseline by each corpus's main figure, losses included, from `real_data.json`."""
    benchmarks = results["benchmarks"].values()
    introduction = (
        f"**Real data**, {results['text_model']} on a CPU, MELD and the translation trained on a part of their "
        "examples, one seed unless a standard deviation is given; [every figure and its conditions](real_data.md), "
        f"rebuilt by `{COMMANDS['real_data.json']}`:"
    )
    table = markdown_table(
        ("corpus", "metric", "constant prediction", "scikit-learn baseline", "EGMF", "95% interval"),
        [_real_data_row(benchmark) for benchmark in benchmarks],
    )
    return "\n".join([introduction, "", *table])


def _real_data_row(benchmark: dict[str, Any]) -> list[str]:
    figure = _main_figure(benchmark)
    low, high = benchmark["egmf"]["confidence_intervals"][figure]
    constant, baseline, egmf = _compared(benchmark, figure)
    return [benchmark["title"], figure, constant, baseline, egmf, f"{format_number(low)} to {format_number(high)}"]


def _main_figure(benchmark: dict[str, Any]) -> str:
    """The correlation if it is reported, otherwise the first figure of the table."""
    return "correlation" if "correlation" in benchmark["shown"] else benchmark["shown"][0]


def _compared(benchmark: dict[str, Any], figure: str) -> tuple[str, str, str]:
    """Figures of the constant prediction, the baseline and EGMF; a figure below the baseline is labeled as such."""
    baseline = benchmark["baseline"]["figures"][figure]
    egmf = benchmark["egmf"]["subsets"][benchmark["egmf"]["everything"]][figure]
    constant = format_number(benchmark["baseline"]["constant"][figure])
    return constant, format_number(baseline), _beside_baseline(egmf, baseline)


def _beside_baseline(egmf: dict[str, Any], baseline: float) -> str:
    text = format_mean_std(egmf)
    return f"{text}, below the baseline" if egmf["mean"] < baseline else text


def render_data_needed(results: dict[str, Any]) -> str:
    """Number of training examples and the resulting figures of each corpus, from `real_data.json`."""
    rows = []
    for benchmark in results["benchmarks"].values():
        figure = _main_figure(benchmark)
        rows.append([benchmark["title"], benchmark["examples"]["train"], figure, *_compared(benchmark, figure)])
    header = ("corpus", "training examples", "metric", "constant prediction", "baseline", "EGMF")
    return "\n".join(markdown_table(header, rows))


# ---- memory ---------------------------------------------------------------------------------------------------


def summarize_backbones(results: dict[str, Any]) -> str:
    """The smallest GPU for each shipped backbone, from `memory.json`."""
    records = sorted(results["backbones"], key=_total_parameters)
    columns = [["parameters", *(f"GPU to {peak}" for peak in PEAKS)]]
    for record in records:
        gpus = [f"{peak['gpu_gb']} GB" if peak["gpu_gb"] else MISSING for peak in _shown_peaks(record)]
        columns.append([_billions(record), *gpus])
    header = ["`--backbone`", *(f"`{record['backbone']}`" for record in records)]
    note = (
        f"Estimated for {_describe_batch(records)}; `egmf memory --backbone NAME` estimates others. "
        "Nothing was measured on a GPU."
    )
    return "\n".join([*markdown_table(header, zip(*columns, strict=True)), "", note])


def render_backbones(results: dict[str, Any]) -> str:
    """Peak memory and the smallest GPU for each shipped backbone, from `memory.json`."""
    records = sorted(results["backbones"], key=_total_parameters)
    header = ("`--backbone`", "parameters", "trained", *PEAKS)
    table = markdown_table(header, [_backbone_row(record) for record in records])
    note = (
        f"Estimated peak memory and the smallest GPU that has it: {_describe_batch(records)}; `egmf memory --backbone "
        "NAME` estimates other settings. Nothing was measured on a GPU. From `training/results/memory.json` "
        f"(`{COMMANDS['memory.json']}`)."
    )
    return "\n".join([*table, "", note])


def _describe_batch(records: Sequence[dict[str, Any]]) -> str:
    batch = records[0]["batch"]
    return f"batch {batch['samples']}, {batch['length']} tokens, gradient checkpointing"


def _total_parameters(record: dict[str, Any]) -> int:
    return sum(counts["total"] for counts in record["parameters"].values())


def _billions(record: dict[str, Any]) -> str:
    return f"{_total_parameters(record) / 1e9:.2f} B"


def _shown_peaks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of training in bfloat16 and in 4 bit, and of predicting in bfloat16."""
    training = record["peaks"]["training"]
    return [
        training["bfloat16, checkpointed"],
        training["4-bit, checkpointed"],
        record["peaks"]["answering"]["bfloat16"],
    ]


def _backbone_row(record: dict[str, Any]) -> list[str]:
    trained = sum(counts["trainable"] for counts in record["parameters"].values())
    peaks = map(_format_peak, _shown_peaks(record))
    return [f"`{record['backbone']}`", _billions(record), f"{trained / 1e6:.1f} M", *peaks]


def _format_peak(peak: dict[str, Any]) -> str:
    gpu = f"{peak['gpu_gb']} GB GPU" if peak["gpu_gb"] else MISSING
    return f"{peak['bytes'] / 2**30:.1f} GiB, {gpu}"


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument(
            "--repository", type=Path, default=REPOSITORY, help="folder of the repository whose pages are updated"
        )
        arguments = parser.parse_args(argv)
        for page, blocks in render_blocks().items():
            path = arguments.repository / page
            text = path.read_text(encoding="utf-8")
            for name, block in blocks.items():
                text = replace_block(text, name, block)
            write_text(path, text)


if __name__ == "__main__":
    main()
