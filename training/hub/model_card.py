"""The model card of a run, rendered from its results JSON, its training record and what its maker says of it.

    results-test.json, training.json ─┐
    study.json (several seeds) ───────┼─► hub_cards/templates/model_card.md ─► README.md with checked metadata
    card.yaml (CardFacts) ────────────┘

No figure is written by hand: each comes from one of these files, and a test finds it there.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..demo.assets import FINGERPRINT, MODEL_FOLDER
from ..evaluation.metrics import gate_spread
from ..evaluation.report import results_table
from ..evaluation.subsets import ALL_MODALITIES as EVERYTHING
from ..evaluation.subsets import SUBSET_NAMES
from .card_metadata import check_card


TEMPLATE = Path(__file__).resolve().parents[2] / "hub_cards/templates/model_card.md"
METRIC_NAMES = {"accuracy": "Accuracy", "weighted_f1": "Weighted F1", "mae": "MAE", "correlation": "Pearson r"}
PIPELINE_TAG = "video-classification"
TABLE_TASKS = {"emotion", "sentiment"}  # of the demo, whose table has the best possible figures beside ours
VARIANT_NAMES = {"text_only": "text, model trained on text alone", "no_fusion_pretraining": "all three, no warm-up"}


@dataclass
class CardFacts:
    """What a card says that no results file knows. `card.yaml` in the run's folder, or `--card`, holds these fields.

    Args:
        name: of the model, as its title.
        dataset: what it was trained and tested on, as a reader would call it.
        datasets: ids of that data on the Hub, if it is there.
        language: ISO 639 codes of what it reads and hears.
        license: of the trained weights; an id of the Hub's list, or `other` with `license_name` and `license_link`.
        base_model: Hub id of the language model; by default the one that the checkpoint, or its run, names.
        base_model_license, data_license: in words, for the section about licenses.
        synthetic: the data was made by a program, so that the scores say nothing about people.
        limits: sentences about what this model is not good for, beside the general ones.
        widget: examples for the model's page, each with `text` or `src`, and `example_title`.
    """

    name: str = "EGMF"
    dataset: str = ""
    datasets: list[str] = field(default_factory=list)
    language: list[str] = field(default_factory=list)
    license: str = "other"
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    base_model_license: str = ""
    data_license: str = ""
    synthetic: bool = False
    limits: list[str] = field(default_factory=list)
    widget: list[dict[str, str]] = field(
        default_factory=lambda: [
            {"text": "I'm fine.", "example_title": "Words alone"},
            {"text": "I can't believe it!", "example_title": "Words that need a voice"},
        ]
    )

    def unsaid(self) -> list[str]:
        """Names of the fields that a published card should not lack."""
        wanted = ("dataset", "language", "base_model_license", "data_license")
        found = [name for name in wanted if not getattr(self, name)]
        return found + (["license"] if self.license == "other" and not self.license_name else [])


def demo_facts(config: dict[str, Any], dataset: str = "EGMF demo corpus") -> CardFacts:
    """What is true of every model that was trained on the demo's corpus.

    Args:
        config: of the run. Of the language model, and so of the weights' license, nothing is known but where its
            fingerprint is that of the demo's own.
    """
    own = config.get("text_model_fingerprint") == FINGERPRINT
    return CardFacts(
        name="EGMF demo",
        dataset=dataset,
        language=["en", "zh"],
        license="apache-2.0" if own else "other",
        base_model=f"HuggingFaceTB/{MODEL_FOLDER}" if own else None,
        base_model_license="Apache-2.0" if own else "",
        data_license="the synthetic clips are Apache-2.0; the rated sentences come from vaderSentiment (MIT, Hutto "
        "and Gilbert 2014)",
        synthetic=True,
        limits=[
            "It was trained on the language model as a quantized GGUF file gives it, not on the Hub's weights of that "
            "name: with those, answers differ a little."
        ]
        if own
        else [],
    )


def read_facts(path: Path, base: CardFacts | None = None) -> CardFacts:
    """`CardFacts` from YAML; what it leaves out is as in `base`.

    Raises:
        ValueError: a field is unknown or of another type.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {entry.name: entry for entry in dataclasses.fields(CardFacts)}
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold fields of a card: {', '.join(known)}.")
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ValueError(f"{path} has unknown fields {', '.join(unknown)}. Known: {', '.join(known)}.")
    lists = {"datasets", "language", "limits", "widget"}
    for name, value in found.items():
        wanted = list if name in lists else bool if name == "synthetic" else str
        if not isinstance(value, wanted):
            raise ValueError(f"`{name}` in {path} is {value!r}; it must be a {wanted.__name__}.")
    return dataclasses.replace(base or CardFacts(), **found)


