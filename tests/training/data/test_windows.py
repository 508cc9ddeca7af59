"""Windows of long clips: their starts, their contents, and how their answers are combined."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing_egmf import video_egmf
from processing_egmf.audio_egmf import load_audio
from processing_egmf.media_egmf import DecodingBudget
from processing_egmf.pictures_egmf import spread_frames
from processing_egmf.video_egmf import frame_to_rgb, load_video, open_video, read_frame_times
from tests.helpers.media_files import sine, write_audio, write_video
from training.data import windows
from training.data.dataset import EGMFDataset
from training.data.windows import (
    LastAudio,
    Window,
    cut_examples,
    cut_windows,
    load_window,
    measure_clips,
    merge_windows,
    num_clips,
)
from training.evaluation.evaluator import evaluate
from training.evaluation.predictor import Clip, Predictor


RATE = 16_000


@pytest.mark.parametrize(
    ("length", "seconds", "hop", "starts"),
    [
        (3.0, 4.0, 2.0, [0.0]),
        (4.0, 4.0, 2.0, [0.0]),
        (4.005, 4.0, 2.0, [0.0]),
        (5.0, 4.0, 2.0, [0.0, 1.0]),
        (6.0, 4.0, 2.0, [0.0, 2.0]),
        (9.0, 4.0, 2.0, [0.0, 2.0, 4.0, 5.0]),
        (12.0, 4.0, 4.0, [0.0, 4.0, 8.0]),
        (0.0, 4.0, 1.0, [0.0]),
    ],
)
def test_windows_start_every_hop_and_the_last_ends_with_the_clip(length, seconds, hop, starts):
    found = cut_windows(length, seconds, hop)
    assert [window.start for window in found] == pytest.approx(starts)
    assert all(window.seconds == seconds and window.clip_seconds == length for window in found)


@pytest.mark.parametrize("hop", [0.0, -1.0, 4.1, float("nan")])
def test_hop_must_leave_no_gap(hop):
    with pytest.raises(ValueError, match=r"--window_hop is .*above 0 and at most --max_clip_seconds, which is 4\."):
        cut_windows(9.0, 4.0, hop)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """2.4 s at 12.5 frames per second, with brightness and the tone's level growing over time."""
    frames = np.arange(30, dtype=np.uint8)[:, None, None, None] * 8 * np.ones((1, 16, 16, 3), np.uint8)
    tone = sine(300, 2.4, RATE) * np.linspace(0.1, 0.9, round(2.4 * RATE))
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    write_video(path, frames, fps=12.5, audio=tone.astype(np.float32))
    return path


@pytest.fixture
def processor(make_processor):
    return make_processor("waveform", "frames", max_clip_seconds=1.0)


def test_length_is_that_of_the_used_part(clip, processor, make_processor, tmp_path):
    assert measure_clips([str(clip)], processor, "x") == pytest.approx(2.4, abs=0.1)
    assert measure_clips([], processor, "x") == 0
    assert measure_clips([str(clip)], make_processor(), "x") == 0  # features have no seconds


def test_window_holds_its_part(clip, processor):
    whole = load_audio(str(clip), target_sampling_rate=RATE, max_seconds=None)
    for start in (0.0, 0.5, 1.4):
        found = load_window(processor, Window(start, 1.0, 2.4), video=str(clip), name="x")
        first = round(start * RATE)
        np.testing.assert_array_equal(found["audio"], whole[first : first + RATE])
        assert 3 <= len(found["video"]) <= processor.num_frames
        seconds = found["video"].mean(axis=(1, 2, 3)) / 8 / 12.5
        assert (seconds > start - 0.15).all() and (seconds < start + 1.1).all()
    silent = load_window(processor, Window(0.5, 1.0, 2.4), video=str(clip), modalities=("video",), name="x")
    assert set(silent) == {"video"}


