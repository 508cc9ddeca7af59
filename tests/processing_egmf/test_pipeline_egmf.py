"""The pipeline: equal to score_answers and post_process_answers, from every kind of input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf import EGMFPipeline
from processing_egmf.pipeline_egmf import EXPERT_FIELDS
from tests.helpers.media_files import JUNK, gray_frames, junk, sine, write_audio, write_video


TASK = "multimodal-emotion-recognition"
COMMON = ("probabilities", "task", "modalities")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`both` (mp4 with audio), `silent` (mp4 without), `audio` (wav), `long` (2 s of audio), and broken ones."""
    folder = tmp_path_factory.mktemp("clips")
    frames = gray_frames(6, 32, 48)
    paths = {
        "both": write_video(folder / "both.mp4", frames, audio=sine(440, 0.48, 16_000)),
        "silent": write_video(folder / "silent.mp4", frames),
        "audio": write_audio(folder / "audio.wav", sine(300, 0.3, 16_000), 16_000),
        "long": write_audio(folder / "long.wav", sine(300, 2.0, 8_000), 8_000),
    }
    paths["named wrongly"] = Path(shutil.copy(paths["both"], folder / "film.wav"))
    for name, content in (
        ("empty", b""),
        ("page", b"<!doctype html><html><body>404</body></html>" * 40),
    ):
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def pipe(make_model, make_processor):
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    return EGMFPipeline(model=model, processor=processor, task=TASK, device="cpu")


@pytest.fixture
def direct(pipe):
    """`direct(**processor_arguments)` -> the result of score_answers and post_process_answers."""

    def answer(top_k=None, interval=None, **inputs):
        output = pipe.model.score_answers(**pipe.processor(**inputs))
        return pipe.processor.post_process_answers(output, top_k=top_k, interval=interval)[0]

    return answer


def without_experts(answer):
    return {key: value for key, value in answer.items() if key not in EXPERT_FIELDS}


