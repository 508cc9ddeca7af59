"""The model card of a run, rendered from its results, its training record and what its author says about it.

    results-test.json, training.json ─┐
    study.json (several seeds) ───────┼─► hub_cards/templates/model_card.md ─► README.md with checked metadata
    card.yaml (CardFacts) ────────────┘

No figure is written by hand: a test checks that each comes from one of these files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.gates import gate_spread
from ..evaluation.report_tables import results_table
from ..evaluation.run_records import NUMBER, read_results, read_training
from ..evaluation.subsets import ALL_MODALITIES, SUBSET_NAMES, full_subset, modalities_of_config, trained_modalities
from ..evaluation.tables import format_mean_std, format_number, format_subset, markdown_table
from ..paths import HUB_CARDS
from ..records import Each, check_shape, read_json, weight_files
from .card_facts import CardFacts, demo_facts
from .card_metadata import check_card


TEMPLATE = HUB_CARDS / "templates/model_card.md"
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "weighted_f1": "Weighted F1",
    "mae": "MAE",
    "correlation": "Pearson r",
    "correlation_of_mean": "Pearson r of the mean",
}
EVAL_RESULTS = ("accuracy", "weighted_f1", "mae", "correlation")  # in the metadata, which leaderboards read
TAGS = ["emotion-recognition", "sentiment-analysis", "multimodal", "egmf", "custom_code"]
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"
DEMO_TASKS = {"emotion", "sentiment"}  # their table shows the best possible figures next to ours
VARIANT_NAMES = {
    "text_only": "text, model trained on text only",
    "labels_only": "all three, without mixup, token dropout, fitted pseudo tokens and distillation",
    "no_fusion_pretraining": "all three, no fusion pretraining",
}


@dataclass
class CardOptions:
    """Where a card goes, and what it contains in addition to the run's files.

    Args:
        folder: holds the weights and gets the card; None for the run's folder.
        corpus: folder whose `ceilings.json`, if there is one, has the best possible figures.
        repo_id: argument of `from_pretrained` in the example; None for the run's folder.
        revision: tag or branch in the example; None for the latest.
        study: results of the demo's study.py, for a table over several seeds.
        merging: result of `merge_lora` for a standalone checkpoint.
    """

    folder: Path | None = None
    corpus: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    study: dict[str, Any] | None = None
    merging: dict[str, Any] | None = None


# ---- the run's files --------------------------------------------------------------------------------------------


def read_json_if_any(path: Path) -> dict[str, Any]:
    """The content of a JSON file; an empty dict if there is no such file."""
    return read_json(path) if path.is_file() else {}


def find_results(run: Path) -> Path | None:
    """The results file of the test split, or else of another split; None if nothing was evaluated."""
    paths = sorted(run.glob("results-*.json"))
    test = run / "results-test.json"
    if test in paths:
        return test
    return paths[0] if paths else None


def read_run_config(run: Path) -> dict[str, Any]:
    """The configuration of a run's model; that of its results if there is no checkpoint next to them."""
    config = read_json_if_any(run / "config.json")
    results = find_results(run)
    if not config and results is not None:
        config = read_results(results).get("config") or {}
    return config


@dataclass
class CardSources:
    """The files that a card is rendered from. `config` is the checkpoint's, `run_config` the run's: a standalone
    checkpoint no longer names its language model."""

    results: dict[str, Any]
    record: dict[str, Any]
    ceilings: dict[str, Any]
    config: dict[str, Any]
    run_config: dict[str, Any]
    modalities: tuple[str, ...]  # that the model has and was trained on

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks' results with all modalities of the model."""
        return self.results["subsets"].get(full_subset(self.results), {}).get("tasks", {})

    @property
    def pipeline_tag(self) -> str:
        """The Hub's task, by the richest modality of the model.

        For the first two, the Hub shows code with `AutoModel`; for `video-classification`, it would show a call of
        `pipeline` that loads another pipeline than ours.
        """
        tags = {"video": "video-text-to-text", "audio": "audio-text-to-text", "text": "text-generation"}
        return next(tag for modality, tag in tags.items() if modality in self.modalities)


def read_sources(run: Path, options: CardOptions) -> CardSources:
    results_file = find_results(run)
    results = read_results(results_file, run) if results_file else {"subsets": {}, "split": "", "config": {}}
    ceilings = read_json_if_any((options.corpus or run) / "ceilings.json")
    config = read_json_if_any((options.folder or run) / "config.json")
    run_config = read_run_config(run)
    return CardSources(
        results=results,
        record=read_training(run, for_report=True),
        ceilings=ceilings or read_json_if_any(run / "ceilings.json"),
        config=config or run_config,
        run_config=run_config,
        modalities=trained_modalities(run, modalities_of_config(config or run_config)),
    )


