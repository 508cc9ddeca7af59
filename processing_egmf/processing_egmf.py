"""EGMFProcessor: from text, audio and video to tensors, and from distributions over answers to labels and scores.

    text, context ──► encode_prompt ──► input_ids, the prompt's masks, labels ─────────────┐
    audio, video ───► load_media ─► encode_media ──► values and masks ─────────────────────┴─► collate ─► batch
    model.score_answers(**batch) ──► post_process_answers ──► label, score, probabilities, experts, modalities

`prepare` makes one sample, `collate` a batch, `__call__` does both. Read next: prompts_egmf.py (token ids),
audio_egmf.py, video_egmf.py (decoding), frontends_egmf.py, batches_egmf.py, results_egmf.py, chat_egmf.py.

When several processes load this file from the Hub at once, `transformers` waits only for the files that it names,
with a regular expression that finds docstrings as well. So these, which the others import, are named here:

    from .agreement_egmf import check_agreement
    from .audio_egmf import load_audio
    from .declared_egmf import declared_size
    from .frames_egmf import resize
    from .pictures_egmf import load_picture
    from .video_egmf import load_video
"""

# B batch  S prompt tokens  P slots  T steps or frames  F feature size  M modalities  A answers  L answer tokens

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .arguments_egmf import (
    check_settings,
    check_text_options,
    errors_named,
    refuses_unknown_arguments,
    takes_keywords_of_other_processors,
)
from .batches_egmf import (
    MEDIA_INPUTS,
    MODALITIES,
    check_modalities,
    check_not_empty,
    collate_samples,
    split_arguments,
)
from .chat_egmf import read_conversation, read_options, render_prompt
from .collator_egmf import EGMFDataCollator
from .faces_egmf import check_face_detector
from .frontends_egmf import EGMFMediaMixin, check_image_backend, encode_states
from .media_egmf import MAX_DECODE_SECONDS
from .pipeline_egmf import EGMFPipeline  # noqa: F401  not used here: the task is registered, the code saved as well
from .prompts_egmf import EGMFPromptMixin, read_context, read_task_slots, read_text
from .results_egmf import EGMFResultsMixin
from .stored_processor_egmf import SUB_PROCESSORS, EGMFStoredProcessorMixin, prepare_tokenizer
from .tasks_egmf import BUILT_IN_TASKS, EGMFTask, find_task, read_tasks


