"""A plan carried out with a tiny model: what is missing is trained and evaluated, what is there is kept."""

import json
import sys

import pytest
import yaml

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from training import run_eval, run_experiment, train
from training.experiments.runner import Commands, command_line, options_name


RECIPE = {
    "text_model_dtype": "float32", "conv_channels": [4, 6], "encoder_hidden_size": 8,
    "fusion_hidden_size": 16, "num_frames": 2, "frame_size": 16, "lora_r": 2, "max_steps": 1, "report_to": "none",
    "per_device_train_batch_size": 2, "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip
PLAN = {
    "question": "Does the gate help?",
    "claim": "It does.",
    "reference": "gated",
    "subsets": ["all"],
    "variants": {
        "gated": {"subsets": ["text", "all"]},
        "uniform": {"train": {"gate": "uniform"}},
        "masked": {"same_run_as": "gated", "evaluate": {"experts": ["local"]}},
    },
    "checks": [{"claim": "It helps", "better": "gated", "worse": "uniform"}],
}


@pytest.fixture
def place(tmp_path, trained_tokenizer):
    write_corpus(tmp_path / "corpus")
    write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)
    recipe = RECIPE | {"dataset": str(tmp_path / "corpus"), "text_model_name_or_path": str(tmp_path / "llm")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    plan = PLAN | {"recipe": str(tmp_path / "recipe.yaml")}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Calls commands in this process, because starting processes takes seconds. Lists their names."""
    names = []
    modules = {"train": train.main, "run_eval": run_eval.main}

    def run(self, name, command, log):
        names.append(name)
        module = command[2].rpartition(".")[2]
        modules[module](command[3:])

    monkeypatch.setattr(Commands, "run", run)
    return names


def experiment(place, *options):
    run_experiment.main([str(place / "plan.yaml"), "--folder", str(place / "runs"), *map(str, options)])


@pytest.mark.integration
def test_a_plan_from_nothing_to_its_verdicts(place, started, capsys):
    experiment(place, "--seeds", 0, "--dry_run")
    printed = capsys.readouterr().out
    assert "2 trainings and 3 evaluations to do." in printed
    assert "no estimate" in printed
    assert started == []

    experiment(place, "--seeds", 0)
    assert started == [
        "default-seed0: training",
        "default-seed0: results-test.json",
        "default-seed0: results-test-experts=local.json",
        "gate=uniform-seed0: training",
        "gate=uniform-seed0: results-test.json",
    ]
    record = json.loads((place / "runs/plan.json").read_text())
    assert list(record["variants"]) == ["gated", "uniform", "masked"]
    full = "text+audio+video"
    assert set(record["variants"]["gated"]["subsets"]) == {"text", full}
    assert set(record["variants"]["uniform"]["subsets"]) == {full}
    cells = {name: variant["subsets"][full]["emotion"] for name, variant in record["variants"].items()}
    assert cells["gated"]["difference"] is None
    assert cells["uniform"]["difference"]["seeds"] == 1
    assert all(entry["mean"] == 0 for entry in cells["uniform"]["gate_spread"].values())
    masked = json.loads((place / "runs/recipe-full/default-seed0/results-test-experts=local.json").read_text())
    experts = masked["subsets"][full]["tasks"]["emotion"]["predictions"][0]["experts"]
    assert experts == {"local": 1.0, "semantic": 0.0, "global": 0.0}
    (check,) = record["checks"]
    assert {found["verdict"] for found in check["tasks"].values()} <= {"yes", "no", "undecided"}
    page = (place / "runs/plan.md").read_text()
    assert "# Does the gate help?" in page
    assert "| It helps | gated better than uniform | emotion |" in page
    assert (place / "runs/plan.png").read_bytes().startswith(b"\x89PNG")

    started.clear()
    experiment(place, "--seeds", 0, "--variants", "masked")  # finished work is kept
    assert started == []
    assert list(json.loads((place / "runs/plan.json").read_text())["variants"]) == ["gated", "masked"]

    recipe = place / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "lora_alpha: 4\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="was started with another recipe or other options"):
        experiment(place, "--seeds", 0)


def test_a_command_that_fails_is_named_with_the_end_of_its_log(tmp_path, capsys):
    commands = Commands(jobs=2)
    log = tmp_path / "logs/one.log"
    failing = [sys.executable, "-S", "-c", "import sys; print('reading'); sys.exit('error: there is no corpus')"]
    with pytest.raises(ValueError, match=r"one failed \(exit 1\): reading / error: there is no corpus\. Its log is"):
        commands.run_all([lambda: commands.run("one", failing, log)])
    working = [sys.executable, "-S", "-c", "print('fine')"]
    commands.run("two", working, tmp_path / "two.log")
    assert "two: done in" in capsys.readouterr().out
    commands.stop()
    commands.run("three", working, tmp_path / "three.log")
    assert not (tmp_path / "three.log").exists()


def test_options_on_the_command_line():
    options = {"experts": ["local", "global"], "lora_r": 0, "augmentation": False, "dataset": None, "lora_options": {}}
    assert command_line(options) == [
        *("--experts", "local", "global", "--lora_r", "0", "--augmentation", "false"),
        *("--lora_options", "{}"),
    ]
    assert command_line({"load_in_4bit": True, "overwrite": False}, flags=True) == ["--load_in_4bit"]


def test_names_of_runs():
    assert options_name({"lora_r": 0, "experts": ["a:2:gelu", "b"]}) == "experts=a_2_gelu+b,lora_r=0"
    long = options_name({f"option_{i}": i for i in range(20)})
    assert len(long) < 60
    assert long != options_name({f"option_{i}": i + 1 for i in range(20)})
    assert options_name({}) == ""
