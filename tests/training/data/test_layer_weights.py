"""Initial weights of an encoder's layers: those that predict the answers of unfamiliar speakers."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from processing_egmf import BUILT_IN_TASKS
from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model, write_whisper
from tests.helpers.run_files import SMALL_RUN as SMALL
from training.arguments import parse_arguments
from training.data import layer_weights
from training.data.dataset import EGMFDataset
from training.data.encoder_cache import pretrained_stems
from training.data.examples import EXTRA
from training.data.layer_weights import (
    FLOOR,
    STRENGTH,
    Pooled,
    fit_layer_weights,
    measure_layers,
    pool_layers,
    weigh_layers,
)
from training.model.builder import build
from training.trainer.run import train


NUM_SPEAKERS = 4
INFORMATIVE = 1  # the layer that knows the answers


# ---- the comparison of the layers -----------------------------------------------------------------------------


def draw_clips(answers, values_of, num_layers=3, seed=0):
    """Clips whose layers are noise, but for one that also has what `values_of` gives."""
    rng = np.random.default_rng(seed)
    pooled = Pooled()
    for index, answer in enumerate(answers):
        values = rng.normal(0, 1, (num_layers, 6)).astype(np.float32)
        values[INFORMATIVE] += values_of(answer)
        pooled.values.append(values)
        pooled.answers.append(int(answer))
        pooled.groups.append(f"speaker {index % NUM_SPEAKERS}")
    return pooled


def test_labels_are_predicted_by_logistic_regression_without_the_speaker():
    answers = np.random.default_rng(1).integers(0, 3, 48)
    pooled = draw_clips(answers, lambda answer: 1.5 * np.eye(6)[answer])
    measured = measure_layers(BUILT_IN_TASKS["emotion"], pooled)
    values, speakers = np.stack(pooled.values), np.array(pooled.groups)
    for layer in range(3):
        for speaker in set(pooled.groups):
            others = speakers != speaker
            scaler = StandardScaler().fit(values[others, layer])
            model = LogisticRegression(C=STRENGTH).fit(scaler.transform(values[others, layer]), answers[others])
            likelihoods = model.predict_proba(scaler.transform(values[~others, layer]))
            own = likelihoods[np.arange((~others).sum()), answers[~others]]
            expected = np.log((1 - FLOOR) * own + FLOOR / 3)
            np.testing.assert_allclose(measured[~others, layer], expected, rtol=1e-4)
    assert measured.mean(axis=0).argmax() == INFORMATIVE


def test_scores_are_predicted_by_ridge_regression_with_normal_errors():
    answers = np.random.default_rng(1).integers(0, 61, 48)
    pooled = draw_clips(answers, lambda answer: np.full(6, answer / 20))
    measured = measure_layers(BUILT_IN_TASKS["sentiment"], pooled)
    values, speakers = np.stack(pooled.values), np.array(pooled.groups)
    errors = np.zeros(48)
    for speaker in set(pooled.groups):
        others = speakers != speaker
        scaler = StandardScaler().fit(values[others, INFORMATIVE])
        model = Ridge(alpha=1 / STRENGTH).fit(scaler.transform(values[others, INFORMATIVE]), answers[others])
        errors[~others] = model.predict(scaler.transform(values[~others, INFORMATIVE])) - answers[~others]
    normal = torch.distributions.Normal(0.0, float(np.sqrt(np.mean(errors**2))))
    expected = normal.log_prob(torch.from_numpy(errors)).numpy()
    np.testing.assert_allclose(measured[:, INFORMATIVE], expected, rtol=1e-3, atol=1e-4)
    assert measured.mean(axis=0).argmax() == INFORMATIVE


def test_a_label_that_only_one_speaker_has_counts_the_same_for_every_layer():
    answers = [0, 1, 0, 1] * 6
    pooled = draw_clips(answers, lambda answer: np.full(6, answer))
    pooled.answers[0] = 2
    measured = measure_layers(BUILT_IN_TASKS["emotion"], pooled)
    np.testing.assert_allclose(measured[0], np.log(FLOOR / 3))
    # Without one of two speakers, all clips that are left may have one label.
    pooled.answers = [int(group == "speaker 0") for group in pooled.groups]
    pooled.groups = ["a" if group == "speaker 0" else "b" for group in pooled.groups]
    np.testing.assert_allclose(measure_layers(BUILT_IN_TASKS["emotion"], pooled), np.log(FLOOR / 2))


def test_weights_are_shared_between_layers_that_are_as_good():
    rng = np.random.default_rng(0)
    good = rng.normal(-0.5, 0.3, 200)
    likelihoods = np.stack([good - 0.3, good, rng.permutation(good), good - 1], axis=1)
    shares = weigh_layers(likelihoods)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares[[0, 3]], FLOOR / 4, rtol=1e-3)
    assert 0.2 < shares[1] < 0.8
    # One clip that tells two layers apart decides less than many.
    alike = np.repeat(good[:, None], 2, axis=1)
    alike[0, 0] -= 3
    assert 0.02 < weigh_layers(alike)[0] < 0.5
    np.testing.assert_allclose(weigh_layers(np.zeros((5, 4))), 0.25)


# ---- of a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    """A corpus, a language model and a Whisper, saved on disk."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "corpus")
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    write_whisper(folder / "whisper")
    return folder


