"""The processor: prompts and labels, context, media, errors, save and load, and answers from distributions."""

import io
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from modeling_egmf import EGMFAnswerOutput
from processing_egmf import BUILT_IN_TASKS, EGMFProcessor, EGMFTask
from processing_egmf.processing_egmf import MODALITIES
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from training.data.collator import SUBSETS


PROMPT_KEYS = ("input_ids", "attention_mask", "utterance_mask")
MEDIA_KEYS = ("audio_values", "audio_mask", "video_values", "video_mask")
ANSWERS = [("emotion", "joy"), ("meld", "disgust"), ("cherma", "高兴"), ("mosei", -0.4), ("sims_v2", 0.2)]
TEXTS = {"emotion": "I'm fine.", "meld": "No!", "cherma": "我很好", "mosei": "a film", "sims_v2": "真没想到"}


@pytest.fixture
def raw(make_processor):
    return make_processor("waveform", "frames")


@pytest.fixture
def features(make_processor):
    return make_processor("features", "features")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Real files: `both` (video with sound), `silent` (video only), `sound` (audio only), and broken ones."""
    folder = tmp_path_factory.mktemp("clips")
    frames = gray_frames(6, 32, 48)
    paths = {
        "both": write_video(folder / "both.mp4", frames, audio=sine(440, 0.48, 16_000)),
        "silent": write_video(folder / "silent.mp4", frames),
        "sound": write_audio(folder / "sound.wav", sine(300, 0.3, 16_000), 16_000),
    }
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "words.mp4").write_text("this is no film " * 50)
    (folder / "cut.mp4").write_bytes(paths["both"].read_bytes()[:600])
    paths |= {name: folder / f"{name}.mp4" for name in ("empty", "words", "cut", "absent")}
    return {name: str(path) for name, path in paths.items()} | {"folder": str(folder)}


@pytest.fixture
def heard_warnings():
    """Messages of the package's own loggers."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler = Keep()
    logger = logging.getLogger("processing_egmf.prompts_egmf")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def decoded(processor, ids):
    return processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def same(left, right):
    assert set(left) == set(right)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def same_media(left, right):
    same({name: left[name] for name in MEDIA_KEYS if name in left}, {n: right[n] for n in MEDIA_KEYS if n in right})


def row_of(batch, i):
    """One sample of a batch without the padding of its prompt."""
    real = batch["input_ids"].shape[1] - first_real(batch, i)
    return {name: batch[name][i, -real:] for name in (*PROMPT_KEYS, "labels") if name in batch}


def first_real(batch, i):
    """Where the left padding of row i ends: the tokenizer begins every text with <s> (0)."""
    return int(torch.where(batch["input_ids"][i] == 0)[0][0])


# ---- labels and prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "answer"), ANSWERS)
def test_labels_are_the_answer_alone(features, task, answer):
    with_answer = features(text=TEXTS[task], task=task, answer=answer)
    without = features(text=TEXTS[task], task=task)
    labels, ids = with_answer["labels"][0], with_answer["input_ids"][0]
    length = without["input_ids"].shape[1]
    assert ids[:length].tolist() == without["input_ids"][0].tolist()
    assert (labels[:length] == -100).all()
    assert labels[length:].tolist() == ids[length:].tolist()
    eos = features.tokenizer.eos_token
    written = (
        features.task_objects[task].separator
        + features.task_objects[task].answers[features.task_objects[task].index(answer)]
    )
    assert decoded(features, labels[length:]) == written + eos


@pytest.mark.parametrize(("task", "answer"), ANSWERS)
def test_masks_cover_prompt_and_answer(features, task, answer):
    batch = features(text=TEXTS[task], task=task, answer=answer)
    assert batch["attention_mask"].all()
    assert decoded(features, batch["input_ids"][0][batch["utterance_mask"][0].bool()]) == TEXTS[task]


def test_answer_ids_are_left_out_of_training_batches(features):
    assert "answer_ids" not in features(text="a", task="emotion", answer="joy")
    batch = features(text="a", task="emotion")
    assert "labels" not in batch
    assert batch["answer_ids"].shape[:2] == (1, 7)


@pytest.mark.parametrize("task", BUILT_IN_TASKS)
def test_answers_continue_the_prompt(features, task):
    tokenizer, chosen = features.tokenizer, BUILT_IN_TASKS[task]
    prompt = tokenizer(chosen.prompt, add_special_tokens=False)["input_ids"]
    rows = features.answer_token_ids(task)
    assert len(rows) == chosen.num_answers
    for answer, row in zip(chosen.answers, rows, strict=True):
        whole = tokenizer(chosen.prompt + chosen.separator + answer, add_special_tokens=False)["input_ids"]
        body = row[:-1] if row[-1] == tokenizer.eos_token_id else row
        assert whole == prompt + body
    for row in rows:
        assert not [other for other in rows if other is not row and other[: len(row)] == row]


def test_answer_that_begins_another_gets_an_end_marker(make_processor, two_label_task):
    processor = make_processor(tasks={"mood": two_label_task})
    assert [row[-1] for row in processor.answer_token_ids("mood")] == [processor.tokenizer.eos_token_id] * 2
    labels = processor(text="a", answer="low")["labels"][0]
    assert (labels == processor.tokenizer.eos_token_id).sum() == 1


def test_prompt_that_melts_into_its_answer_is_refused(make_processor):
    task = EGMFTask("mood", "classification", labels={"a": "eaker", "b": "x"}, prompt="\nThe sp", separator="")
    with pytest.raises(ValueError, match="joins the end of the prompt with the answer 'eaker'"):
        make_processor(tasks={"mood": task})(text="a")


@pytest.mark.parametrize("task", BUILT_IN_TASKS)
def test_prompt_has_the_stated_shape(features, task):
    chosen = BUILT_IN_TASKS[task]
    batch = features(text=TEXTS.get(task, "words"), task=task)
    expected = "<s>" + chosen.prefix + "<|egmf|>" * 3 + chosen.suffix + TEXTS.get(task, "words") + chosen.prompt
    assert decoded(features, batch["input_ids"][0]) == expected


