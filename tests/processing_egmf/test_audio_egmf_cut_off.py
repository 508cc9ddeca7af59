"""Audio files that were cut off while being copied: a warning names the file and says how much of it is left."""

import struct

import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from tests.helpers.media_files import sine


RATE = 16_000
SECONDS = 4


def wav(declared=None, codec=1, extra=b"", seconds=SECONDS):
    """A wav file; `declared` bytes of samples instead of its own."""
    samples = np.rint(sine(300, seconds, RATE) * 10_000).astype("<i2").tobytes()
    size = len(samples) if declared is None else declared
    riff = min(36 + len(extra) + size, 2**32 - 1)
    header = struct.pack("<4sI4s", b"RIFF", riff, b"WAVE")
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, codec, 1, RATE, 2 * RATE, 2, 16)
    return header + layout + struct.pack("<4sI", b"data", size) + samples + extra


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_a_wav_file_that_was_cut_off_is_named(tmp_path, share, caplog):
    path = tmp_path / "cut.wav"
    path.write_bytes(wav()[: round(44 + share * 2 * RATE * SECONDS)])
    samples = load_audio(str(path), name="sample 3")
    assert len(samples) / RATE == pytest.approx(share * SECONDS, abs=0.1)
    (message,) = caplog.messages
    beginning = f"sample 3 ({path}): only {share * SECONDS:.2f} of "
    assert message.startswith(beginning)
    seconds, _, ending = message.removeprefix(beginning).partition(" ")
    assert float(seconds) == pytest.approx(SECONDS, abs=0.05)
    assert ending == "s of audio decode; the file may be cut off."


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("whole", wav()),
        ("streamed, as FFmpeg states it", wav(declared=2**32 - 1 - 36)),
        ("streamed, as SoX states it", wav(declared=0x7FFFF000)),
        ("streamed, without a size", wav(declared=0)),
        ("a size that is a few bytes too large", wav(declared=2 * RATE * SECONDS + 100)),
        ("with a chunk after the samples", wav(extra=struct.pack("<4sI4s", b"LIST", 4, b"INFO"))),
    ],
)
def test_other_wav_files_are_not(kind, content, caplog):
    samples = load_audio(content)
    if "without" not in kind:
        assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.01)
    assert caplog.messages == []


def test_the_beginning_of_a_long_wav_file_is_enough(caplog):
    """Nothing is missing from what is used."""
    samples = load_audio(wav(declared=20 * RATE * SECONDS), max_seconds=2, name="a")
    assert len(samples) == 2 * RATE
    assert caplog.messages == ["a: the audio is longer than 2 s; only its beginning is used."]
