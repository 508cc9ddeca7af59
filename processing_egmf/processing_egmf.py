"""EGMFProcessor: a clip, its words and a question in; tensors out; and distributions back into answers.

    text ─────────────► [context] prefix <|egmf|> x P suffix transcript prompt [answer] ──► input_ids, masks, labels
    audio, video ─────► decode, resample, sample frames (media_egmf.py) ─────────────────► values, masks
    model.score_answers(**inputs) ──► post_process_answers ──► label, score, probabilities, experts, modalities

Prompt and answer are tokenised apart and joined, so that the loss mask is exact. Training, evaluation, pipeline and
demo all come through here.
"""

# B batch  S prompt tokens  P pseudo tokens  A answers  L tokens of an answer  M modalities (text, audio, video)

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import logging

from .media_egmf import load_audio, load_video, resize_frames
from .tasks_egmf import BUILT_IN_TASKS, EGMFTask


logger = logging.get_logger(__name__)

MODALITIES = ("text", "audio", "video")
IGNORE_INDEX = -100


class EGMFProcessor(ProcessorMixin):
    """Turns text, audio and video into what `EGMFForConditionalGeneration` takes, one sample or a batch.

    Args:
        tokenizer: the language model's tokenizer; `placeholder_token` is added to it.
        tasks: `EGMFTask`s or their fields, as a list or by name; None for the built-in tasks. The first is the
            default.
        num_pseudo_tokens: P, slots in the prompt; as in the model's configuration.
        audio_input: `"waveform"`, `"features"`, or None for a model without audio.
        audio_feature_size: width of precomputed audio features.
        sampling_rate: Hz of the audio given to the model.
        audio_frontend: fields of the pretrained audio encoder's feature extractor (its `to_dict()`), or None.
        video_input: `"frames"`, `"features"`, or None for a model without video.
        video_feature_size: width of precomputed video features.
        num_frames: how many frames of a clip are looked at, spread evenly over it.
        frame_height, frame_width: pixels, after a centre crop to their aspect ratio.
        video_frontend: fields of the pretrained vision encoder's image processor (its `to_dict()`), or None.
        max_clip_seconds: what is heard and seen of a longer clip is its beginning; a warning says so.
        max_length: prompt and answer in tokens. What is too long loses the oldest context first, then the end of
            the transcript.
        transcript_in_prompt: let the language model read the transcript. If not, only the fusion does.
        placeholder_token: the token whose slots the pseudo tokens take.
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
        video_frontend: dict | None = None,
        max_clip_seconds: float = 30.0,
        max_length: int = 512,
        transcript_in_prompt: bool = True,
        placeholder_token: str = "<|egmf|>",
    ):
        if audio_input not in ("waveform", "features", None):
            raise ValueError(f"`audio_input` is {audio_input!r}; use 'waveform', 'features' or None.")
        if video_input not in ("frames", "features", None):
            raise ValueError(f"`video_input` is {video_input!r}; use 'frames', 'features' or None.")
        if tokenizer.convert_tokens_to_ids(placeholder_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_special_tokens({"additional_special_tokens": [placeholder_token]})
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        self.task_objects = _read_tasks(tasks if tasks is not None else BUILT_IN_TASKS)
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
        self.video_frontend = video_frontend
        self.max_clip_seconds = max_clip_seconds
        self.max_length = max_length
        self.transcript_in_prompt = transcript_in_prompt
        self.placeholder_token = placeholder_token
        self._extractor = _build_frontend(audio_frontend, "feature_extractor_type")
        self._image_processor = _build_frontend(video_frontend, "image_processor_type")
        self._answer_ids: dict[str, list[list[int]]] = {}
        self._fixed: dict[str, list[int]] = {}
        super().__init__(tokenizer)

    @property
    def tasks(self) -> list[dict]:
        """The tasks as they are stored: a list, because the keys of a stored dict are sorted."""
        return [task.to_dict() for task in self.task_objects.values()]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "tasks": self.tasks}

    @property
    def placeholder_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.placeholder_token)

    @property
    def model_input_names(self) -> list[str]:
        media = [f"{modality}_{kind}" for modality in ("audio", "video") for kind in ("values", "mask")]
        return ["input_ids", "attention_mask", "utterance_mask", *media, "modality_mask", "answer_ids", "task_ids"]

    # ---- one call --------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        audio: Any = None,
        video: Any = None,
        *,
        audio_features: Any = None,
        video_features: Any = None,
        context: Sequence | None = None,
        task: str | EGMFTask | Sequence[str | EGMFTask] | None = None,
        answer: Any = None,
        modalities: Sequence | None = None,
        sampling_rate: int | None = None,
        fps: float | None = None,
        sample_names: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """One sample, or a batch where any of the arguments is a list with one entry a sample (None: missing).

        Args:
            text: what was said. Empty text counts as missing.
            audio: path, bytes, open file, mono or stereo array (with `sampling_rate` in Hz), or
                `{"array", "sampling_rate"}`. Not given: the sound track of `video`, if it has one.
            video: path, bytes, open file, list of PIL images, or array (T, y, x, 3) (with `fps`).
            audio_features, video_features: (T, F) precomputed vectors instead.
            context: earlier turns of the dialogue, oldest first: words, or (speaker, words).
            task: name of one of `self.tasks`, or an `EGMFTask`; None for the first of them.
            answer: true label or score; then `labels` is returned, -100 but on the answer's tokens.
            modalities: which of text, audio and video to use, e.g. `["audio", "video"]`; None for all there are.
            sample_names: how errors call the samples.

        Returns:
            input_ids, attention_mask, utterance_mask (B, S), left padded; audio_values (B, samples) or (B, T, F),
            audio_mask (B, samples or T); video_values (B, T, 3, y, x) or (B, T, F), video_mask (B, T);
            modality_mask (B, 3) for text, audio, video; task_ids (B,); answer_ids (B, A, L) padded with -1, or
            `labels` (B, S) where an answer was given. A modality that no sample has is left out.

        Raises:
            ValueError, TypeError, FileNotFoundError: with the sample's name, what is wrong and what to do.
        """
        columns = {
            "text": (text, isinstance(text, list | tuple)),
            "audio": (audio, _is_batch_of_audio(audio)),
            "video": (video, _is_batch_of_video(video)),
            "audio_features": (audio_features, _is_batch_of_features(audio_features)),
            "video_features": (video_features, _is_batch_of_features(video_features)),
            "task": (task, isinstance(task, list | tuple)),
            "answer": (answer, isinstance(answer, list | tuple | np.ndarray | torch.Tensor)),
            "modalities": (modalities, bool(modalities) and not isinstance(modalities[0], str)),
            "sampling_rate": (sampling_rate, isinstance(sampling_rate, list | tuple)),
            "fps": (fps, isinstance(fps, list | tuple)),
            "name": (sample_names, isinstance(sample_names, list | tuple)),
        }
        # A list of turns is one context where there is one sample, and one context each where there are several.
        several = any(is_batch for _, is_batch in columns.values())
        columns["context"] = (context, several and isinstance(context, list | tuple))
        lengths = {name: len(value) for name, (value, is_batch) in columns.items() if is_batch}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"The lists are of different lengths: {lengths}. Give one entry a sample, None if missing."
            )
        size = next(iter(lengths.values()), 1)
        if size == 0:
            raise ValueError("The batch is empty; give at least one sample.")
        inputs = (*MODALITIES, "audio_features", "video_features")
        shared = [name for name in inputs if size > 1 and not columns[name][1] and columns[name][0] is not None]
        if shared:
            raise ValueError(f"{', '.join(shared)} is one value but the batch has {size} samples; give a list.")
        samples = [
            {name: value[i] if is_batch else value for name, (value, is_batch) in columns.items()} for i in range(size)
        ]
        for i, sample in enumerate(samples):
            sample["name"] = sample["name"] or f"sample {i}"
        return self._collate([self.prepare(**sample) for sample in samples], return_tensors)

    def prepare(
        self,
        *,
        text: str | None = None,
        context: Sequence | None = None,
        task: str | EGMFTask | None = None,
        answer: Any = None,
        modalities: Sequence[str] | None = None,
        name: str = "the sample",
        **media: Any,
    ) -> dict[str, Any]:
        """One sample as unpadded arrays: what `__call__` pads and stacks."""
        for modality in modalities if modalities is not None else ():
            if modality not in MODALITIES:
                raise ValueError(f"{name}: unknown modality {modality!r}; use any of {', '.join(MODALITIES)}.")
        wanted = MODALITIES if modalities is None else tuple(modalities)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name}: text must be a string or None, not {type(text).__name__}.")
        text = text.strip() if text is not None and "text" in wanted else ""
        arrays = self.load_media(name=name, modalities=wanted, **media)
        if not text and not arrays:
            raise ValueError(
                f"{name} has neither text nor audio nor video"
                + (f" among the wanted modalities {list(wanted)}" if modalities is not None else "")
                + ". Give at least one of text, audio, video, audio_features, video_features."
            )
        prompt = self._encode_prompt(text, context, self._task(task, name), answer, name)
        return {**prompt, **self._encode_media(arrays, name)}

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
        """Decode a clip once. What comes back can be given to the processor again and again, with equal results:
        `audio` (samples,) float32 at `self.sampling_rate`, `video` (T, y, x, 3) uint8, `*_features` (T, F) float32."""
        arrays: dict[str, np.ndarray] = {}
        if "audio" in modalities:
            if audio_features is not None:
                arrays["audio_features"] = self._check_features(audio_features, "audio", name)
            elif audio is not None or (self.audio_input == "waveform" and _is_file(video)):
                if self.audio_input != "waveform":
                    raise ValueError(f"{name}: this model takes audio as {self.audio_input}, not as sound.")
                heard = load_audio(
                    audio if audio is not None else video,
                    sampling_rate=sampling_rate if audio is not None else None,
                    target_sampling_rate=self.sampling_rate,
                    max_seconds=self.max_clip_seconds,
                    name=name,
                    missing_ok=audio is None,
                )
                if heard is not None:
                    arrays["audio"] = heard
        if "video" in modalities:
            if video_features is not None:
                arrays["video_features"] = self._check_features(video_features, "video", name)
            elif video is not None:
                if self.video_input != "frames":
                    raise ValueError(f"{name}: this model takes video as {self.video_input}, not as frames.")
                seen = load_video(
                    video, num_frames=self.num_frames, fps=fps, max_seconds=self.max_clip_seconds, name=name
                )
                frames = seen.frames
                if self._image_processor is None:
                    frames = resize_frames(frames, (self.frame_height, self.frame_width))
                arrays["video"] = frames
        return arrays

    def _check_features(self, features: Any, modality: str, name: str) -> np.ndarray:
        expected_input = getattr(self, f"{modality}_input")
        if expected_input != "features":
            raise ValueError(f"{name}: this model takes {modality} as {expected_input}, not as features.")
        try:
            values = np.asarray(features, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: {modality}_features are no array of numbers (steps, width): {error}."
            ) from error
        width = getattr(self, f"{modality}_feature_size")
        if values.ndim != 2 or values.shape[0] == 0:
            raise ValueError(f"{name}: {modality}_features have shape {values.shape}; expected (steps >= 1, {width}).")
        if width is not None and values.shape[1] != width:
            raise ValueError(
                f"{name}: {modality}_features are {values.shape[1]} wide, but this model was trained on {width}. "
                "Use the same extractor, or train a model with that feature size."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {modality}_features hold NaN or infinite values. Replace them, e.g. by 0.")
        return values

    # ---- prompt ----------------------------------------------------------------------------------------------

    def _task(self, task: str | EGMFTask | None, sample: str = "the sample") -> EGMFTask:
        if isinstance(task, EGMFTask):
            if task.name not in self.task_objects or self.task_objects[task.name].to_dict() != task.to_dict():
                raise ValueError(f"Task {task.name!r} is not this processor's; add it with `add_task` first.")
            return task
        name = task if task is not None else next(iter(self.task_objects))
        if name not in self.task_objects:
            raise ValueError(f"{sample}: unknown task {name!r}. This processor has {', '.join(self.task_objects)}.")
        return self.task_objects[name]

    def add_task(self, task: EGMFTask | dict) -> None:
        """Add or replace a task; it is stored with the processor."""
        task = task if isinstance(task, EGMFTask) else EGMFTask.from_dict(task)
        self.task_objects[task.name] = task
        self._answer_ids.pop(task.name, None)

    def _tokens(self, text: str) -> list[int]:
        # Special tokens written out by a user are words, not commands.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _fixed_tokens(self, text: str) -> list[int]:
        """Tokens of the words that a task puts into every prompt, looked up once."""
        if text not in self._fixed:
            self._fixed[text] = self._tokens(text)
        return self._fixed[text]

    def _beginning(self) -> list[int]:
        """What the tokenizer puts in front of every text (bos, or [gMASK] sop), without what it puts behind."""
        bare, whole = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if starts else []

    def answer_token_ids(self, task: str | EGMFTask | None = None) -> list[list[int]]:
        """Token ids of every answer as the continuation of the task's prompt, in the order of the answers."""
        task = self._task(task)
        if task.name not in self._answer_ids:
            prompt = self._tokens(task.prompt)
            rows = []
            for answer in task.answers:
                whole = self._tokens(task.prompt + task.separator + answer)
                if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                    raise ValueError(
                        f"Task {task.name!r}: this tokenizer joins the end of the prompt with the answer {answer!r}. "
                        "Let the prompt end in a word or a sign that stands alone."
                    )
                rows.append(whole[len(prompt) :])
            if any(a != b and b[: len(a)] == a for a in rows for b in rows):
                rows = [[*row, self.tokenizer.eos_token_id] for row in rows]  # one answer begins another
            self._answer_ids[task.name] = rows
        return self._answer_ids[task.name]

    def _encode_prompt(
        self, text: str, context: Sequence | None, task: EGMFTask, answer: Any, name: str
    ) -> dict[str, Any]:
        """Token ids of one prompt, its masks, and with an answer its labels."""
        if context is not None and not isinstance(context, list | tuple):
            raise TypeError(f"{name}: context must be a list of turns, not {type(context).__name__}.")
        answers = self.answer_token_ids(task)
        continuation: list[int] = []
        if answer is not None:
            continuation = list(answers[task.index(answer, name)])
            if continuation[-1] != self.tokenizer.eos_token_id:
                continuation.append(self.tokenizer.eos_token_id)
        head = self._fixed_tokens(task.prefix) + [self.placeholder_token_id] * self.num_pseudo_tokens
        words = self._tokens(text) if text else []
        head += self._fixed_tokens(task.suffix) if text else []
        tail = self._fixed_tokens(task.prompt)
        begin = self._beginning()
        turns = [self._tokens(_turn(turn, name) + "\n") for turn in context or ()]
        longest_answer = max(len(row) for row in answers) + 1
        fixed = len(begin) + len(head) + len(tail) + longest_answer
        if fixed + bool(words) > self.max_length:
            raise ValueError(
                f"max_length {self.max_length} is too short for the task {task.name!r}, which needs {fixed} tokens "
                "without a transcript. Raise max_length."
            )
        while turns and fixed + len(words) + sum(map(len, turns)) > self.max_length:
            turns.pop(0)
        if fixed + len(words) > self.max_length:
            logger.warning(
                f"{name}: the transcript of {len(words)} tokens was shortened to its first "
                f"{self.max_length - fixed}, because max_length is {self.max_length}."
            )
            words = words[: self.max_length - fixed]
        before = begin + [token for turn in turns for token in turn] + head
        ids = before + words + tail
        attention = [1] * len(before) + [int(self.transcript_in_prompt)] * len(words) + [1] * len(tail)
        return {
            "input_ids": ids + continuation,
            "attention_mask": attention + [1] * len(continuation),
            "utterance_mask": [0] * len(before) + [1] * len(words) + [0] * (len(tail) + len(continuation)),
            "labels": [IGNORE_INDEX] * len(ids) + continuation if answer is not None else None,
            "answer_ids": answers,
            "task_id": list(self.task_objects).index(task.name),
        }

    # ---- media to tensors ------------------------------------------------------------------------------------

    def _encode_media(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, torch.Tensor]:
        encoded: dict[str, torch.Tensor] = {}
        if "audio" in arrays:
            values, steps, mask_length = torch.from_numpy(arrays["audio"]), None, None
            if self._extractor is not None:
                found = self._extractor(
                    arrays["audio"], sampling_rate=self.sampling_rate, return_attention_mask=True, return_tensors="pt"
                )
                values = found[self._extractor.model_input_names[0]][0].float()
                if "attention_mask" in found and found["attention_mask"].shape[-1] != len(values):
                    # An extractor that masks its own padding (Whisper): values of one fixed shape, time last.
                    steps, mask_length = int(found["attention_mask"].sum()), found["attention_mask"].shape[-1]
            encoded.update(audio_values=values, audio_steps=steps, audio_mask_length=mask_length)
        if "video" in arrays:
            frames = arrays["video"]
            if self._image_processor is not None:
                values = self._image_processor(list(frames), return_tensors="pt")["pixel_values"].float()
            else:
                values = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            encoded["video_values"], encoded["video_steps"] = values, None
        for modality in ("audio", "video"):
            if f"{modality}_features" in arrays:
                encoded[f"{modality}_values"] = torch.from_numpy(arrays[f"{modality}_features"])
                encoded[f"{modality}_steps"] = None
        return encoded

    def _collate(self, samples: list[dict[str, Any]], return_tensors: str) -> BatchFeature:
        longest = max(len(sample["input_ids"]) for sample in samples)
        fillers = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "utterance_mask": 0}
        if any(sample["labels"] is not None for sample in samples):
            if any(sample["labels"] is None for sample in samples):
                raise ValueError("Some samples of the batch have an answer and some have none; give all or none.")
            fillers["labels"] = IGNORE_INDEX
        data = {
            name: torch.tensor([[filler] * (longest - len(s[name])) + s[name] for s in samples])
            for name, filler in fillers.items()
        }
        for modality in ("audio", "video"):
            if any(f"{modality}_values" in sample for sample in samples):
                data[f"{modality}_values"], data[f"{modality}_mask"] = _pad_media(samples, modality)
        data["modality_mask"] = torch.tensor(
            [[any(s["utterance_mask"]), "audio_values" in s, "video_values" in s] for s in samples]
        )
        data["task_ids"] = torch.tensor([sample["task_id"] for sample in samples])
        if "labels" not in data:
            most = max(len(sample["answer_ids"]) for sample in samples)
            width = max(len(row) for sample in samples for row in sample["answer_ids"])
            answer_sets = {}
            for sample in samples:
                if sample["task_id"] not in answer_sets:
                    rows = [row + [-1] * (width - len(row)) for row in sample["answer_ids"]]
                    answer_sets[sample["task_id"]] = torch.tensor(rows + [[-1] * width] * (most - len(rows)))
            data["answer_ids"] = torch.stack([answer_sets[sample["task_id"]] for sample in samples])
        return BatchFeature(data, tensor_type=return_tensors)

    # ---- answers ---------------------------------------------------------------------------------------------

    def post_process_answers(
        self, output: Any, top_k: int | None = None, interval: float = 0.9, tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Turn the output of `model.score_answers` into one dict a sample.

        Args:
            output: `EGMFAnswerOutput`.
            top_k: keep only so many of the probabilities, the largest first; None for all, in the task's order.
            interval: share of the probability that a score's interval holds at least.
            tasks: names, one a sample, if the inputs' `task_ids` were not passed through.

        Returns:
            Classification: `label`, `score` (its probability), `probabilities`. Regression: `score` (the median,
            which minimises the expected absolute error), `mean`, `median`, `most_likely`, `interval` [low, high],
            `probabilities`. Both: `task`, `experts` (name -> weight), `residual`, `modalities` that took part.
        """
        if not 0 < interval < 1:
            raise ValueError(f"`interval` is {interval}; it must lie between 0 and 1.")
        names = list(self.task_objects)
        tasks = tasks if tasks is not None else [names[i] for i in output.task_ids.tolist()]
        results = []
        for i, name in enumerate(tasks):
            task = self._task(name)
            probabilities = output.probabilities[i, : task.num_answers].double().cpu().numpy()
            if task.kind == "classification":
                best = int(probabilities.argmax())
                result = {"label": list(task.labels)[best], "score": float(probabilities[best])}
                keys: list = list(task.labels)
            else:
                result = _summarise(np.array(task.values), probabilities, interval)
                keys = task.answers
            order = range(len(keys)) if top_k is None else np.argsort(-probabilities, kind="stable")[:top_k]
            result["probabilities"] = {keys[j]: float(probabilities[j]) for j in order}
            result["task"] = name
            result["experts"] = dict(zip(output.expert_names, output.expert_weights[i].tolist(), strict=True))
            result["residual"] = float(output.residual_weight[i])
            result["modalities"] = [
                m for m, there in zip(MODALITIES, output.modality_mask[i].tolist(), strict=True) if there
            ]
            results.append(result)
        return results

    def post_process_generation(
        self, generated_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        """Read what `model.generate(**inputs)` wrote: `text`, and `answer` (a label or a number), None if unreadable.

        `generate` may return the prompt in front of the new tokens or only these: the prompt is taken off where it
        is really there.
        """
        prompt = inputs["input_ids"].to(generated_ids.device)
        length = prompt.shape[1]
        if generated_ids.shape[1] >= length and torch.equal(generated_ids[:, :length], prompt):
            generated_ids = generated_ids[:, length:]
        names = list(self.task_objects)
        texts = self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
        tasks = [names[i] for i in inputs["task_ids"].tolist()]
        return [
            {"text": text, "answer": self.task_objects[task].parse(text), "task": task}
            for text, task in zip(texts, tasks, strict=True)
        ]


def _read_tasks(tasks: Mapping | Sequence) -> dict[str, EGMFTask]:
    """Tasks or their fields, as a list or by name -> tasks by name, in the same order."""
    if isinstance(tasks, Mapping):
        entries = [task if isinstance(task, EGMFTask) else {"name": name, **task} for name, task in tasks.items()]
    else:
        entries = list(tasks)
    found = [task if isinstance(task, EGMFTask) else EGMFTask.from_dict(task) for task in entries]
    names = [task.name for task in found]
    listed = list(tasks) if isinstance(tasks, Mapping) else names
    if not found:
        raise ValueError("`tasks` is empty; give at least one task, or None for the built-in ones.")
    if len(set(names)) != len(names) or names != listed:
        raise ValueError(f"Tasks {names} are listed under {listed}; each needs a name of its own, and that name.")
    return dict(zip(names, found, strict=True))


def _build_frontend(fields: dict | None, type_key: str) -> Any:
    """The feature extractor or image processor of a pretrained encoder, from its fields."""
    if fields is None:
        return None
    if type_key not in fields:
        raise ValueError(f"The front end has no {type_key!r}; give the to_dict() of a transformers processor.")
    frontend = getattr(transformers, fields[type_key], None)
    if frontend is None or not fields[type_key].endswith(("FeatureExtractor", "ImageProcessor", "ImageProcessorFast")):
        raise ValueError(f"{fields[type_key]!r} is no feature extractor or image processor of transformers.")
    return frontend(**{key: value for key, value in fields.items() if key != type_key})


def _turn(turn: Any, name: str) -> str:
    """One earlier turn as a line: words, or (speaker, words)."""
    if isinstance(turn, str):
        return turn
    if isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        return f"{turn[0]}: {turn[1]}"
    raise TypeError(f"{name}: a turn of the context must be words or (speaker, words), not {turn!r}.")


def _is_file(source: Any) -> bool:
    """Whether a video can have a sound track: anything but frames."""
    return source is not None and not isinstance(source, np.ndarray | torch.Tensor | list | tuple)


def _is_batch_of_audio(audio: Any) -> bool:
    if not isinstance(audio, list | tuple) or not len(audio):
        return isinstance(audio, list | tuple)
    return not isinstance(audio[0], int | float | np.number)


def _is_batch_of_video(video: Any) -> bool:
    if not isinstance(video, list | tuple) or not len(video):
        return isinstance(video, list | tuple)
    first = next((entry for entry in video if entry is not None), None)
    if isinstance(first, np.ndarray | torch.Tensor):
        return first.ndim == 4
    # A list of pictures is one video; anything else in a list is a video of its own.
    return first is None or isinstance(first, str | bytes | list | tuple | Mapping) or not hasattr(first, "convert")


def _is_batch_of_features(features: Any) -> bool:
    if isinstance(features, np.ndarray | torch.Tensor):
        return features.ndim == 3
    if not isinstance(features, list | tuple) or not len(features):
        return isinstance(features, list | tuple)
    first = next((entry for entry in features if entry is not None), None)
    return first is None or np.ndim(first) == 2


def _pad_media(samples: list[dict[str, Any]], modality: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad along time: values (B, T, ...) and mask (B, T), all zero where the sample has none."""
    present = [sample[f"{modality}_values"] for sample in samples if f"{modality}_values" in sample]
    fixed = next((n for sample in samples if (n := sample.get(f"{modality}_mask_length")) is not None), None)
    longest = max(len(values) for values in present)
    values = present[0].new_zeros(len(samples), longest, *present[0].shape[1:])
    mask = torch.zeros(len(samples), fixed or longest, dtype=torch.bool)
    for i, sample in enumerate(samples):
        if f"{modality}_values" in sample:
            value, step = sample[f"{modality}_values"], sample[f"{modality}_steps"]
            values[i, : len(value)] = value
            mask[i, : step if step is not None else len(value)] = True
    return values, mask


def _summarise(values: np.ndarray, probabilities: np.ndarray, interval: float) -> dict[str, Any]:
    """values (A,) ascending with probabilities (A,) -> mean, median, most likely value and a central interval."""
    cumulative = np.cumsum(probabilities) / probabilities.sum()

    def quantile(share: float) -> float:
        return float(values[min(int(np.searchsorted(cumulative, share - 1e-9)), len(values) - 1)])

    median = quantile(0.5)
    return {
        "score": median,
        "mean": float((values * probabilities).sum() / probabilities.sum()),
        "median": median,
        "most_likely": float(values[int(probabilities.argmax())]),
        "interval": [quantile((1 - interval) / 2), quantile((1 + interval) / 2)],
    }
