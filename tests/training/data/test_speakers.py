"""Per-speaker normalization: by hand, and through a run of training and evaluation with an encoder cache."""

import copy
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from tests.helpers.backbone_configs import SPEECH_BACKBONES
from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.media_files import sine, write_audio
from tests.helpers.run_files import SMALL_RUN
from training.arguments import parse_arguments
from training.data.encoder_cache import encode_samples
from training.data.examples import speaker_of
from training.data.speakers import check_speakers
from training.evaluation import evaluator
from training.evaluation.calibrator import calibrate
from training.evaluation.evaluator import EvaluationOptions, evaluate_checkpoint
from training.evaluation.predictor import Clip, ClipVectors, PredictionOptions, Predictor, predict
from training.records import read_json
from training.trainer.run import TrainingRun


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    """Two speakers a split, each with six clips of sound and with features; a language model and a speech encoder."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "corpus").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for split in ("train", "validation"):
        for number in range(12):
            name = f"{split}{number}"
            write_audio(folder / f"corpus/{name}.wav", sine(200 + 30 * number, 0.3, 16_000), 16_000)
            np.save(folder / f"corpus/{name}.npy", rng.normal(number % 2, 1 + number % 2, (4, 3)).astype(np.float32))
            rows.append(
                {
                    "id": name,
                    "split": split,
                    "task": "emotion",
                    "text": "fine",
                    "answer": "joy" if number < 6 else "anger",
                    "audio": f"{name}.wav",
                    "video_features": f"{name}.npy",
                    "speaker": f"{split}-{number % 2}",
                }
            )
    lines = [json.dumps(row) for row in rows]
    (folder / "corpus/metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    torch.manual_seed(0)
    AutoModel.from_config(SPEECH_BACKBONES["wav2vec2_group_norm"]).save_pretrained(folder / "speech")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "speech")
    return folder


def make_run(place, name, **changes):
    settings = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
        "audio": place / "speech",
        "video": "features",
        "video_feature_size": 3,
        "encoder_cache": place / "cache",
        "speaker_normalization": True,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    argv = ["--use_cpu"]
    for key, value in {**SMALL_RUN, **settings, **changes}.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return TrainingRun(*parse_arguments(argv))


@pytest.fixture(scope="module")
def run(place):
    run = make_run(place, "first")
    run.run()
    return run


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_every_speaker_has_the_scale_of_the_training_set(run, modality):
    encoder = run.model.egmf.audio_visual_encoder
    target = encoder.audio.stem.layer_sum if modality == "audio" else encoder.video.stem
    dataset = run.train_set
    raw = [dataset.load_vectors(index)[modality] for index in range(12)]
    everything = torch.cat([torch.as_tensor(values) for values in raw]).double()
    torch.testing.assert_close(target.mean.double(), everything.mean(dim=0), rtol=1e-4, atol=1e-4)
    for first in (0, 1):
        own = [dataset[index][f"{modality}_values"] for index in range(first, 12, 2)]
        assert not torch.allclose(own[0], torch.as_tensor(raw[first]), atol=1e-3)
        own = torch.cat(own).double()
        torch.testing.assert_close(own.mean(dim=0), target.mean.double(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(own.std(dim=0, unbiased=False), target.std.double(), rtol=1e-2, atol=1e-3)


def test_evaluation_normalizes_as_in_training_and_encodes_each_clip_once(run, place, monkeypatch):
    sizes = []

    def count(stems, samples):
        sizes.append(len(samples) if stems else 0)
        return encode_samples(stems, samples)

    monkeypatch.setattr(evaluator, "encode_samples", count)
    shared = {"model_name_or_path": str(run.folder), "dataset": str(place / "corpus"), "split": "validation"}
    cached = {"encoder_cache": str(place / "cache")}
    outputs = {}
    for name, options in {
        "as trained": cached,
        "without": {**cached, "speaker_normalization": False},
        "uncached": {"speaker_normalization": False, "subsets": ["every"]},
    }.items():
        output = place / f"{name}.json"
        evaluate_checkpoint(EvaluationOptions(**shared, **options, output=output, device="cpu"))
        outputs[name] = read_json(output)
    # Every clip once for all seven subsets, and none with the cache.
    assert sizes == [0, 0, 12]
    assert outputs["as trained"]["speaker_normalization"]
    answers = {name: everything_of(results) for name, results in outputs.items()}
    assert answers["as trained"] != answers["without"]
    assert answers["uncached"] == pytest.approx(answers["without"], abs=1e-5)
    with pytest.raises(ValueError, match="needs all outputs of the audio encoder.*Give --encoder_cache"):
        evaluate_checkpoint(EvaluationOptions(**shared, output=place / "refused.json", device="cpu"))


def test_prediction_with_the_cache_is_that_without(run, place, caplog):
    predictions = {}
    for name, cache in {"plain": None, "first": place / "predict_cache", "second": place / "predict_cache"}.items():
        output = place / f"{name}.jsonl"
        options = PredictionOptions(
            str(run.folder),
            dataset=str(place / "corpus"),
            split="validation",
            device="cpu",
            encoder_cache=cache,
            output=output,
        )
        assert predict(options) == 0
        lines = output.read_text(encoding="utf-8").splitlines()
        predictions[name] = [next(iter(json.loads(line)["probabilities"].values())) for line in lines]
    assert predictions["first"] == predictions["second"] == pytest.approx(predictions["plain"], abs=1e-5)
    assert len(list((place / "predict_cache").rglob("*.safetensors"))) == 12
    assert "without it every speaker is taken for an average one" in caplog.text


def test_prediction_normalizes_as_evaluation_does(run, place):
    shared = {"device": "cpu", "encoder_cache": str(place / "cache"), "speaker_normalization": True}
    evaluated = EvaluationOptions(
        str(run.folder), dataset=str(place / "corpus"), split="validation", output=place / "expected.json", **shared
    )
    evaluate_checkpoint(evaluated)
    expected = everything_of(read_json(place / "expected.json"))
    output = place / "normalized.jsonl"
    dataset = {"dataset": str(place / "corpus"), "split": "validation"}
    assert predict(PredictionOptions(str(run.folder), **dataset, output=output, **shared)) == 0
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [next(iter(line["probabilities"].values())) for line in lines] == pytest.approx(expected, abs=1e-5)


def test_calibration_takes_the_cache_of_the_training(run):
    assert "emotion" in calibrate(run.folder, device="cpu")


def test_each_folder_is_a_speaker(run, place):
    for number in range(6):
        for speaker in ("ann", "bob"):
            (place / "people" / speaker).mkdir(parents=True, exist_ok=True)
            sound = sine(200 + 60 * number, 0.3, 16_000) * (1 if speaker == "ann" else 0.1)
            write_audio(place / "people" / speaker / f"{number}.wav", sound, 16_000)
    (place / "people/bob/9.wav").write_bytes(b"RIFF")
    (place / "people/mute").mkdir()
    write_audio(place / "people/mute/0.wav", np.zeros(4000, np.float32), 16_000)
    shared = {"device": "cpu", "encoder_cache": str(place / "people_cache"), "speaker_normalization": True}
    lines = {}
    for folder, failures in (("people", 2), ("people/ann", 0)):
        output = place / f"{folder.replace('/', '-')}.jsonl"
        assert predict(PredictionOptions(str(run.folder), folder=place / folder, output=output, **shared)) == failures
        for line in output.read_text(encoding="utf-8").splitlines():
            lines.setdefault(json.loads(line)["clip"], []).append(json.loads(line))
    for name, answers in lines.items():
        if "ann" in name:
            first, second = (list(answer["probabilities"].values()) for answer in answers)
            assert first == pytest.approx(second, abs=1e-6)
    for name in ("bob/9", "mute/0"):
        assert "error" in lines[str(place / f"people/{name}.wav")][0]
    shutil.copy(place / "people/bob/0.wav", place / "people")
    with pytest.raises(ValueError, match="has 1 clips beside its folders, such as .*0.wav"):
        predict(PredictionOptions(str(run.folder), folder=place / "people", **shared))


def test_features_of_any_kind_are_measured_and_unusable_ones_left_to_their_error(run):
    values = np.arange(12.0).reshape(4, 3)
    given = [values.tolist(), values[:, :2], torch.from_numpy(values), "absent.npy"]
    clips = [Clip(str(n), "fine", others={"video_features": features}) for n, features in enumerate(given)]
    vectors = ClipVectors(Predictor(run.model, run.processor), clips)
    assert [list(vectors.load_vectors(n)) for n in range(4)] == [["video"], [], ["video"], []]
    assert vectors.load_vectors(0)["video"] == pytest.approx(values)


def everything_of(results):
    """Probabilities of the first answer, with all modalities."""
    subset = results["subsets"]["text+audio+video"]["tasks"]["emotion"]
    return [next(iter(answer["probabilities"].values())) for answer in subset["predictions"]]


def test_examples_without_a_speaker_are_refused(run):
    examples = [dict(example) for example in run.train_set.examples]
    examples[3]["extra"] = {"speaker": " "}
    assert speaker_of(examples[3]) is None
    with pytest.raises(ValueError, match="needs a column 'speaker', and 1 of 12 examples have none: 'train3'"):
        check_speakers(examples)


def test_few_clips_of_a_speaker_are_warned_of(run, caplog):
    with caplog.at_level(logging.WARNING):
        check_speakers(run.train_set.examples[:10])
        assert not caplog.records
        check_speakers(run.train_set.examples[:9])
    assert "1 of 2 speakers have fewer than 5 clips ('train-1')" in caplog.text


def test_raw_media_without_features_cannot_be_normalized(place):
    changes = {"audio": "waveform", "video": "none", "encoder_cache": ""}
    run = make_run(place, "refused", **changes)
    run.data_args.encoder_cache = None
    with pytest.raises(ValueError, match="this model has neither"):
        run.run()


@pytest.mark.parametrize("speaker_normalization", [True, False])
def test_pooled_features_are_standardized_over_the_training_clips(place, speaker_normalization):
    changes = {"encoder_pooling": "statistics", "sequence_encoder": "none", "fusion_learning_rate": 0.0}
    changes |= {"speaker_normalization": speaker_normalization, "encoder_cache": place / "pooled_cache"}
    run = make_run(place, f"pooled-{speaker_normalization}", fusion_pretraining_epochs=0, **changes)
    model = run.run().model.eval()
    clips = [run.train_set[index]["video_values"] for index in range(12)]
    encoder = model.egmf.audio_visual_encoder.video
    pooled = []
    with encoder.dropout.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].detach())):
        for values in clips:
            encoder(values[None], torch.ones(1, len(values), dtype=torch.bool), torch.ones(1, dtype=torch.bool))
    pooled = torch.cat(pooled)
    torch.testing.assert_close(pooled.mean(dim=0), torch.zeros(pooled.shape[1]), rtol=0, atol=1e-3)
    torch.testing.assert_close(pooled.std(dim=0, unbiased=False), torch.ones(pooled.shape[1]), rtol=1e-3, atol=0)
