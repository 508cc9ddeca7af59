"""EGMFPipeline: a clip in, an answer out; its code is stored with the checkpoint.

    pipe = pipeline(model=FOLDER_OR_ID, trust_remote_code=True)  # task: multimodal-emotion-recognition
    pipe("clip.mp4", text="I'm fine.", task="meld")  # {"label": ..., "score": ..., "probabilities": ...}

    clips ─► processor.prepare, one by one ─► processor.collate ─► model.score_answers ─► post_process_answers

A single clip gets exactly the answer of processor and model. No connection is opened: a URL needs a `fetch` function.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BatchFeature, Pipeline

from .agreement_egmf import check_agreement
from .arguments_egmf import is_count, printable, refuse_unknown, shorten
from .batches_egmf import check_rates
from .media_egmf import URL, is_recording, media_kind
from .prompts_egmf import MEDIA_NAME
from .tasks_egmf import EGMFAnswer
from .video_egmf import has_video


MEDIA_FIELDS = ("audio", "video", "audio_features", "video_features", "sampling_rate", "fps")
FIELDS = ("text", *MEDIA_FIELDS, "context", "task", "modalities", "name")
EXPERT_FIELDS = ("expert", "experts", "residual")


class EGMFPipeline(Pipeline):
    """Answers for clips: one, or a list, a generator or a dataset of them.

    A clip is a path, bytes or an open file (its content, not its name, decides whether it is audio or video); a URL,
    if `fetch` is given; an array of audio, with `sampling_rate`, or of frames (T, height, width, 3); a pair
    (sampling rate, array); a decoder of torchcodec, as `datasets` gives it; a PIL image, which is one frame; or a dict
    with any of `FIELDS`: the arguments of `EGMFProcessor.__call__` for one sample, and `name`, for messages. Several
    images are several clips; the frames of one clip are `{"video": [image, ...]}`.

    Markup in a text is read as plain text. Faces and voices are not detected: a clip without any is answered too.
    Missing modalities are left out; `modalities` in the answer lists those that it is based on.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any):
        """As any pipeline; refuses a processor that does not fit the model."""
        super().__init__(*args, **kwargs)
        check_agreement(self.model.config, self.processor)

    def __call__(self, inputs: Any = None, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Answer one clip or many, `batch_size` at a time; padding changes an answer only by rounding errors.

        Args:
            inputs: described in the class; None if the keywords give everything, as in `pipe(text="I'm fine.")`.
            batch_size: clips per forward pass.
            on_error: `"raise"`, or `"skip"` to continue after a clip that cannot be used: its entry is
                `{"error": message}` instead of an answer.
            text, audio, video, ..., fps: fields of the dict above, for every clip that does not have its own.
            top_k: keep only this many of the probabilities, the largest first.
            interval: minimum probability that a score's interval covers.
            return_experts: also return the `expert` with the largest weight, the weights of all `experts`, and the
                `residual`.
            fetch: function from an http(s) URL to bytes or an open file; None rejects URLs. It must reject private
                addresses, redirects to them, and content that is too large or slow, as the endpoint's does.

        Returns:
            One `EGMFAnswer`; a list of them for a list or tuple; an iterator for anything else.

        Raises:
            TypeError: an unknown keyword or field.
            ValueError, FileNotFoundError: a clip that cannot be used, by name, unless `on_error` is `"skip"`.
        """
        preprocess_params, _, postprocess_params = self._sanitize_parameters(**kwargs)
        preprocess_params = {**self._preprocess_params, **preprocess_params}
        postprocess_params = {**self._postprocess_params, **postprocess_params}
        if is_recording(inputs):
            _check_rates_of(inputs, kwargs)
            return next(self._predict([inputs], 1, preprocess_params, postprocess_params))
        if batch_size is None:
            batch_size = self._batch_size or 1
        if not is_count(batch_size):
            raise ValueError(f"`batch_size` is {shorten(batch_size)}; give a whole number of clips, at least 1.")
        answers = self._predict(inputs, batch_size, preprocess_params, postprocess_params)
        return list(answers) if isinstance(inputs, list | tuple) else answers

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        interval: float | None = None,
        return_experts: bool | None = None,
        **preprocess_params: Any,
    ) -> tuple[dict, dict, dict]:
        own_params = ("fetch", "on_error")
        known = (*FIELDS, *own_params, "top_k", "interval", "return_experts", "batch_size")
        refuse_unknown(preprocess_params, known, "Unknown arguments")
        on_error = preprocess_params.get("on_error", "raise")
        if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` is {shorten(on_error)}; use 'raise' or 'skip'.")
        fetch = preprocess_params.get("fetch")
        if fetch is not None and not callable(fetch):
            raise TypeError(f"`fetch` is {shorten(fetch)}; give a function from a URL to bytes or an open file.")
        options = {"top_k": top_k, "interval": interval, "return_experts": return_experts}
        postprocess_params = {name: value for name, value in options.items() if value is not None}
        return preprocess_params, {}, postprocess_params

    def _predict(
        self, clips: Iterable, batch_size: int, preprocess_params: dict, postprocess_params: dict
    ) -> Iterator[EGMFAnswer]:
        if not hasattr(clips, "__iter__"):  # a dataset
            clips = map(clips.__getitem__, range(len(clips)))
        numbered_clips = enumerate(clips)
        while batch := list(islice(numbered_clips, batch_size)):
            entries = [self._prepare(number, clip, **preprocess_params) for number, clip in batch]
            samples = [entry for entry in entries if "error" not in entry]
            answers = iter(())
            if samples:
                answers = iter(self.postprocess(self.forward(self.preprocess(samples)), **postprocess_params))
            for entry in entries:
                yield entry if "error" in entry else next(answers)

    def preprocess(self, samples: list[dict[str, Any]]) -> BatchFeature:
        """Prepared samples as one batch."""
        return self.processor.collate(samples)

    def _prepare(
        self,
        number: int,
        clip: Any,
        fetch: Callable[[str], Any] | None = None,
        on_error: str = "raise",
        **shared_fields: Any,
    ) -> dict[str, Any]:
        """A clip as a prepared sample; `shared_fields` are for clips without their own."""
        try:
            name = _name(clip, number)
            fields = {**shared_fields, **self._fields(_fetch(clip, fetch), name)}
            fields["audio"] = _fetch(fields.get("audio"), fetch)
            fields["video"] = _fetch(fields.get("video"), fetch)
            fields["name"] = fields.get("name") or name
            return self.processor.prepare(**fields)
        except (ValueError, TypeError, OSError) as error:
            if on_error == "raise":
                raise
            return {"error": str(error)}

    def _fields(self, clip: Any, name: str) -> dict[str, Any]:
        """The processor's arguments for one clip."""
        if clip is None:
            return {}
        if isinstance(clip, Mapping) and not set(clip) & {"array", "bytes", "path"}:
            refuse_unknown(clip, FIELDS, f"{name}: unknown keys")
            check_rates(clip.get("sampling_rate"), clip.get("fps"), [clip])
            return dict(clip)
        kind = media_kind(clip)
        if kind is not None:
            return {kind: clip}
        if isinstance(clip, str) and not MEDIA_NAME.search(clip) and not os.path.exists(clip) and not URL.match(clip):
            raise FileNotFoundError(
                f"{name}: there is no file {shorten(clip)}. Check the path and the working directory, "
                'or give a transcript as text=..., e.g. pipe(text="I\'m fine.").'
            )
        is_video = self.processor.video_input == "frames" and has_video(clip, name)
        return {"video" if is_video else "audio": clip}

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        return self.model.score_answers(**inputs)

    def postprocess(
        self,
        output: Mapping,
        top_k: int | None = None,
        interval: float = 0.9,
        return_experts: bool = False,
    ) -> list[EGMFAnswer]:
        output = SimpleNamespace(**output)
        answers = self.processor.post_process_answers(output, top_k=top_k, interval=interval)
        if not return_experts:
            for answer in answers:
                for field in EXPERT_FIELDS:
                    del answer[field]
        return answers

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, processor and this code as a folder that `pipeline` can load."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _check_rates_of(clip: Any, keywords: Mapping[str, Any]) -> None:
    """Refuse a sampling rate or frame rate given with a single clip that does not need it."""
    fields = {**keywords, **clip} if isinstance(clip, Mapping) else dict(keywords)
    kind = media_kind(clip)
    if kind is not None:
        fields[kind] = clip
    check_rates(keywords.get("sampling_rate"), keywords.get("fps"), [fields])


def _name(clip: Any, number: int) -> str:
    """The name of a clip in messages: its path, or its number with the path of its file."""
    if isinstance(clip, str | os.PathLike):
        return printable(os.fsdecode(clip))
    paths = []
    if isinstance(clip, Mapping):
        paths = [clip.get(key) for key in ("video", "audio", "path")]
    paths = [os.fsdecode(path) for path in paths if isinstance(path, str | os.PathLike)]
    return f"clip {number}" + (f" ({printable(paths[0])})" if paths else "")


def _fetch(clip: Any, fetch: Callable[[str], Any] | None) -> Any:
    """The content of an http or https URL; anything else unchanged. Other URLs are rejected when media are read."""
    location = clip
    if isinstance(clip, Mapping) and clip.get("bytes") is None:
        location = clip.get("path")
    is_url = isinstance(location, str) and location.lower().startswith(("http://", "https://"))
    return fetch(location) if is_url and fetch is not None else clip
