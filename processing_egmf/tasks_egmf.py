"""Tasks: what is asked about a person, which answers there are, and how an answer is written and read.

A task gives the words of its prompt, which processing_egmf.py renders into tokens:

    prefix <|egmf|> x P suffix transcript prompt ─► answer
"""

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict


_NEGATION = re.compile(r"\b(?:not|no|never|without)\b|n't|n\u2019t|[不没非无]", re.IGNORECASE)


class EGMFAnswer(TypedDict, total=False):
    """What is answered about one clip; all of it is plain JSON."""

    label: str  # classification: the likeliest
    score: float  # its probability; regression: the median, which minimizes the expected absolute error
    probabilities: dict[str, float]  # of every answer, in the task's order, or of the `top_k` largest
    mean: float  # this and the next three: regression only, in the units of the task's scale
    median: float
    most_likely: float
    interval: list[float]  # [low, high], the middle of the distribution
    task: str
    expert: str  # the one that spoke loudest
    experts: dict[str, float]  # name -> weight, which sum to one
    residual: float  # how much of the fused vector went past the experts, in (0, 1)
    modalities: list[str]  # those of text, audio and video that took part


@dataclass
class EGMFTask:
    """One question with a closed set of answers; a ValueError says which fields contradict one another."""

    name: str  # how the task is called in `processor(..., task=name)`
    kind: str  # "classification" or "regression"
    labels: dict[str, str] = field(
        default_factory=dict
    )  # label -> the words that name it, in the order of the answers
    low: float = 0.0  # regression: the scale, in the units of the corpus: low, low + step, ..., high
    high: float = 0.0
    step: float = 0.1
    prefix: str = "Voice and face:"  # words before the pseudo tokens
    suffix: str = "\nWords:\n"  # words between the pseudo tokens and the transcript
    prompt: str = ""  # words after the transcript, ending where the answer begins; no space at its end
    separator: str = " "  # what stands between prompt and answer: a space, or nothing in Chinese

    def __post_init__(self):
        is_choice, labels = self.kind == "classification", self.labels or ()
        said = f"kind is {self.kind!r}; use 'classification' or 'regression'."
        self._require(is_choice or self.kind == "regression", said)
        pairs = labels.items() if isinstance(labels, dict) else labels if isinstance(labels, list | tuple) else [()]
        pairs = [pair if isinstance(pair, list | tuple) else (pair, pair) for pair in pairs]
        strings = all(len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in pairs)
        self._require(strings, "labels and their words are strings, in a list or as pairs; quote yes, no and numbers.")
        self.labels = dict(pairs)
        if is_choice:
            self._require(len(self.labels) >= 2, "a classification needs at least two labels.")
            words = [self._plain(word) for word in self.labels.values()]
            own = len(set(words)) == len(words) and all(words)
            self._require(own, f"every label needs its own words; got {self.labels}.")
        else:
            self._require(not self.labels, "a regression has a scale, not labels.")
            said = f"got low={self.low}, high={self.high}, step={self.step}."
            self._require(self.step > 0 and self.high > self.low, f"a scale needs low < high and step > 0; {said}")
            steps = (self.high - self.low) / self.step
            said = f"steps of {self.step} from {self.low} do not reach {self.high}."
            self._require(abs(steps - round(steps)) <= 1e-6, said)
            self._require(self.num_answers <= 1001, f"{self.num_answers} answers are too many; raise `step`.")
        said = f"`prompt` must not be empty or end in a space ({self.prompt!r}); that space is `separator`."
        self._require(bool(self.prompt) and not self.prompt.endswith(" "), said)

    def _require(self, fine: bool, message: str) -> None:
        if not fine:
            raise ValueError(f"Task {self.name!r}: {message}")

    @staticmethod
    def _plain(words: str) -> str:
        return re.sub(r"[\W_]+", " ", words.casefold()).strip()

    @classmethod
    def from_dict(cls, values: dict[str, Any], name: str | None = None) -> "EGMFTask":
        """A task from YAML or processor_config.json, called `name` if it does not say so; unknown keys are errors."""
        if not isinstance(values, dict):
            raise ValueError(f"A task is a set of fields (kind, labels, prompt ...), not {values!r}.")
        values, known = {"name": name, "kind": None, **values}, [f.name for f in fields(cls)]
        if unknown := sorted(map(str, set(values) - set(known))):
            raise ValueError(f"Task {values['name']!r} has unknown keys {unknown}; known are {known}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Its fields; labels as a list of pairs, because the keys of a stored dict are sorted."""
        return {**asdict(self), "labels": [list(pair) for pair in self.labels.items()]}

    @property
    def decimals(self) -> int:
        return max(len(f"{number:.6f}".rstrip("0").split(".")[1]) for number in (self.step, self.low))

    @property
    def num_answers(self) -> int:
        return len(self.labels) if self.kind == "classification" else round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> list[float]:
        """The numbers of a regression's scale, in order."""
        return [round(self.low + i * self.step, self.decimals) for i in range(self.num_answers)]

    @property
    def answers(self) -> list[str]:
        """Every possible answer as text, in the order in which probabilities are given."""
        if self.kind == "classification":
            return list(self.labels.values())
        return [f"{value + 0.0:.{self.decimals}f}" for value in self.values]

    def index(self, answer: Any, sample: str = "the sample") -> int:
        """SampleIndex of a true answer (a label or a number) among `answers`; numbers go to the nearest step."""
        if self.kind == "classification":
            if not isinstance(answer, str) or answer not in self.labels:
                said = f"{sample}: unknown label {answer!r} for task {self.name!r}."
                raise ValueError(f"{said} Known are {', '.join(self.labels)}.")
            return list(self.labels).index(answer)
        if hasattr(answer, "item") and getattr(answer, "size", 1) != 0:  # a number of numpy or torch
            answer = answer.item()
        if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer:
            raise ValueError(f"{sample}: task {self.name!r} needs a number as its answer, not {answer!r}.")
        if not self.low - self.step / 2 <= answer <= self.high + self.step / 2:
            said = f"{sample}: score {answer} is outside the range [{self.low}, {self.high}]"
            raise ValueError(f"{said} of task {self.name!r}.")
        return min(max(round((answer - self.low) / self.step), 0), self.num_answers - 1)

    def parse(self, text: str) -> str | float | None:
        """Read free text as a label, if its words begin the text or are the only ones in it and nothing is negated, or
        as a number within the scale that begins it; None where it says none."""
        if self.kind == "regression":
            match = re.match(r"\s*[-+\u2212]?\d+(?:[.,]\d+)?(?![\w/:.,]*\w)", text)
            if match is None:
                return None
            value = float(match.group().replace("\u2212", "-").replace(",", "."))
            return value + 0.0 if self.low <= value <= self.high else None
        said = self._plain(text)
        words = {label: self._plain(words) for label, words in self.labels.items()}
        # Words of an alphabet end at a word's border; Chinese words do not.
        starts = [label for label, w in words.items() if f"{said} ".startswith(f"{w} " if w.isascii() else w)]
        if starts:
            return max(starts, key=lambda label: len(words[label]))
        inside = [label for label, w in words.items() if (f" {w} " in f" {said} " if w.isascii() else w in said)]
        return inside[0] if len(inside) == 1 and not _NEGATION.search(text) else None


_EKMAN = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
_EMOTION = {"kind": "classification", "labels": _EKMAN, "prompt": "\nThe speaker's emotion is"}
_SENTIMENT = {"kind": "regression", "low": -3.0, "high": 3.0, "prompt": "\nThe speaker's sentiment from -3 to 3 is"}
_CHINESE = {"prefix": "声音和表情：", "suffix": "\n话语：\n", "separator": ""}
_CHERMA = {"labels": ["愤怒", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊奇"], "prompt": "\n说话人的情绪是："}
_SIMS = {"low": -1.0, "high": 1.0, "step": 0.2, "prompt": "\n说话人的情感值（-1到1）是："}

BUILT_IN_TASKS: dict[str, EGMFTask] = {
    "emotion": EGMFTask("emotion", **_EMOTION),
    "meld": EGMFTask("meld", **_EMOTION),
    "cherma": EGMFTask("cherma", **{**_EMOTION, **_CHINESE, **_CHERMA}),
    "sentiment": EGMFTask("sentiment", **_SENTIMENT),
    "mosei": EGMFTask("mosei", **_SENTIMENT),
    "sims_v2": EGMFTask("sims_v2", **{**_SENTIMENT, **_CHINESE, **_SIMS}),
}
