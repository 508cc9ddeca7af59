"""The commands that a finished run prints."""

from pathlib import Path

from training.arguments import DataArguments
from training.trainer.next_steps import next_steps


def test_commands_read_the_dataset_as_the_training_did():
    arguments = DataArguments(
        dataset="my corpus", label_column="Score", label_map=["happy=joy"], where=["mood=so so"],
        encoder_cache="cache", eval_split="dev",
    )  # fmt: skip
    assert next_steps(Path("runs/a"), arguments, uses_cache=True) == [
        "egmf calibrate runs/a",
        "egmf evaluate --model_name_or_path runs/a --dataset 'my corpus' --label_column Score "
        "--label_map happy=joy --subsets every --where 'mood=so so' --encoder_cache cache",
        "egmf report runs/a",
    ]


def test_without_a_split_to_fit_on_there_is_no_calibration():
    arguments = DataArguments(dataset="corpus", train_split="train", eval_split="train")
    assert next_steps(Path("runs/a"), arguments, uses_cache=False) == [
        "egmf evaluate --model_name_or_path runs/a --dataset corpus --subsets every",
        "egmf report runs/a",
    ]
