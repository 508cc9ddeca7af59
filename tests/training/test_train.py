"""Training, from arguments to folders that load anywhere: a tiny language model and twelve real clips."""

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFProcessor
from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from tests.helpers.run_files import SMALL_RUN as SMALL
from training.arguments import parse_arguments
from training.data.collator import SUBSETS, EGMFDataCollator
from training.data.dataset import EGMFDataset, load_examples
from training.evaluation.evaluator import evaluate
from training.model.builder import load
from training.model.language_model import portable_id
from training.model.tasks_file import read_tasks
from training.train import move_aside, require_modalities, train, used_tasks
from training.trainer.checkpointing import resolve_output_dir
from training.trainer.pretraining import fuse_alone_and_together, pretrain_fusion


pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    """A folder with `corpus` and `llm`, where runs go to `runs`."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "corpus")
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    return folder


def options(place, name, **changes):
    settings = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
    }
    argv = ["--use_cpu"]
    for key, value in {**settings, **SMALL, **changes}.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])] if value is not None else []
    return parse_arguments(argv)


def run(place, name, **changes):
    return train(*options(place, name, **changes))


@pytest.fixture(scope="module")
def whole(place):
    """An uninterrupted run with warm-up: its trainer."""
    return run(
        place, "whole", fusion_pretraining_epochs=1, fusion_pretraining_batch_size=3, fusion_learning_rate="2e-2"
    )


def test_features_that_no_row_has_are_not_asked_for(place):
    changes = {"audio": "features", "audio_feature_size": 8, "max_steps": 1}
    with pytest.raises(
        ValueError, match=r"--audio features is asked for, but the training rows have audio as waveform"
    ):
        run(place, "no-features", **changes)
    run(place, "no-features", **changes, modalities=["text", "video"])


def test_modality_that_no_row_has_is_said(make_processor, capsys):
    rows, processor = (
        [{"id": "a", "text": "Hello."}, {"id": "b", "audio": "b.wav"}],
        make_processor("waveform", "frames"),
    )
    require_modalities(rows, processor, ("text", "audio", "video"), show=True)
    assert capsys.readouterr().err == "warning: no training row has video: nothing will be learned of it.\n"
    require_modalities(rows, processor, ("text", "audio"), show=True)
    assert capsys.readouterr().err == ""


def test_weights_can_be_read_by_whoever_reads_the_rest(whole):
    folder = Path(whole.args.output_dir)
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(left, right):
    assert set(left) == set(right)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


# ---- a run ---------------------------------------------------------------------------------------------------


def test_run_writes_what_it_says(place, whole):
    folder = place / "runs/whole"
    names = {path.name for path in folder.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "processor_config.json",
        "training.json",
        "checkpoint-2",
        "checkpoint-4",
    } <= names
    assert not list(folder.rglob("training_args.bin"))  # a pickle that nothing reads
    record = json.loads((folder / "training.json").read_text())
    assert len(record["fusion_pretraining_losses"]) == 1
    assert math.isfinite(record["fusion_pretraining_losses"][0])
    assert record["rows"] == {"train": 6, "eval": 4}
    assert record["seed"] == 3
    assert 0 < record["parameters"]["trained"] < record["parameters"]["all"]
    assert whole.state.global_step == 4


def test_light_checkpoint_holds_no_frozen_weights(place, whole):
    names = set(weights(place / "runs/whole"))
    assert all(name.startswith("egmf.") or "lora_" in name for name in names)
    assert any("lora_" in name for name in names)
    assert any(name.startswith("egmf.") for name in names)


def test_steps_change_every_trained_weight_and_no_frozen_one(place, whole):
    first, last = weights(place / "runs/whole/checkpoint-2"), weights(place / "runs/whole/checkpoint-4")
    still = {name for name in first if torch.equal(first[name], last[name])}
    assert not {name for name in still if "lora_" in name or "fusion" in name or "experts" in name}
    base = load_file(place / "llm/model.safetensors")
    trained = {
        name.replace(".base_layer", ""): value
        for name, value in whole.model.language_model.state_dict().items()
        if "lora_" not in name
    }
    for name in base:
        assert torch.equal(trained[name], base[name]), name


def test_loss_and_metrics_of_both_tasks_are_logged(whole):
    history = whole.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert {"eval_emotion_accuracy", "eval_sentiment_mae", "eval_sentiment_acc2_non0"} <= set(evaluated[0])


def test_tasks_of_the_rows_alone_are_kept(place, whole):
    assert list(whole.processing_class.task_objects) == ["emotion", "sentiment"]
    assert set(EGMFProcessor.from_pretrained(place / "runs/whole").task_objects) == {"emotion", "sentiment"}


def test_two_learning_rates(whole):
    names = {id(p): name for name, p in whole.model.named_parameters()}
    found = {}
    for group in whole.optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group["initial_lr"]
    trained = {key: names[key] for key in found}
    assert set(trained.values()) == {name for name, p in whole.model.named_parameters() if p.requires_grad}
    for key, rate in found.items():
        fusion = trained[key].startswith("egmf.") and not trained[key].startswith("egmf.pseudo_tokens.")
        assert rate == (2e-2 if fusion else 1e-2)


def test_evaluation_is_that_of_run_eval(place, whole):
    processor = whole.processing_class
    rows = EGMFDataset(load_examples(place / "corpus", "validation"), processor)
    found = evaluate(whole.model, processor, rows, SUBSETS[-1:], batch_size=3)["text+audio+video"]["tasks"]
    logged = whole.evaluate()
    for task, part in found.items():
        for name, value in part["metrics"].items():
            assert logged[f"eval_{task}_{name}"] == pytest.approx(value, abs=1e-5, nan_ok=True), (task, name)


# ---- folders that load anywhere ------------------------------------------------------------------------------

LOAD = """
import json, sys
from transformers import AutoModel, AutoProcessor
found = {}
for folder in sys.argv[2:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(text="word 5", video=sys.argv[1], task="emotion")
    answer = processor.post_process_answers(model.score_answers(**inputs))[0]
    found[folder] = {"class": type(model).__name__, "id": model.config.text_model_id, **answer["probabilities"]}
assert not [name for name in sys.modules if name.split(".")[0] in ("modeling_egmf", "processing_egmf", "training")]
print(json.dumps(found))
"""


def load_elsewhere(tmp_path, clip, *folders):
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    environment |= {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", LOAD, str(clip), *map(str, folders)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer_here(folder, clip, text_model_id):
    model = EGMFForConditionalGeneration.from_pretrained(folder, text_model_id=text_model_id)
    processor = EGMFProcessor.from_pretrained(folder)
    inputs = processor(text="word 5", video=str(clip), task="emotion")
    return processor.post_process_answers(model.score_answers(**inputs))[0]["probabilities"]


@pytest.mark.parametrize("part", [".", "checkpoint-2"])
def test_folder_loads_in_a_fresh_process(place, whole, tmp_path, part):
    """The run and its language model are moved together: the relative id must still lead there."""
    moved = tmp_path / "moved"
    shutil.copytree(place, moved)
    folder, clip = moved / "runs/whole" / part, moved / "corpus/clips/5.mp4"
    found = load_elsewhere(tmp_path, clip, folder)[str(folder)]
    assert found.pop("class") == "EGMFForConditionalGeneration"
    assert not Path(found.pop("id")).is_absolute()
    assert found == pytest.approx(answer_here(place / "runs/whole" / part, clip, place / "llm"), abs=1e-5)


@pytest.mark.parametrize("part", [".", "checkpoint-2"])
def test_load_takes_the_code_of_this_tree(place, whole, part):
    folder, clip = place / "runs/whole" / part, str(place / "corpus/clips/5.mp4")
    model, processor = load(folder)
    assert type(model) is EGMFForConditionalGeneration
    assert type(processor) is EGMFProcessor
    inputs = processor(text="word 5", video=clip, task="emotion")
    found = processor.post_process_answers(model.score_answers(**inputs))[0]["probabilities"]
    assert found == pytest.approx(answer_here(folder, clip, place / "llm"), abs=1e-6)


def test_load_takes_a_language_model_from_elsewhere(place, whole, tmp_path):
    shutil.copytree(place / "runs/whole", tmp_path / "whole", ignore=shutil.ignore_patterns("checkpoint-*"))
    with pytest.raises(OSError, match="adapter checkpoint"):
        load(tmp_path / "whole")
    model, _ = load(tmp_path / "whole", place / "llm")
    assert model.config.text_model_id == str(place / "llm")


def test_no_file_holds_a_path_of_this_machine(place, whole):
    places = {str(place), str(Path.home()), str(REPOSITORY), sys.prefix} - {"/"}
    for path in sorted((place / "runs/whole").rglob("*.json")):
        if path.name in ("training.json", "trainer_state.json"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in places if name in text], path
        assert not re.search(r'"/(tmp|home|root|work|Users|mnt|data)/', text), path


def test_checkpoint_brings_its_code(place, whole):
    for folder in (place / "runs/whole", place / "runs/whole/checkpoint-2"):
        code = {path.name for path in folder.glob("*.py")}
        wanted = {
            path.name for name in ("modeling_egmf", "processing_egmf") for path in (REPOSITORY / name).glob("*.py")
        }
        assert code <= wanted
        assert {"modeling_egmf.py", "configuration_egmf.py", "processing_egmf.py", "tasks_egmf.py"} <= code


# ---- warm-up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [False, True])
def test_warm_up_changes_what_is_ours_alone(make_model, make_processor, place, progress):
    model, processor = make_model("waveform", "frames"), make_processor("waveform", "frames")
    rows = EGMFDataset(load_examples(place / "corpus", "train"), processor, cache_media=True)
    loader = DataLoader(rows, batch_size=3, collate_fn=EGMFDataCollator(processor, False))
    before = copy.deepcopy(model.state_dict())
    losses = pretrain_fusion(model, processor, loader, epochs=2, learning_rate=1e-2, progress=progress)
    assert len(losses) == 2
    after = model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if not name.startswith("egmf.")}
    parts = ("audio_visual_encoder.audio", "audio_visual_encoder.video", "fusion", "experts")
    for part in parts:
        assert any(name.startswith(f"egmf.{part}") for name in changed), part


def test_warm_up_learns(make_model, make_processor, place):
    model, processor = make_model("waveform", "frames"), make_processor("waveform", "frames")
    rows = EGMFDataset(load_examples(place / "corpus", "train"), processor, cache_media=True)
    loader = DataLoader(rows, batch_size=6, collate_fn=EGMFDataCollator(processor, False))
    losses = pretrain_fusion(model, processor, loader, epochs=15, learning_rate=1e-2, progress=False)
    assert losses[-1] < 0.7 * losses[0]


def test_warm_up_sees_all_modalities_and_training_loses_some(place, monkeypatch):
    """The warm-up asks each modality alone by itself."""
    loaders = []
    monkeypatch.setattr(
        "training.train.pretrain_fusion", lambda model, processor, loader, *_, **__: loaders.append(loader) or []
    )
    changes = {"augmentation": "true", "modality_dropout": 0.4, "max_steps": 1, "save_strategy": "no"}
    trainer = run(
        place, "rehearsed", fusion_pretraining_epochs=1, fusion_pretraining_batch_size=2, eval_strategy="no", **changes
    )
    (loader,) = loaders
    rehearse, answer, score = loader.collate_fn.collator, trainer.data_collator, trainer.eval_collator
    collators = {"warm-up": rehearse, "training": answer, "evaluation": score}
    assert {name: c.modality_dropout for name, c in collators.items()} == dict(zip(collators, (0.0, 0.4, 0.0)))
    assert {name: c.augmentation for name, c in collators.items()} == dict(zip(collators, (True, True, False)))
    assert {name: c.with_labels for name, c in collators.items()} == dict(zip(collators, (False, True, False)))
    assert [len(batch) for batch in loader.batch_sampler] == [2, 2, 2]


@pytest.mark.parametrize(("epochs", "steps"), [(0.0, 0), (0.1, 1), (1.0, 2), (1.5, 3)])
def test_fractions_of_an_epoch_are_rounded_up(make_model, make_processor, place, epochs, steps):
    model, processor = make_model("waveform", "frames"), make_processor("waveform", "frames")
    rows = EGMFDataset(load_examples(place / "corpus", "train"), processor, cache_media=True)
    loader = DataLoader(rows, batch_size=3, collate_fn=EGMFDataCollator(processor, False))
    calls = []
    model.egmf.audio_visual_encoder.register_forward_hook(lambda *_: calls.append(1))  # once a step
    losses = pretrain_fusion(model, processor, loader, epochs=epochs, learning_rate=1e-3, progress=False)
    assert len(calls) == steps
    assert len(losses) == math.ceil(epochs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_all_together_and_each_alone_are_fused_as_if_they_were_all(make_model, make_processor, bidirectional):
    model, processor = make_model(bidirectional_attention=bidirectional), make_processor()
    audio, video = torch.randn(3, 6), torch.randn(2, 5)
    given = [("text", "audio", "video"), ("text", "video"), ("audio",)]
    batch = processor(
        text=["one word" if "text" in there else None for there in given],
        audio_features=[audio if "audio" in there else None for there in given],
        video_features=[video if "video" in there else None for there in given],
    )
    fused, rows = fuse_alone_and_together(model, batch)
    wanted = list(enumerate(given)) + [
        (row, (modality,))
        for modality in ("text", "audio", "video")
        for row, there in enumerate(given)
        if modality in there and len(there) > 1
    ]
    assert len(wanted) == 3 + 2 + 1 + 2
    assert rows.tolist() == [row for row, _ in wanted]
    names = ("input_ids", "utterance_mask", "audio_values", "audio_mask", "video_values", "video_mask")
    for found, (row, subset) in zip(fused, wanted, strict=True):
        mask = torch.tensor([[modality in subset for modality in ("text", "audio", "video")]])
        inputs = {name: batch[name][row : row + 1] for name in names}
        _, alone = model.embed_prompt(**inputs, modality_mask=mask)
        torch.testing.assert_close(found, alone.fused[0], rtol=1e-4, atol=1e-5)


# ---- resuming, overwriting, stopping -------------------------------------------------------------------------


def test_resumed_run_ends_where_an_uninterrupted_one_does(place, whole):
    folder = place / "runs/resumed"
    shutil.copytree(place / "runs/whole/checkpoint-2", folder / "checkpoint-2")
    changes = {"fusion_pretraining_epochs": 1, "fusion_pretraining_batch_size": 3, "fusion_learning_rate": "2e-2"}
    resumed = run(place, "resumed", resume_from_checkpoint="true", **changes)
    assert resumed.state.global_step == 4
    assert_same_weights(weights(folder), weights(place / "runs/whole"))
    assert_same_weights(weights(folder / "checkpoint-4"), weights(place / "runs/whole/checkpoint-4"))


def test_same_seed_gives_the_same_run(place, whole):
    changes = {"fusion_pretraining_epochs": 1, "fusion_pretraining_batch_size": 3, "fusion_learning_rate": "2e-2"}
    run(place, "again", **changes)
    assert_same_weights(weights(place / "runs/again"), weights(place / "runs/whole"))


def test_run_that_is_there_is_refused(place, whole):
    before = weights(place / "runs/whole")
    with pytest.raises(ValueError, match=r"already holds a run.*--resume_from_checkpoint true.*--overwrite"):
        run(place, "whole")
    assert_same_weights(weights(place / "runs/whole"), before)


def test_overwrite_moves_the_run_aside(place):
    folder = place / "runs/old"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("kept")
    assert resolve_output_dir(options(place, "old", overwrite="true")[2]) is None
    assert (folder / "precious.txt").is_file()  # nothing moves before everything has been checked
    move_aside(folder)
    aside = [path for path in folder.parent.iterdir() if path.name.startswith("old.")]
    assert [path.read_text() for path in aside[0].iterdir()] == ["kept"]
    assert not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize("resume", ["true", "runs/nowhere/checkpoint-2"])
def test_nothing_to_resume_is_an_error(place, resume):
    with pytest.raises(ValueError, match=r"no checkpoint to resume from .*Start without resuming"):
        resolve_output_dir(options(place, "nothing", resume_from_checkpoint=resume)[2])


@pytest.mark.parametrize("resume", ["false", None])
def test_not_resuming_is_possible(place, resume):
    assert resolve_output_dir(options(place, "nothing", resume_from_checkpoint=resume)[2]) is None


def test_best_checkpoint_is_kept_and_loaded(place, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("training.train.make_compute_metrics", lambda processor: lambda _: {"score": next(scores)})
    run(
        place,
        "best",
        load_best_model_at_end="true",
        metric_for_best_model="eval_score",
        greater_is_better="false",
        save_steps=1,
        eval_steps=1,
    )
    folder = place / "runs/best"
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}  # best and last
    assert_same_weights(weights(folder), weights(folder / "checkpoint-2"))
    record = json.loads((folder / "training.json").read_text())
    assert (record["best_step"], record["best_metric"]) == (2, 1.0)


def test_early_stopping_ends_a_run_that_does_not_improve(place):
    trainer = run(
        place,
        "stopped",
        learning_rate=0,
        max_steps=9,
        save_steps=1,
        eval_steps=1,
        early_stopping_patience=2,
        load_best_model_at_end="true",
        metric_for_best_model="eval_loss",
        greater_is_better="false",
    )
    assert trainer.state.global_step == 3


def test_training_goes_on_from_a_checkpoint(place, whole):
    trainer = run(
        place,
        "further",
        model=place / "runs/whole",
        text_model_name_or_path=None,
        max_steps=1,
        eval_strategy="no",
        save_strategy="no",
    )
    base = load_file(place / "llm/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(trainer.model.get_input_embeddings().weight, base)
    config = json.loads((place / "runs/further/config.json").read_text())
    assert (place / "runs/further" / config["text_model_id"]).resolve() == place / "llm"


@pytest.mark.parametrize(
    "changes",
    [
        {"modalities": ["video"]},
        {"audio": "none"},
        {"video": "none"},
        {"audio": "none", "video": "none", "max_train_samples": 3},
        {"only_tasks": ["emotion"]},
        {"lora_r": 0},
    ],
    ids=lambda changes: "-".join(f"{key}" for key in changes),
)
def test_smaller_settings_train(place, changes):
    name = "small-" + "-".join(map(str, changes))
    trainer = run(place, name, **{"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"} | changes)
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("cached", ["true", "false"])
def test_rows_without_the_wanted_modalities_are_left_out_and_named(place, capsys, cached):
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 1, "save_strategy": "no", "max_steps": None}
    settings |= {"eval_strategy": "no", "cache_media": cached}
    trainer = run(place, f"wordless-{cached}", modalities=["text"], **settings)
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert said == ["Split 'train': left out 1 of 6 rows, which have no text: c3."]
    assert trainer.state.global_step == 5
    assert [row["id"] for row in trainer.train_dataset] == ["c0", "c1", "c2", "c4", "c5"]
    assert len(trainer.eval_dataset) == 4
    record = json.loads((place / f"runs/wordless-{cached}/training.json").read_text())
    assert record["rows"] == {"train": 5, "eval": 4}


def test_rows_that_the_model_has_no_encoder_for_are_left_out(place, capsys):
    changes = {"audio": "none", "video": "none", "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    trainer = run(place, "reader", **changes)
    assert "left out 1 of 6 rows, which have no text, audio, video: c3." in capsys.readouterr().out
    assert len(trainer.train_dataset) == 5


def test_nothing_is_left_out_where_nothing_is_missing(place, capsys):
    run(place, "unrestricted", max_steps=1, eval_strategy="no", save_strategy="no")
    assert "left out" not in capsys.readouterr().out


def test_split_without_the_wanted_modalities_is_an_error(place, tmp_path):
    """At once, and not hours later, when its first batch comes up."""
    shutil.copytree(place / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus/metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["split"] == "validation":
            row["text"] = " "
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"No row of split 'validation' has any of the modalities text"):
        run(place, "speechless", data=tmp_path / "corpus", modalities=["text"], max_steps=1)
    assert not (place / "runs/speechless/model.safetensors").exists()


def test_unknown_modality_is_refused(place):
    with pytest.raises(ValueError, match=r"'smell'.*use any of text, audio, video"):
        run(place, "smelling", modalities=["smell"], max_steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": None}, "Give --dataset"),
        ({"train_split": "dev"}, r"has no split 'dev'. It has test, train, validation"),
        ({"eval_split": "dev"}, r"has no split 'dev'"),
        ({"only_tasks": ["mosei"]}, "No row is of the tasks mosei"),
        ({"text_model_name_or_path": None}, "Give --backbone or --text_model_name_or_path"),
        ({"audio": "features"}, "needs --audio_feature_size"),
        ({"audio": "wavform"}, "--audio wavform is not an encoder. Did you mean waveform"),
        ({"video": "frame"}, "--video frame is not an encoder. Did you mean frames"),
        ({"max_train_samples": 0}, "keep at least one row, not 0"),
        ({"max_eval_samples": -1}, "keep at least one row, not -1"),
        ({"tasks_file": "absent.yaml"}, "--tasks_file absent.yaml: there is no such file"),
    ],
)
def test_bad_settings_say_what_to_do(place, changes, message):
    with pytest.raises(ValueError, match=message):
        run(place, "bad", **changes)
    assert not (place / "runs/bad/model.safetensors").exists()


# ---- tasks and ids -------------------------------------------------------------------------------------------


def test_zero3_is_refused_where_processes_would_run_different_layers(place, tmp_path, monkeypatch):
    monkeypatch.setattr("training.train.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"ZeRO-3 goes with --modality_dropout 0 alone, not 0\.3"):
        train(*options(place, "zero3", modality_dropout=0.3, text_model_name_or_path="absent"))
    shutil.copytree(place / "corpus", tmp_path / "corpus")
    rows = (tmp_path / "corpus/metadata.jsonl").read_text().replace('"video": "clips/2.mp4", ', "")
    (tmp_path / "corpus/metadata.jsonl").write_text(rows)
    changes = {"dataset": tmp_path / "corpus", "modality_dropout": 0, "text_model_name_or_path": "/absent"}
    with pytest.raises(ValueError, match=r"ZeRO-3 needs rows with the same modalities, but 1 of 10 have no video"):
        train(*options(place, "zero3", **changes))
    for fine in (
        {"modalities": ["text"]},
        {"dataset": place / "corpus"},
    ):  # so far that the language model is looked for
        with pytest.raises(ValueError, match="There is no folder /absent"):
            train(*options(place, "zero3", **changes | fine))


def test_own_tasks_join_the_built_in_ones(tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text('mood:\n  kind: classification\n  labels: {up: good, down: bad}\n  prompt: "\\nIt is"\n')
    tasks = read_tasks(path)
    assert tasks["mood"].answers == ["good", "bad"]
    assert next(iter(tasks)) == "emotion"
    assert set(read_tasks(None)) == set(tasks) - {"mood"}


@pytest.mark.parametrize(
    "text", ["mood:\n", "- mood\n", "mood: 3\n", "mood: {kind: classification, lables: {}}\n", "word\n"]
)
def test_bad_tasks_file_is_a_value_error(tmp_path, text):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="tasks.yaml|mood"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("low: small", "low of the task 'mood' is 'small'; give a number"),
        ("step: [0.1]", r"step of the task 'mood' is \[0.1\]; give a number"),
        ("high: yes", "high of the task 'mood' is True; give a number"),
        ("prompt: 3", "prompt of the task 'mood' is 3; give text, in quotes"),
        ("separator: null", "separator of the task 'mood' is None; give text, in quotes"),
        ("labels: good", "'mood': labels and their words are strings, in a list or as pairs"),
        ("labels: {up: 1, down: 2}", "'mood': labels and their words are strings"),
        ("labels: 7", "'mood': labels and their words are strings"),
    ],
)
def test_wrong_types_in_a_tasks_file_are_named(tmp_path, fields, message):
    path = tmp_path / "tasks.yaml"
    kind = "classification" if fields.startswith("labels") else "regression"
    path.write_text(f"mood:\n  kind: {kind}\n  {fields}\n")
    with pytest.raises(ValueError, match=message):
        read_tasks(path)


def test_used_tasks_keep_their_order():
    tasks = {"a": 1, "b": 2, "c": 3}
    assert list(used_tasks(tasks, [{"task": "c"}, {"task": "b"}])) == ["b", "c"]
    assert list(used_tasks(tasks, [{"task": "c"}, {}])) == ["a", "c"]


def test_local_model_becomes_a_relative_path(tmp_path):
    (tmp_path / "llm").mkdir()
    assert portable_id(str(tmp_path / "llm"), tmp_path / "runs/x") == "../../llm"
    assert portable_id("org/model", tmp_path) == "org/model"
