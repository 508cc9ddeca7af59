"""Facts for a model card that no results file contains: `card.yaml` in the run's folder, or the `--card` file."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.text_files import shorten
from ..records import read_yaml


# The demo's language model: where it comes from, and the fingerprint of its weights in a run's configuration.
DEMO_TEXT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_TEXT_MODEL_FINGERPRINT = "a33448a048951fff"

REQUIRED_IN_PUBLIC = ("dataset", "language", "base_model_license", "data_license")
LISTS = ("datasets", "language", "limits")


@dataclass
class CardFacts:
    """Fields of `card.yaml`. There are none for widget examples, because the Hub's widgets do not run a repo's code.

    Args:
        name: name of the model, the card's title.
        dataset: name of the data that it was trained and tested on, for readers.
        datasets: Hub ids of that data, if it is on the Hub.
        language: ISO 639 codes of the languages that it reads and hears.
        license: license of the trained weights: an id from the Hub's list, or `other` with `license_name` and
            `license_link`.
        license_name: name of a license that is not on the Hub's list.
        license_link: link to that license.
        base_model: Hub id of the language model; by default the one that the checkpoint, or its run, names.
        base_model_license: in words, for the section about licenses.
        data_license: in words, for the section about licenses.
        synthetic: whether the data was generated, so that the scores say nothing about people.
        limits: sentences about the limits of this model, in addition to the general ones.
        space: Hub id of a Space that answers in the browser with this model, such as one made from hub_cards/space.
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
    space: str | None = None

    def missing(self) -> list[str]:
        """Names of the fields that a public card must have but this one lacks."""
        names = [name for name in REQUIRED_IN_PUBLIC if not getattr(self, name)]
        if self.license == "other" and not self.license_name:
            names.append("license")
        return names


def demo_facts(config: dict[str, Any]) -> CardFacts:
    """Facts that hold for every model trained on the demo corpus.

    Args:
        config: configuration of the run. The language model, and with it the license of the weights, is known only
            if its fingerprint is that of the demo's language model.
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
            "It was trained with the language model's weights from a quantized GGUF file, not with the weights of "
            "that name on the Hub; with those, answers differ slightly."
        ]
    return facts


def read_facts(path: Path, base: CardFacts | None = None) -> CardFacts:
    """Read `CardFacts` from YAML; missing fields are taken from `base`.

    Raises:
        ValueError: a field is unknown or of another type.
    """
    fields = read_yaml(path)
    known = [entry.name for entry in dataclasses.fields(CardFacts)]
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold the fields of a card: {', '.join(known)}.")
    unknown = sorted(set(fields) - set(known), key=str)
    if unknown:
        raise ValueError(f"{path} has unknown fields {', '.join(map(str, unknown))}. Known: {', '.join(known)}.")
    for name, value in fields.items():
        expected = _type_of(name)
        if not isinstance(value, expected):
            raise ValueError(f"`{name}` in {path} is {shorten(value)}; it must be a {expected.__name__}.")
        if name in LISTS and not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"`{name}` in {path} is {shorten(value)}; each entry must be text: quote it.")
    return dataclasses.replace(base or CardFacts(), **fields)


def _type_of(name: str) -> type:
    if name in LISTS:
        return list
    return bool if name == "synthetic" else str
