"""The page of experiments: its tables are those of the stored results, which are small."""

import json

import pytest

from training.evaluation.tables import markers
from training.experiments.plan import plan_names
from training.experiments.readme import PAGE, STORED, main, render_gates, store_results, update_page


SUMMARY = {"n": 2, "mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
DIFFERENCE = {"metric": "accuracy", "mean": 0.1, "low": 0.02, "high": 0.2, "seeds": 2, "examples": 40}
CELL = {
    "metrics": {"accuracy": SUMMARY},
    "difference": DIFFERENCE,
    "gate_spread": {"local": SUMMARY},
    "groups": {"zh": {"examples": 9, "metric": SUMMARY, "difference": None}},
}
RECORD = {
    "plan": "mine",
    "question": "Does it help?",
    "claim": "It does.",
    "recipe": "demo",
    "protocol": "small",
    "reference": "with_it",
    "seeds": [0, 1],
    "tasks": {"emotion": "classification"},
    "metrics": {"emotion": "accuracy"},
    "groups": "language",
    "left_out": ["variant other: text is all that the recipe has"],
    "diagnosis": None,
    "variants": {
        "with_it": {"seeds": [0, 1], "subsets": {"text": {"emotion": CELL}}, "commits": ["abcdefgh", "01234567"]}
    },
    "checks": [
        {
            "claim": "It helps more",
            "better": "with_it",
            "worse": "without",
            "than": ["a", "b"],
            "by": 0.05,
            "tasks": {"emotion": DIFFERENCE | {"verdict": "undecided"}},
        }
    ],
}


def test_page_holds_what_is_stored_and_every_plan():
    text = PAGE.read_text(encoding="utf-8")
    assert update_page(text) == text, "run python -m training.experiments.readme"
    assert all(f"[{name}](plans/{name}.yaml)" in text for name in plan_names())
    assert sum(path.stat().st_size for path in STORED.glob("*")) < 1_000_000


def test_results_are_stored_and_shown(tmp_path):
    source = tmp_path / "mine-demo.json"
    source.write_text(json.dumps(RECORD), encoding="utf-8")
    folder = tmp_path / "stored"
    stored = store_results(source, folder)
    page = update_page("# Experiments\n", folder)
    start, end = markers("mine-demo")
    assert page.startswith("# Experiments\n\n## Does it help?\n\nThe paper: It does.\n\n" + start)
    assert "| with_it | text | 2 | 0.500 ± 0.100 | +0.100 (+0.020 to +0.200) | 0.500 |" in page
    assert "#### emotion by language" in page
    assert "| with_it | text | 0.500 ± 0.100 | – |" in page
    assert "with_it better than without by 0.05, more so than a than b | emotion | accuracy |" in page
    assert "Left out: variant other" in page
    assert "The runs were trained by 2 versions of the code, which may differ: 0123456, abcdefg." in page
    # What is written by hand stays, and figures follow the file.
    written = page.replace(start, f"It was found that it does.\n\n{start}")
    assert update_page(written, folder) == written
    stored.write_text(json.dumps(RECORD | {"seeds": [0, 1, 2]}), encoding="utf-8")
    changed = update_page(written, folder)
    assert "seeds 0, 1, 2." in changed
    assert changed.replace("seeds 0, 1, 2.", "seeds 0, 1.") == written
    assert changed.endswith(f"{end}\n")


def test_other_and_large_files_are_not_stored(tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"plan": "x"}), encoding="utf-8")
    with pytest.raises(SystemExit, match="is not a results file of egmf experiment: it has no question, variants"):
        main([str(other)])
    other.write_text(json.dumps(RECORD | {"note": "x" * 200_000}), encoding="utf-8")
    with pytest.raises(ValueError, match="at most 200,000 are stored"):
        store_results(other, tmp_path / "stored")


def test_what_the_weights_depend_on_is_shown_by_property_and_run(tmp_path):
    for seed in (0, 1):
        factors = {
            "label": {"explained": [0.5 + seed / 10, 0.25], "p_value": 0.00049975},
            "speaker": {"explained": [0.031, 0.004], "p_value": 0.26},
        }
        record = {"tasks": {"emotion": {"experts": ["a", "b"], "factors": factors}}}
        (tmp_path / f"run-seed{seed}.json").write_text(json.dumps(record), encoding="utf-8")
    assert render_gates(tmp_path).splitlines()[2:] == [
        "| label | emotion | run-seed0 | 50% | 25% | 0.0005 |",
        "| label | emotion | run-seed1 | 60% | 25% | 0.0005 |",
        "| speaker | emotion | run-seed0 | 3% | 0% | 0.26 |",
        "| speaker | emotion | run-seed1 | 3% | 0% | 0.26 |",
    ]
