"""Try every causal language model of `transformers` with EGMF, and record how each is scored, or why it is refused.

    python -m training.model.backbones.decoders                 # all; writes DECODERS.md and results/decoders.json
    python -m training.model.backbones.decoders llama lfm2      # some; prints only

Each model type is built small, with random weights. A batch of prompts of unequal length, one of them with its text
switched off, is scored, trained on and continued. The results are compared with those of each sample alone, without
padding, cache or mask.
"""

# B batch  S prompt tokens  L real tokens of a sample  D LLM width  V vocabulary  A answers

import argparse
import dataclasses
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from modeling_egmf.decoders_egmf import REFUSED_TYPES, check_decoder, describe_decoder, refusal

from ...records import write_json, write_text
from .small_configs import WINDOW, build_small_model, small_config


FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[1] / "results" / "decoders.json"
TABLE = FOLDER / "DECODERS.md"
TOLERANCE = 1e-4  # of log-probabilities, probabilities and losses
MIN_SENSITIVITY = 0.1
PROMPT_LENGTHS = (21, WINDOW - 3, 13, 17)
SINGLE_SAMPLES = (0, 1)  # also scored as batches of one: longer and shorter than the windows
HIDDEN_TEXT = 3  # the sample whose text is switched off
ANSWERS = ((5,), (6, 7), (6, 8, 9), (6, 8, 10), (11, 12, 13, 14), (11, 12, 13, 15))
SHORT_ANSWERS = ((21,), (22,), (23,))  # of the third sample
LABEL = (6, 8, 9)
NUM_NEW_TOKENS = 3
MEANINGS = {
    "tree": "exact: all inner nodes of the answers' trie in one forward pass",
    "rows": "exact: every branch as a row with its own copy of the cache",
    "recompute": "exact: every branch with its prompt, without a cache",
    "refused": "refused by name, before weights are loaded",
    "wrong": "neither exact nor refused",
    "not built": "could not be built small",
}
# Configurations that are scored differently from the small one of their type.
VARIANTS = {
    "falcon (ALiBi)": ("falcon", {"alibi": True}),
    "mistral (no window)": ("mistral", {"sliding_window": None}),
    "qwen2 (window)": ("qwen2", {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}),
    "bert (encoder)": ("bert", {"is_decoder": False}),
    "gemma4_text (per-layer embeddings)": ("gemma4_text", {"hidden_size_per_layer_input": 8}),
    "deepseek_v4 (hash layers)": ("deepseek_v4", {"mlp_layer_types": ["hash_moe", "moe"]}),
}


@dataclasses.dataclass
class DecoderResult:
    """The result for one model type.

    Args:
        outcome: "tree", "rows", "recompute", "refused", "wrong" or "not built".
        padding: as in `DecoderSupport`.
        reason: why it is refused, failed, or could not be built small.
        note: why the type's default configuration is refused, if it is.
        log_probs: largest difference between an answer's log-probabilities in the batch and alone.
        probabilities, loss, logits: the same for probabilities, and for `forward`'s loss and next-token probabilities.
        texts_equal: whether greedy generation in a batch gives each sample's own text.
        sensitivity: largest difference of log-probabilities between two samples; if it is small, nothing is shown.
    """

    name: str
    outcome: str
    padding: str | None = None
    reason: str | None = None
    note: str | None = None
    log_probs: float | None = None
    probabilities: float | None = None
    loss: float | None = None
    logits: float | None = None
    texts_equal: bool | None = None
    sensitivity: float | None = None

    @property
    def is_right(self) -> bool:
        return self.outcome in ("tree", "rows", "recompute")


# ---- one model type ------------------------------------------------------------------------------------------------


