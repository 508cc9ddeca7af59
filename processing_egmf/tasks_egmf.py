"""Tasks: what is asked about a person, which answers there are, and how an answer is written and read.

The prompt of every task has the same shape, of which a task gives the words:

    prefix <|egmf|> x P suffix transcript prompt ─► answer

Next: processing_egmf.py, which renders it into tokens.
"""

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any


_NEGATION = re.compile(r"\b(?:not|no|never|without)\b|n't|n\u2019t|[不没非无]", re.IGNORECASE)


@dataclass
class EGMFTask:
    """One question with a closed set of answers.

    Args:
        name: how the task is called in `processor(..., task=name)`.
        kind: `"classification"` or `"regression"`.
        labels: classification: label -> the words that name it in an answer. Labels keep this order.
        low, high, step: regression: the scale, in the units of the corpus. Answers are low, low + step, ..., high.
        prefix: words before the pseudo tokens.
        suffix: words between the pseudo tokens and the transcript.
        prompt: words after the transcript, ending where the answer begins; no space at its end.
        separator: what stands between prompt and answer: a space, or nothing in Chinese.

    Raises:
        ValueError: fields that contradict one another, with what to change.
    """

    name: str
    kind: str
    labels: dict[str, str] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    step: float = 0.1
    prefix: str = "Voice and face:"
    suffix: str = "\nWords:\n"
    prompt: str = ""
    separator: str = " "

    def __post_init__(self):
        if self.kind not in ("classification", "regression"):
            raise ValueError(f"Task {self.name!r}: kind is {self.kind!r}; use 'classification' or 'regression'.")
        if isinstance(self.labels, list | tuple):
            pairs = [label if isinstance(label, list | tuple) else (label, label) for label in self.labels]
        else:
            pairs = list(dict(self.labels or {}).items())
        if not all(len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in pairs):
            raise ValueError(f"Task {self.name!r}: labels and their words are strings; quote yes, no and numbers.")
        self.labels = dict(pairs)
        if self.kind == "classification":
            if len(self.labels) < 2:
                raise ValueError(f"Task {self.name!r}: a classification needs at least two labels.")
            words = [self._plain(word) for word in self.labels.values()]
            if len(set(words)) != len(words) or not all(words):
                raise ValueError(f"Task {self.name!r}: every label needs its own words; got {self.labels}.")
        else:
            if self.labels:
                raise ValueError(f"Task {self.name!r}: a regression has a scale, not labels.")
            if not (self.step > 0 and self.high > self.low):
                raise ValueError(
                    f"Task {self.name!r}: a scale needs low < high and step > 0; got low={self.low}, "
                    f"high={self.high}, step={self.step}."
                )
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-6:
                raise ValueError(f"Task {self.name!r}: steps of {self.step} from {self.low} do not reach {self.high}.")
            if self.num_answers > 1001:
                raise ValueError(f"Task {self.name!r}: {self.num_answers} answers are too many; raise `step`.")
        if not self.prompt or self.prompt.endswith(" "):
            raise ValueError(
                f"Task {self.name!r}: `prompt` must not be empty or end in a space ({self.prompt!r}); the space "
                "before the answer is `separator`."
            )

    @staticmethod
    def _plain(words: str) -> str:
        return re.sub(r"[\W_]+", " ", words.casefold()).strip()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EGMFTask":
        """A task from YAML or processor_config.json; unknown keys are errors."""
        if not isinstance(values, dict):
            raise ValueError(f"A task is a set of fields (kind, labels, prompt ...), not {values!r}.")
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"Task {values.get('name')!r} has unknown keys {sorted(unknown)}; "
                f"known are {[f.name for f in fields(cls)]}."
            )
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
        """Place of a true answer (a label or a number) among `answers`; numbers go to the nearest step.

        Raises:
            ValueError: an unknown label, or a score outside the scale.
        """
        if self.kind == "classification":
            if answer not in self.labels:
                raise ValueError(
                    f"{sample}: unknown label {answer!r} for task {self.name!r}. Known are {', '.join(self.labels)}."
                )
            return list(self.labels).index(answer)
        if hasattr(answer, "item") and getattr(answer, "size", 1) != 0:  # a number of numpy or torch
            answer = answer.item()
        if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer:
            raise ValueError(f"{sample}: task {self.name!r} needs a number as its answer, not {answer!r}.")
        if not self.low - self.step / 2 <= answer <= self.high + self.step / 2:
            raise ValueError(
                f"{sample}: score {answer} is outside the range [{self.low}, {self.high}] of task {self.name!r}."
            )
        return min(max(round((answer - self.low) / self.step), 0), self.num_answers - 1)

    def parse(self, text: str) -> str | float | None:
        """Read free text as an answer: a label or a number, or None where it says none.

        A classification is read only if a label's words begin the text, or if it holds those of exactly one label and
        no negation; a regression if a number within the scale begins it.
        """
        if self.kind == "regression":
            match = re.match(r"\s*[-+\u2212]?\d+(?:[.,]\d+)?(?![\w/:.,]*\w)", text)
            if match is None:
                return None
            value = float(match.group().replace("\u2212", "-").replace(",", "."))
            return value + 0.0 if self.low <= value <= self.high else None
        said = self._plain(text)
        starts = [label for label, words in self.labels.items() if self._begins(said, self._plain(words))]
        if starts:
            return max(starts, key=lambda label: len(self._plain(self.labels[label])))
        inside = [label for label, words in self.labels.items() if self._contains(said, self._plain(words))]
        return inside[0] if len(inside) == 1 and not _NEGATION.search(text) else None

    @staticmethod
    def _begins(said: str, words: str) -> bool:
        # Words of an alphabet end at a word's border; Chinese words do not.
        return said.startswith(words) and (not words.isascii() or said[len(words) : len(words) + 1] in ("", " "))

    @staticmethod
    def _contains(said: str, words: str) -> bool:
        return f" {words} " in f" {said} " if words.isascii() else words in said


def _same(labels: str) -> dict[str, str]:
    return {label: label for label in labels.split()}


_EKMAN = _same("neutral surprise fear sadness joy disgust anger")
_ENGLISH_EMOTION = "\nThe speaker's emotion is"
_ENGLISH_SENTIMENT = "\nThe speaker's sentiment from {low:g} to {high:g} is"
_CHINESE = {"prefix": "声音和表情：", "suffix": "\n话语：\n", "separator": ""}

BUILT_IN_TASKS: dict[str, EGMFTask] = {
    task.name: task
    for task in (
        EGMFTask("emotion", "classification", labels=_EKMAN, prompt=_ENGLISH_EMOTION),
        EGMFTask("meld", "classification", labels=_EKMAN, prompt=_ENGLISH_EMOTION),
        EGMFTask(
            "cherma",
            "classification",
            labels=_same("愤怒 厌恶 恐惧 高兴 平静 悲伤 惊奇"),
            prompt="\n说话人的情绪是：",
            **_CHINESE,
        ),
        EGMFTask("sentiment", "regression", low=-3.0, high=3.0, prompt=_ENGLISH_SENTIMENT.format(low=-3.0, high=3.0)),
        EGMFTask("mosei", "regression", low=-3.0, high=3.0, prompt=_ENGLISH_SENTIMENT.format(low=-3.0, high=3.0)),
        EGMFTask(
            "sims_v2", "regression", low=-1.0, high=1.0, step=0.2, prompt="\n说话人的情感值（-1到1）是：", **_CHINESE
        ),
    )
}
