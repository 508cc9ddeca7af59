"""Experiment plans: a recipe, named variants of it, and the claims that the variants test.

    question: Does the gate do anything?
    claim: Expert weights that depend on the sample beat fixed ones.
    recipe: demo                       # training/configs/demo.yaml, or a path
    reference: two_stage               # the variant that all others are compared with
    subsets: [all]                     # of the modalities, as in `egmf evaluate`
    variants:
      two_stage: {}
      uniform:
        note: every expert has the same weight
        train: {gate: uniform}         # options of `egmf train`
      without_local:
        same_run_as: two_stage         # not trained again, only evaluated differently
        evaluate: {experts: [semantic, global]}    # options of `egmf evaluate`
    checks:
      - claim: The gate beats a static mixture
        better: two_stage              # VARIANT, VARIANT/SUBSET or VARIANT/SUBSET@GROUP: two_stage/text@zh
        worse: uniform
        kind: classification           # of the tasks that the claim is about
        by: 0.05                       # more than this, in units of the metric

`recipe_fit.py` adapts a plan to a recipe, `runner.py` carries it out, `statistics.py` decides its checks, `report.py`
shows both.
"""

import dataclasses
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..cli import did_you_mean
from ..paths import CONFIGS
from ..records import parse_yaml
from ..run_eval import check_subsets


