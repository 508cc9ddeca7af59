"""Adapts a plan to a recipe whose corpus lacks a modality: what would ask for it is changed or left out, by name.

modality_ablation + a recipe with `video: none`
    no_audio, trained on text and video   ─► on text alone
    no_video, trained on text and audio   ─► left out: that is everything there is
    everything/audio+video                ─► everything/audio
"""

import dataclasses
import json
from collections.abc import Sequence

from .plan import MODALITIES, Check, Plan, Variant, check_plan, keep_variants, split_cell


NAMED_SUBSETS = ("all", "every")


def available_modalities(plan: Plan, variant: str | None = None) -> list[str]:
    """The modalities that a variant's recipe uses (default: the reference's)."""
    settings = plan.settings_of(variant or plan.reference)
    chosen = settings.get("modalities") or MODALITIES
    missing = [name for name in ("audio", "video") if settings.get(name, name) == "none"]
    return [name for name in MODALITIES if name in chosen and name not in missing]


def fit_to_recipe(plan: Plan) -> Plan:
    """A plan whose variants, subsets and checks use only the modalities that its recipe has.

    Raises:
        ValueError: nothing is left to compare.
    """
    available = available_modalities(plan)
    if len(available) == len(MODALITIES):
        return plan
    variants = {}
    left_out = []
    for name, variant in plan.variants.items():
        fitted = _fit_variant(variant, available)
        if fitted is None:
            left_out.append(f"variant {name}: {', '.join(available)} is all that the recipe has")
        else:
            variants[name] = fitted
    shared = {
        name for name, variant in variants.items() if {variant.same_run_as, variant.starts_from} - {None, *variants}
    }
    left_out += [f"variant {name}: the variant that it shares a run with is left out" for name in sorted(shared)]
    plan = keep_variants(dataclasses.replace(plan, variants=plan.variants | variants), variants.keys() - shared)
    checks = []
    for check in plan.checks:
        fitted_check = _fit_check(check, available)
        if fitted_check is None:
            left_out.append(f"claim {check.claim!r}: it compares modalities that the recipe lacks")
        else:
            checks.append(fitted_check)
    subsets = _fit_subsets(plan.subsets, available)
    if plan.reference not in plan.variants or not subsets:
        raise ValueError(
            f"The plan {plan.name} needs more than {', '.join(available)}, which is all that {plan.recipe} has."
        )
    plan = dataclasses.replace(plan, subsets=subsets, checks=checks, left_out=left_out)
    check_plan(plan)
    return plan


def leave_out_repeated(plan: Plan) -> Plan:
    """A plan without variants that a recipe makes the same as another one, which stays: the reference, or the first.

    A model without LoRA, and one of rank 0 in the recipe, are trained and evaluated once, and no claim compares them.
    """
    known: dict[str, str] = {}
    left_out = []
    for name in dict.fromkeys([plan.reference, *plan.variants]):
        variant = plan.variants[plan.run_of(name)]
        settings = plan.settings_of(name)
        changes = {option: value for option, value in variant.train.items() if settings.get(option) != value}
        trained = (plan.recipe_of(name), changes, variant.starts_from, variant.language_model)
        evaluated = (plan.variants[name].evaluate, plan.subsets_of(name))
        first = known.setdefault(json.dumps([trained, evaluated], sort_keys=True, default=str), name)
        if first != name:
            left_out.append(f"variant {name}: with this recipe, it is the same as {first}")
    if not left_out:
        return plan
    kept = keep_variants(plan, set(known.values()) | {plan.run_of(name) for name in known.values()})
    claims = [check.claim for check in plan.checks if check not in kept.checks]
    left_out += [f"claim {claim!r}: it compares variants that are the same, or left out" for claim in claims]
    return dataclasses.replace(kept, left_out=[*plan.left_out, *left_out])


def _fit_variant(variant: Variant, available: Sequence[str]) -> Variant | None:
    """The variant without the modalities that are missing; None if nothing would distinguish it."""
    subsets = None if variant.subsets is None else _fit_subsets(variant.subsets, available)
    if subsets == []:
        return None
    train = dict(variant.train)
    if "modalities" in train:
        train["modalities"] = [name for name in train["modalities"] if name in available]
        if len(train["modalities"]) in (0, len(available)):
            return None
    return dataclasses.replace(variant, train=train, subsets=subsets)


def _fit_subsets(names: Sequence[str], available: Sequence[str]) -> list[str]:
    fitted = [_fit_subset(name, available) for name in names]
    return list(dict.fromkeys(name for name in fitted if name is not None))


def _fit_subset(name: str, available: Sequence[str]) -> str | None:
    """A subset without the modalities that are missing; None if none is left."""
    if name in NAMED_SUBSETS:
        return name
    kept = [modality for modality in name.split("+") if modality in available]
    return "+".join(kept) or None


def _fit_check(check: Check, available: Sequence[str]) -> Check | None:
    """The check with fitted cells; None if one is gone, or two of them have become the same."""
    cells = []
    for cell in check.cells:
        variant, subset, group = split_cell(cell)
        fitted = _fit_subset(subset, available)
        if fitted is None:
            return None
        if set(fitted.split("+")) == set(available):
            fitted = "all"
        cells.append(f"{variant}/{fitted}" + (f"@{group}" if group else ""))
    if cells[0] == cells[1]:
        return None
    return dataclasses.replace(check, better=cells[0], worse=cells[1], than=cells[2:] or None)