def try_decoder(name: str) -> DecoderResult:
    """Build one model type small, and compare its answers in a batch with each sample alone."""
    model_type, changes = VARIANTS.get(name, (name, {}))
    note = None if changes else default_refusal(model_type)
    try:
        config = small_config(model_type, **changes)
        check_decoder(config)
    except ValueError as error:
        outcome = "refused" if "cannot be used" in str(error) else "not built"
        return DecoderResult(name, outcome, reason=one_line(error))
    except Exception as error:
        return DecoderResult(name, "refused" if note else "not built", reason=note or one_line(error))
    try:
        language_model = build_small_model(config)
    except Exception as error:
        return DecoderResult(name, "refused" if note else "not built", reason=note or one_line(error))
    try:
        model = build_model(language_model)
        support = describe_decoder(language_model.config)
        differences = compare(model)
    except Exception as error:
        return DecoderResult(name, "wrong", reason=one_line(error), note=note)
    result = DecoderResult(name, support.scoring, support.padding, note=note, **differences)
    worst = max(result.log_probs, result.probabilities, result.loss, result.logits)
    if not worst <= TOLERANCE or not result.texts_equal or result.sensitivity < MIN_SENSITIVITY:
        result.outcome = "wrong"
    return result


def default_refusal(model_type: str) -> str | None:
    """The reason why a model type is refused with its default configuration; None if it is not."""
    if model_type in REFUSED_TYPES:
        return REFUSED_TYPES[model_type]
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception:  # some types have no default configuration
        return None
    return refusal(config)


def one_line(error: Exception) -> str:
    """An error as one line; for a refusal, only the reason."""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = text.split(". Choose a causal decoder")[0].rpartition("cannot be used: ")[2]
    return reason[:300].replace("|", "/")


def build_model(language_model: transformers.PreTrainedModel) -> EGMFForConditionalGeneration:
    """A small EGMF around a language model."""
    torch.manual_seed(0)
    audio_config = EGMFEncoderConfig(feature_size=3, hidden_size=8, num_attention_heads=2, dropout=0.0)
    config = EGMFConfig(
        text_config=language_model.config,
        audio_config=audio_config,
        fusion_hidden_size=16,
        fusion_attention_heads=2,
        fusion_dropout=0.0,
        num_pseudo_tokens=2,
        placeholder_token_id=language_model.config.get_text_config(decoder=True).vocab_size + 3,
    )
    model = EGMFForConditionalGeneration(config, language_model).eval()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return model


def make_inputs(model: EGMFForConditionalGeneration, label: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """A batch as from the processor: left padded, two placeholders, a transcript, audio; with `label` at the end."""
    generator = torch.Generator().manual_seed(1)
    num_samples = len(PROMPT_LENGTHS)
    length = max(PROMPT_LENGTHS) + len(label)
    input_ids = torch.randint(24, 120, (num_samples, max(PROMPT_LENGTHS)), generator=generator)
    input_ids = torch.cat([input_ids, torch.tensor(label, dtype=torch.long).expand(num_samples, -1)], dim=1)
    attention_mask = torch.zeros(num_samples, length, dtype=torch.long)
    utterance_mask = torch.zeros_like(attention_mask)
    for sample, prompt_length in enumerate(PROMPT_LENGTHS):
        start = max(PROMPT_LENGTHS) - prompt_length
        attention_mask[sample, start:] = 1
        input_ids[sample, start : start + 2] = model.config.placeholder_token_id
        utterance_mask[sample, start + 2 : start + 4] = 1
    utterance_mask[HIDDEN_TEXT, -12 - len(label) : -6 - len(label)] = 1
    modality_mask = torch.ones(num_samples, 3, dtype=torch.long)
    modality_mask[HIDDEN_TEXT, 0] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "utterance_mask": utterance_mask,
        "audio_values": torch.randn(num_samples, 4, 3, generator=generator),
        "audio_mask": torch.ones(num_samples, 4, dtype=torch.long),
        "modality_mask": modality_mask,
    }


def answers_of(sample: int) -> tuple[tuple[int, ...], ...]:
    return SHORT_ANSWERS if sample == 2 else ANSWERS


def make_answer_ids() -> Tensor:
    """(B, A, L), padded with -1."""
    longest = max(len(answer) for answer in ANSWERS)
    answer_ids = torch.full((len(PROMPT_LENGTHS), len(ANSWERS), longest), -1)
    for sample in range(len(PROMPT_LENGTHS)):
        for index, answer in enumerate(answers_of(sample)):
            answer_ids[sample, index, : len(answer)] = torch.tensor(answer)
    return answer_ids


