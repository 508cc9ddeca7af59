"""Several seeds and variants: one results file, and the README's figures from it."""

import json
import re
import shutil
import statistics

import pytest

from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.demo.study import VARIANTS, collect, summarize
from training.demo.update_readme import END, START, main, render, replace_block


SPEED = {
    "settings": {"dtype": "float32", "batch_size": 8, "media": "features"},
    "answers": 7,
    "ratios": {"training_step": 1.234, "score_answers": 2.345},
    "answering_s_per_sample": 0.0567,
}


@pytest.fixture
def runs(tmp_path):
    """Two seeds of the model, one of a variant, one run that is not evaluated yet; what each one's results hold."""
    results = {seed: write_run(tmp_path / f"egmf-{seed}", seed) for seed in (0, 1)}
    text = write_run(tmp_path / "text_only-0", 2, subsets=["text"])
    write_run(tmp_path / "no_fusion_pretraining-0", 3)
    (tmp_path / "no_fusion_pretraining-0/results-test.json").unlink()
    return tmp_path, results, text


@pytest.fixture
def results(runs, tmp_path_factory):
    """What `training.demo.study` writes, as far as the README shows it."""
    return {"ceilings": write_ceilings(tmp_path_factory.mktemp("data")), "variants": collect(runs[0])}


def test_summary_by_hand():
    found = summarize([1.0, 2.0, 4.0])
    assert (found["n"], found["values"]) == (3, [1.0, 2.0, 4.0])
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["std"] == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)


def test_one_run_has_no_spread():
    assert summarize([0.25]) == {"n": 1, "mean": 0.25, "std": None, "values": [0.25]}


def test_finished_runs_are_collected(runs):
    folder, results, _ = runs
    found = collect(folder)
    assert list(found) == ["egmf", "text_only"]
    assert found["egmf"]["seeds"] == [0, 1]
    assert found["egmf"]["commits"] == [f"{0:040d}", f"{1:040d}"]
    assert found["egmf"]["minutes"]["values"] == [10.0, 11.0]
    assert found["egmf"]["trained_parameters"] == 1_234_567
    assert list(found["egmf"]["subsets"]) == EVERY
    assert list(found["text_only"]["subsets"]) == ["text"]
    for subset, tasks in found["egmf"]["subsets"].items():
        for task, metrics in tasks.items():
            for name, summary in metrics.items():
                values = [results[seed]["subsets"][subset]["tasks"][task]["metrics"][name] for seed in (0, 1)]
                assert summary["values"] == values
                assert summary["mean"] == pytest.approx(statistics.fmean(values))


def test_spread_of_the_gate_is_collected(runs):
    found = collect(runs[0])
    assert set(found["egmf"]["gate_spread"]) == {"local", "semantic", "global"}
    assert all(summary["n"] == 2 and summary["mean"] > 0 for summary in found["egmf"]["gate_spread"].values())
    assert "gate_spread" not in found["text_only"]  # it was not asked with all modalities


def test_run_that_was_moved_aside_or_resumed_is_not_counted_twice(runs):
    folder, *_ = runs
    shutil.copytree(folder / "egmf-0", folder / "egmf-0.20260101-120000")
    path = folder / "egmf-1/training.json"
    record = json.loads(path.read_text(encoding="utf-8")) | {"resumed_from": "checkpoint-5"}
    path.write_text(json.dumps(record), encoding="utf-8")
    found = collect(folder)["egmf"]
    assert found["seeds"] == [0, 1]
    assert found["minutes"]["values"] == [10.0]  # the other has only the time since it was resumed


@pytest.mark.parametrize("seeds", [[0], [1], [0, 1]])
def test_number_that_a_run_does_not_have_is_left_out(runs, seeds):
    """A correlation is unknown where a run answers the same to everything."""
    folder, results, _ = runs
    for seed in seeds:
        results[seed]["subsets"]["text"]["tasks"]["sentiment"]["metrics"]["correlation"] = None
        (folder / f"egmf-{seed}/results-test.json").write_text(json.dumps(results[seed]), encoding="utf-8")
    found = collect(folder)["egmf"]["subsets"]["text"]["sentiment"]
    assert "mae" in found
    assert found.get("correlation", {"n": 0})["n"] == 2 - len(seeds)


def test_empty_folder_has_no_runs(tmp_path):
    assert collect(tmp_path) == {}


def test_variants_change_options_that_exist():
    from training.arguments import parse_arguments

    for options, subsets in VARIANTS.values():
        parse_arguments(["--use_cpu", *options])
        assert subsets


# ---- the figures of the README -------------------------------------------------------------------------------


def table_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}


def shown(summary):
    return f"{summary['mean']:.3f}" + (f" ± {summary['std']:.3f}" if summary["std"] is not None else "")


def test_table_shows_every_subset_beside_its_bound(results):
    table, subsets = table_of(render(results, SPEED)), results["variants"]["egmf"]["subsets"]
    assert list(table)[:7] == [name.replace("+", " + ") for name in EVERY]
    for subset in EVERY:
        accuracy, bound, error, best = table[subset.replace("+", " + ")]
        assert accuracy == shown(subsets[subset]["emotion"]["accuracy"])
        assert bound == f"{results['ceilings']['emotion'][subset]:.3f}"
        assert error == shown(subsets[subset]["sentiment"]["mae"])
        known = results["ceilings"]["sentiment"][subset]
        assert best == ("–" if known is None else f"{known:.3f}")


def test_table_shows_the_variants_that_are_there(results):
    table = table_of(render(results, SPEED))
    rows = [name for name in table if "(n = " in name]
    assert len(rows) == 1
    assert "(n = 1)" in rows[0]
    metrics = results["variants"]["text_only"]["subsets"]["text"]
    assert table[rows[0]][0] == shown(metrics["emotion"]["accuracy"])
    assert "±" not in table[rows[0]][0]


def test_text_shows_speed_and_size(results):
    text = render(results, SPEED)
    for figure in (
        "2 seeds",
        "0.143",
        "1,234,567",
        "10.0 to 11.0",
        "1.23 times",
        "2.35 times",
        "0.057 s",
        "7 labels",
    ):
        assert figure in text, figure


def test_block_is_replaced_and_nothing_else(results):
    text = f"before\n{START}\nold \\1 figures\n{END}\nafter {{}}\n"
    block = render(results, SPEED) + " \\g<0>"
    found = replace_block(text, block)
    assert found == f"before\n{START}\n{block}\n{END}\nafter {{}}\n"
    assert replace_block(found, block) == found
    with pytest.raises(ValueError, match="README has no"):
        replace_block("nothing here", block)


@pytest.mark.parametrize(("there", "absent"), [((), "demo.json"), (("demo.json",), "speed.json")])
def test_readme_needs_its_results(there, absent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.demo.update_readme.RESULTS", tmp_path)
    for name in there:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--readme", str(tmp_path / "README.md")])
    assert f"there is no {tmp_path / absent}; " in capsys.readouterr().err


def test_readme_is_written_from_the_results(results, tmp_path, monkeypatch):
    monkeypatch.setattr("training.demo.update_readme.RESULTS", tmp_path)
    (tmp_path / "demo.json").write_text(json.dumps(results), encoding="utf-8")
    (tmp_path / "speed.json").write_text(json.dumps(SPEED), encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{START}\n{END}\n", encoding="utf-8")
    main(["--readme", str(readme)])
    text = readme.read_text(encoding="utf-8")
    assert text == f"# Title\n\n{START}\n{render(results, SPEED)}\n{END}\n"
    assert not re.search(r"nan|None|inf\b", text)
