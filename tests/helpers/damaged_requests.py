"""Damaged requests to the endpoint, and damaged tensors for the model, for damage.py."""

import base64
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hub_cards.endpoint import handler
from hub_cards.endpoint.handler import MAX_MESSAGE, EndpointHandler
from processing_egmf import EGMFPipeline
from tests.helpers.damage import Case, damage_bytes
from tests.helpers.decoder_reference import answer_probabilities, prompt_embeds
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from tests.helpers.tiny_checkpoint import make_model_and_processor


REFUSALS = (400, 403, 413, 422)
VALUES = (
    *(None, -1, 0, 2**70, 1.5, "", "x", [], {}, True, float("nan"), "a\ud800", "\0", "/etc/passwd"),
    *(
        "http://127.0.0.1/a.wav",
        "file:///etc/passwd",
        "http://[::1",
        ["text"],
        [["Ann", "Hi."]],
        [[[1.0]]],
        "x" * 30_000,
    ),
)
LEAVES_VALUE = ("line ends", "null fields", "order of fields", "data URI")
NUM_TENSORS = 5  # one of this many cases is about tensors


def make_inputs(folder: Path) -> Callable[[int, random.Random | None, Path], Case]:
    model, processor = make_model_and_processor("waveform", "frames")
    pipe = EGMFPipeline(model=model, processor=processor, device="cpu")
    handler.pipeline = lambda *_, **__: copy.copy(pipe)  # the handler replaces its `forward`
    endpoint = EndpointHandler("the/folder")
    requests = make_requests(folder)
    answers = [endpoint(copy.deepcopy(request)) for request in requests]
    tensors = dict(processor(text="I'm fine.", audio=sine(200, 0.3, 16_000), sampling_rate=16_000).items())
    probabilities = model.score_answers(**tensors).probabilities

    def damaged(index: int, rng: random.Random | None, place: Path) -> Case:
        if index % NUM_TENSORS == NUM_TENSORS - 1:
            return damaged_tensors(model, tensors, probabilities, rng)
        request = copy.deepcopy(requests[index % len(requests)])
        expected = answers[index % len(requests)]
        leaves_value = rng is not None and index % 4 == 0
        if leaves_value:
            way = rng.choice(LEAVES_VALUE)
            request = rewrite(request, way)
        else:
            way = "undamaged" if rng is None else change_request(request, rng)

        def read() -> dict[str, Any]:
            found = endpoint(copy.deepcopy(request))
            json.dumps(found)
            refusal = refusal_of(found)
            if refusal is not None and not leaves_value:
                raise ValueError(f"inputs: {refusal}")
            return found

        def compare(value: dict[str, Any], _: str) -> str:
            if close(value, expected):
                return "right"
            is_answered = value["status"] == 200 and not leaves_value
            return (
                "as written" if is_answered and close(value, direct_answer(pipe, request)) else f"{str(value)[:300]}"
            )

        return Case(f"request {index % len(requests)} {way}", ("inputs",), read, compare)

    return damaged


def make_requests(folder: Path) -> list[dict[str, Any]]:
    video = write_video(folder / "v.mp4", gray_frames(6, 32, 48), audio=sine(440, 0.48, 16_000)).read_bytes()
    audio = write_audio(folder / "a.wav", sine(300, 0.4, 16_000), 16_000).read_bytes()
    return [
        {"inputs": {"text": "I'm fine.", "context": [["Ann", "He left."]], "task": "emotion"}},
        {"inputs": {"video": written(video), "text": "no"}, "parameters": {"task": "emotion", "top_k": 3}},
        {"inputs": {"audio": written(audio)}, "parameters": {"task": "mosei", "interval": 0.8}},
        {"inputs": [{"text": "a"}, {"audio": written(audio), "modalities": ["audio"]}]},
        {"inputs": written(video), "parameters": {"return_experts": True, "modalities": ["audio", "video"]}},
    ]


def written(content: bytes) -> str:
    return base64.b64encode(content).decode()


def refusal_of(found: dict[str, Any]) -> str | None:
    """The error of a response; one with another status, or without a short message, is returned as a failure."""
    answers = found.get("answers", [found])
    errors = [answer for answer in answers if answer["status"] != 200]
    if not errors:
        return None
    for answer in errors:
        message = answer["error"]["message"]
        if answer["status"] not in REFUSALS or not 10 < len(message) <= MAX_MESSAGE + 10:
            raise RuntimeError(f"status {answer['status']}: {message[:300]}")
    return errors[0]["error"]["message"]


