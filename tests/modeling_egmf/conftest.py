"""Fixtures of the model's tests: models with matching inputs, and checkpoints next to their language model."""

import copy
import os
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from modeling_egmf import EGMFEncoderConfig
from modeling_egmf.parts_egmf import fingerprint
from tests.helpers.model_inputs import keep_modalities
from training.model.export import merge


# ---- models -------------------------------------------------------------------------------------------------


@pytest.fixture
def setting(make_model, make_processor, make_samples):
    """`setting(audio, video)` -> model, processor and three samples that fit each other."""

    def make(audio="features", video="features", **fields):
        return make_model(audio, video, **fields), make_processor(audio, video), make_samples(3, audio, video)

    return make


@pytest.fixture
def scores(process):
    """`scores(model, processor, samples)` -> (B, A) probabilities of one batch."""
    return lambda model, processor, samples: model.score_answers(**process(processor, samples)).probabilities


@pytest.fixture
def labeled(make_processor, make_samples, process):
    """Inputs with answers; the last sample has no text, so that the learned query is trained."""

    def make(audio="features", video="features"):
        samples = make_samples(3, audio, video)
        samples[2] = keep_modalities(samples[2], {"audio", "video"})
        return process(make_processor(audio, video), samples, answer=["joy", "anger", "fear"])

    return make


# ---- checkpoints --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bases(tmp_path_factory, make_language_model):
    """A folder with language models and encoders, as they would be on a disk or on the Hub."""
    root = tmp_path_factory.mktemp("bases")
    make_language_model().save_pretrained(root / "llm")
    make_language_model(dtype=torch.bfloat16).save_pretrained(root / "llm_bfloat16")
    make_language_model(tie_word_embeddings=True).save_pretrained(root / "llm_tied")
    make_language_model(seed=9).save_pretrained(root / "llm_other_weights")
    make_language_model(hidden_size=16).save_pretrained(root / "llm_narrow")
    torch.manual_seed(0)
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **vit)).save_pretrained(root / "vit")
    speech = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (8, 8), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2Model(
        Wav2Vec2Config(**vit, **speech, **positions, mask_time_prob=0.0, layerdrop=0.0, vocab_size=8)
    ).save_pretrained(root / "wav2vec2")
    return root


@pytest.fixture(scope="session")
def make_adapter_model(bases, make_model):
    """`make_adapter_model(base="llm", audio=..., video=..., **fields)` -> a model around a stored language model."""

    def make(base="llm", audio="features", video="features", **fields):
        language_model = AutoModelForCausalLM.from_pretrained(bases / base)
        defaults = {"text_model_id": f"../{base}", "text_model_fingerprint": fingerprint(language_model)}
        return make_model(audio, video, language_model=language_model, **{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def make_backbones(bases):
    """Arguments of `make_adapter_model` for a video backbone that is frozen and an audio backbone that is trained."""

    def make(backbone_id, trainable=False):
        vit = ViTModel.from_pretrained(bases / "vit")
        wav2vec2 = Wav2Vec2Model.from_pretrained(bases / "wav2vec2")
        small = {"hidden_size": 8, "num_attention_heads": 2, "dropout": 0.0, "frame_height": 16, "frame_width": 16}
        video = EGMFEncoderConfig(
            input_type="frames",
            backbone_config=vit.config,
            backbone_id=backbone_id,
            backbone_trainable=trainable,
            **small,
        )
        audio = EGMFEncoderConfig(
            input_type="waveform", backbone_config=wav2vec2.config, backbone_trainable=True, **small
        )
        return {"audio": audio, "video": video, "audio_backbone": wav2vec2, "video_backbone": vit}

    return make


@pytest.fixture(scope="session")
def inputs_for(make_processor, make_samples, process):
    """`inputs_for(model)` -> the same three samples for every model that takes the same media."""

    def make(model):
        audio = model.config.audio_config.input_type
        video = model.config.video_config.input_type
        return dict(process(make_processor(audio, video), make_samples(3, audio, video)))

    return make


@pytest.fixture(scope="session")
def saved(tmp_path_factory, make_adapter_model, inputs_for):
    """`adapter` and `standalone`: a saved checkpoint, its model, and inputs for it. Read only: tests get copies."""
    folder = tmp_path_factory.mktemp("saved")
    models = {"adapter": make_adapter_model(), "standalone": merge(make_adapter_model())}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: (folder / name, model, inputs_for(model)) for name, model in models.items()}


def copy_saved(saved, name, tmp_path):
    folder, model, inputs = saved[name]
    return shutil.copytree(folder, tmp_path / name), copy.deepcopy(model), dict(inputs)


@pytest.fixture
def adapter(bases, saved, tmp_path):
    """A saved adapter checkpoint next to a copy of its language model, the model, and inputs for it."""
    os.symlink(bases / "llm", tmp_path / "llm")
    return copy_saved(saved, "adapter", tmp_path)


@pytest.fixture
def standalone(saved, tmp_path):
    """A saved standalone checkpoint, the model, and inputs for it."""
    return copy_saved(saved, "standalone", tmp_path)
