"""The training command: from options to a trained model, with one-line errors."""

import pytest

from tests.helpers.training_runs import SHORT, command_line, write_place
from training.train import main


@pytest.mark.integration
def test_command_trains(tmp_path, trained_tokenizer):
    place = write_place(tmp_path, trained_tokenizer)
    main(command_line(place, "first", **SHORT))
    assert (place / "runs/first/training.json").is_file()
    with pytest.raises(SystemExit, match=r"^error: .*/first already holds a run\."):
        main(command_line(place, "first", **SHORT))
