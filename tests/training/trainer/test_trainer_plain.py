"""The plain `transformers.Trainer`: the same losses as our command's, and the lines of PYTHON_API.md."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from modeling_egmf.checkpoints_egmf import fingerprint
from processing_egmf import BUILT_IN_TASKS, EGMFDataCollator
from tests.helpers.sources import ROOT
from tests.helpers.training_runs import run
from training.data.dataset import load_examples
from training.model.builder import load


pytestmark = pytest.mark.integration
OPTIONS = {"max_steps": 3, "logging_steps": 1, "learning_rate": 1e-2, "seed": 3, "report_to": "none"}
OPTIONS |= {"train_sampling_strategy": "sequential", "eval_strategy": "no", "save_strategy": "no"}


@pytest.fixture(scope="module")
def start(place, make_language_model, make_model, make_processor):
    """A checkpoint without dropout, so that losses do not depend on random numbers."""
    folder = place / "start"
    language_model = make_language_model()
    language_model.save_pretrained(place / "start_llm")
    model = make_model("waveform", "frames", language_model=language_model)
    model.config.text_model_id = "../start_llm"
    model.config.text_model_fingerprint = fingerprint(language_model)
    model.save_pretrained(folder)
    tasks = [BUILT_IN_TASKS[name] for name in ("emotion", "sentiment")]
    make_processor("waveform", "frames", tasks=tasks).save_pretrained(folder)
    return folder


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_plain_trainer_has_the_losses_of_our_command(place, start):
    options = {**OPTIONS, "model_name_or_path": start, "text_model_name_or_path": None, "modality_dropout": 0}
    ours = run(place, "command", **options)
    ours.args.eval_strategy = "no"
    evaluated = ours.evaluate()
    model, processor = load(start)
    train_rows = load_examples(place / "corpus", "train")
    eval_rows = load_examples(place / "corpus", "validation")
    seen = {}

    def compute_metrics(evaluation):
        log_probs, seen["index"] = evaluation.predictions
        seen["probabilities"] = np.exp(log_probs)
        return {"accuracy": (log_probs.argmax(axis=1) == seen["index"]).mean()}

    plain = Trainer(
        model,
        TrainingArguments(
            str(place / "plain"),
            per_device_train_batch_size=3,
            per_device_eval_batch_size=2,
            use_cpu=True,
            disable_tqdm=True,
            **OPTIONS,
        ),
        EGMFDataCollator(processor),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        compute_metrics=compute_metrics,
    )
    plain.train()
    assert losses_of(plain) == losses_of(ours)
    assert len(losses_of(plain)) == 3
    metrics = plain.evaluate()
    assert metrics["eval_loss"] == pytest.approx(evaluated["eval_loss"], abs=1e-6)
    assert seen["index"].tolist() == [example["label_index"] for example in ours.eval_dataset.examples]
    np.testing.assert_allclose(seen["probabilities"].sum(axis=1), 1, atol=1e-5)
    # A `datasets.Dataset`, whose columns `Trainer` removes itself; only one task, because a column has one type.
    columns = ("id", "task", "text", "video", "split", "answer")
    emotions = [{name: row.get(name) for name in columns} for row in eval_rows if row["task"] == "emotion"]
    plain.evaluate(Dataset.from_list(emotions))
    assert seen["index"].tolist() == [e["label_index"] for e in ours.eval_dataset.examples if e["task"] == "emotion"]


def test_lines_of_the_python_api(place, start, monkeypatch):
    text = (ROOT / "training/PYTHON_API.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (training,) = [block for block in blocks if "TrainingArguments" in block]
    assert "processor.data_collator()" in training
    clip = place / "corpus/clips/0.mp4"
    code = "\n".join([blocks[0], training])
    code = code.replace("data/demo/clips/test_0000.mp4", str(clip)).replace("runs/demo", str(start))
    monkeypatch.chdir(place)
    scope = {}
    exec(code, scope)  # noqa: S102
    assert scope["trainer"].state.global_step == 3
    assert Path("runs/notebook").is_dir()
