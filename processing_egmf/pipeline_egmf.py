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
from .batches_egmf import CONTENT, RATES, check_rates, numbered_name, rates_needed
from .media_egmf import URL, is_recording, media_kind
from .prompts_egmf import MEDIA_NAME
from .tasks_egmf import EGMFAnswer
from .video_egmf import has_video


OWN_FIELDS = (*CONTENT, "context", "name")  # of one clip; the others may be shared by several
FIELDS = (*OWN_FIELDS, "sampling_rate", "fps", "task", "modalities")
OPTIONS = ("top_k", "interval", "return_experts")
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

    def __call__(
        self,
        inputs: Any = None,
        *,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer one clip or many, `batch_size` at a time; padding changes an answer only by rounding errors.

        Args:
            inputs: described in the class; None if the keywords give everything, as in `pipe(text="I'm fine.")`.
            batch_size: clips per forward pass.
            on_error: `"raise"`, or `"skip"` to continue after a clip that cannot be used: its entry is
                `{"error": message}` instead of an answer.
            task, modalities, sampling_rate, fps: for every clip that does not have its own.
            text, audio, video, ..., name: the other fields of the dict above, for one clip that does not have its own.
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
            ValueError: a field of one clip given for several or twice, or a rate that no clip needs.
            ValueError, FileNotFoundError: a clip that cannot be used, by name, unless `on_error` is `"skip"`.
        """
        params, _, options = self._sanitize_parameters(**kwargs)
        params = {**self._preprocess_params, **params}
        options = {**self._postprocess_params, **options}
        if is_recording(inputs):
            (answer,) = self._predict([inputs], 1, params, options)
            return answer
        if batch_size is None:
            batch_size = self._batch_size or 1
        if not is_count(batch_size):
            raise ValueError(f"`batch_size` is {shorten(batch_size)}; give a whole number of clips, at least 1.")
        answers = self._predict(inputs, batch_size, params, options)
        return list(answers) if isinstance(inputs, list | tuple) else answers

    def _sanitize_parameters(self, **params: Any) -> tuple[dict, dict, dict]:
        refuse_unknown(params, (*FIELDS, "fetch", "on_error", *OPTIONS, "batch_size"), "Unknown arguments")
        on_error = params.get("on_error", "raise")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` is {shorten(on_error)}; use 'raise' or 'skip'.")
        fetch = params.get("fetch")
        if fetch is not None and not callable(fetch):
            raise TypeError(f"`fetch` is {shorten(fetch)}; give a function from a URL to bytes or an open file.")
        options = {name: params.pop(name) for name in OPTIONS if name in params}
        return params, {}, {name: value for name, value in options.items() if value is not None}

    def _predict(
        self,
        clips: Iterable,
        batch_size: int,
        params: dict,
        options: dict,
    ) -> Iterator[EGMFAnswer]:
        """The answers, with `params` of `_prepare` and `options` of `postprocess`."""
        if not hasattr(clips, "__iter__"):  # a dataset
            clips = map(clips.__getitem__, range(len(clips)))
        numbered_clips = enumerate(clips)
        num_clips = 0
        used = set()
        while batch := list(islice(numbered_clips, batch_size)):
            num_clips += len(batch)
            entries = [self._prepare(number, clip, params, used) for number, clip in batch]
            samples = [entry for entry in entries if "error" not in entry]
            answers = iter(())
            if samples:
                answers = iter(self.postprocess(self.forward(self.preprocess(samples)), **options))
            for entry in entries:
                yield entry if "error" in entry else next(answers)
        if num_clips > 0:
            _check_used(params, used)

    def preprocess(self, samples: list[dict[str, Any]]) -> BatchFeature:
        """Prepared samples as one batch."""
        return self.processor.collate(samples)

    def _prepare(
        self,
        number: int,
        clip: Any,
        params: dict[str, Any],
        used: set[str],
    ) -> dict[str, Any]:
        """A clip as a prepared sample; `params` hold the fields of clips without their own, `used` those in use."""
        fetch = params.get("fetch")
        try:
            name = _name(clip, number)
            fields = self._fields(_fetch(clip, fetch), name)
            shared = [field for field in FIELDS if params.get(field) is not None and field not in fields]
            for field in shared:
                if field in OWN_FIELDS and field in used:
                    raise ValueError(
                        f"{name}: {field} is given once, and another clip has it already. Give each clip as a dict "
                        "with its own, e.g. {'video': 'clip.mp4', 'text': 'Well.'}."
                    )
                fields[field] = params[field]
            fields["audio"] = _fetch(fields.get("audio"), fetch)
            fields["video"] = _fetch(fields.get("video"), fetch)
            fields["name"] = fields.get("name") or name
            used |= (set(shared) - set(RATES)) | rates_needed(fields)
            return self.processor.prepare(**fields)
        except (ValueError, TypeError, OSError) as error:
            if params.get("on_error") != "skip":
                raise
            used |= {*OWN_FIELDS, *RATES}  # perhaps
            return {"error": str(error)}

    def _fields(self, clip: Any, name: str) -> dict[str, Any]:
        """The processor's arguments for one clip."""
        if clip is None:
            return {}
        if isinstance(clip, Mapping) and not set(clip) & {"array", "bytes", "path"}:
            refuse_unknown(clip, FIELDS, f"{name}: unknown keys")
            check_rates(clip, rates_needed(clip))
            return dict(clip)
        kind = media_kind(clip)
        if kind is not None:
            return {kind: clip}
        if isinstance(clip, str) and not MEDIA_NAME.search(clip) and not os.path.exists(clip) and not URL.match(clip):
            raise FileNotFoundError(
                f"{name}: {shorten(clip)} does not exist. Check the path and the working directory, "
                'or give a transcript as text=..., e.g. pipe(text="I\'m fine.").'
            )
        is_video = self.processor.video_input == "frames" and has_video(clip, name)
        return {"video" if is_video else "audio": clip}

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        return self.model.score_answers(**inputs)

    def postprocess(
        self,
        output: Mapping,
        return_experts: bool = False,
        **options: Any,
    ) -> list[EGMFAnswer]:
        answers = self.processor.post_process_answers(SimpleNamespace(**output), **options)
        if not return_experts:
            for answer in answers:
                for field in EXPERT_FIELDS:
                    del answer[field]
        return answers

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, processor and this code as a folder that `pipeline` can load."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _check_used(params: Mapping[str, Any], used: set[str]) -> None:
    """Refuse a field that was given for clips without their own, if there was none."""
    check_rates(params, used)
    for field in OWN_FIELDS:
        if params.get(field) is not None and field not in used:
            raise ValueError(f"{field} is given both with the clip and as a keyword. Give it once.")


def _name(clip: Any, number: int) -> str:
    """The name of a clip in messages: its path, or its number with the path of its file."""
    if isinstance(clip, str | os.PathLike):
        return printable(os.fsdecode(clip))
    sources = [clip.get(key) for key in ("video", "audio", "path")] if isinstance(clip, Mapping) else []
    return numbered_name("clip", number, sources)


def _fetch(clip: Any, fetch: Callable[[str], Any] | None) -> Any:
    """The content of an http or https URL; anything else unchanged. Other URLs are rejected when media are read."""
    location = clip
    if isinstance(clip, Mapping) and clip.get("bytes") is None:
        location = clip.get("path")
    is_url = isinstance(location, str) and location.lower().startswith(("http://", "https://"))
    return fetch(location) if is_url and fetch is not None else clip