# ---- the batch, and each sample alone ------------------------------------------------------------------------------


def compare(model: EGMFForConditionalGeneration) -> dict[str, Any]:
    """The differences of `DecoderResult` between a batch and each of its samples alone."""
    inputs = make_inputs(model)
    labeled = make_inputs(model, LABEL)
    labels = torch.full_like(labeled["input_ids"], -100)
    labels[:, -len(LABEL) :] = torch.tensor(LABEL)
    with torch.no_grad():
        scored = model.score_answers(**inputs, answer_ids=make_answer_ids()).log_probs
        output = model(**labeled, labels=labels)
        sequences = model.generate(
            **inputs, max_new_tokens=NUM_NEW_TOKENS, min_new_tokens=NUM_NEW_TOKENS, do_sample=False
        )
    log_probs = torch.log_softmax(output.logits.float(), dim=-1)[:, -len(LABEL) - 1 : -1]  # (B, label, V)
    differences = {"log_probs": 0.0, "probabilities": 0.0, "logits": 0.0, "texts_equal": True}
    losses = []
    expected = []
    for sample in range(len(PROMPT_LENGTHS)):
        embeds = read_embeds(model, inputs, sample)
        answers = answers_of(sample)
        alone = score_alone(model, embeds, answers)
        expected.append(alone)
        both = [scored[sample, : len(answers)]]
        if sample in SINGLE_SAMPLES:
            one = {name: value[sample : sample + 1] for name, value in inputs.items()}
            single = model.score_answers(**one, answer_ids=make_answer_ids()[sample : sample + 1]).log_probs
            both.append(single[0, : len(answers)])
        for actual in both:
            difference = float((actual - alone).abs().max())
            differences["log_probs"] = max(differences["log_probs"], difference)
            difference = float((actual.exp() - alone.exp()).abs().max())
            differences["probabilities"] = max(differences["probabilities"], difference)

        steps = read_alone(model, embeds, LABEL[:-1])[-len(LABEL) :]
        losses.append(-steps[torch.arange(len(LABEL)), torch.tensor(LABEL)].mean())
        difference = (steps.exp() - log_probs[sample].exp()).abs().max()
        differences["logits"] = max(differences["logits"], float(difference))

        text = continue_alone(model, embeds)
        differences["texts_equal"] &= sequences[sample, -NUM_NEW_TOKENS:].tolist() == text
    differences["loss"] = float((torch.stack(losses).mean() - output.loss).abs() / output.loss.clamp(min=1))
    differences["sensitivity"] = float((expected[0] - expected[1]).abs().max())
    return differences


@torch.no_grad()
def read_embeds(model: EGMFForConditionalGeneration, inputs: dict[str, Tensor], sample: int) -> Tensor:
    """Embeddings (L, D) that the language model reads for one sample, without padding and switched-off text."""
    single = {name: value[sample : sample + 1] for name, value in inputs.items() if name != "attention_mask"}
    embeds, _ = model.embed_prompt(**single)
    is_read = inputs["attention_mask"][sample].bool()
    if not inputs["modality_mask"][sample, 0]:
        is_read = is_read & ~inputs["utterance_mask"][sample].bool()
    return embeds[0, is_read]


@torch.no_grad()
def read_alone(model: EGMFForConditionalGeneration, embeds: Tensor, tokens: tuple[int, ...] = ()) -> Tensor:
    """Log-probabilities (L, V) of the next token at each position of a prompt followed by `tokens`."""
    token_embeds = model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))
    sequence = torch.cat([embeds, token_embeds])[None]
    logits = model.language_model(inputs_embeds=sequence, use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), dim=-1)


def score_alone(
    model: EGMFForConditionalGeneration,
    embeds: Tensor,
    answers: tuple[tuple[int, ...], ...],
) -> Tensor:
    """Log-probabilities (A,), from one forward pass per token; answers share those of a common beginning."""
    next_log_probs: dict[tuple[int, ...], Tensor] = {}
    scores = []
    for answer in answers:
        score = 0.0
        for step, token in enumerate(answer):
            path = answer[:step]
            if path not in next_log_probs:
                next_log_probs[path] = read_alone(model, embeds, path)[-1]
            score += float(next_log_probs[path][token])
        scores.append(score)
    return torch.log_softmax(torch.tensor(scores), dim=0)


