"""The runs and evaluations of plans: their folders, what they share, and names of tasks across corpora."""

import dataclasses

import pytest

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.run_files import write_run
from training import run_experiment
from training.experiments.figures import ExperimentFigures
from training.experiments.plan import Check, Variant, read_plan, with_recipe
from training.experiments.runner import Laboratory, Runner, rename_tasks
from training.records import read_json, write_json


def with_variants(**variants):
    """The plan of gates with other variants; the first one is its reference."""
    plan = read_plan("gating")
    return dataclasses.replace(plan, reference=next(iter(variants)), variants=variants, checks=[], groups=None)


def runner(plan, tmp_path, **options):
    return Runner(plan, [0], tmp_path, options)


def test_what_the_recipe_says_anyway_makes_no_other_run(tmp_path):
    demo = runner(read_plan("lora"), tmp_path)
    assert demo.evaluations["rank_8", 0].run.folder == tmp_path / "demo-features-full/default-seed0"
    gating = runner(read_plan("gating"), tmp_path)
    laboratory = Laboratory([demo, gating])
    assert len(laboratory.runs) == len(demo.runs) + len(gating.runs) - 1
    # This recipe trains without LoRA.
    cherma = runner(with_recipe(read_plan("lora"), "cherma-glm3-6b", None, [0]), tmp_path)
    assert cherma.evaluations["rank_8", 0].run.folder.name == "lora_alpha=16,lora_r=8-seed0"
    assert cherma.evaluations["none", 0].run.folder.name == "default-seed0"


def test_transfer_evaluates_each_run_on_both_corpora(tmp_path):
    transfer = runner(read_plan("transfer"), tmp_path, dataset="elsewhere/demo")
    there = transfer.evaluations["demo_on_languages", 0]
    back = transfer.evaluations["languages_on_demo", 0]
    assert there.run == transfer.evaluations["demo_on_demo", 0].run
    assert back.run.folder == tmp_path / "demo-languages-features-full/default-seed0"
    assert there.options["dataset"] == "data/demo-languages-features"
    assert (there.run.options["dataset"], "dataset" in back.run.options) == ("elsewhere/demo", False)
    assert transfer.evaluations["languages_on_languages", 0].options["dataset"] == "data/demo-languages-features"
    command = back.command()
    task_map = command[command.index("--task_map") + 1]
    assert task_map == '{"emotion": {"task": "emotion"}}'


def test_runs_that_start_from_others_and_copies_of_language_models(tmp_path):
    languages = runner(read_plan("languages"), tmp_path)
    run = languages.evaluations["chinese_from_all", 0].run
    assert run.start == languages.evaluations["all_languages", 0].run
    assert run.options["model_name_or_path"] == str(run.start.folder)
    backbones = runner(read_plan("backbones"), tmp_path)
    run = backbones.evaluations["first_8_layers", 0].run
    assert run.language_model.changes == {"layers": 8}
    assert run.options["text_model_name_or_path"] == str(run.language_model.folder)
    assert run.language_model.source == ".cache/assets/SmolLM2-135M-Instruct"
    random = backbones.evaluations["random_weights", 0].run
    assert random.language_model.source == ".cache/assets/SmolLM2-8-layers"


def test_results_on_another_corpus_have_its_names_of_tasks():
    results = {
        "subsets": {"text": {"left_out": 0, "tasks": {"meld": "figures", "sentiment": "others"}}},
        "tasks": {"meld": "definition", "sentiment": "another"},
    }
    task_map = {"cherma": {"task": "meld"}, "noise": {"task": None}}
    renamed = rename_tasks(results, task_map)
    assert renamed["subsets"]["text"] == {"left_out": 0, "tasks": {"cherma": "figures", "sentiment": "others"}}
    assert renamed["tasks"] == {"cherma": "definition", "sentiment": "another"}
    assert rename_tasks(results, {}) is results
    both = rename_tasks(results, {"cherma": {"task": "meld"}, "mood": {"task": "meld"}})
    assert both["tasks"] == {"cherma+mood": "definition", "sentiment": "another"}


