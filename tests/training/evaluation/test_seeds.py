"""Evaluation of several seeds: missing runs trained, all summarized and compared with published figures."""

import json
import re
import statistics
import sys
from dataclasses import replace

import pytest
import yaml

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from training.arguments import parse_arguments
from training.data.dataset_options import DatasetOptions
from training.evaluation import seeds
from training.evaluation.evaluator import EvaluationOptions
from training.evaluation.metrics import summarize
from training.options import take_dataset_options
from training.run_eval import main, make_parser
from training.trainer.run import train


pytestmark = pytest.mark.integration
RECIPE = {
    "text_model_dtype": "float32", "conv_channels": [4, 6], "encoder_hidden_size": 8,
    "fusion_hidden_size": 16, "num_frames": 2, "frame_size": 16, "lora_r": 2, "max_steps": 1, "report_to": "none",
    "per_device_train_batch_size": 2, "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


@pytest.fixture
def place(tmp_path, trained_tokenizer):
    write_corpus(tmp_path / "corpus")
    write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)
    recipe = RECIPE | {
        "dataset": str(tmp_path / "corpus"),
        "text_model_name_or_path": str(tmp_path / "llm"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def evaluate_seeds(place, *options, recipe=True):
    argv = [
        "--model_name_or_path",
        str(place / "runs/tiny-{seed}"),
        "--dataset",
        str(place / "corpus"),
        "--split",
        "test",
    ]
    argv += ["--device", "cpu", "--config", str(place / "recipe.yaml")] if recipe else ["--device", "cpu"]
    main([*argv, *map(str, options)])
    folder = place / "runs/tiny-seeds"
    return json.loads((folder / "results-test.json").read_text()), (folder / "results-test.md").read_text()


@pytest.fixture
def in_this_process(monkeypatch):
    """Calls commands in this process, because starting processes takes seconds."""
    modules = {"train": lambda argv: train(*parse_arguments(argv)), "run_eval": main}
    monkeypatch.setattr(seeds, "run_command", lambda module, *options: modules[module](list(map(str, options))))


def test_missing_runs_are_trained_and_all_are_summarized(place, in_this_process):
    record, text = evaluate_seeds(place, "--seeds", 4, 7)
    assert (record["n"], record["seeds"]) == (2, [4, 7])
    assert set(record["subsets"]) == {"text", "text+audio+video"}
    runs = [json.loads((place / f"runs/tiny-{seed}/results-test.json").read_text()) for seed in (4, 7)]
    for seed in (4, 7):
        assert json.loads((place / f"runs/tiny-{seed}/training.json").read_text())["seed"] == seed
    for subset, tasks in record["subsets"].items():
        for task, part in tasks.items():
            for name, summary in part["metrics"].items():
                values = [run["subsets"][subset]["tasks"][task]["metrics"][name] for run in runs]
                assert summary["values"] == values
                assert summary["mean"] == pytest.approx(statistics.fmean(values))
                assert summary["std"] == pytest.approx(statistics.stdev(values))
    assert "confidence_intervals" in runs[0]["subsets"]["text"]["tasks"]["emotion"]["metrics"]
    assert "confidence_intervals" not in record["subsets"]["text"]["emotion"]["metrics"]
    assert "text only" in text
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("runs/tiny-?/results-test.json")}
    assert evaluate_seeds(place, "--seeds", 4, 7)[1] == text  # nothing is trained or evaluated twice
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(SystemExit, match=r"other data, subsets or settings.*--overwrite"):
        evaluate_seeds(place, "--seeds", 4, "--subsets", "every")
    with pytest.raises(SystemExit, match=r"other data, subsets or settings.*--overwrite"):
        evaluate_seeds(place, "--seeds", 4, "--max_samples", 1)
    path = place / "runs/tiny-4/results-test.json"
    content = path.read_text()
    path.write_text(content.replace('"split_manifest": "official"', '"split_manifest": "video_disjoint"', 1))
    with pytest.raises(SystemExit, match=r"other data, subsets or settings.*--overwrite"):
        evaluate_seeds(place, "--seeds", 4)
    path.write_text(content)
    with pytest.raises(SystemExit, match="There is no run .*tiny-9.*--config"):
        evaluate_seeds(place, "--seeds", 9, recipe=False)


def test_failed_run_is_not_summarized(place, monkeypatch):
    monkeypatch.setattr(seeds, "python_command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match="error: train failed"):
        evaluate_seeds(place, "--seeds", 0)
    assert not (place / "runs/tiny-seeds").exists()


def test_every_option_reaches_the_command_of_a_run():
    reading = DatasetOptions("en", "v2", columns={"text": "utterance"}, label_map={"happy": "joy"}, streaming=True)
    options = EvaluationOptions("runs/x", "data", subsets=["text"], max_samples=3, load_in_4bit=True, reading=reading)
    words = list(map(str, seeds.command_line(options)))
    parsed = vars(make_parser().parse_args(words))
    parsed["reading"] = DatasetOptions.from_arguments(take_dataset_options(parsed))
    assert EvaluationOptions(**{name: parsed[name] for name in vars(options)}) == replace(options, overwrite=True)


@pytest.mark.parametrize(("model", "numbers"), [("runs/tiny", ["0"]), ("runs/{seed}", ["1", "1"])])
def test_each_run_needs_its_own_folder(model, numbers):
    with pytest.raises(SystemExit, match="write {seed}"):
        main(["--model_name_or_path", model, "--dataset", ".", "--seeds", *numbers])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="run it in a single process"):
        main(["--model_name_or_path", "runs/{seed}", "--dataset", ".", "--seeds", "0"])


# ---- the table -----------------------------------------------------------------------------------------------


def part(**figures):
    return {
        "examples": 5,
        "metrics": {name: summarize(values) for name, values in figures.items()},
    }


def cells(lines):
    return {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
        for row in lines[2:]
        if row.startswith("|")
    }


def test_table_has_our_runs_text_only_and_every_published_system():
    found = {
        "text": {"meld": part(weighted_f1=[0.5, 0.6], accuracy=[0.4])},
        "text+audio+video": {"meld": part(weighted_f1=[0.61, 0.63])},
    }
    rows = cells(seeds.table("meld", found, 2))
    assert list(rows)[:2] == ["**ours**, text + audio + video", "**ours**, text only"]
    assert rows["**ours**, text + audio + video"] == [
        "2",
        "0.6200 ± 0.0141",
        "–",
        "–",
        "this run",
    ]
    assert rows["**ours**, text only"][:3] == ["2", "0.5500 ± 0.0707", "0.4000 (n=1)"]
    systems = seeds.read_published()["meld"]["systems"]
    assert set(rows) >= {system["name"] for system in systems}
    assert rows["MSE-Adapter, ChatGLM3-6B"][:2] == ["10", "0.6494 ± 0.0114"]
    assert rows["Light-MER 0.6B"][-1].endswith("(other protocol)")


def test_corpus_without_text_has_a_text_only_row():
    rows = cells(seeds.table("cherma", {"text": {}, "text+audio+video": {"cherma": part(accuracy=[0.5])}}, 1))
    assert rows["**ours**, text only"][:2] == ["0", "–"]


def test_custom_task_shows_all_its_figures():
    rows = seeds.table("mood", {"text": {"mood": part(accuracy=[0.5])}}, 1)
    assert rows[0] == "| mood | n | accuracy | source |"


def test_published_figures_use_the_names_of_the_metrics():
    from hub_cards.metrics.egmf_erc.egmf_erc import EGMFErc
    from hub_cards.metrics.egmf_msa.egmf_msa import EGMFMsa

    published = seeds.read_published()
    assert {name for name, part in published.items() if part["systems"]} == {
        "meld",
        "cherma",
        "mosei",
        "sims_v2",
    }
    for name, known in published.items():
        metric = EGMFErc if BUILT_IN_TASKS[name].kind == "classification" else EGMFMsa
        _, _, returns = metric.__doc__.partition("Returns:")
        defined = set(re.findall(r"\b[a-z]+[a-z0-9_]*\b", returns))
        assert set(known["shown"]) <= defined
        for system in known["systems"]:
            figures = {key: value for key, value in system.items() if key not in ("name", "source", "note", "n")}
            assert system["source"], system["name"]
            assert figures and set(figures) <= set(known["shown"]), system["name"]
            for figure in figures.values():
                value = figure["mean"] if isinstance(figure, dict) else figure
                assert 0 < value < 1  # shares, not percent
