"""The model card: metadata that the Hub accepts, figures from a results file, and facts that a reader needs."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import EvalResult, ModelCard

from tests.helpers.card_figures import figures_of, numbers_in
from tests.helpers.hub_metadata import metadata_errors
from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.demo.study import collect
from training.evaluation.gates import gate_spread
from training.evaluation.report_tables import results_table
from training.evaluation.tables import markdown_table
from training.hub.card_facts import DEMO_TEXT_MODEL_FINGERPRINT, CardFacts, demo_facts, read_facts
from training.hub.card_metadata import check_card
from training.hub.model_card import CardOptions, run_table, study_table, write_card
from training.records import write_json


FACTS = CardFacts(
    name="EGMF on clips",
    dataset="Clips of a play",
    datasets=["lab/clips"],
    language=["en"],
    license="mit",
    base_model="lab/language-model",
    base_model_license="Apache-2.0",
    data_license="CC BY 4.0",
    limits=["Whispered speech was not in the data."],
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Results of `training.demo.study` from two seeds, and one run on text only."""
    root = tmp_path_factory.mktemp("study")
    for seed in (0, 1):
        write_run(root / f"egmf-{seed}", seed)
    write_run(root / "text_only-0", 2, subsets=["text"])
    write_run(root / "no_fusion_pretraining-0", 3, subsets=EVERY[-1:])
    write_json(root / "study.json", {"variants": collect(root)})
    return json.loads((root / "study.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    found = write_run(folder), write_ceilings(folder)
    (folder / "gates.png").write_bytes(b"a picture")
    return folder, *found


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run with all its files; its results and ceilings."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", *finished[1:]


def body_of(path):
    return path.read_text(encoding="utf-8").split("---\n", 2)[2]


# ---- figures -------------------------------------------------------------------------------------------------


def known_figures(run, results, ceilings, study=None):
    """The allowed spellings of each number in the files, and numbers derived from them by a named rule."""
    record = json.loads((run / "training.json").read_text())
    found = numbers_in(results) + numbers_in(ceilings) + numbers_in(record) + numbers_in(study or {})
    for part in results["subsets"][EVERY[-1]]["tasks"].values():
        found += gate_spread(part["predictions"]).values()  # the standard deviation of the raw weights
    shown = {form.format(value) for value in found for form in ("{:.3f}", "{:.4f}") if isinstance(value, float)}
    shown |= {f"{value:,}" for value in found if isinstance(value, int)} | {str(value) for value in found}
    for name, part in results["subsets"].items():  # accuracy as a share of the best possible one
        emotion = part["tasks"].get("emotion")
        if emotion:
            shown.add(f"{100 * emotion['metrics']['accuracy'] / ceilings['emotion'][name]:.1f}")
    shown.add(f"{record['seconds']['all'] / 60:.1f}")  # minutes
    shown.add(f"{(run / 'model.safetensors').stat().st_size / 1e6:.1f}")
    shown |= {str(len(variant["seeds"])) for variant in (study or {"variants": {}})["variants"].values()}
    return shown | {"1", "0"}  # n = 1 run; 0 would be a collapsed gate


@pytest.mark.parametrize("with_study", [False, True])
@pytest.mark.parametrize("facts", [None, FACTS], ids=["demo", "own"])
def test_every_figure_is_in_a_results_file(run, study, facts, with_study):
    folder, results, ceilings = run
    given = study if with_study else None
    path = write_card(folder, facts, CardOptions(study=given))
    figures = figures_of(body_of(path))
    assert len(figures) > (90 if with_study else 50)
    assert set(figures) - known_figures(folder, results, ceilings, given) == set()


def test_a_card_names_only_the_modalities_of_the_model(tmp_path):
    results = write_run(tmp_path, subsets=["text", "audio", "text+audio"])
    write_json(tmp_path / "results-test.json", {**results, "modalities": ["text", "audio"]})
    write_json(tmp_path / "config.json", {"audio_config": {}, "video_config": None})
    card = write_card(tmp_path, FACTS).read_text(encoding="utf-8")
    assert "video" not in card
    assert "pipeline_tag: audio-text-to-text" in card
    assert "feel from any of text and audio:" in card
    assert 'processor(text="I\'m fine.", audio="clip.wav", task="emotion")' in card
    assert "emotion from text and audio" in card


def test_check_finds_an_invented_figure(run):
    folder, results, ceilings = run
    path = write_card(folder)
    path.write_text(path.read_text(encoding="utf-8") + "\nBetter than the best by 0.777.\n", encoding="utf-8")
    assert set(figures_of(body_of(path))) - known_figures(folder, results, ceilings) == {"0.777"}


def test_figures_of_the_metadata_match_the_results(run):
    folder, results, _ = run
    card = ModelCard.load(write_card(folder))
    tasks = results["subsets"][EVERY[-1]]["tasks"]
    assert len(card.data.eval_results) == 4
    for result in card.data.eval_results:
        assert result.metric_value == round(tasks[result.dataset_config]["metrics"][result.metric_type], 4)


def test_study_by_hand():
    def summary(mean, std):
        return {"n": 2, "mean": mean, "std": std, "values": []}

    variants = {
        "egmf": {
            "seeds": [0, 1],
            "subsets": {
                "text": {"mood": {"accuracy": summary(0.5, 0.01), "other": summary(9, 9)}},
                "text+audio": {"mood": {"accuracy": summary(0.75, None)}},
            },
        },
        "text_only": {"seeds": [3], "subsets": {"text": {"mood": {"accuracy": summary(0.625, 0.25)}}}},
    }
    assert study_table({"variants": variants}) == [
        "| modalities | n | mood Accuracy |",
        "|---|---|---|",
        "| text | 2 | 0.500 ± 0.010 |",
        "| text + audio | 2 | 0.750 |",
        "| text, model trained on text only | 1 | 0.625 ± 0.250 |",
    ]


def test_text_only_is_next_to_the_results(run, study):
    folder, *_ = run
    content = body_of(write_card(folder, options=CardOptions(study=study)))
    row = next(line for line in content.splitlines() if line.startswith("| text, model trained on text only"))
    text = study["variants"]["text_only"]["subsets"]["text"]["emotion"]["accuracy"]
    assert f"| 1 | {text['mean']:.3f} |" in row
    both = study["variants"]["egmf"]["subsets"][EVERY[-1]]["emotion"]["accuracy"]
    assert f"| text + audio + video | 2 | {both['mean']:.3f} ± {both['std']:.3f} |" in content


def test_table_of_own_tasks(tmp_path):
    results = write_run(tmp_path, tasks=("meld",))
    content = body_of(write_card(tmp_path, FACTS))
    part = results["subsets"]["text"]["tasks"]["meld"]
    metrics = part["metrics"]
    row = f"| meld | text | {part['examples']} | {metrics['accuracy']:.3f} | {metrics['weighted_f1']:.3f} |"
    assert row in content
    assert content.count("| meld |") == len(EVERY)


# ---- what is said --------------------------------------------------------------------------------------------


def test_card_tells_strangers_what_they_must_know(run):
    folder, *_ = run
    content = body_of(write_card(folder, FACTS, CardOptions(repo_id="lab/egmf", revision="v1")))
    for heading in ("Use", "Results", "Training", "Licenses", "Limits", "Responsible use"):
        assert f"\n## {heading}\n" in content
    assert "![Weight of each expert by true label](gates.png)" in content
    assert "- Code: Apache-2.0." in content
    assert "- Trained weights: mit." in content
    assert "- Language model, language-model: Apache-2.0." in content
    assert "- Data: CC BY 4.0." in content
    assert "- Whispered speech was not in the data." in content
    assert re.search(r"informed consent", content)
    assert re.search(r"restricted or forbidden by law.*\n?.*European Union", content)
    assert "synthetic" not in content
    assert not re.search(r"\n{3,}|\{[{%]|None|True|False", content.replace("trust_remote_code=True", ""))


def test_use_is_five_lines_of_code_that_parse(run):
    folder, *_ = run
    content = body_of(write_card(folder, FACTS, CardOptions(repo_id="lab/egmf", revision="v1")))
    (code,) = re.findall(r"```python\n(.*?)```", content, re.DOTALL)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 5
    compile(code, "card", "exec")
    assert code.count('from_pretrained("lab/egmf", revision="v1", trust_remote_code=True)') == 2


def test_pipeline_is_shown_if_available(run):
    folder, *_ = run
    assert "pipeline(" not in body_of(write_card(folder))
    write_json(
        folder / "config.json",
        {"text_model_id": None, "custom_pipelines": {"emotion-recognition": {"impl": "x.Y"}}},
    )
    content = body_of(write_card(folder, options=CardOptions(repo_id="lab/egmf")))
    assert '`pipeline("emotion-recognition", model="lab/egmf", trust_remote_code=True)`' in content
    assert "A standalone checkpoint: 2.3 MB" in content


def test_card_says_where_an_answer_can_be_had_in_the_browser(run):
    folder, *_ = run
    widgets = "The Hub's own widgets do not run a repo's code, so this page has none."
    page = "[lab/page](https://huggingface.co/spaces/lab/page) runs this model on a web page."
    content = body_of(write_card(folder, FACTS))
    assert f"{widgets} EGMF's source code has a Gradio page for it" in content
    content = body_of(write_card(folder, replace(FACTS, space="lab/page")))
    assert f"## In the browser\n\n{page}\n\n{widgets}\n\n## Results" in content
    (folder / "handler.py").write_text("")
    content = body_of(write_card(folder, FACTS))
    assert '`{"inputs": {"video": BASE64_OR_URL, "text": "I\'m fine."}}`' in content
    assert f"\n\n{widgets}\n\n## Results" in content


def test_checkpoint_without_evaluation(run):
    folder, *_ = run
    (folder / "results-test.json").unlink()
    card = ModelCard.load(write_card(folder, FACTS))
    assert "This checkpoint was not evaluated." in card.content
    assert "every raw prediction" not in card.content
    assert "model-index" not in card.data.to_dict()


def test_card_goes_where_the_weights_are(run, tmp_path):
    folder, *_ = run
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model-00001-of-00002.safetensors").write_bytes(bytes(1_500_000))
    (tmp_path / "out/model-00002-of-00002.safetensors").write_bytes(bytes(1_500_000))
    path = write_card(folder, FACTS, CardOptions(folder=tmp_path / "out"))
    assert path == tmp_path / "out/README.md"
    assert "3.0 MB" in body_of(path)


# ---- metadata ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [None, FACTS, CardFacts()], ids=["demo", "own", "nothing said"])
def test_metadata_is_valid_without_network(run, facts):
    folder, *_ = run
    text = write_card(folder, facts).read_text(encoding="utf-8")
    card = check_card(text)
    assert metadata_errors(text, "model") == []
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "video-text-to-text"
    assert card.data.get("widget") is None
    assert "custom_code" in card.data.tags


def test_metadata_names_its_sources(run):
    folder, *_ = run
    data = ModelCard.load(write_card(folder, FACTS)).data
    assert (data.base_model, data.datasets, data.language, data.license) == (
        "lab/language-model",
        ["lab/clips"],
        ["en"],
        "mit",
    )
    assert {(result.dataset_type, result.dataset_name) for result in data.eval_results} == {
        ("lab/clips", "Clips of a play")
    }
    assert data.metrics == ["accuracy", "correlation", "mae", "weighted_f1"]


def test_base_model_of_an_adapter_checkpoint_is_the_one_it_names(run):
    folder, *_ = run
    for named, expected in (("lab/llm", "lab/llm"), ("../llm", None)):
        write_json(folder / "config.json", {"text_model_id": named})
        facts = CardFacts(license="mit")
        assert ModelCard.load(write_card(folder, facts)).data.base_model == expected


@pytest.mark.parametrize(
    ("config", "base_model", "apart"),
    [
        ({"text_model_id": "lab/llm", "text_model_fingerprint": "0" * 16}, "lab/llm", "lab/llm"),
        ({"text_model_id": "../llm", "text_model_fingerprint": "0" * 16}, None, "../llm"),
        ({"text_model_id": None}, None, None),
        (
            {"text_model_id": "lab/llm", "text_model_fingerprint": DEMO_TEXT_MODEL_FINGERPRINT},
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "lab/llm",
        ),
    ],
    ids=["of the Hub", "in a folder", "full", "the demo's own"],
)
def test_card_of_the_demo_names_the_language_model_that_the_run_had(run, config, base_model, apart):
    folder, *_ = run
    write_json(folder / "config.json", config)
    card = ModelCard.load(write_card(folder))
    own = base_model is not None and base_model.startswith("HuggingFaceTB")
    assert card.data.base_model == base_model
    assert card.data.license == ("apache-2.0" if own else "other")
    assert ("GGUF" in card.content) == ("SmolLM2" in card.content) == own
    named = base_model or config["text_model_id"] or "unnamed"
    license = "Apache-2.0" if own else "not stated by the author of this checkpoint"
    assert f"- Language model, {named.split('/')[-1]}: {license}." in card.content
    assert (f"Its language model, `{apart}`, is loaded from its" in card.content) == (apart is not None)
    assert card.content.count("This is a teaching checkpoint") == 1


def test_standalone_checkpoint_is_based_on_what_its_run_names(run, tmp_path):
    folder, *_ = run
    (tmp_path / "out").mkdir()
    write_json(folder / "config.json", {"text_model_id": "lab/llm"})
    write_json(tmp_path / "out/config.json", {"text_model_id": None})
    for facts in (None, CardFacts(license="mit")):
        assert (
            ModelCard.load(write_card(folder, facts, CardOptions(folder=tmp_path / "out"))).data.base_model
            == "lab/llm"
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"license": "Gratis für alle"}, "license 'Gratis"),
        ({"language": ["English"]}, "not an ISO 639 code"),
        ({"base_model": "a/b/c"}, "a/b/c"),
        ({"datasets": ["../clips"]}, "clips"),
        ({"space": "https://huggingface.co/spaces/lab/page"}, "give the Space's id on the Hub"),
    ],
)
def test_metadata_that_the_hub_would_refuse(run, fields, message):
    folder, *_ = run
    with pytest.raises(ValueError, match=message):
        write_card(folder, CardFacts(**{"license": "mit", **fields}))
    assert not (folder / "README.md").exists()