def test_prompt_without_text_has_no_suffix(features):
    batch = features(audio_features=np.ones((2, 6)), task="emotion")
    chosen = BUILT_IN_TASKS["emotion"]
    assert decoded(features, batch["input_ids"][0]) == f"<s>{chosen.prefix}{'<|egmf|>' * 3}{chosen.prompt}"
    assert not batch["utterance_mask"].any()


@pytest.mark.parametrize("text", ["<|egmf|>", "a <|egmf|><|egmf|> b", "</s><s>", "</s>\nThe speaker's emotion is joy"])
@pytest.mark.parametrize("place", ["text", "context", "speaker"])
def test_special_tokens_written_by_a_user_are_words(features, text, place):
    given = (
        {"text": text} if place == "text" else {"text": "a", "context": [text if place == "context" else (text, "b")]}
    )
    ids = features(**given, task="emotion")["input_ids"][0]
    assert (ids == features.placeholder_token_id).sum() == 3
    assert (ids == features.tokenizer.eos_token_id).sum() == 0
    assert (ids == features.tokenizer.bos_token_id).sum() == 1
    assert text in decoded(features, ids)


def test_placeholder_lies_past_the_vocabulary(features, trained_tokenizer):
    assert features.placeholder_token_id == len(trained_tokenizer)
    assert features.tokenizer.convert_tokens_to_ids("<|egmf|>") == features.placeholder_token_id


def test_transcript_hidden_from_the_language_model(make_processor):
    batch = make_processor(transcript_in_prompt=False)(text="Well, so.", context=["Hello"], task="emotion")
    spoken = batch["utterance_mask"].bool()
    assert spoken.any()
    assert not batch["attention_mask"][spoken].any()
    assert batch["attention_mask"][~spoken].all()


@pytest.mark.parametrize("behind", [False, True])
def test_beginning_is_kept_when_it_is_the_end_token_too(make_processor, tiny_tokenizer, behind):
    end = tiny_tokenizer.eos_token
    template = f"{end} $A {end}" if behind else f"{end} $A"
    tiny_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(end, tiny_tokenizer.eos_token_id)]
    )
    processor = EGMFProcessor(tiny_tokenizer)
    ids = processor(text="a", task="emotion")["input_ids"][0].tolist()
    assert [place for place, token in enumerate(ids) if token == tiny_tokenizer.eos_token_id] == [0]


def test_text_is_stripped_and_empty_text_is_missing(features):
    same(features(text="  a \n", task="emotion"), features(text="a", task="emotion"))
    batch = features(text=["  ", "a"], audio_features=[np.ones((1, 6)), None])
    assert batch["modality_mask"].tolist() == [[False, True, False], [True, False, False]]


# ---- context and length --------------------------------------------------------------------------------------


def test_context_stands_before_the_prompt(features):
    batch = features(text="a", context=["Hello.", ("Ann", "Hi."), ["Bob", "我很好"]], task="emotion")
    assert decoded(features, batch["input_ids"][0]).startswith("<s>Hello.\nAnn: Hi.\nBob: 我很好\nVoice and face:")
    assert decoded(features, batch["input_ids"][0][batch["utterance_mask"][0].bool()]) == "a"


def test_context_in_a_batch(features):
    batch = features(text=["a", "b", "c"], context=[["x", "y"], None, [("Ann", "z")]], task="emotion")
    for i, turns in enumerate((["x", "y"], None, [("Ann", "z")])):
        single = features(text="abc"[i], context=turns, task="emotion")
        assert row_of(batch, i)["input_ids"].tolist() == single["input_ids"][0].tolist()


def test_context_in_a_batch_of_one(features):
    batch = features(text=["a"], context=[["x", "y"]], task="emotion")
    same(batch, features(text="a", context=["x", "y"], task="emotion"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "a", "context": "He left."},
        {"text": ["a", "b"], "context": ["He left.", "She came."]},
        {"text": ["a"], "context": ["He left."]},
    ],
)
def test_context_of_one_string_is_never_spelled_out(features, arguments):
    with pytest.raises(TypeError, match=r"sample 0.*context"):
        features(**arguments)


@pytest.mark.parametrize("turn", [3, ("Ann", 3), ("a", "b", "c"), None, {"speaker": "a"}])
def test_context_turn_of_another_type_is_refused(features, turn):
    with pytest.raises(TypeError, match="row 9: a turn of the context"):
        features(text="a", context=[turn], sample_names="row 9")


def test_oldest_turns_go_first_and_that_is_said(make_processor, heard_warnings):
    turns = [f"turn {i} of this talk" for i in range(6)]
    processor = make_processor()
    whole = processor(text="a", task="emotion", context=turns)["input_ids"].shape[1]
    longest = max(map(len, processor.answer_token_ids("emotion"))) + 1
    assert not heard_warnings
    processor.max_length = whole + longest - 1
    batch = processor(text="a", task="emotion", context=turns, sample_names="row 12")
    said = f"of 6 turns of context the oldest 1 were left out, because max_length is {processor.max_length}."
    assert heard_warnings == [f"row 12: {said}"]
    text = decoded(processor, batch["input_ids"][0])
    assert turns[0] not in text
    assert all(turn in text for turn in turns[1:])
    processor.max_length = processor(text="a", task="emotion")["input_ids"].shape[1] + longest
    assert "turn" not in decoded(processor, processor(text="a", task="emotion", context=turns)["input_ids"][0])


def test_long_transcript_is_shortened_with_a_warning(make_processor, heard_warnings):
    processor = make_processor(max_length=110)
    words = "word and word again " * 100
    batch = processor(text=words, task="emotion", context=["old"], answer="joy", sample_names="row 12")
    assert batch["input_ids"].shape[1] <= 110
    assert any("row 12" in message and "max_length is 110" in message for message in heard_warnings)
    text = decoded(processor, batch["input_ids"][0])
    assert text.startswith("<s>Voice and face:<|egmf|><|egmf|><|egmf|>\nWords:\nword and")
    assert text.endswith("\nThe speaker's emotion is joy</s>")
    assert words.startswith(decoded(processor, batch["input_ids"][0][batch["utterance_mask"][0].bool()]))


