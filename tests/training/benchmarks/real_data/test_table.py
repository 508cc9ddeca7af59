"""The table of the benchmark on real data."""

import pytest

from tests.helpers.benchmark_results import made_up_benchmark
from training.benchmarks.real_data.table import render
from training.paths import RESULTS
from training.records import read_json


@pytest.mark.parametrize(
    ("reached", "cell"), [(True, "| above 0.400: reached |"), (False, "above 0.400: **not reached**")]
)
def test_table_shows_whether_the_aim_was_reached(reached, cell):
    benchmark = made_up_benchmark()
    benchmark["aims"]["accuracy"]["reached"] = reached
    text = render({"text_model": "llm", "benchmarks": {"meld": benchmark}})
    assert "| Title | accuracy | 0.100 | 0.400 | 0.500 ± 0.125 | 0.300 to 0.700 |" in text
    assert cell in text
    assert "3 of train not used" in text
    assert "| text only |" in text


def test_shipped_table_is_rendered_from_the_shipped_results():
    results = read_json(RESULTS / "real_data.json")
    assert (RESULTS / "real_data.md").read_text(encoding="utf-8") == render(results)


def test_table_shows_the_calibration_of_labels_and_scores():
    labels, scores = made_up_benchmark(), made_up_benchmark()
    summary = {"n": 1, "std": None}
    errors = [summary | {"mean": mean, "values": [mean]} for mean in (0.2, 0.04, 0.03)]
    labels["egmf"]["calibration"] = {
        "text": {"before": {"error": errors[0]}, "after": {"error": errors[1], "error_by_chance": errors[2]}}
    }
    scores["egmf"]["calibration"] = {"audio": {"before": {"coverage": errors[0]}, "after": {"coverage": errors[1]}}}
    text = render({"text_model": "llm", "benchmarks": {"meld": labels, "mosi": scores}})
    assert "| Title | text only | calibration error | 0.200 | 0.040 | 0.030 |" in text
    assert "| Title | audio | coverage of 90% intervals | 0.200 | 0.040 | – |" in text