@pytest.mark.parametrize("order", [1, -1])
def test_results_are_read_as_those_of_the_task_that_answered(order):
    """The model has the corpus's task as well, with another scale, which clipped its scores."""
    tasks = dict([("mosei", "of -3 to 3"), ("sims_v2", "of -1 to 1")][::order])
    results = {"subsets": {"text": {"tasks": {"mosei": "figures"}}}, "tasks": tasks}
    renamed = rename_tasks(results, {"sims_v2": {"task": "mosei"}})
    assert renamed["subsets"]["text"]["tasks"] == {"sims_v2": "figures"}
    assert renamed["tasks"] == {"sims_v2": "of -3 to 3"}
    swapped = rename_tasks(results, {"sims_v2": {"task": "mosei"}, "mosei": {"task": "sims_v2"}})
    assert swapped["tasks"] == {"sims_v2": "of -3 to 3", "mosei": "of -1 to 1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training.json", {"data_arguments": {}}, "training.json has no entry log_history"),
        ("results-test.json", {"asked": {"options": {}}}, "results-test.json has no entry subsets"),
        ("results-test.json", [], "its content is"),
    ],
)
def test_damaged_records_of_runs_are_named(tmp_path, name, content, message):
    laboratory = Laboratory([runner(read_plan("gating"), tmp_path)])
    evaluation = next(iter(laboratory.evaluations.values()))
    folder = evaluation.run.folder
    write_run(folder)
    laboratory.describe()
    write_json(folder / name, content)
    with pytest.raises(ValueError, match=f"{folder}/{message}" if message.startswith(name) else message):
        laboratory.describe()


