r"""Predictor one clip, or every clip of a folder.

    python -m training.predict --model_name_or_path runs/demo --video clip.mp4 --text "I'm fine." --task emotion
    python -m training.predict --model_name_or_path runs/demo --folder clips/ --output answers.jsonl
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m training.predict --model_name_or_path runs/demo \
        --folder clips/ --output answers.parquet

A folder's transcripts are read from `NAME.txt` beside `NAME.mp4`. Every answer is one JSON line, or a row of Parquet
where the output is named so; a clip that cannot be read is reported with its reason, and the others go on. Several
processes share the clips of a folder.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor

from ..arguments import ModelArguments
from ..data.windows import predict_windows, require_hop
from ..model.builder import FOUR_BIT_HELP, load, quantization
from ..records import check_writable
from ..trainer.sampling import merge_over_processes, own_part, processes, require_all, require_examples


VIDEO = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus", ".aac")


def judge(
    model: EGMFForConditionalGeneration,
    processor: EGMFProcessor,
    inputs: dict[str, Any],
    top_k: int | None = None,
    hop: float | None = None,
) -> dict[str, Any]:
    """One sample's processor arguments -> its answer, over all of its windows where `hop` seconds are given."""
    answer = predict_windows(model, processor, inputs, hop, top_k) if hop is not None else None
    if answer is not None:
        return answer
    features = processor(**inputs).to(model.device)
    return processor.post_process_answers(model.score_answers(**features), top_k=top_k)[0]


def clips_of(folder: Path) -> list[dict[str, Any]]:
    """Processor arguments of every media file of a folder, in the order of their names."""
    found = []
    for path in sorted(folder.rglob("*")):
        kind = "video" if path.suffix.lower() in VIDEO else "audio" if path.suffix.lower() in AUDIO else None
        if kind is not None:
            found.append({kind: str(path), "words": path.with_suffix(".txt"), "sample_names": str(path)})
    return found


def predict_all(
    model: EGMFForConditionalGeneration, processor: EGMFProcessor, clips: list[dict], **shared: Any
) -> Iterator[dict[str, Any]]:
    """One answer a clip, or `{"error": reason}`."""
    options = {name: shared.pop(name, None) for name in ("hop", "top_k")}
    for clip in tqdm(clips, desc="judging", unit="clip", disable=len(clips) < 2):
        try:
            words = clip.pop("words", None)
            if words is not None and words.is_file():
                clip["text"] = words.read_text(encoding="utf-8-sig").strip()
            answer = judge(model, processor, {**clip, **shared}, **options)
        except (ValueError, TypeError, OSError) as error:
            answer = {"error": str(error)}
        yield {"clip": clip["sample_names"], **answer}