def close(found, expected):
    assert [answer["task"] for answer in found] == [answer["task"] for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        assert one["modalities"] == other["modalities"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


# ---- one clip ------------------------------------------------------------------------------------------------


def test_one_clip_equals_the_model_and_the_processor(pipe, direct, clips):
    expected = direct(video=clips["both"], text="I'm fine.", task="emotion")
    assert pipe(clips["both"], text="I'm fine.", task="emotion", return_experts=True) == expected
    assert pipe(clips["both"], text="I'm fine.", task="emotion") == without_experts(expected)
    assert set(expected) == {*COMMON, "label", "score", *EXPERT_FIELDS}
    assert expected["modalities"] == ["text", "audio", "video"]
    assert expected["expert"] == max(expected["experts"], key=expected["experts"].get)


def test_regression(pipe, direct, clips):
    found = pipe(clips["both"], task="mosei", interval=0.5)
    assert found == without_experts(direct(video=clips["both"], task="mosei", interval=0.5))
    assert set(found) == {*COMMON, "value", "mean", "median", "most_likely", "interval"}
    low, high = found["interval"]
    assert -3 <= low <= found["value"] <= high <= 3
    assert json.loads(json.dumps(found)) == found


def test_top_k(pipe, direct):
    found = pipe(text="Well.", task="emotion", top_k=2)
    assert found == without_experts(direct(text="Well.", task="emotion", top_k=2))
    defaults = dict.fromkeys(("top_k", "labels"))
    assert pipe(text="Well.", task="emotion", **defaults) == without_experts(direct(text="Well.", task="emotion"))
    assert next(iter(found["probabilities"])) == found["label"]
    assert len(found["probabilities"]) == 2


def test_context_changes_the_answer(pipe, direct):
    found = pipe(text="Well.", context=[("Ann", "He left."), "No!"], task="emotion")
    assert found == without_experts(direct(text="Well.", context=[("Ann", "He left."), "No!"], task="emotion"))
    assert found["probabilities"] != pipe(text="Well.", task="emotion")["probabilities"]


@pytest.mark.parametrize("kind", ["path", "bytes", "file", "dict", "bytes in a dict"])
def test_every_kind_of_file_gives_the_same(pipe, direct, clips, kind):
    expected = without_experts(direct(video=clips["both"]))
    content = Path(clips["both"]).read_bytes()
    with open(clips["both"], "rb") as file:
        given = {
            "path": Path(clips["both"]),
            "bytes": content,
            "file": file,
            "dict": {"video": clips["both"]},
            "bytes in a dict": {"bytes": content, "path": None},
        }
        assert pipe(given[kind]) == expected


def test_the_content_of_a_file_decides_not_its_name(pipe, direct, clips):
    assert pipe(clips["named wrongly"]) == without_experts(direct(video=clips["both"]))
    assert pipe(clips["audio"])["modalities"] == ["audio"]
    assert pipe(clips["silent"])["modalities"] == ["video"]


def test_a_model_without_video_uses_the_audio_of_a_video(make_model, make_processor, clips):
    model = make_model("waveform", None)
    processor = make_processor("waveform", None)
    found = EGMFPipeline(model=model, processor=processor, device="cpu")(clips["both"])
    assert found["modalities"] == ["audio"]


def test_arrays(pipe, direct):
    tone = sine(200, 0.2, 8_000)
    frames = gray_frames(5, 20, 24)
    expected = without_experts(direct(audio=tone, sampling_rate=8_000))
    assert pipe(tone, sampling_rate=8_000) == expected
    assert pipe(torch.from_numpy(tone), sampling_rate=8_000) == expected
    assert pipe({"array": tone, "sampling_rate": 8_000}) == expected
    assert pipe({"raw": tone, "sampling_rate": 8_000}) == expected
    assert pipe(frames) == without_experts(direct(video=frames))
    both = pipe(
        {
            "audio": tone,
            "video": [Image.fromarray(frame) for frame in frames],
            "sampling_rate": 8_000,
        }
    )
    assert both == without_experts(direct(audio=tone, video=frames, sampling_rate=8_000))


def test_a_pair_of_rate_and_array_is_one_recording(pipe, direct):
    tone = sine(200, 0.2, 8_000)
    expected = without_experts(direct(audio=tone, sampling_rate=8_000))
    for pair in ((8_000, tone), (tone, 8_000), [8_000, torch.from_numpy(tone)], (8_000, np.stack([tone, tone]))):
        assert pipe(pair) == expected
    close(pipe([(8_000, tone), (8_000, tone)]), [expected] * 2)


def test_a_picture_is_one_clip(pipe, direct, tmp_path):
    pixels = np.arange(20 * 24 * 3).reshape(20, 24, 3).astype(np.uint8)
    expected = without_experts(direct(video=pixels[None]))
    image = Image.fromarray(pixels)
    image.save(tmp_path / "face.png")
    content = (tmp_path / "face.png").read_bytes()
    for picture in (image, pixels, torch.from_numpy(pixels), content, tmp_path / "face.png", {"video": image}):
        assert pipe(picture) == expected
    close(pipe([image, image]), [expected] * 2)
    assert expected["modalities"] == ["video"]


def test_features(make_model, make_processor):
    model = make_model()
    processor = make_processor()
    pipe = EGMFPipeline(model=model, processor=processor, device="cpu")
    inputs = {
        "text": "a",
        "audio_features": np.ones((3, 6)),
        "video_features": np.ones((2, 5)),
    }
    expected = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
    assert pipe(inputs) == pipe(**inputs) == without_experts(expected)


def test_modalities_of_the_call(pipe, clips):
    found = pipe(clips["both"], text="a", modalities=["text", "audio"])
    assert found["modalities"] == ["text", "audio"]


def test_settings_of_a_call_replace_those_of_the_pipeline(make_model, make_processor):
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    pipe = EGMFPipeline(model=model, processor=processor, device="cpu", top_k=1, return_experts=True)
    assert len(pipe(text="a", task="emotion")["probabilities"]) == 1
    found = pipe(text="a", task="emotion", top_k=3, return_experts=False)
    assert len(found["probabilities"]) == 3
    assert "experts" not in found


# ---- many clips ----------------------------------------------------------------------------------------------


def mixed(clips):
    return [
        clips["both"],
        {"text": "I'm fine, thank you. That was a wonderful film.", "task": "mosei"},
        {"video": clips["silent"], "text": "No!", "context": ["He left."]},
        {"array": sine(200, 0.2, 8_000), "sampling_rate": 8_000},
        Path(clips["audio"]).read_bytes(),
    ]


@pytest.fixture(scope="module")
def single_answers(pipe, clips):
    """The answers to the mixed clips, each alone."""
    first, *others = mixed(clips)
    return [pipe(first, task="emotion"), *(pipe(clip) for clip in others)]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batched_clips_equal_single_ones(pipe, clips, single_answers, batch_size):
    """Padding on the other side would silently change these answers."""
    close(pipe(mixed(clips), batch_size=batch_size), single_answers)


def test_the_batch_is_one_forward(pipe, clips, monkeypatch):
    sizes = []
    score = pipe.model.score_answers
    monkeypatch.setattr(
        pipe.model,
        "score_answers",
        lambda **inputs: sizes.append(len(inputs["input_ids"])) or score(**inputs),
    )
    pipe(mixed(clips), batch_size=3)
    assert sizes == [3, 2]


def test_generator_is_read_lazily(pipe, clips, single_answers):
    read = []

    def clips_of_a_day():
        for clip in mixed(clips):
            read.append(clip)
            yield clip

    answers = pipe(clips_of_a_day(), batch_size=2)
    assert read == []
    first = next(answers)
    assert len(read) == 2
    close([first, *answers], single_answers)


class Texts(torch.utils.data.Dataset):
    """A dataset with a length, which raises no IndexError at its end."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"text": "abc"[min(index, 2)]}


def test_a_dataset(pipe):
    close(list(pipe(Texts(), batch_size=2)), [pipe(text=text) for text in "abc"])
    assert pipe([]) == []


def test_columns_of_pandas(pipe, clips):
    pandas = pytest.importorskip("pandas")
    tone = sine(440, 0.5, 16_000)
    assert pipe(pandas.Series(tone), sampling_rate=16_000) == pipe(tone, sampling_rate=16_000)
    assert pipe({"audio": pandas.Series(tone), "sampling_rate": 16_000}) == pipe(tone, sampling_rate=16_000)
    close(pipe(pandas.Series([clips["both"]] * 2, index=[5, 2])), [pipe(clips["both"])] * 2)


def test_a_rate_given_once_is_that_of_every_array(pipe):
    tones = [sine(200, 0.2, 8_000), sine(300, 0.3, 8_000)]
    expected = [pipe(tone, sampling_rate=8_000) for tone in tones]
    close(pipe(tones, sampling_rate=8_000), expected)
    close(list(pipe(iter(tones), sampling_rate=8_000, batch_size=2)), expected)
    close(pipe([*tones, {"text": "a"}], sampling_rate=8_000)[:2], expected)


def test_a_rate_that_no_clip_needs_is_refused(pipe, clips):
    for given in ([clips["audio"], clips["both"]], [{"text": "a"}, {"text": "b"}], [(8_000, sine(200, 0.2, 8_000))]):
        with pytest.raises(ValueError, match="no sample has audio as an array.*Leave sampling_rate out"):
            pipe(given, sampling_rate=16_000)
        with pytest.raises(ValueError, match="no sample has audio as an array"):
            list(pipe(iter(given), sampling_rate=16_000))
    assert pipe([], sampling_rate=16_000) == []


@pytest.mark.parametrize(
    "shared",
    [{"text": "a"}, {"context": ["a"]}, {"audio": np.ones(9)}, {"name": "a"}],
    ids=lambda shared: next(iter(shared)),
)
def test_the_content_of_one_clip_is_not_shared_by_several(pipe, clips, shared):
    (field,) = shared
    with pytest.raises(ValueError, match=f"silent.mp4: {field} is given once, and another clip has it already"):
        pipe([{"text": "a"} | shared, clips["both"], clips["silent"]], **({"sampling_rate": 8_000} | shared))


def test_a_text_given_once_is_for_the_one_clip_without(pipe, clips):
    expected = [pipe(clips["silent"], text="a"), pipe(text="b")]
    close(pipe([clips["silent"], {"text": "b"}], text="a"), expected)


@pytest.mark.parametrize(("clip", "keywords"), [("both", {"video": "a.mp4"}), ({"text": "a"}, {"text": "b"})])
def test_what_is_given_twice_is_refused(pipe, clips, clip, keywords):
    clip = clips[clip] if isinstance(clip, str) else clip
    with pytest.raises(ValueError, match="is given both with the clip and as a keyword. Give it once"):
        pipe(clip, **keywords)


def test_a_clips_own_fields_replace_the_shared_ones(pipe):
    found = pipe([{"text": "a"}, {"text": "a", "task": "sims_v2"}], task="mosei")
    assert [answer["task"] for answer in found] == ["mosei", "sims_v2"]


# ---- what cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "arguments", "error", "message"),
    [
        (
            None,
            {},
            ValueError,
            "clip 0 has neither text nor audio nor video.*Give at least one",
        ),
        ({}, {"text": "  "}, ValueError, "Give at least one"),
        ("empty", {}, ValueError, r"empty.mp4: empty, 0 bytes"),
        ("page", {}, ValueError, r"page.mp4: a web page"),
        ("absent.mp4", {}, FileNotFoundError, "'absent.mp4' does not exist"),
        (b"<html></html>", {}, ValueError, "clip 0: a web page that was saved"),
        (b"", {}, ValueError, "clip 0: empty, 0 bytes"),
        (5, {}, ValueError, "cannot read media from int"),
        ({"audio": "a.wav", "name": 7}, {}, FileNotFoundError, r"^7 \(a.wav\): 'a.wav' does not exist"),
        (np.array(["a.wav", "b.wav"]), {}, ValueError, "audio of type <U5, whose range is unknown"),
        ([["a.wav", "b.wav"]], {}, ValueError, "clip 0: 2 files for one sample. Give one clip"),
        (np.zeros(100, np.float32), {}, ValueError, "needs sampling_rate"),
        ({"txt": "a"}, {}, TypeError, r"unknown keys \['txt'\]; use any of text, audio.*Did you mean 'text'"),
        (
            {"text": "a", "name": "my clip", "task": "mood"},
            {},
            ValueError,
            r"my clip: unknown task \['mood'\]; use any of ",
        ),
        ("I am fine.", {}, FileNotFoundError, r"'I am fine.' does not exist.*or give a transcript as text="),
        ({"video": "absent.mp4"}, {}, FileNotFoundError, "'absent.mp4' does not exist"),
        ({"audio": "a.wav", "sampling_rate": 8_000}, {}, ValueError, "no sample has audio as an array"),
        ("audio", {"sampling_rate": 8_000}, ValueError, "no sample has audio as an array.*Leave sampling_rate out"),
        (None, {"text": "absent.mp4"}, ValueError, "the name of a media file, not a transcript"),
        (None, {"text": "a", "on_error": "ignore"}, ValueError, "`on_error` is 'ignore'; use one of 'raise', 'skip'"),
        (None, {"text": ["a", "b"]}, TypeError, "text must be a string"),
        (
            None,
            {"text": "a", "topk": 3},
            TypeError,
            r"Unknown arguments \['topk'\]; use any of text.*top_k.*Did you mean 'top_k' instead of 'topk'",
        ),
        (None, {"text": "a", "top_k": 0}, ValueError, "`top_k` is 0"),
        (None, {"text": "a", "interval": 90}, ValueError, "between 0 and 1"),
        (
            ["a.mp4"],
            {"batch_size": -1},
            ValueError,
            "`batch_size` is -1; give a whole number",
        ),
        (
            ["a.mp4"],
            {"batch_size": "2"},
            ValueError,
            "`batch_size` is '2'; give a whole number",
        ),
    ],
)
def test_errors_name_the_clip_and_the_remedy(pipe, clips, clip, arguments, error, message):
    clip = clips.get(clip, clip) if isinstance(clip, str) else clip
    with pytest.raises(error, match=f"(?s){message}"):
        pipe(clip, **arguments)


def test_a_bad_clip_among_others_is_named(pipe, clips):
    with pytest.raises(ValueError, match="page.mp4: a web page"):
        pipe([clips["both"], clips["page"]], batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_bad_clip_may_be_skipped(pipe, clips, batch_size):
    given = [clips["page"], clips["both"], "absent.mp4", {"txt": "a"}]
    found = pipe(given, on_error="skip", batch_size=batch_size)
    assert [set(entry) == {"error"} for entry in found] == [True, False, True, True]
    assert clips["page"] in found[0]["error"]
    assert "'absent.mp4' does not exist" in found[2]["error"]
    close(found[1:2], [pipe(clips["both"])])


@pytest.mark.parametrize("kind", JUNK)
def test_a_file_of_junk_is_refused_also_beside_a_text(pipe, tmp_path, kind):
    paths = [tmp_path / "clip.wav", tmp_path / "clip.mp4"]
    for path in paths:
        path.write_bytes(junk(kind))
    given = [*paths, *({modality: path, "text": "a"} for path in paths for modality in ("audio", "video"))]
    found = pipe([*given, {"text": "a"}], on_error="skip", batch_size=2)
    assert [set(entry) == {"error"} for entry in found] == [True] * len(given) + [False]
    for path in paths:
        for sample in ({"audio": path}, {"video": path}, {"video": path, "modalities": ["text", "audio"]}):
            with pytest.raises(ValueError, match=f"{path.name}.*(not a readable|not audio|no video|empty)"):
                pipe.processor(text="a", **sample)


def test_unknown_options_are_refused_when_building_the_pipeline(pipe):
    with pytest.raises(TypeError, match="Did you mean 'interval' instead of 'intervals'"):
        EGMFPipeline(model=pipe.model, processor=pipe.processor, device="cpu", intervals=0.5)


def test_only_the_beginning_of_a_long_clip_is_used_with_a_warning(pipe, direct, clips, monkeypatch, caplog):
    monkeypatch.setattr(pipe.processor, "max_clip_seconds", 0.5)
    found = pipe(clips["long"])
    assert any("long.wav: the audio is longer than 0.5 s" in message for message in caplog.messages)
    assert found == without_experts(direct(audio=clips["long"]))


def test_markup_in_text_is_text(pipe, direct):
    page = "<b>I'm fine</b><script>alert(1)</script><|egmf|></s>"
    assert pipe(text=page) == without_experts(direct(text=page))


def test_silence_is_left_out_and_refused_alone(pipe, direct, caplog):
    silence = np.zeros(8_000, np.float32)
    found = pipe(silence, sampling_rate=16_000, text="Hm.")
    assert found == without_experts(direct(text="Hm."))
    assert "clip 0: the audio is digital silence. Audio is left out." in caplog.messages
    with pytest.raises(ValueError, match="clip 0 has neither .*digital silence"):
        pipe(silence, sampling_rate=16_000)


# ---- addresses -----------------------------------------------------------------------------------------------


def test_a_url_needs_a_fetch(pipe):
    for clip in (
        "https://example.org/a.mp4",
        {"video": "https://example.org/a.mp4"},
        "http://127.0.0.1/a.mp4",
    ):
        with pytest.raises(ValueError, match="is a URL, and this code opens no connection.*`fetch`"):
            pipe(clip)


def test_fetch_is_called_for_urls_only(pipe, direct, clips):
    asked = []

    def fetch(url):
        asked.append(url)
        return Path(clips["both"]).read_bytes()

    expected = without_experts(direct(video=clips["both"]))
    assert pipe("https://example.org/a.mp4", fetch=fetch) == expected
    assert pipe({"video": "http://example.org/b"}, fetch=fetch) == expected
    assert pipe({"path": "http://example.org/c", "bytes": None}, fetch=fetch) == expected
    assert pipe(clips["both"], fetch=fetch) == expected
    assert asked == [
        "https://example.org/a.mp4",
        "http://example.org/b",
        "http://example.org/c",
    ]


@pytest.mark.parametrize("error", [ConnectionError(), KeyError("media"), ZeroDivisionError("division by zero")])
def test_an_error_of_fetch_is_named_with_its_url(pipe, error):
    def fetch(url):
        raise error

    message = f"https://example.org/a.mp4: `fetch` failed: {error!r}."
    found = pipe(["https://example.org/a.mp4", {"text": "b"}], fetch=fetch, on_error="skip", batch_size=2)
    assert found == [{"error": message}, pipe(text="b")]
    with pytest.raises(ValueError, match="a.mp4: `fetch` failed") as caught:
        pipe("https://example.org/a.mp4", fetch=fetch)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "FILE:/etc/passwd", "ftp://example.org/a", "blob:x"],
)
def test_other_schemes_are_refused(pipe, url):
    for clip in (url, {"audio": url}):
        with pytest.raises(
            (ValueError, FileNotFoundError),
            match="is a URL.*http or https|'FILE:.*' does not exist",
        ):
            pipe(clip, fetch=lambda url: pytest.fail("fetched"))