def test_a_file_of_another_kind_is_not_replaced_by_results(tmp_path, monkeypatch):
    monkeypatch.setattr(Laboratory, "carry_out", lambda self, jobs: pytest.fail("before the runs"))
    notes = tmp_path / "notes.json"
    write_json(notes, {"precious": True})
    for output, message in (
        (notes, "notes.json already exists and does not hold results of the plan gating"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_experiment.main(["gating", "--folder", str(tmp_path / "runs"), "--output", str(output)])
    assert "precious" in notes.read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": {"gat": "uniform"}}, r"variant other: `egmf train` has no option 'gat'. Did you mean gate\?"),
        ({"train": {"lora_r": "eight"}}, "variant other: --lora_r is 'eight'; it takes an integer"),
        ({"train": {"learning_rate": float("nan")}}, "--learning_rate is nan"),
        ({"train": {"gate": "unifrom"}}, r"variant other: --gate is 'unifrom'.* Did you mean uniform\?"),
        ({"evaluate": {"experts": ["globl"]}}, "variant other: the model has no expert 'globl'; it has local, sem"),
        ({"evaluate": {"expert": ["local"]}}, "variant other: egmf evaluate: error: There is no option --expert"),
        ({"evaluate": {"batch_size": "many"}}, "argument --batch_size: invalid int value: 'many'"),
        ({"evaluate": {"task_map": {"emotion": {"tsk": "x"}}}}, "--task_map: emotion has no field 'tsk'"),
    ],
)
def test_wrong_options_of_a_variant_are_refused_before_the_first_run(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        runner(with_variants(reference=Variant(), other=Variant(**fields)), tmp_path)


def test_runs_with_other_options_never_share_a_folder(tmp_path):
    """`a/b` and `a_b` become the same name."""
    first = Variant(train={"text_model_name_or_path": "models/small"})
    other = Variant(train={"text_model_name_or_path": "models_small"})
    laboratory = Laboratory([runner(with_variants(first=first), tmp_path)])
    with pytest.raises(ValueError, match="Two variants would be trained in .*models_small-seed0"):
        laboratory = Laboratory([runner(with_variants(first=first, other=other), tmp_path)])
    with pytest.raises(ValueError, match="Two variants would be trained"):
        Laboratory([runner(with_variants(first=first), tmp_path), runner(with_variants(other=other), tmp_path)])
    assert len(laboratory.runs) == 1


def test_copies_of_two_language_models_never_share_a_folder(tmp_path, monkeypatch):
    def variant(source):
        return Variant(train={"text_model_name_or_path": source}, language_model={"layers": 2})

    plan = with_variants(first=variant("one/model"), other=variant("two/model"))
    with pytest.raises(ValueError, match="model-layers=2 would be the copy of two language models"):
        Laboratory([runner(plan, tmp_path)])
    (copy,) = Laboratory([runner(with_variants(first=variant("one/model")), tmp_path)]).language_models.values()
    write_json(copy.record, copy.describe())
    later = Laboratory([runner(with_variants(other=variant("two/model")), tmp_path)])
    with pytest.raises(ValueError, match="model-layers=2 is a copy of another language model"):
        later.carry_out()


def test_a_dataset_that_is_missing_is_named_before_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Laboratory, "finish", lambda *arguments: pytest.fail("before the runs"))
    other = Variant(same_run_as="first", evaluate={"dataset": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match="--dataset .*nowhere does not exist"):
        Laboratory([runner(with_variants(first=Variant(), other=other), tmp_path, dataset=str(tmp_path))]).carry_out()


def test_datasets_that_are_missing_are_named_by_a_dry_run(tmp_path, capsys):
    """It listed the runs, and said nothing."""
    nowhere = tmp_path / "nowhere"
    with pytest.raises(SystemExit, match=f"--dataset {nowhere} does not exist"):
        run_experiment.main(["gating", "--dry_run", "--dataset", str(nowhere), "--folder", str(tmp_path)])
    assert "trainings and" in capsys.readouterr().out
    other = Variant(same_run_as="first", evaluate={"dataset": str(tmp_path / "elsewhere")})
    laboratory = Laboratory([runner(with_variants(first=Variant(), other=other), tmp_path, dataset=str(nowhere))])
    with pytest.raises(ValueError, match="nowhere does not exist.*elsewhere does not exist"):
        laboratory.check_datasets()


def test_two_plans_of_the_same_name_would_have_one_results_file(tmp_path):
    path = tmp_path / "gating.yaml"
    path.write_text(run_experiment_plan("gating"), encoding="utf-8")
    with pytest.raises(SystemExit, match="Two of the plans are named gating"):
        run_experiment.main(["gating", str(path), "--dry_run"])


def run_experiment_plan(name):
    from training.experiments.plan import PLANS

    return (PLANS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture
def evaluated(tmp_path):
    """`evaluated(**changes)` -> a runner of two variants with made-up results, whose plan has these fields."""
    plan = with_variants(first=Variant(), other=Variant(train={"gate": "uniform"}))
    made_up = Runner(plan, [0, 1], tmp_path)
    for (_, seed), evaluation in made_up.evaluations.items():
        write_run(evaluation.run.folder, seed)
        asked = {"options": evaluation.options, "subsets": evaluation.subsets}
        tasks = {name: BUILT_IN_TASKS[name].to_dict() for name in ("emotion", "sentiment")}
        results = read_json(evaluation.output) | {"asked": asked, "tasks": tasks, "dataset": "data"}
        write_json(evaluation.output, results)

    def change(**changes):
        return Runner(dataclasses.replace(plan, **changes), [0, 1], tmp_path)

    return change


def test_metrics_and_groups_that_results_lack_are_refused(evaluated):
    ExperimentFigures(evaluated())
    for name in ("acuracy", "calibration_error"):  # of the second, there are no differences
        metrics = {"classification": name, "regression": "mae"}
        with pytest.raises(ValueError, match=f"compares emotion by '{name}'.* Use one of accuracy"):
            ExperimentFigures(evaluated(metrics=metrics))
    with pytest.raises(ValueError, match="groups of a column 'langage', which no example has"):
        ExperimentFigures(evaluated(groups="langage"))
    check = Check("It helps", "first", "other", metric=["calibration_error"])
    assert ExperimentFigures(evaluated()).decide(check)["tasks"] == {}
    check = Check("It helps", "first", "other", metric=["calibration_error", "accuracy"])
    assert set(ExperimentFigures(evaluated()).decide(check)["tasks"]) == {"emotion"}
