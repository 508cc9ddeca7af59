"""The Space without a browser and without Gradio: predictions, rejected input, and the HTML of the page."""

import asyncio
import json
import logging
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import app
import numpy as np
import predictions
import pytest
import rendering
from predictions import Part, Prediction, Predictor, RefusedError, frames_at, measure

from processing_egmf import EGMFPipeline
from tests.helpers.media_files import gray_frames, gray_index, sine, write_audio, write_video
from training.demo import examples as demo_examples
from training.hub.card_metadata import check_card


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "hub_cards/space"
ALL = ["text", "audio", "video"]
TRANSCRIPT = "I can't believe it!"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`both` (mp4 with audio, 0.48 s), `silent`, `sound` (wav), `long` (11.5 s, one gray level per quarter second)."""
    folder = tmp_path_factory.mktemp("clips")
    frames = gray_frames(6, 32, 48)
    louder = sine(300, 11.5, 16_000) * np.linspace(0.1, 1, 184_000, dtype=np.float32)
    paths = {
        "both": write_video(folder / "both.mp4", frames, audio=sine(440, 0.48, 16_000)),
        "silent": write_video(folder / "silent.mp4", frames),
        "sound": write_audio(folder / "sound.wav", sine(300, 0.3, 16_000), 16_000),
        "long": write_video(folder / "long.mp4", gray_frames(46, 32, 48), fps=4, audio=louder),
        "too long": write_audio(folder / "hour.wav", np.zeros(62 * 8000, np.float32), 8000),
    }
    paths["named wrongly"] = Path(shutil.copy(paths["both"], folder / "film.wav"))
    playlist = f"#EXTM3U\n#EXTINF:1,\n{paths['sound']}\n".encode()
    for name, content in (("empty", b""), ("text", b"Only words.\n" * 99), ("playlist", playlist)):
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def predictor(make_model, make_processor, monkeypatch):
    calls = []
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    pipe = EGMFPipeline(model=model, processor=processor, device="cpu")

    def pipeline(*args, **options):
        calls.append((args, options))
        return pipe

    monkeypatch.setattr(predictions, "pipeline", pipeline)
    predictor = Predictor("the/folder")
    options = {"model": "the/folder", "trust_remote_code": True}
    assert calls == [(("multimodal-emotion-recognition",), options)]
    return predictor


def assert_same_answer(actual, expected):
    assert set(actual) == set(expected)
    assert actual["modalities"] == expected["modalities"]
    assert actual["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


# ---- one clip ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["emotion", "sentiment", "cherma"])
def test_answers_equal_those_of_the_pipeline(predictor, clips, task):
    result = predictor.predict(clips["both"], TRANSCRIPT, task, ALL)
    inputs = {"video": clips["both"], "text": TRANSCRIPT}
    assert_same_answer(result.answer, predictor.pipe(inputs, task=task, return_experts=True))
    assert list(result.without) == ALL
    for left, answer in result.without.items():
        kept = [name for name in ALL if name != left]
        assert_same_answer(answer, predictor.pipe(inputs, task=task, modalities=kept, return_experts=True))
    assert result.absent == []
    assert result.seconds == pytest.approx(0.48, abs=0.1)
    assert result.used_seconds == result.seconds


def test_a_clip_is_decoded_once_and_all_variants_are_one_batch(predictor, clips, monkeypatch):
    counts = {"decoded": 0, "batches": 0}
    load_media = predictor.pipe.processor.load_media
    forward = predictor.pipe.forward
    path = clips["both"]

    def counting_load_media(**arguments):
        counts["decoded"] += arguments.get("video") is path or arguments.get("audio") is path
        return load_media(**arguments)

    def counting_forward(*args, **options):
        counts["batches"] += 1
        return forward(*args, **options)

    monkeypatch.setattr(predictor.pipe.processor, "load_media", counting_load_media)
    monkeypatch.setattr(predictor.pipe, "forward", counting_forward)
    predictor.predict(path, TRANSCRIPT, "emotion", ALL)
    assert counts == {"decoded": 1, "batches": 1}


def test_answers_are_calibrated_if_every_subset_is(predictor, monkeypatch):
    task = predictor.processor.task_objects["emotion"]
    subsets = ("text", "audio", "video", "text+audio", "text+video", "audio+video", "text+audio+video")
    numbers = {"temperature": 3.0, "uniform_weight": 0.1}
    for calibration in (dict.fromkeys(subsets[1:], numbers), dict.fromkeys(subsets, numbers)):
        monkeypatch.setattr(task, "calibration", calibration)
        monkeypatch.setitem(predictor.tasks, "emotion", task.to_dict())
        result = predictor.predict(None, TRANSCRIPT, "emotion", ["text"])
        assert result.calibrated == ("text" in calibration)
        options = {"calibrated": True} if result.calibrated else {}
        assert_same_answer(
            result.answer, predictor.pipe(text=TRANSCRIPT, task="emotion", return_experts=True, **options)
        )
        assert ("Calibrated on clips" in rendering.prediction(result, task.to_dict())) == result.calibrated
    assert result.answer["score"] < predictor.pipe(text=TRANSCRIPT, task="emotion")["score"]


def test_only_text_and_one_modality_of_a_clip(predictor, clips):
    result = predictor.predict(None, TRANSCRIPT, "emotion", ALL)
    assert_same_answer(result.answer, predictor.pipe(text=TRANSCRIPT, task="emotion", return_experts=True))
    assert (result.without, result.absent, result.seconds) == ({}, ["audio", "video"], 0)
    result = predictor.predict(clips["both"], TRANSCRIPT, "emotion", ["video"])
    assert_same_answer(
        result.answer, predictor.pipe(clips["both"], task="emotion", modalities=["video"], return_experts=True)
    )
    assert (result.without, result.absent) == ({}, [])


def test_absent_modalities_are_reported(predictor, clips):
    assert predictor.predict(clips["silent"], "", "emotion", ALL).absent == ["text", "audio"]
    result = predictor.predict(clips["sound"], TRANSCRIPT, "emotion", ALL)
    assert result.absent == ["video"]
    assert list(result.without) == ["text", "audio"]


def test_content_decides_not_the_name(predictor, clips):
    renamed = predictor.predict(clips["named wrongly"], "", "emotion", ALL)
    original = predictor.predict(clips["both"], "", "emotion", ALL)
    assert_same_answer(renamed.answer, original.answer)


def test_only_modalities_of_the_checkpoint_are_offered(make_model, make_processor, monkeypatch, clips):
    for audio, video, taken in (("waveform", None, ["text", "audio"]), ("features", "features", ["text"])):
        pipe = EGMFPipeline(model=make_model(audio, video), processor=make_processor(audio, video), device="cpu")
        monkeypatch.setattr(predictions, "pipeline", lambda *_, pipe=pipe, **__: pipe)
        predictor = Predictor("x")
        assert predictor.modalities == taken
        result = predictor.predict(clips["both"], TRANSCRIPT, "emotion", ALL)
        assert result.answer["modalities"] == taken


def test_prediction_of_a_long_clip_uses_its_beginning(predictor, clips):
    predictor.pipe.processor.max_clip_seconds = 4.0
    result = predictor.predict(clips["long"], "", "emotion", ALL)
    assert (result.seconds, result.used_seconds) == (pytest.approx(11.5, abs=0.1), 4.0)
    assert "Based on the first 4.0 s of 11.6 s" in rendering.prediction(result, predictor.tasks["emotion"])


# ---- rejected input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "text", "modalities", "message"),
    [
        ("both", TRANSCRIPT, [], "Choose at least one of text, audio, video."),
        (None, "  ", ALL, "Upload or record a clip, or type the transcript."),
        (None, TRANSCRIPT, ["audio", "video"], "The clip has no audio and no video."),
        ("silent", "", ["audio"], "The clip has no audio."),
        ("sound", "", ["video"], "The clip has no video."),
        (None, "a" * 2001, ALL, "2,001 characters; at most 2,000"),
        ("empty", "", ALL, "The file is empty, 0 bytes."),
        ("text", "", ALL, "not a readable audio or video file, or it was cut off. Give an mp4"),
        ("playlist", "", ALL, "not a readable audio or video file"),
        ("too long", "", ALL, "longer than 60 s"),
    ],
)
def test_errors_name_the_fix(predictor, clips, clip, text, modalities, message):
    with pytest.raises(RefusedError, match=re.escape(message)):
        predictor.predict(clips[clip] if clip else None, text, "emotion", modalities)


def test_unused_clip_may_be_broken(predictor, clips):
    result = predictor.predict(clips["text"], "Fine.", "emotion", ["text"])
    assert result.answer["modalities"] == ["text"]
    assert predictor.predict_parts(clips["text"], "emotion", ["text"]) == []


def test_large_file_is_rejected_before_it_is_opened(clips, tmp_path, monkeypatch):
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    monkeypatch.setattr(predictions, "open_clip", lambda *_: pytest.fail("opened"))
    with pytest.raises(RefusedError, match="2147 MB; at most 64 MB"):
        measure(str(path))


def test_measure(clips, tmp_path):
    assert measure(clips["both"]) == (pytest.approx(0.48, abs=0.1), True)
    assert measure(clips["sound"]) == (pytest.approx(0.3, abs=0.01), False)
    late = write_video(tmp_path / "late.mkv", gray_frames(4, 32, 48), timestamps=[5.0, 5.5, 6.0, 6.5])
    assert measure(str(late))[0] == pytest.approx(1.5, abs=0.6)


# ---- a long clip ---------------------------------------------------------------------------------------------


def test_parts_equal_the_pipeline_on_each_part(predictor, clips):
    parts = predictor.predict_parts(clips["long"], "emotion", ALL)
    assert [part.start for part in parts] == pytest.approx([0, 2.9, 5.8, 8.7], abs=0.05)
    assert [part.end for part in parts][:3] == [part.start for part in parts][1:]
    media = predictor.full_length_processor.load_media(video=clips["long"], modalities=["audio"])
    frames = gray_frames(46, 32, 48)
    for index, part in enumerate(parts):
        samples = slice(round(part.start * 16_000), round(part.end * 16_000))
        length = part.end - part.start
        # The predictor takes four frames of each part; the clip has four per second.
        positions = [(shot + 0.5) / 4 for shot in range(4)]
        frame_indices = [int((index + position) * length * 4) for position in positions]
        inputs = {
            "audio": media["audio"][samples],
            "sampling_rate": 16_000,
            "video": frames[frame_indices],
            "fps": 4 / length,
        }
        expected = predictor.pipe(inputs, task="emotion")
        assert part.answer["modalities"] == ["audio", "video"]
        # Compression changes a gray level by up to 1, which counts where the frame is as gray as the bars around it.
        assert part.answer["probabilities"] == pytest.approx(expected["probabilities"], abs=0.05)
    assert len({tuple(part.answer["probabilities"].values()) for part in parts}) == 4


def test_parts_of_one_modality(predictor, clips):
    for selected, used in ((["text", "audio"], ["audio"]), (["video"], ["video"])):
        parts = predictor.predict_parts(clips["long"], "emotion", selected)
        assert len(parts) > 1
        assert all(part.answer["modalities"] == used for part in parts)


def test_short_clips_and_text_have_no_parts(predictor, clips):
    assert predictor.predict_parts(clips["both"], "emotion", ALL) == []
    assert predictor.predict_parts(clips["long"], "emotion", ["text"]) == []
    predictor.pipe.processor.max_clip_seconds = 0.2  # what the model cannot see at once is shown part by part
    assert len(predictor.predict_parts(clips["both"], "emotion", ALL)) >= 3


def test_frames_at_finds_the_frame_on_screen(clips):
    seen = frames_at(clips["long"], [0.0, 0.3, 1.6, 11.4, 14.0])
    assert gray_index(np.stack(seen[:4])) == [0, 1, 6, 45]
    assert seen[4] is None


def test_frames_are_scaled_down_and_keep_their_shape(tmp_path):
    path = write_video(tmp_path / "large.mp4", gray_frames(2, 600, 1200))
    (frame,) = frames_at(str(path), [0.0])
    assert frame.shape == (256, 512, 3)


# ---- the page ------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Tags with their attributes; fails if one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def with_data(self, name):
        return [attributes for _, attributes in self.elements if name in attributes]


def test_page_of_a_label(predictor, clips):
    result = predictor.predict(clips["silent"], TRANSCRIPT, "emotion", ALL)
    page = rendering.prediction(result, predictor.tasks["emotion"])
    bars = Elements(page).with_data("data-label")
    shares = {bar["data-label"]: float(bar["data-share"]) for bar in bars}
    assert shares == pytest.approx(result.answer["probabilities"], abs=1e-4)
    changes = Elements(page).with_data("data-modality")
    assert [change["data-modality"] for change in changes] == ["text", "video"]
    label = result.answer["label"]
    for change in changes:
        left = result.without[change["data-modality"]]["probabilities"][label]
        assert float(change["data-change"]) == pytest.approx(100 * (result.answer["score"] - left), abs=0.01)
    assert "no audio" in page
    assert f"{result.answer['expert'].capitalize()} has the largest weight" in page


def test_page_of_a_score(predictor, clips):
    result = predictor.predict(clips["both"], TRANSCRIPT, "sentiment", ALL)
    page = rendering.prediction(result, predictor.tasks["sentiment"])
    low, high = map(rendering.signed, result.answer["interval"])
    assert f"90% between {low} and {high}" in page
    columns = Elements(page).with_data("data-value")
    shares = {column["data-value"]: float(column["data-share"]) for column in columns}
    probabilities = result.answer["probabilities"]
    expected = {f"{float(value):g}": share for value, share in probabilities.items()}
    assert shares == pytest.approx(expected, abs=1e-4)
    assert all(0 <= float(column["x"]) <= 100 for column in columns)


def test_page_of_a_timeline(predictor, clips):
    for task, name in (("emotion", "data-label"), ("sentiment", "data-value")):
        parts = predictor.predict_parts(clips["long"], task, ["audio"])
        page = rendering.timeline(parts, predictor.tasks[task], ["text", "audio"])
        assert len(Elements(page).with_data(name)) == 4
        assert "predicted from audio;" in page
    assert rendering.timeline([], {}, ALL) == ""


def test_external_text_is_escaped():
    task = {"labels": [["<i>", "a"], ["b", "b"]], "low": 0, "high": 0, "step": 1}
    answer = {
        "label": "<i>",
        "score": 0.7,
        "probabilities": {"<i>": 0.7, "b": 0.3},
        "modalities": ["text"],
        "experts": {"<b>": 1.0},
        "expert": "<b>",
        "residual": 0.5,
    }
    without = {"text": {**answer, "label": "b"}}
    pages = [
        rendering.prediction(Prediction(answer, without, [], 0, 0), task),
        rendering.notice("<script>"),
        rendering.timeline([Part(0, 1, answer)], task, ALL),
    ]
    for page in pages:
        assert not {"i", "script"} & {tag for tag, _ in Elements(page).elements}


@pytest.mark.parametrize(
    ("value", "shown"), [(1.23, "+1.2"), (-0.5, "\u22120.5"), (0.0, "0.0"), (-0.04, "0.0"), (3, "+3.0")]
)
def test_signed(value, shown):
    assert rendering.signed(value) == shown


def test_percent_and_points():
    percents = [rendering.percent(share) for share in (0, 0.004, 0.01, 0.5, 1)]
    assert percents == ["0%", "&lt;1%", "1%", "50%", "100%"]
    points = [rendering.points(change) for change in (12.4, -12.4, 0.2, -0.2)]
    assert points == ["+12", "\u221212", "0", "0"]


# ---- the page's function -------------------------------------------------------------------------------------


def test_answer_comes_first_and_the_timeline_after_it(predictor, clips):
    answer = app.make_respond(predictor)
    (short,) = answer(clips["both"], None, TRANSCRIPT, "emotion", ALL)
    assert short[1] == ""
    first, second = answer(clips["long"], None, TRANSCRIPT, "emotion", ALL)
    assert first[1] == ""
    assert second[0] == first[0]
    assert "Over the clip" in second[1]
    (sound,) = answer(None, clips["sound"], "", "emotion", ALL)
    assert "no video" in sound[0]


def test_errors_are_shown_and_the_next_prediction_works(predictor, clips, caplog):
    answer = app.make_respond(predictor)
    for clip, message in (("text", "not a readable audio"), ("empty", "0 bytes"), ("too long", "longer than 60 s")):
        ((page, timeline),) = answer(clips[clip], None, "", "emotion", ALL)
        assert message in page
        assert 'role="alert"' in page
        assert timeline == ""
    for inputs, message in (
        ((None, None, TRANSCRIPT, "mood", ALL), "There is no task &#x27;mood&#x27;"),
        ((None, None, TRANSCRIPT, "emotion", None), "Choose at least one of text, audio, video"),
        (("", "", None, "emotion", ALL), "Upload or record a clip, or type the transcript"),
        ((clips["both"], clips["sound"], None, "emotion", ALL), "a video or an audio file, not both"),
    ):
        assert message in next(answer(*inputs))[0]
    predict = predictor.predict
    predictor.predict = lambda *_: 1 / 0
    with caplog.at_level(logging.ERROR):
        ((page, _),) = answer(None, None, TRANSCRIPT, "emotion", ALL)
    assert "The prediction failed" in page
    assert "division" not in page
    assert "ZeroDivisionError" in caplog.text
    predictor.predict = predict
    ((page, _),) = answer(None, None, TRANSCRIPT, "emotion", ALL)
    assert "data-share" in page


def test_addresses_are_rejected_and_uploads_accepted(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Error=RefusedError))

    class Component:
        async def async_move_resource_to_block_cache(self, place):
            return f"cache/{place}"

    component = app.uploads_only(Component())
    assert asyncio.run(component.async_move_resource_to_block_cache("clip.mp4")) == "cache/clip.mp4"
    for place in ("http://127.0.0.1/a.mp4", "https://example.org/a.mp4", "file:///etc/passwd"):
        with pytest.raises(RefusedError, match="URLs are refused"):
            asyncio.run(component.async_move_resource_to_block_cache(place))


def test_error_without_gradio(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["app.py"])
    with pytest.raises(SystemExit):
        app.main()
    assert "the page needs Gradio: pip install" in capsys.readouterr().err


def test_error_for_a_checkpoint_that_cannot_be_loaded(monkeypatch, capsys):
    def absent(model):
        raise OSError("it is not there")

    monkeypatch.setattr(app.importlib.util, "find_spec", lambda *_: "installed")
    monkeypatch.setattr(app, "Predictor", absent)
    monkeypatch.setattr("sys.argv", ["app.py", "--model_name_or_path", "runs/none"])
    with pytest.raises(SystemExit):
        app.main()
    assert "runs/none cannot be loaded: it is not there. Give --model_name_or_path" in capsys.readouterr().err


# ---- examples, card, requirements ------------------------------------------------------------------------------


def test_examples_exist_and_are_small(predictor):
    examples = app.read_examples(predictor.tasks)
    assert len(examples) == len(demo_examples.CLIPS) + 1
    assert sum(path.stat().st_size for path in (SPACE / "examples").iterdir()) < 10**6
    seconds = [measure(example["video"])[0] for example in examples]
    assert max(seconds) > predictions.TIMELINE_SECONDS
    for example in examples:
        result = predictor.predict(example["video"], example["text"], example["task"], ALL)
        assert result.absent in ([], ["text"])
    assert app.read_examples({"other": {}}) == []


def test_stored_examples_are_what_the_command_writes(tmp_path, monkeypatch):
    """Frames and audio of the first clip, and the list of all clips."""
    monkeypatch.setattr(demo_examples, "long_clip", lambda: (np.zeros(1600, np.float32), gray_frames(2, 32, 32)))
    monkeypatch.setattr(demo_examples, "CLIPS", demo_examples.CLIPS[:1])
    (first, _) = demo_examples.write_examples(tmp_path)
    listed = json.loads((SPACE / "examples/examples.json").read_text(encoding="utf-8"))
    assert listed[0] == first
    made = np.stack(frames_at(str(tmp_path / first["video"]), [0.5, 1.0]))
    stored = np.stack(frames_at(str(SPACE / "examples" / first["video"]), [0.5, 1.0]))
    assert np.abs(made.astype(int) - stored).mean() < 2


def test_card_of_the_space():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    card = check_card(text, "space")
    assert card.data.sdk_version == gradio_version()
    assert (SPACE / card.data.app_file).is_file()
    for limit in (
        f"{predictions.MAX_MEGABYTES} MB and {predictions.MAX_SECONDS:g} s",
        "Only with the consent",
        "European Union",
    ):
        assert limit in text
    assert app.DELETE_AFTER_SECONDS + 600 <= 3600  # "within the hour"


def gradio_version():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(r"^gradio==(.+)$", constraints, re.MULTILINE).group(1)


def test_requirements_match_the_project():
    requirements = (SPACE / "requirements.txt").read_text(encoding="utf-8").split()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {re.split("[>=]", line)[0] for line in requirements}
    assert {"transformers", "torch", "peft", "av", "numpy"} <= names
    assert [line for line in requirements if f'"{line}"' not in project] == []
