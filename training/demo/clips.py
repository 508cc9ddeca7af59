"""Clips of the demo corpus: from a planned example to audio samples and video frames, and to an mp4 file.

    example -> voice affect, face affect -> samples (S,) -> loudness per frame -> frames (T, size, size, 3) -> mp4

Everything random depends only on the seed, the example's id and its speaker, so clips can be made in any order.
Next: `voice.py` makes the speech, `face.py` draws the frames.
"""

import os
import re
import unicodedata
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .face import make_face_speaker, render_clip
from .face_affects import mix_face_affects
from .snippets import SCORE_LIMIT
from .voice import SAMPLE_RATE, make_voice_speaker, synthesize
from .voice_affects import mix_voice_affects


FRAMES_PER_SECOND = Fraction(25, 2)
# x264's lookahead differs from run to run; without it, the bytes are always the same.
X264_PARAMS = "aq-mode=0:mbtree=0:rc-lookahead=0:sync-lookahead=0"
CRF = 20
VOICE = 0  # parts of a speaker, each with its own random generator
FACE = 1


def speaker_rng(seed: int, speaker: str, part: int) -> np.random.Generator:
    """The random generator of a speaker's voice (part VOICE) or face (part FACE)."""
    return np.random.default_rng([seed, 2, zlib.crc32(speaker.encode()), part])


def render_example(example: dict[str, Any], seed: int, frame_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the samples (S,) in [-1, 1] and the RGB frames (T, size, size, 3) of an example.

    Args:
        example: its `id`, `task`, `text`, `speaker` and `cues` are used.
        seed: seed of the corpus.
        frame_size: height and width in pixels.
    """
    rng = np.random.default_rng([seed, 3, zlib.crc32(example["id"].encode())])
    voice = make_voice_speaker(speaker_rng(seed, example["speaker"], VOICE))
    face = make_face_speaker(speaker_rng(seed, example["speaker"], FACE))
    cues = example["cues"]
    if example["task"] == "emotion":
        strength = {modality: float(rng.uniform(0.88, 1.05)) for modality in ("audio", "video")}
        weights = {modality: emotion_weights(cues[modality], strength[modality]) for modality in strength}
    else:
        weights = {modality: valence_weights(cues[modality]) for modality in ("audio", "video")}
    voice_affect = mix_voice_affects(weights["audio"])
    samples = synthesize(voice, voice_affect, count_syllables(example["text"]), rng)
    samples_per_frame = int(SAMPLE_RATE / FRAMES_PER_SECOND)
    num_frames = len(samples) // samples_per_frame
    samples = samples[: num_frames * samples_per_frame]
    speech = speech_level(samples.reshape(num_frames, samples_per_frame))
    face_affect = mix_face_affects(weights["video"])
    frames = render_clip(face, face_affect, speech, float(FRAMES_PER_SECOND), frame_size, rng)
    return samples, frames


def emotion_weights(emotion: str, strength: float) -> dict[str, float]:
    """An emotion as a mixture of affects: strength 1 is the table's point, strength 0 is neutral."""
    weights = {"neutral": 1 - strength}
    weights[emotion] = weights.get(emotion, 0) + strength
    return weights


def valence_weights(valence: float) -> dict[str, float]:
    """A sentiment as a mixture of affects: neutral to joy above zero, neutral to sadness below."""
    share = abs(valence) / SCORE_LIMIT
    return {"neutral": 1 - share, "joy" if valence > 0 else "sadness": share}


def count_syllables(text: str) -> int:
    """Rough number of syllables: vowel groups of Latin words plus Chinese characters.

    It is all that the voice takes from the text: it has no tones, and the same vowels in every language.
    """
    text = unicodedata.normalize("NFD", text)  # é becomes e and an accent
    vowel_groups = re.findall(r"[aeiouy]+", text.lower())
    characters = re.findall(r"[\u4e00-\u9fff]", text)
    return max(2, len(vowel_groups) + len(characters))


def speech_level(samples: np.ndarray) -> np.ndarray:
    """Loudness of the speech in [0, 1] at every frame: samples (T, samples per frame) -> (T,)."""
    loudness = np.sqrt(np.mean(samples**2, axis=1))
    relative = loudness / (np.percentile(loudness, 95) + 1e-9)
    return np.clip((relative - 0.1) / 0.9, 0, 1)


def write_mp4(path: Path, samples: np.ndarray, frames: np.ndarray, crf: int = CRF) -> None:
    """Write H.264 and AAC; the same input gives the same bytes.

    Args:
        path: the file, renamed into place once it is complete.
        samples: mono audio in [-1, 1] at 16 kHz, (S,).
        frames: RGB, uint8 of shape (T, height, width, 3).
        crf: constant rate factor of x264; higher ones compress more.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(str(partial), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.height = frames.shape[1]
        video.width = frames.shape[2]
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "veryfast", "crf": str(crf), "threads": "1", "x264-params": X264_PARAMS}
        audio = container.add_stream("aac", rate=SAMPLE_RATE)
        audio.layout = "mono"
        audio.bit_rate = 48_000
        audio.options = {"aac_coder": "fast"}
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        audio_frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        audio_frame.sample_rate = SAMPLE_RATE
        audio_frame.pts = 0
        container.mux(audio.encode(audio_frame))
        container.mux(audio.encode(None))
    os.replace(partial, path)
