"""The folder that becomes the repo: weights, code, processor, card, results and a manifest.

run ─► load ─► adapter: names its language model on the Hub ─┐
               standalone: LoRA merged, or kept in layers ───┴─► save_pretrained, which copies the code
    ─► results, report, gates.png, ceilings ─► README.md ─► pushed.json, with the hash of every file
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch

from modeling_egmf import EGMFConfig, EGMFForConditionalGeneration
from modeling_egmf.adapters_egmf import adapter_configs
from modeling_egmf.parts_egmf import is_local, named_parts
from processing_egmf import EGMFProcessor

from ..evaluation.gate_factors import OWN_FACTORS
from ..evaluation.run_records import read_results, read_training
from ..evaluation.subsets import full_subset
from ..model.builder import load
from ..model.export import merge, stand_alone
from ..paths import HUB_CARDS
from ..records import (
    commit,
    digest_of_chunks,
    digest_of_file,
    read_json,
    versions,
    weight_files,
    write_json,
    write_text,
)
from .card_facts import CardFacts, demo_facts, read_facts
from .errors import PushError
from .model_card import CardOptions, find_results, read_run_config, read_study, write_card
from .options import PushOptions
from .verify import SENTENCES, TOLERANCE, example_sample


MANIFEST = "pushed.json"
ENDPOINT_FILES = ("handler.py", "requirements.txt")
FILE_URI = re.compile(r"(?i)\bfile:(?://[\w.-]*)?(?=/)")  # what comes before the path
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~<])/(?:[^\s/`|,()]+/)+([^\s/`|,()]+)")
SECRET_NAMES = re.compile(r"token$|^logging_dir$|^hub_", re.IGNORECASE)


@dataclass
class ExportedModel:
    """The model that was saved to the folder.

    Args:
        model: as it was saved.
        processor: as it was saved.
        facts: facts on the card.
        merging: result of `merge_lora`; None if it was not called.
    """

    model: EGMFForConditionalGeneration
    processor: EGMFProcessor
    facts: CardFacts
    merging: dict[str, Any] | None

    @property
    def kind(self) -> str:
        """`adapter` or `standalone`."""
        return "standalone" if self.model.config.text_model_id is None else "adapter"


def weights_fingerprint(run: Path) -> str:
    """A hash of the run's trained weights, which identifies the model.

    Raises:
        PushError: the folder holds no weights.
    """
    if not any(run.glob("model*.safetensors")) or not (run / "config.json").is_file():
        raise PushError(
            f"{run} is not a checkpoint: config.json or model.safetensors is missing. Give a run's folder."
        )
    return digest_of_chunks(bytes.fromhex(digest_of_file(path)) for path in weight_files(run))


def check_finished(run: Path) -> None:
    """Refuse a folder without the record of a finished training."""
    if not (run / "training.json").is_file():
        raise PushError(f"{run} has no training.json: it is not a finished run of `egmf train`.")


def export_folder(
    options: PushOptions, folder: Path, text_model: tuple[str, str | None] | None = None
) -> ExportedModel:
    """Write everything that goes into the repo into an empty folder.

    Args:
        options: options of the push.
        folder: created if it does not exist.
        text_model: id and commit that an adapter checkpoint names; None for those that the run names.

    Raises:
        PushError: the run is not complete, or an adapter checkpoint would name a folder that no one else has.
    """
    run = options.run
    fingerprint = weights_fingerprint(run)
    check_finished(run)
    model, processor, merging = load_for_export(options, text_model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if options.endpoint:
        for name in ENDPOINT_FILES:
            shutil.copyfile(HUB_CARDS / "endpoint" / name, folder / name)
    copy_records(options, folder)
    facts = find_facts(run, options.card, find_corpus(run))
    write_repo_card(options, folder, facts, merging)
    exported = ExportedModel(model, processor, facts, merging)
    write_manifest(folder, fingerprint, exported)
    return exported


# ---- the model --------------------------------------------------------------------------------------------------


def load_for_export(
    options: PushOptions, text_model: tuple[str, str | None] | None
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor, dict[str, Any] | None]:
    """The run's model as it will be saved, its processor, and the result of `merge_lora`."""
    model, processor = load_run(options.run)
    if model.config.text_model_id is None:
        return model, processor, None
    if not options.standalone:
        if text_model is not None:
            model.config.text_model_id, model.config.text_model_revision = text_model
        require_shared_encoders(model.config)
        return model, processor, None
    merging = None
    if adapter_configs(model.language_model):
        merging = merge_lora(model, processor)
        if not merging["merged"]:
            del model  # large, and about to be loaded again
            model, _ = load_run(options.run)
    return stand_alone(model), processor, merging


