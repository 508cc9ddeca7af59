"""The figures of the pages, from the results files."""

import pytest

from tests.helpers.run_files import EVERY, write_ceilings, write_run
from training.demo.study import collect
from training.demo.update_readme import (
    COMMANDS,
    main,
    render_backbones,
    render_blocks,
    render_calibration,
    render_data_needed,
    render_demo,
    render_ravdess,
    render_real_data,
    summarize_backbones,
    summarize_demo,
    summarize_real_data,
)
from training.evaluation.tables import markers
from training.paths import RESULTS
from training.records import read_json


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The part of the study's results that the README shows: two seeds, and one seed of a variant."""
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


IDEAL = {
    "examples": 40,
    "ideal": {name: 0.6 + 0.01 * index for index, name in enumerate(EVERY)},
    "learner": dict.fromkeys(EVERY, 0.55),
}


def test_table_shows_every_subset_next_to_its_bound(results):
    table = table_of(render_demo(results, IDEAL))
    assert list(table)[:7] == [name.replace("+", " + ") for name in EVERY]
    for subset, tasks in results["variants"]["egmf"]["subsets"].items():
        bound = results["ceilings"]["sentiment"][subset]
        assert table[subset.replace("+", " + ")] == [
            shown(tasks["emotion"]["accuracy"]),
            f"{tasks['emotion']['accuracy']['mean'] / 0.55:.0%} of 0.550",
            f"{IDEAL['ideal'][subset]:.3f}",
            f"{results['ceilings']['emotion'][subset]:.3f}",
            shown(tasks["sentiment"]["mae"]),
            "–" if bound is None else f"{bound:.3f}",
        ]


def test_table_shows_only_variants_that_were_run(results):
    table = table_of(render_demo(results, IDEAL))
    (name,) = [name for name in table if "(n = " in name]
    assert "(n = 1)" in name
    metrics = results["variants"]["text_only"]["subsets"]["text"]
    assert table[name][0] == shown(metrics["emotion"]["accuracy"])
    assert "±" not in table[name][0]


def test_new_clips_with_accuracy_and_calibration():
    def summary(mean):
        return {"n": 1, "mean": mean, "std": None}

    before = {"accuracy": summary(0.7), "confidence": summary(0.9), "error": summary(0.2)}
    figures = {"before": before, "after": {"error": summary(0.04), "error_by_chance": summary(0.03)}}
    record = {"examples": 1200, "seeds": [0], "subsets": dict.fromkeys(EVERY, figures)}
    best = {"learner": dict.fromkeys(EVERY, 0.8), "ideal": dict.fromkeys(EVERY, 0.9)}
    text = render_calibration({**record, **best, "learner_error": dict.fromkeys(EVERY, 0.025)})
    assert "On 1,200 new clips** with emotions, drawn as the demo's own, one seed" in text
    expected = ["0.700", "87% of 0.800", "0.900", "0.900", "0.200", "0.040", "0.030", "0.025"]
    assert table_of(text)["text + audio"] == expected


def test_summary_shows_each_modality_and_all_of_them(results):
    text = summarize_demo(results, IDEAL)
    assert "2 seeds" in text
    assert "chance 0.143" in text
    assert "10.0 to 11.0 minutes" in text
    header = next(line for line in text.splitlines() if line.startswith("|"))
    assert header == "| modalities | text | audio | video | text + audio + video |"
    shown_subsets = ("text", "audio", "video", "text+audio+video")
    subsets = [results["variants"]["egmf"]["subsets"][name] for name in shown_subsets]
    assert table_of(text) == {
        "emotion accuracy": [shown(tasks["emotion"]["accuracy"]) for tasks in subsets],
        "best on these clips": [f"{IDEAL['ideal'][name]:.3f}" for name in shown_subsets],
        "sentiment MAE": [shown(tasks["sentiment"]["mae"]) for tasks in subsets],
    }


def test_text_shows_seeds_and_size(results):
    text = render_demo(results, IDEAL)
    assert "2 seeds" in text
    assert "0.143" in text
    assert "1,234,567" in text
    assert "10.0 to 11.0" in text


def benchmark(title, baseline, egmf, shown=("accuracy",)):
    figures = dict.fromkeys(shown, baseline)
    return {
        "title": title,
        "shown": list(shown),
        "examples": {"train": 600},
        "baseline": {"constant": dict.fromkeys(shown), "figures": figures},
        "egmf": {
            "everything": "audio",
            "subsets": {"audio": {name: {"mean": egmf, "std": None} for name in shown}},
            "confidence_intervals": {name: [egmf - 0.1, egmf + 0.1] for name in shown},
        },
    }


