"""Clips: playable and broken ones, and the files of a release."""

import os

import pytest

from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from training.converters.core.clips import example_bytes, find_file, list_files, map_files, probe_clip, store_clip
from training.converters.core.conversion_report import ConversionReport


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
    for name in ("b/c/x.mp4", "a.csv", "b/._x.mp4", ".hidden/y.mp4", ".Trash/files/z.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in list_files(tmp_path)] == ["a.csv", "b/c/x.mp4"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        list_files(tmp_path / "absent")


def names_in(folder):
    return [str(path.relative_to(folder)) for path in list_files(folder)]


def test_linked_folders_are_read_once(tmp_path):
    """Clusters keep clips elsewhere; a link into itself or to a folder around it has no end."""
    source = tmp_path / "source"
    for folder in (source / "own", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "a.mp4").touch()
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "linked_again").symlink_to(tmp_path / "elsewhere")
    (source / "own/loop").symlink_to(source)
    (tmp_path / "elsewhere/around").symlink_to(tmp_path)
    assert names_in(source) == ["linked/a.mp4", "own/a.mp4"]


def test_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("clips"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="Permission denied: .*clips"):
        list_files(tmp_path)


def test_name_that_no_table_can_store_is_an_error(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    with pytest.raises(ValueError, match=r"caf.*\.mp4' is not UTF-8\. Rename it"):
        list_files(tmp_path)


def test_files_of_one_name_are_not_mixed_up(tmp_path):
    paths = [tmp_path / name for name in ("a/label.csv", "b/label.csv", "b/meta.csv")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("same")
    assert find_file(paths, ["meta.csv", "label.csv"], tmp_path) == paths[2]
    assert find_file(paths, ["label.csv"], tmp_path) == paths[0]
    paths[1].write_text("other")
    with pytest.raises(ValueError, match=r"several label\.csv with different content: .*a/label\.csv and .*b/label"):
        find_file(paths, ["label.csv"], tmp_path)
    report = ConversionReport()
    assert map_files(paths, lambda path: path.name, report) == {"label.csv": paths[0], "meta.csv": paths[2]}
    assert report.reasons["notes"] == {"second file of this name: ignored": ["b/label.csv"]}


@pytest.mark.parametrize("name", ["../../outside.mp4", "/outside.mp4", f"{'x' * 300}.mp4"])
def test_clip_is_stored_only_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="A clip cannot be named"):
        store_clip(name, b"clip", "paths", str(tmp_path / "dest"))
    assert list(tmp_path.iterdir()) == []


def test_size_of_clips_with_a_broken_link(tmp_path, clip):
    (tmp_path / "a.mp4").symlink_to("a.mp4")
    assert example_bytes([tmp_path / "a.mp4", clip], "embed") == 1000 + clip.stat().st_size // 2
