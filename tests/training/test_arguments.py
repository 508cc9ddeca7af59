"""Arguments: a YAML file, the command line over it, and an error for everything unknown."""

from pathlib import Path

import pytest

from training.arguments import EGMFTrainingArguments, parse_arguments


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
    assert model.text_model or model.model
    assert data.data
    assert isinstance(run.learning_rate, float)


def test_yaml_reaches_all_three_groups(tmp_path):
    model, data, run = parse(tmp_path, "lora_r: 2\ndata: corpus\nlearning_rate: 0.01\n")
    assert (model.lora_r, data.data, run.learning_rate) == (2, "corpus", 0.01)


def test_command_line_wins(tmp_path):
    yaml = "lora_r: 2\nlearning_rate: 0.01\nconv_channels: [1, 2]\n"
    model, _, run = parse(tmp_path, yaml, "--learning_rate", "0.5", "--conv_channels", "4", "8")
    assert (model.lora_r, run.learning_rate, model.conv_channels) == (2, 0.5, [4, 8])


def test_defaults_hold_where_nothing_is_said(tmp_path):
    model, data, run = parse(tmp_path)
    assert (model.audio, model.video, data.train_split) == ("waveform", "frames", "train")
    assert run.remove_unused_columns is False
    assert run.label_names == ["label_index"]
    assert run.save_total_limit == 2  # the best, and the last to go on from


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
        ("data: [a\n", "run.yaml is no YAML"),
        ("text_model: 5\n", "text_model is 5; it takes text"),
        ("data: true\n", "data is True; it takes text"),
    ],
)
def test_yaml_must_be_names_and_values(tmp_path, yaml, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, yaml)


def test_missing_configuration_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"There is no configuration .*absent.yaml"):
        parse_arguments(["--config", str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize("yaml", ["num_frames: many\n", "learning_rate: fast\n"])
def test_word_for_a_number_is_an_error(tmp_path, yaml, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse(tmp_path, yaml)
    assert yaml.split(":")[0] in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("yaml", ["num_frames: 2.5\n", "lora_r: [1]\n", "bidirectional_attention: perhaps\n"])
def test_value_of_another_type_is_an_error(tmp_path, yaml):
    with pytest.raises((SystemExit, ValueError)):
        parse(tmp_path, yaml)


@pytest.mark.parametrize("name", ["modalities", "only_tasks", "lora_target_modules"])
def test_one_word_for_a_list_is_a_list_of_one(tmp_path, name):
    groups = parse(tmp_path, f"{name}: text\n")
    value = next(getattr(group, name) for group in groups if hasattr(group, name))
    assert value == ["text"]


@pytest.mark.parametrize("name", ["fusion_pretraining_epochs", "fusion_pretraining_batch_size"])
def test_negative_warm_up_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` is -1"):
        EGMFTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: -1})


def test_number_of_checkpoints_can_be_chosen(tmp_path):
    assert parse(tmp_path, "save_total_limit: 3\n")[2].save_total_limit == 3