@pytest.mark.parametrize(("task", "answer"), ANSWERS)
def test_answers_of_every_length_fit(make_processor, task, answer):
    processor = make_processor(max_length=120)
    for said in processor.task_objects[task].labels or [answer]:
        assert processor(text="好 word " * 100, task=task, answer=said)["input_ids"].shape[1] <= 120


def test_text_that_fits_is_not_touched(make_processor, heard_warnings):
    processor = make_processor(max_length=110)
    processor(text="short", task="emotion")
    assert not heard_warnings


@pytest.mark.parametrize("arguments", [{"text": "a"}, {"audio_features": np.ones((1, 6))}])
def test_max_length_below_the_prompt_is_refused(make_processor, arguments):
    with pytest.raises(ValueError, match=r"max_length 10 is too short for the task 'emotion'.*Raise max_length"):
        make_processor(max_length=10)(**arguments)


# ---- batches -------------------------------------------------------------------------------------------------


def test_padding_is_on_the_left(features):
    batch = features(text=["a", "a much longer text than that"], task="emotion", answer=["joy", "fear"])
    padding = batch["input_ids"].shape[1] - row_of(batch, 0)["input_ids"].shape[0]
    assert padding > 0
    assert (batch["input_ids"][0, :padding] == features.tokenizer.pad_token_id).all()
    assert not batch["attention_mask"][0, :padding].any()
    assert not batch["utterance_mask"][0, :padding].any()
    assert (batch["labels"][0, :padding] == -100).all()
    assert batch["attention_mask"][1].all()


@pytest.mark.parametrize("kinds", [("features", "features"), ("waveform", "frames")])
def test_one_sample_is_what_it_is_in_a_batch(make_processor, make_samples, kinds):
    processor, samples = make_processor(*kinds), make_samples(4, *kinds)
    names = set().union(*samples) - {"sampling_rate", "fps"}
    scalars = {name: samples[0][name] for name in ("sampling_rate", "fps") if name in samples[0]}
    batch = processor(**{name: [sample[name] for sample in samples] for name in names}, **scalars, task="mosei")
    for i, sample in enumerate(samples):
        single = processor(**sample, task="mosei")
        found = row_of(batch, i)
        for name in PROMPT_KEYS:
            assert found[name].tolist() == single[name][0].tolist()
        for modality in ("audio", "video"):
            values, mask = batch[f"{modality}_values"][i], batch[f"{modality}_mask"][i]
            torch.testing.assert_close(values[mask], single[f"{modality}_values"][0], rtol=0, atol=0)
            assert not values[~mask].any()
            assert mask.sum() == single[f"{modality}_mask"].sum()
            assert mask[: mask.sum()].all()
        assert batch["modality_mask"][i].tolist() == single["modality_mask"][0].tolist()


def test_list_of_one_is_one_sample(features):
    same(features(text=["a"], task="emotion"), features(text="a", task="emotion"))


def test_batch_where_anything_is_missing(features):
    audio, video = np.ones((3, 6)), np.ones((2, 5))
    parts = {"text": "word", "audio_features": audio, "video_features": video}
    names = dict(zip(MODALITIES, parts, strict=True))
    columns = {names[m]: [parts[names[m]] if m in subset else None for subset in SUBSETS] for m in MODALITIES}
    batch = features(**columns, task="emotion")
    expected = [[m in subset for m in MODALITIES] for subset in SUBSETS]
    assert batch["modality_mask"].tolist() == expected
    assert batch["utterance_mask"].any(dim=1).tolist() == [row[0] for row in expected]
    assert batch["audio_mask"].sum(dim=1).tolist() == [3 * row[1] for row in expected]
    assert batch["video_mask"].sum(dim=1).tolist() == [2 * row[2] for row in expected]


def test_absent_modality_is_left_out(features):
    assert set(features(text="a")) == {*PROMPT_KEYS, "modality_mask", "task_ids", "answer_ids"}
    assert set(MEDIA_KEYS) & set(features(video_features=np.ones((1, 5)))) == {"video_values", "video_mask"}


def test_mixed_tasks_in_one_batch(features):
    batch = features(text=["a", "b", "好"], task=["sims_v2", "emotion", "cherma"])
    names = list(features.task_objects)
    assert [names[i] for i in batch["task_ids"].tolist()] == ["sims_v2", "emotion", "cherma"]
    assert (batch["answer_ids"] >= 0).any(dim=2).sum(dim=1).tolist() == [11, 7, 7]
    for i, task in enumerate(("sims_v2", "emotion", "cherma")):
        rows = [[token for token in row if token >= 0] for row in batch["answer_ids"][i].tolist()]
        assert [row for row in rows if row] == features.answer_token_ids(task)


def test_first_task_is_the_default(features):
    same(features(text="a"), features(text="a", task=next(iter(features.task_objects))))


def test_task_may_be_an_object(features):
    same(features(text="a", task=BUILT_IN_TASKS["mosei"]), features(text="a", task="mosei"))


@pytest.mark.parametrize("answers", [[0.5, -1.0], np.array([0.5, -1.0], np.float32), torch.tensor([0.5, -1.0])])
def test_scores_come_as_list_or_array(features, answers):
    batch = features(text=["a", "b"], task="mosei", answer=answers)
    expected = [features(text=t, task="mosei", answer=a) for t, a in (("a", 0.5), ("b", -1.0))]
    for i, single in enumerate(expected):
        assert row_of(batch, i)["labels"].tolist() == single["labels"][0].tolist()


# ---- media ---------------------------------------------------------------------------------------------------


def test_video_brings_its_own_sound(raw, clips):
    batch = raw(text="a", video=clips["both"])
    assert batch["modality_mask"].tolist() == [[True, True, True]]
    assert batch["audio_values"].shape[1] == pytest.approx(0.48 * 16_000, abs=2100)
    assert batch["audio_values"].abs().max() > 0.3
    assert batch["video_values"].shape == (1, 4, 3, 16, 16)
    assert batch["video_values"].min() >= -1
    assert batch["video_values"].max() <= 1


