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
        better: two_stage              # a variant, or VARIANT/SUBSET such as two_stage/text
        worse: uniform
        by: 0.0                        # at least this much, in units of the metric

`runner.py` carries out a plan, `statistics.py` decides its checks, `report.py` shows both.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..cli import did_you_mean
from ..paths import CONFIGS


PLANS = Path(__file__).with_name("plans")
PROTOCOLS = Path(__file__).with_name("protocols")
METRICS = {"classification": "accuracy", "regression": "mae"}
LOWER_IS_BETTER = {"mae", "negative_log_likelihood", "calibration_error"}


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment.

    Args:
        note: what differs from the reference, in a few words.
        train: options of `egmf train` that differ from the recipe's.
        evaluate: options of `egmf evaluate`, such as `experts`.
        same_run_as: the variant whose trained runs are evaluated; None to train this one.
        subsets: subsets of the modalities to evaluate; None for the plan's.
    """

    note: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    same_run_as: str | None = None
    subsets: list[str] | None = None


@dataclass(frozen=True)
class Check:
    """A claim about two cells of the results: one is better than the other.

    Args:
        claim: in words.
        better: cell with the better metric according to the claim, `VARIANT` or `VARIANT/SUBSET`.
        worse: cell with the worse metric.
        by: smallest difference that counts, in units of the metric: 0.2 is 20 points of accuracy.
        tasks: tasks that the claim is about; None for all.
    """

    claim: str
    better: str
    worse: str
    by: float = 0.0
    tasks: list[str] | None = None


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
        metrics: kind of task -> the metric that is compared.
        protocol: name of a file in `protocols/` with options that shorten every run; None for the full recipe.
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

    def run_of(self, variant: str) -> str:
        """The variant whose training a variant uses: itself, or the one that `same_run_as` names."""
        return self.variants[variant].same_run_as or variant

    def subsets_of(self, variant: str) -> list[str]:
        return self.variants[variant].subsets or self.subsets


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


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file of `name: value` settings.

    Raises:
        ValueError: it is not one.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    for key, entry in known.items():
        optional = entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
        if key not in fields and not optional:
            raise ValueError(f"{name} needs the field {key!r}.")
    expected = {"str": str, "float": (int, float), "list": list, "dict": dict}
    for key, value in fields.items():
        annotation = str(getattr(known[key].type, "__name__", known[key].type))
        wanted = expected.get(annotation.split("[")[0].split(" ")[0])
        if value is not None and wanted is not None and not isinstance(value, wanted):
            raise ValueError(f"{name}: {key} is {value!r}, of type {type(value).__name__}; it must be {annotation}.")
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
    for name, variant in plan.variants.items():
        if not name.isidentifier():
            raise ValueError(f"variant {name!r}: use letters, digits and underscores; it becomes part of a path.")
        shared = variant.same_run_as
        if shared is not None and (shared not in plan.variants or plan.variants[shared].same_run_as):
            raise ValueError(_no_variant(f"variant {name}: same_run_as", shared, plan) + " It must train itself.")
        if shared is not None and variant.train:
            raise ValueError(f"variant {name} is not trained (same_run_as), so `train` has no effect. Remove one.")
    for check in plan.checks:
        for cell in (check.better, check.worse):
            variant = cell.partition("/")[0]
            if variant not in plan.variants:
                raise ValueError(_no_variant(f"check {check.claim!r}", variant, plan))


def _no_variant(where: str, name: str, plan: Plan) -> str:
    return f"{where} names the variant {name!r}. Variants are {', '.join(plan.variants)}."


def with_recipe(plan: Plan, recipe: str | None, protocol: str | None, seeds: Sequence[int]) -> Plan:
    """A plan with another recipe or protocol (`full` for none), as given on the command line.

    Raises:
        ValueError: there is no such file, or a seed is repeated.
    """
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds {' '.join(map(str, seeds))}: give each seed once.")
    if recipe is not None:
        plan = dataclasses.replace(plan, recipe=recipe)
    if protocol is not None:
        plan = dataclasses.replace(plan, protocol=None if protocol == "full" else protocol)
    check_plan(plan)
    return plan


def select_variants(plan: Plan, names: Sequence[str] | None) -> Plan:
    """A plan with only some of its variants, the reference always among them.

    Raises:
        ValueError: there is no such variant.
    """
    if names is None:
        return plan
    kept = {plan.reference}
    for name in names:
        if name not in plan.variants:
            raise ValueError(_no_variant("--variants", name, plan) + did_you_mean(name, plan.variants))
        kept |= {name, plan.run_of(name)}
    variants = {name: variant for name, variant in plan.variants.items() if name in kept}
    checks = [
        check for check in plan.checks if {check.better.partition("/")[0], check.worse.partition("/")[0]} <= kept
    ]
    return dataclasses.replace(plan, variants=variants, checks=checks)
