r"""Predict one clip, every clip in a folder, or every example of a dataset.

    egmf predict --model_name_or_path runs/demo --video clip.mp4 --text "I'm fine." --task emotion
    egmf predict --model_name_or_path runs/demo --folder clips/ --output predictions.jsonl
    egmf predict --model_name_or_path runs/demo --dataset ORG/NAME --split test --audio_column audio --streaming
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m training.predict \
        --model_name_or_path runs/demo --folder clips/ --output predictions.parquet

The transcript of `NAME.mp4` in a folder is read from `NAME.txt` next to it. A dataset is read as by egmf evaluate, but
needs no answers. Each prediction is one line of JSON, or one row if the output file ends in .parquet. A clip that
cannot be read gets a line with its error, and the other clips are still predicted. After an interruption, the same
command with an output file goes on from the clips that are predicted. Several processes share the clips. The work is
done in evaluation/predictor.py.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .cli import CommandParser, command_errors
from .data.locations import check_checkpoint, check_dataset
from .options import add_dataset_options, take_dataset_options
from .records import real_path


WHEN_INTERRUPTED = (
    "The --output file is written at the end; until then, finished predictions are kept beside it. Run the same "
    "command again to go on."
)
DEFAULT_SPLIT = "test"
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods")  # that predictions are not written as


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf predict", description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    clip = parser.add_argument_group("clip")
    data = parser.add_argument_group("dataset, instead of a clip")
    output = parser.add_argument_group("output")
    add = parser.add_argument
    add("--model_name_or_path", required=True, group=model, help="checkpoint: a folder or a Hub id")
    add("--text_model_name_or_path", group=model, help="language model of an adapter checkpoint, if it was moved")
    add("--load_in_4bit", action="store_true", group=model, help="4-bit language model (needs bitsandbytes and CUDA)")
    add("--device", group=model, help="cpu or cuda; default: cuda if there is a GPU")
    add("--text", group=clip, help="transcript of the clip")
    add("--audio", group=clip, help="audio file")
    add("--video", group=clip, help="video file; its soundtrack is used unless --audio is given")
    add("--folder", type=Path, group=clip, help="predict every clip in this folder instead")
    add_dataset_options(parser, data, required=False)
    add("--split", group=data, help=f"split of the dataset; default: {DEFAULT_SPLIT}")
    add("--task", group=clip, help="task; default: the checkpoint's first task")
    add("--modalities", nargs="+", group=clip, help="modalities to use: any of text, audio and video")
    add(
        "--window_hop",
        type=float,
        minimum=0.001,
        group=clip,
        help="seconds between the windows that longer clips are cut into",
    )
    add("--encoder_cache", group=model, help="folder for the outputs of frozen pretrained encoders, used by all runs")
    add(
        "--speaker_normalization",
        action="store_true",
        group=model,
        help="normalize each speaker's features and encoder outputs, as in training: --folder has a folder for each "
        "speaker, --dataset a column speaker (needs no labels)",
    )
    add("--top_k", type=int, minimum=1, group=output, help="number of probabilities to keep, largest first")
    add("--labels", nargs="+", group=output, help="answer only with these labels: the probabilities given one of them")
    add("--calibrated", action="store_true", group=output, help="probabilities as egmf calibrate corrects them")
    add("--output", type=Path, group=output, help="output file, JSON Lines or .parquet; default: the terminal")
    add("--overwrite", action="store_true", group=output, help="replace the output file if it exists")
    return parser


def check_arguments(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Exit with status 2 if options contradict each other, or a path cannot be used."""
    output = arguments.output
    folder = arguments.folder
    has_clip = bool(arguments.text or arguments.audio or arguments.video)
    if output is not None and output.is_dir():
        parser.error(f"--output {output} is a folder. Give the name of a file.")
    if output is not None and output.exists() and not output.is_file():
        parser.error(f"--output {output} is not a regular file. Leave --output out to print the predictions.")
    if output is not None and output.exists() and not arguments.overwrite:
        parser.error(f"--output {output} already exists. Give another file, or --overwrite.")
    if output is not None and not real_path(output).parent.is_dir():
        file = real_path(output) if output.is_symlink() else output
        parser.error(f"--output: there is no folder {file.parent} to write into.")
    if folder is not None and has_clip:
        parser.error(
            "--folder takes no --text, --audio or --video. Transcripts are read from NAME.txt next to each clip."
        )
    if arguments.dataset is not None and (folder is not None or has_clip):
        parser.error("--dataset takes no --text, --audio, --video or --folder. Its columns are read.")
    if arguments.dataset is None and folder is None and not has_clip:
        parser.error("Give --text, --audio or --video, --folder with clips, or --dataset.")
    if arguments.speaker_normalization and (has_clip or arguments.streaming):
        parser.error(
            "--speaker_normalization needs all clips of a speaker: give --folder with a folder for each speaker, or "
            "--dataset with a column speaker, without --streaming."
        )
    if arguments.speaker_normalization and arguments.window_hop is not None:
        parser.error("--speaker_normalization is for whole clips. Leave out --window_hop.")
    if output is not None and output.suffix.casefold() in TABLES:
        parser.error(f"--output {output}: predictions are written as JSON Lines (.jsonl) or Parquet (.parquet).")
    if folder is not None and not folder.is_dir():
        parser.error(f"--folder {folder} is not a folder.")


def check_dataset_options(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Exit with status 2 if there is no dataset, and an option that says how to read one: nothing would read it."""
    given = vars(arguments)
    names = ["split", *take_dataset_options(dict(given))]
    given_names = [name for name in names if given[name]]
    if arguments.dataset is None and given_names:
        parser.error(
            f"--{given_names[0]} says how to read a --dataset, and none is given. A table and the clips that it names "
            "are one: give its folder, or the table, as --dataset."
        )


def only_one_writes(output: Path | None) -> AbstractContextManager:
    """Keep other commands from predicting into the same file; of several processes, the first one does."""
    from .records import only_writer

    is_first = os.environ.get("RANK", "0") == "0"
    return only_writer(output, "prediction") if output is not None and is_first else nullcontext()


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors(WHEN_INTERRUPTED):
        parser = make_parser()
        arguments = parser.parse_args(argv)
        check_arguments(parser, arguments)
        check_dataset_options(parser, arguments)
        check_checkpoint(arguments.model_name_or_path)
        if arguments.dataset is not None:
            check_dataset(arguments.dataset)
        arguments.split = arguments.split or DEFAULT_SPLIT
        given = vars(arguments)
        reading = take_dataset_options(given)
        from .data.dataset_options import DatasetOptions
        from .evaluation.predictor import PredictionOptions, predict  # imports torch

        options = PredictionOptions(**given, reading=DatasetOptions.from_arguments(reading))
        with only_one_writes(options.output):
            failed = predict(options)
        if failed:
            sys.exit(1)


if __name__ == "__main__":
    main()
