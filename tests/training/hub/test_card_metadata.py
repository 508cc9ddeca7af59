"""All cards of the repository: metadata that the Hub accepts, and figures that come from files."""

import json
import re
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard, SpaceCard

from tests.helpers.card_figures import figures_of, numbers_in
from tests.helpers.hub_metadata import metadata_errors
from tests.helpers.release_files import mmsa, write_pickle
from training.converters import mmsa as mmsa_converter
from training.converters.core.cards import write_card
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.corpus import Corpus
from training.demo.ceilings import all_ceilings
from training.demo.corpus_card import render_corpus_card
from training.demo.phrases import phrase_bank
from training.hub.card_metadata import check_card


ROOT = Path(__file__).parents[3]
SPACES = sorted(path.parent for path in (ROOT / "hub_cards").rglob("app.py"))
SPACE = {
    "title": "x", "emoji": "x", "colorFrom": "red", "colorTo": "blue", "sdk": "gradio", "sdk_version": "6.0.0",
    "app_file": "app.py", "license": "mit", "tags": ["x"],
}  # fmt: skip


def card_of(**metadata):
    return f"---\n{json.dumps(metadata)}\n---\n# x\n"


@pytest.mark.parametrize("folder", SPACES, ids=lambda folder: folder.name)
def test_cards_of_spaces(folder):
    """The metrics are Spaces too."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    card = check_card(text, "space")
    assert isinstance(card, SpaceCard)
    assert metadata_errors(text, "space") == []
    assert (folder / card.data.app_file).is_file()
    assert SpaceCard(str(card)).data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize("name", ["egmf_erc", "egmf_msa"])
def test_figures_of_a_metric_card_are_in_its_code(name):
    folder = ROOT / "hub_cards/metrics" / name
    code = (folder / f"{folder.name}.py").read_text(encoding="utf-8")
    card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2].split("## Further references")[0]
    known = set(re.findall(r"\d+(?:\.\d+)?", code))
    known |= {f"{100 * float(figure):g}" for figure in known}  # percent
    figures = set(figures_of(card))
    assert len(figures) > 3
    assert figures - known == set()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"title": None}, "`title` is missing"),
        ({"colorTo": "orange"}, "colorTo 'orange' is not one of red"),
        ({"sdk": "flask"}, "sdk 'flask' is not one of gradio"),
        ({"license": "Free for all"}, "not a license id from the Hub's list"),
        ({"models": ["a/b/c"]}, "a/b/c"),
        ({"short_description": "x" * 61}, "short_description has more than 60"),
    ],
)
def test_spaces_that_the_hub_would_refuse(changed, message):
    check_card(card_of(**SPACE), "space")
    with pytest.raises(ValueError, match=message):
        check_card(card_of(**{**SPACE, **changed}), "space")


def test_datasets_that_the_hub_would_refuse():
    good = {
        "license": "other",
        "tags": ["x"],
        "language": ["en"],
        "configs": [{"config_name": "a", "data_files": "b"}],
    }
    check_card(card_of(**good), "dataset")
    with pytest.raises(ValueError, match="needs config_name and data_files"):
        check_card(card_of(**good | {"configs": [{"config_name": "a"}]}), "dataset")
    with pytest.raises(ValueError, match="language 'English'"):
        check_card(card_of(**good | {"language": ["English"]}), "dataset")


# ---- cards of data sets --------------------------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path):
    """A corpus with repaired and dropped examples."""
    content = mmsa(train=30, valid=7, test=9)
    content["train"]["vision"][3][0, 0] = float("nan")
    content["train"]["raw_text"][5] = "  "
    content["test"]["regression_labels"][2] = 7.0
    source = write_pickle(tmp_path / "a.pkl", content)
    mmsa_converter.main(
        [
            str(source),
            str(tmp_path / "dest"),
            "--corpus",
            "sims_v2",
            "--no_progress",
            "--num_workers",
            "1",
        ]
    )
    return tmp_path / "dest"


def test_card_of_a_converted_corpus(converted):
    text = (converted / "README.md").read_text(encoding="utf-8")
    card = check_card(text, "dataset")
    assert isinstance(card, DatasetCard)
    assert metadata_errors(text, "dataset") == []
    assert card.data.pretty_name == "CH-SIMS v2"
    assert card.data.language == ["zh"]
    (config,) = card.data.configs
    for file in config["data_files"]:
        assert list(converted.glob(file["path"])), file
    for heading in (
        "Examples",
        "Repaired and dropped",
        "Columns",
        "License",
        "Limits",
        "Responsible use",
    ):
        assert f"\n## {heading}\n" in text
    assert not re.search(r"\n{3,}|\{[{%]|\bNone\b", text)


def test_figures_of_a_converted_corpus_are_in_its_record(converted):
    record = json.loads((converted / "conversion.json").read_text(encoding="utf-8"))
    body = (converted / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    tables = "\n".join(line for line in body.splitlines() if line.startswith("|") and "`" not in line)
    figures = figures_of(tables)
    assert len(figures) > 12
    assert set(figures) <= {f"{number:,}" for number in numbers_in(record["table"])}
    counts = record["table"]["dropped"] | record["table"]["repaired"]
    assert counts, "the fixture must have something to tell"
    for reason, entry in counts.items():
        assert re.search(rf"^\| \w+ \| {re.escape(reason)} \| {entry['count']} \|$", body, re.MULTILINE)


def test_card_that_would_be_refused_is_not_written(tmp_path):
    table = {"rows": {}, "repaired": {}, "dropped": {}, "notes": {}}
    corpus = Corpus(
        name="x",
        examples={},
        finish=print,
        columns=datasets.Features({"id": datasets.Value("string")}),
        report=ConversionReport(),
        bytes_per_example=1,
        languages=["English"],
        description="x",
        settings={},
    )
    with pytest.raises(ValueError, match="language 'English'"):
        write_card(tmp_path / "README.md", corpus, table, [])
    assert not (tmp_path / "README.md").exists()


def test_card_of_the_demo_corpus():
    ceilings = all_ceilings(phrase_bank(), {"test": [(score / 10, "x") for score in range(-30, 31)]})
    text = render_corpus_card({"train": 2400, "validation": 200, "test": 400}, ceilings)
    card = check_card(text, "dataset")
    assert metadata_errors(text, "dataset") == []
    assert "synthetic" in card.data.tags
    shares = {f"{100 * value:.1f}" for value in ceilings["emotion"].values() if isinstance(value, float)}
    rows = [line for line in text.splitlines() if re.match(r"\| (text|audio|video)", line)]
    assert {figure for row in rows for figure in re.findall(r"(\d+\.\d) %", row)} <= shares
