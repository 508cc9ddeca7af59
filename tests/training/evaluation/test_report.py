"""Reports of runs of any tasks, as Markdown and as one HTML file, written only from the files of a run."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.evaluation import calibration, gate_factors, plots, report_sections
from training.evaluation.calibration import calibration_figures
from training.evaluation.report import main, write_report
from training.evaluation.report_blocks import Heading, Paragraph, Table, to_html, to_markdown
from training.evaluation.report_tables import results_table, speaker_table, worst_table
from training.evaluation.tables import markdown_table
from training.records import read_json, write_json


PICTURES = [
    "overview",
    "confusion-emotion",
    "reliability-emotion",
    "scores-sentiment",
    "gates",
    "gates-by-group",
    "training",
]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(gate_factors, "PERMUTATIONS", 20)
    monkeypatch.setattr(calibration, "DRAWS", 10)


@pytest.fixture
def no_pictures(monkeypatch):
    """As without matplotlib: the pictures of one report take seconds."""
    monkeypatch.setattr(report_sections.importlib.util, "find_spec", lambda name: None)


def test_table_of_the_demo_holds_every_subset_next_to_its_bound(tmp_path):
    results = write_run(tmp_path)
    ceilings = write_ceilings(tmp_path)
    table = results_table(results, ceilings)
    assert [row[0].replace(" ", "") for row in table.rows] == EVERY
    for subset, row in zip(EVERY, table.rows, strict=True):
        found = dict(zip(table.header, row, strict=True))
        emotion, sentiment = (results["subsets"][subset]["tasks"][t]["metrics"] for t in ("emotion", "sentiment"))
        bound = ceilings["emotion"][subset]
        error = ceilings["sentiment"][subset]
        assert found["emotion accuracy"] == f"{emotion['accuracy']:.3f}"
        assert found["ceiling"] == f"{bound:.3f}"
        assert found["share of ceiling"] == f"{emotion['accuracy'] / bound:.1%}"
        assert found["weighted F1"] == f"{emotion['weighted_f1']:.3f}"
        assert found["sentiment MAE"] == f"{sentiment['mae']:.3f}"
        assert found["best possible"] == ("–" if error is None else f"{error:.3f}")
        assert found["correlation"] == f"{sentiment['correlation']:.3f}"


def test_table_shows_what_is_missing_as_a_dash(tmp_path):
    results = write_run(tmp_path, subsets=["text"])
    results["subsets"]["audio"] = {"left_out": 20, "tasks": {}}
    bounds = {"emotion": {"video": 0.9}}
    text, audio = results_table(results, bounds).rows  # no rows of other subsets
    assert text[0] == "text"
    assert text[2] == text[3] == "–"
    assert text[1] != "–"
    assert audio == ["audio"] + ["–"] * 7


def test_report_of_the_demo_with_its_pictures(tmp_path, capsys):
    run = tmp_path / "run"
    results = write_run(run)
    ceilings = write_ceilings(run)
    calibration = {"text": {"temperature": 2.0, "exponent": 1.6, "uniform_weight": 0.05}}
    task = {**BUILT_IN_TASKS["emotion"].to_dict(), "calibration": calibration}
    write_json(run / "processor_config.json", {"tasks": [task]})
    main([str(run)])
    assert str(run / "report.html") in capsys.readouterr().out
    text = (run / "report.md").read_text(encoding="utf-8")
    table = results_table(results, ceilings)
    assert "\n".join(markdown_table(table.header, table.rows)) in text
    assert "The corpus is synthetic" in text
    assert "14 examples of emotion, 14 examples of sentiment" in text
    numbers = "temperature, exponent and weight of equal probabilities: text 2.00, 1.60 and 0.05."
    assert f"In the checkpoint, {numbers}" in text
    assert "The checkpoint is not calibrated" in text  # for sentiment
    assert "Training took 10.0 minutes; fusion pretraining ended after 1.5." in text
    assert "1,234,567 of 7,654,321 parameters were trained, on 1,234 examples" in text
    for subset in EVERY:  # confidence beside accuracy
        predictions = results["subsets"][subset]["tasks"]["emotion"]["predictions"]
        figures = calibration_figures(predictions, calibration)
        shown = [figures["before"][name] for name in ("accuracy", "confidence")] + [figures["after"]["confidence"]]
        shown += [figures[state]["error"] for state in ("before", "after")]
        assert f"| {subset.replace('+', ' + ')} | {' | '.join(f'{value:.3f}' for value in shown)} |" in text
    assert re.findall(r"!\[[^\]]+\]\(([\w.-]+)\.png\)", text) == PICTURES
    for name in PICTURES:
        picture = plt.imread(run / f"{name}.png")
        assert min(picture.shape[:2]) > 200
        assert np.ptp(picture) > 0.5  # something is drawn
    assert plt.get_fignums() == []
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(PICTURES)
    assert "<script" not in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({}, "`egmf calibrate {run}` does it."),
        ({"train_split": "train", "eval_split": "validation"}, "`egmf calibrate {run}` does it."),
        ({"train_split": "train", "eval_split": "train"}, "Its training left no split on which it could be."),
    ],
)
def test_command_for_calibration_only_if_a_split_is_left_for_it(splits, sentence, tmp_path):
    write_run(tmp_path)
    record = read_json(tmp_path / "training.json")
    write_json(tmp_path / "training.json", {**record, "data_arguments": splits})
    main([str(tmp_path)])
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"The checkpoint is not calibrated. {sentence.format(run=tmp_path)}" in report


@pytest.mark.parametrize("task", ["emotion", "sentiment"])
def test_report_of_one_task_and_one_subset(tmp_path, no_pictures, task):
    results = write_run(tmp_path, tasks=(task,), subsets=["text"])
    for number, prediction in enumerate(results["subsets"]["text"]["tasks"][task]["predictions"]):
        prediction |= {"columns": {"speaker": f"S{number % 2}"}, "media": {"audio": f"clips/{number}.wav"}}
    write_json(tmp_path / "results-test.json", results)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no plots, because matplotlib is not installed. Run `pip install matplotlib`" in text
    assert f"## Task {task}" in text
    assert "Not evaluated: audio, video, text + audio" in text
    assert "| S0 | 7 |" in text
    assert re.search(r"\| clips/\d+.wav \|", text)
    assert "| depends on | examples | variance of local explained |" in text
    assert "synthetic" not in text


def test_runs_without_results_or_record(tmp_path, no_pictures):
    write_run(tmp_path)
    (tmp_path / "results-test.json").rename(tmp_path / "results-validation.json")
    assert "## Task emotion" in write_report(tmp_path).read_text()
    (tmp_path / "results-validation.json").unlink()
    text = write_report(tmp_path).read_text()
    assert "The run was not evaluated. Next: `egmf evaluate" in text
    assert "Training took 10.0 minutes" in text
    write_run(tmp_path)
    (tmp_path / "training.json").unlink()
    assert "Training took" not in write_report(tmp_path).read_text()


def test_what_is_no_run_is_refused(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="is not a folder"):
        write_report(run)
    run.mkdir()
    with pytest.raises(ValueError, match="is not a run: it has neither training.json nor results"):
        write_report(run)
    results = write_run(run)
    with pytest.raises(ValueError, match="There is no .*nowhere.json"):
        write_report(run, results_file=tmp_path / "nowhere.json")
    write_json(run / "results-test.json", {**results, "weights": "of another"})
    with pytest.raises(ValueError, match="results of another checkpoint.*egmf evaluate"):
        write_report(run)
    whole = (run / "results-test.json").read_text()
    (run / "results-test.json").write_text(whole[:500])
    with pytest.raises(ValueError, match="results-test.json is not a JSON file"):
        write_report(run)
    (run / "results-test.json").write_text("{}")
    with pytest.raises(ValueError, match="has no entry subsets"):
        write_report(run)


def test_worst_mistakes_and_speakers_by_hand():
    labels = [("a", "joy", 0.9), ("b", "anger", 0.6), ("c", "joy", 0.7)]
    predictions = [
        {"id": name, "truth": "anger", "label": label, "score": score, "columns": {"speaker": speaker}}
        for (name, label, score), speaker in zip(labels, ("Ann", "Ben", "Ben"), strict=True)
    ]
    assert [row[0] for row in worst_table(predictions).rows] == ["a", "c"]  # the surest first
    assert speaker_table(predictions).rows == [["Ann", 1, "0.000"], ["Ben", 2, "0.500"]]
    assert speaker_table(predictions[1:]) is None
    scores = [{"id": "d", "truth": 1.0, "median": -1.0, "interval": [-2.0, 0.5]}]
    assert worst_table(scores).rows == [["d", 1.0, -1.0, "-2 to 0.5", "–"]]


def test_blocks_are_escaped(tmp_path):
    blocks = [Heading("<b>", 1), Paragraph("run `egmf` & see", warning=True), Table(["a"], [["x|y<z"]])]
    assert to_markdown(blocks) == "# <b>\n\n**run `egmf` & see**\n\n| a |\n|---|\n| x\\|y<z |\n"
    page = to_html(blocks, tmp_path)
    assert "<h1>&lt;b&gt;</h1>" in page
    assert '<p class="warning">run <code>egmf</code> &amp; see</p>' in page
    assert "<td>x|y&lt;z</td>" in page


def test_learning_curves_of_every_task_and_of_the_gate():
    history = [
        {"epoch": 1.0, "loss": 1.5},
        {"epoch": 1.0, "eval_loss": 2.0, "eval_mood_accuracy": 0.5, "eval_gate_spread_local": 0.1},
        {"epoch": 2.0, "eval_mood_accuracy": 0.75, "eval_score_mae": float("nan")},
    ]
    assert report_sections.learning_curves(history) == {
        "accuracy": {"mood_accuracy": [(1.0, 0.5), (2.0, 0.75)]},
        "gate spread": {"gate_spread_local": [(1.0, 0.1)]},
    }


def test_faces_are_above_the_bars_of_the_overview(tmp_path):
    heights = []
    plt.imsave(tmp_path / "faces.png", np.zeros((40, 60, 3)))
    for faces in (None, tmp_path / "nowhere.png", tmp_path / "faces.png"):
        plots.plot_overview({"text": 0.5}, None, faces, tmp_path / "overview.png")
        heights.append(plt.imread(tmp_path / "overview.png").shape[0])
    assert heights[0] == heights[1]
    assert heights[2] > 1.5 * heights[0]


def test_run_without_evaluations_or_fusion_pretraining(tmp_path, monkeypatch):
    labels = []

    def keep_labels(figure, path):
        labels.extend(line.get_label() for line in figure.axes[0].get_lines())
        plt.close(figure)

    monkeypatch.setattr(plots, "save_figure", keep_labels)
    record = {"fusion_pretraining_losses": [], "log_history": [{"epoch": 1.0, "loss": 1.5}]}
    plots.plot_training(record, tmp_path / "training.png")
    assert [label for label in labels if not label.startswith("_")] == ["training, per sample"]
