"""Diagnosis of a language model on a corpus before training: does it know the language, and the answers?

    python -m training.experiments.diagnosis MODEL --dataset data/demo-languages --groups language

    transcript ─► tokens per character, bits per character of the language model
    prompt     ─► probability of the right answer among all, with chance beside it; what `generate` writes

Per task and group. Many tokens and many bits per character, a probability near chance and unreadable answers are what
explains a collapse in one language. The prompts are those of training without pseudo tokens: text alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from modeling_egmf.answers_egmf import AnswerSet
from modeling_egmf.decoders_egmf import check_decoder
from modeling_egmf.precision_egmf import float32_logits
from modeling_egmf.scoring_egmf import AnswerScorer
from processing_egmf import EGMFProcessor

from ..cli import CommandParser, command_errors
from ..data.dataset import EGMFDataset, load_examples
from ..data.selection import select_examples, used_tasks
from ..evaluation.processes import choose_device
from ..model.language_model import has_fast_bfloat16
from ..model.tasks_file import read_tasks
from ..records import commit, versions, write_json


# S prompt tokens  A answers

ALL = "all"
NEW_TOKENS = 8  # that the language model may write as an answer


class LanguageModelDiagnosis:
    """A language model and the examples that it reads.

    Args:
        text_model: folder or Hub id.
        dataset: whose examples it reads.
        split: of the examples.
        groups: column that divides the examples into groups; None for no groups.
        max_samples: number of examples, stratified by label; None for all.
        device: `cpu` or `cuda`; None for CUDA if there is a GPU.
        tasks_file: with custom tasks, as for training.
    """

    def __init__(
        self,
        text_model: str,
        dataset: str,
        split: str = "test",
        groups: str | None = None,
        max_samples: int | None = 200,
        device: str | None = None,
        tasks_file: str | None = None,
    ):
        self.groups = groups
        self.device = choose_device(device)
        examples = select_examples(load_examples(dataset, split), None, max_samples, default_task="")
        examples = [example for example in examples if (example.get("text") or "").strip()]
        if not examples:
            raise ValueError(f"No example of split {split!r} of {dataset} has text for the language model to read.")
        tasks = used_tasks(read_tasks(tasks_file), examples)
        self.tokenizer = AutoTokenizer.from_pretrained(text_model)
        self.processor = EGMFProcessor(
            self.tokenizer, tasks=tasks, audio_input=None, video_input=None, num_pseudo_tokens=1
        )
        self.examples = EGMFDataset(examples, self.processor, modalities=["text"])
        dtype = "auto" if has_fast_bfloat16() else torch.float32
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(text_model, dtype=dtype).to(self.device)
        check_decoder(self.model.config, type(self.model))
        self.model.eval()

    def run(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Task -> group -> figures."""
        rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for index, example in enumerate(self.examples.examples):
            row = self.read_example(index)
            group = None if self.groups is None else (example.get("extra") or {}).get(self.groups)
            of_task = rows.setdefault(example["task"], {ALL: []})
            of_task[ALL].append(row)
            if group is not None:
                of_task.setdefault(str(group), []).append(row)
        return {
            task: {group: summarize_rows(members) for group, members in sorted(groups.items())}
            for task, groups in rows.items()
        }

    @torch.no_grad()
    def read_example(self, index: int) -> dict[str, Any]:
        """The figures of one example."""
        sample = self.examples[index]
        task = self.processor.task_objects[sample["task"]]
        text = self.examples.examples[index]["text"]
        placeholder = self.processor.placeholder_token_id
        input_ids = torch.tensor([[token for token in sample["input_ids"] if token != placeholder]])
        input_ids = input_ids.to(self.device)
        probabilities = self.score(input_ids, _padded(sample["answer_ids"]))
        mask = torch.ones_like(input_ids)
        generated = self.model.generate(
            input_ids=input_ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False
        )
        written = self.tokenizer.decode(generated[0, input_ids.shape[1] :], skip_special_tokens=True)
        token_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return {
            "characters": len(text),
            "tokens": len(token_ids),
            "bits": self.count_bits(token_ids),
            "probability": probabilities[sample["label_index"]].item(),
            "chance": 1 / task.num_answers,
            "right": probabilities.argmax().item() == sample["label_index"],
            "unreadable": task.parse(written) is None,
        }

    def score(self, input_ids: Tensor, answer_ids: Tensor) -> Tensor:
        """input_ids (1, S), answer_ids (1, A, L) -> (A,) probabilities of the answers among all."""
        answers = AnswerSet.from_answer_ids(answer_ids, input_ids.device)
        embeds = self.model.get_input_embeddings()(input_ids)
        with float32_logits(self.model):
            edges = AnswerScorer(self.model, answers).score(embeds, torch.ones_like(input_ids))
        return answers.log_probs(edges, "sequence").exp()[0]

    def count_bits(self, token_ids: Sequence[int]) -> float:
        """Bits that the language model needs for a text: -log2 of its probability after the start of a text."""
        start = self.tokenizer.bos_token_id
        if start is None:
            start = self.tokenizer.eos_token_id
        ids = torch.tensor([[start, *token_ids]], device=self.device)
        log_probs = self.model(input_ids=ids).logits[0, :-1].float().log_softmax(dim=-1)
        return -log_probs.gather(1, ids[0, 1:, None]).sum().item() / math.log(2)


def _padded(answers: Sequence[Sequence[int]]) -> Tensor:
    """Token ids of the answers as (1, A, L), padded with -1."""
    length = max(map(len, answers))
    return torch.tensor([[[*ids, *[-1] * (length - len(ids))] for ids in answers]])


def summarize_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the examples; tokens and bits per character are those of all their text together."""
    characters = sum(row["characters"] for row in rows)
    figures: dict[str, Any] = {
        "examples": len(rows),
        "tokens_per_character": sum(row["tokens"] for row in rows) / characters,
        "bits_per_character": sum(row["bits"] for row in rows) / characters,
    }
    for name in ("tokens", "bits", "probability", "chance", "right", "unreadable"):
        figures[name] = sum(row[name] for row in rows) / len(rows)
    return figures


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("text_model", help="language model: a folder or a Hub id")
    parser.add_argument("--dataset", required=True, help="dataset to read")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--groups", help="column that divides the examples into groups, such as language")
    parser.add_argument("--max_samples", type=int, default=200, minimum=1, help="number of examples; default: 200")
    parser.add_argument("--tasks_file", help="YAML file with custom tasks, as for training")
    parser.add_argument("--device", help="cpu or cuda; default: cuda if there is a GPU")
    parser.add_argument("--output", type=Path, help="results file; default: only the table is printed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        from .report import diagnosis_table

        diagnosis = LanguageModelDiagnosis(
            arguments.text_model,
            arguments.dataset,
            arguments.split,
            arguments.groups,
            arguments.max_samples,
            arguments.device,
            arguments.tasks_file,
        )
        record = {
            "language_model": arguments.text_model,
            "dataset": arguments.dataset,
            "split": arguments.split,
            "groups": arguments.groups,
            "tasks": diagnosis.run(),
            "versions": versions(),
            "commit": commit(),
        }
        print("\n".join(diagnosis_table(record)))
        if arguments.output is not None:
            print(f"diagnosis: {write_json(arguments.output, record)}")


if __name__ == "__main__":
    main()