def test_examples_of_long_clips_become_one_per_window(clip, processor, tmp_path):
    short = tmp_path / "short.wav"
    write_audio(short, sine(300, 0.5, RATE), RATE)
    shared = {"task": "emotion", "answer": "joy"}
    rows = [
        {"id": "long", "video": str(clip), "text": "Oh.", **shared},
        {"id": "short", "audio": str(short), **shared},
    ]
    assert cut_examples(rows, processor, None) == rows
    found = cut_examples(rows, processor, 0.7)
    assert num_clips(found) == num_clips(rows) == len(rows) < len(found)
    assert [row["id"] for row in found] == [
        "long@0s",
        "long@0.7s",
        f"long@{found[2]['window'].start:g}s",
        "short",
    ]
    assert [row.get("clip") for row in found] == ["long", "long", "long", None]
    assert all(row["answer"] == "joy" for row in found)
    dataset = EGMFDataset(found, processor, cache_media=True)
    assert len(dataset[0]["audio_values"]) == RATE
    assert not torch.equal(dataset[0]["audio_values"], dataset[1]["audio_values"])
    assert dataset[0]["input_ids"] == dataset[2]["input_ids"]
    assert dataset.examples[0]["text"] == "Oh."


def test_a_window_has_the_frames_that_the_whole_clip_has_there(clip, processor):
    window = Window(0.7, 1.0, 2.4)
    frames = load_video(str(clip), 10, max_seconds=None)  # four for each second
    with open_video(str(clip), DecodingBudget("x", None, None)) as track:
        times = read_frame_times(track)
    starts = np.array(times.times)[spread_frames(times.times, times.stop, 10)]
    inside = frames[(starts >= 0.7) & (starts < 1.7)]
    expected = processor.load_media(video=inside)["video"]
    assert len(expected) == 4
    found = load_window(processor, window, video=str(clip), modalities=("video",), name="x")
    np.testing.assert_array_equal(found["video"], expected)


def test_a_long_recording_is_decoded_once(clip, processor, make_model, monkeypatch):
    """Not once for each window, which takes hours for an hour's recording."""
    audio_loads = []
    decoded = []
    monkeypatch.setattr(windows, "load_audio", lambda *args: audio_loads.append(args) or load_audio(*args))
    monkeypatch.setattr(video_egmf, "frame_to_rgb", lambda *args: decoded.append(1) or frame_to_rgb(*args))
    monkeypatch.setattr(windows, "_last_audio", LastAudio())
    predictor = Predictor(make_model("waveform", "frames"), processor, "emotion", window_hop=0.7)
    assert predictor.predict(video=str(clip))["windows"] == 3
    assert len(audio_loads) == 1 and audio_loads[0][-1] == processor.max_decode_seconds
    assert len(decoded) <= 12
    write_audio(clip.with_suffix(".wav"), sine(300, 2.4, RATE), RATE)
    predictor.predict(audio=str(clip.with_suffix(".wav")))
    assert len(audio_loads) == 2


def test_windows_without_content_are_left_out(processor, make_model, tmp_path, caplog):
    """As in evaluation: a silent part, or a soundtrack that ends before the video."""
    tone = sine(300, 3.0, RATE)
    with_pause = tone.copy()
    with_pause[RATE : 2 * RATE] = 0
    model = make_model("waveform", "frames")
    paths = {}
    for name, samples in {"whole": tone, "pause": with_pause, "silent": np.zeros_like(tone)}.items():
        paths[name] = str(write_audio(tmp_path / f"{name}.wav", samples, RATE))
    predictor = Predictor(model, processor, "emotion", window_hop=1.0, top_k=2)
    found = predictor.predict(audio=paths["pause"])
    assert (found["windows"], len(found["probabilities"])) == (2, 2)
    assert "the clip@1s: the audio is digital silence" in caplog.text
    row = {"id": "a", "task": "emotion", "answer": "joy", "audio": paths["pause"]}
    dataset = EGMFDataset(cut_examples([row], processor, 1.0), processor)
    (answer,) = evaluate(model, processor, dataset, [("audio",)])["audio"]["tasks"]["emotion"]["predictions"]
    assert answer["windows"] == 2
    for label, probability in found["probabilities"].items():
        assert probability == pytest.approx(answer["probabilities"][label], abs=1e-6)
    assert predictor.predict(audio=paths["whole"])["windows"] == 3
    assert predictor.predict(audio=paths["pause"], text="Oh.")["windows"] == 3
    with pytest.raises(ValueError, match="neither text nor audio nor video"):
        predictor.predict(audio=paths["silent"])


