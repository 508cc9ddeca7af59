"""The runs and evaluations of plans: their folders, what they share, and names of tasks across corpora."""

import pytest

from tests.helpers.run_files import write_run
from training import run_experiment
from training.experiments.plan import read_plan, with_recipe
from training.experiments.runner import Laboratory, Runner, rename_tasks
from training.records import write_json


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