def test_dataset_card_is_checked():
    card = check_card("---\nlicense: other\nlanguage: [en, zh]\ntags: [egmf]\n---\n# Rows\n", "dataset")
    assert card.data.language == ["en", "zh"]
    with pytest.raises(ValueError, match="`license` is missing; `tags` is missing; language 'english'"):
        check_card("---\nlanguage: [english]\n---\n# Rows\n", "dataset")


def test_results_must_be_numbers():
    result = EvalResult("x", "x", "x", "accuracy", "much")
    card = ModelCard.from_template(
        ModelCard("---\nlicense: mit\n---\n").data, template_str="---\n{{ card_data }}\n---\n# x\n"
    )
    card.data.eval_results = [result]
    card.data.model_name = "x"
    with pytest.raises(ValueError, match="`library_name` is missing.*accuracy of x is 'much', not a number"):
        check_card(str(card))


# ---- the demo's card ------------------------------------------------------------------------------------------------


@pytest.fixture
def card(run):
    folder, *_ = run
    return ModelCard.load(write_card(folder))


def test_card_names_its_sources(card):
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "video-text-to-text"
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data["language"] == ["en", "zh"]
    assert {"multimodal", "custom_code"} <= set(data["tags"])


def test_card_holds_the_metrics_of_all_modalities(card, run):
    _, results, _ = run
    tasks = results["subsets"]["text+audio+video"]["tasks"]
    index = card.data.to_dict()["model-index"]
    assert [entry["name"] for entry in index] == ["EGMF demo"]
    found = {
        (result["task"]["name"].split()[0], metric["type"]): (metric["value"], result["dataset"])
        for result in index[0]["results"]
        for metric in result["metrics"]
    }
    assert set(found) == {
        ("emotion", "accuracy"),
        ("emotion", "weighted_f1"),
        ("sentiment", "mae"),
        ("sentiment", "correlation"),
    }
    for (task, metric), (value, dataset) in found.items():
        assert value == round(tasks[task]["metrics"][metric], 4)
        assert (dataset["type"], dataset["config"], dataset["split"]) == ("synthetic", task, "test")