def test_loss_to_the_baseline_is_stated():
    benchmarks = {"a": benchmark("Won", 0.4, 0.5), "b": benchmark("Lost", 0.5, 0.4, ("mae", "correlation"))}
    results = {"text_model": "llm", "benchmarks": benchmarks}
    table = table_of(render_real_data(results))
    assert table["Won"] == ["accuracy", "–", "0.400", "0.500", "0.400 to 0.600"]
    assert table["Lost"] == ["correlation", "–", "0.500", "0.400, below the baseline", "0.300 to 0.500"]
    needed = table_of(render_data_needed(results))
    assert needed["Lost"] == ["600", "correlation", "–", "0.500", "0.400, below the baseline"]


def ravdess_results():
    variants = {}
    for name, shift in (("as_it_is", 0.0), ("per_speaker", 0.1)):
        figures = {
            "logistic_regression": {"mean": 0.5 + shift, "std": 0.05},
            "accuracy": {"mean": 0.6 + shift, "std": None},
        }
        variants[name] = {"subsets": {"audio": figures}}
    return {"folds": [1, 2], "seeds": [0, 1], "actors": 4, "audio": "whisper-base", "variants": variants}


def test_unseen_speakers_are_shown_beside_the_regression():
    text = render_ravdess(ravdess_results())
    assert "unseen actors in each of 2 folds, 2 seeds (mean" in text
    assert table_of(text) == {"audio": ["0.500 ± 0.050", "0.600", "0.600 ± 0.050", "0.700"]}


def test_summary_of_real_data_states_every_loss():
    ravdess = ravdess_results()
    ravdess["variants"]["per_speaker"]["subsets"]["audio"]["accuracy"]["mean"] = 0.59
    benchmarks = {"a": benchmark("Won", 0.4, 0.5), "b": benchmark("Lost", 0.5, 0.4, ("mae", "correlation"))}
    text = summarize_real_data(ravdess, {"text_model": "llm", "benchmarks": benchmarks})
    assert "unseen in each of 2 folds, 2 seeds (mean" in text
    assert table_of(text) == {
        "RAVDESS by `make real`, audio": [
            "accuracy",
            "0.500 ± 0.050",
            "0.600",
            "0.600 ± 0.050",
            "0.590, below the baseline",
        ],
        "Won": ["accuracy", "0.400", "0.500", "", ""],
        "Lost": ["correlation", "0.500", "0.400, below the baseline", "", ""],
    }


def record(backbone, parameters, gpu_gb):
    peak = {"bytes": 2**34, "gpu_gb": gpu_gb}
    training = dict.fromkeys(("bfloat16, checkpointed", "4-bit, checkpointed"), peak)
    return {
        "backbone": backbone,
        "batch": {"samples": 8, "length": 128},
        "parameters": {"language model": {"total": parameters, "trainable": 0}, "LoRA": {"total": 0, "trainable": 1}},
        "peaks": {"training": training, "answering": {"bfloat16": peak}},
    }


def test_backbones_are_sorted_by_size():
    records = [record("large", 7 * 10**9, None), record("small", 10**8, 24)]
    table = table_of(render_backbones({"backbones": records}))
    assert list(table) == ["`small`", "`large`"]
    assert table["`small`"] == ["0.10 B", "0.0 M", *["16.0 GiB, 24 GB GPU"] * 3]
    assert table["`large`"][2] == "16.0 GiB, –"
    summary = summarize_backbones({"backbones": records})
    assert summary.splitlines()[0] == "| `--backbone` | `small` | `large` |"
    assert "batch 8, 128 tokens" in summary
    assert table_of(summary) == {
        "parameters": ["0.10 B", "7.00 B"],
        **{f"GPU to {peak}": ["24 GB", "–"] for peak in ("train, bfloat16", "train, 4-bit", "predict, bfloat16")},
    }


@pytest.mark.parametrize("missing", COMMANDS)
def test_missing_results_are_named(missing, tmp_path, monkeypatch):
    monkeypatch.setattr("training.demo.update_readme.RESULTS", tmp_path)
    for name in COMMANDS:
        if name == missing:
            break
        (tmp_path / name).write_text("{}")
    with pytest.raises(SystemExit) as error:
        main([])
    assert f"{missing}. Run `{COMMANDS[missing]}`" in str(error.value)


def test_command_updates_every_page(tmp_path):
    blocks = render_blocks()
    for page, named in blocks.items():
        path = tmp_path / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join("\n".join(markers(name)) for name in named), encoding="utf-8")
    main(["--repository", str(tmp_path)])
    for page, named in blocks.items():
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert all(block in text for block in named.values())
    speed = read_json(RESULTS / "speed.json")
    assert f"{speed['ratios']['training_step']:.2f} times" in blocks["training/results/README.md"]["speed"]
