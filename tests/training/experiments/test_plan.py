"""Experiment plans: the shipped ones are valid, wrong ones are refused by name."""

import pytest
import yaml

from training import run_experiment
from training.arguments import parse_arguments
from training.experiments.commands import command_line
from training.experiments.plan import check_plan, plan_names, read_plan, select_variants, split_cell, with_recipe


MINIMAL = {
    "question": "Does it help?",
    "claim": "It does.",
    "recipe": "demo",
    "reference": "with_it",
    "variants": {"with_it": None, "without": {"train": {"lora_r": 0}}},
    "checks": [{"claim": "It helps", "better": "with_it", "worse": "without", "kind": "regression", "by": 0.1}],
}
CHECK = {"claim": "It helps", "better": "with_it", "worse": "without"}


def write(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", plan_names())
def test_shipped_plan(name, tmp_path):
    """Its options are options of training, with values that training accepts."""
    plan = read_plan(name)
    assert plan.checks
    assert plan.reference in plan.variants
    for variant in plan.variants.values():
        arguments = ["--config", "training/configs/demo.yaml", "--output_dir", str(tmp_path), "--use_cpu", "true"]
        parse_arguments([*arguments, *command_line(variant.train)])


def test_a_plan_of_ones_own(tmp_path):
    plan = read_plan(str(write(tmp_path)))
    assert (plan.name, plan.reference, plan.protocol) == ("mine", "with_it", None)
    assert plan.variants["without"].train == {"lora_r": 0}
    assert plan.metrics == {"classification": "accuracy", "regression": "mae"}
    assert plan.checks[0].by == 0.1
    other = with_recipe(plan, "mosi-smollm2-135m", "small", [0, 1])
    assert (other.recipe, other.protocol) == ("mosi-smollm2-135m", "small")
    assert with_recipe(other, None, "full", [0]).protocol is None
    assert with_recipe(read_plan("gating"), "mosi-smollm2-135m", None, [0]).protocol is None
    with pytest.raises(ValueError, match="is about the corpora of its own recipes, demo-features, not about mosi"):
        with_recipe(read_plan("transfer"), "mosi-smollm2-135m", None, [0])


def test_the_metric_that_decides_is_the_recipes():
    plan = read_plan("gating")
    assert plan.metric_of("emotion", "classification") == "accuracy"
    meld = with_recipe(plan, "meld-smollm2-135m", "full", [0])
    assert meld.metric_of("meld", "classification") == "weighted_f1"
    assert meld.metric_of("another", "classification") == "accuracy"
    transfer = read_plan("transfer_meld_cherma")
    assert transfer.metric_of("cherma", "classification") == "weighted_f1"


def test_cells():
    assert split_cell("ours") == ("ours", "all", None)
    assert split_cell("ours/text@zh") == ("ours", "text", "zh")
    assert split_cell("ours@zh") == ("ours", "all", "zh")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "dmeo"}, r"There is no recipe dmeo\. Did you mean demo\?"),
        ({"protocol": "smal"}, "There is no protocol smal"),
        ({"reference": "nobody"}, "reference names the variant 'nobody'. Variants are with_it, without"),
        ({"refrence": "with_it"}, "has no field 'refrence'"),
        ({"question": 3}, "question is 3, of type int; it must be str"),
        ({"variants": {"a b": None}, "reference": "a b"}, "variant 'a b': use letters"),
        ({"variants": {"with_it": {"trian": {}}}}, r"variant with_it has no field 'trian'"),
        ({"variants": {"with_it": {"same_run_as": "x"}}}, "same_run_as names the variant 'x'"),
        ({"checks": [{"claim": "It helps", "better": "with_it"}]}, "check 1 needs the field 'worse'"),
        ({"checks": [{"claim": "c", "better": "with_it", "worse": "wihtout"}]}, "names the variant 'wihtout'"),
        ({"checks": [CHECK | {"by": 0.1}]}, "`by` is in units of a metric, so give `kind` as well"),
        ({"checks": [CHECK | {"kind": "ranking"}]}, "kind is 'ranking'; give one of classification, regression"),
        ({"checks": [CHECK | {"than": ["with_it"]}]}, "give two cells"),
        ({"checks": [CHECK | {"better": "with_it@zh"}]}, "names the group 'zh', but the plan has no `groups`"),
        ({"recipe": None}, "the plan needs the field 'recipe'"),
        ({"name": "../elsewhere"}, "the plan has no field 'name'"),
        ({"subsets": ["al"]}, r"subsets: unknown subset 'al'.*Did you mean all\?"),
        ({"subsets": []}, "subsets is empty"),
        ({"subsets": [1]}, r"subsets is \[1\]; it must be a list of names"),
        ({"metrics": {"clasification": "accuracy"}}, "metrics: 'clasification' is 'accuracy'"),
        ({"variants": {"with_it": {"subsets": ["text+vido"]}}, "checks": []}, "variant with_it: subsets: unknown"),
        ({"variants": {"with_it": {"train": {"seed": 5}}}}, "train has seed, which --seeds decides"),
        ({"variants": {"with_it": {"train": {"gate": None}}}}, "gate in `train` has no value"),
        ({"variants": {"with_it": {"evaluate": {"subsets": ["text"]}}}}, "evaluate has subsets, which"),
        ({"variants": {"with_it": {"evaluate": {"output": "a.json"}}}}, "evaluate has output, which"),
        (
            {"variants": {"with_it": None, "b": {"starts_from": "with_it", "train": {"model_name_or_path": "a"}}}},
            "variant b starts from with_it. Remove `model_name_or_path`",
        ),
        ({"checks": [CHECK | {"by": float("nan"), "kind": "regression"}]}, "`by` is nan"),
        ({"checks": [CHECK | {"by": True, "kind": "regression"}]}, "by is True, of type bool"),
        ({"checks": [CHECK | {"worse": "with_it/all"}]}, "with_it is compared with itself"),
        ({"checks": [CHECK | {"better": "with_it/txt"}]}, "with_it/txt: unknown subset 'txt'"),
        ({"checks": [CHECK | {"better": "with_it/text"}]}, "with_it is not evaluated with text, but with all"),
        (
            {"variants": {"with_it": None, "other": {"same_run_as": "with_it", "recipe": "demo"}}},
            "variant other is not trained",
        ),
        (
            {"variants": {"with_it": {"starts_from": "b"}, "b": {"starts_from": "with_it"}}},
            "itself starts from another",
        ),
    ],
)
def test_wrong_plans(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(str(path))
    assert str(path) in str(caught.value) or "There is no" in str(caught.value)


def test_no_such_plan():
    with pytest.raises(ValueError, match=r"There is no plan gatign\..*Did you mean gating\?"):
        read_plan("gatign")


def test_chosen_variants_bring_the_reference_and_the_runs_that_they_share():
    plan = select_variants(read_plan("expert_ablation"), ["masked_local"])
    assert list(plan.variants) == ["all_three", "masked_local"]
    assert plan.checks == []
    check_plan(plan)
    assert list(select_variants(read_plan("languages"), ["spanish_from_all"]).variants) == [
        *("all_languages", "spanish_from_all"),
    ]
    with pytest.raises(
        SystemExit, match=r"--variants no_locl: there is no such variant. Did you mean no_local, no_global\?"
    ):
        run_experiment.main(["expert_ablation", "gating", "--variants", "uniform", "no_locl", "--dry_run"])


def test_repeated_seeds():
    with pytest.raises(ValueError, match="--seeds 0 0: give each seed once"):
        with_recipe(read_plan("gating"), None, None, [0, 0])


@pytest.mark.parametrize(
    ("subsets", "cell", "evaluated"),
    [
        (["all"], "text+audio+video", True),
        (["text+audio+video"], "all", True),
        (["every"], "audio", True),
        (["text"], "all", False),
    ],
)
def test_cells_that_are_evaluated(tmp_path, subsets, cell, evaluated):
    assert read_plan(str(write(tmp_path, subsets=["all"]))).is_evaluated("with_it", "all")
    plan = read_plan(str(write(tmp_path, subsets=subsets, checks=[])))
    assert plan.is_evaluated("with_it", cell) == evaluated
