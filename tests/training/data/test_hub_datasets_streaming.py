"""A dataset on the Hub in a fresh process: downloaded and streamed, evaluated and predicted."""

import json
import subprocess

import pytest
from datasets import Audio, ClassLabel, Dataset, Features, Value
from huggingface_hub import HfApi, constants

from tests.helpers.local_hub import LocalHub
from tests.helpers.media_files import sine, write_audio
from tests.helpers.sources import ROOT


pytestmark = pytest.mark.integration
CODE = """
import json, sys
from pathlib import Path
from training.data.dataset import load_examples, stream_examples
from training.data.dataset_options import DatasetOptions
from training.predict import main as predict
from training.run_eval import main as evaluate

checkpoint, folder = sys.argv[1], Path(sys.argv[2])
options = DatasetOptions(columns={"audio": "clip", "text": "sentence", "answer": "emotion"}, revision="v1")
def read(example):
    audio = example["audio"]
    data = audio if isinstance(audio, bytes) else audio.read()
    return [example["id"], example["text"], example["answer"], len(data)]
loaded = [read(example) for example in load_examples("ada/clips", "test", options=options)]
streamed = [read(example) for chunk in stream_examples("ada/clips", "test", options, 2) for example in chunk]
shared = ["--model_name_or_path", checkpoint, "--device", "cpu", "--dataset", "ada/clips", "--streaming"]
shared += ["--audio_column", "clip", "--text_column", "sentence"]
evaluate([*shared, "--label_column", "emotion", "--output", str(folder / "results.json"), "--batch_size", "2"])
predict([*shared, "--output", str(folder / "predictions.jsonl")])
errors = []
for name, changes in (("ada/clips", {"config": "other"}), ("ada/absent", {}), ("ada/clips", {"revision": "v9"})):
    try:
        load_examples(name, "test", options=DatasetOptions(**changes))
    except ValueError as error:
        errors.append(str(error))
print(json.dumps({"loaded": loaded, "streamed": streamed, "errors": errors}))
"""


@pytest.fixture
def report(tmp_path, make_model, make_processor, warm_python, monkeypatch):
    """What the process prints, with a tiny checkpoint and three examples in the repo `ada/clips`."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    make_model("waveform", None, lora=None).save_pretrained(tmp_path / "model")
    make_processor("waveform", None).save_pretrained(tmp_path / "model")
    write_audio(tmp_path / "a.wav", sine(300, 0.3, 16_000), 16_000)
    features = {"clip": Audio(), "sentence": Value("string"), "emotion": ClassLabel(names=["joy", "anger"])}
    columns = {
        "clip": [{"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}] * 3,
        "sentence": ["One.", "Two.", "Three."],
        "emotion": [1, 0, 1],
    }
    Dataset.from_dict(columns).cast(Features(features)).to_parquet(tmp_path / "repo/data/test-0.parquet")
    with LocalHub({"hf_ada": "ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")  # noqa: S106
        api.create_repo("ada/clips", repo_type="dataset")
        api.upload_folder(repo_id="ada/clips", repo_type="dataset", folder_path=tmp_path / "repo")
        api.create_tag("ada/clips", tag="v1", repo_type="dataset")
        completed = subprocess.run(
            [warm_python, "-c", CODE, str(tmp_path / "model"), str(tmp_path)],
            cwd=ROOT,
            env={**hub.environment(tmp_path / "cache", "hf_ada"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return json.loads(completed.stdout.splitlines()[-1])


def test_dataset_on_the_hub(report, tmp_path):
    size = (tmp_path / "a.wav").stat().st_size
    labels = ["anger", "joy", "anger"]
    expected = [[str(i), text, labels[i], size] for i, text in enumerate(("One.", "Two.", "Three."))]
    assert report["loaded"] == report["streamed"] == expected
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["columns"] == {"text": "sentence", "audio": "clip", "answer": "emotion"}
    evaluated = results["subsets"]["text+audio"]["tasks"]["emotion"]["predictions"]
    predicted = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [prediction["clip"] for prediction in predicted] == ["0", "1", "2"]
    by_id = {answer["id"]: answer for answer in evaluated}
    for prediction in predicted:
        assert by_id[prediction["clip"]]["probabilities"] == pytest.approx(prediction["probabilities"], abs=1e-5)
    config, absent, revision = report["errors"]
    assert "--dataset ada/clips: " in config
    assert config.endswith("Give --dataset_config.")
    assert "--dataset ada/absent is neither a folder here nor a dataset on the Hub" in absent
    assert "v9" in revision
    assert not [error for error in report["errors"] if "\n" in error]
