"""Plans carried out with a tiny model: what is missing is trained and evaluated, what is there is kept."""

import json

import pytest
import yaml

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from training import run_eval, run_experiment, train
from training.experiments import cost, diagnosis, language_models
from training.experiments.commands import Commands
from training.records import only_writer


RECIPE = {
    "text_model_dtype": "float32", "conv_channels": [4, 6], "encoder_hidden_size": 8,
    "fusion_hidden_size": 16, "num_frames": 2, "frame_size": 16, "lora_r": 2, "max_steps": 1, "report_to": "none",
    "per_device_train_batch_size": 2, "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip
PLAN = {
    "question": "Does the gate help?",
    "claim": "It does.",
    "reference": "gated",
    "subsets": ["all"],
    "variants": {
        "gated": {"subsets": ["text", "all"], "train": {"lora_r": 2}},
        "uniform": {"train": {"gate": "uniform"}},
        "masked": {"same_run_as": "gated", "evaluate": {"experts": ["local"]}},
    },
    "checks": [{"claim": "It helps", "better": "gated", "worse": "uniform"}],
}
MODULES = {
    "train": train.main,
    "run_eval": run_eval.main,
    "cost": cost.main,
    "diagnosis": diagnosis.main,
    "language_models": language_models.main,
}
FULL = "text+audio+video"


@pytest.fixture
def place(tmp_path, trained_tokenizer):
    corpus = write_corpus(tmp_path / "corpus")
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) | {"language": ["zh", "en"][number % 4 // 2]} for number, line in enumerate(lines)]
    text = "".join(json.dumps(example) + "\n" for example in examples)
    (corpus / "metadata.jsonl").write_text(text, encoding="utf-8")
    write_language_model(tmp_path / "llm", tiny_llama(trained_tokenizer), trained_tokenizer)
    recipe = RECIPE | {"dataset": str(corpus), "text_model_name_or_path": str(tmp_path / "llm")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    write_plan(tmp_path, PLAN)
    return tmp_path


def write_plan(place, plan):
    plan = plan | {"recipe": str(place / "recipe.yaml")}
    (place / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")


@pytest.fixture
def started(monkeypatch):
    """Calls commands in this process, because starting processes takes seconds. Lists their names."""
    names = []

    def run(self, kind, name, command, log):
        names.append(name)
        MODULES[command[2].rpartition(".")[2]](command[3:])
        self.report(kind, name, 60)

    monkeypatch.setattr(Commands, "run", run)
    return names


def experiment(place, *options, plans=("plan",)):
    files = [str(place / f"{name}.yaml") for name in plans]
    run_experiment.main([*files, "--folder", str(place / "runs"), *map(str, options)])


def test_only_one_experiment_at_a_time_uses_a_run(place, started):
    run = place / "runs/recipe-full/default-seed0.experiment"
    with only_writer(run, "experiment"):
        experiment(place, "--dry_run")
        with pytest.raises(
            SystemExit, match=r"Another experiment is writing to .*default-seed0.*another --folder than"
        ):
            experiment(place)
    assert started == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_plan_from_nothing_to_its_verdicts(place, started, capsys):
    experiment(place, "--seeds", 0, "--dry_run")
    printed = capsys.readouterr().out
    assert "2 trainings and 3 evaluations to do." in printed
    assert "no estimate" in printed
    assert started == []

    experiment(place, "--seeds", 0)
    assert started == [
        "default-seed0: training",
        "default-seed0: results-test.json",
        "default-seed0: results-test-experts=local.json",
        "gate=uniform-seed0: training",
        "gate=uniform-seed0: results-test.json",
    ]
    printed = capsys.readouterr().out
    assert "[2 of 5] default-seed0: results-test.json: done in 1.0 min, about 3 min left" in printed
    record = json.loads((place / "runs/plan.json").read_text())
    assert list(record["variants"]) == ["gated", "uniform", "masked"]
    assert set(record["variants"]["gated"]["subsets"]) == {"text", FULL}
    assert set(record["variants"]["uniform"]["subsets"]) == {FULL}
    cells = {name: variant["subsets"][FULL]["emotion"] for name, variant in record["variants"].items()}
    assert cells["gated"]["difference"] is None
    assert cells["uniform"]["difference"]["seeds"] == 1
    assert all(entry["mean"] == 0 for entry in cells["uniform"]["gate_spread"].values())
    masked = json.loads((place / "runs/recipe-full/default-seed0/results-test-experts=local.json").read_text())
    experts = masked["subsets"][FULL]["tasks"]["emotion"]["predictions"][0]["experts"]
    assert experts == {"local": 1.0, "semantic": 0.0, "global": 0.0}
    (check,) = record["checks"]
    assert {found["verdict"] for found in check["tasks"].values()} <= {"yes", "no", "undecided"}
    page = (place / "runs/plan.md").read_text()
    assert "# Does the gate help?" in page
    assert "| It helps | gated better than uniform | emotion | accuracy |" in page
    assert (place / "runs/plan.png").read_bytes().startswith(b"\x89PNG")

    # Finished work is kept, and shared with another plan, which needs more of it.
    started.clear()
    other = yaml.safe_load((place / "plan.yaml").read_text()) | {"subsets": ["every"]}
    other["variants"] = {"gated": None}
    (place / "other.yaml").write_text(yaml.safe_dump(other | {"checks": []}), encoding="utf-8")
    experiment(place, "--seeds", 0, plans=("plan", "other"))
    assert started == ["default-seed0: results-test.json"]
    assert len(json.loads((place / "runs/other.json").read_text())["variants"]["gated"]["subsets"]) == 7
    started.clear()
    experiment(place, "--seeds", 0, "--variants", "masked")
    assert started == []
    assert list(json.loads((place / "runs/plan.json").read_text())["variants"]) == ["gated", "masked"]

    recipe = place / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "lora_alpha: 4\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="was started with another recipe or other options"):
        experiment(place, "--seeds", 0)


@pytest.mark.slow
def test_languages_starts_heads_and_costs(place, started, capsys):
    """A plan with groups of examples, runs that start from others, another language model, a head and measurements."""
    plan = PLAN | {"groups": "language", "measure": True, "diagnose": True, "subsets": ["text", "all"]}
    plan["variants"] = {
        "gated": None,
        "chinese": {"starts_from": "gated", "train": {"where": ["language=zh"]}},
        "head": {"train": {"readout": "head"}},
        "one_layer": {"language_model": {"layers": 1}},
    }
    better, worse = "gated@en", "gated/text@en"
    plan["checks"] = [{"claim": "More so", "better": better, "worse": worse, "than": ["gated@en", "gated/text@en"]}]
    write_plan(place, plan)
    experiment(place, "--seeds", 0, "--dry_run")
    assert "Also 1 language models to copy, 1 diagnoses, 4 measurements." in capsys.readouterr().out
    experiment(place, "--seeds", 0)
    assert started[:2] == ["llm-layers=1", f"diagnosis of {place / 'llm'}"]
    trained = [name.removesuffix(": training") for name in started if name.endswith("training")]
    assert trained[:3] == ["default-seed0", "readout=head-seed0", "language_model=layers=1-seed0"]
    assert trained[3:] == ["starts_from=default-seed0,where=language=zh-seed0"]
    record = json.loads((place / "runs/plan.json").read_text())
    groups = record["variants"]["chinese"]["subsets"][FULL]["emotion"]["groups"]
    assert groups
    assert set(groups) <= {"en", "zh"}
    variants = record["variants"]
    assert variants["one_layer"]["parameters"]["all"] < variants["gated"]["parameters"]["all"]
    assert variants["one_layer"]["cost"]["flops"]["answer"] < variants["gated"]["cost"]["flops"]["answer"]
    assert variants["gated"]["cost"]["flops"]["training"] > variants["gated"]["cost"]["flops"]["answer"] / 3 > 0
    assert set(variants["gated"]["generated"]) == {"emotion", "sentiment"}
    assert "generated" in variants["head"]
    assert "generate" not in variants["head"]["cost"]["seconds"]
    assert all(peak > 0 for peak in variants["head"]["peak_gib"])
    figures = record["diagnosis"]["tasks"]["emotion"]["all"]
    assert 0 <= figures["probability"] < 1
    assert figures["tokens_per_character"] > 0
    assert str(place) not in (place / "runs/plan.json").read_text()
    page = (place / "runs/plan.md").read_text()
    for heading in ("## emotion by language", "## Cost", "## The language model llm before training"):
        assert heading in page