def test_only_the_demo_has_bounds_in_its_table(run):
    """A user's own corpus may have the same tasks."""
    _, results, ceilings = run
    assert "ceiling" in "\n".join(run_table(results, ceilings))
    table = "\n".join(run_table(results, {}))
    assert "ceiling" not in table
    assert "best possible" not in table
    accuracy = results["subsets"]["text"]["tasks"]["emotion"]["metrics"]["accuracy"]
    assert f"{accuracy:.3f}" in table


def test_card_says_what_a_reader_needs(card, run):
    _, results, ceilings = run
    table = results_table(results, ceilings)
    assert "\n".join(markdown_table(table.header, table.rows)) in card.content
    assert "teaching checkpoint, trained on a synthetic corpus" in card.content
    assert "test split of EGMF demo corpus, seed 0, n = 1 run" in card.content
    assert "An adapter checkpoint: 2.3 MB of trained weights" in card.content
    assert "1,234,567 of 7,654,321 parameters were trained, for 10.0 minutes, on 1234 clips" in card.content
    assert "Tasks: emotion, sentiment." in card.content
    for name, value in gate_spread(results["subsets"][EVERY[-1]]["tasks"]["emotion"]["predictions"]).items():
        assert f"{name} {value:.3f}" in card.content
    assert "{{" not in card.content
    assert "{%" not in card.content