# ---- tables -----------------------------------------------------------------------------------------------------


def run_table(results: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    """Markdown table of one run: every task and every subset of modalities that was evaluated."""
    subsets = {name: part["tasks"] for name, part in results["subsets"].items()}
    tasks = {task for parts in subsets.values() for task in parts}
    if ceilings and tasks <= DEMO_TASKS:
        table = results_table(results, ceilings)
        return markdown_table(table.header, table.rows)
    every_part = [part for parts in subsets.values() for part in parts.values()]
    metrics = [key for key in METRIC_NAMES if any(part["metrics"].get(key) is not None for part in every_part)]
    rows = []
    for task in sorted(tasks):
        for subset in SUBSET_NAMES:
            part = subsets.get(subset, {}).get(task)
            if part is not None:
                figures = [format_number(part["metrics"].get(key)) for key in metrics]
                rows.append([task, format_subset(subset), part["examples"], *figures])
    return markdown_table(["task", "modalities", "examples", *(METRIC_NAMES[key] for key in metrics)], rows)


def read_study(path: Path) -> dict[str, Any]:
    """Results over several seeds, of the demo's study.py.

    Raises:
        ValueError: not JSON, or not such a file.
    """
    study = read_json(path)
    advice = "It is not a results file of training.demo.study, or damaged. Give another --study."
    missing = (*NUMBER, type(None))
    summaries = {f"{name}?": {"mean": missing, "std": missing} for name in METRIC_NAMES}
    variant = {"seeds": [int], "subsets": Each(Each(summaries))}
    check_shape(study, {"variants": {"egmf": variant}}, path, advice)
    check_shape(study, {"variants": Each(variant)}, path, advice)
    if not study["variants"]["egmf"]["subsets"]:
        raise ValueError(f"{path} has no results. {advice}")
    return study


def study_table(study: dict[str, Any]) -> list[str]:
    """Markdown table of the demo's study.py: n, mean ± standard deviation, and text only for comparison."""
    variants = study["variants"]
    subsets = variants["egmf"]["subsets"]
    columns = []
    for task, metrics in next(iter(subsets.values())).items():
        columns += [(task, key) for key in METRIC_NAMES if key in metrics]

    def row(label: str, variant: dict[str, Any], subset: str) -> list[Any]:
        tasks = variant["subsets"].get(subset, {})
        figures = [format_mean_std(tasks.get(task, {}).get(key)) for task, key in columns]
        return [label, len(variant["seeds"]), *figures]

    rows = [row(format_subset(name), variants["egmf"], name) for name in SUBSET_NAMES if name in subsets]
    for name, label in VARIANT_NAMES.items():
        if name in variants:
            rows.append(row(label, variants[name], "text" if name == "text_only" else ALL_MODALITIES))
    header = [f"{task} {METRIC_NAMES[key]}" for task, key in columns]
    return markdown_table(["modalities", "n", *header], rows)


# ---- metadata ---------------------------------------------------------------------------------------------------


def make_eval_results(sources: CardSources, facts: CardFacts) -> list[EvalResult]:
    """The figures with all modalities, as the Hub's metadata has them."""
    dataset_type = "synthetic" if facts.synthetic else (facts.datasets or ["private"])[0]
    eval_results = []
    for task, part in sources.tasks.items():
        for key in EVAL_RESULTS:
            value = part["metrics"].get(key)
            if value is None:
                continue
            eval_result = EvalResult(
                task_type=sources.pipeline_tag,
                task_name=f"{task} from {in_words(sources.modalities)}",
                dataset_type=dataset_type,
                dataset_name=facts.dataset or "unnamed",
                dataset_config=task,  # otherwise all results would be listed under the first task
                dataset_split=sources.results["split"],
                metric_type=key,
                metric_name=METRIC_NAMES[key],
                metric_value=round(value, 4),
            )
            eval_results.append(eval_result)
    return eval_results


def make_metadata(sources: CardSources, facts: CardFacts, base_model: str | None) -> ModelCardData:
    eval_results = make_eval_results(sources, facts)
    return ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="transformers",
        pipeline_tag=sources.pipeline_tag,
        language=facts.language or None,
        base_model=base_model,
        datasets=facts.datasets or None,
        metrics=sorted({result.metric_type for result in eval_results}) or None,
        tags=TAGS,
        model_name=facts.name,
        eval_results=eval_results or None,
    )


