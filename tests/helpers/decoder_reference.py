"""Answers, losses and texts of one sample at a time: without cache, padding, masks, batches or tries."""

import torch
from torch import Tensor


def prompt_embeds(model, inputs: dict[str, Tensor], sample: int) -> Tensor:
    """(L, D) of the tokens that the language model reads: not padding, and no text that is switched off."""
    single = {name: value[sample : sample + 1] for name, value in inputs.items()}
    attention_mask = single.pop("attention_mask")
    embeds, _ = model.embed_prompt(**single)
    is_read = attention_mask[0].bool()
    if not single["modality_mask"][0, 0]:
        text_mask = single.get("text_mask", single["utterance_mask"])
        is_read &= ~text_mask[0].bool()
    return embeds[0, is_read]


def next_log_probs(model, embeds: Tensor) -> Tensor:
    """(L, D) -> (L, V)."""
    output = model.language_model(inputs_embeds=embeds[None].clone(), use_cache=False)
    return torch.log_softmax(output.logits[0].float(), dim=-1)


def append(model, embeds: Tensor, tokens: list[int]) -> Tensor:
    """Embeddings (L, D), and those of more tokens after them."""
    ids = torch.tensor(tokens, dtype=torch.long, device=embeds.device)
    return torch.cat([embeds, model.get_input_embeddings()(ids)])


def answer_probabilities(model, embeds: Tensor, answers: list[list[int]]) -> Tensor:
    """(A,) from a forward pass for each token of the answers; one for tokens after the same beginning."""
    known = {}
    scores = []
    for answer in answers:
        score = 0.0
        for step, token in enumerate(answer):
            beginning = tuple(answer[:step])
            if beginning not in known:
                known[beginning] = next_log_probs(model, append(model, embeds, answer[:step]))[-1]
            score += float(known[beginning][token])
        scores.append(score)
    return torch.softmax(torch.tensor(scores), dim=0)


def answer_loss(model, embeds: Tensor, answer: list[int]) -> Tensor:
    """Mean negative log-likelihood of the answer's tokens, with a gradient."""
    log_probs = next_log_probs(model, append(model, embeds, answer[:-1]))
    steps = log_probs[len(embeds) - 1 :]
    return -torch.stack([steps[i, token] for i, token in enumerate(answer)]).mean()


def greedy_tokens(model, embeds: Tensor, num_tokens: int) -> list[int]:
    """The likeliest token of each step, but not the end token."""
    tokens: list[int] = []
    for _ in range(num_tokens):
        log_probs = next_log_probs(model, append(model, embeds, tokens))[-1]
        log_probs[model.generation_config.eos_token_id] = -torch.inf
        tokens.append(int(log_probs.argmax()))
    return tokens
