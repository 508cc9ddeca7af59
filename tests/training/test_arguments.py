"""Arguments: a YAML file, overrides on the command line, and errors for anything unknown."""

import dataclasses
from pathlib import Path

import pytest

from training.arguments import EGMFTrainingArguments, parse_arguments
from training.options import DataArguments, ModelArguments, training_options
from training.recipes import read_settings


CONFIGS = sorted((Path(__file__).parents[2] / "training/configs").rglob("*.yaml"))


def parse(tmp_path, yaml="", *options):
    path = tmp_path / "run.yaml"
    path.write_text(yaml, encoding="utf-8")
    return parse_arguments(["--config", str(path), "--output_dir", str(tmp_path / "out"), *options])


def test_configs_are_found():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configuration_parses(path, tmp_path):
    model, data, run = parse_arguments(["--config", str(path), "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    assert model.text_model_name_or_path or model.model_name_or_path
    assert data.dataset
    assert isinstance(run.learning_rate, float)


def test_yaml_reaches_all_three_groups(tmp_path):
    model, data, run = parse(tmp_path, "lora_r: 2\ndataset: corpus\nlearning_rate: 0.01\n")
    assert (model.lora_r, data.dataset, run.learning_rate) == (2, "corpus", 0.01)


def test_command_line_wins(tmp_path):
    yaml = "lora_r: 2\nlearning_rate: 0.01\nconv_channels: [1, 2]\n"
    model, _, run = parse(tmp_path, yaml, "--learning_rate", "0.5", "--conv_channels", "4", "8")
    assert (model.lora_r, run.learning_rate, model.conv_channels) == (2, 0.5, [4, 8])


def test_defaults(tmp_path):
    model, data, run = parse(tmp_path)
    assert (model.audio, model.video, data.train_split) == ("waveform", "frames", "train")
    assert run.remove_unused_columns is False
    assert run.label_names == ["label_index"]
    assert run.save_total_limit == 2  # the best, and the last one to resume from


@pytest.mark.parametrize("written", ["5e-5", "5.0e-5", "0.00005", "'5e-5'"])
def test_numbers_become_floats(tmp_path, written):
    _, _, run = parse(tmp_path, f"learning_rate: {written}\nfusion_learning_rate: {written}\n")
    assert run.learning_rate == 5e-5
    assert run.fusion_learning_rate == 5e-5


def test_unknown_key_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"run.yaml: unknown key 'learning_rat'. Did you mean .*learning_rate"):
        parse(tmp_path, "learning_rat: 1\n")


@pytest.mark.parametrize("option", ["--lerning_rate=1", "--learning_rat=1", "--bogus"])
def test_unknown_option_is_an_error(tmp_path, option, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse(tmp_path, "", option)
    assert option.split("=")[0] in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("- a\n- b\n", "name: value"),
        ("word\n", "name: value"),
        ("dataset: [a\n", "run.yaml is not a YAML file"),
        ("text_model_name_or_path: 5\n", "text_model_name_or_path is 5; it takes text"),
        ("dataset: true\n", "dataset is True; it takes text"),
        ("num_frames: true\n", "num_frames is True; it takes an integer"),
        ("lr_scheduler_kwargs: {a: 1}\n", "lr_scheduler_kwargs is {'a': 1}; it takes text"),
    ],
)
def test_yaml_must_be_names_and_values(tmp_path, yaml, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, yaml)


def test_missing_configuration_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"--config .*absent.yaml does not exist, or is not a file"):
        parse_arguments(["--config", str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize("yaml", ["num_frames: many\n", "learning_rate: fast\n"])
def test_text_instead_of_a_number_is_an_error(tmp_path, yaml, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse(tmp_path, yaml)
    assert yaml.split(":")[0] in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("yaml", ["num_frames: 2.5\n", "lora_r: [1]\n", "bidirectional_attention: perhaps\n"])
def test_value_of_another_type_is_an_error(tmp_path, yaml):
    with pytest.raises((SystemExit, ValueError)):
        parse(tmp_path, yaml)


@pytest.mark.parametrize("name", ["modalities", "only_tasks", "lora_target_modules"])
def test_single_value_becomes_a_list_of_one(tmp_path, name):
    groups = parse(tmp_path, f"{name}: text\n")
    value = next(getattr(group, name) for group in groups if hasattr(group, name))
    assert value == ["text"]


@pytest.mark.parametrize("name", ["fusion_pretraining_epochs", "fusion_pretraining_batch_size"])
def test_negative_fusion_pretraining_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"--{name} is -1"):
        EGMFTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: -1})


def test_number_of_kept_checkpoints_can_be_set(tmp_path):
    assert parse(tmp_path, "save_total_limit: 3\n")[2].save_total_limit == 3


def test_options_are_the_fields_of_the_dataclasses():
    """The fields of `TrainingArguments` are read from its source: here they are compared with the class itself."""
    expected = {}
    for arguments in (ModelArguments, DataArguments, EGMFTrainingArguments):
        expected |= {field.name: field for field in dataclasses.fields(arguments) if field.init}
    options = training_options()
    assert set(options) == set(expected)
    for name, option in options.items():
        assert option.help == expected[name].metadata["help"]
    numbers = {name for name, option in options.items() if option.scalar_type in (int, float)}
    assert {"learning_rate", "eval_steps", "max_steps", "lora_r", "conv_channels", "window_hop"} <= numbers
    assert {name for name, option in options.items() if option.is_list} == {
        "conv_channels",
        "experts",
        "include_for_metrics",
        "label_map",
        "label_names",
        "lora_target_modules",
        "modalities",
        "only_tasks",
        "where",
    }


@pytest.mark.parametrize("option", ["--no_bnb_4bit_use_double_quant", "--max-steps=3", "--help_al", "--no_lora_r"])
def test_spellings_of_options(tmp_path, option, capsys):
    """Spellings that `HfArgumentParser` accepts are valid; others are errors that name the nearest option."""
    if option in ("--help_al", "--no_lora_r"):
        with pytest.raises(SystemExit):
            read_settings([option])
        assert "Did you mean --help_all" in capsys.readouterr().err or option == "--no_lora_r"
    else:
        assert read_settings([option]) == {}
        parse(tmp_path, "", option)


def test_help_is_short_and_grouped(capsys):
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"])
    assert caught.value.code == 0
    short = capsys.readouterr().out
    for text in ("Model:", "Data:", "Training:", "--lora_r", "--learning_rate", "--fusion_pretraining_epochs"):
        assert text in short
    assert "--torch_compile" not in short
    with pytest.raises(SystemExit):
        read_settings(["--help_all"])
    full = capsys.readouterr().out
    assert "--torch_compile" in full
    assert len(short.splitlines()) < 300 < len(full.splitlines())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("per_device_train_batch_size", "0"),
        ("per_device_eval_batch_size", "-4"),
        ("gradient_accumulation_steps", "0"),
        ("max_steps", "-5"),
        ("max_steps", "0"),
        ("learning_rate", "nan"),
        ("fusion_learning_rate", "inf"),
        ("fusion_pretraining_learning_rate", "-0.1"),
        ("warmup_steps", "-3"),
    ],
)
def test_impossible_numbers_are_refused_by_name(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"--{option} is {float(value) if '_rate' in option else value}.*must be"):
        parse_arguments(["--output_dir", str(tmp_path), f"--{option}", value])


def test_default_numbers_are_allowed(tmp_path):
    parse_arguments(["--output_dir", str(tmp_path), "--max_steps", "-1", "--fusion_learning_rate", "0"])