def options(place, name, **changes):
    settings = {
        "dataset": place / "corpus", "text_model_name_or_path": place / "llm", "output_dir": place / "runs" / name,
        "encoder_cache": place / "cache", "audio": place / "whisper", "video": "none",
        "encoder_pooling": "statistics", "sequence_encoder": "none", "eval_strategy": "no", "save_strategy": "no",
        "fit_layer_weights": "true",
    }  # fmt: skip
    argv = ["--use_cpu"]
    for key, value in {**SMALL, **settings, **changes}.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return parse_arguments(argv)


def build_with_planted_states(place, monkeypatch, num_clips=40):
    """A model, and a dataset whose clips' states are noise, but for one layer that has the answer."""
    torch.manual_seed(0)
    model, processor = build(options(place, "unused")[0])
    labels = list(processor.task_objects["emotion"].labels)
    examples = [
        {
            "id": f"{i}",
            "task": "emotion",
            "text": "fine",
            "answer": labels[i % 2],
            EXTRA: {"speaker": f"s{i % 4 // 2}"},
        }
        for i in range(num_clips)
    ]
    dataset = EGMFDataset(examples, processor)
    stem = pretrained_stems(model)["audio"]
    num_layers = len(stem.layer_sum.weights)

    def plant(model, dataset, index, modalities):
        assert modalities == ["audio"]
        states = np.random.default_rng(index).normal(0, 1, (9, num_layers, stem.width)).astype(np.float32)
        states[:, INFORMATIVE] += index % 2
        return {"audio": states.reshape(9, -1)}

    monkeypatch.setattr(layer_weights, "read_vectors", plant)
    return model, dataset, stem.layer_sum


def test_the_layer_that_knows_the_answers_gets_the_weight(place, monkeypatch, capsys):
    model, dataset, layer_sum = build_with_planted_states(place, monkeypatch)
    weights = fit_layer_weights(model, dataset, progress=False)["audio"]
    assert weights[INFORMATIVE] > 0.9
    assert sum(weights) == pytest.approx(1)
    shares = torch.softmax(layer_sum.SPEED * layer_sum.weights, dim=0)
    torch.testing.assert_close(shares.double(), torch.tensor(weights).double(), rtol=1e-4, atol=1e-5)
    assert layer_sum.weights.requires_grad
    assert "Weights of the layers (audio): 0.01, 0.99." in capsys.readouterr().out


def test_statistics_are_those_of_each_layer(place, monkeypatch):
    model, dataset, layer_sum = build_with_planted_states(place, monkeypatch, num_clips=3)
    pooled = pool_layers(model, dataset, "audio", progress=False)["emotion"]
    for index in range(3):
        states = layer_weights.read_vectors(model, dataset, index, ["audio"])["audio"]
        for layer, of_layer in enumerate(np.split(states, len(layer_sum.weights), axis=1)):
            expected = np.concatenate([of_layer.mean(axis=0), of_layer.std(axis=0)])
            np.testing.assert_allclose(pooled.values[index][layer], expected, rtol=1e-3, atol=1e-4)
    assert pooled.answers == [0, 1, 0]
    assert pooled.groups == ["s0", "s0", "s1"]


def test_speakers_are_normalized_as_in_training(place, monkeypatch):
    model, dataset, _ = build_with_planted_states(place, monkeypatch, num_clips=2)
    plain = pool_layers(model, dataset, "audio", progress=False)["emotion"]
    dataset.speaker_normalization = lambda speaker, media, states: (media, {"audio": states["audio"] + 1})
    normalized = pool_layers(model, dataset, "audio", progress=False)["emotion"]
    change = np.stack(normalized.values) - np.stack(plain.values)
    width = change.shape[2] // 2
    np.testing.assert_allclose(change[..., :width], 1, atol=1e-5)
    np.testing.assert_allclose(change[..., width:], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("column", "value"), [("answer", "joy"), (EXTRA, {"speaker": "s0"})], ids=["one answer", "one speaker"]
)
def test_weights_stay_equal_where_nothing_can_be_compared(place, monkeypatch, caplog, column, value):
    model, dataset, layer_sum = build_with_planted_states(place, monkeypatch)
    examples = [{**example, column: value} for example in dataset.examples]
    dataset = EGMFDataset(examples, dataset.processor)
    assert fit_layer_weights(model, dataset, progress=False) == {}
    assert not layer_sum.weights.any()
    assert "no effect on audio: its clips have only one speaker or one answer" in caplog.text


@pytest.mark.integration
def test_a_run_starts_from_the_weights_and_trains_them(place, capsys):
    train(*options(place, "plain", fit_layer_weights="false"))
    assert "Weights of the layers" not in capsys.readouterr().out
    train(*options(place, "fitted"))
    assert "Weights of the layers (audio): " in capsys.readouterr().out
    name = "egmf.audio_visual_encoder.audio.stem.layer_sum.weights"
    plain, fitted = (load_file(place / f"runs/{run}/model.safetensors")[name] for run in ("plain", "fitted"))
    assert (plain - fitted).abs().max() > 1e-3
    record = json.loads((place / "runs/fitted/training.json").read_text())
    assert record["model_arguments"]["fit_layer_weights"] is True
    # A trained model keeps its own.
    train(*options(place, "tuned", model_name_or_path=place / "runs/fitted", learning_rate=0, max_steps=1))
    said = capsys.readouterr().out
    assert "fit_layer_weights" in said
    assert "Weights of the layers" not in said


@pytest.mark.integration
def test_a_model_without_such_layers_is_trained_with_a_warning(place, caplog):
    train(*options(place, "waveform", audio="waveform", encoder_cache="", encoder_pooling="attention"))
    assert "--fit_layer_weights has no effect: this model has no frozen encoder with weighted layers" in caplog.text
