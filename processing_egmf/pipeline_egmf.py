"""EGMFPipeline: a clip in, an answer out; stored with the checkpoint, so that nobody has to read code.

    judge = pipeline(model=FOLDER_OR_ID, trust_remote_code=True)  # task: multimodal-emotion-recognition
    judge("clip.mp4", text="I'm fine.", task="meld")  # {"label": ..., "score": ..., "probabilities": ...}

    clips ─► `prepare` one by one ─► `collate`, padded on the left ─► `score_answers` ─► `post_process_answers`

One clip alone gives what processing_egmf.py gives. No connection is opened: a URL needs a `fetch` of yours.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .tasks_egmf import EGMFAnswer
from .video_egmf import has_video


MEDIA_FIELDS = ("audio", "video", "audio_features", "video_features", "sampling_rate", "fps")
FIELDS = ("text", *MEDIA_FIELDS, "context", "task", "modalities", "name")
EXPERT_FIELDS = ("expert", "experts", "residual")


class EGMFPipeline(Pipeline):
    """Predictor clips: one, or a list, a generator or a dataset of them.

    A clip is a path, bytes or an open file (what is in it decides whether it is heard or seen too, not its name); a
    URL, if `fetch` is given; an array of sound, with `sampling_rate`, or of frames (T, y, x, 3); or a dict with any of
    `FIELDS`, as `EGMFProcessor.__call__` takes them for one sample, and `name`, for messages.

    Text is read as it stands: markup in it is words. Nothing looks for a face or a voice: a clip without them is
    judged all the same, by what is in it. What a clip lacks is left out; the answer's `modalities` are what took part.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __call__(self, inputs: Any = None, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Predictor one clip, or many, `batch_size` of them at a time; padding changes an answer by rounding.

        Args:
            inputs: see the class; None where keywords say everything, as in `judge(text="I'm fine.")`.
            text, audio, video, ..., fps: fields of the dict above, for every clip that does not bring its own.
            top_k: keep so many of the probabilities, the largest first.
            interval: share of the probability that a score's interval holds at least.
            return_experts: also say which `expert` spoke loudest, the weights of all `experts`, and the `residual`.
            fetch: called with an http or https URL, returns bytes or an open file; None refuses them. It must refuse
                private addresses, redirects to them, and what is too large or slow, as that of the endpoint does.

        Returns:
            One `EGMFAnswer`; a list of them for a list or tuple; an iterator for anything else.
        """
        before, _, after = self._sanitize_parameters(**kwargs)
        before, after = {**self._preprocess_params, **before}, {**self._postprocess_params, **after}
        if _is_one(inputs):
            return next(self._judge([inputs], 1, before, after))
        size = batch_size or self._batch_size or 1
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"`batch_size` is {size!r}; give a whole number of clips, at least 1.")
        answers = self._judge(inputs, size, before, after)
        return list(answers) if isinstance(inputs, list | tuple) else answers

    def _sanitize_parameters(self, top_k=None, interval=None, return_experts=None, **before):
        if unknown := sorted(set(before) - {*FIELDS, "fetch"}):
            known = (*FIELDS, "fetch", "top_k", "interval", "return_experts", "batch_size")
            raise TypeError(f"Unknown arguments {unknown}; known are {', '.join(known)}.")
        after = {"top_k": top_k, "interval": interval, "return_experts": return_experts}
        return before, {}, {name: value for name, value in after.items() if value is not None}

    def _judge(self, clips: Iterable, batch_size: int, before: dict, after: dict) -> Iterator[EGMFAnswer]:
        numbered = enumerate(clips if hasattr(clips, "__iter__") else map(clips.__getitem__, range(len(clips))))
        while batch := list(islice(numbered, batch_size)):
            yield from self.postprocess(self.forward(self.preprocess(batch, **before)), **after)

    def preprocess(self, clips: list[tuple[int, Any]], fetch: Callable[[str], Any] | None = None, **shared: Any):
        """Numbered clips -> the tensors of one batch, made by the processor: nothing else pads them."""
        samples = []
        for number, clip in clips:
            name = clip[:200] if isinstance(clip, str) else f"clip {number}"
            sample = {**shared, **self._sample(_fetched(clip, fetch), name)}
            fetched = {kind: _fetched(sample.get(kind), fetch) for kind in ("audio", "video")}
            samples.append(self.processor.prepare(**{**sample, **fetched, "name": sample.get("name") or name}))
        return self.processor.collate(samples)

    def _sample(self, clip: Any, name: str) -> dict[str, Any]:
        """The fields of one clip."""
        if clip is None:
            return {}
        if isinstance(clip, Mapping) and not set(clip) & {"array", "bytes", "path"}:
            if unknown := sorted(set(clip) - set(FIELDS)):
                raise TypeError(f"{name}: unknown keys {unknown}; known are {', '.join(FIELDS)}.")
            return dict(clip)
        if isinstance(clip, np.ndarray | torch.Tensor):
            return {"video" if clip.ndim == 4 else "audio": clip}
        if isinstance(clip, Mapping) and clip.get("array") is not None:
            return {"audio": clip}
        return {"video" if self.processor.video_input == "frames" and has_video(clip, name) else "audio": clip}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """A folder that `pipeline` loads again: the processor is saved as well, and this code with it."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        return self.model.score_answers(**inputs)

    def postprocess(
        self, output: Mapping, top_k: int | None = None, interval: float = 0.9, return_experts: bool = False
    ) -> list[EGMFAnswer]:
        answers = self.processor.post_process_answers(SimpleNamespace(**output), top_k=top_k, interval=interval)
        hidden = () if return_experts else EXPERT_FIELDS
        return [{key: value for key, value in answer.items() if key not in hidden} for answer in answers]


def _is_one(inputs: Any) -> bool:
    one = isinstance(inputs, str | bytes | bytearray | memoryview | os.PathLike | Mapping | np.ndarray | torch.Tensor)
    return one or hasattr(inputs, "read") or not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))


def _fetched(clip: Any, fetch: Callable[[str], Any] | None) -> Any:
    """What an http or https URL holds; anything else as it is: other URLs are refused where media are read."""
    place = clip.get("path") if isinstance(clip, Mapping) and clip.get("bytes") is None else clip
    is_web = fetch is not None and isinstance(place, str) and place.lower().startswith(("http://", "https://"))
    return fetch(place) if is_web else clip
