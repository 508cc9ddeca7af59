"""The layers of a language model that get LoRA are settled before its weights are loaded or any data is read."""

import copy

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.helpers.corpus_files import write_language_model
from training.arguments import ModelArguments
from training.model import builder
from training.model.builder import build
from training.model.language_model import lora_fields, with_lora_targets
from training.train import main


@pytest.fixture
def gpt2(trained_tokenizer, tmp_path):
    """Folder of a tiny GPT-2, whose query, key and value are one layer."""
    tokenizer = copy.deepcopy(trained_tokenizer)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    return write_language_model(tmp_path / "gpt2", GPT2LMHeadModel(config), tokenizer)


def test_default_of_the_architecture_is_stored(gpt2):
    arguments = ModelArguments(text_model_name_or_path=str(gpt2))
    assert with_lora_targets(arguments).lora_target_modules == ["c_attn"]
    model, _ = build(arguments)
    assert model.config.lora["target_modules"] == ["c_attn"]
    assert any("c_attn.lora_A" in name for name, _ in model.named_parameters())


def test_without_lora_nothing_is_looked_up():
    arguments = ModelArguments(text_model_name_or_path="nowhere", lora_r=0)
    assert with_lora_targets(arguments) is arguments


def test_absent_layers_are_refused_before_weights_are_loaded(gpt2, monkeypatch):
    monkeypatch.delattr(builder, "load_language_model")
    arguments = ModelArguments(text_model_name_or_path=str(gpt2), lora_target_modules=["c_attn", "v_proj"])
    with pytest.raises(ValueError, match="no linear layer v_proj. Its linear layers: c_attn, c_fc, c_proj, lm_head"):
        build(arguments)


def test_absent_layers_are_refused_before_data_are_read(gpt2, tmp_path):
    options = {"text_model_name_or_path": gpt2, "dataset": tmp_path, "output_dir": tmp_path / "run"}
    line = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with pytest.raises(SystemExit, match="no linear layer q_proj"):
        main([*line, "--lora_target_modules", "q_proj", "--use_cpu"])
    assert not (tmp_path / "run").exists()


def test_options_of_peft_reach_the_adapter(gpt2):
    options = {"text_model_name_or_path": str(gpt2), "audio": "none", "video": "none", "fusion_hidden_size": 16}
    model, _ = build(ModelArguments(lora_options='{"use_dora": true}', **options))
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters())
    assert model.config.lora["r"] == 8


def test_another_method_has_only_its_own_fields():
    arguments = ModelArguments(lora_target_modules=["q_proj"], lora_options='{"peft_type": "LOHA", "r": 2}')
    assert lora_fields(arguments) == {"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("lora_options", "message"),
    [
        ("use_dora", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
        ('{"use_dra": true}', "use_dra"),
        ('{"peft_type": "NOTHING"}', "use one of LORA"),
        ('{"use_dora": "yes"}', "`use_dora` of an adapter is 'yes'; its type is bool"),
        ('{"lora_alpha": NaN}', "`lora_alpha` of an adapter is nan; numbers must be finite"),
        ('{"lora_dropout": 1.5}', "`lora_dropout` of an adapter is 1.5; it must be at least 0 and below 1"),
        ('{"r": 0}', "`r` should be a positive integer"),
        ('{"bias": "all"}', "`bias` trains the frozen language model"),
        ('{"init_lora_weights": "pissa"}', "'pissa' changes the weights"),
        ('{"modules_to_save": ["ln_g"]}', "`modules_to_save` has 'ln_g', which the model lacks"),
        ('{"layers_to_transform": [3]}', r"`layers_to_transform` is \[3\]; the language model has layers 0 to 0"),
        ('{"rank_pattern": {"q_proj": 4}}', "rank_pattern keys did not match"),
        ('{"trainable_token_indices": [100000]}', "give token ids below"),
    ],
)
def test_wrong_options_of_peft_are_refused(gpt2, lora_options, message):
    arguments = ModelArguments(text_model_name_or_path=str(gpt2), lora_options=lora_options)
    with pytest.raises(ValueError, match=rf"^--lora_options .*{message}"):
        with_lora_targets(arguments)


@pytest.mark.parametrize("fields", ['{"use_dora": true}', '{"peft_type": "IA3"}', '{"modules_to_save": ["ln_f"]}'])
def test_right_options_of_peft_are_accepted(gpt2, fields, recwarn):
    arguments = ModelArguments(text_model_name_or_path=str(gpt2), lora_options=fields)
    assert with_lora_targets(arguments).lora_target_modules == ["c_attn"]
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]