def test_video_without_sound(raw, clips):
    batch = raw(video=clips["silent"])
    assert "audio_values" not in batch
    assert batch["modality_mask"].tolist() == [[False, False, True]]


def test_sound_alone(raw, clips):
    batch = raw(audio=clips["sound"])
    assert "video_values" not in batch
    assert batch["audio_values"].shape == (1, 4800)
    assert batch["modality_mask"].tolist() == [[False, True, False]]


def test_given_sound_replaces_the_sound_track(raw, clips):
    batch = raw(video=clips["both"], audio=clips["sound"])
    torch.testing.assert_close(batch["audio_values"], raw(audio=clips["sound"])["audio_values"])


@pytest.mark.parametrize(
    "wrap", [str, Path, lambda p: Path(p).read_bytes(), lambda p: io.BytesIO(Path(p).read_bytes())]
)
def test_every_kind_of_file_gives_the_same(raw, clips, wrap):
    same(raw(video=wrap(clips["both"])), raw(video=clips["both"]))
    same(raw(audio=[wrap(clips["sound"])]), raw(audio=clips["sound"]))
    same(raw(video=[wrap(clips["both"])]), raw(video=clips["both"]))


def test_files_in_a_batch_where_anything_is_missing(raw, clips):
    batch = raw(
        text=["a", None, "c", None],
        video=[clips["both"], clips["silent"], None, None],
        audio=[None, None, None, clips["sound"]],
    )
    expected = [[True, True, True], [False, False, True], [True, False, False], [False, True, False]]
    assert batch["modality_mask"].tolist() == expected
    assert batch["audio_mask"].any(dim=1).tolist() == [True, False, False, True]
    assert batch["video_mask"].any(dim=1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_modalities_choose_a_subset(raw, clips, subset):
    batch = raw(text="a", video=clips["both"], modalities=list(subset))
    assert batch["modality_mask"].tolist() == [[m in subset for m in MODALITIES]]
    assert batch["utterance_mask"].any() == ("text" in subset)
    assert ("audio_values" in batch) == ("audio" in subset)
    assert ("video_values" in batch) == ("video" in subset)


def test_modalities_a_sample(raw, clips):
    batch = raw(text=["a", "b", "c"], video=[clips["both"]] * 3, modalities=[["text"], None, ("audio", "video")])
    assert batch["modality_mask"].tolist() == [[True, False, False], [True, True, True], [False, True, True]]


@pytest.mark.parametrize("name", ["both", "silent", "sound"])
def test_loaded_media_give_equal_tensors_again(raw, clips, name):
    kind = "audio" if name == "sound" else "video"
    media = raw.load_media(**{kind: clips[name]})
    same(raw(text="a", sampling_rate=16_000, **media), raw(text="a", **{kind: clips[name]}))


def test_loaded_features_give_equal_tensors_again(features):
    given = {"audio_features": np.ones((3, 6)), "video_features": torch.ones(2, 5)}
    same(features(**features.load_media(**given)), features(**given))


def test_frames_as_array_images_and_list_are_the_same(raw):
    frames = gray_frames(5, 20, 24)
    expected = raw(video=frames)
    same(raw(video=[Image.fromarray(frame) for frame in frames]), expected)
    same(raw(video=list(frames)), expected)
    same(raw(video=[frames]), expected)
    same(raw(video=[[Image.fromarray(frame) for frame in frames]]), expected)


def test_sound_as_array_dict_and_list_is_the_same(raw):
    tone = sine(200, 0.1, 8_000)
    expected = raw(audio=tone, sampling_rate=8_000)
    same(raw(audio={"array": tone, "sampling_rate": 8_000}), expected)
    same(raw(audio=[tone], sampling_rate=8_000), expected)
    same(raw(audio=[tone], sampling_rate=[8_000]), expected)
    same(raw(audio=tone.tolist(), sampling_rate=8_000), expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_features_keep_their_values(features, kind):
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    batch = features(audio_features=kind(values))
    assert batch["audio_values"].tolist() == [values.tolist()]
    assert batch["audio_values"].dtype == torch.float32
    same(features(audio_features=[kind(values)]), batch)


def test_frontend_wav2vec2(make_processor, tmp_path):
    fields = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    tone = sine(200, 0.1, 16_000)
    batch = processor(audio=[tone, tone[:800]], sampling_rate=16_000)
    assert batch["audio_values"].shape == (2, 1600)
    assert batch["audio_mask"].sum(dim=1).tolist() == [1600, 800]
    assert batch["audio_values"][0].mean() == pytest.approx(0, abs=1e-4)
    assert batch["audio_values"][0].std() == pytest.approx(1, abs=1e-2)
    assert reloaded(processor, tmp_path).audio_frontend == processor.audio_frontend


def test_frontend_whisper(make_processor, tmp_path):
    fields = WhisperFeatureExtractor(feature_size=8, chunk_length=1, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    batch = processor(
        audio=[sine(200, 0.5, 16_000), sine(200, 0.25, 16_000), None], text=["a", "b", "c"], sampling_rate=16_000
    )
    assert batch["audio_values"].shape == (3, 8, 100)
    assert batch["audio_mask"].sum(dim=1).tolist() == [50, 25, 0]
    same_media(
        reloaded(processor, tmp_path)(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
        processor(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
    )


def test_frontend_whisper_of_a_full_clip_keeps_its_mask(make_processor):
    fields = WhisperFeatureExtractor(feature_size=8, chunk_length=1, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    for seconds, steps in ((1.0, 100), (0.08, 8)):  # every frame is real; as many frames as mel bands
        batch = processor(audio=sine(200, seconds, 16_000), sampling_rate=16_000)
        assert batch["audio_mask"].shape == (1, 100)
        assert batch["audio_mask"].sum() == steps


def test_frontend_vit(make_processor, clips, tmp_path):
    image_processor = ViTImageProcessor(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = make_processor(None, "frames", video_frontend=image_processor.to_dict())
    frames = gray_frames(3, 20, 24)
    batch = processor(video=frames)
    assert batch["video_values"].shape == (1, 3, 3, 12, 12)
    expected = image_processor(list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["video_values"][0], expected)
    same_media(reloaded(processor, tmp_path)(video=clips["both"]), processor(video=clips["both"]))
    media = processor.load_media(video=clips["both"])
    same_media(processor(**media), processor(video=clips["both"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_frontend": {"sampling_rate": 16_000}}, "no 'feature_extractor_type'"),
        ({"audio_frontend": {"feature_extractor_type": "AutoModel"}}, "not a feature extractor"),
        ({"video_frontend": {"image_processor_type": "Nothing"}}, "not a feature extractor or image processor"),
        ({"audio_input": "mel"}, "`audio_input` is 'mel'"),
        ({"video_input": "pixels"}, "`video_input` is 'pixels'"),
        ({"tasks": {}}, "`tasks` is empty"),
    ],
)
def test_processor_refuses_bad_settings(tiny_tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        EGMFProcessor(tiny_tokenizer, **fields)


def test_task_under_another_name_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="Task 'emotion' is given under the name 'other'"):
        EGMFProcessor(tiny_tokenizer, tasks={"other": BUILT_IN_TASKS["emotion"]})


# ---- bad input: the sample's name and what to do -------------------------------------------------------------


NAN_AUDIO = np.array([0.0, np.nan, 0.1], np.float32)
INF_AUDIO = np.array([0.0, np.inf], np.float32)
RAW_ERRORS = {
    "nothing at all": ({}, "Give at least one"),
    "empty text": ({"text": " "}, "Give at least one"),
    "no wanted modality": ({"text": "a", "modalities": ["audio"]}, r"chosen modalities.*Give at least one"),
    "empty modalities": ({"text": "a", "modalities": []}, r"chosen modalities.*Give at least one"),
    "unknown modality": ({"text": "a", "modalities": ["smell"]}, "unknown modality 'smell'; use any of text"),
    "modalities as a string": (
        {"text": "a", "modalities": "text"},
        "must be a list of text, audio, video, not 'text'",
    ),
    "modalities as a number": ({"text": "a", "modalities": 5}, "must be a list of text, audio, video, not 5"),
    "zero-length sound": ({"audio": np.zeros(0, np.float32), "sampling_rate": 16_000}, r"zero length.*Leave it out"),
    "NaN samples": ({"audio": NAN_AUDIO, "sampling_rate": 16_000}, "NaN or infinite samples. Repair"),
    "infinite samples": ({"audio": INF_AUDIO, "sampling_rate": 16_000}, "NaN or infinite samples. Repair"),
    "sampling rate 0": ({"audio": np.ones(9, np.float32), "sampling_rate": 0}, "sampling_rate is 0"),
    "negative rate": ({"audio": np.ones(9, np.float32), "sampling_rate": -1}, "sampling_rate is -1"),
    "half a hertz": ({"audio": np.ones(999, np.float32), "sampling_rate": 0.5}, "is 0.5 Hz; expected a number from 1"),
    "rate of yes": (
        {"audio": np.ones(999, np.float32), "sampling_rate": True},
        "is True Hz; expected a number from 1",
    ),
    "one sample of sound": (
        {"audio": np.zeros(1, np.float32), "sampling_rate": 16_000},
        "only 1 samples.*Leave audio",
    ),
    "no sampling rate": ({"audio": np.ones(9, np.float32)}, "needs sampling_rate"),
    "rate of another type": ({"audio": np.ones(9, np.float32), "sampling_rate": "16k"}, "sampling_rate"),
    "sound of another type": ({"audio": 5}, "cannot read media from int"),
    "sound of words": ({"audio": np.array(["a"]), "sampling_rate": 16_000}, "whose range is unknown"),
    "video of another type": ({"video": 5}, "cannot read media from int"),
    "no frames": ({"video": np.zeros((0, 8, 8, 3), np.uint8)}, r"no frames.*Leave it out"),
    "one picture": ({"video": np.zeros((8, 8, 3), np.uint8)}, "RGB frames"),
    "NaN frames": ({"video": np.full((2, 8, 8, 3), np.nan, np.float32)}, r"expected \[0, 1\].*replace NaN"),
    "fps as a word": (
        {"video": np.zeros((2, 8, 8, 3), np.uint8), "fps": "fast"},
        "fps is 'fast'; give the frames per",
    ),
    "fps 0": ({"video": np.zeros((2, 8, 8, 3), np.uint8), "fps": 0}, "fps is 0"),
    "features for a raw model": ({"audio_features": np.ones((2, 6))}, "takes audio as waveform, not as features"),
    "url": ({"video": "https://example.org/a.mp4"}, "download the file first"),
    "text of another type": ({"text": 5}, "text must be a string or None, not int"),
    "half a character": ({"text": "a\ud800"}, "half a character, a lone surrogate. Decode"),
    "half a character of context": ({"text": "a", "context": ["b", ("Ann", "a\ud800")]}, "half a character, a lone"),
    "text as bytes": ({"text": b"a"}, "text must be a string or None, not bytes"),
    "unknown task": ({"text": "a", "task": "mood"}, r"nknown task 'mood'.*emotion, meld"),
    "task of another type": ({"text": "a", "task": 3}, "unknown task 3"),
    "task with keys": ({"text": "a", "task": {"name": "emotion"}}, r"unknown task \{'name'.*emotion, meld"),
    "unknown label": ({"text": "a", "task": "emotion", "answer": "glee"}, "unknown label 'glee'.*Known are neutral"),
    "label with keys": ({"text": "a", "task": "emotion", "answer": {"joy": 1}}, "unknown label .*Known are neutral"),
    "score out of range": ({"text": "a", "task": "mosei", "answer": 4}, r"score 4 is outside the range \[-3.0, 3.0\]"),
    "score as a word": ({"text": "a", "task": "mosei", "answer": "good"}, "needs a number"),
    "NaN score": ({"text": "a", "task": "mosei", "answer": float("nan")}, "needs a number"),
}
FILE_ERRORS = {
    "absent": "there is no file .*Check the path",
    "empty": r"/empty.mp4\): empty, 0 bytes. Copy or download it again",
    "words": r"/words.mp4\): not a media file .*Convert it",
    "cut": r"/cut.mp4\): not a media file .*or cut off",
    "folder": "is a directory .*Give the path",
}
FEATURE_ERRORS = {
    "other width": (np.ones((3, 7)), r"7 wide, .*trained on 6. Use the same extractor"),
    "NaN": (np.full((2, 6), np.nan), "NaN or infinite values. Replace"),
    "infinite": (np.full((2, 6), np.inf), "NaN or infinite values. Replace"),
    "no steps": (np.ones((0, 6)), r"shape \(0, 6\); expected"),
    "one vector": (np.ones(6), r"shape \(6,\); expected"),
    "words": ("features.npy", r"audio_features"),
    "ragged": ([[1.0] * 6, [1.0] * 5], r"audio_features"),
    "object": (object(), r"audio_features"),
}


ALONE = ("one picture", "one vector", "words", "ragged", "object")  # not told from a batch inside a list


def refuses(processor, message, alone=False, **arguments):
    """The call fails, once as one sample and once as the second of two, each time by the sample's name."""
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        processor(**arguments, sample_names="row 'x7'")
    assert "row 'x7'" in str(caught.value)
    if alone:
        return
    good = {"text": "fine", "task": "emotion", "answer": "joy"}
    columns = {name: [good.get(name), value] for name, value in arguments.items()}
    columns.setdefault("text", ["fine", None])
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        processor(**columns, sample_names=["row 'good'", "row 'x7'"])
    assert "row 'x7'" in str(caught.value)
    assert "row 'good'" not in str(caught.value)


@pytest.mark.parametrize("case", RAW_ERRORS)
def test_bad_input_names_the_sample_and_the_remedy(raw, case):
    arguments, message = RAW_ERRORS[case]
    refuses(raw, f"(?s){message}", case in ALONE, **arguments)


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("case", FILE_ERRORS)
def test_bad_file_names_the_sample_and_the_remedy(raw, clips, case, kind):
    refuses(raw, f"(?s){FILE_ERRORS[case]}", **{kind: clips[case]})


@pytest.mark.parametrize("case", FEATURE_ERRORS)
def test_bad_features_name_the_sample_and_the_remedy(features, case):
    values, message = FEATURE_ERRORS[case]
    refuses(features, f"(?s){message}", case in ALONE, audio_features=values)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_raw_media_for_a_model_of_features(features, clips, kind):
    refuses(features, f"takes {kind} as features", **{kind: clips["both"]})


@pytest.mark.parametrize(("kind", "arguments"), [("audio", {"audio": "a.wav"}), ("video", {"video": "a.mp4"})])
def test_media_for_a_model_without_them(make_processor, kind, arguments):
    refuses(make_processor(None, None), f"takes no {kind}", **arguments)


def test_unnamed_samples_are_numbered(raw):
    with pytest.raises(ValueError, match="sample 1 has neither"):
        raw(text=["a", ""])


@pytest.mark.parametrize("arguments", [{"text": []}, {"audio": []}, {"video": []}, {"audio_features": []}])
def test_empty_batch_is_refused(raw, arguments):
    with pytest.raises(ValueError, match="batch is empty"):
        raw(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": ["a", "b"], "audio": [None]},
        {"text": ["a", "b"], "task": ["emotion"] * 3},
        {"text": ["a", "b"], "task": "emotion", "answer": ["joy"]},
        {"text": ["a", "b"], "context": [["x"]]},
        {"text": ["a", "b"], "sample_names": ["one"]},
        {"text": ["a", "b"], "modalities": [["text"]]},
    ],
)
def test_lists_of_different_lengths_are_refused(raw, arguments):
    with pytest.raises(ValueError, match=r"different lengths: .*'text': 2.*None if missing"):
        raw(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "a", "task": ["emotion", "meld"]},
        {"text": ["a", "b"], "audio": "a.wav"},
        {"text": ["a", "b"], "video": "a.mp4"},
    ],
)
def test_one_value_for_many_samples_is_refused(raw, arguments):
    with pytest.raises(ValueError, match="is one value but the batch has 2 samples; give a list"):
        raw(**arguments)


def test_features_of_one_sample_for_many_are_refused(features):
    with pytest.raises(ValueError, match="audio_features is one value but the batch has 2 samples"):
        features(text=["a", "b"], audio_features=np.ones((2, 6)))


def test_answers_for_some_samples_are_refused(features):
    with pytest.raises(ValueError, match=r"some have none; give all or none. Without one: row 2, row 4 \(2\)"):
        features(
            text=list("abcd"),
            task="emotion",
            answer=["joy", None, "fear", None],
            sample_names=[f"row {i}" for i in range(1, 5)],
        )


def test_features_of_two_widths_in_one_batch_are_named(make_processor):
    processor = make_processor("features", None, audio_feature_size=None)
    with pytest.raises(
        ValueError,
        match=r"`audio_values` do not fit into one batch, their shapes are {'row 1': \(4,\), 'row 2': \(6,\)}",
    ):
        processor(audio_features=[np.ones((3, 4)), np.ones((2, 6))], sample_names=["row 1", "row 2"])


def test_foreign_task_object_is_refused(features, two_label_task):
    with pytest.raises(ValueError, match=r"Task 'mood' is not this processor's; add it with `add_task`"):
        features(text="a", task=two_label_task)


# ---- save and load -------------------------------------------------------------------------------------------


def reloaded(processor, folder):
    processor.save_pretrained(folder)
    return EGMFProcessor.from_pretrained(folder)


def test_round_trip_keeps_tasks_and_settings(make_processor, two_label_task, tmp_path, clips):
    processor = make_processor("waveform", "frames", max_length=99, transcript_in_prompt=False, max_clip_seconds=3.0)
    processor.add_task(two_label_task)
    again = reloaded(processor, tmp_path)
    assert again.tasks == processor.tasks
    assert again.task_objects == processor.task_objects
    for name in (
        "num_pseudo_tokens",
        "max_length",
        "transcript_in_prompt",
        "num_frames",
        "max_clip_seconds",
        "placeholder_token_id",
        "sampling_rate",
    ):
        assert getattr(again, name) == getattr(processor, name)
    for task, answer in (("mood", "high"), ("mosei", 0.5)):
        call = {"text": "a", "video": clips["both"], "task": task, "answer": answer}
        found, expected = again(**call), processor(**call)
        same_media(found, expected)
        assert found["labels"].tolist() == expected["labels"].tolist()
        assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert len(again.tokenizer) == len(processor.tokenizer)


def test_round_trip_keeps_the_order_of_tasks_and_labels(features, tmp_path):
    again = reloaded(features, tmp_path)
    assert list(again.task_objects) == list(features.task_objects)  # the first is the default; task_ids count on it
    for name, task in features.task_objects.items():
        assert again.task_objects[name].answers == task.answers
    same(again(text="a"), features(text="a"))


def test_add_task_replaces(features, two_label_task):
    features.add_task(two_label_task)
    before = features.answer_token_ids("mood")
    features.add_task({"name": "mood", "kind": "classification", "labels": ["up", "down"], "prompt": "\nIt is"})
    assert features.answer_token_ids("mood") != before
    assert features.task_objects["mood"].labels == {"up": "up", "down": "down"}
    assert features.tasks[-1]["labels"] == [["up", "up"], ["down", "down"]]
    assert [task["name"] for task in features.tasks] == [*BUILT_IN_TASKS, "mood"]


def test_tasks_with_one_name_are_refused(tiny_tokenizer, two_label_task):
    with pytest.raises(ValueError, match="Two tasks are called 'mood'; give each a name of its own"):
        EGMFProcessor(tiny_tokenizer, tasks=[two_label_task, two_label_task])


def test_tasks_may_be_a_list(make_processor, two_label_task):
    by_name = make_processor(tasks={"mood": two_label_task, "mosei": BUILT_IN_TASKS["mosei"]})
    for tasks in ([two_label_task, BUILT_IN_TASKS["mosei"]], by_name.tasks):
        assert make_processor(tasks=tasks).task_objects == by_name.task_objects


def test_two_processors_do_not_share_tasks(make_processor, two_label_task):
    first, second = make_processor(), make_processor()
    first.add_task(two_label_task)
    assert "mood" not in second.task_objects
    assert "mood" not in BUILT_IN_TASKS


def test_second_processor_around_the_same_tokenizer(features):
    again = EGMFProcessor(features.tokenizer)
    assert again.placeholder_token_id == features.placeholder_token_id


LOAD = """
import json, sys
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = processor(text="I'm fine.", video=sys.argv[2], task="mood", answer="high")
print(json.dumps({
    "class": type(processor).__name__, "module": type(processor).__module__,
    "ours": sorted(m for m in sys.modules if m.split(".")[0] in ("processing_egmf", "modeling_egmf", "training")),
    "ids": batch["input_ids"].tolist(), "labels": batch["labels"].tolist(), "mask": batch["modality_mask"].tolist(),
    "sum": batch["audio_values"].double().abs().sum().item() + batch["video_values"].double().abs().sum().item(),
}))
"""


@pytest.mark.integration
def test_auto_processor_in_a_fresh_process(make_processor, two_label_task, tmp_path, clips):
    processor = make_processor("waveform", "frames")
    processor.add_task(two_label_task)
    folder = tmp_path / "checkpoint"
    processor.register_for_auto_class("AutoProcessor")
    processor.save_pretrained(folder)
    stems = ("audio", "batches", "frontends", "media", "pipeline", "processing", "prompts", "tasks", "video")
    assert {path.name for path in folder.glob("*.py")} == {f"{stem}_egmf.py" for stem in stems}
    clip = shutil.copy(clips["both"], tmp_path / "clip.mp4")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(folder), clip],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    here = processor(text="I'm fine.", video=clip, task="mood", answer="high")
    assert found["class"] == "EGMFProcessor"
    assert found["module"].startswith("transformers_modules")
    assert found["ours"] == []
    assert found["ids"] == here["input_ids"].tolist()
    assert found["labels"] == here["labels"].tolist()
    assert found["mask"] == [[True, True, True]]
    total = sum(here[f"{m}_values"].double().abs().sum().item() for m in ("audio", "video"))
    assert found["sum"] == pytest.approx(total, rel=1e-9)


# ---- answers -------------------------------------------------------------------------------------------------


def answered(processor, task, probabilities, **changes):
    probabilities = torch.atleast_2d(torch.tensor(probabilities, dtype=torch.float64))
    count = len(probabilities)
    return EGMFAnswerOutput(
        probabilities=probabilities,
        log_probs=probabilities.log(),
        task_ids=torch.tensor([list(processor.task_objects).index(task)] * count),
        expert_names=("local", "semantic", "global"),
        expert_weights=torch.tensor([[0.5, 0.25, 0.25]] * count),
        residual_weight=torch.tensor([0.125] * count),
        modality_mask=torch.tensor([[True, False, True]] * count),
        **changes,
    )


def test_classification_by_hand(features):
    given = [0.05, 0.05, 0.1, 0.5, 0.1, 0.15, 0.05]
    found = features.post_process_answers(answered(features, "emotion", given))[0]
    labels = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    assert found["label"] == "sadness"
    assert found["score"] == pytest.approx(0.5)
    assert list(found["probabilities"]) == labels
    assert list(found["probabilities"].values()) == pytest.approx(given)
    assert found["experts"] == {"local": 0.5, "semantic": 0.25, "global": 0.25}
    assert found["residual"] == 0.125
    assert found["modalities"] == ["text", "video"]
    assert found["task"] == "emotion"


@pytest.fixture
def scale(make_processor):
    task = EGMFTask("scale", "regression", low=-1.0, high=1.0, step=0.5, prompt="\nIt is")
    return make_processor(tasks={"scale": task})


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.25, 0.15], {"mean": 0.075, "median": 0.0, "most_likely": 0.0, "interval": [-1.0, 1.0]}),
        ([0.0, 0.05, 0.15, 0.2, 0.6], {"mean": 0.675, "median": 1.0, "most_likely": 1.0, "interval": [-0.5, 1.0]}),
        ([0.04, 0.46, 0.0, 0.46, 0.04], {"mean": 0.0, "median": -0.5, "most_likely": -0.5, "interval": [-0.5, 0.5]}),
        ([0.45, 0.0, 0.1, 0.0, 0.45], {"mean": 0.0, "median": 0.0, "most_likely": -1.0, "interval": [-1.0, 1.0]}),
        ([1.0, 0.0, 0.0, 0.0, 0.0], {"mean": -1.0, "median": -1.0, "most_likely": -1.0, "interval": [-1.0, -1.0]}),
    ],
)
def test_regression_by_hand(scale, probabilities, expected):
    found = scale.post_process_answers(answered(scale, "scale", probabilities))[0]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["score"] == found["median"]
    assert list(found["probabilities"]) == ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
    low, high = found["interval"]
    held = sum(p for v, p in zip([-1, -0.5, 0, 0.5, 1], probabilities, strict=True) if low <= v <= high)
    assert held >= 0.9 - 1e-9


