"""Real voices and faces in one command (`make real`): from the downloaded RAVDESS to a model of unseen speakers.

    python -m training.real --data RAVDESS [--clip my_voice.wav] [--fold 1] [-- any option of training.train]

    language model -> corpus -> training -> evaluation of every subset, on actors held out -> report -> one prediction

RAVDESS is the folder with the unpacked archives: audio (`Audio_Speech_Actors_01-24`), and, if they are there, videos
or tables of face landmarks. Each stage runs in a process of its own. The same command resumes an interrupted run, and
repeats nothing that is finished: with another `--clip` it only predicts. Other options start another run; the finished
one is moved aside.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import CommandParser, command_errors
from ..data.media_paths import VIDEO_SUFFIXES
from ..demo.assets import prepare_language_model
from ..demo.stages import TIMINGS, run_stage, train_once
from ..paths import CONFIGS, python_command
from ..recipes import chosen_options, read_settings
from ..records import check_writable, read_json, write_json


RECIPE = CONFIGS / "ravdess-whisper-base.yaml"
SPLIT = "test"
FACE_CHOICES = ("auto", "landmarks", "videos", "none")


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the unpacked archives of RAVDESS")
    parser.add_argument("--clip", type=Path, help="audio or video file to predict; default: one of a held-out actor")
    parser.add_argument(
        "--landmarks", type=Path, help="folder with tables of face landmarks, if they are not in --data"
    )
    parser.add_argument(
        "--faces",
        choices=FACE_CHOICES,
        default="auto",
        help="faces to use: landmarks, else videos (auto, default); only one of them; or none",
    )
    parser.add_argument("--audio", help="audio encoder, a preset, folder or Hub id (default: the recipe's)")
    parser.add_argument("--fold", type=int, default=1, help="fold whose actors are held out (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("runs/real"), help="folder for the run")
    parser.add_argument("--dataset", type=Path, default=Path("data/real"), help="folder for the converted corpus")
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that was converted differently")
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"), help="folder of the language model")
    parser.add_argument("--text_model_name_or_path", help="another language model: folder or Hub id")
    parser.add_argument("--config", type=Path, default=RECIPE, help="YAML file with training options")
    parser.add_argument("--seed", type=int, minimum=0, default=0)
    parser.add_argument("options", nargs="*", help="options for training.train, after --")
    return parser


# ---- stages ---------------------------------------------------------------------------------------------------


def convert(arguments: argparse.Namespace, timings: dict[str, Any]) -> None:
    """Convert the release, unless the same files were converted before."""
    command = python_command("converters.ravdess", arguments.data, arguments.dataset, "--no_progress")
    if arguments.landmarks is not None:
        command += ["--landmarks", str(arguments.landmarks)]
    if arguments.overwrite:
        command += ["--overwrite"]
    run_stage("corpus", command, timings)


def training_options(arguments: argparse.Namespace, language_model: str, input_options: list[str]) -> list[str]:
    """The arguments of the training command that decide what the model becomes."""
    options = ["--config", str(arguments.config), "--dataset", str(arguments.dataset)]
    options += ["--tasks_file", str(arguments.dataset / "tasks.yaml")]
    options += ["--split_manifest", manifest_name(arguments), "--text_model_name_or_path", language_model]
    if arguments.audio is not None:
        options += ["--audio", arguments.audio]
    return [*options, *input_options, "--seed", str(arguments.seed), *arguments.options]


def manifest_name(arguments: argparse.Namespace) -> str:
    """The fold without validation: the recipe's settings are fixed, so all other actors can be trained on."""
    return f"fold_{arguments.fold}_train_test"


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse wrong options before anything is done.

    Raises:
        SystemExit, ValueError: as `parse_arguments`, or a folder cannot be read or written.
    """
    if not arguments.data.is_dir():
        raise ValueError(f"--data {arguments.data} is not a folder. Give the folder with RAVDESS's unpacked archives.")
    if arguments.clip is not None and not arguments.clip.is_file():
        raise ValueError(f"--clip {arguments.clip} does not exist. Give an audio or video file.")
    for folder in (arguments.output, arguments.dataset, arguments.cache):
        check_writable(folder)
    options = ["--output_dir", str(arguments.output), *training_options(arguments, str(arguments.cache), [])]
    chosen_options(options, read_settings(options))
    from ..arguments import parse_arguments  # imports torch

    parse_arguments(options)


def train(arguments: argparse.Namespace, options: list[str], timings: dict[str, Any]) -> None:
    """Train, unless a run with the same options on the same corpus is finished."""
    corpus = read_json(arguments.dataset / "conversion.json").get("fingerprint")
    train_once(options, arguments.config, corpus, arguments.output, timings, offline=False)


def evaluate(arguments: argparse.Namespace, timings: dict[str, Any]) -> None:
    """Evaluate every subset of the modalities on the actors held out, unless it was done."""
    results = arguments.output / f"results-{SPLIT}.json"
    if results.is_file() and results.stat().st_mtime >= (arguments.output / "training.json").stat().st_mtime:
        print(f"\n== evaluation ==\n{results} is complete; it is kept.", flush=True)
        return
    command = python_command("run_eval", "--model_name_or_path", arguments.output, "--dataset", arguments.dataset)
    command += ["--split", SPLIT, "--split_manifest", manifest_name(arguments), "--subsets", "every"]
    command += ["--seed", str(arguments.seed), "--overwrite"]
    cache = read_json(arguments.output / "training.json")["data_arguments"].get("encoder_cache")
    if cache is not None:
        command += ["--encoder_cache", cache]
    run_stage("evaluation", command, timings)


def predict(arguments: argparse.Namespace, video: str, timings: dict[str, Any]) -> None:
    """Predict the clip of `--clip`, or one of an actor that the model has never met.

    Args:
        arguments: of the command.
        video: how the model takes faces. One that takes landmarks hears the sound of a video.
        timings: the stage's are added.
    """
    command = python_command("predict", "--model_name_or_path", arguments.output, "--top_k", "3")
    clip = arguments.clip
    heading = f"prediction of {clip}"
    if clip is None:
        clip, heading = held_out_clip(arguments)
    is_video = clip.suffix.lower() in VIDEO_SUFFIXES
    if is_video and video == "features":
        print(f"\nThe model takes landmarks, which {clip.name} has none of: only its sound is used.", flush=True)
    option = "--video" if is_video and video != "features" else "--audio"
    run_stage(heading, [*command, option, str(clip)], timings)


def held_out_clip(arguments: argparse.Namespace) -> tuple[Path, str]:
    """A recording of the test split whose emotion is not neutral, and a heading that names the true one."""
    from ..data.dataset import load_examples

    examples = load_examples(arguments.dataset, SPLIT, manifest_name(arguments))
    example = next((entry for entry in examples if entry["answer"] not in ("neutral", "calm")), examples[0])
    clip = Path(example["audio"] or example["video"])
    speaker = example["extra"]["speaker"]
    return clip, f"prediction of {clip.name}, {speaker} who was held out; true: {example['answer']}"


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_options(arguments)
        from ..evaluation.report import write_report
        from .inputs import choose_inputs

        started = time.time()
        timings: dict[str, Any] = {}
        language_model = arguments.text_model_name_or_path or str(prepare_language_model(arguments.cache))
        convert(arguments, timings)
        inputs = choose_inputs(arguments.dataset, arguments.faces)
        print(f"The model takes {' and '.join(inputs.modalities)} (video: {inputs.video}).", flush=True)
        train(arguments, training_options(arguments, language_model, inputs.options()), timings)
        evaluate(arguments, timings)
        report = write_report(arguments.output)
        predict(arguments, inputs.video, timings)
        seconds = time.time() - started
        peak_gib = max(stage.get("peak_gib", 0.0) for stage in timings.values())
        timings["all"] = {"seconds": round(seconds, 1), "peak_gib": peak_gib}
        write_json(arguments.output / TIMINGS, timings)
        print(f"\n== done ==\ncheckpoint  {arguments.output}\nreport      {report}\ncorpus      {arguments.dataset}")
        print(f"took        {seconds / 60:.1f} minutes, peak {peak_gib:.1f} GiB")


if __name__ == "__main__":
    main()
