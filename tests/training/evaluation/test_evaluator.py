"""Predictions over a dataset: answers do not depend on the batch or on left-out modalities."""

import pytest

from tests.helpers.corpus_files import write_corpus
from training.data.dataset import EGMFDataset, load_examples
from training.evaluation.evaluator import evaluate, print_figures
from training.evaluation.subsets import ALL_MODALITIES, SUBSETS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("waveform", "frames", lora=None)


@pytest.fixture(scope="module")
def processor(make_processor):
    return make_processor("waveform", "frames")


def probabilities_of(results, subset):
    """Id of an example -> probabilities of its answers."""
    predictions = [p for part in results[subset]["tasks"].values() for p in part["predictions"]]
    return {prediction["id"]: list(prediction["probabilities"].values()) for prediction in predictions}


def test_batch_size_does_not_matter(model, processor, corpus):
    dataset = EGMFDataset(load_examples(corpus, "train"), processor, cache_media=True)
    expected = probabilities_of(evaluate(model, processor, dataset, SUBSETS[-1:], batch_size=6), ALL_MODALITIES)
    for batch_size in (1, 2, 5):
        results = evaluate(model, processor, dataset, SUBSETS[-1:], batch_size)
        found = probabilities_of(results, ALL_MODALITIES)
        assert set(found) == set(expected)
        for name in expected:
            assert found[name] == pytest.approx(expected[name], abs=1e-5)


def test_subset_sees_nothing_else(model, processor, corpus):
    """Evaluating with text only is evaluating examples that have only text."""
    examples = [example for example in load_examples(corpus, "train") if example.get("text")]
    bare = [{name: value for name, value in example.items() if name != "video"} for example in examples]

    def text_only(given):
        dataset = EGMFDataset(given, processor, cache_media=True)
        return probabilities_of(evaluate(model, processor, dataset, [("text",)]), "text")

    found = text_only(examples)
    expected = text_only(bare)
    assert set(found) == {example["id"] for example in examples}
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_subset_missing_from_all_examples(model, processor, corpus):
    examples = [example for example in load_examples(corpus, "train") if not example.get("text")]
    results = evaluate(model, processor, EGMFDataset(examples, processor), [("text",)])
    assert results == {"text": {"left_out": 1, "tasks": {}}}


def test_clips_without_a_face_are_counted_beside_the_figures(capsys):
    predictions = [{"face_share": share} for share in (0.0, 0.5, 1.0)] + [{}]
    part = {"metrics": {"accuracy": 0.75}, "examples": 4, "predictions": predictions}
    print_figures("video", "emotion", part)
    assert "accuracy 0.750, whole frames, for want of a face, in 1 of 3 clips" in capsys.readouterr().out
    print_figures("text", "emotion", {**part, "predictions": predictions[1:]})
    assert capsys.readouterr().out.rstrip().endswith("accuracy 0.750")


def test_answers_that_saw_frames_say_in_how_many_the_face_was_found(model, make_processor, corpus):
    def detect(frames):
        return [[(0, 0, 24, 24, 1.0)] if index else [] for index in range(len(frames))]

    processor = make_processor("waveform", "frames", frames="face", face_detector=detect)
    dataset = EGMFDataset(load_examples(corpus, "train"), processor)
    results = evaluate(model, processor, dataset, [("text",), ("text", "audio", "video")])
    parts = [part for result in results.values() for part in result["tasks"].values()]
    predictions = [prediction for part in parts for prediction in part["predictions"]]
    shares = [prediction["face_share"] for prediction in predictions if "video" in prediction["modalities"]]
    assert len(shares) >= 3 and all(0.5 <= share < 1 for share in shares)
    assert sum("face_share" in prediction for prediction in predictions) == len(shares)
