"""Options that contradict each other, and impossible numbers, are refused before torch is imported."""

import dataclasses
import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from modeling_egmf import EGMFConfig
from modeling_egmf.configuration_egmf import PAPER_EXPERTS as PAPER_CONFIGS
from training.arguments import parse_arguments
from training.cli import CommandParser
from training.data.locations import check_dataset
from training.option_checks import CHOICES, NO_HALF_PRECISION, PAPER_EXPERTS, check_options
from training.recipes import chosen_options, read_settings


def test_choices_are_those_of_the_configuration():
    """option_checks.py repeats them, because it must not import torch."""
    types = {field.name: field.type for field in dataclasses.fields(EGMFConfig)}
    only_options = {"gate": set(), "pseudo_token_projection": {"per_task"}}  # a separate one, with task_slots
    for option, more in only_options.items():
        assert set(CHOICES[option]) == set(get_args(types[option])) | more
    assert [expert["name"] for expert in PAPER_CONFIGS] == list(PAPER_EXPERTS)


def options_of(*argv):
    return chosen_options(argv, read_settings(argv))


NEW = ("--text_model_name_or_path", "ORG/LLM")
CONTRADICTIONS = {
    "two kinds of soft labels": (
        (*NEW, "--distillation", "true", "--label_smoothing_factor", "0.1"),
        "--distillation gives soft labels itself",
    ),
    "two precisions": ((*NEW, "--fp16", "--bf16", "true"), "--fp16 and --bf16 are two precisions"),
    "half precision on the CPU": ((*NEW, "--fp16", "true", "--use_cpu", "yes"), "--fp16 needs a GPU"),
    "two language models": (
        ("--backbone", "smollm2-135m", "--model_name_or_path", "runs/demo"),
        "Give either --model_name_or_path",
    ),
    "no language model": ((), "Give --backbone or --text_model_name_or_path"),
    "another readout": ((*NEW, "--readout", "heads"), "--readout is 'heads'; use one of answers, head"),
    "another gate": (
        (*NEW, "--gate", "unifrom"),
        "--gate is 'unifrom'; use one of two_stage, one_stage, uniform. Did you mean uniform",
    ),
    "another precision of encoders": (
        (*NEW, "--pretrained_dtype", "float8"),
        "--pretrained_dtype is 'float8'; use one of float32, bfloat16, float16",
    ),
    "another encoder": ((*NEW, "--video", "nonee"), "--video nonee is not an encoder. Did you mean none?"),
    "another preset": ((*NEW, "--audio", "wisper-base"), "--audio wisper-base is not an encoder. Did you mean whisp"),
    "an encoder of audio": (
        (*NEW, "--video", "wavlm-base-plus"),
        "--video wavlm-base-plus: this encoder is for audio",
    ),
    "raw audio": ((*NEW, "--video", "waveform"), "--video waveform is not an encoder of video. Give one of frames"),
    "features of any width": ((*NEW, "--video", "features"), "--video features needs --video_feature_size"),
    "another pooling": (
        (*NEW, "--encoder_pooling", "mean"),
        "--encoder_pooling is 'mean'; use one of attention, statistics",
    ),
    "another expert": ((*NEW, "--experts", "local", "globl"), "--experts globl: give one of local, semantic, global"),
    "no width": (
        (*NEW, "--fusion_hidden_size", "0"),
        "--fusion_hidden_size is 0; it must be a whole number",
    ),
    "a stream": ((*NEW, "--streaming", "true"), "Leave out --streaming"),
    "stored clips that change": (
        (*NEW, "--encoder_cache", "x", "--voice-augmentation", "true"),
        "--voice_augmentation changes clips every time",
    ),
    "4 bits of a checkpoint": (
        ("--model_name_or_path", "runs/demo", "--load_in_4bit", "true"),
        "--load_in_4bit is for a new model",
    ),
    "no steps": ((*NEW, "--max_steps", "0"), "--max_steps is 0; it must be at least 1"),
    "no number": ((*NEW, "--learning_rate=nan"), "--learning_rate is nan"),
    "no decay": ((*NEW, "--weight_decay=nan"), "--weight_decay is nan"),
    "no epochs": ((*NEW, "--num_train_epochs=-1"), "--num_train_epochs is -1"),
    "no pretraining": ((*NEW, "--fusion_pretraining_batch_size", "0"), "--fusion_pretraining_batch_size is 0"),
    "no text": (
        (*NEW, "--fusion_pretraining_token_dropout=1"),
        "--fusion_pretraining_token_dropout is 1.0; it must be b",
    ),
    "no transcripts": ((*NEW, "--transcript_dropout=1"), "--transcript_dropout is 1.0; it must be below 1"),
    "unknown precision": (
        (*NEW, "--text_model_dtype", "float8"),
        "--text_model_dtype is 'float8'; use one of auto, f",
    ),
    "no channels": ((*NEW, "--conv_channels", "32", "0"), "--conv_channels is 32 0; give one or more numbers"),
    "no integer": ((*NEW, "--max_steps", "many"), "--max_steps is 'many'; it takes an integer"),
    "half a step": ((*NEW, "--max_steps=2.5"), "--max_steps is '2.5'; it takes an integer"),
    "a word": ((*NEW, "--learning_rate", "fast"), "--learning_rate is 'fast'; it takes a number"),
    "one of several": ((*NEW, "--conv_channels", "8", "b"), "--conv_channels is 'b'; it takes an integer"),
    "perhaps": ((*NEW, "--bf16", "maybe"), "--bf16 is 'maybe'; it takes true or false"),
    "nothing": ((*NEW, "--lora_r"), "--lora_r is nothing; it takes one value"),
    "no values": ((*NEW, "--lora_target_modules"), "--lora_target_modules is nothing; it takes values"),
    "two values": ((*NEW, "--lora_r", "2", "3"), "--lora_r is 2 3; it takes one value"),
    "unknown schedule": (
        (*NEW, "--lr_scheduler_type", "linearr"),
        "--lr_scheduler_type is 'linearr'; use one of linear, cosine.* Did you mean linear?",
    ),
    "unknown optimizer": ((*NEW, "--optim", "sgdd"), "--optim is 'sgdd'; use one of .* Did you mean sgd?"),
    "negative seed": ((*NEW, "--seed", "-1"), "--seed is -1; it must be at least 0 and below"),
    "large seed": ((*NEW, "--data_seed", str(2**32)), "--data_seed is 4294967296; it must be"),
    "negative workers": ((*NEW, "--dataloader_num_workers", "-2"), "--dataloader_num_workers is -2; it must be"),
    "evaluation in 16 bits": (
        (*NEW, "--bf16_full_eval", "true"),
        "--bf16_full_eval is not for egmf train: eval",
    ),
    "a compiled model": ((*NEW, "--torch_compile_backend", "eager"), "--torch_compile_backend is not for egmf train"),
    "inputs for metrics": ((*NEW, "--include_for_metrics", "inputs"), "--include_for_metrics is not for egmf train"),
    "batches apart": ((*NEW, "--eval_do_concat_batches", "false"), "--eval_do_concat_batches is not for egmf train"),
    "other labels": ((*NEW, "--label_names", "labels"), "--label_names is not for egmf train"),
    "unused columns": ((*NEW, "--remove_unused_columns", "true"), "--remove_unused_columns is not for egmf train"),
    "a repository": ((*NEW, "--hub_model_id", "ORG/NAME"), "--hub_model_id is not for egmf train: push the finished"),
    "when to push": ((*NEW, "--hub_strategy", "end"), "--hub_strategy is not for egmf train"),
    "pushing": (
        (*NEW, "--push_to_hub", "true"),
        "--push_to_hub is not for egmf train: push the finished",
    ),
    "DeepSpeed": ((*NEW, "--deepspeed", "zero.json"), "--deepspeed is not for egmf train: several GPUs"),
    "batches of accelerate": ((*NEW, "--accelerator_config", "{}"), "--accelerator_config is not for egmf train"),
    "a debugger": ((*NEW, "--debug", "underflow_overflow"), "--debug is not for egmf train"),
    "predictions": ((*NEW, "--do_predict", "true"), "--do_predict is not for egmf train"),
    "an optimizer of whole models": ((*NEW, "--optim", "galore_adamw"), "--optim galore_adamw is for training whole"),
    "no evaluation": ((*NEW, "--do_eval", "true"), "--do_eval has no effect without --eval_strategy"),
    "no steps between evaluations": (
        (*NEW, "--eval_strategy", "steps", "--eval_steps", "0"),
        "--eval_steps is 0. Give a number of steps, or --eval_strategy no",
    ),
    "no steps between checkpoints": ((*NEW, "--save_steps", "0"), "--save_steps is 0. Give a number"),
    "no checkpoints": ((*NEW, "--save_total_limit", "0"), "--save_total_limit is 0; it must be at least 1"),
    "no accumulation": ((*NEW, "--eval_accumulation_steps", "0"), "--eval_accumulation_steps is 0; it must be"),
    "no batches ahead": ((*NEW, "--dataloader_prefetch_factor", "0"), "--dataloader_prefetch_factor is 0; it must be"),
    "no patience": ((*NEW, "--early_stopping_patience", "0"), "--early_stopping_patience is 0; it must be at least 1"),
    "patience without evaluations": (
        (*NEW, "--early_stopping_patience", "1"),
        "--early_stopping_patience needs --eval_strategy",
    ),
    "patience without a metric": (
        (*NEW, "--early_stopping_patience", "1", "--eval_strategy", "epoch"),
        "--early_stopping_patience needs --metric_for_best_model",
    ),
    "noise below zero": ((*NEW, "--neftune_noise_alpha", "-5"), "--neftune_noise_alpha is -5.0; it must be"),
    "workers that stay": (
        (*NEW, "--dataloader_persistent_workers", "true"),
        "--dataloader_persistent_workers has no effect without --dataloader_num_workers",
    ),
    "how workers start": (
        (*NEW, "--dataloader_multiprocessing_context", "spawn"),
        "--dataloader_multiprocessing_context has no effect without --dataloader_num_workers",
    ),
    "fields of checkpointing alone": (
        (*NEW, "--gradient_checkpointing_kwargs", '{"use_reentrant": true}'),
        "--gradient_checkpointing_kwargs has no effect without --gradient_checkpointing",
    ),
    "another field of checkpointing": (
        (*NEW, "--gradient_checkpointing", "true", "--gradient_checkpointing_kwargs", '{"preserve_rng_state": false}'),
        "--gradient_checkpointing_kwargs: 'preserve_rng_state' is not for egmf train; the fields are use_reentrant",
    ),
    "a word for a switch": (
        (*NEW, "--gradient_checkpointing", "true", "--gradient_checkpointing_kwargs", '{"use_reentrant": "no"}'),
        "--gradient_checkpointing_kwargs: use_reentrant is 'no'; it must be true or false",
    ),
    "no JSON": (
        (*NEW, "--gradient_checkpointing", "true", "--gradient_checkpointing_kwargs", "use_reentrant=false"),
        "--gradient_checkpointing_kwargs use_reentrant=false is not JSON",
    ),
    "no object": ((*NEW, "--lr_scheduler_kwargs", "[1]"), r"--lr_scheduler_kwargs \[1\] is not a JSON object"),
    "a schedule cut off": ((*NEW, "--lr_scheduler_kwargs", '{"power": 2'), "--lr_scheduler_kwargs .* is not JSON"),
    "FSDP of the library": ((*NEW, "--fsdp", "full_shard"), "--fsdp is not for egmf train: several GPUs share"),
    "its settings": ((*NEW, "--fsdp_config", "{}"), "--fsdp_config is not for egmf train: several GPUs share"),
    "no mixture": ((*NEW, "--fusion_pretraining_mixup=nan"), "--fusion_pretraining_mixup is nan"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_contradictions_are_refused(kind):
    argv, message = CONTRADICTIONS[kind]
    with pytest.raises(ValueError, match=message):
        check_options(options_of(*argv))


def test_files_come_before_the_command_line(tmp_path):
    recipe = tmp_path / "my.yaml"
    recipe.write_text("distillation: true\nlabel_smoothing_factor: 0.1\ntext_model_name_or_path: ORG/LLM\n")
    with pytest.raises(ValueError, match="--distillation gives soft labels"):
        check_options(options_of("--config", str(recipe)))
    check_options(options_of("--config", str(recipe), "--distillation", "false"))


@pytest.mark.parametrize("name", ["max_steps", "label_smoothing_factor", "fusion_pretraining_batch_size"])
def test_a_number_without_a_value_in_a_file_is_named(tmp_path, name):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(f"{name}:\ntext_model_name_or_path: ORG/LLM\n")
    with pytest.raises(ValueError, match=f"--{name} has no value"):
        check_options(options_of("--config", str(recipe)))


def test_faces_without_their_detector_are_refused(monkeypatch):
    options = options_of(*NEW, "--frames", "face")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--frames face needs dlib: pip install"):
        check_options(options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    check_options(options)


def test_encoders_that_are_not_built_are_not_checked(tmp_path):
    check_options(options_of(*NEW, "--video", "features", "--modalities", "text", "audio"))
    check_options(options_of("--model_name_or_path", "runs/demo", "--video", "features"))
    check_options(options_of(*NEW, "--audio", "none", "--video", str(tmp_path)))


@pytest.mark.parametrize("dataset", [None, "", " "])
def test_no_dataset_is_said_at_once(dataset):
    with pytest.raises(ValueError, match="^Give --dataset"):
        check_dataset(dataset)


def test_defaults_are_possible():
    options = options_of(*NEW, "--lora_target_modules", "a", "b", "--optim", "sgd", "--warmup_steps", "0.1")
    check_options(options)
    assert options.max_steps == -1
    assert options.warmup_steps == 0.1
    assert options.lora_target_modules == ["a", "b"]
    assert options.label_smoothing_factor == 0


def test_options_of_the_library_that_have_an_effect_are_possible():
    """Also those that scripts of `transformers` usually set, and defaults that are written out."""
    check_options(
        options_of(
            *NEW,
            *("--do_train", "true", "--do_eval", "true", "--eval_strategy", "epoch", "--save_strategy", "epoch"),
            *("--load_best_model_at_end", "true", "--early_stopping_patience", "2", "--save_total_limit", "1"),
            *("--gradient_checkpointing", "true", "--gradient_checkpointing_kwargs", '{"use_reentrant": false}'),
            *("--dataloader_num_workers", "2", "--dataloader_persistent_workers", "true"),
            *("--dataloader_multiprocessing_context", "spawn", "--dataloader_prefetch_factor", "4"),
            *("--push_to_hub", "false", "--torch_compile", "no", "--hub_strategy", "every_save"),
            *("--eval_do_concat_batches", "true", "--label_names", "label_index", "--neftune_noise_alpha", "5"),
        )
    )


def test_half_precision_without_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=NO_HALF_PRECISION.split(",")[0]):
        parse_arguments(["--output_dir", str(tmp_path), "--fp16", "true"])


@pytest.mark.parametrize(("values", "wrong"), [(["3", "0"], "0"), (["-2"], "-2")])
def test_numbers_of_a_command_have_a_minimum(values, wrong):
    parser = CommandParser(prog="egmf x")
    parser.add_argument("--seeds", type=int, nargs="+", minimum=1)
    parser.add_argument("--other", type=float, minimum=0)
    with pytest.raises(ValueError, match=f"^--seeds is {wrong}; it must be at least 1"):
        parser.parse_args(["--seeds", *values])
    assert vars(parser.parse_args(["--other", "0"])) == {"seeds": None, "other": 0.0}
    with pytest.raises(ValueError, match=r"^--other is nan; it must be at least 0"):
        parser.parse_args(["--other", "nan"])


@pytest.mark.parametrize("command", ["demo.__main__", "demo.corpus", "demo.study", "real.__main__"])
def test_negative_seeds_are_refused(command, tmp_path):
    parser = import_module(f"training.{command}").make_parser()
    name = "--seeds" if command == "demo.study" else "--seed"
    required = ["--output", str(tmp_path)] if command == "demo.corpus" else []
    required += ["--data", str(tmp_path)] if command == "real.__main__" else []
    with pytest.raises(ValueError, match=f"{name} is -1; it must be at least 0"):
        parser.parse_args([*required, name, "-1"])
    if command == "demo.corpus":
        with pytest.raises(ValueError, match="--phrase_seed is -1; it must be at least 0"):
            parser.parse_args([*required, "--phrase_seed", "-1"])


@pytest.mark.parametrize("command", ["demo", "real"])
def test_wrong_types_of_training_options_are_told_at_once(command, tmp_path):
    """Also by the commands that pass them on, before torch is imported."""
    data = ["--data", str(tmp_path)] if command == "real" else []
    argv = [command, *data, "--output", str(tmp_path / "run"), "--", "--max_steps", "many"]
    code = f"import sys\nfrom training.cli import main\ntry: main({argv!r})\nfinally: print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stderr == "error: --max_steps is 'many'; it takes an integer.\n"
    assert process.stdout == "False\n"
