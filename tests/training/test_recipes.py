"""Every recipe of training/configs trains a step on tiny data, with a tiny model of its backbone's kind."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, ViTImageProcessor, WhisperFeatureExtractor

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.backbone_configs import AUDIO_BACKBONES, VISION_BACKBONES
from tests.helpers.corpus_files import write_corpus, write_language_model
from training.arguments import parse_arguments
from training.model.backbones import backbone_config
from training.model.presets import locate_preset
from training.trainer.run import train


pytestmark = pytest.mark.integration
FOLDER = Path(__file__).parents[2] / "training/configs"
RAW_CONFIGS = sorted(FOLDER.glob("*_raw-*.yaml"))  # with pretrained encoders
REAL_CONFIG = FOLDER / "ravdess-whisper-base.yaml"  # tests/training/real trains it, with a tiny encoder
LANDMARKS_CONFIG = FOLDER / "ravdess_landmarks-whisper-base.yaml"  # the same with landmarks
CONFIGS = sorted(set(FOLDER.glob("*.yaml")) - {*RAW_CONFIGS, REAL_CONFIG, LANDMARKS_CONFIG})
OTHER_CONFIGS = ("demo", "demo-languages", "first-corpus")  # of clips, and of no benchmark
FEATURES = ("demo-features", "demo-languages-features")  # of the demo's clips, without raw media
EXPERIMENTS = {"mosi_vectors-smollm2-135m"}  # of one backbone
RECIPES = [path for path in CONFIGS if path.stem not in (*OTHER_CONFIGS, *FEATURES)]
BENCHMARKS = {"meld": "en", "cherma": "zh", "mosei": "en", "mosi": "en", "sims_v2": "zh"}
LANGUAGES = BENCHMARKS | {"mosi_vectors": "en"}
BACKBONES = ("glm3-6b", "smollm2-135m")
WORDS = {"en": "I'm fine, thank you. Word {}", "zh": "我很好，谢谢你。{}"}


@pytest.fixture(scope="module")
def language_models(tmp_path_factory, trained_tokenizer):
    """A folder of a tiny random model of each backbone's kind."""
    folder = tmp_path_factory.mktemp("backbones")
    for name in BACKBONES:
        tokenizer = copy.deepcopy(trained_tokenizer)
        config = backbone_config(
            name, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        write_language_model(folder / name, model, tokenizer)
    return folder


def write_encoders(folder):
    """Options that replace the pretrained encoders of a recipe with tiny random ones."""
    frontends = {
        "whisper": WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=400),
        "vit": ViTImageProcessor(size={"height": 16, "width": 16}),
    }
    configs = {**AUDIO_BACKBONES, **VISION_BACKBONES}
    for name, frontend in frontends.items():
        AutoModel.from_config(configs[name]).save_pretrained(folder / name)
        frontend.save_pretrained(folder / name)
    return {
        "audio": folder / "whisper",
        "video": folder / "vit",
        "encoder_cache": folder / "cache",
        "max_clip_seconds": 1,
    }


