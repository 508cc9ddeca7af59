"""Several runs judged together: trained where missing, summed up, and shown beside published figures."""

import builtins
import json
import re
import shutil
import statistics

import pytest
import yaml

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from training.arguments import parse_arguments
from training.evaluation import metrics, seeds
from training.evaluation.evaluator import main
from training.evaluation.metrics import add_published, published_metrics
from training.train import train


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
    recipe = RECIPE | {"dataset": str(tmp_path / "corpus"), "text_model_name_or_path": str(tmp_path / "llm")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def judge(place, *options, recipe=True):
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
    """Processes cost seconds: what is called is called here."""
    modules = {"training.train": lambda argv: train(*parse_arguments(argv)), "training.run_eval": main}
    monkeypatch.setattr(seeds, "_call", lambda module, *options: modules[module](list(map(str, options))))


def test_missing_runs_are_trained_and_all_are_summed_up(place, in_this_process):
    record, text = judge(place, "--seeds", 4, 7)
    assert (record["n"], record["seeds"]) == (2, [4, 7])
    assert set(record["subsets"]) == {"text", "text+audio+video"}
    runs = [json.loads((place / f"runs/tiny-{seed}/results-test.json").read_text()) for seed in (4, 7)]
    for seed in (4, 7):
        assert json.loads((place / f"runs/tiny-{seed}/training.json").read_text())["seed"] == seed
    for subset, tasks in record["subsets"].items():
        for task, part in tasks.items():
            for kind in ("published", "metrics"):
                for name, summary in part[kind].items():
                    values = [run["subsets"][subset]["tasks"][task][kind][name] for run in runs]
                    assert summary["values"] == values
                    assert summary["mean"] == pytest.approx(statistics.fmean(values))
                    assert summary["std"] == pytest.approx(statistics.stdev(values))
    assert "confidence_intervals" not in record["subsets"]["text"]["emotion"]["published"]
    assert "words alone" in text
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("runs/tiny-?/results-test.json")}
    assert judge(place, "--seeds", 4, 7)[1] == text  # nothing is trained or judged twice
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(SystemExit, match=r"other data, rows, subsets or settings .*--overwrite"):
        judge(place, "--seeds", 4, "--subsets", "every")
    with pytest.raises(SystemExit, match=r"other data, rows, subsets or settings .*--overwrite"):
        judge(place, "--seeds", 4, "--max_samples", 1)
    path = place / "runs/tiny-4/results-test.json"
    whole = path.read_text()
    path.write_text(whole.replace('"split_manifest": "official"', '"split_manifest": "video_disjoint"', 1))
    with pytest.raises(SystemExit, match=r"other data, rows, subsets or settings .*--overwrite"):
        judge(place, "--seeds", 4)
    path.write_text(whole)
    with pytest.raises(SystemExit, match="There is no run .*tiny-9.*--config"):
        judge(place, "--seeds", 9, recipe=False)


def test_run_that_fails_is_not_summed_up(place):
    shutil.rmtree(place / "llm")
    with pytest.raises(SystemExit, match="training.train failed"):
        judge(place, "--seeds", 0)
    assert not (place / "runs/tiny-seeds").exists()


@pytest.mark.parametrize(("model", "numbers"), [("runs/tiny", ["0"]), ("runs/{seed}", ["1", "1"])])
def test_runs_without_a_place_of_their_own_are_refused(model, numbers):
    with pytest.raises(SystemExit, match="write {seed}"):
        main(["--model_name_or_path", model, "--dataset", "nowhere", "--seeds", *numbers])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="call it in one"):
        main(["--model_name_or_path", "runs/{seed}", "--dataset", "nowhere", "--seeds", "0"])


# ---- the table -----------------------------------------------------------------------------------------------


def part(**figures):
    return {
        "rows": 5,
        "skipped": None,
        "published": {name: metrics.summarize(values) for name, values in figures.items()},
        "metrics": {},
    }


def cells(lines):
    return {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
        for row in lines[2:]
        if row.startswith("|")
    }


def test_table_has_ours_the_words_alone_and_every_published_system():
    found = {
        "text": {"meld": part(weighted_f1=[0.5, 0.6], accuracy=[0.4])},
        "text+audio+video": {"meld": part(weighted_f1=[0.61, 0.63])},
    }
    rows = cells(seeds.table("meld", found, 2))
    assert list(rows)[:2] == ["**ours**, text + audio + video", "**ours**, words alone"]
    assert rows["**ours**, text + audio + video"] == ["2", "0.6200 ± 0.0141", "–", "–", "this run"]
    assert rows["**ours**, words alone"][:3] == ["2", "0.5500 ± 0.0707", "0.4000 (n=1)"]
    systems = seeds.read_published()["meld"]["systems"]
    assert set(rows) >= {system["name"] for system in systems}
    assert rows["MSE-Adapter, ChatGLM3-6B"][:2] == ["10", "0.6494 ± 0.0114"]
    assert rows["Light-MER 0.6B"][-1].endswith("(other protocol)")


