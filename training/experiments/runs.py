"""The trainings, evaluations and measurements that a plan needs, each with its files and its command.

FOLDER/demo-small/gate=uniform-seed0/          Run: one training; named after what differs from the recipe
                 /gate=uniform-seed0.log, .options.json
                 /gate=uniform-seed0/results-test.json, results-test-experts=....json        Evaluation
                 /gate=uniform-seed0/cost.json                                               Measurement
                 /language-models/layers=10/                                                 LanguageModelCopy
                 /diagnosis.json                                                             Diagnosis
"""

import contextlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cli import did_you_mean
from ..evaluation.run_records import read_results, read_training
from ..evaluation.task_map import read_task_map
from ..model.backbones import backbone_settings
from ..option_checks import check_options
from ..options import training_options
from ..paths import CONFIGS, python_command
from ..recipes import chosen_options
from ..recipes import read_settings as read_training_settings
from ..records import Each, check_shape, digest_of_json, read_json
from ..run_eval import make_parser as make_evaluation_parser
from .commands import command_line
from .plan import Plan, find_file, protocol_options, read_settings


MAX_NAME = 100
# What the runner adds to a results file: the options and subsets that it asked for.
ASKED = {"asked?": {"options": dict, "subsets": [str]}}


def unique_runs(runs: "Iterable[Run | None]") -> "dict[Path, Run]":
    """Runs by their folders, without None.

    Raises:
        ValueError: two of them have the same folder, and other options.
    """
    unique: dict[Path, Run] = {}
    for run in runs:
        if run is not None and run.describe() != unique.setdefault(run.folder, run).describe():
            raise ValueError(
                f"Two variants would be trained in {run.folder}, with different options or recipes, because names or "
                "values in them are too similar. Rename a file or folder that they name, or write equal values alike."
            )
    return unique


def options_name(options: Mapping[str, Any]) -> str:
    """A folder's name for options: `gate=uniform,lora_r=8`, or a digest where that would be too long."""
    text = ",".join(f"{key}={_value_name(value)}" for key, value in sorted(options.items()))
    text = re.sub(r"[^\w.,=+-]", "_", text)
    if len(text) > MAX_NAME:
        text = f"{text[:40]}-{digest_of_json(options, sort_keys=True)[:12]}"
    return text


