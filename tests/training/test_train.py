"""The training command: from options to a trained model, with one-line errors."""

import pytest

from tests.helpers.training_runs import SHORT, command_line, write_place
from training.train import main


@pytest.mark.parametrize("option", ["--model_name_or_path", "--text_model_name_or_path"])
def test_a_file_instead_of_a_model_is_refused_at_once(tmp_path, monkeypatch, option):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("training.train.check_options", lambda options: 1 / 0)
    with pytest.raises(SystemExit, match="config.json is a file. Give the folder that it is in"):
        main(["--dataset", str(tmp_path), option, str(tmp_path / "config.json")])


@pytest.mark.integration
def test_command_trains(tmp_path, trained_tokenizer):
    place = write_place(tmp_path, trained_tokenizer)
    main(command_line(place, "first", **SHORT))
    assert (place / "runs/first/training.json").is_file()
    with pytest.raises(SystemExit, match=r"^error: .*/first already holds a run\."):
        main(command_line(place, "first", **SHORT))
