"""The user of habits.py: a checkpoint, each part loaded once, and the answer that every way to it must give."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch


TASK = "multimodal-emotion-recognition"
TEXT = "I'm fine."


class User:
    """A user with a checkpoint and a clip, who loads each part of the checkpoint once."""

    def __init__(self, checkpoint: Path, clip: Path, folder: Path, installed: bool):
        self.checkpoint = str(checkpoint)
        self.clip = str(clip)
        self.folder = folder
        self.trust = {} if installed else {"trust_remote_code": True}

    @cached_property
    def model(self) -> Any:
        return self.load_model(self.checkpoint)

    @cached_property
    def processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.checkpoint, **self.trust)

    @cached_property
    def pipe(self) -> Any:
        from transformers import pipeline

        return pipeline(TASK, model=self.checkpoint, dtype=torch.float32, **self.trust)

    @cached_property
    def inputs(self) -> Any:
        return self.processor(text=TEXT, video=self.clip, task="emotion", return_tensors="pt")

    @cached_property
    def probabilities(self) -> dict[str, float]:
        """Label -> probability, from the plain call: what every other way must give as well."""
        return self.answer(self.model, self.inputs)

    @cached_property
    def noise(self) -> np.ndarray:
        """One second of audio, (16000,) float32."""
        return (0.01 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)

    def load_model(self, folder: str | Path, **options: Any) -> Any:
        from transformers import AutoModel

        return AutoModel.from_pretrained(folder, **{"dtype": torch.float32, **self.trust, **options}).eval()

    def answer(self, model: Any, inputs: Any) -> dict[str, float]:
        with torch.inference_mode():
            output = model.score_answers(**inputs)
        return self.processor.post_process_answers(output)[0]["probabilities"]

    def check(self, probabilities: dict[str, float], tolerance: float = 1e-4) -> None:
        assert probabilities.keys() == self.probabilities.keys(), f"labels {list(probabilities)}"
        for label, expected in self.probabilities.items():
            assert abs(probabilities[label] - expected) < tolerance, f"{label}: {probabilities[label]}, not {expected}"

    def check_model(self, model: Any, tolerance: float = 1e-4) -> None:
        self.check(self.answer(model, self.inputs), tolerance)

    def collator(self) -> Any:
        """`EGMFDataCollator` of the installed package, or of the checkpoint's code."""
        if not self.trust:
            from processing_egmf import EGMFDataCollator

            return EGMFDataCollator(self.processor)
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        collator_class = get_class_from_dynamic_module("collator_egmf.EGMFDataCollator", self.checkpoint)
        return collator_class(self.processor)

    def trainer(self, **options: Any) -> Any:
        """A plain `Trainer` with four examples, on a model of its own."""
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(
            str(self.folder / "trainer"), max_steps=1, report_to="none", use_cpu=True, save_strategy="no"
        )
        examples = [{"text": TEXT, "task": "emotion", "answer": "joy"}] * 4
        options = {"train_dataset": examples, "eval_dataset": examples, **options}
        return Trainer(self.load_model(self.checkpoint), arguments, data_collator=self.collator(), **options)


HABITS: dict[str, tuple[Callable[[User], None], str | None]] = {}  # name -> function, replacement


def habit(function: Callable[[User], None]) -> Callable[[User], None]:
    """A habit that must work."""
    HABITS[function.__name__] = (function, None)
    return function


def may_be_refused(replacement: str) -> Callable:
    """A habit that works, or is refused with a line that contains `replacement`."""

    def decorate(function: Callable[[User], None]) -> Callable[[User], None]:
        HABITS[function.__name__] = (function, replacement)
        return function

    return decorate
