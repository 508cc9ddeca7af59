"""Files that were cut off while being copied: a warning names the file and says how much of it is left."""

import struct

import av
import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video


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


# Container -> codec and its sample format, and the rate. None for the codec that the helper chooses.
DECLARING = {
    ".w64": (("pcm_s16le", "s16"), RATE),
    ".caf": (("pcm_s16be", "s16"), RATE),
    ".mka": (("aac", "fltp"), RATE),
    ".webm": (("libopus", "flt"), 48_000),
    ".mp3": (None, RATE),
    ".flac": (None, RATE),
    ".ogg": (None, 48_000),
    ".flv": (("aac", "fltp"), 44_100),
    ".asf": (("mp2", "s16"), 44_100),
    ".ts": (("aac", "fltp"), 44_100),
    ".aiff": (("pcm_s16be", "s16"), RATE),
    ".au": (("pcm_s16be", "s16"), RATE),
}


@pytest.fixture(params=DECLARING)
def recording(request, tmp_path):
    codec, rate = DECLARING[request.param]
    noise = np.random.default_rng(0).normal(0, 0.05, SECONDS * rate).astype(np.float32)
    samples = sine(300, SECONDS, rate) + noise
    return write_audio(tmp_path / f"clip{request.param}", samples, rate, codec).read_bytes()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_cut_file_of_any_container_is_named(recording, share, caplog):
    samples = load_audio(recording[: round(share * len(recording))], name="a")
    assert len(samples) < 0.95 * SECONDS * 16_000
    assert any("the file may be cut off" in message for message in caplog.messages), caplog.messages


def test_a_whole_file_of_any_container_is_not(recording, caplog):
    # Another program may append what is no media, but not to packets of one size.
    is_packets = recording[::188] == b"G" * (len(recording) // 188)
    for content in (recording, recording + (bytes(188) if is_packets else b"TAG" + bytes(125))):
        load_audio(content, name="a")
        assert [message for message in caplog.messages if "cut off" in message] == []


VIDEO_CODECS = {".asf": "mpeg4", ".wmv": "msmpeg4v3"}


@pytest.mark.parametrize("ending", [".mkv", ".mp4", ".flv", ".asf", ".wmv", ".ts"])
def test_a_cut_video_is_named(tmp_path, ending, caplog):
    options = {"movflags": "faststart"} if ending == ".mp4" else {}
    codec = VIDEO_CODECS.get(ending, "libx264")
    content = write_video(tmp_path / f"clip{ending}", gray_frames(50), codec=codec, options=options).read_bytes()
    load_video(content, num_frames=4, name="a")
    assert caplog.messages == []
    load_video(content[: round(0.7 * len(content))], num_frames=4, name="a")
    assert any("the file may be cut off" in message for message in caplog.messages), caplog.messages


def test_an_ogg_file_that_ends_between_or_within_pages(tmp_path, caplog):
    content = write_audio(tmp_path / "a.ogg", sine(300, SECONDS, 48_000), 48_000).read_bytes()
    for end in (content.rindex(b"OggS"), content.rindex(b"OggS") + 4, content.rindex(b"OggS") + 5):
        caplog.clear()
        load_audio(content[:end], name="a")
        assert "a: the end is missing; the file may be cut off." in caplog.messages


def test_a_transport_stream_that_ends_between_packets_is_not_told_from_a_whole_one(tmp_path, caplog):
    """Each packet may be the last."""
    content = write_audio(tmp_path / "a.ts", sine(300, SECONDS, 44_100), 44_100, ("aac", "fltp")).read_bytes()
    with_time_codes = b"".join(bytes(4) + content[i : i + 188] for i in range(0, len(content), 188))
    for stream, size in ((content, 188), (with_time_codes, 192)):
        caplog.clear()
        load_audio(stream[: -2 * size], name="a")
        assert [message for message in caplog.messages if "cut off" in message] == []
        load_audio(stream[:-100], name="a")
        assert "a: the end is missing; the file may be cut off." in caplog.messages


def as_streamed(content):
    """An flv or asf file as of a program that cannot go back to its header."""
    content = bytearray(content)
    if content.startswith(b"FLV"):
        start = content.index(b"filesize\0") + len(b"filesize\0")
        content[start : start + 8] = bytes(8)
    else:
        properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
        content[properties + 88] |= 1  # flags: broadcast
    return bytes(content)


@pytest.mark.parametrize(("ending", "codec"), [(".flv", ("aac", "fltp")), (".asf", ("mp2", "s16"))])
def test_a_streamed_file_declares_no_size(tmp_path, ending, codec, caplog):
    content = write_audio(tmp_path / f"a{ending}", sine(300, SECONDS, 44_100), 44_100, codec).read_bytes()
    load_audio(as_streamed(content), name="a")
    load_audio(as_streamed(content)[: len(content) // 2], name="a")
    assert [message for message in caplog.messages if "cut off" in message] == []


def test_pictures_that_are_shown_for_long_are_no_sign_of_a_cut(tmp_path, caplog):
    path = write_video(tmp_path / "slides.mkv", gray_frames(4), timestamps=[0, 5, 6, 20])
    load_video(path, num_frames=4, name="a")
    assert caplog.messages == []


def test_a_stream_of_few_bits_is_not_cut(tmp_path, caplog):
    """FFmpeg estimates the duration of such a Matroska file from the bit rate, a fifth too long."""
    path = tmp_path / "live.mka"
    with av.open(str(path), "w", container_options={"live": "1"}) as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono", format="fltp", bit_rate=8_000)
        frame = av.AudioFrame.from_ndarray(sine(300, SECONDS, RATE)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    load_audio(path, name="a")
    assert caplog.messages == []
