"""Tasks: a question about a person, the closed set of its answers, and how answers are written and parsed.

A task holds the text around the pseudo tokens and the transcript, which prompts_egmf.py turns into tokens:

    prefix <|egmf|> x P suffix transcript prompt ─► separator answer

`EGMFProcessor.post_process_answers` (processing_egmf.py) turns a distribution over the answers into an `EGMFAnswer`.
"""

# A answers of a task

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypedDict

import numpy as np
import torch

from .arguments_egmf import check_choice, errors_named, has_half_character, is_number, refuse_unknown, shorten


MAX_ANSWERS = 1001
# Minimum probability that the interval of a number covers.
INTERVAL = 0.9
# Tasks of calls that a processor remembers.
MAX_CALL_TASKS = 1000
MAX_NUMBER = 1e9  # of a scale
SMALLEST_STEP = 1e-6
NEGATION = re.compile(r"\b(?:not|no|never|without)\b|n't|n\u2019t|[不没非无]", re.IGNORECASE)
# A number that is not part of something longer, such as 1/2, 3:1, 2nd or 1.2.3.
NUMBER = re.compile(r"\s*[-+\u2212]?\d+(?:[.,]\d+)?(?![\w/:.,]*\w)")


class EGMFAnswer(TypedDict, total=False):
    """The answer for one clip, in plain JSON types."""

    # Classification: the most probable label.
    label: str
    # Classification: its probability.
    score: float
    # Regression, as all fields to `interval`, in the units of the task's scale: the median, which minimizes the
    # expected absolute error.
    value: float
    median: float
    mean: float
    most_likely: float
    # [low, high], the central part of the distribution.
    interval: list[float]
    # Of all answers in the task's order, of `labels`, or of the `top_k` most probable.
    probabilities: dict[str, float]
    task: str
    # The expert with the largest weight.
    expert: str
    # Weight of each expert; they sum to 1.
    experts: dict[str, float]
    # Share of the fused vector that bypassed the experts, in (0, 1).
    residual: float
    # What the answer is based on: text (a transcript or earlier turns), audio and video.
    modalities: list[str]
    # With frames="face": share of the clip's frames in which the face was found; 0 if the whole frames were used.
    face_share: float
    # Of a pipeline with on_error="skip": why there is no answer; then it is the only key.
    error: str


