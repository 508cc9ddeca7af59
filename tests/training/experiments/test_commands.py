"""Commands of an experiment: their failures, their options, and how much is left."""

import sys

import pytest

from training.experiments.commands import Commands, command_line
from training.experiments.runs import covers, options_name


def test_a_command_that_fails_is_named_with_the_end_of_its_log(tmp_path, capsys):
    commands = Commands(jobs=2, counts={"training": 3})
    log = tmp_path / "logs/one.log"
    failing = [sys.executable, "-S", "-c", "import sys; print('reading'); sys.exit('error: there is no corpus')"]
    with pytest.raises(ValueError, match=r"one failed \(exit 1\): reading / error: there is no corpus\. Its log is"):
        commands.run_all([lambda: commands.run("training", "one", failing, log)])
    working = [sys.executable, "-S", "-c", "print('fine')"]
    commands.run("training", "two", working, tmp_path / "two.log")
    assert "[1 of 3] two: done in 0.0 min, about 0 min left" in capsys.readouterr().out
    commands.stop()
    commands.run("training", "three", working, tmp_path / "three.log")
    assert not (tmp_path / "three.log").exists()


def test_what_is_left_is_known_once_every_kind_of_command_has_ended(capsys):
    commands = Commands(jobs=2, counts={"training": 2, "evaluation": 2})
    commands.report("training", "a", 600)
    commands.report("evaluation", "b", 60)
    commands.report("training", "c", 600)
    commands.report("evaluation", "d", 60)
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "[1 of 4] a: done in 10.0 min"
    assert second.endswith("about 6 min left")  # ten and one, two at a time
    assert third.endswith("about 0 min left") or third.endswith("about 1 min left")
    assert last == "[4 of 4] d: done in 1.0 min"


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


def test_results_of_every_subset_cover_those_of_any():
    assert covers(["every"], ["all", "text"])
    assert covers(["text", "all"], ["all"])
    assert not covers(["all"], ["every"])
