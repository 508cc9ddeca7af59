"""Clips: playable and broken ones, and the files of a release."""

import pytest

from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from training.converters.core.clips import list_files, probe_clip


def test_clip_is_probed(clip, tmp_path):
    found = probe_clip(clip)
    assert found.seconds == pytest.approx(0.24, abs=0.1)
    assert found.has_audio and found.has_video
    assert not probe_clip(write_audio(tmp_path / "a.wav", sine(200, 0.5, 16_000), 16_000)).has_video


def test_broken_clips_are_reported(clip, tmp_path):
    whole = clip.read_bytes()
    front = write_video(
        tmp_path / "front.mp4",
        gray_frames(60, 64, 64),
        audio=sine(200, 4, 16_000),
        options={"movflags": "faststart"},
    ).read_bytes()
    for number, content in enumerate((b"", b"no film", whole[: len(whole) // 2], front[: len(front) // 2])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="."):
            probe_clip(path)


def test_playlist_is_not_a_clip(clip, tmp_path):
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n")
    with pytest.raises(ValueError, match="."):
        probe_clip(tmp_path / "a.mp4")


def test_list_files(tmp_path):
    for name in ("b/c/x.mp4", "a.csv", "b/._x.mp4", ".hidden/y.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in list_files(tmp_path)] == ["a.csv", "b/c/x.mp4"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        list_files(tmp_path / "absent")
