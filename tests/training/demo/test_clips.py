"""Clips: both streams in the mp4 file, and affects that look and sound different."""

import itertools
import json

import av
import numpy as np
import pytest

from training.demo.clips import valence_weights
from training.demo.face import draw_face, make_face_speaker
from training.demo.face_affects import FACE_AFFECTS
from training.demo.phrases import EMOTIONS
from training.demo.voice import make_voice_speaker, synthesize
from training.demo.voice_affects import VOICE_AFFECTS


def test_mp4_files_hold_both_streams(corpus, options):
    for line in (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        path = str(corpus / json.loads(line)["video"])
        with av.open(path) as container:
            video = container.streams.video[0]
            audio = container.streams.audio[0]
            assert video.codec_context.name == "h264"
            assert float(video.average_rate) == 12.5
            assert video.width == video.height == options.frame_size
            assert audio.codec_context.name == "aac"
            assert audio.rate == 16_000
            assert audio.layout.nb_channels == 1
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        with av.open(path) as container:
            samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        seconds = len(frames) / 12.5
        assert 1.4 <= seconds <= 3.0
        assert abs(len(samples) / 16_000 - seconds) < 0.15
        assert np.sqrt(np.mean(samples**2)) > 0.003
        assert np.std(frames[-1]) > 10


def test_valence_is_a_mixture_of_affects():
    assert valence_weights(-1.5) == {"neutral": 0.5, "sadness": 0.5}
    assert valence_weights(3.0) == {"neutral": 0.0, "joy": 1.0}


def test_every_emotion_looks_different():
    assert list(FACE_AFFECTS) == list(EMOTIONS)
    speaker = make_face_speaker(np.random.default_rng(0))
    frames = [draw_face(speaker, FACE_AFFECTS[emotion], 48).astype(float) for emotion in EMOTIONS]
    for first, second in itertools.combinations(frames, 2):
        assert np.abs(first - second).mean() > 2


def test_every_emotion_sounds_different():
    assert list(VOICE_AFFECTS) == list(EMOTIONS)
    speaker = make_voice_speaker(np.random.default_rng(0))
    loudness = {}
    for emotion, affect in VOICE_AFFECTS.items():
        samples = synthesize(speaker, affect, 8, np.random.default_rng(1))
        assert samples.dtype == np.float32
        assert np.abs(samples).max() <= 1
        assert 1.5 <= len(samples) / 16_000 <= 3.0
        loudness[emotion] = np.sqrt(np.mean(samples**2))
    assert loudness["anger"] > loudness["neutral"] > loudness["sadness"]


@pytest.mark.parametrize("style", ["short", "parted", "long", "bun", "curly", "cropped", "bob", "bald"])
def test_every_style_of_hair_is_drawn(style):
    seeds = range(200)
    speakers = (make_face_speaker(np.random.default_rng(seed)) for seed in seeds)
    speaker = next(speaker for speaker in speakers if speaker.style == style)
    assert draw_face(speaker, FACE_AFFECTS["neutral"], 16).shape == (16, 16, 3)