def _value_name(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class LanguageModelCopy:
    """A language model made from another one: its first layers, or the same design with new weights.

    Args:
        source: folder or Hub id of the original.
        folder: of the copy.
        changes: `layers`, `random`, or fields of the configuration.
    """

    source: str
    folder: Path
    changes: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        return (self.folder / "config.json").is_file()

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def record(self) -> Path:
        """The file next to the folder that says what it was made from."""
        return self.folder.with_name(f"{self.folder.name}.options.json")

    def describe(self) -> dict[str, Any]:
        """The content of `record`."""
        return {"source": self.source, "changes": self.changes}

    def check(self) -> None:
        """Refuse a folder with the copy of another language model.

        Raises:
            ValueError: the folder holds another copy.
        """
        if self.record.is_file() and read_json(self.record) != json.loads(json.dumps(self.describe())):
            raise ValueError(f"{self.folder} is a copy of another language model. Give another --folder, or move it.")

    def command(self) -> list[str]:
        return python_command(
            "experiments.language_models", self.source, self.folder, "--changes", json.dumps(self.changes)
        )


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        folder: its output folder.
        recipe: YAML file of the recipe.
        options: options of `egmf train` that differ from the recipe, `seed` among them.
        start: the run that it fine-tunes; None for a new model.
        language_model: the copy that it is built on; None for the recipe's language model.
    """

    folder: Path
    recipe: Path
    options: dict[str, Any]
    start: "Run | None" = None
    language_model: LanguageModelCopy | None = None

    @property
    def is_finished(self) -> bool:
        return bool(read_training(self.folder, for_report=True))

    @property
    def record(self) -> Path:
        """The file next to the folder that says what it was trained with."""
        return self.folder.with_name(f"{self.folder.name}.options.json")

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def describe(self) -> dict[str, Any]:
        """The content of `record`."""
        return {"recipe": self.recipe.read_text(encoding="utf-8"), "options": self.options}

    def check_options(self) -> None:
        """Refuse what `egmf train` would refuse, before other runs have taken days.

        Raises:
            ValueError: an option does not exist, or has a value that is not possible.
        """
        known = training_options()
        for name in self.options:
            if name not in known:
                raise ValueError(f"`egmf train` has no option {name!r}.{did_you_mean(str(name), known)}")
        check_options(self.settings())

    def settings(self) -> Any:
        """All options of its training, those of the recipe and the defaults included."""
        arguments = self.command()[3:]
        return chosen_options(arguments, read_training_settings(arguments))

    @property
    def expert_names(self) -> list[str] | None:
        """The experts of its model, which is that of the run it starts from; None for those of another checkpoint."""
        if self.start is not None:
            return self.start.expert_names
        settings = self.settings()
        if settings.model_name_or_path is not None:
            return None
        return [entry.partition(":")[0] for entry in settings.experts]

    def check(self) -> None:
        """Refuse a folder whose run was started with other options.

        Raises:
            ValueError: the folder holds another run.
        """
        if self.record.is_file():
            if read_json(self.record) != json.loads(json.dumps(self.describe())):
                raise ValueError(
                    f"{self.folder} was started with another recipe or other options. "
                    "Give another --folder, or move it."
                )
        elif self.folder.exists():
            raise ValueError(f"{self.folder} is not a run of an experiment. Give another --folder, or move it.")

    def command(self) -> list[str]:
        return python_command(
            "train", "--config", self.recipe, "--output_dir", self.folder, *command_line(self.options)
        )


@dataclass(frozen=True)
class Evaluation:
    """One results file of a run.

    Args:
        run: the run that is evaluated.
        output: the results file.
        options: options of `egmf evaluate`, `dataset` among them.
        subsets: subsets of the modalities.
    """

    run: Run
    output: Path
    options: dict[str, Any]
    subsets: list[str]

    def stored(self) -> dict[str, Any] | None:
        """The results file if it was made with the same options, else None."""
        if not self.output.is_file():
            return None
        results = read_results(self.output)
        check_shape(results, ASKED, self.output, "It was not made by this experiment. Move it away.")
        asked = results.get("asked") or {}
        return results if asked.get("options") == self.options else None

    @property
    def is_finished(self) -> bool:
        """Whether the file exists, with these subsets and the same options."""
        results = self.stored()
        return results is not None and covers(results["asked"]["subsets"], self.subsets)

    def check_options(self) -> None:
        """Refuse what `egmf evaluate` would refuse, before the run has been trained.

        Raises:
            ValueError: an option does not exist, or has a value that is not possible.
        """
        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output):
                arguments = make_evaluation_parser().parse_args(self.command()[3:])
        except SystemExit as error:
            raise ValueError(output.getvalue().partition("\n")[0]) from error
        known = self.run.expert_names
        for name in arguments.experts or ():
            if known is not None and name not in known:
                raise ValueError(f"the model has no expert {name!r}; it has {', '.join(known)}.")
        read_task_map(arguments.task_map)

    def all_subsets(self) -> list[str]:
        """These subsets and those of the stored file, which another plan may need."""
        results = self.stored()
        asked = [] if results is None else results["asked"]["subsets"]
        return list(dict.fromkeys([*asked, *self.subsets]))

    def command(self) -> list[str]:
        fixed = ["--model_name_or_path", self.run.folder, "--output", self.output, "--overwrite"]
        options = command_line(self.options | {"subsets": self.all_subsets()}, flags=True)
        return python_command("run_eval", *fixed, *options)


def covers(asked: Sequence[str], needed: Sequence[str]) -> bool:
    """Whether results for some names of subsets hold those for others: `every` holds all of them."""
    return "every" in asked or set(needed) <= set(asked)


@dataclass(frozen=True)
class Measurement:
    """What a run's answers cost, and what `generate` answers: see cost.py.

    Args:
        run: the run that is measured.
        dataset: whose test examples are answered.
    """

    run: Run
    dataset: str

    @property
    def output(self) -> Path:
        return self.run.folder / "cost.json"

    @property
    def is_finished(self) -> bool:
        if not self.output.is_file():
            return False
        check_shape(read_json(self.output), {"generated": Each(dict)}, self.output, "Move it away to measure again.")
        return True

    def command(self) -> list[str]:
        return python_command("experiments.cost", self.run.folder, "--dataset", self.dataset, "--output", self.output)


@dataclass(frozen=True)
class Diagnosis:
    """What the language model does before training: see diagnosis.py.

    Args:
        text_model: folder or Hub id.
        dataset: whose test examples it reads.
        groups: column whose values are compared; None for no groups.
        output: its results file.
    """

    text_model: str
    dataset: str
    groups: str | None
    output: Path

    @property
    def is_finished(self) -> bool:
        if not self.output.is_file():
            return False
        stored = read_json(self.output)
        shape = {"language_model": str, "dataset": str}
        check_shape(stored, shape, self.output, "It is not a diagnosis of a language model. Move it away.")
        return (stored["language_model"], stored["dataset"]) == (self.text_model, self.dataset)

    def command(self) -> list[str]:
        options = command_line({"dataset": self.dataset, "groups": self.groups})
        return python_command("experiments.diagnosis", self.text_model, *options, "--output", self.output)


# ---- from a plan ------------------------------------------------------------------------------------------------


def recipe_file(plan: Plan, variant: str) -> Path:
    """The YAML file of the recipe that a variant is trained with."""
    return find_file(plan.recipe_of(variant), CONFIGS, "recipe")


def experiment_folder(plan: Plan, folder: Path, variant: str | None = None) -> Path:
    """The folder of the runs of a recipe and a protocol, which all plans share."""
    recipe = plan.recipe if variant is None else plan.recipe_of(variant)
    return folder / "-".join([Path(recipe).stem, plan.protocol_name or "full"])


def text_model_of(options: Mapping[str, Any], recipe: Path) -> str:
    """The language model that a run is built on.

    Raises:
        ValueError: neither the options nor the recipe name one.
    """
    settings = {**read_settings(recipe), **options}
    backbone = settings.get("backbone")
    text_model = settings.get("text_model_name_or_path")
    if text_model is None and backbone is not None:
        text_model = backbone_settings(backbone)["text_model_name_or_path"]
    if text_model is None:
        raise ValueError(f"{recipe} names no language model. Give --text_model_name_or_path.")
    return str(text_model)


def make_run(plan: Plan, variant: str, seed: int, folder: Path, shared: Mapping[str, Any]) -> Run:
    """The training of a variant and a seed.

    Args:
        shared: options given on the command line for all runs, such as `dataset`.
    """
    variant = plan.run_of(variant)
    definition = plan.variants[variant]
    recipe = recipe_file(plan, variant)
    settings = plan.settings_of(variant)
    root = experiment_folder(plan, folder, variant)
    # What the recipe says anyway does not make another run.
    own = {name: value for name, value in definition.train.items() if name not in settings or settings[name] != value}
    names = dict(own)
    if definition.recipe is not None:  # the dataset of the command line is that of the plan's recipe
        shared = {name: value for name, value in shared.items() if name != "dataset"}
    options = {**protocol_options(plan), **shared, **own}
    start = None
    language_model = None
    if definition.language_model is not None:
        changes = options_name(definition.language_model)
        source = text_model_of(options, recipe)
        copy_folder = root / "language-models" / f"{Path(source).name}-{changes}"
        language_model = LanguageModelCopy(source, copy_folder, definition.language_model)
        options["text_model_name_or_path"] = str(copy_folder)
        names["language_model"] = changes
    if definition.starts_from is not None:
        start = make_run(plan, definition.starts_from, seed, folder, shared)
        options["model_name_or_path"] = str(start.folder)
        names["starts_from"] = start.folder.name
    name = f"{options_name(names) or 'default'}-seed{seed}"
    return Run(root / name, recipe, {**options, "seed": seed}, start, language_model)


def make_evaluation(plan: Plan, variant: str, run: Run, shared: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a variant of a trained run."""
    own = plan.variants[variant].evaluate
    dataset = own.get("dataset") or dataset_of(run)
    options = {**shared, **own, "dataset": dataset}
    name = options_name(own)
    output = run.folder / (f"results-test-{name}.json" if name else "results-test.json")
    return Evaluation(run, output, options, list(plan.subsets_of(variant)))


def dataset_of(run: Run) -> str:
    """The dataset that a run is trained on.

    Raises:
        ValueError: neither the options nor the recipe name one.
    """
    dataset = run.options.get("dataset") or read_settings(run.recipe).get("dataset")
    if not dataset:
        raise ValueError(f"{run.recipe} names no dataset. Give --dataset.")
    return str(dataset)
