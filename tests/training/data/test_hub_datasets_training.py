"""From a dataset on the Hub with a column of videos and one of audio to a trained model, evaluated while streaming."""

import json
import subprocess
import sys

import pytest
from datasets import Audio, ClassLabel, Dataset, Features, Value, Video
from huggingface_hub import HfApi, constants

from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.local_hub import LocalHub
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from tests.helpers.sources import ROOT
from tests.helpers.training_runs import command_line


LABELS = ["happy", "anger"]
COLUMNS = ["--video_column", "film", "--audio_column", "voice", "--text_column", "words", "--label_column", "mood"]


def write_split(path, folder, size):
    """Bytes of videos and recordings; every third example lacks one of them."""
    film = write_video(folder / "a.mp4", gray_frames(6), fps=12.5).read_bytes()
    write_audio(folder / "a.wav", sine(300, 0.3, 16_000), 16_000)
    voice = (folder / "a.wav").read_bytes()
    features = {"film": Video(), "voice": Audio(), "words": Value("string"), "mood": ClassLabel(names=LABELS)}
    columns = {
        "film": [None if i % 3 == 0 else {"bytes": film, "path": None} for i in range(size)],
        "voice": [None if i % 3 == 1 else {"bytes": voice, "path": None} for i in range(size)],
        "words": [f"Example {i}." for i in range(size)],
        "mood": [i % 2 for i in range(size)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).cast(Features(features)).to_parquet(path)


@pytest.mark.slow
def test_training_and_streamed_evaluation(tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_language_model(tmp_path / "llm", tiny_llama(tiny_tokenizer), tiny_tokenizer)
    for split, size in (("train", 12), ("validation", 4), ("test", 6)):
        write_split(tmp_path / f"repo/data/{split}-0.parquet", tmp_path, size)
    run = tmp_path / "runs/films"
    reading = [*COLUMNS, "--label_map", "happy=joy"]
    evaluation = ["--model_name_or_path", str(run), "--dataset", "ada/films", "--streaming", "--device", "cpu"]
    commands = [
        ["training.train", *command_line(tmp_path, "films", dataset="ada/films"), *reading],
        ["training.run_eval", *evaluation, *reading, "--batch_size", "2"],
    ]
    with LocalHub({"hf_ada": "ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106
        api.create_repo("ada/films", repo_type="dataset")
        api.upload_folder(repo_id="ada/films", repo_type="dataset", folder_path=tmp_path / "repo")
        environment = {**hub.environment(tmp_path / "cache", "hf_ada"), "PYTHONPATH": str(ROOT)}
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert record["examples"] == {"train": 12, "eval": 4}
    results = json.loads((run / "results-test.json").read_text(encoding="utf-8"))
    part = results["subsets"]["text+audio+video"]["tasks"]["emotion"]
    assert [answer["truth"] for answer in part["predictions"]] == ["joy", "anger"] * 3
    modalities = [["text", "audio"], ["text", "video"], ["text", "audio", "video"]]
    assert [answer["modalities"] for answer in part["predictions"]] == modalities * 2
