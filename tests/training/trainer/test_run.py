"""A complete run, from options to portable folders, with a tiny language model and twelve real clips."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor
from tests.helpers.training_runs import (
    PRETRAINING,
    SHORT,
    assert_same_weights,
    record_of,
    run,
    weights_of,
)
from training.model import language_model
from training.model.builder import load


pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def folder(finished):
    return Path(finished.args.output_dir)


# ---- what a run writes ---------------------------------------------------------------------------------------


def test_run_writes_its_files(finished, folder):
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "training.json"} <= names
    assert {"checkpoint-2", "checkpoint-4"} <= names
    assert not list(folder.rglob("training_args.bin"))  # a pickle that nothing reads
    record = record_of(folder)
    assert len(record["fusion_pretraining_losses"]) == 1
    assert math.isfinite(record["fusion_pretraining_losses"][0])
    assert record["examples"] == {"train": 6, "eval": 4}
    assert record["seed"] == 3
    assert 0 < record["parameters"]["trained"] < record["parameters"]["all"]
    assert finished.state.global_step == 4


def test_weights_have_the_same_permissions_as_other_files(folder):
    for name in ("model.safetensors", "default/adapter_model.safetensors"):
        assert (folder / name).stat().st_mode == (folder / "config.json").stat().st_mode


def test_adapter_checkpoint_holds_no_frozen_weights(folder):
    names = set(weights_of(folder))
    assert all(name.startswith("egmf.") or "lora_" in name for name in names)
    assert any("lora_" in name for name in names)
    assert any(name.startswith("egmf.") for name in names)


def test_only_the_tasks_of_the_examples_are_kept(finished, folder):
    assert list(finished.processing_class.task_objects) == ["emotion", "sentiment"]
    assert set(EGMFProcessor.from_pretrained(folder).task_objects) == {"emotion", "sentiment"}


def test_no_file_holds_a_path_of_this_machine(place, folder):
    paths = {str(place), str(Path.home()), str(REPOSITORY), sys.prefix} - {"/"}
    for path in sorted(folder.rglob("*.json")):
        if path.name in ("training.json", "trainer_state.json"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in paths if name in text], path
        assert not re.search(r'"/(tmp|home|root|work|Users|mnt|data)/', text), path


def test_checkpoint_includes_its_code(folder):
    sources = [path.name for name in ("modeling_egmf", "processing_egmf") for path in (REPOSITORY / name).glob("*.py")]
    for checkpoint in (folder, folder / "checkpoint-2"):
        code = {path.name for path in checkpoint.glob("*.py")}
        assert code <= set(sources)
        assert {
            "modeling_egmf.py",
            "configuration_egmf.py",
            "processing_egmf.py",
            "tasks_egmf.py",
        } <= code


# ---- folders that load anywhere ------------------------------------------------------------------------------

LOAD = """
import json, sys
from transformers import AutoModel, AutoProcessor
found = {}
for folder in sys.argv[2:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(text="word 5", video=sys.argv[1], task="emotion")
    answer = processor.post_process_answers(model.score_answers(**inputs))[0]
    found[folder] = {"class": type(model).__name__, "id": model.config.text_model_id, **answer["probabilities"]}
assert not [name for name in sys.modules if name.split(".")[0] in ("modeling_egmf", "processing_egmf", "training")]
print(json.dumps(found))
"""


def load_elsewhere(python, tmp_path, clip, *folders):
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [python, "-I", "-c", LOAD, str(clip), *map(str, folders)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer_of(model, processor, clip):
    inputs = processor(text="word 5", video=str(clip), task="emotion")
    return processor.post_process_answers(model.score_answers(**inputs))[0]["probabilities"]


def answer_here(folder, clip, text_model_id):
    model = EGMFForConditionalGeneration.from_pretrained(folder, text_model_id=text_model_id)
    return answer_of(model, EGMFProcessor.from_pretrained(folder), clip)


def test_folders_load_in_a_fresh_process(place, folder, tmp_path, warm_python):
    """The run and its language model are moved together; the relative id must still be valid."""
    moved = tmp_path / "moved"
    shutil.copytree(place / "llm", moved / "llm")
    shutil.copytree(folder, moved / "runs/finished")
    clip = place / "corpus/clips/5.mp4"
    parts = (".", "checkpoint-2")
    folders = [moved / "runs/finished" / part for part in parts]
    answers = load_elsewhere(warm_python, tmp_path, clip, *folders)
    for part, answer in zip(parts, answers.values(), strict=True):
        assert answer.pop("class") == "EGMFForConditionalGeneration"
        assert answer.pop("id") == str(moved / "llm")
        stored = json.loads((folder / part / "config.json").read_text())["text_model_id"]
        assert stored == os.path.relpath(place / "llm", folder / part)
        assert answer == pytest.approx(answer_here(folder / part, clip, place / "llm"), abs=1e-5)


@pytest.mark.parametrize("part", [".", "checkpoint-2"])
def test_load_uses_the_code_of_this_tree(place, folder, part):
    clip = place / "corpus/clips/5.mp4"
    model, processor = load(folder / part)
    assert type(model) is EGMFForConditionalGeneration
    assert type(processor) is EGMFProcessor
    assert answer_of(model, processor, clip) == pytest.approx(
        answer_here(folder / part, clip, place / "llm"), abs=1e-6
    )


def test_load_accepts_a_language_model_from_elsewhere(place, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    with pytest.raises(OSError, match="adapter checkpoint"):
        load(tmp_path / "run")
    model, _ = load(tmp_path / "run", place / "llm")
    assert model.config.text_model_id == str(place / "llm")


# ---- resuming and fine-tuning --------------------------------------------------------------------------------


def test_resuming_from_another_folder_gives_equal_weights(place, folder):
    """The checkpoint is without the settings of its run."""
    resumed_folder = place / "runs/resumed"
    shutil.copytree(folder / "checkpoint-2", resumed_folder / "checkpoint-2")
    resumed = run(place, "resumed", resume_from_checkpoint="true", **PRETRAINING)
    assert resumed.state.global_step == 4
    for part in (".", "checkpoint-4"):
        assert_same_weights(weights_of(resumed_folder / part), weights_of(folder / part))


def test_checkpoint_can_be_fine_tuned(place, folder):
    changes = {"model_name_or_path": folder, "text_model_name_or_path": None}
    trainer = run(place, "further", **changes, **SHORT)
    base = load_file(place / "llm/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(trainer.model.get_input_embeddings().weight, base)
    config = json.loads((place / "runs/further/config.json").read_text())
    assert (place / "runs/further" / config["text_model_id"]).resolve() == (place / "llm").resolve()


# ---- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"modalities": ["video"], "only_tasks": ["emotion"]},
        {"audio": "none", "lora_r": 0},
        {"video": "none"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_reduced_settings_train(place, changes, capsys):
    trainer = run(place, "small-" + "-".join(changes), **SHORT, **changes)
    assert trainer.state.global_step == 1
    assert "left out" not in capsys.readouterr().out  # nothing is missing


def test_examples_without_an_encoder_are_left_out(place, capsys):
    trainer = run(place, "reader", audio="none", video="none", **SHORT)
    assert "left out 1 of 6 examples without text, audio, video: c3." in capsys.readouterr().out
    assert len(trainer.train_dataset) == 5


def test_examples_without_the_chosen_modalities_are_left_out_and_named(place, capsys):
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 1, "cache_media": "false"}
    trainer = run(place, "textless", modalities=["text"], **{**SHORT, "max_steps": None, **options})
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == ["Split 'train': left out 1 of 6 examples without text: c3."]
    assert trainer.state.global_step == 5
    assert [sample["id"] for sample in trainer.train_dataset] == ["c0", "c1", "c2", "c4", "c5"]
    assert len(trainer.eval_dataset) == 4
    assert record_of(place / "runs/textless")["examples"] == {"train": 5, "eval": 4}


def test_features_missing_from_all_examples_are_refused(place):
    changes = {"audio": "features", "audio_feature_size": 8, **SHORT}
    message = r"The model takes --audio features, but the training examples have audio only as waveform"
    with pytest.raises(ValueError, match=message):
        run(place, "no-features", **changes)
    run(place, "no-features", **changes, modalities=["text", "video"])


def test_split_without_the_chosen_modalities_is_refused(place, tmp_path):
    """At once, not hours later at its first batch."""
    shutil.copytree(place / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus/metadata.jsonl"
    examples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for example in examples:
        if example["split"] == "validation":
            example["text"] = " "
    path.write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"No example of split 'validation' has any of the modalities text"):
        run(place, "speechless", dataset=tmp_path / "corpus", modalities=["text"], max_steps=1)
    assert not (place / "runs/speechless").exists()


def test_dataset_without_splits_says_so(place, tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"text": "a", "answer": "joy"}\n')
    with pytest.raises(
        ValueError, match=r"has no column `split`, so it has no split 'train'\. Add it, with the values train, valid"
    ):
        run(place, "splitless", dataset=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": None}, "Give --dataset"),
        ({"train_split": "dev"}, r"has no split 'dev'\. Its splits are test, train, validation"),
        ({"eval_split": "dev"}, r"has no split 'dev'"),
        ({"only_tasks": ["mosei"]}, "No example has a task of --only_tasks mosei"),
        ({"text_model_name_or_path": None}, "Give --backbone or --text_model_name_or_path"),
        ({"audio": "features"}, "needs --audio_feature_size"),
        ({"audio": "wavform"}, "--audio wavform is not an encoder. Did you mean waveform"),
        ({"video": "frame"}, "--video frame is not an encoder. Did you mean frames"),
        ({"max_train_samples": 0}, "must be at least 1, not 0"),
        ({"max_eval_samples": -1}, "must be at least 1, not -1"),
        ({"tasks_file": "absent.yaml"}, "--tasks_file absent.yaml does not exist"),
        ({"modalities": ["smell"]}, r"'smell'.*use any of text, audio, video"),
        (
            {"optim": "adagrad", "optim_args": "lr_decy=1"},
            "--optim_args lr_decy=1: lr_decy=1 has no effect",
        ),
        ({"metric_for_best_model": "emotion_acuracy"}, "Did you mean 'emotion_accuracy' instead of 'emotion_acuracy'"),
        ({"dataloader_drop_last": "true", "per_device_train_batch_size": 7}, "leaves nothing to train on: 6 examples"),
        ({"modality_dropout": 1.5}, r"--modality_dropout is 1\.5"),
    ],
)
def test_errors_in_settings_say_what_to_do(place, changes, message):
    with pytest.raises(ValueError, match=message):
        run(place, "bad", **changes)
    assert not (place / "runs/bad").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_split": "dev"}, "has no split 'dev'"),
        ({"tasks_file": "absent.yaml"}, "--tasks_file absent.yaml does not exist"),
        ({"text_model_name_or_path": "/no/llm"}, "There is no folder /no/llm"),
        ({}, "The Hub was asked"),
    ],
)
def test_local_files_are_checked_before_the_hub_is_asked(place, monkeypatch, changes, message):
    def ask(*args, **kwargs):
        raise ValueError("The Hub was asked")

    monkeypatch.setattr(language_model, "text_model_config", ask)
    with pytest.raises(ValueError, match=message):
        run(place, "bad", **{"text_model_name_or_path": "org/name", **changes})


def test_split_without_answers_is_refused(place, tmp_path):
    rows = [
        {"id": "a", "split": "train", "text": "a", "answer": "joy"},
        {"id": "b", "split": "validation", "text": "b"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ValueError, match="no example of the split 'validation' has an `answer`.* another .*--eval_split"
    ):
        run(place, "blind", dataset=tmp_path)


# ---- logs ----------------------------------------------------------------------------------------------------

# What `transformers.integrations.TrackioCallback` uses of the package.
TRACKIO = """
from contextvars import ContextVar
from types import SimpleNamespace

class Config(dict):
    def update(self, values, allow_val_change):
        super().update(values)

__version__ = "0.43.0"
calls, config = [], Config()
context_vars = SimpleNamespace(current_space_id=ContextVar("space", default=None))

def init(**settings):
    calls.append(("init", settings))

def log(values):
    calls.append(("log", values))

def finish():
    calls.append(("finish", None))
"""


def test_report_to_trackio(place, tmp_path, monkeypatch):
    (tmp_path / "trackio.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(tmp_path)
    run(place, "trackio", **SHORT, report_to="trackio", project="feelings", run_name="first", logging_steps=1)
    trackio = sys.modules["trackio"]
    (start, settings), *logged, (end, _) = trackio.calls
    assert (start, end) == ("init", "finish")
    assert (settings["project"], settings["name"]) == ("feelings", "first")
    assert any(values.get("train/loss", 0) > 0 for _, values in logged)
    assert trackio.config["model_type"] == "egmf"
    assert trackio.config["model/num_parameters"] > 0