def _eval_results(results: dict[str, Any], facts: CardFacts) -> list[EvalResult]:
    found = []
    kind = "synthetic" if facts.synthetic else (facts.datasets or ["private"])[0]
    for task, part in results["subsets"].get(EVERYTHING, {}).get("tasks", {}).items():
        for key, name in METRIC_NAMES.items():
            if part["metrics"].get(key) is not None:
                found.append(
                    EvalResult(
                        task_type=PIPELINE_TAG,
                        task_name=f"{task} from text, audio and video",
                        dataset_type=kind,
                        dataset_name=facts.dataset or "unnamed",
                        dataset_config=task,  # or the results of all tasks would be listed under the first
                        dataset_split=results["split"],
                        metric_type=key,
                        metric_name=name,
                        metric_value=round(part["metrics"][key], 4),
                    )
                )
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _summary(value: dict[str, Any] | None) -> str:
    if value is None:
        return "–"
    return _number(value["mean"]) + (f" ± {value['std']:.3f}" if value["std"] is not None else "")


def run_table(results: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    """Markdown rows of one run: every task and every subset of modalities that was asked."""
    names = {task for part in results["subsets"].values() for task in part["tasks"]}
    if names <= TABLE_TASKS:
        return results_table(results, ceilings)
    found = {name: part["tasks"] for name, part in results["subsets"].items()}
    metrics = [
        key
        for key in METRIC_NAMES
        if any(part["metrics"].get(key) is not None for tasks in found.values() for part in tasks.values())
    ]
    lines = [
        "| task | modalities | rows | " + " | ".join(METRIC_NAMES[key] for key in metrics) + " |",
        "|---|---|---|" + "---|" * len(metrics),
    ]
    for task in sorted(names):
        for subset in (name for name in SUBSET_NAMES if task in found.get(name, {})):
            part = found[subset][task]
            cells = " | ".join(_number(part["metrics"].get(key)) for key in metrics)
            lines.append(f"| {task} | {subset.replace('+', ' + ')} | {part['examples']} | {cells} |")
    return lines


def study_table(study: dict[str, Any]) -> list[str]:
    """Markdown rows of `training.demo.study`'s file: n, mean ± standard deviation over seeds, text alone beside it."""
    variants = study["variants"]
    columns = [
        (task, key)
        for task, metrics in next(iter(variants["egmf"]["subsets"].values())).items()
        for key in METRIC_NAMES
        if key in metrics
    ]
    lines = [
        "| modalities | n | " + " | ".join(f"{task} {METRIC_NAMES[key]}" for task, key in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]

    def line(label: str, variant: dict[str, Any], subset: str) -> None:
        tasks = variant["subsets"].get(subset, {})
        cells = " | ".join(_summary(tasks.get(task, {}).get(key)) for task, key in columns)
        lines.append(f"| {label} | {len(variant['seeds'])} | {cells} |")

    for subset in (name for name in SUBSET_NAMES if name in variants["egmf"]["subsets"]):
        line(subset.replace("+", " + "), variants["egmf"], subset)
    for name, label in VARIANT_NAMES.items():
        if name in variants:
            line(label, variants[name], "text" if name == "text_only" else EVERYTHING)
    return lines


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def results_file(run: Path) -> Path | None:
    """The results of the test split, or else of another one; None where nothing was evaluated."""
    found = sorted(run.glob("results-*.json"))
    return run / "results-test.json" if run / "results-test.json" in found else next(iter(found), None)


def run_config(run: Path) -> dict[str, Any]:
    """The configuration of a run's model; that of its results where no checkpoint is beside them."""
    found = results_file(run)
    return _read(run / "config.json") or (_read(found)["config"] if found else {})


def write_card(
    run: Path,
    data: Path | None = None,
    dataset: str = "EGMF demo corpus",
    *,
    facts: CardFacts | None = None,
    folder: Path | None = None,
    where: str | None = None,
    revision: str | None = None,
    study: dict[str, Any] | None = None,
    merging: dict[str, Any] | None = None,
) -> Path:
    """`README.md` with metadata that `huggingface_hub` has checked.

    Args:
        run: holds `training.json` and, unless it was not evaluated, `results-SPLIT.json`.
        data: the corpus; its `ceilings.json`, if there is one, gives the best possible figures.
        dataset: name of the demo's corpus; of no use with `facts`.
        facts: what no file knows; without it, those of the demo.
        folder: holds the weights and takes the card; default: the run.
        where: what `from_pretrained` is told in the example; default: the run.
        revision: a tag or branch for the example; None for the newest.
        study: what `training.demo.study` wrote, for a table over several seeds.
        merging: of a full checkpoint that was a light one, what `push_to_hub.merge_lora` says of its LoRA.

    Raises:
        ValueError: the metadata would be refused.
    """
    facts, folder = facts or demo_facts(run_config(run), dataset), folder or run
    found = results_file(run)
    results = _read(found) if found else {"subsets": {}, "split": "", "config": {}}
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    ceilings = _read((data or run) / "ceilings.json") or _read(run / "ceilings.json")
    config = _read(folder / "config.json") or run_config(run)
    whole = results["subsets"].get(EVERYTHING, {}).get("tasks", {})
    classified = next(
        (part for part in whole.values() if part["predictions"] and "experts" in part["predictions"][0]), {}
    )
    spread = gate_spread(classified["predictions"]) if classified else {}
    light = config.get("text_model_id") is not None
    base_model, named = facts.base_model, config.get("text_model_id") or run_config(run).get("text_model_id") or ""
    if base_model is None and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", named) and not (run / named).is_dir():
        base_model = named
    eval_results = _eval_results(results, facts)
    card_data = ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        language=facts.language or None,
        base_model=base_model,
        datasets=facts.datasets or None,
        metrics=sorted({result.metric_type for result in eval_results}) or None,
        tags=["emotion-recognition", "sentiment-analysis", "multimodal", "egmf", "custom_code"],
        model_name=facts.name,
        eval_results=eval_results or None,
        widget=facts.widget or None,
    )
    weights = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    tasks = list(whole) or [task["name"] for task in _read(folder / "processor_config.json").get("tasks") or []]
    pipelines = config.get("custom_pipelines") or {}
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        facts=facts,
        where=where or str(run),
        revision=revision,
        tasks=tasks,
        pipeline=next(iter(pipelines), None),
        light=light,
        megabytes=f"{weights / 1e6:.1f}",
        text_model=(base_model or named or "unnamed").split("/")[-1],
        text_model_id=config.get("text_model_id"),
        merging=merging,
        endpoint=(folder / "handler.py").is_file(),
        split=results["split"],
        seed=record["seed"],
        evaluated=bool(results["subsets"]),
        table="\n".join(run_table(results, ceilings)) if results["subsets"] else "",
        rows=", ".join(f"{part['examples']} clips of {task}" for task, part in whole.items()),
        study="\n".join(study_table(study)) if study else "",
        study_seeds=", ".join(map(str, study["variants"]["egmf"]["seeds"])) if study else "",
        gate=", ".join(f"{name} {value:.3f}" for name, value in spread.items()),
        gate_picture=(folder / "gates.png").is_file(),
        trained=f"{record['parameters']['trained']:,}",
        all_parameters=f"{record['parameters']['all']:,}",
        # Of a resumed run only the time since then is known.
        minutes=None if record.get("resumed_from") else f"{record['seconds']['all'] / 60:.1f}",
        train_rows=record["examples"]["train"],
    )
    card.content = re.sub(r"\n{3,}", "\n\n", card.content)  # what the template leaves out leaves its blank lines
    check_card(str(card))
    path = folder / "README.md"
    card.save(path)
    return path