class EGMFProcessor(EGMFMediaMixin, EGMFPromptMixin, EGMFResultsMixin, EGMFStoredProcessorMixin, ProcessorMixin):
    """Turns text, audio and video into the inputs of `EGMFForConditionalGeneration`, one sample or a batch.

    A call returns input_ids and attention_mask (B, S), padded on the left; utterance_mask (B, S), 1 on the transcript;
    text_mask (B, S), 1 on all that `modality_mask` hides with the text: earlier turns, suffix and transcript;
    audio_values (B, T) or (B, T, F) with audio_mask (B, T); video_values (B, T, 3, height, width) or (B, T, F) with
    video_mask (B, T); modality_mask (B, M) for text, audio and video; task_ids (B,); and answer_ids (B, A, L) padded
    with -1, or `labels` (B, S) if answers were given. A modality that no sample has is left out.

    Args:
        tokenizer: the language model's tokenizer; `placeholder_token` is added to it.
        feature_extractor: of a pretrained audio encoder. As in any processor, sub-processors that are not given are
            no attributes.
        image_processor, video_processor: of a pretrained video encoder; at most one of them.
        tasks: `EGMFTask`s or their fields, as a list or by name; None for the built-in ones. The first is the default.
        num_pseudo_tokens: P, slots in the prompt; the same as in the model's configuration.
        audio_input: `"waveform"`, `"features"`, or None for a model without audio.
        audio_feature_size, video_feature_size: F of precomputed features; None accepts any.
        sampling_rate: of the audio that the model takes, in Hz.
        video_input: `"frames"`, `"features"`, or None for a model without video.
        num_frames: largest number of frames taken from a clip, spread evenly over it.
        frame_height, frame_width: pixels that frames are resized to.
        frames: `"full"`, the whole frame between gray bars; `"center"`; or `"face"`, as faces_egmf.py describes.
        face_detector: a callable, as faces_egmf.py describes; None for dlib. Only its name is saved.
        image_backend: the library that resizes frames, `"torchvision"` or `"pil"`; None for the one in use.
        max_clip_seconds: longer clips are used only up to here, with a warning.
        max_decode_seconds: a clip that takes longer to decode is an error; None for no limit.
        max_length: limit on the tokens of prompt and answer. A longer prompt loses its oldest context, then the end of
            the transcript, with a warning.
        transcript_in_prompt: whether the language model reads the transcript; if not, only the fusion does.
        task_slots: the slots that a task's prompt reads, from 0 to P - 1, by its name; other tasks read all.
        placeholder_token: the token in the slots of the pseudo tokens.
        tokenizer_checksum: checksums of the tokenizer's files, recorded when the processor is saved and compared when
            it is loaded; None to accept any.

    Raises:
        TypeError: a sub-processor of another class.
        ValueError: an unknown kind of input, two tasks with the same name, or a tokenizer without a token to pad with.
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        tokenizer,
        feature_extractor=None,
        image_processor=None,
        video_processor=None,
        tasks: Mapping[str, EGMFTask | dict] | Sequence[EGMFTask | dict] | None = None,
        num_pseudo_tokens: int = 4,
        audio_input: str | None = "waveform",
        audio_feature_size: int | None = None,
        sampling_rate: int = 16000,
        video_input: str | None = "frames",
        video_feature_size: int | None = None,
        num_frames: int = 8,
        frame_height: int = 64,
        frame_width: int = 64,
        frames: str = "full",
        face_detector: Callable | None = None,
        image_backend: str | None = None,
        max_clip_seconds: float = 30.0,
        max_decode_seconds: float | None = MAX_DECODE_SECONDS,
        max_length: int = 512,
        transcript_in_prompt: bool = True,
        task_slots: Mapping[str, Sequence[int]] | None = None,
        placeholder_token: str = "<|egmf|>",
        tokenizer_checksum: Mapping[str, str] | None = None,
    ):
        self.num_pseudo_tokens = num_pseudo_tokens
        self.audio_input = audio_input
        self.audio_feature_size = audio_feature_size
        self.sampling_rate = sampling_rate
        self.video_input = video_input
        self.video_feature_size = video_feature_size
        self.num_frames = num_frames
        self.frame_height = frame_height
        self.frame_width = frame_width
        self.frames = frames
        self.face_detector = check_face_detector(frames, video_input, face_detector)
        self.image_backend = image_backend
        self.max_clip_seconds = max_clip_seconds
        self.max_decode_seconds = max_decode_seconds
        self.max_length = max_length
        self.transcript_in_prompt = transcript_in_prompt
        self.placeholder_token = placeholder_token
        check_settings(self)
        self.tokenizer_checksum = tokenizer_checksum
        prepare_tokenizer(tokenizer, placeholder_token)
        self.task_objects = read_tasks(BUILT_IN_TASKS if tasks is None else tasks)
        self.task_slots = read_task_slots(task_slots or {}, self.task_objects, num_pseudo_tokens)
        self._call_tasks: dict[int, EGMFTask] = {}
        self._answer_ids: dict = {}  # name, None if a call's -> task, its answers' ids
        super().__init__(tokenizer)
        self.check_prompt_format(self.task_objects.values())
        if image_processor is not None and video_processor is not None:
            raise ValueError("Give an image_processor or a video_processor, not both.")
        for name, part in zip(SUB_PROCESSORS, (feature_extractor, image_processor, video_processor), strict=True):
            if part is not None:
                self.check_argument_for_proper_class(name, part)
                setattr(self, name, part)
        self.image_backend = check_image_backend(image_backend, self.frame_processor)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The sub-processors that every processor has. The others are saved and loaded as fields, if there are any."""
        return ["tokenizer"]

    @property
    def frame_processor(self) -> Any:
        """The image or video processor of a pretrained video encoder; None without one."""
        return vars(self).get("image_processor", vars(self).get("video_processor"))

    @property
    def tasks(self) -> list[dict]:
        """The tasks as they are saved: in a list, because JSON files are saved with sorted keys."""
        return [task.to_dict() for task in self.task_objects.values()]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model has."""
        inputs = {"text": "text", "audio": self.audio_input, "video": self.video_input}
        return tuple(modality for modality in MODALITIES if inputs[modality] is not None)

    @property
    def content(self) -> list[str]:
        """The arguments of a call that the model can be given."""
        kinds = {"audio": self.audio_input, "video": self.video_input}
        media = [f"{name}_features" if kind == "features" else name for name, kind in kinds.items() if kind]
        return ["text", *media]

    @property
    def placeholder_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.placeholder_token)

    @property
    def model_input_names(self) -> list[str]:
        prompt_inputs = ("input_ids", "attention_mask", "utterance_mask", "text_mask")
        return [*prompt_inputs, *MEDIA_INPUTS, "modality_mask", "answer_ids", "task_ids"]

    @takes_keywords_of_other_processors
    @refuses_unknown_arguments
    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        audio: Any = None,
        video: Any = None,
        *,
        audio_features: Any = None,
        video_features: Any = None,
        sampling_rate: int | Sequence[int | None] | None = None,
        fps: float | Sequence[float | None] | None = None,
        context: Sequence | None = None,
        task: str | EGMFTask | dict | Sequence | None = None,
        answer: Any = None,
        modalities: Sequence | None = None,
        sample_names: str | Sequence[str] | None = None,
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare one sample, or a batch if any argument is a list with one entry per sample (None: missing).

        Args:
            text: the transcript. Empty text counts as missing.
            audio: path, bytes, `data:` URI, array (with `sampling_rate`), as in `load_audio`; None: the video's track.
            video: path, bytes, `data:` URI, PIL images, array (T, height, width, 3) or (T, 3, height, width).
            audio_features, video_features: precomputed features (T, F) instead.
            sampling_rate, fps: per second of an audio array; of a video array or images, which are else used whole.
            context: earlier turns of the dialogue, oldest first: text, or (speaker, text). They belong to the text.
            task: name of one of `self.tasks`; an `EGMFTask` or its fields, for this call; None for the first task.
            answer: true label or score; then `labels` is returned, -100 except on the answer's tokens.
            modalities: those to use, e.g. `["audio", "video"]`; None for all. Without `"text"`, no context is read.
            sample_names: for messages.
            padding, truncation: True, also `"longest"` and `"longest_first"`, or padding to `"max_length"`.
            max_length: limit on the tokens of prompt and answer in this call; None for the processor's.
            return_tensors: `"pt"` or `"np"`.
            videos, text_kwargs, audio_kwargs, ...: `video`, and the keywords in `NESTED_KEYWORDS`, as elsewhere.

        Raises:
            ValueError, TypeError, FileNotFoundError: the message names the sample, what is wrong and what to do.
        """
        arguments = {
            "text": text,
            "audio": audio,
            "video": video,
            "audio_features": audio_features,
            "video_features": video_features,
            "sampling_rate": sampling_rate,
            "fps": fps,
            "context": context,
            "task": task,
            "answer": answer,
            "modalities": modalities,
            "sample_names": sample_names,
        }
        samples = split_arguments(arguments)
        check_text_options(padding, truncation, max_length, len(samples))
        samples = [self.prepare(**sample, max_length=max_length) for sample in samples]
        min_length = (max_length or self.max_length) if padding == "max_length" else 0
        return self.collate(samples, return_tensors, min_length)

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "auto",
        processor_kwargs: dict | None = None,
        **kwargs: Any,
    ) -> BatchFeature | torch.Tensor | str | list[str]:
        """A conversation as the inputs of the model: the tensors of `__call__` for what it holds.

        Args:
            conversation: messages as described in chat_egmf.py, or a list of such conversations.
            tokenize: False returns the prompt as text, without reading media.
            return_dict: False returns only `input_ids`.
            return_tensors: `"pt"`, also for `"auto"` and None, or `"np"`.
            processor_kwargs, kwargs: arguments of `__call__`, such as `task`. Of the other options of
                `ProcessorMixin.apply_chat_template`, those that ask for what is done anyway are accepted.

        Raises:
            ValueError, TypeError: a message or an option that the processor cannot follow; it is named.
        """
        options = read_options({"chat_template": chat_template, **(processor_kwargs or {}), **kwargs})
        is_batch = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversations = conversation if is_batch else [conversation]
        samples = [read_conversation(one, f"conversation {i}") for i, one in enumerate(conversations)]
        if not tokenize:
            prompts = [render_prompt(self, sample, options) for sample in samples]
            return prompts if is_batch else prompts[0]
        columns = {name: [sample.get(name) for sample in samples] for name in set().union(*samples)}
        if return_tensors == "auto":
            return_tensors = "pt"
        batch = self(**columns, **options, return_tensors=return_tensors)
        return batch if return_dict else batch["input_ids"]

    @refuses_unknown_arguments
    def prepare(
        self,
        *,
        text: str | None = None,
        audio: Any = None,
        video: Any = None,
        audio_features: Any = None,
        video_features: Any = None,
        audio_states: torch.Tensor | np.ndarray | None = None,
        video_states: torch.Tensor | np.ndarray | None = None,
        sampling_rate: int | None = None,
        fps: float | None = None,
        context: Sequence | None = None,
        task: str | EGMFTask | dict | None = None,
        answer: Any = None,
        modalities: Sequence[str] | None = None,
        max_length: int | None = None,
        name: str = "the sample",
    ) -> dict[str, Any]:
        """Prepare one sample as unpadded tensors, for `collate`. Takes the arguments of `__call__` and these:

        Args:
            audio_states, video_states: stored outputs (T, encoder width) of a frozen encoder. They replace the clip's
                audio or frames, which are then not decoded. T = 0 means that the clip has none.
            name: the sample's name in messages.

        Returns:
            `name`; `prompt`, the arguments of `encode_prompt`, and what it returns; and
            `audio_values`, `audio_mask`, `video_values`, `video_mask` and `face_share` of the media that it has.
        """
        with errors_named(name):
            chosen = MODALITIES if modalities is None else check_modalities(modalities, self.modalities)
            text = read_text(text) if "text" in chosen else ""
            turns = read_context(context) if "text" in chosen else []
        sources = {
            "audio": audio,
            "video": video,
            "audio_features": audio_features,
            "video_features": video_features,
        }
        states = {"audio": audio_states, "video": video_states}
        # Earlier turns alone are not a sample: nothing is known about the speaker.
        has_media = any(source is not None for source in (*sources.values(), *states.values()))
        states = {modality: states[modality] for modality in chosen if states.get(modality) is not None}
        decoded = [modality for modality in chosen if modality not in states]
        arrays = self.load_media(**sources, modalities=decoded, sampling_rate=sampling_rate, fps=fps, name=name)
        with errors_named(name):
            states_media = encode_states(states)
            task = find_task(task, self.task_objects)
        has_content = bool(text or arrays or states_media or (turns and has_media))
        check_not_empty(has_content, name, modalities, self.content)
        prompt = {"text": text, "context": turns, "task": task, "answer": answer, "max_length": max_length}
        encoded = self.encode_prompt(**prompt, name=name)
        return {"name": name, "prompt": prompt, **encoded, **self.encode_media(arrays, name), **states_media}

    def collate(self, samples: list[dict], return_tensors: str | None = "pt", min_length: int = 0) -> BatchFeature:
        """Samples of `prepare` as a batch: prompts padded on the left, to `min_length` or more; media on the right."""
        return collate_samples(samples, self.tokenizer.pad_token_id, return_tensors, min_length)

    def data_collator(self, score_answers: bool = True) -> EGMFDataCollator:
        """The `data_collator` of `transformers.Trainer`; `EGMFDataCollator` describes the rows that it takes."""
        return EGMFDataCollator(self, score_answers)

    @property
    def numbered_tasks(self) -> dict[int, EGMFTask]:
        """The tasks by their `task_ids`: `self.tasks` from 0, and below 0 those that were given to a call."""
        return {**dict(enumerate(self.task_objects.values())), **self._call_tasks}

    def add_task(self, task: EGMFTask | dict) -> None:
        """Add a task, which is then saved with the processor.

        Raises:
            ValueError: the processor has another task of this name, or its tokenizer lacks the chat template.
        """
        with errors_named("add_task"):
            task = find_task(EGMFTask.from_dict(task), self.task_objects)
        self.check_prompt_format([task])
        self.task_objects[task.name] = task
