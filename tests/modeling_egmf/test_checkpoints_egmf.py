"""Light and full checkpoints come back bit for bit, also where nothing but the checkpoint is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from modeling_egmf import EGMFEncoderConfig, EGMFForConditionalGeneration
from modeling_egmf.checkpoints_egmf import fingerprint
from training.model.export import merge


AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM")
FRESH_PROCESS = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None and importlib.util.find_spec("processing_egmf") is None
import torch, transformers
torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
found = {}
for job in jobs:
    try:
        config = transformers.AutoConfig.from_pretrained(job["path"], trust_remote_code=True)
        loader = getattr(transformers, job["auto_class"])
        model = loader.from_pretrained(job["path"], trust_remote_code=True)
        inputs = torch.load(job["inputs"])
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()
            found[job["name"]] = {
                "logits": model(**inputs).logits,
                "probabilities": model.score_answers(**inputs).probabilities,
                "trainable": sorted(n for n, p in model.named_parameters() if p.requires_grad),
                "classes": [type(config).__name__, type(model).__name__],
                "training": model.training,
            }
    except Exception as error:
        found[job["name"]] = {"error": f"{type(error).__name__}: {error}"}
torch.save(found, sys.argv[2])
"""


def outputs_of(model, inputs):
    """What the model says, and what of it is trainable. Bits may depend on where in memory a weight begins, which a
    file's offsets decide: the weights are copied first, here as in the fresh process."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return {
            "logits": model(**inputs).logits,
            "probabilities": model.score_answers(**inputs).probabilities,
            "trainable": sorted(n for n, p in model.named_parameters() if p.requires_grad),
        }


def stored_keys(folder):
    return set(load_file(Path(folder) / "model.safetensors"))


def edit_weights(folder, change):
    path = Path(folder) / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def bases(tmp_path_factory, make_language_model):
    """A folder with language models and encoders, as they would lie on a disk or on the Hub."""
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


@pytest.fixture(scope="module")
def make_light(bases, make_model):
    """`make_light(base="llm", audio=..., video=..., **fields)` -> a model around a stored language model."""

    def make(base="llm", audio="features", video="features", **fields):
        language_model = AutoModelForCausalLM.from_pretrained(bases / base)
        defaults = {"text_model_id": f"../{base}", "text_model_fingerprint": fingerprint(language_model)}
        return make_model(audio, video, language_model=language_model, **{**defaults, **fields})

    return make


@pytest.fixture(scope="module")
def make_towers(bases):
    """Arguments of `make_light` for a video tower that is frozen and an audio tower that is trained."""

    def make(backbone_id, trainable=False):
        vit, wav2vec2 = ViTModel.from_pretrained(bases / "vit"), Wav2Vec2Model.from_pretrained(bases / "wav2vec2")
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


@pytest.fixture(scope="module")
def inputs_for(make_processor, make_samples, process):
    """`inputs_for(model)` -> the same three samples for every model that takes the same media."""

    def make(model):
        audio, video = model.config.audio_config.input_type, model.config.video_config.input_type
        return dict(process(make_processor(audio, video), make_samples(3, audio, video)))

    return make


@pytest.fixture
def light(bases, make_light, inputs_for, tmp_path):
    """A saved light checkpoint beside a copy of its language model, the model, and inputs for it."""
    os.symlink(bases / "llm", tmp_path / "llm")
    model = make_light()
    model.save_pretrained(tmp_path / "light")
    return tmp_path / "light", model, inputs_for(model)


@pytest.fixture
def full(make_light, inputs_for, tmp_path):
    """A saved full checkpoint, the model, and inputs for it."""
    model = merge(make_light())
    model.save_pretrained(tmp_path / "full")
    return tmp_path / "full", model, inputs_for(model)


# ---- a fresh process -----------------------------------------------------------------------------------------

CASES = {
    "light_float32": {},
    "light_bfloat16": {"base": "llm_bfloat16"},
    "light_tied": {"base": "llm_tied"},
    "light_without_lora": {"lora": None},
    "light_media": {
        "audio": "waveform",
        "video": "frames",
        "bidirectional_attention": True,
        "pseudo_token_projection": "separate",
    },
    "light_towers": {"encoder_cache": True},
    "full_float32": {"merge": True},
    "full_bfloat16": {"merge": True, "base": "llm_bfloat16"},
    "full_tied": {"merge": True, "base": "llm_tied"},
    "full_media": {"merge": True, "audio": "waveform", "video": "frames"},
    "full_towers": {"merge": True, "encoder_cache": True},
    "full_with_lora": {"text_model_id": None},
}
LOADS = [
    *[(name, "AutoModel") for name in CASES],
    *[(name, auto) for name in ("light_float32", "full_float32") for auto in AUTO_CLASSES[1:]],
]


@pytest.fixture(scope="module")
def fresh_process(bases, make_light, make_towers, inputs_for, tmp_path_factory):
    """What every case gave before it was saved, and what it gives in a process that knows only the folder."""
    before, jobs = {}, []
    for name, fields in CASES.items():
        fields = dict(fields)
        merged, encoder_cache = fields.pop("merge", False), fields.pop("encoder_cache", False)
        model = make_light(**fields, **(make_towers("../vit") if encoder_cache else {}))
        if merged:
            merge(model)
        inputs = inputs_for(model)
        before[name] = outputs_of(model, inputs)
        model.save_pretrained(bases / name)
        torch.save(inputs, bases / f"{name}.pt")
        for auto_class in [auto for other, auto in LOADS if other == name]:
            paths = {"path": str(bases / name), "inputs": str(bases / f"{name}.pt")}
            jobs.append({"name": f"{name} {auto_class}", "auto_class": auto_class, **paths})
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "jobs.json").write_text(json.dumps(jobs))
    (elsewhere / "load.py").write_text(FRESH_PROCESS)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "load.py", "jobs.json", "found.pt"],
        cwd=elsewhere,
        env={**environment, "HF_MODULES_CACHE": str(elsewhere / "modules"), "HF_HUB_OFFLINE": "1"},
        check=True,
        timeout=300,
    )
    return before, torch.load(elsewhere / "found.pt")


@pytest.mark.integration
@pytest.mark.parametrize(("name", "auto_class"), LOADS)
def test_fresh_process_gives_the_same_bits(fresh_process, name, auto_class):
    before, after = fresh_process
    found = after[f"{name} {auto_class}"]
    assert "error" not in found, found["error"]
    assert found["classes"] == ["EGMFConfig", "EGMFForConditionalGeneration"]
    assert torch.equal(found["logits"], before[name]["logits"])
    assert torch.equal(found["probabilities"], before[name]["probabilities"])
    assert found["trainable"] == before[name]["trainable"]
    assert not found["training"]


# ---- what is stored ------------------------------------------------------------------------------------------


def test_light_holds_only_what_was_trained(light):
    folder, model, _ = light
    keys = stored_keys(folder)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.egmf.named_buffers(prefix="egmf")}
    assert keys == trained | buffers
    assert not any(k.startswith("language_model.") and "lora_" not in k for k in keys)


def test_light_is_smaller(light, full):
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (light[0], full[0])]
    assert sizes[0] < sizes[1] / 3


def test_full_holds_everything_and_names_nothing(full):
    folder, model, _ = full
    assert stored_keys(folder) == set(model.state_dict())
    assert not any("lora_" in key or "base_layer" in key for key in stored_keys(folder))
    config = json.loads((folder / "config.json").read_text())
    assert [config[name] for name in ("lora", "text_model_id", "text_model_fingerprint")] == [None] * 3


@pytest.mark.parametrize("kind", ["light", "full"])
def test_no_local_path_is_stored(request, kind, tmp_path, bases):
    folder = request.getfixturevalue(kind)[0]
    text = "".join(path.read_text() for path in folder.glob("*.json"))
    assert str(tmp_path) not in text
    assert str(bases) not in text


def test_code_travels_with_the_checkpoint(light):
    stems = ("answers", "checkpoints", "configuration", "encoders", "experts", "fusion", "modeling")
    assert {path.name for path in light[0].glob("*.py")} >= {f"{stem}_egmf.py" for stem in stems}


@pytest.mark.parametrize("kind", ["light", "full"])
def test_saving_again_changes_nothing(request, kind):
    folder, _, _ = request.getfixturevalue(kind)
    second, third = folder.parent / "second", folder.parent / "third"
    EGMFForConditionalGeneration.from_pretrained(folder).save_pretrained(second)
    EGMFForConditionalGeneration.from_pretrained(second).save_pretrained(third)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for other in (second, third):
        assert names == {path.name for path in other.iterdir() if path.is_file()}
    for name in names:
        assert (second / name).read_bytes() == (third / name).read_bytes(), name
    assert (folder / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


# ---- loading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["light", "full"])
def test_loaded_equals_saved(request, kind):
    folder, model, inputs = request.getfixturevalue(kind)
    before, after = (outputs_of(m, inputs) for m in (model, EGMFForConditionalGeneration.from_pretrained(folder)))
    assert torch.equal(before["logits"], after["logits"])
    assert before["trainable"] == after["trainable"]


@pytest.mark.parametrize("kind", ["light", "full"])
def test_language_model_takes_the_dtype_and_the_fusion_does_not(request, kind):
    folder, _, inputs = request.getfixturevalue(kind)
    model = EGMFForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.egmf.parameters()} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} <= {torch.float32}
    assert torch.isfinite(model.score_answers(**inputs).probabilities).all()


def test_unmerged_lora_stays_in_float32(make_light, tmp_path):
    make_light(text_model_id=None).save_pretrained(tmp_path)
    model = EGMFForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["light", "full"])
def test_language_model_takes_the_attention(request, kind, attention):
    model = EGMFForConditionalGeneration.from_pretrained(
        request.getfixturevalue(kind)[0], attn_implementation=attention
    )
    assert model.language_model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", ["light", "full"])
def test_loading_info_on_demand(request, kind):
    model, info = EGMFForConditionalGeneration.from_pretrained(
        request.getfixturevalue(kind)[0], output_loading_info=True
    )
    assert isinstance(model, EGMFForConditionalGeneration)
    assert not any(info.values())


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("egmf.fusion.no_text_query"), "egmf.fusion.no_text_query"),
        (lambda state: state.update({"egmf.fusion.extra": torch.zeros(2)}), "egmf.fusion.extra"),
        (lambda state: state.update({"egmf.fusion.no_text_query": torch.zeros(5)}), "egmf.fusion.no_text_query"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_wrong_keys_are_refused(request, kind, change, message):
    folder = request.getfixturevalue(kind)[0]
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        EGMFForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(request, kind, value):
    folder = request.getfixturevalue(kind)[0]
    edit_weights(folder, lambda state: state["egmf.fusion.no_text_query"][:1].fill_(value))
    with pytest.raises(
        ValueError, match=r"NaN or infinite: \['egmf.fusion.no_text_query'\].*Download or save it again"
    ):
        EGMFForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:4], lambda data: b"\xff" * 64 + data[64:], lambda _: b""],
    ids=["cut", "cut at once", "damaged", "empty"],
)
def test_damaged_file_is_named(request, kind, damage):
    folder = request.getfixturevalue(kind)[0]
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSError, match=rf"{folder}.*could not be loaded.*Download or save it again"):
        EGMFForConditionalGeneration.from_pretrained(folder)


def test_damaged_language_model_is_named(make_light, make_language_model, tmp_path):
    make_language_model().save_pretrained(tmp_path / "llm")
    make_light().save_pretrained(tmp_path / "light")
    path = tmp_path / "llm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        OSError, match=r"adapter checkpoint: its language model '../llm' could not be loaded.*Point to a"
    ):
        EGMFForConditionalGeneration.from_pretrained(tmp_path / "light")


def test_missing_lora_is_refused(light):
    edit_weights(light[0], lambda state: state.pop(next(key for key in state if "lora_A" in key)))
    with pytest.raises(ValueError, match="lora_A"):
        EGMFForConditionalGeneration.from_pretrained(light[0])


def test_missing_weight_of_the_language_model_is_refused(full):
    edit_weights(full[0], lambda state: state.pop("language_model.model.norm.weight"))
    with pytest.raises(ValueError, match=r"language_model\.model\.norm\.weight"):
        EGMFForConditionalGeneration.from_pretrained(full[0])


def test_light_checkpoint_without_its_name_is_refused(light):
    path = light[0] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_model_id": None}))
    with pytest.raises(ValueError, match="Is it an adapter checkpoint"):
        EGMFForConditionalGeneration.from_pretrained(light[0])


# ---- the language model of a light checkpoint ----------------------------------------------------------------


@pytest.mark.parametrize("text_model_id", ["../nowhere", "org/never-published"])
def test_absent_language_model_is_named(make_light, tmp_path, monkeypatch, text_model_id):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make_light(text_model_id=text_model_id).save_pretrained(tmp_path / "light")
    with pytest.raises(OSError, match=rf"is an adapter checkpoint.*'{text_model_id}'") as caught:
        EGMFForConditionalGeneration.from_pretrained(tmp_path / "light")
    assert "from_pretrained(..., text_model_id=" in str(caught.value)


def test_pointing_at_a_copy_works(make_light, inputs_for, bases, tmp_path):
    model = make_light(text_model_id="org/never-published")
    model.save_pretrained(tmp_path / "light")
    loaded = EGMFForConditionalGeneration.from_pretrained(tmp_path / "light", text_model_id=bases / "llm")
    inputs = inputs_for(model)
    assert torch.equal(outputs_of(model, inputs)["logits"], outputs_of(loaded, inputs)["logits"])


def test_relative_path_starts_at_the_checkpoint(light, tmp_path, monkeypatch):
    (tmp_path / "somewhere" / "else").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "somewhere" / "else")
    EGMFForConditionalGeneration.from_pretrained(light[0])


def test_same_language_model_does_not_warn(light, caplog):
    EGMFForConditionalGeneration.from_pretrained(light[0])
    assert "other weights" not in caplog.text


def test_other_precision_does_not_warn(light, bases, caplog):
    EGMFForConditionalGeneration.from_pretrained(light[0], text_model_id=bases / "llm_bfloat16")
    assert "other weights" not in caplog.text


def test_other_weights_warn(light, bases, caplog):
    EGMFForConditionalGeneration.from_pretrained(light[0], text_model_id=bases / "llm_other_weights")
    assert "has other weights than the one" in caplog.text


def test_other_size_is_refused(light, bases):
    with pytest.raises(ValueError, match="has hidden_size=16, but .* was trained on one with 32"):
        EGMFForConditionalGeneration.from_pretrained(light[0], text_model_id=bases / "llm_narrow")


def test_language_model_cut_short_is_refused(make_light, make_language_model, tmp_path):
    make_language_model().save_pretrained(tmp_path / "llm")
    make_light().save_pretrained(tmp_path / "light")
    edit_weights(tmp_path / "llm", lambda state: state.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"are not those of the model: .*model\.norm\.weight"):
        EGMFForConditionalGeneration.from_pretrained(tmp_path / "light")


# ---- LoRA ----------------------------------------------------------------------------------------------------


def test_merging_keeps_the_answers(make_light, inputs_for):
    model = make_light()
    inputs = inputs_for(model)
    before = outputs_of(model, inputs)["logits"]
    after = outputs_of(merge(model), inputs)["logits"]
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)


def test_merged_lora_is_in_the_weights(make_light, bases):
    plain = AutoModelForCausalLM.from_pretrained(bases / "llm").state_dict()
    merged = merge(make_light()).language_model.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    expected = {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qv"}
    assert changed == expected


def test_merging_a_loaded_checkpoint_needs_nothing_else(light, tmp_path):
    folder, model, inputs = light
    merge(EGMFForConditionalGeneration.from_pretrained(folder)).save_pretrained(tmp_path / "full")
    (tmp_path / "llm").unlink()
    found = outputs_of(EGMFForConditionalGeneration.from_pretrained(tmp_path / "full"), inputs)["logits"]
    torch.testing.assert_close(found, outputs_of(model, inputs)["logits"], atol=1e-3, rtol=0)


# ---- pretrained encoder_cache ---------------------------------------------------------------------------------------

TOWER = "egmf.audio_visual_encoder.video.stem.backbone."


def test_frozen_tower_stays_out_and_comes_back(make_light, make_towers, inputs_for, bases, tmp_path):
    model = make_light(text_model_id=str(bases / "llm"), **make_towers(str(bases / "vit")))
    model.save_pretrained(tmp_path / "light")
    keys = stored_keys(tmp_path / "light")
    assert not any(key.startswith(TOWER) for key in keys)
    assert any(key.startswith(TOWER.replace("video", "audio")) for key in keys)  # that one is trained
    loaded = EGMFForConditionalGeneration.from_pretrained(tmp_path / "light")
    inputs = inputs_for(model)
    before, after = outputs_of(model, inputs), outputs_of(loaded, inputs)
    assert torch.equal(before["logits"], after["logits"])
    assert before["trainable"] == after["trainable"]


def test_relative_path_of_a_tower_starts_at_the_checkpoint(make_light, make_towers, bases, tmp_path, monkeypatch):
    make_light(**make_towers("../vit")).save_pretrained(bases / "light_with_tower")
    monkeypatch.chdir(tmp_path)
    EGMFForConditionalGeneration.from_pretrained(bases / "light_with_tower")


def test_trained_tower_is_stored(make_light, make_towers, bases, tmp_path):
    make_light(text_model_id=str(bases / "llm"), **make_towers("../nowhere", trainable=True)).save_pretrained(tmp_path)
    assert any(key.startswith(TOWER) for key in stored_keys(tmp_path))
    EGMFForConditionalGeneration.from_pretrained(tmp_path)


def test_full_checkpoint_holds_its_frozen_tower(make_light, make_towers, tmp_path):
    make_light(text_model_id=None, **make_towers("../nowhere")).save_pretrained(tmp_path)
    assert any(key.startswith(TOWER) for key in stored_keys(tmp_path))
    EGMFForConditionalGeneration.from_pretrained(tmp_path)


def test_absent_tower_is_named(make_light, make_towers, bases, tmp_path):
    make_light(text_model_id=str(bases / "llm"), **make_towers("../nowhere")).save_pretrained(tmp_path / "light")
    with pytest.raises(OSError, match=r"video encoder '../nowhere'.*video_config\.backbone_id"):
        EGMFForConditionalGeneration.from_pretrained(tmp_path / "light", local_files_only=True)