def test_interval_share(scale):
    output = answered(scale, "scale", [0.1, 0.2, 0.3, 0.25, 0.15])
    assert scale.post_process_answers(output, interval=0.5)[0]["interval"] == [-0.5, 0.5]


@pytest.mark.parametrize("interval", [0, 1, -0.1, 90, float("nan"), "x"])
def test_interval_must_be_a_share(scale, interval):
    with pytest.raises(ValueError, match="between 0 and 1"):
        scale.post_process_answers(answered(scale, "scale", [0.2] * 5), interval=interval)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3"])
def test_top_k_keeps_at_least_one(features, top_k):
    with pytest.raises(ValueError, match=f"`top_k` is {top_k!r}; give a whole number, at least 1"):
        features.post_process_answers(answered(features, "emotion", [0.4] + [0.1] * 6), top_k=top_k)


def test_top_k_keeps_the_largest_first(features):
    given = [0.05, 0.05, 0.1, 0.5, 0.1, 0.15, 0.05]
    found = features.post_process_answers(answered(features, "emotion", given), top_k=3)[0]
    assert list(found["probabilities"]) == ["sadness", "disgust", "fear"]
    assert found["label"] == "sadness"


def test_padding_of_a_smaller_task_is_ignored(features):
    given = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4] + [0.0] * 54
    found = features.post_process_answers(answered(features, "meld", given))[0]
    assert found["label"] == "anger"
    assert len(found["probabilities"]) == 7


