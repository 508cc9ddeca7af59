"""EGMFPipeline: a clip in, an answer out; its code is stored with the checkpoint.

    pipe = pipeline(model=FOLDER_OR_ID, trust_remote_code=True)  # task: multimodal-emotion-recognition
    pipe("clip.mp4", text="I'm fine.", task="meld")  # {"label": ..., "score": ..., "probabilities": ...}
    pipe = pipeline("multimodal-emotion-recognition", model=model, processor=processor)  # loaded: with its name

    clips ─► preprocess: processor.prepare ─► forward: processor.collate, model.score_answers ─► postprocess ─► answers
             one clip; in `num_workers`       one batch of `batch_size`                          one clip

The base class iterates. A single clip gets exactly the answer of processor and model. No connection is opened: a URL
needs a `fetch` function. Importing this file tells `transformers.pipeline` of the task, for models that are loaded.

When several processes load this file from the Hub at once, `transformers` waits only for the files that it names,
with a regular expression that finds docstrings as well. So these, which the others import, are named here:

    from .declared_egmf import declared_size
    from .frames_egmf import resize
    from .pictures_egmf import load_picture
    from .prompts_egmf import read_text
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import IterableDataset, StackDataset, get_worker_info
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .agreement_egmf import check_agreement
from .arguments_egmf import check_choice, check_count, errors_named, is_number, refuse_unknown, shorten, show_path
from .batches_egmf import CONTENT, RATES, check_rates, numbered_name, rates_needed, read_column
from .chat_egmf import is_conversation, read_conversation
from .media_egmf import is_recording, media_kind, take_from_list
from .tasks_egmf import EGMFAnswer
from .video_egmf import has_video


TASK = "multimodal-emotion-recognition"
# Of one clip; the others may be shared by several.
OWN_FIELDS = (*CONTENT, "context", "name")
FIELDS = (*OWN_FIELDS, "sampling_rate", "fps", "task", "modalities")
OPTIONS = ("top_k", "interval", "labels", "calibrated", "return_experts")
OUTPUTS = ("probabilities", "log_probs", "expert_weights", "residual_weight", "modality_mask")
EXPERT_FIELDS = ("expert", "experts", "residual")
# Of a clip that cannot be used.
ERRORS = (FileNotFoundError, OSError, TypeError, ValueError)


class StreamedClips(IterableDataset):
    """Clips of a generator or another iterable, each with its number, for messages."""

    def __init__(self, clips: Any):
        self.clips = clips

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"number": number, "clip": clip} for number, clip in enumerate(self.clips))


@dataclass
class PreparedClip:
    """A clip on its way through the pipeline.

    Args:
        name: its name in messages.
        sample: from `processor.prepare`; None if the clip cannot be used.
        shared: the fields of the call that it needs, because it has none of its own.
        error: why it cannot be used. It is raised by `postprocess`, because the library would add a worker's
            traceback to what a worker raises.
    """

    name: str = ""
    sample: dict[str, Any] | None = None
    shared: set[str] = field(default_factory=set)
    error: Exception | None = None


class EGMFPipeline(Pipeline):
    """Answers for clips: one, or a list, a generator or a dataset of them.

    A clip is a path, bytes or an open file (its content, not its name, decides whether it is audio or video); a URL,
    if `fetch` is given; an array of audio, with `sampling_rate`, or of frames (T, height, width, 3); a pair
    (sampling rate, array); a decoder of torchcodec, as `datasets` gives it; a PIL image, which is one frame; or a dict
    with any of `FIELDS`: the arguments of `EGMFProcessor.__call__` for one sample, and `name`, for messages. Several
    images are several clips; the frames of one clip are `{"video": [image, ...]}`. A list of messages, as in
    chat_egmf.py, is one clip as well.

    Markup in a text is read as plain text. Voices are not detected, and faces only if the processor crops them: a clip
    without any is answered too. Missing modalities are left out; `modalities` in the answer lists those that it is
    based on.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any):
        """As any pipeline; refuses a processor that does not fit the model."""
        device = kwargs.get("device")
        num_gpus = torch.accelerator.device_count()
        # The base class may take the number of a GPU that does not exist for the CPU.
        if is_number(device) and device not in range(-1, max(num_gpus, 1)):
            raise ValueError(f"`device` is {device}, but there are {num_gpus} GPUs; -1 is the CPU.")
        accelerator = torch.accelerator.current_accelerator()
        kind = str(device).split(":")[0]
        if not is_number(device) and kind not in ("None", "cpu", str(accelerator)):
            raise ValueError(f"`device` is {shorten(device)}; use 'cpu' or a number.")
        super().__init__(*args, **kwargs)
        dtype = str(kwargs.get("dtype")).removeprefix("torch.")
        own_dtype = str(self.dtype).removeprefix("torch.")
        # If loading fails, `pipeline` tries again in float32.
        if dtype not in ("None", "auto", own_dtype):
            raise ValueError(
                f"`dtype` is {shorten(dtype)}, but the model is in {own_dtype}. "
                "Give float16, bfloat16, float32 or 'auto', and none for a model that is loaded."
            )
        # The processor calls and saves the others. The base class would refuse batches if they pad on another side.
        self.tokenizer = self.processor.tokenizer
        self.feature_extractor = None
        self.image_processor = None
        check_agreement(self.model.config, self.processor)

    def __call__(
        self, inputs: Any = None, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> Any:
        """Answer one clip or many, `batch_size` at a time; padding changes an answer only by rounding errors.

        Args:
            inputs: described in the class; None if the keywords give everything, as in `pipe(text="I'm fine.")`.
            batch_size: clips per forward pass.
            num_workers: processes that decode and prepare several clips; 0 for this process.
            on_error: `"raise"`, or `"skip"` to continue after a clip that cannot be used: its entry is
                `{"error": message}` instead of an answer.
            task, modalities, sampling_rate, fps: for every clip that does not have its own.
            text, audio, video, ..., name: the other fields of the dict above, for one clip that does not have its own.
            top_k: keep only this many of the probabilities, the largest first.
            interval: minimum probability that the interval of a number covers; None for 0.9.
            labels: answer only with these labels: the probabilities given that it is one of them.
            calibrated: apply what `egmf calibrate` stored with the task for the clip's modalities.
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
        check_count("batch_size", self._batch_size if batch_size is None else batch_size)
        check_count("num_workers", self._num_workers if num_workers is None else num_workers, 0)
        inputs = read_column(inputs)
        if is_recording(inputs) or is_conversation(inputs):
            clips = StackDataset(number=[0], clip=[inputs])
            (answer,) = super().__call__(clips, batch_size=1, num_workers=0, **kwargs)
            return answer
        is_indexed = isinstance(inputs, Sequence) or hasattr(inputs, "__getitems__") or not hasattr(inputs, "__iter__")
        # As a Dataset, because the base class reads the beginning of lists and generators, to look for messages.
        clips = StackDataset(number=range(len(inputs)), clip=inputs) if is_indexed else StreamedClips(inputs)
        answers = super().__call__(clips, batch_size=batch_size, num_workers=num_workers, **kwargs)
        return list(answers) if isinstance(inputs, list | tuple) else answers

    def __repr__(self) -> str:
        settings = {"model": type(self.model).__name__, "dtype": self.dtype, "device": self.device}
        return f"{type(self).__name__}: {settings | {'modalities': self.processor.modalities}}"

    def _sanitize_parameters(self, **params: Any) -> tuple[dict, dict, dict]:
        known = (*FIELDS, "fetch", "on_error", *OPTIONS, "num_workers", "batch_size")
        refuse_unknown(params, known, "Unknown arguments")
        check_choice("on_error", params.get("on_error", "raise"), ("raise", "skip"))
        fetch = params.get("fetch")
        if fetch is not None and not callable(fetch):
            raise TypeError(f"`fetch` is {shorten(fetch)}; give a function from a URL to bytes or a file.")
        check_choice("return_experts", params.get("return_experts"), (None, True, False))
        options = {name: params[name] for name in (*OPTIONS, "on_error") if params.get(name) is not None}
        params = {name: value for name, value in params.items() if name not in OPTIONS}
        return params, {}, {**options, "shared": set()}

    def get_iterator(self, *args: Any) -> Iterator[EGMFAnswer]:
        """As in the base class; afterwards, fields of the call that no clip needed are refused."""
        *_, call_fields, _, options = args
        answer = None
        for answer in super().get_iterator(*args):
            yield answer
        if answer is None:
            return
        check_rates(call_fields, options["shared"])
        for name in OWN_FIELDS:
            if call_fields.get(name) is not None and name not in options["shared"]:
                raise ValueError(f"{name} is given both with the clip and as a keyword. Give it once.")

    def preprocess(self, clip: Any, fetch: Any = None, on_error: str = "raise", **call_fields: Any) -> dict:
        """Prepare one clip; `call_fields` are those of the call, for a clip without its own."""
        number = 0
        if isinstance(clip, Mapping) and "number" in clip:
            number, clip = clip.values()
        try:
            name = _name(clip, number)
            with errors_named(name):
                fields = self._fields(_fetch(clip, fetch), name)
            given = {key: value for key, value in call_fields.items() if value is not None and key not in fields}
            fields |= given
            fields["audio"] = _fetch(fields.get("audio"), fetch)
            fields["video"] = _fetch(fields.get("video"), fetch)
            fields["name"] = str(fields.get("name") or name)
            shared = (set(given) - set(RATES)) | rates_needed(fields)
            return {"clip": PreparedClip(name, self.processor.prepare(**fields), shared)}
        except ERRORS as error:
            if on_error != "skip" and get_worker_info() is None:
                raise
            # Errors of other types may be lost between processes.
            kind = next(kind for kind in ERRORS if isinstance(error, kind))
            return {"clip": PreparedClip(shared={*OWN_FIELDS, *RATES}, error=kind(str(error) or repr(error)))}

    def _fields(self, clip: Any, name: str) -> dict[str, Any]:
        """The processor's arguments for one clip."""
        if clip is None:
            return {}
        clip = take_from_list(clip)
        if is_conversation(clip):
            return read_conversation(clip, name)
        # As the library's pipelines for audio name it.
        if isinstance(clip, Mapping) and clip.get("raw") is not None:
            clip = {**clip, "array": clip["raw"]}
        if isinstance(clip, Mapping) and not set(clip) & {"array", "bytes", "path"}:
            refuse_unknown(clip, FIELDS, f"{name}: unknown keys")
            clip = {key: read_column(value) for key, value in clip.items()}
            check_rates(clip, rates_needed(clip))
            return clip
        kind = media_kind(clip)
        if kind is not None:
            return {kind: clip}
        is_video = has_video(clip, name) and self.processor.video_input == "frames"
        return {"video" if is_video else "audio": clip}

    def _forward(self, inputs: dict[str, PreparedClip | list[PreparedClip]]) -> dict[str, Any]:
        """Score one prepared clip, or a batch, which the base class has collated into a list, without padding."""
        clips = inputs["clip"]
        outputs = self._score(clips if isinstance(clips, list) else [clips])
        return {"clip": clips, "output": outputs if isinstance(clips, list) else outputs[0]}

    def _score(self, clips: list[PreparedClip]) -> list[dict[str, Any] | None]:
        """The output of `score_answers` for each clip, as a batch of one; None for those that cannot be used."""
        samples = [clip.sample for clip in clips if clip.error is None]
        rows = iter(())
        if samples:
            output = self.model.score_answers(**self.processor.collate(samples).to(self.device))
            columns = [output[name].cpu().split(1) for name in OUTPUTS]
            names = {"expert_names": output.expert_names}
            rows = iter([names | dict(zip(OUTPUTS, row, strict=True)) for row in zip(*columns, strict=True)])
        return [next(rows) if clip.error is None else None for clip in clips]

    def postprocess(
        self,
        output: dict[str, Any],
        shared: set[str] | None = None,
        on_error: str = "raise",
        return_experts: bool = False,
        **options: Any,
    ) -> EGMFAnswer:
        """The answer for one clip; `shared` holds the fields of the call that earlier clips needed, and is updated."""
        clip = output["clip"]
        shared = set() if shared is None else shared
        error = clip.error
        repeated = [name for name in OWN_FIELDS if name in clip.shared & shared]
        if error is None and repeated:
            error = ValueError(
                f"{clip.name}: {repeated[0]} is given once, and another clip has it already. Give each clip as a dict "
                "with its own, e.g. {'video': 'clip.mp4', 'text': 'Well.'}."
            )
        shared |= clip.shared
        if error is not None:
            if on_error != "skip":
                raise error
            return {"error": str(error)}
        tasks = [clip.sample["prompt"]["task"]]
        (answer,) = self.processor.post_process_answers(SimpleNamespace(**output["output"]), tasks=tasks, **options)
        if not return_experts:
            for expert_field in EXPERT_FIELDS:
                del answer[expert_field]
        if "face_share" in clip.sample:
            answer["face_share"] = clip.sample["face_share"]
        return answer

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, processor and this code as a folder that `pipeline` can load; `push_to_hub` uploads them."""
        if kwargs.get("push_to_hub"):
            raise ValueError("Give the repo to pipe.push_to_hub() instead.")
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload model, processor and code, or refuse as `model.push_to_hub` does. Returns the commit's address."""
        address = self.model.push_to_hub(repo_id, **kwargs)
        self.processor.push_to_hub(repo_id, **kwargs)
        return address


# For `pipeline(TASK, model=...)` with a loaded model. Of several copies of this code, the last one imported counts.
PIPELINE_REGISTRY.supported_tasks[TASK] = {"impl": EGMFPipeline, "pt": (AutoModel,)}


def _name(clip: Any, number: int) -> str:
    """The name of a clip in messages: its path, or its number with the path of its file."""
    if isinstance(clip, str | os.PathLike):
        return show_path(os.fsdecode(clip))
    sources = [clip.get(key) for key in ("video", "audio", "path")] if isinstance(clip, Mapping) else []
    return numbered_name("clip", number, sources)


def _fetch(clip: Any, fetch: Callable[[str], Any] | None) -> Any:
    """The content of an http or https URL; anything else unchanged. Other URLs are rejected when media are read."""
    location = clip
    if isinstance(clip, Mapping) and clip.get("bytes") is None:
        location = clip.get("path")
    is_url = isinstance(location, str) and location.lower().startswith(("http://", "https://"))
    if not is_url or fetch is None:
        return clip
    try:
        return fetch(location)
    # Whatever a function of one's own raises.
    except Exception as error:
        raise ValueError(f"{show_path(location)}: `fetch` failed: {shorten(error)}.") from error
