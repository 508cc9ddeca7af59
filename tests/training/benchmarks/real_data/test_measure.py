"""The benchmark on real data, on small files in the corpora's layouts, with a tiny language model."""

import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.release_tables import SECRET, write_releases
from training.benchmarks.real_data.__main__ import main
from training.benchmarks.real_data.benchmarks import BENCHMARKS
from training.benchmarks.real_data.corpora import TASKS
from training.benchmarks.real_data.measure import (
    MANIFEST,
    BenchmarkOptions,
    check_aims,
    command_line,
    convert,
    write_manifest,
)
from training.benchmarks.real_data.table import render
from training.data.dataset import load_examples
from training.records import read_json


pytestmark = pytest.mark.integration
TINY_TRAINING = {
    "text_model_dtype": "float32",
    "conv_channels": [4, 6],
    "encoder_hidden_size": 8,
    "fusion_hidden_size": 16,
    "lora_r": 2,
    "max_steps": 1,
    "fusion_pretraining_epochs": 1,
    "per_device_train_batch_size": 4,
    "disable_tqdm": "true",
    "max_length": 320,
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    return write_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def run_benchmark(releases, tmp_path, trained_tokenizer):
    """`run_benchmark(*options)` -> the content of the results file, `results/real.json` in tmp_path."""
    llm = write_language_model(tmp_path / "tiny-llm", tiny_llama(trained_tokenizer), trained_tokenizer)
    output = tmp_path / "results/real.json"
    paths = {
        "dataset": releases,
        "text_model_name_or_path": llm,
        "work": tmp_path / "work",
        "output": output,
    }

    def run(*options):
        main([*options, *command_line(paths), *command_line(TINY_TRAINING), "--use_cpu"])
        return read_json(output)

    return run


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_benchmark_from_release_to_table(name, run_benchmark, releases, tmp_path):
    results = run_benchmark("--only", name)
    assert list(results["benchmarks"]) == [name]
    assert results["text_model"] == "tiny-llm"
    benchmark = BENCHMARKS[name]
    record = results["benchmarks"][name]
    counts = record["examples"]
    assert counts["train"]
    assert bool(counts["inner"]) == bool(benchmark.inner)
    if name == "mosi":
        assert 4 <= counts["validation"] <= 8
    else:
        assert counts["validation"] == 8
    assert set(record["aims"]) == set(benchmark.aims)
    assert set(benchmark.shown) <= set(record["baseline"]["figures"])
    for summary in record["egmf"]["subsets"][record["egmf"]["everything"]].values():
        assert summary["n"] == len(summary["values"])

    calibration = record["egmf"]["calibration"]
    assert list(calibration) == (list(record["egmf"]["subsets"]) if benchmark.inner else [])
    for figures in calibration.values():
        assert set(figures) == {"before", "after"}
        assert figures["after"]["error" if benchmark.task == "meld" else "negative_log_likelihood"]["mean"] >= 0

    table = (tmp_path / "results/real.md").read_text(encoding="utf-8")
    assert table == render(results)
    assert ("## Calibration" in table) == bool(benchmark.inner)
    assert benchmark.title in table
    assert benchmark.about in table
    assert ("to the last epoch" in table) != bool(benchmark.inner)
    everything = table + (tmp_path / "results/real.json").read_text(encoding="utf-8")
    assert SECRET not in everything.casefold()
    assert str(releases) not in everything
    assert str(tmp_path) not in everything
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["real.json", "real.md"]


def test_seeds_are_merged_without_repeating_work(run_benchmark, tmp_path):
    run_benchmark("--only", "mosi")
    checkpoints = sorted((tmp_path / "work").rglob("model.safetensors"))
    times = [path.stat().st_mtime_ns for path in checkpoints]
    results = run_benchmark("--only", "mosi", "--seeds", "0", "1")
    mosi = results["benchmarks"]["mosi"]["egmf"]
    assert mosi["seeds"] == [0, 1]
    assert mosi["subsets"]["text+audio+video"]["mae"]["n"] == 2
    assert [path.stat().st_mtime_ns for path in checkpoints] == times


@pytest.mark.parametrize("name", ["mosi", "ravdess", "meld", "emotiontalk"])
def test_no_group_is_in_two_splits(name, releases, tmp_path):
    benchmark = BENCHMARKS[name]
    corpus = convert(name, BenchmarkOptions(releases, "unused", tmp_path))
    write_manifest(benchmark, corpus, 12)
    examples = load_examples(corpus, manifest=MANIFEST)
    groups = {split: set() for split in ("train", "inner", "unused", "validation")}
    for example in examples:
        groups[example["split"]].add(example["extra"][benchmark.group])
    assert [split for split in groups if not groups[split]] == ([] if benchmark.inner else ["inner"])
    assert not groups["train"] & groups["inner"]
    assert not groups["train"] & groups["unused"]
    assert not groups["train"] & groups["validation"]
    assert len([example for example in examples if example["split"] == "train"]) <= 14
    if name == "emotiontalk":
        assert groups["validation"] == {"S6", "S7"}


def test_aims_compare_with_the_baseline_and_the_minimum():
    benchmark = BENCHMARKS["ravdess"]
    for mean, reached in ((0.36, False), (0.38, True), (None, False)):
        aims = check_aims(benchmark, {"accuracy": {"mean": mean}}, {"accuracy": 0.35})
        assert aims == {"accuracy": {"above": 0.35, "at_least": 0.375, "reached": reached}}


def test_tasks_are_valid_and_cover_the_benchmarks():
    own = {name: EGMFTask.from_dict({"name": name, **task}) for name, task in TASKS.items()}
    assert {benchmark.task for benchmark in BENCHMARKS.values()} <= {*BUILT_IN_TASKS, *own}