def direct_answer(pipe: EGMFPipeline, request: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's answer, without the handler."""
    parameters = {name: value for name, value in (request.get("parameters") or {}).items() if value is not None}
    is_list = isinstance(request["inputs"], list)
    found = []
    for clip in request["inputs"] if is_list else [request["inputs"]]:
        fields = (
            read_media(clip)
            if isinstance(clip, str)
            else {name: value for name, value in clip.items() if value is not None}
        )
        if isinstance(fields, dict):
            for name in {"audio", "video"} & set(fields):
                fields[name] = read_media(fields[name])
        found.append({"status": 200, "answer": dict(pipe(fields, **parameters))})
    return {"status": 200, "answers": found} if is_list else found[0]


def read_media(text: str) -> bytes:
    return base64.b64decode("".join(text.split()))


def close(first: Any, second: Any) -> bool:
    """Whether two responses are equal, numbers up to 1e-5."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) < 1e-5
    return first == second


# ---- damage to requests ---------------------------------------------------------------------------------------


def change_request(request: dict[str, Any], rng: random.Random) -> str:
    """Damage a text or base64, or put another value, or none, at a random place."""
    parent: Any = request
    key: Any = rng.choice(list(parent))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    value = parent[key]
    if isinstance(value, str) and rng.random() < 0.6:
        if len(value) > 1000 and rng.random() < 0.7:
            parent[key] = written(damage_bytes(base64.b64decode(value), rng))
            return f"{key}: bytes"
        parent[key] = damage_bytes(value.encode(), rng).decode("utf-8", "surrogateescape")
        return f"{key}: characters"
    if isinstance(parent, dict) and rng.random() < 0.3:
        parent[f"{key}x"] = parent.pop(key)
        return f"{key}: another name"
    parent[key] = rng.choice(VALUES)
    return f"{key} is {str(parent[key])[:40]!r}"


def rewrite(request: dict[str, Any], way: str) -> dict[str, Any]:
    """The same request, written in another way."""
    if way == "order of fields":
        return dict(reversed(request.items()))
    if way == "null fields":
        request["parameters"] = {"interval": None, **(request.get("parameters") or {})}
        return request
    clips = request["inputs"] if isinstance(request["inputs"], list) else [request["inputs"]]
    for clip in clips:
        if not isinstance(clip, dict):
            continue
        for name in {"audio", "video"} & set(clip):
            is_uri = way == "data URI"
            clip[name] = (
                f"data:{name}/x;base64,{clip[name]}" if is_uri else f"{clip[name][:76]}\r\n{clip[name][76:]}\n"
            )
    return request


# ---- damage to tensors ----------------------------------------------------------------------------------------


def damaged_tensors(
    model: Any, tensors: dict[str, torch.Tensor], expected: torch.Tensor, rng: random.Random | None
) -> Case:
    """`score_answers` with one tensor of another value, type or shape, or without one."""
    inputs = {name: value.clone() for name, value in tensors.items()}
    name = "input_ids"
    way = "undamaged"
    if rng is not None:
        name = rng.choice(sorted(inputs))
        way = rng.choice(["missing", "misspelled", "value", "shape", "short", "type"])
        value = inputs.pop(name)
        if way == "misspelled":
            inputs[f"{name}x"] = value
        elif way != "missing":
            inputs[name] = damage_tensor(value, way, rng)

    def read() -> torch.Tensor:
        try:
            return model.score_answers(**inputs).probabilities
        except TypeError as error:  # of arguments, not of files
            raise ValueError(str(error)) from error

    def compare(value: torch.Tensor, _: str) -> str:
        if way == "misspelled":
            return "ignored"
        if value.shape == expected.shape and torch.allclose(value, expected, atol=1e-5):
            return "right"
        if way == "type":
            return f"other value {value.tolist()}"
        wrong = [mask for mask in inputs if mask.endswith("_mask") and not is_binary(inputs[mask])]
        if wrong:
            return f"{wrong} is read with values other than 0 and 1"
        alone = score_alone(model, inputs)
        is_same = value.shape == alone.shape and torch.allclose(value, alone, atol=1e-5)
        return "as written" if is_same else f"other value {value.tolist()}, not {alone.tolist()}"

    words = (name, name.split("_")[0], "ample", "token", "modalit", "placeholder")
    return Case(f"tensor {name}: {way}", words, read, compare)


def is_binary(mask: torch.Tensor) -> bool:
    return bool(((mask == 0) | (mask == 1)).all())


def score_alone(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, A) probabilities of the answers, one forward pass for each token, without cache, padding and trie."""
    num_samples = len(inputs["input_ids"])
    inputs = {"modality_mask": torch.ones(num_samples, 3, dtype=torch.long), **inputs}
    answer_ids = inputs.pop("answer_ids")
    inputs.pop("task_ids", None)
    rows = []
    with torch.no_grad():
        for sample in range(num_samples):
            answers = [[token for token in answer if token >= 0] for answer in answer_ids[sample].tolist()]
            rows.append(answer_probabilities(model, prompt_embeds(model, inputs, sample), answers))
    return torch.stack(rows)


def damage_tensor(value: torch.Tensor, way: str, rng: random.Random) -> torch.Tensor:
    if way == "shape":
        return value[0] if rng.random() < 0.5 else value[None]
    if way == "short":
        return value[:, :-1] if value.ndim > 1 else value[:0]
    if way == "type":
        return value.double() if value.is_floating_point() else value.float()
    changed = value.flatten()
    place = rng.randrange(max(1, len(changed)))
    if changed.is_floating_point():
        changed[place] = rng.choice([float("nan"), float("inf"), 1e30])
    elif changed.dtype == torch.bool:
        changed[place] = ~changed[place]
    else:
        changed[place] = rng.choice([-100, -1, 10**6, 2**40])
    return changed.view(value.shape)
