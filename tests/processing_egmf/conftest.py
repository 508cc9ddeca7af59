"""Fixtures of the processor's tests: two read-only processors, real clips, warnings."""

import pytest

from tests.helpers.media_files import gray_frames, sine, write_audio, write_video


@pytest.fixture(scope="module")
def raw(make_processor):
    """A processor for waveforms and frames."""
    return make_processor("waveform", "frames")


@pytest.fixture(scope="module")
def features(make_processor):
    """A processor for precomputed features."""
    return make_processor("features", "features")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Real files: `both` (video with audio), `silent` (only video), `audio` (only audio), and broken ones."""
    folder = tmp_path_factory.mktemp("clips")
    frames = gray_frames(6, 32, 48)
    paths = {
        "both": write_video(folder / "both.mp4", frames, audio=sine(440, 0.48, 16_000)),
        "silent": write_video(folder / "silent.mp4", frames),
        "audio": write_audio(folder / "audio.wav", sine(300, 0.3, 16_000), 16_000),
    }
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "words.mp4").write_text("this is no film " * 50)
    (folder / "cut.mp4").write_bytes(paths["both"].read_bytes()[:600])
    paths |= {name: folder / f"{name}.mp4" for name in ("empty", "words", "cut", "absent")}
    return {name: str(path) for name, path in paths.items()} | {"folder": str(folder)}


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """2 s: 25 gray frames at 12.5 per second, with a tone of 440 Hz."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, gray_frames(25), 12.5, sine(440, 2.0, 16_000))


@pytest.fixture
def warnings_of(caplog):
    """`warnings_of()` -> all warnings so far, as one text."""
    return lambda: " ".join(caplog.messages)
