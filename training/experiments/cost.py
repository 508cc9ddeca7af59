"""Cost of a trained run's predictions, and how well `generate` answers compared with scoring.

    python -m training.experiments.cost RUN --dataset DATA [--output RUN/cost.json]

    test examples ─┬─► a batch: FLOPs of answering and of a training step, seconds of scoring and of `generate`, memory
                   └─► more of them: the metric of scored answers and of generated ones, and the unreadable share

FLOPs are those of matrix products, convolutions and attention, as torch counts them, per example; a training step is
forward and backward. Seconds are per example in a batch, without decoding of clips.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import BatchFeature

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFTask

from ..cli import CommandParser, command_errors
from ..data.collator import SampleCollator
from ..data.dataset import EGMFDataset, load_examples
from ..data.selection import select_examples
from ..evaluation.evaluator import predict_batch
from ..evaluation.metrics import answer_metrics, quiet
from ..evaluation.processes import choose_device
from ..evaluation.subsets import trained_modalities
from ..model.builder import load
from ..model.readout import EGMFWithHead
from ..records import commit, peak_gib, versions, write_json
from .plan import METRICS


# A answers of a task

REPEATS = 5
NEW_TOKENS = 8  # that `generate` may write


class CostMeasurement:
    """The measurements of one run.

    Args:
        run: folder of a checkpoint.
        dataset: whose examples are answered.
        split: of the examples.
        batch_size: of the batch that is measured.
        max_samples: examples that are answered in both ways, stratified by label.
        device: `cpu` or `cuda`; None for CUDA if there is a GPU.
    """

    def __init__(
        self,
        run: Path,
        dataset: str,
        split: str = "test",
        batch_size: int = 8,
        max_samples: int = 100,
        device: str | None = None,
    ):
        self.batch_size = batch_size
        self.device = choose_device(device)
        self.model, self.processor = load(run)
        self.model.to(self.device)
        self.modalities = trained_modalities(run, self.processor.modalities)
        examples = select_examples(load_examples(dataset, split), None, max_samples, default_task="")
        self.examples = EGMFDataset(examples, self.processor, modalities=self.modalities)
        self.examples.remove(self.examples.ids_without(self.modalities))
        if not len(self.examples):
            raise ValueError(f"No example of {dataset} has any of {', '.join(self.modalities)}.")
        self.collator = SampleCollator(self.processor, self.modalities)

    @property
    def generates(self) -> bool:
        """Whether the model can also write its answers: a head cannot."""
        return not isinstance(self.model, EGMFWithHead)

    def measure(self) -> dict[str, Any]:
        """The content of `cost.json`."""
        batch = self.make_batch(self.examples)
        batch.pop("label_index")
        size = len(batch["task_ids"])
        calls = {"answer": lambda: self.model.score_answers(**batch)}
        if self.generates:
            calls["generate"] = lambda: generate(self.model, batch)
        self.model.eval()
        seconds = {name: measure_seconds(call, self.device, size) for name, call in calls.items()}
        flops = {"answer": count_flops(calls["answer"], size), "training": self.count_training_flops(size)}
        return {
            "examples": len(self.examples),
            "batch_size": size,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "flops": flops,
            "seconds": seconds,
            "peak_gib": peak_gib(self.device),
            "generated": self.compare_answers() if self.generates else {},
            "versions": versions(),
            "commit": commit(),
        }

    def make_batch(self, dataset: EGMFDataset) -> BatchFeature:
        """The first examples of a dataset as a batch on the device."""
        samples = [dataset[index] for index in range(min(self.batch_size, len(dataset)))]
        return self.collator(samples).to(self.device)

    def count_training_flops(self, size: int) -> float:
        """FLOPs of a forward and a backward pass, per example."""
        # A head takes the true answers next to the prompts.
        labeled = EGMFDataset(self.examples.examples, self.processor, self.generates, self.modalities)
        batch = self.make_batch(labeled)
        self.model.train()
        flops = count_flops(lambda: self.model(**batch).loss.backward(), size, gradients=True)
        self.model.zero_grad()
        self.model.eval()
        return flops

    def compare_answers(self) -> dict[str, dict[str, Any]]:
        """Task -> its metric for scored and for generated answers to the same examples, and the unreadable share."""
        answers: dict[str, list[tuple[Any, Any, Any]]] = {}
        for start in range(0, len(self.examples), self.batch_size):
            indices = range(start, min(start + self.batch_size, len(self.examples)))
            samples = [self.examples[index] for index in indices]
            scored = predict_batch(self.model, self.collator, samples)
            batch = self.collator(samples).to(self.device)
            batch.pop("label_index")
            texts = self.processor.post_process_generation(generate(self.model, batch), batch)
            for sample, prediction, text in zip(samples, scored, texts, strict=True):
                answer = prediction["answer"]
                value = answer.get("median", answer.get("label"))
                answers.setdefault(sample["task"], []).append((sample["answer"], value, text["answer"]))
        tasks = self.processor.task_objects
        return {name: _compare(tasks[name], of_task) for name, of_task in answers.items()}


def _compare(task: EGMFTask, answers: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any]:
    """answers: true, scored and generated (None if unreadable) of each example."""
    truth, scored, generated = (list(column) for column in zip(*answers, strict=True))
    metric = METRICS[task.kind]
    with quiet():
        return {
            "metric": metric,
            "scored": answer_metrics(task, scored, truth)[metric],
            "generated": answer_metrics(task, generated, truth)[metric],
            "unreadable": sum(answer is None for answer in generated) / len(generated),
        }


@torch.no_grad()
def generate(model: EGMFForConditionalGeneration, batch: BatchFeature) -> torch.Tensor:
    """Prompts with the tokens that the model writes greedily, as the paper reads its answers."""
    inputs = {name: value for name, value in batch.items() if name not in ("answer_ids", "task_ids")}
    return model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# Attention on a CPU, which torch does not count by itself.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def count_flops(call: Callable[[], Any], size: int, gradients: bool = False) -> float:
    """FLOPs of a call, per example of its batch."""
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counter, nullcontext() if gradients else torch.no_grad():
        call()
    return counter.get_total_flops() / size


def measure_seconds(call: Callable[[], Any], device: str, size: int) -> dict[str, float]:
    """Median and fastest seconds of a call after one that is not counted, per example of its batch."""
    seconds = []
    for _ in range(REPEATS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / size)
    return {"median_s": statistics.median(seconds[1:]), "min_s": min(seconds[1:])}


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--dataset", required=True, help="dataset to predict")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--output", type=Path, help="results file; default: RUN/cost.json")
    parser.add_argument("--batch_size", type=int, default=8, minimum=1, help="default: 8")
    parser.add_argument(
        "--max_samples", type=int, default=100, minimum=1, help="examples to score and to generate for; default: 100"
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda if there is a GPU")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        measurement = CostMeasurement(
            arguments.run,
            arguments.dataset,
            arguments.split,
            arguments.batch_size,
            arguments.max_samples,
            arguments.device,
        )
        path = write_json(arguments.output or arguments.run / "cost.json", measurement.measure())
        print(f"cost: {path}")


if __name__ == "__main__":
    main()