def load_run(run: Path) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    try:
        return load(run)
    except (OSError, ValueError) as error:
        raise PushError(f"{run} cannot be pushed, because it cannot be loaded: {error}") from error


def require_shared_encoders(config: EGMFConfig) -> None:
    """Refuse an adapter checkpoint whose frozen pretrained encoder is in a local folder.

    Args:
        config: with located parts.
    """
    for owner, field, name in named_parts(config):
        part = getattr(owner, field)
        if owner is not config and is_local(part):
            modality = name.partition("_")[0]
            raise PushError(
                f"The frozen {modality} encoder is in a folder, {part!r}, which no one else has. Push with "
                "--standalone, or train on the encoder's Hub id."
            )


def merge_lora(model: EGMFForConditionalGeneration, processor: EGMFProcessor) -> dict[str, Any]:
    """Merge LoRA in place, and compare the model's answers before and after on made-up samples.

    Returns:
        `moved`, the largest change of a probability over `samples`, and `merged`, whether it stays within
        `tolerance`: only then should the merged model be pushed. With a language model in bfloat16 it rarely does.
    """
    batches = []
    for seed, sentence in enumerate(SENTENCES):
        for sample in (example_sample(processor, seed), {"text": sentence}):
            batches += [processor(**sample, task=task) for task in processor.task_objects]
    before = [_answer_probabilities(model, batch) for batch in batches]
    merge(model)
    after = [_answer_probabilities(model, batch) for batch in batches]
    moved = max(float((old - new).abs().max()) for old, new in zip(before, after, strict=True))
    return {"merged": moved <= TOLERANCE, "moved": moved, "samples": len(batches), "tolerance": TOLERANCE}


@torch.no_grad()
def _answer_probabilities(model: EGMFForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.score_answers(**batch).probabilities.float()


def describe_merging(merging: dict[str, Any]) -> str:
    """One line that says whether LoRA was merged into a standalone checkpoint."""
    change = f"probabilities by up to {merging['moved']:.1e} on {merging['samples']} made-up samples"
    if merging["merged"]:
        return f"LoRA       merged, which changes {change}"
    return f"LoRA       in separate layers: merging would change {change}, more than {merging['tolerance']:g}"


# ---- records ----------------------------------------------------------------------------------------------------


def portable(value: Any) -> Any:
    """A record without machine-specific values: only the last part of absolute paths, no tokens and log folders."""
    if isinstance(value, dict):
        return {key: portable(entry) for key, entry in value.items() if not SECRET_NAMES.search(key)}
    if isinstance(value, list):
        return [portable(entry) for entry in value]
    if isinstance(value, str) and "\n" not in value and len(value) > 1:
        plain = FILE_URI.sub("", value)
        path = PurePath(os.path.expanduser(plain) if plain.startswith("~") else plain)
        return path.name if path.is_absolute() else value
    return value


def portable_text(text: str, paths: Iterable[str]) -> str:
    """A text in which the given paths, and all others that are absolute, are reduced to their last part."""
    text = FILE_URI.sub("", text)
    for path in paths:
        if PurePath(path).is_absolute():
            text = text.replace(path, PurePath(path).name)
    return ABSOLUTE_PATH.sub(r"\1", text)


def without_column_sections(report: str) -> str:
    """A report without the sections and the picture that show values of the table's columns."""
    own = "|".join(OWN_FACTORS)
    section = rf"(?m)^(?:### Speakers,|#### Weights by (?!(?:{own})$)).*\n(?:(?!#).*\n)*"
    shortened = re.sub(section, "", report)
    if shortened == report:
        return report
    return re.sub(r"!\[[^\]]*\]\(gates-by-group\.png\)\n+", "", shortened)


def without_columns(results: dict[str, Any]) -> dict[str, Any]:
    """Results without the columns of the table that the model does not read: names of people or remarks, perhaps."""
    subsets = {}
    for subset, part in results["subsets"].items():
        tasks = {}
        for task, figures in part["tasks"].items():
            predictions = [
                {name: value for name, value in prediction.items() if name != "columns"}
                for prediction in figures["predictions"]
            ]
            tasks[task] = figures | {"predictions": predictions}
        subsets[subset] = part | {"tasks": tasks}
    return results | {"subsets": subsets}


def find_corpus(run: Path) -> Path | None:
    """The corpus folder that a run was trained on, if it still exists."""
    dataset = (read_training(run).get("data_arguments") or {}).get("dataset")
    return Path(dataset) if dataset and Path(dataset).is_dir() else None


def copy_records(options: PushOptions, folder: Path) -> None:
    """Copy training record, results, ceilings, the report with its plots, and the results over several seeds."""
    run = options.run
    corpus = find_corpus(run)
    sources = {path.name: path for path in [run / "training.json", *sorted(run.glob("results-*.json"))]}
    for place in (run, corpus):
        if place is not None and (place / "ceilings.json").is_file():
            sources["ceilings.json"] = place / "ceilings.json"
    if options.study is not None:
        sources["study.json"] = options.study
    datasets = {(read_training(run).get("data_arguments") or {}).get("dataset")}
    for name, path in sources.items():
        if name.startswith("results-"):
            content = without_columns(read_results(path, run))
            datasets.add(content.get("dataset"))
        else:
            content = read_json(path)
        write_json(folder / name, portable(content))
    if (run / "report.md").is_file():
        text = (run / "report.md").read_text(encoding="utf-8")
        paths = [str(run), str(run.resolve()), *filter(None, datasets)]
        text = without_column_sections(text)
        write_text(folder / "report.md", portable_text(text, paths))
        for name in re.findall(r"\]\(([\w-]+\.png)\)", text):
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)


