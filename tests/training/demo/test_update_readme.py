"""The figures of the README, from the results files."""

import re

import pytest

from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.demo.study import collect
from training.demo.update_readme import END, START, main, render, replace_block
from training.records import write_json


SPEED = {
    "settings": {"dtype": "float32", "batch_size": 8, "media": "features"},
    "answers": 7,
    "ratios": {"training_step": 1.234, "score_answers": 2.345},
    "answering_s_per_sample": 0.0567,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `training.demo.study` writes, as far as the README shows it: two seeds, and one of a variant."""
    folder = tmp_path_factory.mktemp("study")
    for seed in (0, 1):
        write_run(folder / f"egmf-{seed}", seed)
    write_run(folder / "text_only-0", 2, subsets=["text"])
    return {"ceilings": write_ceilings(folder), "variants": collect(folder)}


def table_of(text):
    """First cell -> the other cells of every row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return {row[0]: row[1:] for row in rows}


def shown(summary):
    spread = f" ± {summary['std']:.3f}" if summary["std"] is not None else ""
    return f"{summary['mean']:.3f}{spread}"


def test_table_shows_every_subset_beside_its_bound(results):
    table = table_of(render(results, SPEED))
    assert list(table)[:7] == [name.replace("+", " + ") for name in EVERY]
    for subset, tasks in results["variants"]["egmf"]["subsets"].items():
        bound = results["ceilings"]["sentiment"][subset]
        assert table[subset.replace("+", " + ")] == [
            shown(tasks["emotion"]["accuracy"]),
            f"{results['ceilings']['emotion'][subset]:.3f}",
            shown(tasks["sentiment"]["mae"]),
            "–" if bound is None else f"{bound:.3f}",
        ]


def test_table_shows_only_variants_that_were_run(results):
    table = table_of(render(results, SPEED))
    (name,) = [name for name in table if "(n = " in name]
    assert "(n = 1)" in name
    metrics = results["variants"]["text_only"]["subsets"]["text"]
    assert table[name][0] == shown(metrics["emotion"]["accuracy"])
    assert "±" not in table[name][0]


def test_text_shows_speed_and_size(results):
    text = render(results, SPEED)
    assert "2 seeds" in text
    assert "0.143" in text
    assert "1,234,567" in text
    assert "10.0 to 11.0" in text
    assert "1.23 times" in text
    assert "2.35 times" in text
    assert "0.057 s" in text
    assert "7 labels" in text


def test_block_is_replaced_and_nothing_else(results):
    text = f"before\n{START}\nold \\1 figures\n{END}\nafter {{}}\n"
    block = render(results, SPEED) + " \\g<0>"
    replaced = replace_block(text, block)
    assert replaced == f"before\n{START}\n{block}\n{END}\nafter {{}}\n"
    assert replace_block(replaced, block) == replaced
    with pytest.raises(ValueError, match="README has no"):
        replace_block("nothing here", block)


@pytest.mark.parametrize(("existing", "missing"), [((), "demo.json"), (("demo.json",), "speed.json")])
def test_missing_results_are_named(existing, missing, tmp_path, monkeypatch):
    monkeypatch.setattr("training.demo.update_readme.RESULTS", tmp_path)
    for name in existing:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape(f"There is no {tmp_path / missing}. Run")):
        main(["--readme", str(tmp_path / "README.md")])


def test_readme_is_written_from_the_results(results, tmp_path, monkeypatch):
    monkeypatch.setattr("training.demo.update_readme.RESULTS", tmp_path)
    write_json(tmp_path / "demo.json", results)
    write_json(tmp_path / "speed.json", SPEED)
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{START}\n{END}\n", encoding="utf-8")
    main(["--readme", str(readme)])
    text = readme.read_text(encoding="utf-8")
    assert text == f"# Title\n\n{START}\n{render(results, SPEED)}\n{END}\n"
    assert not re.search(r"nan|None|inf\b", text)
