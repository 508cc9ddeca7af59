"""Options of the pipeline: wrong values are refused by name, for one clip as for several, before anything is done."""

import re

import pytest
import torch

from processing_egmf import EGMFPipeline


CLIPS = [{"text": "Well."}, {"text": "No."}]


@pytest.fixture(scope="module")
def parts(make_model, make_processor):
    return {"model": make_model("features", None), "processor": make_processor("features", None)}


@pytest.fixture(scope="module")
def pipe(parts):
    return EGMFPipeline(**parts, device="cpu")


@pytest.mark.parametrize("clips", [CLIPS[0], CLIPS], ids=["one clip", "several"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": "a"}, "`num_workers` is 'a'; give a whole number, at least 0"),
        ({"num_workers": -1}, "`num_workers` is -1"),
        ({"num_workers": 1.5}, "`num_workers` is 1.5"),
        ({"num_workers": True}, "`num_workers` is True"),
        ({"batch_size": "a"}, "`batch_size` is 'a'; give a whole number, at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"top_k": "3"}, "`top_k` is '3'"),
        ({"top_k": 0}, "`top_k` is 0"),
        ({"labels": []}, "`labels` is []"),
        ({"labels": ["joy", "calm"]}, "`labels` that task 'emotion' does not have: ['calm']"),
        ({"return_experts": "yes"}, "`return_experts` is 'yes'; use one of None, True, False"),
        ({"return_experts": "no"}, "`return_experts` is 'no'; use one of None, True, False"),
        ({"interval": 0.5}, "`interval` is for scores, but every task is a classification"),
        ({"interval": 2}, "`interval` is"),
    ],
)
def test_wrong_options_are_refused_by_name(pipe, clips, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        pipe(clips, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"num_workers": "a"}, "`num_workers` is 'a'"),
        ({"return_experts": 2}, "`return_experts` is 2"),
        ({"device": 99}, "`device` is 99, but there are"),
        ({"device": 0.5}, "`device` is 0.5"),
        ({"device": -2}, "`device` is -2"),
        ({"device": "gpu"}, "`device` is 'gpu'; use 'cpu' or a number"),
        ({"device": "meta"}, "`device` is 'meta'"),
        ({"device": torch.device("meta")}, "`device` is device(type='meta')"),
        ({"device": ["cpu"]}, "`device` is ['cpu']"),
        ({"device": True}, "`device` is True"),
    ],
)
def test_wrong_settings_of_a_new_pipeline_are_refused_by_name(parts, options, message):
    """The number of a GPU that does not exist used to mean the CPU."""
    with pytest.raises(ValueError, match=re.escape(message)):
        EGMFPipeline(**parts, **{"device": "cpu", **options})(CLIPS)
    assert parts["model"].device == torch.device("cpu")


def test_fetch_must_be_a_function(pipe):
    with pytest.raises(TypeError, match="`fetch` is 'yes'; give a function from a URL to bytes or a file"):
        pipe(CLIPS, fetch="yes")


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bf16", "half", 16])
def test_precision_of_a_loaded_model_is_not_changed(parts, dtype):
    """It was ignored without a word."""
    given = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"`dtype` is '{given}', but the model is in float32. Give float16, bfloat16"):
        EGMFPipeline(**parts, device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", [None, "auto", "float32", torch.float32])
def test_precision_of_the_model_itself_may_be_named(parts, dtype):
    assert EGMFPipeline(**parts, device="cpu", dtype=dtype).dtype == torch.float32


@pytest.mark.parametrize("device", [-1, "cpu", "cpu:0", torch.device("cpu")])
def test_devices_that_hold_the_model(parts, device):
    assert EGMFPipeline(**parts, device=device)(CLIPS)


def test_settings_of_a_pipeline_hold_for_every_call(parts, pipe):
    made = EGMFPipeline(**parts, device="cpu", batch_size=2, num_workers=0, return_experts=True, task="mosei")
    answer = made(CLIPS)[1]
    assert answer["probabilities"] == pytest.approx(pipe(CLIPS[1])["probabilities"], abs=1e-6)
    assert "experts" in answer


def test_an_interval_is_for_scores(pipe):
    scored = pipe(CLIPS[0], task="mosei", interval=0.5)
    assert scored["interval"] != pipe(CLIPS[0], task="mosei")["interval"]
    assert pipe(CLIPS[0], task="mosei", interval=0.9) == pipe(CLIPS[0], task="mosei")


def test_the_processor_refuses_an_interval_without_effect(pipe):
    inputs = pipe.processor(text=["Well.", "No."], task=["emotion", "mosei"])
    output = pipe.model.score_answers(**inputs)
    assert "interval" in pipe.processor.post_process_answers(output, interval=0.5)[1]
    output = pipe.model.score_answers(**pipe.processor(text="Well."))
    with pytest.raises(ValueError, match="`interval` is for scores, but every task is a classification"):
        pipe.processor.post_process_answers(output, interval=0.9)


def test_labels_in_another_order_are_another_task(pipe):
    words = {"calm": "calm", "annoyed": "annoyed", "glad": "glad"}
    mood = {"name": "mood", "kind": "classification", "prompt": "\nThe mood is", "labels": words}
    expected = pipe(CLIPS[1], task=mood)["probabilities"]
    turned = {**mood, "labels": dict(reversed(words.items()))}
    assert pipe(CLIPS[1], task=turned)["probabilities"] == pytest.approx(expected, abs=1e-6)
    emotion = pipe.processor.task_objects["emotion"].to_dict()
    emotion["labels"] = emotion["labels"][::-1]
    with pytest.raises(ValueError, match="this processor has another task 'emotion'. Give yours another name"):
        pipe(CLIPS[1], task=emotion)


def test_clips_without_an_order_are_refused(pipe):
    with pytest.raises(TypeError, match="a set has no order. Give a list."):
        pipe({"a.wav", "b.wav"})
    clips = {"a": CLIPS[0], "b": CLIPS[1]}
    assert [answer["label"] for answer in pipe(clips.values())] == [answer["label"] for answer in pipe(CLIPS)]
