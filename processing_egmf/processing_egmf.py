"""EGMFProcessor: from text, audio and video to tensors, and from distributions over answers to labels and scores.

    text, context ──► encode_prompt ──► input_ids, the prompt's masks, labels ─────────────┐
    audio, video ───► load_media ─► encode_media ──► values and masks ─────────────────────┴─► collate ─► batch
    model.score_answers(**batch) ──► post_process_answers ──► label, score, probabilities, experts, modalities

`prepare` makes one sample, `collate` a batch, `__call__` does both. Read next: prompts_egmf.py (token ids),
audio_egmf.py, video_egmf.py (decoding), frontends_egmf.py (encoder inputs), batches_egmf.py, results_egmf.py.
"""

# B batch  S prompt tokens  P slots  T steps or frames  F feature size  M modalities  A answers  L answer tokens

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .arguments_egmf import check_settings, refuses_unknown_arguments
from .audio_egmf import load_audio
from .batches_egmf import (
    IGNORE_INDEX,
    MEDIA_INPUTS,
    MODALITIES,
    check_modalities,
    check_not_empty,
    check_one_source,
    collate_samples,
    split_arguments,
)
from .frames_egmf import check_frame_fit
from .frontends_egmf import (
    build_frontend,
    check_input_kind,
    encode_frames,
    encode_states,
    encode_waveform,
    read_features,
    record_image_backend,
    with_full_mask,
)
from .media_egmf import MAX_DECODE_SECONDS, media_kind
from .pipeline_egmf import EGMFPipeline  # noqa: F401  not used here: the task is registered, the code saved as well
from .prompts_egmf import fit_prompt, mask_of, read_context, read_text, tokenize_answers, tokenize_prompt
from .results_egmf import check_summary_options, find_sample_tasks, summarize_output
from .stored_processor_egmf import check_loading_arguments, explain_failure, vocabulary_checksum
from .tasks_egmf import BUILT_IN_TASKS, EGMFAnswer, EGMFTask, find_task, read_task, read_tasks
from .video_egmf import load_video