def test_card_of_a_standalone_checkpoint_names_no_other_model(tmp_path):
    results = write_run(tmp_path)
    results["config"]["text_model_id"] = None
    write_json(tmp_path / "results-test.json", results)
    content = ModelCard.load(write_card(tmp_path)).content
    assert "adapter checkpoint" not in content
    assert "text_model_id" not in content


def test_unknown_number_is_left_out_of_the_card(tmp_path):
    results = write_run(tmp_path)
    results["subsets"][EVERY[-1]]["tasks"]["sentiment"]["metrics"]["correlation"] = None
    write_json(tmp_path / "results-test.json", results)
    card = ModelCard.load(write_card(tmp_path))
    assert {result.metric_type for result in card.data.eval_results} == {
        "accuracy",
        "weighted_f1",
        "mae",
    }


@pytest.mark.parametrize("task", ["emotion", "sentiment"])
def test_card_of_one_task(tmp_path, task):
    write_run(tmp_path, tasks=(task,))
    card = ModelCard.load(write_card(tmp_path))
    assert f"Tasks: {task}." in card.content
    assert {result.task_name.split()[0] for result in card.data.eval_results} == {task}


# ---- facts ---------------------------------------------------------------------------------------------------


def test_facts_are_read(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("name: Mine\nlanguage: [zh]\nlicense: mit\nsynthetic: true\nlimits: [Whispering.]\n")
    found = read_facts(path)
    assert (found.name, found.language, found.synthetic, found.limits) == (
        "Mine",
        ["zh"],
        True,
        ["Whispering."],
    )
    assert found.missing() == ["dataset", "base_model_license", "data_license"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("author: me", "unknown fields author. Known: name,"),
        ("- a", "must hold the fields of a card"),
        ("language: en", "`language` in .* is 'en'; it must be a list"),
        ("synthetic: 1", "it must be a bool"),
        ("name: [x]", "it must be a str"),
        ("language: [en, no]", r"`language` in .* is \['en', False\]; each entry must be text: quote it"),
        ("1: x", "unknown fields 1. Known: name,"),
    ],
)
def test_bad_facts(tmp_path, text, message):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_facts(path)


def test_demo_card_has_no_missing_facts():
    assert demo_facts({"text_model_fingerprint": DEMO_TEXT_MODEL_FINGERPRINT}).missing() == []
    assert CardFacts().missing() == [
        "dataset",
        "language",
        "base_model_license",
        "data_license",
        "license",
    ]