def write_parquet(answers: Iterable[dict[str, Any]], path: Path) -> int:
    """`clip`, `task`, `label`, `score`, `error` and the whole `answer` as JSON, a row each; how many are errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "clip": pa.string(),
        "task": pa.string(),
        "label": pa.string(),
        "score": pa.float64(),
        "error": pa.string(),
    }
    rows = [
        {**{name: answer.get(name) for name in columns}, "answer": json.dumps(answer, ensure_ascii=False)}
        for answer in answers
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({**columns, "answer": pa.string()})), path)
    return sum(row["error"] is not None for row in rows)


def write_lines(answers: Iterable[dict[str, Any]], file: TextIO, indent: int | None) -> int:
    """One JSON text an answer; how many are errors."""
    failed = 0
    for answer in answers:
        failed += "error" in answer
        print(json.dumps(answer, ensure_ascii=False, indent=indent), file=file)
    return failed


def run(argv: Sequence[str] | None = None) -> None:
    """What the command line asks.

    Raises:
        ValueError, OSError: something that is asked for is not there, or does not fit.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint: a folder or a Hub id")
    parser.add_argument("--text", help="what was said")
    parser.add_argument("--audio", help="sound file")
    parser.add_argument("--video", help="video file; its own sound track is heard")
    parser.add_argument("--folder", type=Path, help="judge every clip in it")
    parser.add_argument("--task", help="which question; default: the checkpoint's first task")
    parser.add_argument("--modalities", nargs="+", help="use these alone: text audio video")
    parser.add_argument("--window_hop", type=float, help="cut longer clips into windows, one every so many seconds")
    parser.add_argument("--top_k", type=int, help="keep so many probabilities")
    parser.add_argument("--output", type=Path, help="write JSON lines here, or Parquet; default: the screen")
    parser.add_argument("--overwrite", action="store_true", help="replace an output file that is there")
    parser.add_argument("--text_model_name_or_path", help="where the language model of a light checkpoint lies")
    parser.add_argument("--load_in_4bit", action="store_true", help=FOUR_BIT_HELP)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    if arguments.output is not None and arguments.output.is_dir():
        parser.error(f"{arguments.output} is a folder; give the name of a file.")
    if arguments.output is not None and arguments.output.exists() and not arguments.overwrite:
        parser.error(f"{arguments.output} is there already; give another --output, or --overwrite.")
    if arguments.folder is not None and (arguments.text or arguments.audio or arguments.video):
        parser.error("--folder takes no --text, --audio or --video; words lie in NAME.txt beside each clip.")
    if arguments.folder is None and not (arguments.text or arguments.audio or arguments.video):
        parser.error("give --text, --audio or --video, or --folder with clips.")
    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        parser.error(f"there is no folder {arguments.output.parent} to write into.")
    if arguments.folder is not None:
        if not arguments.folder.is_dir():
            parser.error(f"{arguments.folder} is no folder.")
        clips = clips_of(arguments.folder)
        if not clips:
            parser.error(f"{arguments.folder} holds no media. Known endings: {' '.join(VIDEO + AUDIO)}.")
    else:
        name = arguments.video or arguments.audio or "the text"
        clips = [{"text": arguments.text, "audio": arguments.audio, "video": arguments.video, "sample_names": name}]
    four_bit = quantization(ModelArguments(load_in_4bit=arguments.load_in_4bit))
    if arguments.output is not None:
        check_writable(arguments.output.resolve().parent)
    state = processes(arguments.device)
    if state.num_processes > 1 and arguments.output is None:
        parser.error("several processes need --output, a file to put their answers together in.")
    try:
        require_examples(len(clips), state.num_processes, "clips")
    except ValueError as error:
        parser.error(str(error))
    model, processor = load(arguments.model_name_or_path, arguments.text_model_name_or_path, four_bit)
    require_hop(arguments.window_hop, processor.max_clip_seconds)
    model.to(state.device if state.num_processes > 1 else arguments.device)
    shared = {"task": arguments.task, "modalities": arguments.modalities, "top_k": arguments.top_k}
    shared["hop"] = arguments.window_hop
    places, own = own_part(clips, state)
    answers: Iterable[dict[str, Any]] = predict_all(model, processor, own, **shared)
    if state.num_processes > 1:
        judged = ({"place": place, "answer": answer} for place, answer in zip(places, answers, strict=True))
        records = merge_over_processes(state, judged, arguments.output, key=("place",))
        state.destroy_process_group()
        if records is None:
            return
        require_all((record["place"] for record in records), len(clips))
        answers = [record["answer"] for record in records]
    indent = None if arguments.folder else 1
    if arguments.output is None:
        failed = write_lines(answers, sys.stdout, indent)
    else:
        target = arguments.output.with_name(f".{arguments.output.name}.part")
        if arguments.output.suffix == ".parquet":
            failed = write_parquet(answers, target)
        else:
            with target.open("w", encoding="utf-8") as file:
                failed = write_lines(answers, file, indent)
        os.replace(target, arguments.output)
    if failed:
        print(f"{failed} of {len(clips)} clips could not be judged; each line says why.", file=sys.stderr)
        sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    try:
        run(argv)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
