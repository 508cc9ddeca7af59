"""Cost of the three ways of scoring answers, as ratios to a plain prefill of the same prompts.

    python -m training.benchmarks.cost.answers --text_model_name_or_path .cache/assets/SmolLM2-135M-Instruct

`AnswerScorer` reads the same prompts with the same language model as a tree, by rows, and recomputed, for a task of 7
answers and one of 61, in batches of different sizes. The language model must be one that is scored as a tree, for
which all three are exact. The calls alternate, so that a busy machine slows them equally; the ratios are those of
each round. Prints JSON; --output FILE.json also writes it there, with a table in FILE.md.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.answers_egmf import AnswerSet
from modeling_egmf.decoders_egmf import describe_decoder
from modeling_egmf.padding_egmf import call_language_model
from modeling_egmf.precision_egmf import float32_logits
from modeling_egmf.scoring_egmf import AnswerScorer
from processing_egmf import EGMFProcessor

from ...cli import CommandParser, command_errors, output_file
from ...evaluation.tables import markdown_table
from ...model.builder import build
from ...options import ModelArguments
from ...records import print_record, versions, write_text
from ..option_ranges import COUNT, check_ranges
from .timing import check_device, measured_rounds, ratio_interval
from .utterances import make_utterances


TASKS = {7: "emotion", 61: "mosei"}  # number of answers -> task
WAYS = ("tree", "rows", "recompute")
HEADER = ("answers", "batch", "tokens", "prefill, s", *WAYS)


def scoring_calls(
    model: EGMFForConditionalGeneration, processor: EGMFProcessor, task: str, batch_size: int
) -> tuple[dict[str, Callable[[], None]], int]:
    """The function of each way and of the prefill, and the number of tokens in a prompt, padding included."""
    texts = make_utterances(batch_size, np.random.default_rng(0))
    inputs = processor(text=texts, task=[task] * batch_size).to(model.device)
    answers = AnswerSet.from_answer_ids(inputs.pop("answer_ids"), model.device)
    mask = inputs.pop("attention_mask")
    del inputs["task_ids"]
    with torch.no_grad():
        embeds, _ = model.embed_prompt(**inputs)
    llm = model.language_model
    scorer = AnswerScorer(llm, answers)
    last = torch.tensor([-1], device=model.device)
    functions = {
        "prefill": lambda: call_language_model(llm, last, inputs_embeds=embeds, attention_mask=mask, use_cache=False),
        "tree": lambda: scorer.score_cached(embeds, mask, as_tree=True),
        "rows": lambda: scorer.score_cached(embeds, mask, as_tree=False),
        "recompute": lambda: scorer.score_recomputed(embeds, mask),
    }

    def without_gradient(function: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad(), float32_logits(llm):
                function()

        return call

    return {name: without_gradient(function) for name, function in functions.items()}, mask.shape[1]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time every combination, and return everything as one record.

    Raises:
        ValueError: the language model is not scored as a tree.
    """
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model_arguments = ModelArguments(
        text_model_name_or_path=arguments.text_model_name_or_path,
        text_model_dtype=arguments.dtype,
        fusion_hidden_size=128,
    )
    model, processor = build(model_arguments)
    model = model.to(arguments.device).eval()
    config = model.language_model.config
    if describe_decoder(config).scoring != "tree":
        raise ValueError(f"{config.model_type!r} models are not scored as a tree; time a Llama, for example.")
    cases = []
    for num_answers, batch_size in itertools.product(TASKS, arguments.batch_sizes):
        calls, num_tokens = scoring_calls(model, processor, TASKS[num_answers], batch_size)
        seconds = measured_rounds(calls, arguments.repeats, model.device)
        prefill = seconds["prefill"]
        cases.append(
            {
                "answers": num_answers,
                "batch_size": batch_size,
                "tokens": num_tokens,
                "median_s": {name: float(np.median(times)) for name, times in seconds.items()},
                "ratios": {way: ratio_interval(seconds[way], prefill) for way in WAYS},
            }
        )
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    settings["text_model_name_or_path"] = Path(arguments.text_model_name_or_path).name  # not where it lies here
    return {
        "settings": settings,
        "threads": torch.get_num_threads(),
        "cases": cases,
        "versions": versions(),
    }


def render_table(record: dict[str, Any]) -> str:
    """The Markdown page of a record."""
    settings = record["settings"]
    rows = []
    for case in record["cases"]:
        numbers = [str(case["answers"]), str(case["batch_size"]), str(case["tokens"])]
        ratios = [
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" for ratio in case["ratios"].values()
        ]
        rows.append([*numbers, f"{case['median_s']['prefill']:.3f}", *ratios])
    lines = [
        "# Cost of scoring answers",
        "",
        "Written by `python -m training.benchmarks.cost.answers --output training/results/answers.json` with "
        f"{settings['text_model_name_or_path']} in {settings['dtype']} on {settings['device']}, "
        f"{record['threads']} threads, {settings['repeats']} rounds. Time of each way of scoring, as a multiple of "
        "a plain prefill of the same prompts in the same round: median over the rounds, and its 95 % interval.",
        "",
        *markdown_table(HEADER, rows),
    ]
    return "\n".join(lines) + "\n"


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text_model_name_or_path", required=True, help="language model: a folder or a Hub id")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=20, help="measured rounds")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=output_file, help="also write the record to this JSON file, and its table")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        arguments = make_parser().parse_args(argv)
        check_ranges(arguments, {"batch_sizes": COUNT, "repeats": COUNT, "threads": (0, 1024)})
        check_device(arguments.device)
        record = measure(arguments)
        print_record(record, arguments.output)
        if arguments.output is not None:
            write_text(Path(arguments.output).with_suffix(".md"), render_table(record))


if __name__ == "__main__":
    main()