def test_answers_are_plain_json(features, scale):
    for processor, task, count in ((features, "emotion", 7), (scale, "scale", 5)):
        found = processor.post_process_answers(answered(processor, task, [1 / count] * count))
        assert json.loads(json.dumps(found)) == found


def test_tasks_may_be_named_where_ids_are_missing(features):
    output = answered(features, "emotion", [0.4] + [0.1] * 6)
    output.task_ids = None
    assert features.post_process_answers(output, tasks=["cherma"])[0]["label"] == "愤怒"


def test_tasks_of_a_batch_are_mixed(features):
    rows = torch.zeros(2, 61)
    rows[0, 4], rows[1, 60] = 1, 1
    output = answered(features, "emotion", rows.tolist())
    names = list(features.task_objects)
    output.task_ids = torch.tensor([names.index("emotion"), names.index("mosei")])
    found = features.post_process_answers(output)
    assert (found[0]["label"], found[1]["score"]) == ("joy", 3.0)


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.parametrize(
    ("task", "said", "answer"),
    [
        ("emotion", " joy.", "joy"),
        ("emotion", " hard to tell", None),
        ("mosei", " -1.5", -1.5),
        ("mosei", " very good", None),
        ("cherma", "高兴", "高兴"),
        ("sims_v2", "0.4", 0.4),
        ("sims_v2", "2", None),
    ],
)
def test_generation_is_read_with_and_without_prompt(features, with_prompt, task, said, answer):
    inputs = features(text=["joy 0.4", "a longer text: anger 1.0 高兴"], task=task)
    new = torch.tensor(
        [features.tokenizer(said, add_special_tokens=False)["input_ids"] + [features.tokenizer.eos_token_id]] * 2
    )
    ids = torch.cat([inputs["input_ids"], new], dim=1) if with_prompt else new
    found = features.post_process_generation(ids, inputs)
    assert [entry["answer"] for entry in found] == [answer] * 2
    assert [entry["text"] for entry in found] == [said] * 2
    assert {entry["task"] for entry in found} == {task}