@dataclass
class EGMFTask:
    """A question with a closed set of answers: labels (classification) or the numbers of a scale (regression).

    Args:
        name: the task's name, as in `processor(..., task=name)`.
        kind: `"classification"` or `"regression"`.
        labels: classification: label -> the words that express it as an answer, in the order of the answers. A list
            of labels or of (label, words) pairs is also accepted.
        low, high, step: regression: the scale low, low + step, ..., high, in the units of the corpus.
        prefix: text before the pseudo tokens.
        suffix: text between the pseudo tokens and the transcript.
        prompt: text after the transcript, up to the answer; it must not end in a space.
        separator: text between prompt and answer: a space, or nothing in Chinese.
        prompt_format: `"plain"`, or `"chat"` to wrap all of this in the chat template of the language model's
            tokenizer, as a message of the user. The answer then begins the reply, without the separator.
        calibration: for `calibrated=True`, by what an answer is based on:
            `{"text+audio": {"temperature": 1.4, "uniform_weight": 0.05, "exponent": 1.6}, ...}`. How far each
            log-probability is below the highest is divided by the temperature and raised to the exponent, 1 if it is
            left out; then equal probabilities get the weight, from 0 to below 1. A number is a temperature alone.

    Raises:
        ValueError: the fields contradict one another.
    """

    name: str
    kind: str
    labels: dict[str, str] | list = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    step: float = 0.1
    prefix: str = "Voice and face:"
    suffix: str = "\nWords:\n"
    prompt: str = ""
    separator: str = " "
    prompt_format: str = "plain"
    # Measured, not part of the question.
    calibration: dict[str, dict[str, float]] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        with errors_named(f"Task {shorten(self.name)}"):
            self._check()

    def _check(self) -> None:
        """Check the fields, and bring the labels into the form label -> words."""
        check_choice("kind", self.kind, ("classification", "regression"))
        check_choice("prompt_format", self.prompt_format, ("plain", "chat"))
        # YAML reads `yes` as true and `1` as a number.
        for task_field in fields(self):
            value = getattr(self, task_field.name)
            if task_field.type is str and not isinstance(value, str):
                raise ValueError(f"{task_field.name} is {shorten(value)}; give text, in quotes.")
            if task_field.type is str:
                _check_characters(value)
            if task_field.type is float and not (is_number(value) and abs(value) <= MAX_NUMBER):
                between = f"{-MAX_NUMBER:g} and {MAX_NUMBER:g}"
                raise ValueError(f"{task_field.name} is {shorten(value)}; give a number between {between}.")
        if isinstance(self.calibration, dict):
            self.calibration = {name: _read_calibration(entry) for name, entry in self.calibration.items()}
        entries = self.calibration.values() if isinstance(self.calibration, dict) else [None]
        if not all(map(_is_calibration, entries)):
            raise ValueError(
                f"calibration is {shorten(self.calibration)}; give a positive `temperature`, a `uniform_weight` "
                "from 0 to below 1 and, if wanted, a positive `exponent` for each combination of modalities."
            )
        self.labels = _read_labels({} if self.labels is None else self.labels)
        if self.kind == "classification":
            self._check_labels()
        else:
            self._check_scale()
        if self.num_answers > MAX_ANSWERS:
            raise ValueError(
                f"it has {self.num_answers} answers; at most {MAX_ANSWERS} are supported. "
                "Raise `step`, or remove labels."
            )
        if not self.prompt or self.prompt.endswith(" "):
            raise ValueError(
                f"`prompt` must not be empty or end in a space; it is {shorten(self.prompt)}. "
                "Put spaces into `separator`."
            )

    def _check_labels(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"a classification needs at least two labels; got {shorten({**self.labels})}.")
        words = set(map(_normalize, self.labels.values()))
        if "" in words or len(words) < len(self.labels):
            raise ValueError(f"every label needs words of its own; got {shorten({**self.labels})}.")

    def _check_scale(self) -> None:
        if self.labels:
            raise ValueError("a regression has a scale, not labels. Remove `labels`.")
        if not (self.step > 0 and self.high > self.low):
            given = f"low={self.low}, high={self.high}, step={self.step}"
            raise ValueError(f"a scale needs low < high and step > 0; got {given}.")
        for number in (self.low, self.step):
            if abs(number / SMALLEST_STEP - round(number / SMALLEST_STEP)) > 1e-3:
                raise ValueError(f"{number} has more than six decimals. Round `low` and `step`.")
        num_steps = (self.high - self.low) / self.step
        if abs(num_steps - round(num_steps)) > 1e-6:
            raise ValueError(f"steps of {self.step} from {self.low} do not reach {self.high}.")

    @classmethod
    def from_dict(cls, values: Any, name: str | None = None) -> "EGMFTask":
        """A task from YAML or processor_config.json, or a copy of one.

        Args:
            values: the fields, or a task, also of another copy of this code (the installed one, a checkpoint's).
                Unknown keys are errors.
            name: the task's name if `values` has none.
        """
        if is_dataclass(values) and not isinstance(values, type):
            values = asdict(values)
        if not isinstance(values, dict):
            raise ValueError(f"A task is a dict of fields (kind, labels, prompt, ...), not {shorten(values)}.")
        values = {"name": name, "kind": None, **values}
        known = [task_field.name for task_field in fields(cls)]
        refuse_unknown(values, known, f"Task {shorten(values['name'])} has unknown keys", ValueError)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields; labels as a list of pairs, because JSON files are saved with sorted keys."""
        return {**asdict(self), "labels": [list(pair) for pair in self.labels.items()]}

    @property
    def decimals(self) -> int:
        """Number of decimals that the values of the scale need."""
        return max(len(f"{number:.6f}".rstrip("0").split(".")[1]) for number in (self.step, self.low))

    @property
    def num_answers(self) -> int:
        if self.kind == "classification":
            return len(self.labels)
        return round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> list[float]:
        """The numbers of a regression's scale, ascending."""
        # + 0.0 turns -0.0 into 0.0.
        return [round(self.low + i * self.step, self.decimals) + 0.0 for i in range(self.num_answers)]

    @property
    def answers(self) -> list[str]:
        """Every answer as it is written after the prompt, in the order of the probabilities."""
        if self.kind == "classification":
            return list(self.labels.values())
        return [f"{value:.{self.decimals}f}" for value in self.values]

    @property
    def answer_keys(self) -> list[str]:
        """The keys of `EGMFAnswer.probabilities`: labels, or the numbers of the scale as text."""
        return list(self.labels) if self.kind == "classification" else self.answers

    def index(self, answer: Any) -> int:
        """Index of a true answer among `answers`.

        Args:
            answer: a label, or a number, which is rounded to the nearest step of the scale.

        Raises:
            ValueError: an unknown label, not a number, or a number outside the scale.
        """
        if self.kind == "classification":
            refuse_unknown([answer], self.labels, f"unknown label for task {self.name!r}:", ValueError)
            return list(self.labels).index(str(answer))
        number = _plain_number(answer)
        if number is None:
            raise ValueError(f"task {self.name!r} needs a number as its answer, not {shorten(answer)}.")
        if not self.low - self.step / 2 <= number <= self.high + self.step / 2:
            scale = f"[{self.low}, {self.high}] of task {self.name!r}"
            raise ValueError(f"score {shorten(number)} is outside the range {scale}.")
        nearest = round((number - self.low) / self.step)
        return min(max(nearest, 0), self.num_answers - 1)

    def choose_labels(self, labels: Any) -> list[int]:
        """Indices of some of the labels, in the order given.

        Raises:
            ValueError: the task is a regression; not a list; unknown or repeated labels, or fewer than two.
        """
        if self.kind == "regression":
            raise ValueError(f"`labels` are given, but task {self.name!r} is a regression. Leave `labels` out.")
        chosen = labels if isinstance(labels, list | tuple) else []
        refuse_unknown(chosen, self.labels, f"`labels` that task {self.name!r} does not have:", ValueError)
        if len({*chosen}) < max(len(chosen), 2):
            raise ValueError(f"`labels` is {shorten(labels)}; give a list of at least two labels, each once.")
        return [self.answer_keys.index(label) for label in labels]

    def find_calibration(self, modalities: Sequence[str]) -> dict[str, float]:
        """`temperature`, `uniform_weight` and `exponent` of answers that are based on these modalities.

        Raises:
            ValueError: they were not measured.
        """
        name = "+".join(modalities)
        if name not in self.calibration:
            known = ", ".join(self.calibration) or "none"
            raise ValueError(
                f"Task {self.name!r} is not calibrated for {name} (calibrated: {known}). "
                "Measure it with `egmf calibrate`, or leave `calibrated` out."
            )
        return self.calibration[name]

    def parse(self, text: str) -> str | float | None:
        """Read generated text as a label or as a number of the scale.

        Returns:
            The label whose words begin the text, or the only label whose words occur in a text without a negation; the
            number that begins the text; None if the text contains no answer.
        """
        if self.kind == "regression":
            match = NUMBER.match(text)
            if match is None:
                return None
            number = float(match.group().replace("\u2212", "-").replace(",", "."))
            return number + 0.0 if self.low <= number <= self.high else None
        text_words = f" {_normalize(text)} "
        words = {label: _normalize(label_words) for label, label_words in self.labels.items()}
        # Words end at the boundary of a word, except in Chinese.
        words = {label: f" {own} " if own.isascii() else own for label, own in words.items()}
        leading = [label for label, own in words.items() if text_words.lstrip().startswith(own.lstrip())]
        if leading:
            return max(leading, key=lambda label: len(words[label]))
        contained = [label for label, own in words.items() if own in text_words]
        return contained[0] if len(contained) == 1 and not NEGATION.search(text) else None

    def summarize(
        self,
        probabilities: np.ndarray,
        interval: float = INTERVAL,
        top_k: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> EGMFAnswer:
        """Summarize a distribution over the answers.

        Args:
            probabilities: (A,) float64; of `labels` only, if they are given.
            interval: minimum probability that the interval of a number covers, in (0, 1).
            top_k: keep only this many probabilities, the largest first; None for all, in their order.
            labels: a choice of the labels; None for all.

        Returns:
            The fields of `EGMFAnswer` from `label` to `probabilities`.
        """
        keys = self.answer_keys if labels is None else labels
        if self.kind == "classification":
            best = int(probabilities.argmax())
            answer = EGMFAnswer(label=keys[best], score=float(probabilities[best]))
        else:
            answer = self._summarize_scale(probabilities, interval)
        shown = range(len(keys))
        if top_k is not None:
            shown = np.argsort(-probabilities, kind="stable")[:top_k]
        answer["probabilities"] = {keys[i]: float(probabilities[i]) for i in shown}
        return answer

    def _summarize_scale(self, probabilities: np.ndarray, interval: float) -> EGMFAnswer:
        """Mean, median, most likely value and central interval of probabilities (A,) over the scale."""
        values = np.array(self.values)
        shares = (0.5, (1 - interval) / 2, (1 + interval) / 2)
        median, low, high = [float(values[quantile_index(probabilities, share)]) for share in shares]
        return EGMFAnswer(
            value=median,
            median=median,
            mean=float((values * probabilities).sum() / probabilities.sum()),
            most_likely=float(values[probabilities.argmax()]),
            interval=[low, high],
        )


def quantile_index(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Index of the first answer at which the cumulative probability reaches a share; 0.5 for the median.

    Args:
        probabilities: (..., A), with any positive sum.
        share: of that sum, in (0, 1).

    Returns:
        (...) indices.
    """
    cumulative = np.cumsum(probabilities, axis=-1) / probabilities.sum(axis=-1, keepdims=True)
    return np.minimum((cumulative < share - 1e-9).sum(axis=-1), probabilities.shape[-1] - 1)


def read_tasks(tasks: Mapping | Sequence) -> dict[str, EGMFTask]:
    """Tasks or their fields, as a list or by name -> tasks by name, in the same order."""
    if isinstance(tasks, str) or not isinstance(tasks, Mapping | Sequence):
        raise TypeError(f"`tasks` is {shorten(tasks)}; give a list of tasks, or a dict of tasks by name.")
    entries = tasks.items() if isinstance(tasks, Mapping) else [(None, task) for task in tasks]
    named = {}
    for key, task in entries:
        task = EGMFTask.from_dict(task, key)
        if task.name in named:
            raise ValueError(f"Two tasks are called {task.name!r}; give each a unique name.")
        if key not in (None, task.name):
            raise ValueError(f"Task {task.name!r} is given under the name {key!r}; use its own name.")
        named[task.name] = task
    if not named:
        raise ValueError("`tasks` is empty; give at least one task, or None for the built-in ones.")
    return named


def find_task(task: Any, tasks: dict[str, EGMFTask]) -> EGMFTask:
    """The task of a call.

    Args:
        task: the name of one of the processor's; a task or its fields, for this call; or None for the first.
        tasks: the processor's, by name.

    Raises:
        ValueError: an unknown name, or the name of a task that differs.
    """
    if task is None:
        return next(iter(tasks.values()))
    if isinstance(task, str):
        refuse_unknown([task], tasks, "unknown task", ValueError)
        return tasks[task]
    task = EGMFTask.from_dict(task)
    if tasks.get(task.name, task) != task:
        raise ValueError(f"this processor has another task {task.name!r}. Give yours another name.")
    return task


def number_task(task: EGMFTask, tasks: dict[int, EGMFTask], call_tasks: dict[int, EGMFTask]) -> int:
    """The number of a task in a batch: its index in the processor's `tasks`, or below 0 if it was given to a call.

    Args:
        task: of one sample.
        tasks: the processor's `numbered_tasks`.
        call_tasks: the latest `MAX_CALL_TASKS` of calls, by number, so that `post_process_answers` can name its
            answers. A new one is added.
    """
    for number, known in tasks.items():
        if known == task and task.calibration in ({}, known.calibration):
            return number
    number = min(call_tasks, default=0) - 1
    call_tasks[number] = task
    if len(call_tasks) > MAX_CALL_TASKS:
        del call_tasks[next(iter(call_tasks))]
    return number


def _read_labels(labels: Any) -> dict[str, str]:
    """Labels as a dict, a list, or a list of pairs -> label: words."""
    if isinstance(labels, dict):
        labels = list(labels.items())
    elif not isinstance(labels, list | tuple):
        labels = [[labels]]  # refused below
    entries = [entry if isinstance(entry, list | tuple) else (entry, entry) for entry in labels]
    for entry in entries:
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise ValueError(
                "labels and their words must be strings, as a list of labels or of (label, words) pairs; "
                f"got {shorten(entry)}. In YAML, put yes, no and numbers in quotes."
            )
        _check_characters("".join(entry))
    counts = Counter(label for label, _ in entries)
    repeated = sorted(label for label in counts if counts[label] > 1)
    if repeated:
        raise ValueError(f"the labels {shorten(repeated)} are given more than once.")
    # Two tasks are equal only if their labels are in the same order.
    return OrderedDict(entries)


def _read_calibration(entry: Any) -> Any:
    """An entry of `calibration`; a number, as older checkpoints have, is a temperature alone."""
    return {"temperature": entry, "uniform_weight": 0.0} if is_number(entry) else entry


def _is_calibration(entry: Any) -> bool:
    """Whether an entry of `calibration` has a usable temperature, uniform weight and exponent, and nothing else."""
    if not isinstance(entry, dict) or {"exponent", *entry} != {"temperature", "uniform_weight", "exponent"}:
        return False
    positive = [entry["temperature"], entry.get("exponent", 1)]
    is_positive = all(is_number(number) and number > 0 for number in positive)
    return is_positive and is_number(entry["uniform_weight"]) and 0 <= entry["uniform_weight"] < 1


def _check_characters(text: str) -> None:
    if "\0" in text or has_half_character(text):
        raise ValueError(f"{shorten(text)} contains a null character or half a character. Write it again, as UTF-8.")


def _normalize(text: str) -> str:
    """Lowercase, with every run of punctuation and whitespace replaced by one space."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _plain_number(answer: Any) -> int | float | None:
    """A number, or an array or tensor of one element, as a Python number; None for anything else and NaN."""
    if isinstance(answer, torch.Tensor | np.ndarray | np.generic) and np.prod(answer.shape) == 1:
        answer = answer.item()
    return answer if is_number(answer) and answer == answer else None


EKMAN_LABELS = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
CHERMA_LABELS = ["愤怒", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊奇"]
EMOTION = {"kind": "classification", "labels": EKMAN_LABELS, "prompt": "\nThe speaker's emotion is"}
SENTIMENT = {"kind": "regression", "low": -3.0, "high": 3.0, "prompt": "\nThe speaker's sentiment from -3 to 3 is"}
SIMS_SCALE = {"low": -1.0, "high": 1.0, "step": 0.2}
CHINESE = {"prefix": "声音和表情：", "suffix": "\n话语：\n", "separator": ""}

BUILT_IN_TASKS: dict[str, EGMFTask] = {
    "emotion": EGMFTask("emotion", **EMOTION),
    "meld": EGMFTask("meld", **EMOTION),
    "cherma": EGMFTask("cherma", "classification", CHERMA_LABELS, prompt="\n说话人的情绪是：", **CHINESE),
    "sentiment": EGMFTask("sentiment", **SENTIMENT),
    "mosei": EGMFTask("mosei", **SENTIMENT),
    "sims_v2": EGMFTask("sims_v2", "regression", **SIMS_SCALE, prompt="\n说话人的情感值（-1到1）是：", **CHINESE),
}