PLANS = Path(__file__).with_name("plans")
PROTOCOLS = Path(__file__).with_name("protocols")
MODALITIES = ("text", "audio", "video")
METRICS = {"classification": "accuracy", "regression": "mae"}
LOWER_IS_BETTER = {"mae", "negative_log_likelihood", "calibration_error"}
NOT_IN_FILES = ("name", "left_out")  # fields of a plan that are not written in its file
# Options that the runner gives each command itself, and what chooses them.
OPTIONS_OF_RUNNER = {
    "train": {"seed": "--seeds", "output_dir": "--folder", "overwrite": "--folder"},
    "evaluate": {
        "model_name_or_path": "same_run_as",
        "subsets": "the variant's `subsets`",
        **dict.fromkeys(("output", "overwrite", "seeds", "config"), "--folder and --seeds"),
    },
}


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment.

    Args:
        note: what differs from the reference, in a few words.
        train: options of `egmf train` that differ from the recipe's.
        evaluate: options of `egmf evaluate`, such as `experts`.
        same_run_as: the variant whose trained runs are evaluated; None to train this one.
        starts_from: the variant whose trained run of the same seed is fine-tuned; None for a new model.
        language_model: changes of the recipe's language model: `layers` keeps its first ones, `random: true` draws new
            weights, then with any fields of its configuration. None leaves it as it is.
        recipe: another recipe, as for the plan; None for the plan's.
        subsets: subsets of the modalities to evaluate; None for the plan's.
    """

    note: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    same_run_as: str | None = None
    starts_from: str | None = None
    language_model: dict[str, Any] | None = None
    recipe: str | None = None
    subsets: list[str] | None = None


@dataclass(frozen=True)
class Check:
    """A claim about two cells of the results: one is better than the other.

    Args:
        claim: in words.
        better: cell with the better metric according to the claim: `VARIANT`, `VARIANT/SUBSET`,
            `VARIANT/SUBSET@GROUP` or `VARIANT@GROUP`.
        worse: cell with the worse metric.
        than: two more cells: the claim is that the first two differ by more than these.
        by: the difference must be larger than this, in units of the metric: 0.2 is 20 points of accuracy.
        kind: `classification` or `regression`, the tasks that the claim is about; None for all. Needed for `by`.
        metric: metrics of which the first that a task has is compared; None for the one that decides for the task.
        tasks: names of the tasks that the claim is about; None for all.
    """

    claim: str
    better: str
    worse: str
    than: list[str] | None = None
    by: float = 0.0
    kind: str | None = None
    metric: list[str] | None = None
    tasks: list[str] | None = None

    @property
    def cells(self) -> list[str]:
        """All cells that it compares."""
        return [self.better, self.worse, *(self.than or ())]


@dataclass(frozen=True)
class Plan:
    """An experiment.

    Args:
        name: the file's name without its suffix.
        question: what the experiment asks.
        claim: what the paper says.
        recipe: name of a file in training/configs, or a path.
        reference: the variant that the others are compared with.
        variants: by name, in the order of the tables.
        subsets: subsets of the modalities to evaluate.
        checks: the claims in a form that can be decided.
        metrics: kind of task -> the metric that decides, for tasks whose recipe does not select its checkpoint by one.
        protocol: name of a file in `protocols/` with options that shorten every run; None for the full recipe.
        groups: column of the dataset whose values divide the examples, `language` for instance; None for no groups.
        measure: whether each run's FLOPs, seconds and memory are measured, and its `generate` compared (cost.py).
        diagnose: whether the language model is diagnosed before training (diagnosis.py).
        recipes: names of the recipes that the plan makes sense for; None for any.
        left_out: what `fit_to_recipe` left out of the plan, and why.
    """

    name: str
    question: str
    claim: str
    recipe: str
    reference: str
    variants: dict[str, Variant]
    subsets: list[str] = field(default_factory=lambda: ["all"])
    checks: list[Check] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=lambda: dict(METRICS))
    protocol: str | None = None
    groups: str | None = None
    measure: bool = False
    diagnose: bool = False
    recipes: list[str] | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def recipe_name(self) -> str:
        """The recipe without the folders of its path."""
        return Path(self.recipe).stem

    @property
    def protocol_name(self) -> str | None:
        """The protocol without the folders of its path; None for the full recipe."""
        return None if self.protocol is None else Path(self.protocol).stem

    def run_of(self, variant: str) -> str:
        """The variant whose training a variant uses: itself, or the one that `same_run_as` names."""
        return self.variants[variant].same_run_as or variant

    def subsets_of(self, variant: str) -> list[str]:
        return self.variants[variant].subsets or self.subsets

    def recipe_of(self, variant: str) -> str:
        """The recipe that a variant is trained with."""
        return self.variants[self.run_of(variant)].recipe or self.recipe

    def settings_of(self, variant: str) -> dict[str, Any]:
        """The options of that recipe, overridden by the protocol's."""
        settings = read_settings(find_file(self.recipe_of(variant), CONFIGS, "recipe"))
        return settings | protocol_options(self)

    def modalities_of(self, variant: str) -> list[str]:
        """The modalities that a variant is trained with."""
        settings = self.settings_of(variant) | self.variants[self.run_of(variant)].train
        chosen = settings.get("modalities") or MODALITIES
        return [name for name in MODALITIES if name in chosen and settings.get(name, name) != "none"]

    def is_evaluated(self, variant: str, subset: str) -> bool:
        """Whether a variant is evaluated with a subset of the modalities, or with `all` that it has."""
        evaluated = self.subsets_of(variant)
        if "every" in evaluated or subset in evaluated:
            return True
        modalities = self.modalities_of(variant)

        def without_missing(name: str) -> list[str]:  # as recipe_fit.py changes subsets
            return modalities if name == "all" else [part for part in modalities if part in name.split("+")]

        wanted = without_missing(subset)
        return not wanted or wanted in map(without_missing, evaluated)

    def metric_of(self, task: str, kind: str) -> str:
        """The metric that decides for a task: the one by which a recipe selects its checkpoint, else the plan's."""
        recipes = dict.fromkeys([self.recipe, *map(self.recipe_of, self.variants)])
        for recipe in recipes:
            selected = read_settings(find_file(recipe, CONFIGS, "recipe")).get("metric_for_best_model", "")
            if selected.startswith(f"eval_{task}_"):
                return selected.removeprefix(f"eval_{task}_")
        return self.metrics[kind]


def split_cell(cell: str) -> tuple[str, str, str | None]:
    """`VARIANT/SUBSET@GROUP` -> variant, subset (`all` if there is none) and group."""
    name, _, group = cell.partition("@")
    variant, _, subset = name.partition("/")
    return variant, subset or "all", group or None


# ---- reading ----------------------------------------------------------------------------------------------------


def plan_names() -> list[str]:
    """The plans that come with EGMF."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def find_file(name: str, folder: Path, kind: str) -> Path:
    """A YAML file given by its path, or by the name of one in `folder`.

    Raises:
        ValueError: there is none.
    """
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    raise ValueError(
        f"There is no {kind} {name}.{did_you_mean(name, names)} Give a YAML file, or one of {', '.join(names)}."
    )


def recipe_path(plan: Plan) -> Path:
    """The recipe's YAML file."""
    return find_file(plan.recipe, CONFIGS, "recipe")


