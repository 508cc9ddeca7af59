"""Report and model card of a run, written only from its files."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.evaluation import plots, report
from training.evaluation.gates import gate_spread
from training.evaluation.report import results_table, write_report
from training.report import main


PICTURES = ["overview", "training", "confusion", "sentiment", "gates", "reliability"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a fake run in `run` and ceilings in `data`."""
    folder = tmp_path_factory.mktemp("place")
    results = write_run(folder / "run")
    ceilings = write_ceilings(folder / "data")
    return folder, results, ceilings


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_table_holds_every_subset_next_to_its_bound(place):
    _, results, ceilings = place
    header, _, *lines = map(cells, results_table(results, ceilings))
    assert [line[0].replace(" ", "") for line in lines] == EVERY
    for subset, line in zip(EVERY, lines, strict=True):
        found = dict(zip(header, line, strict=True))
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
    _, _, text, audio = map(cells, results_table(results, bounds))  # no rows of other subsets
    assert text[0] == "text"
    assert text[2] == text[3] == "–"
    assert text[1] != "–"
    assert audio == ["audio"] + ["–"] * 7


def test_gate_spread_by_hand():
    shares = [{"local": 0.2, "global": 0.8}, {"local": 0.6, "global": 0.4}]
    assert gate_spread([{"experts": experts} for experts in shares]) == pytest.approx({"local": 0.2, "global": 0.2})


@pytest.mark.parametrize("with_ceilings", [True, False])
def test_report_and_its_plots_are_written(place, tmp_path, capsys, with_ceilings):
    _, results, ceilings = place
    write_run(tmp_path / "run")
    if with_ceilings:
        write_ceilings(tmp_path / "data")
    main(["--run", str(tmp_path / "run"), "--dataset", str(tmp_path / "data")])
    assert str(tmp_path / "run/report.md") in capsys.readouterr().out
    text = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    assert "\n".join(results_table(results, ceilings if with_ceilings else {})) in text
    for words in ("ceiling", "best possible", "synthetic", "Chance is"):
        assert (words in text) == with_ceilings, words
    assert "14 clips with an emotion, 14 with a sentiment score in [-3, 3]. Seed 0" in text
    assert "Training took 10.0 minutes; fusion pretraining ended after 1.5." in text
    assert "1,234,567 of 7,654,321 parameters were trained" in text
    assert re.findall(r"!\[\w+\]\(([\w.]+)\)", text) == [f"{name}.png" for name in PICTURES]
    for name in PICTURES:
        picture = plt.imread(tmp_path / f"run/{name}.png")
        assert min(picture.shape[:2]) > 200
        assert np.ptp(picture) > 0.5  # something is drawn
    assert plt.get_fignums() == []


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


def test_other_results_can_be_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_plots", lambda files, run: [])
    write_run(tmp_path / "run")
    other = write_run(tmp_path / "other", seed=5)
    path = write_report(tmp_path / "run", tmp_path, tmp_path / "other/results-test.json")
    assert "\n".join(results_table(other, {})) in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", ["emotion", "sentiment"])
def test_run_of_other_tasks_has_no_report(tmp_path, task):
    write_run(tmp_path, tasks=(task,))
    with pytest.raises(ValueError, match=f"results-test.json has {task} for all modalities; .*egmf push --dry_run"):
        write_report(tmp_path, tmp_path)


@pytest.mark.parametrize("absent", ["results-test.json", "training.json"])
def test_run_without_its_files_has_no_report(tmp_path, absent):
    write_run(tmp_path)
    (tmp_path / absent).unlink()
    with pytest.raises(ValueError, match=f"There is no .*{absent}: a report needs a finished run"):
        write_report(tmp_path, tmp_path)