def find_base_model(run: Path, named: str, facts: CardFacts) -> str | None:
    """Hub id of the language model: from the facts, or the checkpoint's, unless that is a folder."""
    is_hub_id = re.fullmatch(HUB_ID, named) is not None
    if facts.base_model is None and is_hub_id and not (run / named).is_dir():
        return named
    return facts.base_model


def in_words(modalities: Sequence[str]) -> str:
    """`("text", "audio", "video")` -> `text, audio and video`."""
    return " and ".join(filter(None, [", ".join(modalities[:-1]), modalities[-1]]))


# ---- the card ---------------------------------------------------------------------------------------------------


def write_card(run: Path, facts: CardFacts | None = None, options: CardOptions | None = None) -> Path:
    """Write `README.md` with metadata that `huggingface_hub` has checked.

    Args:
        run: holds `training.json` and, unless it was not evaluated, `results-SPLIT.json`.
        facts: facts that no file contains; None for those of the demo.
        options: where the card goes, and further content.

    Raises:
        ValueError: the Hub would refuse the metadata, or the Space is not named by its id.
    """
    options = options or CardOptions()
    folder = options.folder or run
    sources = read_sources(run, options)
    if facts is None:
        facts = demo_facts(sources.run_config)
    if facts.space is not None and not re.fullmatch(HUB_ID, facts.space):
        raise ValueError(f"`space` is {facts.space!r}; give the Space's id on the Hub, ORG/NAME.")
    named = sources.config.get("text_model_id") or sources.run_config.get("text_model_id") or ""
    base_model = find_base_model(run, named, facts)
    card = ModelCard.from_template(
        make_metadata(sources, facts, base_model),
        template_path=str(TEMPLATE),
        facts=facts,
        where=options.repo_id or str(run),
        revision=options.revision,
        merging=options.merging,
        text_model=(base_model or named or "unnamed").split("/")[-1],
        **_describe_checkpoint(sources, folder),
        **_describe_results(sources, folder),
        **_describe_study(options.study),
        **_describe_training(sources.record),
    )
    card.content = re.sub(r"\n{3,}", "\n\n", card.content)  # skipped sections of the template leave blank lines
    check_card(str(card))
    path = folder / "README.md"
    card.save(path)
    return path


def _describe_checkpoint(sources: CardSources, folder: Path) -> dict[str, Any]:
    """The template's variables about the files of the checkpoint."""
    size = sum(path.stat().st_size for path in weight_files(folder))
    stored_tasks = read_json_if_any(folder / "processor_config.json").get("tasks") or []
    pipelines = sources.config.get("custom_pipelines") or {}
    return {
        "tasks": list(sources.tasks) or [task["name"] for task in stored_tasks],
        "pipeline": next(iter(pipelines), None),
        "modalities": in_words(sources.modalities),
        "media": [modality for modality in ("video", "audio") if modality in sources.modalities],
        "is_adapter": sources.config.get("text_model_id") is not None,
        "text_model_id": sources.config.get("text_model_id"),
        "megabytes": f"{size / 1e6:.1f}",
        "endpoint": (folder / "handler.py").is_file(),
    }


def _describe_results(sources: CardSources, folder: Path) -> dict[str, Any]:
    """The template's variables about the evaluation."""
    evaluated = bool(sources.results["subsets"])
    spread: dict[str, float] = {}
    for part in sources.tasks.values():
        if part["predictions"] and "experts" in part["predictions"][0]:
            spread = gate_spread(part["predictions"])
            break
    return {
        "evaluated": evaluated,
        "split": sources.results["split"],
        "table": "\n".join(run_table(sources.results, sources.ceilings)) if evaluated else "",
        "examples": ", ".join(f"{part['examples']} clips of {task}" for task, part in sources.tasks.items()),
        "gate": ", ".join(f"{expert} {value:.3f}" for expert, value in spread.items()),
        "gate_picture": (folder / "gates.png").is_file(),
    }


def _describe_study(study: dict[str, Any] | None) -> dict[str, Any]:
    """The template's variables about several seeds."""
    if study is None:
        return {"study": "", "study_seeds": ""}
    seeds = study["variants"]["egmf"]["seeds"]
    return {"study": "\n".join(study_table(study)), "study_seeds": ", ".join(map(str, seeds))}


def _describe_training(record: dict[str, Any]) -> dict[str, Any]:
    """The template's variables about the training run."""
    resumed = record.get("resumed_from") is not None  # then only the time since resuming is known
    return {
        "seed": record["seed"],
        "trained": f"{record['parameters']['trained']:,}",
        "all_parameters": f"{record['parameters']['all']:,}",
        "minutes": None if resumed else f"{record['seconds']['all'] / 60:.1f}",
        "train_examples": record["examples"]["train"],
    }
