"""`make demo`: from nothing to a trained, evaluated, saved model that judges clips, with pictures.

    python -m training.demo [--output runs/demo] [--seed 0] [-- any option of training.train]

Fetches the two assets, builds the corpus, trains, evaluates every subset of modalities, writes the report and the
model card, and judges three test clips in a fresh process. Each stage runs in a process of its own, and says how long
it took and how much memory it needed. An interrupted demo is run again by the same command: the assets and the corpus
are there already, and training goes on from its last checkpoint. A finished run is moved aside, never overwritten.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import write_json
from .assets import fetch_assets, prepare_language_model


ROOT = Path(__file__).resolve().parents[2]


def _peak_gib(pid: int) -> float:
    """Peak resident memory of a process so far, in GiB; 0 where /proc does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def run_stage(name: str, command: Sequence[str], timings: dict[str, Any], cwd: Path = ROOT) -> None:
    """Run one stage, with its output on the screen, and note seconds and peak memory.

    Raises:
        SystemExit: the stage failed; its own message stands above.
    """
    print(f"\n== {name} ==", flush=True)
    started, peak = time.time(), 0.0
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=cwd, env=environment)
    try:
        while process.poll() is None:
            peak = max(peak, _peak_gib(process.pid))
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.wait()
        raise SystemExit("\nInterrupted. The same command goes on from here.") from None
    timings[name] = {"seconds": round(time.time() - started, 1), "peak_gib": round(peak, 2)}
    if process.returncode:
        raise SystemExit(f"\nThe stage '{name}' failed (exit {process.returncode}); what it said stands above.")


def choose_clips(results: dict[str, Any], data: Path) -> list[dict[str, Any]]:
    """Three test clips to judge, by paths within the corpus: an English emotion, a Chinese one, a sentiment."""
    with (data / "metadata.jsonl").open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["split"] == results["split"]]
    wanted = (("emotion", "en"), ("emotion", "zh"), ("sentiment", "en"))
    chosen = [next(row for row in rows if (row["task"], row["language"]) == kind) for kind in wanted]
    return [
        {
            "text": row["text"],
            "video": row["video"],
            "task": row["task"],
            "truth": row["answer"],
        }
        for row in chosen
    ]


def training_flags(output: Path) -> list[str]:
    """What was interrupted goes on; what is finished, or of another kind, is moved aside."""
    if not output.is_dir() or not any(output.iterdir()):
        return []
    finished = (output / "training.json").is_file()
    if not finished and (output / "settings.json").is_file():
        return []  # training goes on by itself, and says so
    return ["--overwrite", "true"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--dataset", type=Path, default=Path("data/demo"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"))
    parser.add_argument("--config", type=Path, default=Path("training/configs/demo.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="after --: options of training.train")
    arguments = parser.parse_args(argv)
    started = time.time()
    timings: dict[str, Any] = {}
    python = [sys.executable, "-m"]
    fetch_assets(arguments.cache)
    language_model = prepare_language_model(arguments.cache)
    timings["assets"] = {"seconds": round(time.time() - started, 1)}
    corpus = ["training.demo.corpus", "--output", str(arguments.dataset), "--sources", str(arguments.cache)]
    run_stage("corpus", [*python, *corpus], timings)
    train = ["training.train", "--config", str(arguments.config), "--dataset", str(arguments.dataset)]
    train += ["--output_dir", str(arguments.output), "--text_model_name_or_path", str(language_model)]
    train += ["--seed", str(arguments.seed), *training_flags(arguments.output), *arguments.options]
    run_stage("training", [*python, *train], timings)
    evaluation = [
        "training.run_eval",
        "--model_name_or_path",
        str(arguments.output),
        "--dataset",
        str(arguments.dataset),
    ]
    evaluation += ["--subsets", "every", "--seed", str(arguments.seed), "--overwrite"]
    run_stage("evaluation", [*python, *evaluation], timings)
    from ..evaluation.report import write_report
    from ..hub.model_card import write_card
    from .corpus import preview

    shutil.copy2(arguments.dataset / "ceilings.json", arguments.output)  # the run's card needs no corpus beside it
    preview(arguments.dataset, arguments.output / "faces.png")
    report = write_report(arguments.output, arguments.dataset)
    card = write_card(arguments.output, arguments.dataset)
    results = json.loads((arguments.output / "results-test.json").read_text(encoding="utf-8"))
    clips = write_json(arguments.output / "judged-clips.json", choose_clips(results, arguments.dataset))
    with tempfile.TemporaryDirectory() as elsewhere:
        paths = (arguments.output.resolve(), clips.resolve(), arguments.dataset.resolve())
        fresh = [str(ROOT / "training/demo/fresh_prediction.py"), *map(str, paths)]
        run_stage("three clips, judged in a fresh process", [sys.executable, "-I", *fresh], timings, Path(elsewhere))
    timings["all"] = {
        "seconds": round(time.time() - started, 1),
        "peak_gib": max(stage.get("peak_gib", 0.0) for stage in timings.values()),
    }
    write_json(arguments.output / "timings.json", timings)
    weights = (arguments.output / "model.safetensors").stat().st_size / 1e6
    print("== done ==")
    print(f"checkpoint  {arguments.output}  (light: {weights:.1f} MB of weights; the language model stays in")
    print(f"            {language_model})")
    print(f"report      {report}")
    print(f"model card  {card}")
    print(f"results     {arguments.output / 'results-test.json'}")
    print(f"corpus      {arguments.dataset}")
    print(f"took        {timings['all']['seconds'] / 60:.1f} minutes, peak {timings['all']['peak_gib']:.1f} GiB")


if __name__ == "__main__":
    main()