def continue_alone(model: EGMFForConditionalGeneration, embeds: Tensor) -> list[int]:
    """The likeliest next tokens, without the end token."""
    tokens: list[int] = []
    for _ in range(NUM_NEW_TOKENS):
        log_probs = read_alone(model, embeds, tuple(tokens))[-1]
        log_probs[model.generation_config.eos_token_id] = -torch.inf
        tokens.append(int(log_probs.argmax()))
    return tokens


# ---- all model types -----------------------------------------------------------------------------------------------


def decoder_names() -> list[str]:
    """All model types of causal language models in the installed `transformers`, and variants of some."""
    return [*sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), *VARIANTS]


def try_all(names: list[str]) -> list[DecoderResult]:
    """Try each name, and print one line for it."""
    results = []
    for name in names:
        result = try_decoder(name)
        print(f"{result.name:<28} {result.outcome:<10} {describe(result)}", flush=True)
        results.append(result)
    return results


def describe(result: DecoderResult) -> str:
    """The largest differences, or the reason why there are none."""
    if result.probabilities is None:
        return result.reason or ""
    texts = "" if result.texts_equal else ", texts differ"
    note = f"; by default refused: {result.note}" if result.note else ""
    return f"{result.log_probs:.0e}, loss {result.loss:.0e}, logits {result.logits:.0e}{texts}{note}"


def count_outcomes(results: list[DecoderResult]) -> dict[str, int]:
    return dict(Counter(result.outcome for result in results))


def write_results(results: list[DecoderResult], seconds: float) -> None:
    """Write the JSON file and the table."""
    record = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "tolerance": TOLERANCE,
        "seconds": round(seconds),
        "counts": count_outcomes(results),
        "decoders": [dataclasses.asdict(result) for result in results],
    }
    write_json(RESULTS, record)
    write_text(TABLE, render_table(record))


def render_table(record: dict[str, Any]) -> str:
    """The Markdown page of the results."""
    counts = record["counts"]
    lines = [
        "# Language models that work with EGMF",
        "",
        f"Written by `python -m training.model.backbones.decoders` with transformers {record['transformers']}, in "
        f"{record['seconds']} seconds on one CPU core. Every causal language model of the library was built small, "
        "with random weights. The answers, losses and greedy generations of a padded batch, in which one sample has "
        "its text switched off, were compared with those of each sample alone. They agree to within "
        f"{record['tolerance']:g}, or the model is refused by name. [What each way of scoring costs]"
        "(../../results/answers.md).",
        "",
        "| result | model types | meaning |",
        "|---|---|---|",
    ]
    for outcome, meaning in MEANINGS.items():
        lines.append(f"| {outcome} | {counts.get(outcome, 0)} | {meaning} |")
    for outcome in MEANINGS:
        decoders = [decoder for decoder in record["decoders"] if decoder["outcome"] == outcome]
        if decoders:
            lines += ["", f"## {outcome.capitalize()}", "", *render_rows(decoders)]
    return "\n".join(lines) + "\n"


def render_rows(decoders: list[dict[str, Any]]) -> list[str]:
    """A table of the model types with one outcome."""
    if decoders[0]["log_probs"] is None:
        lines = ["| model type | reason |", "|---|---|"]
        return lines + [f"| {decoder['name']} | {decoder['reason']} |" for decoder in decoders]
    lines = ["| model type | padding | largest difference | refused by default |", "|---|---|---|---|"]
    for decoder in decoders:
        note = decoder["note"] or ""
        lines.append(f"| {decoder['name']} | {decoder['padding']} | {decoder['log_probs']:.0e} | {note} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types; all by default")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    start = time.process_time()
    results = try_all(arguments.names or decoder_names())
    print(count_outcomes(results))
    if not arguments.names:
        write_results(results, time.process_time() - start)


if __name__ == "__main__":
    main()