def protocol_options(plan: Plan) -> dict[str, Any]:
    """Options of the plan's protocol, which shorten every run."""
    if plan.protocol is None:
        return {}
    return read_settings(find_file(plan.protocol, PROTOCOLS, "protocol"))


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file of `name: value` settings.

    Raises:
        ValueError: it is not one.
    """
    try:
        settings = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold `name: value` lines.")
    return settings


def read_plan(name: str) -> Plan:
    """Read and check a plan.

    Args:
        name: a YAML file, or the name of a plan in `plans/`.

    Raises:
        ValueError: there is no such plan, or it is not valid; the message says where.
    """
    path = find_file(name, PLANS, "plan")
    fields = read_settings(path)
    try:
        variants = _as_dict(fields.get("variants"), "variants")
        fields["variants"] = {
            str(key): _make(Variant, _as_dict(value or {}, f"variant {key}"), f"variant {key}")
            for key, value in variants.items()
        }
        checks = fields.get("checks") or []
        if not isinstance(checks, list):
            raise ValueError("`checks` must be a list.")
        fields["checks"] = [
            _make(Check, _as_dict(check, f"check {number}"), f"check {number}")
            for number, check in enumerate(checks, 1)
        ]
        fields["metrics"] = METRICS | _as_dict(fields.get("metrics") or {}, "metrics")
        for key in NOT_IN_FILES:
            if key in fields:
                raise ValueError(f"the plan has no field {key!r}; its name is that of its file.")
        plan = _make(Plan, {"name": path.stem, **fields}, "the plan")
        check_plan(plan)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return plan


def _as_dict(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must hold `name: value` lines, not {value!r}.")
    return value


def _make(kind: type, fields: Mapping[str, Any], name: str) -> Any:
    """An instance of a dataclass above from a dict.

    Raises:
        ValueError: a field is unknown, missing, or of another type.
    """
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key in fields:
        if key not in known:
            raise ValueError(f"{name} has no field {key!r}.{did_you_mean(str(key), known)}")
    fields = {key: value for key, value in fields.items() if value is not None}
    for key, entry in known.items():
        optional = entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
        if key not in fields and not optional:
            raise ValueError(f"{name} needs the field {key!r}.")
    expected = {"str": str, "float": (int, float), "bool": bool, "list": list, "dict": dict}
    for key, value in fields.items():
        annotation = str(getattr(known[key].type, "__name__", known[key].type))
        wanted = expected.get(annotation.split("[")[0].split(" ")[0])
        is_wrong = wanted is not None and not isinstance(value, wanted)
        is_flag = isinstance(value, bool) and wanted is not bool
        if is_wrong or is_flag:
            raise ValueError(f"{name}: {key} is {value!r}, of type {type(value).__name__}; it must be {annotation}.")
        has_names = "list[str]" in str(known[key].type)
        if has_names and not all(isinstance(part, str) for part in value):
            raise ValueError(f"{name}: {key} is {value!r}; it must be a list of names. Put numbers in quotes.")
    return kind(**fields)


def check_plan(plan: Plan) -> None:
    """Check that a plan's parts fit each other.

    Raises:
        ValueError: a variant, metric or file is named that does not exist.
    """
    recipe_path(plan)
    if plan.protocol is not None:
        find_file(plan.protocol, PROTOCOLS, "protocol")
    if plan.reference not in plan.variants:
        raise ValueError(_no_variant("reference", plan.reference, plan))
    for kind, metric in plan.metrics.items():
        if kind not in METRICS or not isinstance(metric, str):
            raise ValueError(f"metrics: {kind!r} is {metric!r}; give {' and '.join(METRICS)} a metric's name.")
    _check_subsets("subsets", plan.subsets)
    for name in plan.variants:
        _check_variant(name, plan)
    for check in plan.checks:
        _check_claim(check, plan)


def _check_subsets(where: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"{where} is empty. Give names such as all or text+audio.")
    try:
        check_subsets(names)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('--subsets: ')}") from error


def _check_variant(name: str, plan: Plan) -> None:
    variant = plan.variants[name]
    if not name.isidentifier():
        raise ValueError(f"variant {name!r}: use letters, digits and underscores; it becomes part of a path.")
    if variant.recipe is not None:
        find_file(variant.recipe, CONFIGS, "recipe")
    if variant.subsets is not None:
        _check_subsets(f"variant {name}: subsets", variant.subsets)
    for field_name, managed in OPTIONS_OF_RUNNER.items():
        for option, value in getattr(variant, field_name).items():
            if option in managed:
                raise ValueError(
                    f"variant {name}: {field_name} has {option}, which {managed[option]} decides. Remove it."
                )
            if value is None:
                raise ValueError(f"variant {name}: {option} in `{field_name}` has no value. Give one, or remove it.")
    shared = variant.same_run_as
    for field_name, other in (("same_run_as", shared), ("starts_from", variant.starts_from)):
        if other is not None and (other not in plan.variants or plan.variants[other].same_run_as):
            raise ValueError(_no_variant(f"variant {name}: {field_name}", other, plan) + " It must be trained.")
    trained_with = {
        "train": variant.train,
        "starts_from": variant.starts_from,
        "language_model": variant.language_model,
        "recipe": variant.recipe,
    }
    for field_name, value in trained_with.items():
        if shared is not None and value:
            raise ValueError(
                f"variant {name} is not trained (same_run_as), so `{field_name}` has no effect. Remove one."
            )
    if variant.starts_from is not None and "model_name_or_path" in variant.train:
        raise ValueError(
            f"variant {name} starts from {variant.starts_from}. Remove `model_name_or_path`, or starts_from."
        )
    if variant.starts_from is not None and plan.variants[variant.starts_from].starts_from is not None:
        raise ValueError(f"variant {name}: {variant.starts_from} itself starts from another. Start from that one.")


def _check_claim(check: Check, plan: Plan) -> None:
    where = f"check {check.claim!r}"
    if check.than is not None and len(check.than) != 2:
        raise ValueError(f"{where}: `than` is {check.than}; give two cells, the better one first.")
    if check.kind not in (None, *METRICS):
        raise ValueError(f"{where}: kind is {check.kind!r}; give one of {', '.join(METRICS)}.")
    if check.by and check.kind is None:
        raise ValueError(f"{where}: `by` is in units of a metric, so give `kind` as well: {' or '.join(METRICS)}.")
    if not (math.isfinite(check.by) and check.by >= 0):
        raise ValueError(f"{where}: `by` is {check.by}; it must be a number of at least 0.")
    if split_cell(check.better) == split_cell(check.worse):
        raise ValueError(f"{where}: {check.better} is compared with itself. Name another cell.")
    for cell in check.cells:
        variant, subset, group = split_cell(cell)
        if variant not in plan.variants:
            raise ValueError(_no_variant(where, variant, plan))
        evaluated = plan.subsets_of(variant)
        _check_subsets(f"{where}: {cell}", [subset])
        if subset == "every":
            raise ValueError(f"{where}: {cell} names several subsets. Name one.")
        if not plan.is_evaluated(variant, subset):
            raise ValueError(
                f"{where}: {variant} is not evaluated with {subset}, but with {', '.join(evaluated)}, and has "
                f"{', '.join(plan.modalities_of(variant))}. Name another cell, or add it to `subsets`."
            )
        if group is not None and plan.groups is None:
            raise ValueError(f"{where} names the group {group!r}, but the plan has no `groups`, a column.")


def _no_variant(where: str, name: str, plan: Plan) -> str:
    return f"{where} names the variant {name!r}. Variants are {', '.join(plan.variants)}."


def with_recipe(plan: Plan, recipe: str | None, protocol: str | None, seeds: Sequence[int]) -> Plan:
    """A plan with another recipe or protocol (`full` for none), as given on the command line.

    Another recipe is trained in full unless a protocol is given, because those of the plans are made for the demo.

    Raises:
        ValueError: there is no such file, or a seed is repeated.
    """
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds {' '.join(map(str, seeds))}: give each seed once.")
    if recipe is not None and plan.recipes is not None and Path(recipe).stem not in plan.recipes:
        raise ValueError(
            f"The plan {plan.name} is about the corpora of its own recipes, {', '.join(plan.recipes)}, not about "
            f"{recipe}. Copy its file, and change what depends on the corpus."
        )
    if recipe is not None:
        plan = dataclasses.replace(plan, recipe=recipe, protocol=None)
    if protocol is not None:
        plan = dataclasses.replace(plan, protocol=None if protocol == "full" else protocol)
    check_plan(plan)
    return plan


def select_variants(plan: Plan, names: Sequence[str]) -> Plan:
    """A plan with only some of its variants: those of the names that it has, and what they and it refer to."""
    kept = {plan.reference, plan.run_of(plan.reference)}
    for name in names:
        if name in plan.variants:
            kept |= {name, plan.run_of(name)}
    kept |= {start for name in kept if (start := plan.variants[name].starts_from) is not None}
    return keep_variants(plan, kept)


def keep_variants(plan: Plan, kept: Container[str]) -> Plan:
    """A plan with only some variants, and the checks that compare them."""
    variants = {name: variant for name, variant in plan.variants.items() if name in kept}
    checks = [check for check in plan.checks if all(split_cell(cell)[0] in kept for cell in check.cells)]
    return dataclasses.replace(plan, variants=variants, checks=checks)