def write_features(folder, settings, language):
    """Six examples with the recipe's task and feature widths, with features as .npy files."""
    task = BUILT_IN_TASKS[settings.get("only_tasks", ["emotion"])[0]]
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(6):
        answer = list(task.labels)[i % 7] if task.labels else task.values[i * (task.num_answers - 1) // 5]
        row = {"id": f"r{i}", "split": "train" if i < 4 else "validation", "task": task.name, "answer": answer}
        for modality in ("audio", "video"):
            name = f"{modality}{i}.npy"
            np.save(folder / name, rng.normal(50, 10, (3 + i, settings[f"{modality}_feature_size"])).astype("f4"))
            row[f"{modality}_features"] = name
        rows.append(row | {"text": WORDS[language].format(i)})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_every_benchmark_has_a_recipe_for_every_backbone():
    expected = {f"{benchmark}-{name}" for benchmark in BENCHMARKS for name in BACKBONES}
    assert {path.stem for path in RECIPES} == expected | EXPERIMENTS


@pytest.mark.parametrize("benchmark", ["meld", "mosei", "sims_v2"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_recipe_of_raw_clips_is_that_of_features_with_pretrained_encoders(benchmark, backbone):
    raw = yaml.safe_load((FOLDER / f"{benchmark}_raw-{backbone}.yaml").read_text(encoding="utf-8"))
    features = yaml.safe_load((FOLDER / f"{benchmark}-{backbone}.yaml").read_text(encoding="utf-8"))
    model_args, data_args, _ = parse_arguments(["--config", str(FOLDER / f"{benchmark}_raw-{backbone}.yaml")])
    assert locate_preset(model_args.audio, "audio") != model_args.audio
    assert locate_preset(model_args.video, "video") != model_args.video
    assert data_args.encoder_cache
    for name in ("only_tasks", "text_model_name_or_path", "lora_r", "modality_dropout", "metric_for_best_model"):
        assert raw[name] == features[name]
    assert len(RAW_CONFIGS) == 6


def test_every_dataset_folder_is_written_by_one_command():
    """Commands in recipes write where `dataset` reads, and no two corpora share a folder."""
    commands = {}
    for path in FOLDER.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        dataset = yaml.safe_load(text)["dataset"]
        commands.setdefault(dataset, set())
        for command, written in re.findall(r"^#   (egmf convert \w+ \S+ (\S+).*)$", text, re.MULTILINE):
            assert written == dataset, path.name
            commands[dataset].add(command)
    assert [dataset for dataset, found in commands.items() if len(found) > 1] == []


@pytest.mark.parametrize("page", ["README.md", "training/converters/README.md"])
def test_tables_of_corpora_write_where_their_recipes_read(page):
    text = (FOLDER.parents[1] / page).read_text(encoding="utf-8")
    rows = re.findall(r"`egmf convert \w+ \S+ (data/\w+)[^|]*\| `([\w*-]+)` \|", text)
    assert ("data/meld", "meld_raw-*") in rows
    for written, pattern in rows:
        recipes = sorted(FOLDER.glob(f"{pattern}.yaml"))
        assert recipes, pattern
        read = {yaml.safe_load(recipe.read_text(encoding="utf-8"))["dataset"] for recipe in recipes}
        assert read == {written}, pattern


def test_recipe_of_landmarks_is_that_of_real_voices_with_faces():
    real, landmarks = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (REAL_CONFIG, LANDMARKS_CONFIG))
    changed = {name for name in landmarks if landmarks[name] != real.get(name)}
    assert changed == {"output_dir", "video", "video_feature_size", "modalities"}
    assert real.keys() <= landmarks.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_trains(path, language_models, tmp_path):
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    benchmark, _, backbone = path.stem.partition("-")
    if path.stem in FEATURES:
        corpus = write_features(tmp_path / "corpus", settings, "en")
        backbone = "smollm2-135m"
    elif path.stem not in OTHER_CONFIGS:
        corpus = write_features(tmp_path / "corpus", settings, LANGUAGES[benchmark])
    else:
        corpus = write_corpus(tmp_path / "corpus")
        backbone = "smollm2-135m"
    run = tmp_path / "run"
    changes = {
        "dataset": corpus, "output_dir": run, "text_model_name_or_path": language_models / backbone,
        "text_model_dtype": "float32",
        "fusion_pretraining_epochs": 1, "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none",
        "disable_tqdm": "true",
    }  # fmt: skip
    if path.stem == "first-corpus":
        changes |= write_encoders(tmp_path)
    options = [str(part) for key, value in changes.items() for part in (f"--{key}", value)]
    trainer = train(*parse_arguments(["--config", str(path), "--use_cpu", *options]))
    assert trainer.state.global_step == 1
    if settings["eval_strategy"] != "no":
        assert settings.get("metric_for_best_model", "eval_loss") in trainer.state.log_history[-2]
    assert (trainer.model.config.lora is None) == (settings.get("lora_r") == 0)
    assert load_file(run / "model.safetensors")
    tasks = trainer.processing_class.task_objects
    assert not [name for name in settings.get("only_tasks", ()) if name not in tasks]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_asks_in_the_language_of_its_corpus(path):
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    (name,) = settings["only_tasks"]
    task = BUILT_IN_TASKS[name]
    chinese = LANGUAGES[path.stem.partition("-")[0]] == "zh"
    assert [words.isascii() for words in (task.prefix, task.prompt)] == [not chinese] * 2
