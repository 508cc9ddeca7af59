"""Checkpoints in a fresh process without this repository: their own code, the processor, the pipeline."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments, pipeline

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFPipeline, EGMFProcessor
from training.model.export import merge


ROOT = Path(__file__).parents[2]
TASK = "multimodal-emotion-recognition"
PROCESSING_CODE = {path.name for path in (ROOT / "processing_egmf").glob("*_egmf.py")}
CODE = PROCESSING_CODE | {path.name for path in (ROOT / "modeling_egmf").glob("*_egmf.py")}

FRESH_PROCESS = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None and importlib.util.find_spec("processing_egmf") is None
import torch
from transformers import AutoProcessor, pipeline
torch.set_num_threads(1)
folders, processor_folder, clip = json.loads(sys.argv[1])
found = {}
try:
    pipeline("multimodal-emotion-recognition", model=folders["standalone"], trust_remote_code=False)
except ValueError as error:
    found["without consent"] = str(error)
found["code without consent"] = sorted(m for m in sys.modules if m.startswith("transformers_modules."))
for name, folder in folders.items():
    arguments = {} if name == "standalone" else {"task": "multimodal-emotion-recognition"}
    pipe = pipeline(model=folder, trust_remote_code=True, device="cpu", dtype=torch.float32, **arguments)
    of_objects = pipeline("multimodal-emotion-recognition", model=pipe.model, processor=pipe.processor, device="cpu")
    answers = pipe([clip, {"text": "No!"}], text="I'm fine.", return_experts=True, batch_size=2)
    pipe.save_pretrained(folder + "-again")
    found[name] = {
        "module": type(pipe).__module__,
        "task": pipe.task,
        "alone": of_objects(clip, text="I'm fine.", return_experts=True),
        "answers": answers,
    }
processor = AutoProcessor.from_pretrained(processor_folder, trust_remote_code=True)
batch = processor(text="I'm fine.", video=clip, task="mood", answer="high")
found["processor"] = {
    "class": type(processor).__name__,
    "module": type(processor).__module__,
    "input_ids": batch["input_ids"].tolist(),
    "labels": batch["labels"].tolist(),
    "modality_mask": batch["modality_mask"].tolist(),
    "sum": batch["audio_values"].double().abs().sum().item() + batch["video_values"].double().abs().sum().item(),
}
found["ours"] = sorted(m for m in sys.modules if m.split(".")[0] in ("processing_egmf", "modeling_egmf", "training"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoints(make_model, make_language_model, make_processor, tmp_path_factory):
    """`adapter`, `standalone`, and `trainer` as Trainer writes it, all of one model."""
    root = tmp_path_factory.mktemp("checkpoints")
    make_language_model().save_pretrained(root / "llm")
    model = make_model("waveform", "frames", text_model_id="../llm")
    processor = make_processor("waveform", "frames")
    model.save_pretrained(root / "adapter")
    processor.save_pretrained(root / "adapter")
    arguments = TrainingArguments(str(root / "run"), use_cpu=True, report_to=[])
    trainer = Trainer(model, arguments, processing_class=processor)
    trainer.save_model(str(root / "trainer"))
    merge(model).save_pretrained(root / "standalone")
    processor.save_pretrained(root / "standalone")
    return {name: root / name for name in ("adapter", "standalone", "trainer")}


@pytest.fixture(scope="module")
def processor_with_own_task(make_processor):
    processor = make_processor("waveform", "frames")
    labels = {"low": "joy", "high": "joy and joy"}
    processor.add_task(
        {
            "name": "mood",
            "kind": "classification",
            "labels": labels,
            "prompt": "\nThe mood is",
        }
    )
    return processor


@pytest.fixture(scope="module")
def processor_folder(processor_with_own_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor") / "checkpoint"
    processor_with_own_task.register_for_auto_class("AutoProcessor")
    processor_with_own_task.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fresh(checkpoints, processor_folder, clips, tmp_path_factory, warm_python):
    """Results of one fresh process that loads all the folders."""
    home = tmp_path_factory.mktemp("home")
    clip = str(shutil.copy(clips["both"], home / "clip.mp4"))
    folders = {name: str(folder) for name, folder in checkpoints.items()}
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            warm_python,
            "-I",
            "-c",
            FRESH_PROCESS,
            json.dumps([folders, str(processor_folder), clip]),
        ],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found.pop("ours") == []
    return found


def assert_close(found, expected):
    assert set(found) == set(expected)
    assert found["modalities"] == expected["modalities"]
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


@pytest.mark.parametrize("name", ["adapter", "standalone", "trainer"])
def test_the_code_travels_with_every_checkpoint(checkpoints, name):
    assert {path.name for path in checkpoints[name].glob("*.py")} == CODE
    stored = json.loads((checkpoints[name] / "config.json").read_text())["custom_pipelines"]
    assert stored == {TASK: {"impl": "pipeline_egmf.EGMFPipeline", "pt": ["AutoModel"]}}


def test_the_code_travels_with_a_saved_processor(processor_folder):
    assert {path.name for path in processor_folder.glob("*.py")} == PROCESSING_CODE


def test_a_pipeline_saves_what_it_needs(make_model, make_processor, tmp_path):
    model = make_model("waveform", "frames")
    pipe = EGMFPipeline(model=model, processor=make_processor("waveform", "frames"), task=TASK, device="cpu")
    model.config.text_model_id = None
    pipe.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE
    loaded_model = EGMFForConditionalGeneration.from_pretrained(tmp_path)
    again = EGMFPipeline(model=loaded_model, processor=EGMFProcessor.from_pretrained(tmp_path), device="cpu")
    assert_close(again(text="I'm fine.", task="emotion"), pipe(text="I'm fine.", task="emotion"))


def test_without_consent_the_installed_code_runs(checkpoints):
    pipe = pipeline(TASK, model=str(checkpoints["standalone"]), trust_remote_code=False)
    for part in (pipe, pipe.model, pipe.processor):
        assert type(part).__module__.startswith(("processing_egmf.", "modeling_egmf."))


@pytest.mark.parametrize("name", ["adapter", "standalone"])
def test_a_pipeline_renews_the_code_of_a_checkpoint(checkpoints, name):
    """As PYTHON_API.md says; the code of the repository is that of the installed package."""
    old = checkpoints[name].with_name(f"{name}-old")
    shutil.copytree(checkpoints[name], old)
    for path in old.glob("*.py"):
        path.write_text(f"raise RuntimeError('an earlier version')\n{path.read_text()}")
    (old / "forgotten_egmf.py").write_text("")
    pipe = pipeline(TASK, model=str(old))
    renewed = old.with_name(f"{name}-renewed")
    pipe.save_pretrained(renewed)
    sources = [path for folder in ("modeling_egmf", "processing_egmf") for path in (ROOT / folder).glob("*_egmf.py")]
    stored = {path.name: path.read_text() for path in renewed.glob("*.py")}
    assert stored == {path.name: path.read_text() for path in sources}
    again = pipeline(TASK, model=str(renewed))
    assert again(text="I'm fine.", task="emotion") == pipe(text="I'm fine.", task="emotion")


@pytest.mark.integration
def test_without_consent_no_code_runs(fresh):
    assert "trust_remote_code=True" in fresh["without consent"]
    assert fresh["code without consent"] == []


@pytest.mark.integration
@pytest.mark.parametrize("name", ["adapter", "standalone", "trainer"])
def test_pipeline_in_a_fresh_process(fresh, checkpoints, clips, name):
    folder = checkpoints[name]
    assert fresh[name]["module"].startswith("transformers_modules")
    assert fresh[name]["task"] == TASK
    model = EGMFForConditionalGeneration.from_pretrained(folder)
    processor = EGMFProcessor.from_pretrained(folder)
    output = model.score_answers(**processor(video=clips["both"], text="I'm fine."))
    expected = processor.post_process_answers(output)[0]
    first, second = fresh[name]["answers"]
    for answer in (fresh[name]["alone"], first):
        assert answer["task"] == expected["task"]
        assert_close(answer, expected)
    assert second["modalities"] == ["text"]
    stored = json.loads(Path(f"{folder}-again", "config.json").read_text())["custom_pipelines"]
    assert stored[TASK]["pt"] == ["AutoModel"]
    assert {path.name for path in Path(f"{folder}-again").glob("*.py")} == CODE


@pytest.mark.integration
def test_processor_in_a_fresh_process(fresh, processor_with_own_task, clips):
    found = fresh["processor"]
    batch = processor_with_own_task(text="I'm fine.", video=clips["both"], task="mood", answer="high")
    assert found["class"] == "EGMFProcessor"
    assert found["module"].startswith("transformers_modules")
    assert found["input_ids"] == batch["input_ids"].tolist()
    assert found["labels"] == batch["labels"].tolist()
    assert found["modality_mask"] == [[True, True, True]]
    total = sum(batch[f"{modality}_values"].double().abs().sum().item() for modality in ("audio", "video"))
    assert found["sum"] == pytest.approx(total, rel=1e-9)
