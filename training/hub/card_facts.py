"""What a model card says that no results file knows: `card.yaml` in the run's folder, or the file of `--card`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


# The demo's language model: where it comes from, and the fingerprint of its weights in a run's configuration.
DEMO_TEXT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_TEXT_MODEL_FINGERPRINT = "a33448a048951fff"

REQUIRED_IN_PUBLIC = ("dataset", "language", "base_model_license", "data_license")
LISTS = ("datasets", "language", "limits", "widget")


def default_widget() -> list[dict[str, str]]:
    return [
        {"text": "I'm fine.", "example_title": "Text only"},
        {"text": "I can't believe it!", "example_title": "Text that needs a voice"},
    ]


@dataclass
class CardFacts:
    """Fields of `card.yaml`.

    Args:
        name: of the model, as its title.
        dataset: what it was trained and tested on, as a reader would call it.
        datasets: ids of that data on the Hub, if it is there.
        language: ISO 639 codes of what it reads and hears.
        license: of the trained weights; an id of the Hub's list, or `other` with `license_name` and `license_link`.
        license_name: of a license that is not on the Hub's list.
        license_link: where to read it.
        base_model: Hub id of the language model; by default the one that the checkpoint, or its run, names.
        base_model_license: in words, for the section about licenses.
        data_license: in words, for the section about licenses.
        synthetic: the data was made by a program, so that the scores say nothing about people.
        limits: sentences about what this model is not good for, in addition to the general ones.
        widget: examples for the model's page, each with `text` or `src`, and `example_title`.
    """

    name: str = "EGMF"
    dataset: str = ""
    datasets: list[str] = field(default_factory=list)
    language: list[str] = field(default_factory=list)
    license: str = "other"
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    base_model_license: str = ""
    data_license: str = ""
    synthetic: bool = False
    limits: list[str] = field(default_factory=list)
    widget: list[dict[str, str]] = field(default_factory=default_widget)

    def missing(self) -> list[str]:
        """Names of the fields that a public card must have, and this one has not."""
        names = [name for name in REQUIRED_IN_PUBLIC if not getattr(self, name)]
        if self.license == "other" and not self.license_name:
            names.append("license")
        return names


def demo_facts(config: dict[str, Any]) -> CardFacts:
    """What is true of every model that was trained on the demo corpus.

    Args:
        config: of the run. Of the language model, and so of the weights' license, nothing is known unless its
            fingerprint is that of the demo's own.
    """
    facts = CardFacts(
        name="EGMF demo",
        dataset="EGMF demo corpus",
        language=["en", "zh"],
        data_license="the synthetic clips are Apache-2.0; the rated sentences come from vaderSentiment (MIT, Hutto "
        "and Gilbert 2014)",
        synthetic=True,
    )
    if config.get("text_model_fingerprint") == DEMO_TEXT_MODEL_FINGERPRINT:
        facts.license = "apache-2.0"
        facts.base_model = DEMO_TEXT_MODEL
        facts.base_model_license = "Apache-2.0"
        facts.limits = [
            "It was trained with the language model as a quantized GGUF file has it, not with the weights of that "
            "name on the Hub: with those, answers differ a little."
        ]
    return facts


def read_facts(path: Path, base: CardFacts | None = None) -> CardFacts:
    """`CardFacts` from YAML; the fields that it leaves out are those of `base`.

    Raises:
        ValueError: a field is unknown or of another type.
    """
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = [entry.name for entry in dataclasses.fields(CardFacts)]
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold fields of a card: {', '.join(known)}.")
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"{path} has unknown fields {', '.join(unknown)}. Known: {', '.join(known)}.")
    for name, value in fields.items():
        expected = _type_of(name)
        if not isinstance(value, expected):
            raise ValueError(f"`{name}` in {path} is {value!r}; it must be a {expected.__name__}.")
    return dataclasses.replace(base or CardFacts(), **fields)


def _type_of(name: str) -> type:
    if name in LISTS:
        return list
    return bool if name == "synthetic" else str
