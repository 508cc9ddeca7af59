"""Wrong arguments of every command: one line on stderr, exit code 1 or 2, no traceback."""

import huggingface_hub
import pytest

from training.cli import main


HINTS = ("All options: ", "Choose from ", "usage: egmf train [options]", "warning: ")  # lines beside the message


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a file, an empty folder, and a folder that is neither a corpus nor a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "bad.yaml").write_text("a: [b")
    (tmp_path / "typo.yaml").write_text("lerning_rate: 1\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    (tmp_path / "other/notes.md").write_text("x")
    return tmp_path


WRONG = {
    "train": [
        "",
        "--config nowhere.yaml",
        "--config bad.yaml",
        "--config typo.yaml",
        "--lerning_rate 1",
        "--learning_rate fast --dataset empty",
        "--dataset nowhere --text_model_name_or_path nowhere --output_dir run",
        "--dataset empty --text_model_name_or_path nowhere --output_dir run",
        "--dataset file.txt --text_model_name_or_path nowhere --output_dir run",
        "--dataset empty --text_model_name_or_path nowhere --output_dir run --audio nowhere/encoder",
        "--dataset empty --text_model_name_or_path nowhere --output_dir run --modality_dropout 2",
        "--dataset empty --text_model_name_or_path nowhere --output_dir file.txt",
    ],
    "evaluate": [
        "",
        "--model_name_or_path nowhere",
        "--model_name_or_path nowhere --dataset empty",
        "--model_name_or_path other --dataset empty --device cpu",
        "--model_name_or_path empty --dataset empty --device cpu",
        "--model_name_or_path other --dataset nowhere --device cpu",
        "--model_name_or_path other --dataset empty --batch_size x",
        "--model_name_or_path other --dataset empty --batch_size 0",
        "--model_name_or_path other --dataset empty --device tpu7",
        "--model_name_or_path other --dataset empty --subsets smell",
        "--model_name_or_path other --dataset empty --seeds 1 2",
        "--modle other --dataset empty",
        "--model_name_or_path other --dataset empty --max_samples -3",
    ],
    "predict": [
        "",
        "--model_name_or_path nowhere",
        "--model_name_or_path nowhere --text hi",
        "--model_name_or_path other --text hi --device cpu",
        "--model_name_or_path empty --video nowhere.mp4 --device cpu",
        "--model_name_or_path other --folder nowhere",
        "--model_name_or_path other --folder empty --device cpu",
        "--model_name_or_path other --folder empty --text hi",
        "--model_name_or_path other --text hi --top_k 0",
        "--model_name_or_path other --text hi --modalities smell",
        "--model_name_or_path other --text hi --window_hop -1",
        "--model_name_or_path other --text hi --output file.txt",
        "--model_name_or_path other --txt hi",
    ],
    "report": [
        "",
        "nowhere",
        "empty",
        "file.txt",
        "empty --results nowhere.json",
        "empty --results file.txt",
        "empty --datset empty",
        "empty extra",
        "--run empty",
    ],
    "calibrate": [
        "",
        "nowhere",
        "empty",
        "file.txt",
        "other --split test",
        "other --results nowhere.json",
        "other --splitt validation",
    ],
    "push": [
        "",
        "nowhere",
        "nowhere org/name",
        "empty org/name",
        "empty name",
        "other org/name --dry_run",
        "other org/name --folder x",
        "other org/name --card nowhere.yaml",
        "other org/name --card bad.yaml --dry_run",
        "other org/name --study nowhere.json --dry_run",
        "file.txt org/name --dry_run",
        "other org/name --pubilc",
    ],
    "convert": [
        "",
        "fodler a b",
        "folder",
        "folder nowhere out",
        "folder empty",
        "folder empty out",
        "folder file.txt out",
        "folder empty file.txt",
        "folder empty out --tasks_file nowhere.yaml",
        "folder empty out --tasks_file bad.yaml",
        "meld nowhere out",
        "meld empty out",
        "mosei empty out",
        "sims empty out",
        "cherma empty out",
        "mmsa file.txt out",
        "processed empty out",
        "folder empty out --chek",
    ],
    "memory": [
        "",
        "--backbone nowhere",
        "--backbone empty",
        "--backbone other",
        "--backbone smollm2-135m --batch_size 0",
        "--backbone smollm2-135m --batch_size x",
        "--backbone smollm2-135m --length -1",
        "--backbone smollm2-135m --seconds nan",
        "--backbone smollm2-135m --words 99999999999999999999",
        "--backbone smollm2-135m --output empty",
        "--backbone smollm2-135m --lenght 5",
    ],
    "demo": [
        "--output file.txt",
        "--config nowhere.yaml",
        "--config bad.yaml",
        "--config typo.yaml --output run",
        "--seed x",
        "--sede 1",
        "--cache file.txt --output run",
        "--preset nowhere",
        "--output run -- --lerning_rate 1",
        "--output run -- --max_steps x",
        "--output run extra",
    ],
}
CASES = [(command, arguments) for command, lines in WRONG.items() for arguments in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments"), CASES, ids=[f"{name} {words}" for name, words in CASES])
def test_wrong_arguments_end_in_one_line(place, capsys, command, arguments):
    with pytest.raises(SystemExit) as caught:
        main([command, *arguments.split()])
    printed = capsys.readouterr().err
    code = caught.value.code
    if isinstance(code, str):  # `sys.exit(message)`: Python prints it and exits with 1
        printed += f"{code}\n"
        code = 1
    assert code in (1, 2)
    assert "Traceback" not in printed
    errors = [line for line in printed.splitlines() if line and not line.startswith(HINTS)]
    if command == "convert" and arguments == "":
        assert errors[0].startswith("usage: ")
        return
    assert len(errors) == 1, errors
    assert "error: " in errors[0]
    assert len(errors[0]) < 1000
