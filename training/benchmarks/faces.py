r"""How much the probabilities change when the same face is elsewhere in the frame, smaller, or between bars.

    python -m training.benchmarks.faces --dataset data/demo --folder MY_CLIPS --output training/results/faces.json

Every clip is written again as videos of the same size whose content is moved, scaled or letterboxed, the model
predicts them with `frames="face"` from video alone and from everything, and the largest change of a probability from
the clip in the center is recorded. Three more variants show what is not the position's doing: the content moved by
one pixel, scaled by 0.9, and compressed more. The face should be near the center of the clips, as in the demo's.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from processing_egmf import EGMFProcessor
from processing_egmf.frames_egmf import resize
from processing_egmf.video_egmf import load_video

from ..cli import CommandParser, command_errors, output_file
from ..data.dataset import load_examples
from ..data.faces import crop_face, prepare_cropped
from ..data.locations import check_checkpoint, check_dataset
from ..demo.clips import CRF, write_mp4
from ..evaluation.predictor import Clip, find_clips
from ..evaluation.subsets import ALL_MODALITIES
from ..model.builder import load
from ..records import commit, print_record, versions
from .option_ranges import COUNT, check_ranges


CENTERED = "centered"
NUM_FRAMES = 24  # of a written video
ASPECT_RATIO = 16 / 9  # at least
COMPRESSED = "compressed more"
COMPRESSED_CRF = 30
LIMIT = 0.05  # of the changes that are counted


def place(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Variants of a clip, uint8 (T, y, x, 3): name -> frames. All but the letterboxed ones have one size."""
    height = frames.shape[1] // 2 * 2
    width = max(frames.shape[2], round(height * ASPECT_RATIO)) // 2 * 2
    left = (width - frames.shape[2]) // 2
    frames = move(frames, (height, width), 0, left)
    size = (height, width)
    side = (width - height) // 2  # the square in the center stays in the frame
    half = resize(frames, (height // 2, width // 2))
    smaller = resize(frames, (round(0.9 * height), round(0.9 * width)))
    tall = (round(width * 3 / 4) // 2 * 2, width)
    top = (tall[0] - height) // 3
    bars = np.zeros((len(frames), *tall, 3), np.uint8)
    bars[:, top : top + height] = move(frames, size, 0, side // 2)
    return {
        CENTERED: frames,
        "left third": move(frames, size, 0, -side),
        "right third": move(frames, size, 0, side),
        "half size": move(half, size, height // 4, width // 4),
        "half size, below left": move(half, size, height // 2, 0),
        "letterboxed, moved": bars,
        "moved by a pixel": move(frames, size, 1, 1),
        "0.9 of the size": move(smaller, size, round(0.05 * height), round(0.05 * width)),
        COMPRESSED: frames,
    }


def move(frames: np.ndarray, size: tuple[int, int], top: int, left: int) -> np.ndarray:
    """Frames in others of another size with their upper left corner at (top, left); around them, their edges are
    repeated."""
    rows = np.clip(np.arange(size[0]) - top, 0, frames.shape[1] - 1)
    columns = np.clip(np.arange(size[1]) - left, 0, frames.shape[2] - 1)
    return frames[:, rows][:, :, columns]


@torch.no_grad()
def predict_variants(model: Any, processor: EGMFProcessor, clip: Clip, task: str | None) -> dict[str, Any]:
    """Variant -> `face_share` and the probabilities from video alone and from everything, for one clip."""
    arguments = clip.processor_arguments(processor)
    with_video = [("video",), processor.modalities]
    video = arguments.pop("video")
    name = arguments.pop("sample_names")
    if video is None:
        raise ValueError(f"{name} is no video. Give a folder of videos.")
    frames = load_video(video, NUM_FRAMES, None, processor.max_clip_seconds, name)
    if frames is None:
        raise ValueError(f"{name}: its frames are of one color. Remove it.")
    heard = processor.load_media(audio=arguments["audio"] or video, modalities=("audio",), name=name)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant, placed in place(frames).items():
            path = Path(folder) / f"{len(results)}.mp4"
            crf = COMPRESSED_CRF if variant == COMPRESSED else CRF
            write_mp4(path, np.zeros(NUM_FRAMES, np.float32), placed, crf)
            media = processor.load_media(video=str(path), modalities=("video",), name=f"{name}, {variant}")
            media = crop_face(processor, media, f"{name}, {variant}")
            given = {"text": arguments["text"], **heard, **media, "sampling_rate": processor.sampling_rate}
            given |= {"task": task, "name": name}
            samples = [prepare_cropped(processor, **given, modalities=subset) for subset in with_video]
            scored = model.score_answers(**processor.collate(samples).to(model.device)).probabilities
            results[variant] = {"face_share": media["face_share"], "probabilities": scored.cpu().double().numpy()}
    return results


def summarize(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Variant -> figures over the clips: the largest change of a clip's probabilities, by subset of the modalities."""
    figures = {}
    for variant in clips[0]:
        found = [clip[variant]["face_share"] for clip in clips]
        figures[variant] = {"clips_without_face": found.count(0.0)}
        for row, subset in enumerate(("video", ALL_MODALITIES)):
            changes = []
            num_flipped = 0
            for clip in clips:
                centered = clip[CENTERED]["probabilities"][row]
                probabilities = clip[variant]["probabilities"][row]
                changes.append(float(np.abs(probabilities - centered).max()))
                num_flipped += int(probabilities.argmax() != centered.argmax())
            figures[variant][subset] = {
                "largest": max(changes),
                "mean": sum(changes) / len(changes),
                "clips_above_limit": sum(change > LIMIT for change in changes),
                "other_answers": num_flipped,
            }
    return figures


def read_corpora(arguments: argparse.Namespace, task: str) -> dict[str, list[Clip]]:
    """Name in the record -> clips of the dataset and of the folder, at most `max_samples` of each."""
    corpora = {}
    if arguments.dataset is not None:
        check_dataset(arguments.dataset)
        examples = load_examples(arguments.dataset, arguments.split, with_answers=False)
        chosen = [example for example in examples if example.get("task") in (None, task) and example.get("video")]
        if not chosen:
            raise ValueError(f"{arguments.dataset} has no videos of the task {task!r}. Give another --task.")
        corpora["dataset"] = [Clip(row["id"], row.get("text"), row.get("audio"), row["video"]) for row in chosen]
    if arguments.folder is not None:
        corpora["folder"] = find_clips(arguments.folder)[0]
    return {name: clips[: arguments.max_samples] for name, clips in corpora.items()}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of every corpus and variant, as one record."""
    model, processor = load(arguments.model_name_or_path)
    if processor.video_input != "frames":
        raise ValueError(f"{arguments.model_name_or_path} does not take videos. Give a model trained with frames.")
    trained_with = processor.frames
    processor = EGMFProcessor.from_pretrained(arguments.model_name_or_path, frames="face")
    task = arguments.task or next(iter(processor.task_objects))
    model.eval()
    record: dict[str, Any] = {"task": task, "trained_with_frames": trained_with, "limit": LIMIT, "corpora": {}}
    for name, clips in read_corpora(arguments, task).items():
        results = [predict_variants(model, processor, clip, task) for clip in tqdm(clips, desc=name, unit="clip")]
        record["corpora"][name] = {"clips": len(clips), "variants": summarize(results)}
    return {**record, "versions": versions(), "commit": commit()}


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", default="runs/demo", help="checkpoint; default: runs/demo")
    parser.add_argument("--dataset", help="corpus with videos, such as data/demo")
    parser.add_argument("--split", default="test", help="split of the dataset; default: test")
    parser.add_argument("--folder", type=Path, help="folder of videos, with the transcript of NAME.mp4 in NAME.txt")
    parser.add_argument("--task", help="task; default: the checkpoint's first task")
    parser.add_argument("--max_samples", type=int, default=20, help="clips of each; default: 20")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = make_parser()
        arguments = parser.parse_args(argv)
        check_ranges(arguments, {"max_samples": COUNT})
        if arguments.dataset is None and arguments.folder is None:
            parser.error("Give --dataset, --folder, or both.")
        check_checkpoint(arguments.model_name_or_path)
        record = measure(arguments)
        print_record(record, arguments.output)


if __name__ == "__main__":
    main()