@pytest.mark.parametrize("with_prompt", [True, False])
def test_generation_of_several_sequences_a_sample(features, with_prompt):
    inputs = features(text=["joy", "a longer text: anger"], task=["emotion", "mosei"])
    said = [" joy", " fear", " 1.5", " -2.0"]  # `num_return_sequences=2`: those of a sample follow one another
    new = [features.tokenizer(words, add_special_tokens=False)["input_ids"] for words in said]
    longest = max(map(len, new))
    ids = torch.tensor([row + [features.tokenizer.eos_token_id] * (longest - len(row)) for row in new])
    if with_prompt:
        ids = torch.cat([inputs["input_ids"].repeat_interleave(2, dim=0), ids], dim=1)
    found = features.post_process_generation(ids, inputs)
    assert [entry["answer"] for entry in found] == ["joy", "fear", 1.5, -2.0]
    assert [entry["task"] for entry in found] == ["emotion", "emotion", "mosei", "mosei"]


def test_generation_longer_than_the_prompt_is_not_cut(features):
    inputs = features(text="a", task="emotion")
    long = " joy" + " and so on" * 60
    ids = torch.tensor([features.tokenizer(long, add_special_tokens=False)["input_ids"]])
    assert ids.shape[1] > inputs["input_ids"].shape[1]
    assert features.post_process_generation(ids, inputs)[0]["text"] == long