def test_one_window_with_content_is_calibrated_and_cut_to_top_k(processor, make_model, tmp_path):
    samples = sine(300, 3.0, RATE)
    samples[RATE:] = 0
    path = str(write_audio(tmp_path / "a.wav", samples, RATE))
    options = {"window_hop": 1.0, "top_k": 2}
    found = Predictor(make_model("waveform", "frames"), processor, "emotion", **options).predict(audio=path)
    assert (found["windows"], len(found["probabilities"])) == (1, 2)


def test_labels_and_windows(clip, processor, make_model):
    model = make_model("waveform", "frames")
    every = Predictor(model, processor, "emotion", window_hop=0.7).predict(video=str(clip))["probabilities"]
    chosen = Predictor(model, processor, "emotion", window_hop=0.7, labels=["joy", "fear"]).predict(video=str(clip))
    assert list(chosen["probabilities"]) == ["joy", "fear"] and chosen["windows"] == 3
    assert chosen["probabilities"]["joy"] == pytest.approx(every["joy"] / (every["joy"] + every["fear"]))


def test_audio_is_not_kept_after_the_last_window(processor, make_model, tmp_path, monkeypatch):
    path = str(write_audio(tmp_path / "a.wav", sine(300, 3.0, RATE), RATE))
    kept = LastAudio()
    monkeypatch.setattr(windows, "_last_audio", kept)
    loaded = []
    for window in cut_windows(3.0, 1.0, 1.0):
        loaded.append(load_window(processor, window, audio=path, name="x")["audio"])
        assert (kept.entry is None) == (window.start == 2.0)
    assert all(audio.base is None or audio.base.size == RATE for audio in loaded)
    model = make_model("waveform", "frames")
    monkeypatch.setattr(model, "score_answers", lambda **inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Predictor(model, processor, "emotion", window_hop=1.0).predict(audio=path)
    assert kept.entry is None


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_pictures_are_cut_as_videos_are(processor, make_model, tmp_path, monkeypatch, ending):
    """They were refused with a window hop."""
    ramp = np.linspace(0, 1, 16)[:, None, None] * np.ones((16, 16, 3))
    pictures = [Image.fromarray((20 * index * ramp).astype(np.uint8)) for index in range(1, 11)]
    animation = str(tmp_path / f"a.{ending}")
    options = {"lossless": True} if ending == "webp" else {}
    pictures[0].save(animation, save_all=True, append_images=pictures[1:], duration=300, **options)
    assert measure_clips([animation], processor, "x") == pytest.approx(3.0)
    opened = []
    load_picture = windows.load_picture
    monkeypatch.setattr(windows, "load_picture", lambda *args: opened.append(1) or load_picture(*args))
    frames = load_window(processor, Window(1.0, 1.0, 3.0), video=animation, name="x")["video"]
    assert sorted({int(frame.max()) for frame in frames}) == [100, 120, 140]  # shown from 1.2, 1.5 and 1.8 s on
    assert opened == [1]
    predictor = Predictor(make_model("waveform", "frames"), processor, "emotion", window_hop=1.0)
    assert predictor.predict(video=animation)["windows"] == 3
    pictures[0].save(tmp_path / "still.jpg")
    sound = str(write_audio(tmp_path / "a.wav", sine(300, 3.0, RATE), RATE))
    assert measure_clips([str(tmp_path / "still.jpg")], processor, "x") == 0
    assert "windows" not in predictor.predict(video=str(tmp_path / "still.jpg"))
    assert predictor.predict(video=str(tmp_path / "still.jpg"), audio=sound)["windows"] == 3


def test_a_window_that_is_damaged_keeps_its_audio(processor, tmp_path, monkeypatch, caplog, clip):
    def fail(*args):
        raise ValueError("no frame can be decoded.")

    monkeypatch.setattr(windows, "load_frames", fail)
    found = load_window(processor, Window(0.7, 1.0, 2.4), video=str(clip), name="x")
    assert set(found) == {"audio"}
    assert "x: no frame can be decoded. Video is left out of the window at 0.7 s." in caplog.text
    with pytest.raises(ValueError, match="x: no frame can be decoded"):
        load_window(processor, Window(0.0, 1.0, 2.4), video=str(clip), name="x")


def test_answer_is_the_mean_of_the_windows(clip, processor, make_model, monkeypatch):
    model = make_model("waveform", "frames")
    inputs = {"text": "Oh.", "video": str(clip), "task": "emotion", "sample_names": "x"}
    found = Predictor(model, processor, window_hop=0.7).predict(**inputs)
    assert found["windows"] == 3
    single = []
    for window in cut_windows(measure_clips([str(clip)], processor, "x"), 1.0, 0.7):
        media = load_window(processor, window, video=str(clip), name="x")
        features = processor(text="Oh.", task="emotion", sampling_rate=RATE, **media)
        single.append(processor.post_process_answers(model.score_answers(**features))[0])
    for label, share in found["probabilities"].items():
        assert share == pytest.approx(np.mean([answer["probabilities"][label] for answer in single]), abs=1e-6)
    assert len({round(answer["score"], 6) for answer in single}) == 3  # they do differ
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    assert sum(found["experts"].values()) == pytest.approx(1, abs=1e-5)
    assert found["modalities"] == ["text", "audio", "video"]
    assert set(Predictor(model, processor, window_hop=0.7, top_k=2).predict(**inputs)["probabilities"]) < set(
        found["probabilities"]
    )
    (from_all,) = Predictor(model, processor, "emotion", window_hop=0.7).predict_all(
        [Clip("x", "Oh.", video=str(clip))]
    )
    assert from_all["probabilities"] == pytest.approx(found["probabilities"])
    monkeypatch.setitem(
        processor.task_objects["emotion"].calibration, "text+audio+video", {"temperature": 1.0, "uniform_weight": 0.0}
    )
    calibrated = Predictor(model, processor, window_hop=0.7, calibrated=True).predict(**inputs)
    assert calibrated["probabilities"] == pytest.approx(found["probabilities"])


def test_short_clips_and_no_hop_are_predicted_as_usual(clip, make_processor, make_model):
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    inputs = {"text": "Oh.", "video": str(clip), "task": "sentiment"}
    plain = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
    for hop in (None, 3.0):
        found = Predictor(model, processor, window_hop=hop).predict(**inputs)
        assert found["probabilities"] == pytest.approx(plain["probabilities"])
        assert "windows" not in found


def test_evaluation_counts_a_clip_once(clip, processor, make_model):
    model = make_model("waveform", "frames")
    shared = {"video": str(clip), "text": "Oh."}
    rows = [
        {"id": "a", "task": "emotion", "answer": "joy", "extra": {"speaker": "Ann"}, **shared},
        {"id": "b", "task": "sentiment", "answer": 0.5, **shared},
    ]
    dataset = EGMFDataset(cut_examples(rows, processor, 1.0), processor, cache_media=True)
    assert len(dataset) == 6
    found = evaluate(model, processor, dataset, [("text", "audio", "video")], batch_size=4)["text+audio+video"][
        "tasks"
    ]
    for name, row in (("emotion", rows[0]), ("sentiment", rows[1])):
        (answer,) = found[name]["predictions"]
        assert (answer["id"], answer["truth"], answer["windows"]) == (row["id"], row["answer"], 3)
        assert answer.get("columns") == row.get("extra")
        assert found[name]["examples"] == 1
        inputs = {**shared, "task": name, "sample_names": "x"}
        expected = Predictor(model, processor, window_hop=1.0).predict(**inputs)
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_uncut_examples_are_unchanged(processor):
    rows = [{"id": "a"}, {"id": "b"}]
    answers = [{"x": 1}, {"x": 2}]
    probabilities = np.eye(2)
    found = merge_windows(processor, rows, answers, probabilities)
    assert found[0] == rows and found[1] == answers and found[2] is probabilities
    assert torch.equal(torch.from_numpy(found[2]), torch.eye(2, dtype=torch.float64))