def test_words_alone_have_a_row_where_the_corpus_has_no_words():
    rows = cells(seeds.table("cherma", {"text": {}, "text+audio+video": {"cherma": part(accuracy=[0.5])}}, 1))
    assert rows["**ours**, words alone"][:2] == ["0", "–"]


def test_own_task_shows_all_its_figures():
    rows = seeds.table("mood", {"text": {"mood": part(accuracy=[0.5])}}, 1)
    assert rows[0] == "| mood | n | accuracy | source |"


def test_published_figures_are_named_as_the_metrics_name_them():
    from hub_cards.metrics.egmf_erc import egmf_erc
    from hub_cards.metrics.egmf_msa import egmf_msa

    published = seeds.read_published()
    assert {name for name, part in published.items() if part["systems"]} == {"meld", "cherma", "mosei", "sims_v2"}
    for name, known in published.items():
        module = egmf_erc if BUILT_IN_TASKS[name].kind == "classification" else egmf_msa
        defined = set(re.findall(r"\b[a-z]+[a-z0-9_]*\b", module._KWARGS_DESCRIPTION.partition("Returns:")[2]))
        assert set(known["shown"]) <= defined
        for system in known["systems"]:
            figures = {key: value for key, value in system.items() if key not in ("name", "source", "note", "n")}
            assert system["source"], system["name"]
            assert figures and set(figures) <= set(known["shown"]), system["name"]
            for figure in figures.values():
                value = figure["mean"] if isinstance(figure, dict) else figure
                assert 0 < value < 1  # shares, not percent


# ---- published metrics ---------------------------------------------------------------------------------------


def answers(task, said, truth):
    if task.kind == "regression":
        return [{"score": s, "truth": t} for s, t in zip(said, truth)]
    sure = {name: {other: float(other == name) for other in task.labels} for name in task.labels}
    return [{"label": s, "truth": t, "probabilities": sure[s]} for s, t in zip(said, truth)]


def test_emotions_are_judged_by_the_metric_module():
    task = BUILT_IN_TASKS["meld"]
    found = published_metrics(
        task, answers(task, ["joy", "anger", "joy", "joy"], ["joy", "anger", "anger", "joy"]), 20
    )
    assert found["accuracy"] == 0.75
    assert found["weighted_f1"] == pytest.approx(0.5 * 0.8 + 0.5 * 2 / 3)
    assert set(found["confidence_intervals"]) >= {"accuracy", "weighted_f1"}


@pytest.mark.parametrize(
    ("name", "figure"), [("mosei", "acc2_non0"), ("sims_v2", "acc2_sims"), ("sentiment", "f1_has0")]
)
def test_scores_are_judged_on_their_own_scale(name, figure):
    task = BUILT_IN_TASKS[name]
    found = published_metrics(task, answers(task, [0.8, -0.4, 0.2], [1.0, -1.0, -0.2]), 0)
    assert figure in found
    assert found["mae"] == pytest.approx((0.2 + 0.6 + 0.4) / 3)


def test_other_scale_is_left_out_with_a_reason(two_label_task):
    from processing_egmf import EGMFTask

    task = EGMFTask("stars", "regression", low=1, high=5, step=1, prompt="\nStars:")
    assert re.search(r"no published metric .*\[1, 5\]", published_metrics(task, answers(task, [2], [3]))["skipped"])


@pytest.mark.parametrize("subset", [None, "text+audio"])
def test_warning_of_one_label_names_the_task_and_the_subset(subset):
    task = BUILT_IN_TASKS["meld"]
    given = answers(task, ["joy", "joy", "joy"], ["joy", "anger", "anger"])
    named = "meld, text\\+audio" if subset else "meld"
    results = {subset: {"tasks": {"meld": {"predictions": given}}}}
    with pytest.warns(UserWarning, match=rf"^{named}: All 3 readable predictions are 'joy'"):
        add_published(results, {"meld": task}, 0) if subset else published_metrics(task, given, 0)


def test_machine_without_evaluate_says_so_and_goes_on(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("hub_cards"):
            raise ModuleNotFoundError("No module named 'evaluate'", name="evaluate")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    task = BUILT_IN_TASKS["meld"]
    results = {"text": {"left_out": 0, "tasks": {"meld": {"predictions": answers(task, ["joy"], ["joy"])}}}}
    add_published(results, {"meld": task})
    assert "evaluate is not installed" in results["text"]["tasks"]["meld"]["published"]["skipped"]
    assert "Published metrics left out: the package evaluate" in capsys.readouterr().out
    results["text"]["tasks"]["meld"] |= {"rows": 1, "metrics": {"accuracy": 1.0}}
    found = seeds.sum_up([{"subsets": results}])
    lines = seeds.table("meld", found, 1)
    assert cells(lines)["**ours**, words alone"][2] == "1.0000"
    assert "evaluate is not installed" in lines[-1]