# ---- the card ---------------------------------------------------------------------------------------------------


def find_facts(run: Path, card: Path | None, corpus: Path | None) -> CardFacts:
    """Facts from `--card` or the run's `card.yaml`; for a run on the demo corpus, the demo's facts fill the gaps."""
    facts = CardFacts()
    if any(folder is not None and (folder / "ceilings.json").is_file() for folder in (run, corpus)):
        facts = demo_facts(read_run_config(run))
    path = card or run / "card.yaml"
    if card is None and not path.is_file():
        return facts
    try:
        return read_facts(path, facts)
    except (OSError, ValueError) as error:
        raise PushError(str(error)) from error


def write_repo_card(options: PushOptions, folder: Path, facts: CardFacts, merging: dict[str, Any] | None) -> None:
    """Write README.md of the repo, and the plot of the gate that it shows."""
    if not (folder / "gates.png").is_file():
        draw_gates(options.run, folder)
    card_options = CardOptions(
        folder=folder,
        corpus=folder,
        repo_id=options.repo_id,
        revision=options.tag or options.revision,
        study=read_study(options.study) if options.study else None,
        merging=merging,
    )
    try:
        write_card(options.run, facts, card_options)
    except (KeyError, ValueError) as error:
        raise PushError(f"The card of {options.run} cannot be written: {error}") from error


def draw_gates(run: Path, folder: Path) -> None:
    """Plot the gate for the first task with labels, if there are results and matplotlib is installed."""
    results_file = find_results(run)
    if results_file is None or importlib.util.find_spec("matplotlib") is None:
        return
    from ..evaluation.plots import plot_gates

    results = read_json(results_file)
    tasks = results["subsets"].get(full_subset(results), {}).get("tasks", {})
    for part in tasks.values():
        first = part["predictions"][0] if part["predictions"] else {}
        if "label" in first and "experts" in first:
            plot_gates(part["predictions"], list(first["probabilities"]), folder / "gates.png")
            return


# ---- the manifest -----------------------------------------------------------------------------------------------


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_manifest(folder: Path, fingerprint: str, exported: ExportedModel) -> None:
    """Write `pushed.json`: which model the repo holds, and which files were pushed."""
    config = exported.model.config
    adapter = exported.kind == "adapter"
    files = {
        str(path.relative_to(folder)): digest_of_file(path) for path in list_files(folder) if path.name != MANIFEST
    }
    manifest = {
        "model": fingerprint,
        "kind": exported.kind,
        "merging": exported.merging,
        "text_model": [config.text_model_id, config.text_model_revision] if adapter else None,
        "source_commit": commit(),
        "versions": versions(),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