class EGMFProcessor(ProcessorMixin):
    """Turns text, audio and video into the inputs of `EGMFForConditionalGeneration`, one sample or a batch.

    A call returns input_ids and attention_mask (B, S), padded on the left; utterance_mask (B, S), 1 on the transcript;
    text_mask (B, S), 1 on all that `modality_mask` hides with the text: earlier turns, suffix and transcript;
    audio_values (B, T) or (B, T, F) with audio_mask (B, T); video_values (B, T, 3, height, width) or (B, T, F) with
    video_mask (B, T); modality_mask (B, M) for text, audio and video; task_ids (B,); and answer_ids (B, A, L) padded
    with -1, or `labels` (B, S) if answers were given. A modality that no sample has is left out.

    Args:
        tokenizer: the language model's tokenizer; `placeholder_token` is added to it.
        tasks: `EGMFTask`s or their fields, as a list or by name; None for the built-in ones. The first is the default.
        num_pseudo_tokens: P, slots in the prompt; the same as in the model's configuration.
        audio_input: `"waveform"`, `"features"`, or None for a model without audio.
        audio_feature_size, video_feature_size: F of precomputed features; None accepts any.
        sampling_rate: of the audio that the model takes, in Hz.
        audio_frontend: `to_dict()` of the feature extractor of a pretrained audio encoder, or None.
        video_input: `"frames"`, `"features"`, or None for a model without video.
        num_frames: largest number of frames taken from a clip, spread evenly over it.
        frame_height, frame_width: pixels that frames are resized to.
        frame_fit: `"letterbox"`, the whole frame between gray bars; or `"crop"`, its center in these proportions.
        video_frontend: `to_dict()` of the image processor of a pretrained video encoder, or None.
        max_clip_seconds: longer clips are used only up to here, with a warning.
        max_decode_seconds: a clip that takes longer to decode is an error; None for no limit.
        max_length: limit on the tokens of prompt and answer. A longer prompt loses its oldest context, then the end of
            the transcript, with a warning.
        transcript_in_prompt: whether the language model reads the transcript; if not, only the fusion does.
        placeholder_token: the token in the slots of the pseudo tokens.
        vocabulary: checksum of the tokenizer's vocabulary, stored when the processor is saved; None to accept any.

    Raises:
        ValueError: an unknown kind of input, a front end unknown to transformers, two tasks with the same name, or a
            tokenizer with another vocabulary.
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        tokenizer,
        tasks: Mapping[str, EGMFTask | dict] | Sequence[EGMFTask | dict] | None = None,
        num_pseudo_tokens: int = 4,
        audio_input: str | None = "waveform",
        audio_feature_size: int | None = None,
        sampling_rate: int = 16000,
        audio_frontend: dict | None = None,
        video_input: str | None = "frames",
        video_feature_size: int | None = None,
        num_frames: int = 8,
        frame_height: int = 64,
        frame_width: int = 64,
        frame_fit: str = "letterbox",
        video_frontend: dict | None = None,
        max_clip_seconds: float = 30.0,
        max_decode_seconds: float | None = MAX_DECODE_SECONDS,
        max_length: int = 512,
        transcript_in_prompt: bool = True,
        placeholder_token: str = "<|egmf|>",
        vocabulary: str | None = None,
    ):
        self.num_pseudo_tokens = num_pseudo_tokens
        self.audio_input = audio_input
        self.audio_feature_size = audio_feature_size
        self.sampling_rate = sampling_rate
        self.audio_frontend = audio_frontend
        self.video_input = video_input
        self.video_feature_size = video_feature_size
        self.num_frames = num_frames
        self.frame_height = frame_height
        self.frame_width = frame_width
        self.frame_fit = check_frame_fit(frame_fit)
        self.video_frontend = video_frontend
        self.max_clip_seconds = max_clip_seconds
        self.max_decode_seconds = max_decode_seconds
        self.max_length = max_length
        self.transcript_in_prompt = transcript_in_prompt
        self.placeholder_token = placeholder_token
        self.vocabulary = vocabulary_checksum(tokenizer)
        check_settings(self)
        if vocabulary not in (None, self.vocabulary):
            raise ValueError(
                f"The checksum of the tokenizer's vocabulary is {self.vocabulary}, but was {vocabulary!r} when "
                "the processor was saved: it is another tokenizer, or tokenizer.json is damaged."
            )
        if tokenizer.convert_tokens_to_ids(placeholder_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_special_tokens({"additional_special_tokens": [placeholder_token]})
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"

        self.task_objects = read_tasks(BUILT_IN_TASKS if tasks is None else tasks)
        self._answer_ids: dict[str, list[list[int]]] = {}
        self._feature_extractor = build_frontend(audio_frontend, "audio")
        self._image_processor = build_frontend(video_frontend, "video")
        self.video_frontend = record_image_backend(video_frontend, self._image_processor)
        super().__init__(tokenizer)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> "EGMFProcessor":
        """Load a processor; keywords of its constructor replace the stored fields.

        Raises:
            TypeError: a keyword that is neither a field nor an argument of loading.
            OSError, ValueError: a file is missing or damaged; the message names it.
        """
        kwargs = check_loading_arguments(cls, kwargs)
        kwargs.setdefault("trust_remote_code", False)  # else, loading the tokenizer asks to import this code
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:  # of many types, if a file is damaged
            explain_failure(error, pretrained_model_name_or_path, kwargs)
            raise

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The stored fields; without processor_config.json they would silently be the defaults."""
        fields, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "tasks" not in fields:
            raise OSError(
                f"{pretrained_model_name_or_path} has no processor_config.json with the fields of an "
                "EGMFProcessor. Give the folder or id of an EGMF checkpoint, or its `subfolder`."
            )
        return fields, unused

    @property
    def tasks(self) -> list[dict]:
        """The tasks as they are saved: in a list, because JSON files are saved with sorted keys."""
        return [task.to_dict() for task in self.task_objects.values()]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "tasks": self.tasks}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model has."""
        inputs = {"text": "text", "audio": self.audio_input, "video": self.video_input}
        return tuple(modality for modality in MODALITIES if inputs[modality] is not None)

    @property
    def placeholder_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.placeholder_token)

    @property
    def model_input_names(self) -> list[str]:
        prompt_inputs = ("input_ids", "attention_mask", "utterance_mask", "text_mask")
        return [*prompt_inputs, *MEDIA_INPUTS, "modality_mask", "answer_ids", "task_ids"]

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
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare one sample, or a batch if any argument is a list with one entry per sample (None: missing).

        Args:
            text: the transcript. Empty text counts as missing.
            audio: path, bytes, array (with `sampling_rate`), or as in `load_audio`; None for the track of `video`.
            video: path, bytes, open file, PIL images, array (T, height, width, 3) (with `fps`), or as in `load_video`.
            audio_features, video_features: precomputed features (T, F) instead.
            sampling_rate: Hz of an audio array.
            fps: frames per second of a video array or list of images.
            context: earlier turns of the dialogue, oldest first: text, or (speaker, text). They belong to the text.
            task: name of one of `self.tasks`; an `EGMFTask` or its fields, which is added if its name is new; None for
                the first task.
            answer: true label or score; then `labels` is returned, -100 except on the answer's tokens.
            modalities: the modalities to use, e.g. `["audio", "video"]`; None for all that a sample has. Without
                `"text"`, neither the transcript nor the context is read.
            sample_names: names of the samples, for messages.

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
        samples = [self.prepare(**sample) for sample in split_arguments(arguments)]
        return self.collate(samples, return_tensors)

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
        name: str = "the sample",
    ) -> dict[str, Any]:
        """Prepare one sample as unpadded tensors, for `collate`. Takes the arguments of `__call__` and these:

        Args:
            audio_states, video_states: stored outputs (T, encoder width) of a frozen encoder. They replace the clip's
                audio or frames, which are then not decoded. T = 0 means that the clip has none.
            name: the sample's name in messages.

        Returns:
            `name`; `prompt`, the arguments of `encode_prompt`, and what it returns; and
            `audio_values`, `audio_mask`, `video_values`, `video_mask` of the media that the sample has.
        """
        chosen = MODALITIES if modalities is None else check_modalities(modalities, name, self.modalities)
        text = read_text(text, name) if "text" in chosen else ""
        turns = read_context(context, name) if "text" in chosen else []
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
        states_media = encode_states(states, name)
        check_not_empty(bool(text or arrays or states_media or (turns and has_media)), name, modalities)
        task = find_task(task, self.task_objects, name)
        prompt = {"text": text, "context": turns, "task": task, "answer": answer}
        encoded = self.encode_prompt(**prompt, name=name)
        return {"name": name, "prompt": prompt, **encoded, **self.encode_media(arrays, name), **states_media}

    def collate(self, samples: list[dict[str, Any]], return_tensors: str = "pt") -> BatchFeature:
        """Samples from `prepare` as one batch: prompts padded on the left, media on the right."""
        return collate_samples(samples, self.tokenizer.pad_token_id, return_tensors)

    def load_media(
        self,
        *,
        audio: Any = None,
        video: Any = None,
        audio_features: Any = None,
        video_features: Any = None,
        modalities: Sequence[str] = MODALITIES,
        sampling_rate: int | None = None,
        fps: float | None = None,
        name: str = "the sample",
    ) -> dict[str, np.ndarray]:
        """Decode a clip. The processor takes the arrays instead of the clip, with the same result.

        Returns:
            Those that the clip has: `audio` (samples,) float32 at `self.sampling_rate`, `video` (T, height, width, 3)
            uint8, and `audio_features`, `video_features` (T, F) float32.
        """
        check_one_source("audio", audio, audio_features, name)
        if audio is not None or self.audio_input != "waveform":  # else the audio track of the video is read
            check_one_source("video", video, video_features, name)
        arrays = {}
        if "audio" in modalities and audio_features is not None:
            check_input_kind("audio", "features", self.audio_input, name)
            arrays["audio_features"] = read_features("audio", audio_features, self.audio_feature_size, name)
        elif "audio" in modalities:
            arrays["audio"] = self._load_audio(audio, video, sampling_rate, name)
        if "video" in modalities and video_features is not None:
            check_input_kind("video", "features", self.video_input, name)
            arrays["video_features"] = read_features("video", video_features, self.video_feature_size, name)
        elif "video" in modalities and video is not None:
            arrays["video"] = self._load_video(video, fps, name)
        return {key: values for key, values in arrays.items() if values is not None}

    def _load_audio(
        self,
        audio: Any,
        video: Any,
        sampling_rate: int | None,
        name: str,
    ) -> np.ndarray | None:
        """The waveform of `audio`, or else of the audio track of `video`; None if there is neither."""
        if audio is not None:
            check_input_kind("audio", "waveform", self.audio_input, name)
        elif video is None or media_kind(video) is not None or self.audio_input != "waveform":
            return None
        limits = (self.max_clip_seconds, name, audio is None, self.max_decode_seconds)
        return load_audio(video if audio is None else audio, sampling_rate, self.sampling_rate, *limits)

    def _load_video(self, video: Any, fps: float | None, name: str) -> np.ndarray | None:
        check_input_kind("video", "frames", self.video_input, name)
        size = (self.frame_height, self.frame_width) if self._image_processor is None else None  # it resizes them
        limits = (self.max_clip_seconds, name, size, self.frame_fit, self.max_decode_seconds)
        return load_video(video, self.num_frames, fps, *limits)

    def encode_media(
        self,
        arrays: dict[str, np.ndarray],
        name: str = "the sample",
    ) -> dict[str, torch.Tensor]:
        """Arrays from `load_media` as the values and masks of one sample, without a batch dimension."""
        inputs = {}
        if "audio" in arrays:
            inputs |= encode_waveform(arrays["audio"], self.sampling_rate, self._feature_extractor, name)
        if "video" in arrays:
            inputs |= encode_frames(arrays["video"], self._image_processor, self.frame_fit)
        for modality in ("audio", "video"):
            if f"{modality}_features" in arrays:
                inputs |= with_full_mask(modality, torch.from_numpy(arrays[f"{modality}_features"]))
        return inputs

    def encode_prompt(
        self,
        text: str,
        context: Sequence,
        task: EGMFTask,
        answer: Any,
        name: str,
    ) -> dict[str, Any]:
        """Token ids and masks of one prompt, and labels if there is an answer; as lists."""
        answer_ids = self.answer_token_ids(task)
        target = []
        if answer is not None:
            target = answer_ids[task.index(answer, name)]
            if target[-1] != self.tokenizer.eos_token_id:
                target = [*target, self.tokenizer.eos_token_id]
        parts = tokenize_prompt(self.tokenizer, task, text, context, name)
        parts["slots"] = [self.placeholder_token_id] * self.num_pseudo_tokens
        longest_answer = max(len(ids) for ids in answer_ids) + 1  # with the end token
        parts = fit_prompt(parts, self.max_length, longest_answer, task.name, name)
        prompt_ids = [token for ids in parts.values() for token in ids]
        utterance_mask = mask_of(parts, "transcript") + [0] * len(target)
        attention_mask = [1] * len(utterance_mask)
        if not self.transcript_in_prompt:
            attention_mask = [1 - is_utterance for is_utterance in utterance_mask]
        return {
            "input_ids": prompt_ids + target,
            "attention_mask": attention_mask,
            "utterance_mask": utterance_mask,
            "text_mask": mask_of(parts, "context", "suffix", "transcript") + [0] * len(target),
            "labels": None if answer is None else [IGNORE_INDEX] * len(prompt_ids) + target,
            "answer_ids": answer_ids,
            "task_id": list(self.task_objects).index(task.name),
        }

    def answer_token_ids(self, task: str | EGMFTask | dict | None = None) -> list[list[int]]:
        """Token ids of every answer as the continuation of the task's prompt, in the order of the answers."""
        task = find_task(task, self.task_objects)
        if task.name not in self._answer_ids:
            self._answer_ids[task.name] = tokenize_answers(self.tokenizer, task)
        return self._answer_ids[task.name]

    def add_task(self, task: EGMFTask | dict) -> None:
        """Add a task, which is then saved with the processor.

        Raises:
            ValueError: the processor has another task of this name.
        """
        find_task(read_task(task), self.task_objects, "add_task")

    @refuses_unknown_arguments
    def post_process_answers(
        self,
        output: Any,
        top_k: int | None = None,
        interval: float = 0.9,
        tasks: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
    ) -> list[EGMFAnswer]:
        """Turn the output of `model.score_answers` into labels and numbers, one `EGMFAnswer` per sample.

        Args:
            output: `EGMFAnswerOutput`.
            top_k: keep only this many of the probabilities, the largest first; None for all, in the task's order.
            interval: minimum probability that the interval of a number covers, in (0, 1).
            tasks: names, one per sample, if the inputs' `task_ids` were not passed through the model.
            labels: answer only with these labels: the probabilities given that it is one of them, in this order.
        """
        check_summary_options(top_k, interval)
        if tasks is None:
            tasks = find_sample_tasks(output, list(self.task_objects.values()))
        tasks = [find_task(task, self.task_objects) for task in tasks]
        return summarize_output(output, tasks, top_k, interval, labels)

    def post_process_generation(
        self, generated_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        """Parse the output of `model.generate(**inputs)`.

        Args:
            generated_ids: with the prompt, as `generate` returns them for token ids, or without it. With
                `num_return_sequences`, the sequences of a sample follow one another.
            inputs: the processor's output.

        Returns:
            One dict per sequence: `text`; `answer`, a label or a number, or None if the text contains none; `task`.
        """
        num_sequences = max(len(generated_ids) // len(inputs["task_ids"]), 1)  # per sample
        prompts = inputs["input_ids"].to(generated_ids.device).repeat_interleave(num_sequences, dim=0)
        if torch.equal(generated_ids[:, : prompts.shape[1]], prompts):
            generated_ids = generated_ids[:, prompts.shape[1] :]
        texts = self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
        known_tasks = list(self.task_objects.values())
        tasks = [known_tasks[i] for i in inputs["task_ids"].repeat_interleave(num_sequences).tolist()]
        return [
            {"text": text, "answer": task.parse(text), "task": task.name}
            for text, task in zip(texts, tasks, strict=True)
        ]
