"""EGMFProcessor: a clip, its words and a question in; tensors out; and distributions back into answers.

    text ─────────────► [context] prefix <|egmf|> x P suffix transcript prompt [answer] ──► input_ids, masks, labels
    audio, video ─────► decode, resample, sample frames (media_egmf.py) ─────────────────► values, masks
    model.score_answers(**inputs) ──► post_process_answers ──► label, score, probabilities, experts, modalities

Prompt and answer are tokenized apart and joined, so that the loss mask is exact. All samples come through here.
"""

# B batch  S prompt tokens  P pseudo tokens  A answers  L tokens of an answer  M modalities (text, audio, video)

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import logging

from .media_egmf import load_audio, load_video, resize_frames
from .tasks_egmf import BUILT_IN_TASKS, EGMFAnswer, EGMFTask


if TYPE_CHECKING:  # not used here, but so it is carried along wherever the processor is saved
    from .pipeline_egmf import EGMFPipeline  # noqa: F401

logger = logging.get_logger(__name__)

MODALITIES = ("text", "audio", "video")
MEDIA_INPUTS = ("audio_values", "audio_mask", "video_values", "video_mask")
PROMPT_INPUTS = ("input_ids", "attention_mask", "utterance_mask")
IGNORE_INDEX = -100


class EGMFProcessor(ProcessorMixin):
    """Turns text, audio and video into what `EGMFForConditionalGeneration` takes, one sample or a batch.

    Args:
        tokenizer: the language model's tokenizer; `placeholder_token` is added to it.
        tasks: `EGMFTask`s or their fields, as a list or by name; None for the built-in ones. The first is the default.
        num_pseudo_tokens: P, slots in the prompt; as in the model's configuration.
        audio_input: `"waveform"`, `"features"`, or None for a model without audio.
        video_input: `"frames"`, `"features"`, or None for a model without video.
        audio_feature_size, video_feature_size: width of precomputed features.
        sampling_rate: Hz of the audio given to the model.
        audio_frontend, video_frontend: fields of the pretrained encoder's feature extractor or image processor (its
            `to_dict()`), or None.
        num_frames: how many frames of a clip are looked at, spread evenly over it.
        frame_height, frame_width: pixels, after a center crop to their aspect ratio.
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
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__", "tokenizer", "tasks")}
        for name, raw in (("audio_input", "waveform"), ("video_input", "frames")):
            if settings[name] not in (raw, "features", None):
                raise ValueError(f"`{name}` is {settings[name]!r}; use {raw!r}, 'features' or None.")
        if tokenizer.convert_tokens_to_ids(placeholder_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_special_tokens({"additional_special_tokens": [placeholder_token]})
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        vars(self).update(settings)
        self.task_objects = _read_tasks(tasks if tasks is not None else BUILT_IN_TASKS)
        self._extractor = _build_frontend(audio_frontend, "feature_extractor_type")
        self._image_processor = _build_frontend(video_frontend, "image_processor_type")
        self._answer_ids: dict[str, list[list[int]]] = {}
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
        return [*PROMPT_INPUTS, *MEDIA_INPUTS, "modality_mask", "answer_ids", "task_ids"]

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        audio: Any = None,
        video: Any = None,
        *,
        context: Sequence | None = None,
        sample_names: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **others: Any,
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
        given = {"text": text, "audio": audio, "video": video, "name": sample_names, **others}
        columns = {name: (value, _is_batch(name, value)) for name, value in given.items()}
        # A list of turns is one context where there is one sample, and one context each where there are several.
        several = any(is_batch for _, is_batch in columns.values())
        columns["context"] = (context, several and isinstance(context, list | tuple))
        lengths = {name: len(value) for name, (value, is_batch) in columns.items() if is_batch}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The lists are of different lengths: {lengths}. One entry a sample; None if missing.")
        size = next(iter(lengths.values()), 1)
        if size == 0:
            raise ValueError("The batch is empty; give at least one sample.")
        inputs = {*MODALITIES, "audio_features", "video_features"} & set(given)
        if shared := [n for n in inputs if size > 1 and not columns[n][1] and columns[n][0] is not None]:
            raise ValueError(f"{', '.join(shared)} is one value but the batch has {size} samples; give a list.")
        samples = [{name: value[i] if many else value for name, (value, many) in columns.items()} for i in range(size)]
        named = [
            self.prepare(**{**sample, "name": sample["name"] or f"sample {i}"}) for i, sample in enumerate(samples)
        ]
        return self.collate(named, return_tensors)

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
        """One sample as unpadded arrays: what `collate` pads and stacks."""
        wanted = MODALITIES if modalities is None else modalities
        if not isinstance(wanted, list | tuple):
            raise TypeError(f"{name}: modalities must be a list of {', '.join(MODALITIES)}, not {wanted!r}.")
        if unknown := [modality for modality in wanted if modality not in MODALITIES]:
            raise ValueError(f"{name}: unknown modality {unknown[0]!r}; use any of {', '.join(MODALITIES)}.")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name}: text must be a string or None, not {type(text).__name__}.")
        text = text.strip() if text is not None and "text" in wanted else ""
        arrays = self.load_media(name=name, modalities=wanted, **media)
        if not text and not arrays:
            among = f" among the wanted modalities {list(wanted)}" if modalities is not None else ""
            remedy = "Give at least one of text, audio, video, audio_features, video_features."
            raise ValueError(f"{name} has neither text nor audio nor video{among}. {remedy}")
        prompt = self.encode_prompt(text, context, self._task(task, name), answer, name)
        return {"name": name, **prompt, **self.encode_media(arrays)}

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
        has_track = video is not None and not isinstance(video, np.ndarray | torch.Tensor | list | tuple)
        if "audio" in modalities and audio_features is not None:
            arrays["audio_features"] = self._check_features(audio_features, "audio", name)
        elif "audio" in modalities and (audio is not None or (self.audio_input == "waveform" and has_track)):
            self._check_kind("audio", "waveform", name)
            source, rate = (audio, sampling_rate) if audio is not None else (video, None)
            heard = load_audio(source, rate, self.sampling_rate, self.max_clip_seconds, name, missing_ok=audio is None)
            if heard is not None:
                arrays["audio"] = heard
        if "video" in modalities and video_features is not None:
            arrays["video_features"] = self._check_features(video_features, "video", name)
        elif "video" in modalities and video is not None:
            self._check_kind("video", "frames", name)
            frames = load_video(video, self.num_frames, fps, self.max_clip_seconds, name)
            size = (self.frame_height, self.frame_width)
            arrays["video"] = resize_frames(frames, size) if self._image_processor is None else frames
        return arrays

    def _check_kind(self, modality: str, kind: str, name: str) -> None:
        taken = getattr(self, f"{modality}_input")
        if taken != kind:
            raise ValueError(f"{name}: this model takes {modality} as {taken}, not as {kind}.")

    def _check_features(self, features: Any, modality: str, name: str) -> np.ndarray:
        self._check_kind(modality, "features", name)
        what, width = f"{name}: {modality}_features", getattr(self, f"{modality}_feature_size")
        try:
            values = np.asarray(features, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} are no array of numbers (steps, width): {error}.") from error
        if values.ndim != 2 or values.shape[0] == 0:
            raise ValueError(f"{what} have shape {values.shape}; expected (steps >= 1, {width}).")
        if values.shape[1] != (width or values.shape[1]):
            said = f"{what} are {values.shape[1]} wide, but this model was trained on {width}"
            raise ValueError(f"{said}. Use the same extractor, or train a model with that feature size.")
        if not np.isfinite(values).all():
            raise ValueError(f"{what} hold NaN or infinite values. Replace them, e.g. by 0.")
        return values

    def _task(self, task: str | EGMFTask | None, sample: str = "the sample") -> EGMFTask:
        if isinstance(task, EGMFTask):
            if task != self.task_objects.get(task.name):
                raise ValueError(f"Task {task.name!r} is not this processor's; add it with `add_task` first.")
            return task
        name = task if task is not None else next(iter(self.task_objects))
        if not isinstance(name, str) or name not in self.task_objects:
            raise ValueError(f"{sample}: unknown task {name!r}. This processor has {', '.join(self.task_objects)}.")
        return self.task_objects[name]

    def add_task(self, task: EGMFTask | dict) -> None:
        """Add or replace a task; it is stored with the processor."""
        task = task if isinstance(task, EGMFTask) else EGMFTask.from_dict(task)
        self.task_objects[task.name] = task
        self._answer_ids.pop(task.name, None)

    def _tokens(self, text: str, name: str = "the task") -> list[int]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{name}: the text holds half a character, a lone surrogate. Decode it as UTF-8 again.")
        # Special tokens written out by a user are words, not commands.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _beginning(self) -> list[int]:
        """What the tokenizer puts in front of every text (bos, or [gMASK] sop), without what it puts behind."""
        bare, whole = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if starts else []

    def answer_token_ids(self, task: str | EGMFTask | None = None) -> list[list[int]]:
        """Token ids of every answer as the continuation of the task's prompt, in the order of the answers."""
        task = self._task(task)
        if task.name not in self._answer_ids:
            prompt, rows = self._tokens(task.prompt), []
            for answer in task.answers:
                whole = self._tokens(task.prompt + task.separator + answer)
                if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                    said = f"Task {task.name!r}: this tokenizer joins the end of the prompt with the answer {answer!r}"
                    raise ValueError(f"{said}. Let the prompt end in a word or a sign that stands alone.")
                rows.append(whole[len(prompt) :])
            if any(a != b and b[: len(a)] == a for a in rows for b in rows):
                rows = [[*row, self.tokenizer.eos_token_id] for row in rows]  # one answer begins another
            self._answer_ids[task.name] = rows
        return self._answer_ids[task.name]

    def encode_prompt(self, text: str, context: Any, task: EGMFTask, answer: Any, name: str) -> dict[str, Any]:
        """Token ids of one prompt, its masks, and with an answer its labels."""
        if context is not None and not isinstance(context, list | tuple):
            raise TypeError(f"{name}: context must be a list of turns, not {type(context).__name__}.")
        answers, end = self.answer_token_ids(task), self.tokenizer.eos_token_id
        said = list(answers[task.index(answer, name)]) if answer is not None else []
        said += [end] if said and said[-1] != end else []
        head = self._tokens(task.prefix) + [self.placeholder_token_id] * self.num_pseudo_tokens
        words = self._tokens(text, name) if text else []
        head += self._tokens(task.suffix) if text else []
        begin, tail = self._beginning(), self._tokens(task.prompt)
        turns = [self._tokens(_turn(turn, name) + "\n", name) for turn in context or ()]
        fixed = len(begin) + len(head) + len(tail) + max(map(len, answers)) + 1
        if fixed + bool(words) > self.max_length:
            short = f"max_length {self.max_length} is too short for the task {task.name!r}, which needs {fixed} tokens"
            raise ValueError(f"{name}: {short} without a transcript. Raise max_length.")
        while turns and fixed + len(words) + sum(map(len, turns)) > self.max_length:
            turns.pop(0)
        if len(turns) < len(context or ()):
            lost = f"of {len(context)} turns of context the oldest {len(context) - len(turns)} were left out"
            logger.warning(f"{name}: {lost}, because max_length is {self.max_length}.")
        room = self.max_length - fixed
        if len(words) > room:
            lost = f"the transcript of {len(words)} tokens was shortened to its first {room}"
            logger.warning(f"{name}: {lost}, because max_length is {self.max_length}.")
        words = words[:room]
        before = begin + [token for turn in turns for token in turn] + head
        ids = before + words + tail
        spoken = [0] * len(before) + [1] * len(words) + [0] * (len(tail) + len(said))
        return {
            "input_ids": ids + said,
            "attention_mask": [int(self.transcript_in_prompt or not there) for there in spoken],
            "utterance_mask": spoken,
            "labels": [IGNORE_INDEX] * len(ids) + said if answer is not None else None,
            "answer_ids": answers,
            "task_id": list(self.task_objects).index(task.name),
        }

    def encode_media(self, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        found = {f"{name.removesuffix('_features')}_values": torch.from_numpy(a) for name, a in arrays.items()}
        if "audio" in arrays and self._extractor is not None:
            options = {"return_attention_mask": True, "return_tensors": "pt"}
            heard = self._extractor(arrays["audio"], sampling_rate=self.sampling_rate, **options)
            found["audio_values"] = heard[self._extractor.model_input_names[0]][0].float()
            if "attention_mask" in heard and heard["attention_mask"].shape[-1] != len(found["audio_values"]):
                # An extractor that masks its own padding (Whisper): values of one fixed shape, time last.
                found["audio_mask"] = heard["attention_mask"][0].bool()
        if "video" in arrays and self._image_processor is not None:
            seen = self._image_processor(list(arrays["video"]), return_tensors="pt")
            found["video_values"] = seen["pixel_values"].float()
        elif "video" in arrays:
            found["video_values"] = found["video_values"].permute(0, 3, 1, 2).float() / 127.5 - 1.0
        masks = {name.replace("values", "mask"): torch.ones(len(v), dtype=torch.bool) for name, v in found.items()}
        return {**masks, **found}

    def collate(self, samples: list[dict[str, Any]], return_tensors: str = "pt") -> BatchFeature:
        """Samples as `prepare` makes them -> one batch: prompts padded on the left, media on the right."""
        longest = max(len(sample["input_ids"]) for sample in samples)
        fillers = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "utterance_mask": 0}
        unanswered = [sample["name"] for sample in samples if sample["labels"] is None]
        if unanswered and len(unanswered) < len(samples):
            said = "Some samples of the batch have an answer and some have none; give all or none. Without one"
            raise ValueError(f"{said}: {', '.join(unanswered[:5])} ({len(unanswered)}).")
        if not unanswered:
            fillers["labels"] = IGNORE_INDEX
        data = {}
        for name, filler in fillers.items():
            data[name] = torch.tensor([[filler] * (longest - len(s[name])) + s[name] for s in samples])
        for name in MEDIA_INPUTS:
            shapes = {sample["name"]: tuple(sample[name].shape[1:]) for sample in samples if name in sample}
            if len(set(shapes.values())) > 1:
                raise ValueError(f"`{name}` do not fit into one batch, {shapes}. Give one size, or one sample.")
            present = [sample[name] for sample in samples if name in sample]
            if present:  # all zero where a sample has none
                data[name] = pad_sequence([sample.get(name, present[0][:0]) for sample in samples], batch_first=True)
        there = [[any(s["utterance_mask"]), "audio_values" in s, "video_values" in s] for s in samples]
        data["modality_mask"] = torch.tensor(there)
        data["task_ids"] = torch.tensor([sample["task_id"] for sample in samples])
        if unanswered:
            sets = {sample["task_id"]: sample["answer_ids"] for sample in samples}
            most, width = max(map(len, sets.values())), max(len(row) for rows in sets.values() for row in rows)
            for task_id, rows in sets.items():
                padded = [row + [-1] * (width - len(row)) for row in rows] + [[-1] * width] * (most - len(rows))
                sets[task_id] = torch.tensor(padded)
            data["answer_ids"] = torch.stack([sets[sample["task_id"]] for sample in samples])
        return BatchFeature(data, tensor_type=return_tensors)

    def post_process_answers(
        self, output: Any, top_k: int | None = None, interval: float = 0.9, tasks: Sequence[str] | None = None
    ) -> list[EGMFAnswer]:
        """Turn the output of `model.score_answers` into labels and scores, one `EGMFAnswer` a sample.

        Args:
            output: `EGMFAnswerOutput`.
            top_k: keep only so many of the probabilities, the largest first; None for all, in the task's order.
            interval: share of the probability that a score's interval holds at least.
            tasks: names, one a sample, if the inputs' `task_ids` were not passed through.
        """
        if not isinstance(interval, int | float | np.number) or not 0 < interval < 1:
            raise ValueError(f"`interval` is {interval!r}; it must be a number between 0 and 1.")
        if top_k is not None and not (isinstance(top_k, int | np.integer) and top_k >= 1):
            raise ValueError(f"`top_k` is {top_k!r}; give a whole number, at least 1, or None for all.")
        names = list(self.task_objects)
        results = []
        for i, name in enumerate(tasks if tasks is not None else [names[i] for i in output.task_ids.tolist()]):
            task = self._task(name)
            probabilities = output.probabilities[i, : task.num_answers].double().cpu().numpy()
            if task.kind == "classification":
                keys, best = list(task.labels), int(probabilities.argmax())
                result = EGMFAnswer(label=keys[best], score=float(probabilities[best]))
            else:
                keys, result = task.answers, _summarize(np.array(task.values), probabilities, interval)
            order = range(len(keys)) if top_k is None else np.argsort(-probabilities, kind="stable")[:top_k]
            result["probabilities"] = {keys[j]: float(probabilities[j]) for j in order}
            experts = dict(zip(output.expert_names, output.expert_weights[i].tolist(), strict=True))
            result |= {"task": name, "expert": max(experts, key=experts.get), "experts": experts}
            result["residual"] = float(output.residual_weight[i])
            result["modalities"] = [MODALITIES[place] for place in output.modality_mask[i].nonzero()]
            results.append(result)
        return results

    def post_process_generation(
        self, generated_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        """Read what `model.generate(**inputs)` wrote: `text`, and `answer` (a label or a number), None if unreadable.

        The prompt is taken off where `generate` put it in front. With `num_return_sequences`, the answers to each
        sample follow one another.
        """
        copies = max(len(generated_ids) // len(inputs["task_ids"]), 1)
        prompt = inputs["input_ids"].to(generated_ids.device).repeat_interleave(copies, dim=0)
        if torch.equal(generated_ids[:, : prompt.shape[1]], prompt):
            generated_ids = generated_ids[:, prompt.shape[1] :]
        texts, tasks = self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True), list(self.task_objects)
        asked = [self.task_objects[tasks[i]] for i in inputs["task_ids"].tolist() for _ in range(copies)]
        return [{"text": t, "answer": task.parse(t), "task": task.name} for t, task in zip(texts, asked, strict=True)]


def _read_tasks(tasks: Mapping | Sequence) -> dict[str, EGMFTask]:
    """Tasks or their fields, as a list or by name -> tasks by name, in the same order."""
    found = {}
    for key, task in tasks.items() if isinstance(tasks, Mapping) else ((None, task) for task in tasks):
        task = task if isinstance(task, EGMFTask) else EGMFTask.from_dict(task, key)
        if task.name in found or key not in (None, task.name):
            raise ValueError(f"Task {task.name!r} is there twice, or under {key!r}; each needs a name of its own.")
        found[task.name] = task
    if not found:
        raise ValueError("`tasks` is empty; give at least one task, or None for the built-in ones.")
    return found


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


def _is_batch(name: str, value: Any) -> bool:
    """Whether an argument holds one entry a sample, or is one sample's own."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return name == "answer" or (name.endswith("_features") and value.ndim == 3)
    if not isinstance(value, list | tuple) or not value:
        return isinstance(value, list | tuple) and name != "modalities"
    if name in ("audio", "modalities"):
        return not isinstance(value[0], int | float | np.number if name == "audio" else str)
    first = next((entry for entry in value if entry is not None), None)
    if name == "video":  # a list of pictures is one video; anything else in a list is a video of its own
        return first.ndim == 4 if isinstance(first, np.ndarray | torch.Tensor) else not hasattr(first, "convert")
    return not name.endswith("_features") or first is None or np.ndim(first) == 2


def _summarize(values: np.ndarray, probabilities: np.ndarray, interval: float) -> EGMFAnswer:
    """values (A,) ascending with probabilities (A,) -> mean, median, most likely value and a central interval."""
    cumulative = np.cumsum(probabilities) / probabilities.sum()
    shares = np.array([0.5, (1 - interval) / 2, (1 + interval) / 2])
    places = np.minimum(np.searchsorted(cumulative, shares - 1e-9), len(values) - 1)
    median, low, high = values[places].tolist()
    mean, likely = float((values * probabilities).sum() / probabilities.sum()), float(values[probabilities.argmax()])
    return EGMFAnswer(score=median, mean=mean, median=median, most_likely=likely, interval=[low, high])
