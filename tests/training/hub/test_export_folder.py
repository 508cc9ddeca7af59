"""The exported folder: code, records without traces of the machine, card, and refusals."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from training.evaluation.report import write_report
from training.hub.errors import PushError
from training.hub.export_folder import (
    MANIFEST,
    export_folder,
    find_facts,
    merge_lora,
    portable,
    portable_text,
    weights_fingerprint,
)
from training.hub.model_card import read_study
from training.hub.options import PushOptions
from training.hub.verify import example_sample
from training.model.builder import load
from training.paths import RESULTS
from training.push_to_hub import main
from training.records import only_writer, write_json


PNG = bytes.fromhex("89504e470d0a1a0a")  # first bytes of a PNG file
ROOT = Path(__file__).parents[3]
CODE = {
    path.name: path
    for name in ("modeling_egmf", "processing_egmf")
    for path in (ROOT / name).glob("*.py")
    if path.name != "__init__.py"
}


@pytest.fixture
def export(runs, tmp_path):
    """`export(run, **options)`: the standalone checkpoint of a run as a folder."""

    def make(run=runs / "features", **options):
        export_folder(PushOptions(run, "ada/egmf", standalone=True, **options), tmp_path / "out")
        return tmp_path / "out"

    return make


@pytest.fixture
def copy_of_run(runs, tmp_path):
    """`copy_of_run(*left_out)`: a copy of the run `features` without some of its files."""

    def make(*left_out):
        shutil.copytree(runs / "features", tmp_path / "run", ignore=shutil.ignore_patterns(*left_out))
        (tmp_path / "llm").symlink_to(runs / "llm")
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("run", ["features", "half"])
def test_effect_of_merging_is_measured(runs, run):
    model, processor = load(runs / run)
    inputs = processor(**example_sample(processor), task="emotion")
    before = model.score_answers(**inputs).probabilities
    merging = merge_lora(model, processor)
    moved = (model.score_answers(**inputs).probabilities - before).abs().max().item()
    assert 0 < moved <= merging["moved"]
    assert merging["merged"] == (merging["moved"] <= 1e-3) == (run == "features")
    assert merging["samples"] == 8 * len(processor.task_objects)


def test_dry_run_writes_the_folder_only(hub, runs, tmp_path, capsys):
    argv = [str(runs / "features"), "ada/egmf", "--dry_run", "--folder", str(tmp_path / "out")]
    main([*argv, "--text_model_name_or_path", "ada/llm"])
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) >= CODE.keys() | {"config.json", "model.safetensors", "README.md", MANIFEST}
    assert json.loads(files["config.json"].read_text())["text_model_id"] == "ada/llm"
    assert "nothing was sent" in capsys.readouterr().out
    assert hub.requests == []
    with pytest.raises(SystemExit, match="is not empty"):
        main([*argv, "--standalone"])


def test_code_matches_the_source(export):
    """Copied by `save_pretrained`; both folders side by side, and nothing else."""
    folder = export()
    assert {path.name for path in folder.glob("*.py")} == CODE.keys()
    for name, source in CODE.items():
        assert (folder / name).read_bytes() == source.read_bytes()


def test_figures_of_several_seeds_are_added(export, tmp_path):
    summary = {"n": 2, "mean": 0.515625, "std": 0.03125, "values": [0.5, 0.53125]}
    subsets = {"text": {"emotion": {"accuracy": summary}}}
    study = {"variants": {"egmf": {"seeds": [0, 1], "subsets": subsets}}, "folder": "/srv/someone/runs"}
    folder = export(study=write_json(tmp_path / "demo.json", study))
    assert "| text | 2 | 0.516 ± 0.031 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "study.json").read_text()) == {**study, "folder": "runs"}


@pytest.mark.parametrize("installed", [True, False])
def test_gates_are_plotted_if_no_report_did_and_matplotlib_is_installed(export, copy_of_run, monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
        monkeypatch.delitem(sys.modules, "training.evaluation.plots", raising=False)
    folder = export(copy_of_run("gates.png", "report.md"))
    assert (folder / "gates.png").is_file() == installed
    assert ("](gates.png)" in (folder / "README.md").read_text(encoding="utf-8")) == installed
    if installed:
        assert (folder / "gates.png").read_bytes().startswith(PNG)


def test_records_have_no_traces_of_the_machine(export, copy_of_run, tmp_path, runs):
    run = copy_of_run()
    record = json.loads((run / "training.json").read_text())
    record["training_arguments"] = {
        "output_dir": "/srv/someone/runs/x",
        "hub_token": "hf_x",
        "logging_dir": "/l/host",
    }
    record["data_arguments"] = {"dataset": "~/corpora/meld", "splits": ["train", "/srv/y"], "seed": 0}
    write_json(run / "training.json", record)
    folder = export(run)
    exported = json.loads((folder / "training.json").read_text())
    assert exported["training_arguments"] == {"output_dir": "x"}
    assert exported["data_arguments"] == {"dataset": "meld", "splits": ["train", "y"], "seed": 0}
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
            assert str(runs) not in path.read_text(encoding="utf-8"), path


def test_columns_of_the_table_and_paths_in_the_report_stay_here(export, copy_of_run):
    """The model does not read them: nobody expects remarks or names of people in its repo."""
    run = copy_of_run()
    results = json.loads((run / "results-test.json").read_text()) | {"dataset": "/srv/some one/my corpus"}
    for part in results["subsets"].values():
        for figures in part["tasks"].values():
            for prediction in figures["predictions"]:
                prediction["columns"] = {"remark": "call 555 0101"}
    write_json(run / "results-test.json", results)
    report = "Dataset `/srv/some one/my corpus`, see https://host/a/b and/or x/y.\n\n| a | /data/raw/a.wav, b.wav |\n"
    (run / "report.md").write_text(report)
    folder = export(run)
    assert "555 0101" not in (folder / "results-test.json").read_text()
    exported = json.loads((folder / "results-test.json").read_text())
    assert exported["dataset"] == "my corpus"
    assert exported["subsets"]["text"]["tasks"]["emotion"]["predictions"][0]["id"] == "emotion-0"
    expected = "Dataset `my corpus`, see https://host/a/b and/or x/y.\n\n| a | a.wav, b.wav |\n"
    assert (folder / "report.md").read_text() == expected


def test_values_of_columns_in_the_report_stay_here(export, copy_of_run):
    run = copy_of_run()
    results = json.loads((run / "results-test.json").read_text())
    for part in results["subsets"].values():
        for figures in part["tasks"].values():
            for number, prediction in enumerate(figures["predictions"]):
                prediction["columns"] = {"speaker": f"Ada-{number % 2}", "label": f"call {number % 2}"}
    write_json(run / "results-test.json", results)
    report = write_report(run).read_text(encoding="utf-8")
    assert all(text in report for text in ("### Speakers", "Ada-1", "call 1", "](gates-by-group.png)"))
    folder = export(run)
    pushed = (folder / "report.md").read_text(encoding="utf-8")
    assert not any(text in pushed for text in ("### Speakers", "Ada-", "call ", "gates-by-group.png"))
    assert not (folder / "gates-by-group.png").exists()
    kept = [line for line in report.splitlines() if line.startswith("#") and "Speakers" not in line]
    kept = [line for line in kept if line not in ("#### Weights by speaker", "#### Weights by column label")]
    assert [line for line in pushed.splitlines() if line.startswith("#")] == kept
    assert "#### Weights by label" in kept


@pytest.mark.parametrize("folder", ["run", "nowhere"])
def test_folders_without_a_run_are_named_in_a_dry_run(tmp_path, folder):
    (tmp_path / "run").mkdir()
    with pytest.raises(SystemExit, match=f"{folder} is not a checkpoint: config.json or model.safetensors is missing"):
        main([str(tmp_path / folder), "ada/egmf", "--dry_run"])


def test_a_dry_run_names_all_obstacles_at_once(copy_of_run, tmp_path):
    """They were named one at a time, each after the run had been looked at again."""
    run = copy_of_run()
    (run / "training.json").unlink()
    (run / "card.yaml").write_text("nmae: EGMF\n")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "whisper").mkdir()
    encoder = {"backbone_id": str(tmp_path / "whisper"), "input_type": "waveform"}
    encoder["backbone_config"] = {"model_type": "wav2vec2"}
    del config["config_checksum"]
    (run / "config.json").write_text(json.dumps(config | {"audio_config": encoder}))
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit) as refused:
        main([str(run), "ada/egmf", "--dry_run", "--folder", str(tmp_path / "out")])
    message = str(refused.value)
    assert "there are 5 obstacles.\n- " in message
    for part in ("no training.json", "nmae", "--upload_text_model", "frozen audio encoder", "out is not empty"):
        assert part in message, part


@pytest.mark.parametrize(("content", "message"), [("[]", "its content is"), ("{}", "has no entry text_config")])
def test_a_configuration_of_something_else_is_named(copy_of_run, tmp_path, content, message):
    run = copy_of_run()
    (run / "config.json").write_text(content)
    with pytest.raises(SystemExit, match=f"config.json.*{message}"):
        main([str(run), "ada/egmf", "--dry_run", "--folder", str(tmp_path / "out")])


def test_an_interrupted_dry_run_leaves_nothing_that_could_be_taken_for_a_repo(runs, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.hub.export_folder.write_repo_card", fail)
    with pytest.raises(SystemExit, match="No space left on device"):
        main([str(runs / "features"), "ada/egmf", "--dry_run", "--standalone", "--folder", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="file is not empty, or a file"):
        main([str(runs / "features"), "ada/egmf", "--dry_run", "--standalone", "--folder", str(tmp_path / "file")])


def test_a_second_dry_run_at_once_is_refused(runs, tmp_path):
    folder = tmp_path / "out"
    with only_writer(folder, "dry run"), pytest.raises(SystemExit, match="Another dry run is writing to"):
        main([str(runs / "features"), "ada/egmf", "--dry_run", "--standalone", "--folder", str(folder)])


def test_the_default_folder_of_a_dry_run_is_next_to_the_run(copy_of_run, monkeypatch):
    run = copy_of_run()
    monkeypatch.chdir(run)
    main([".", "ada/egmf", "--dry_run", "--standalone"])
    assert (run.with_name("run-hub") / MANIFEST).is_file()


def test_portable_keeps_text_and_relative_paths():
    record = {"a": [1, None, "runs/x", "/"], "text": "\nThe answer / is", "max_token": 3}
    assert portable(record) == {"a": [1, None, "runs/x", "/"], "text": "\nThe answer / is"}


@pytest.mark.parametrize("start", ["", "file:", "file://", "FILE://localhost"])
def test_paths_of_a_machine_are_not_portable(start):
    assert portable({"where": [f"{start}/home/ada/clips/1.mp4"]}) == {"where": ["1.mp4"]}
    text = f"`{start}/home/ada/clips/1.mp4`, [x]({start}/home/ada/x.png), profile:/1, https://example.com/a/b"
    assert portable_text(text, ()) == "`1.mp4`, [x](x.png), profile:/1, https://example.com/a/b"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "is not a checkpoint"),
        ("config.json", "is not a checkpoint"),
        ("training.json", "not a finished run"),
    ],
)
def test_unfinished_run_is_refused(export, copy_of_run, missing, message):
    with pytest.raises(PushError, match=message):
        export(copy_of_run(missing))


def test_bad_facts_of_a_card_are_refused(export, tmp_path):
    (tmp_path / "card.yaml").write_text("name: x\nauthor: me\n")
    with pytest.raises(PushError, match="unknown fields author"):
        export(card=tmp_path / "card.yaml")


def test_fingerprint_matches_the_trained_weights(runs, tmp_path):
    fingerprints = {name: weights_fingerprint(runs / name) for name in ("features", "media", "other")}
    assert len(set(fingerprints.values())) == 3
    (tmp_path / "default").mkdir()
    for name in ("config.json", "model.safetensors", "default/adapter_model.safetensors"):
        (tmp_path / name).write_bytes((runs / "features" / name).read_bytes())
    (tmp_path / "README.md").write_text("a new card")
    assert weights_fingerprint(tmp_path) == fingerprints["features"]


@pytest.mark.parametrize("beside", ["run", "data"])
def test_demo_is_recognized_by_its_ceilings_in_the_run_or_the_corpus(tmp_path, beside):
    run = tmp_path / "run"
    data = tmp_path / "data"
    for folder in (run, data):
        folder.mkdir()
    assert not find_facts(run, None, data).synthetic
    (tmp_path / beside / "ceilings.json").write_text("{}", encoding="utf-8")
    assert find_facts(run, None, None if beside == "run" else data).synthetic
    (tmp_path / "card.yaml").write_text("license: mit\n", encoding="utf-8")  # changes one field, and keeps the others
    facts = find_facts(run, tmp_path / "card.yaml", data)
    assert (facts.license, facts.synthetic, facts.dataset) == ("mit", True, "EGMF demo corpus")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "study.json has no entry variants"),
        ({"variants": {}}, "has no entry variants/egmf"),
        ({"variants": {"egmf": {"seeds": [0], "subsets": {}}}}, "has no results"),
        ({"variants": {"egmf": {"seeds": "01", "subsets": {}}}}, "variants/egmf/seeds is '01'"),
        (
            {"variants": {"egmf": {"seeds": [0], "subsets": {"text": {"emotion": {"accuracy": 0.5}}}}}},
            "text/emotion/accuracy is '0.5'. It is not a results file of training.demo.study",
        ),
    ],
)
def test_other_files_than_studies_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_json(tmp_path / "study.json", content))
    assert read_study(RESULTS / "demo.json")["variants"]
