"""Conversion of raw CMU-MOSEI: clips cut out of long videos, quirks, and refused layouts."""

import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.release_files import reasons, write_csv
from training.converters import mosei


def mosei_row(video, clip, label="0.6666666865348816", mode="train", text="of the table"):
    return {
        "video_id": video,
        "clip_id": clip,
        "text": text,
        "label": label,
        "annotation": "Positive",
        "mode": mode,
    }


@pytest.fixture
def mosei_folder(tmp_path):
    """A 3 s video with a tone in its second second, and a video without a face."""
    source = tmp_path / "MOSEI"
    combined = source / "Videos/Full/Combined"
    combined.mkdir(parents=True)
    sound = np.concatenate([np.zeros(16_000), sine(440, 1, 16_000), np.zeros(16_000)]).astype(np.float32)
    for name in ("-3g5yACwYnA", "dark"):
        write_video(combined / f"{name}.mp4", gray_frames(75, 32, 48), fps=25, audio=sound)
    transcripts = source / "Transcript/Segmented/Combined"
    transcripts.mkdir(parents=True)
    (transcripts / "-3g5yACwYnA.txt").write_text(
        "-3g5yACwYnA___0___0.0___1.0___Key is “part”\n"
        "-3g5yACwYnA___1___1.0___2.0___of it___all\n"
        "-3g5yACwYnA___2___2.0\n"
        "-3g5yACwYnA___3___40.0___50.0___too late\n"
        "-3g5yACwYnA___4___2.0___3.0___nobody asked\n",
        encoding="utf-8",
    )
    (transcripts / "dark.txt").write_text("dark___0___1.0___2.0___unseen\n", encoding="utf-8")
    (transcripts / "gone.txt").write_text("gone___0___1.0___2.0___lost\n", encoding="utf-8")
    rows = [mosei_row("-3g5yACwYnA", "0"), mosei_row("-3g5yACwYnA", "1", "-3", "valid")]
    rows += [
        mosei_row("-3g5yACwYnA", "2"),
        mosei_row("-3g5yACwYnA", "3"),
        mosei_row("dark", "0", "0", "test"),
    ]
    write_csv(source / "label.csv", [*rows, mosei_row("gone", "0", mode="test"), mosei_row("dark", "0", "4")])
    return source


@pytest.mark.parametrize("media", ["paths", "embed"])
def test_mosei_clips_are_cut(tmp_path, convert, mosei_folder, media):
    (tmp_path / "faceless.txt").write_text("dark\n", encoding="utf-8")
    options = ("--media", media, "--no_face", str(tmp_path / "faceless.txt"))
    found, table = convert(mosei, mosei_folder, *options)
    rows = {row["id"]: row for part in found.values() for row in part}
    assert {split: len(part) for split, part in found.items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    row = rows["-3g5yACwYnA$_$1"]
    assert (row["text"], row["answer"], row["start_seconds"]) == ("of it___all", -3.0, 1.0)
    assert rows["-3g5yACwYnA$_$0"]["text"] == "Key is “part”"
    assert rows["-3g5yACwYnA$_$0"]["answer"] == pytest.approx(2 / 3, abs=1e-5)
    if media == "paths":
        assert row["video"] == "clips/-3g5yACwYnA___1.mp4"
    clip = tmp_path / "made/dest" / row["video"] if media == "paths" else row["video"]["bytes"]
    heard = load_audio(clip, target_sampling_rate=16_000)
    assert len(heard) == pytest.approx(16_000, abs=1600)
    assert np.abs(heard[1600:14_400]).mean() > 0.2
    frames = load_video(clip, num_frames=50)
    assert len(frames) == pytest.approx(25, abs=1)
    assert frames[0].mean() == pytest.approx(16 + 3 * 25, abs=4)
    dark = rows["dark$_$0"]
    assert dark["video"] is None
    sound = tmp_path / "made/dest" / dark["audio"] if media == "paths" else dark["audio"]["bytes"]
    assert len(load_audio(sound, target_sampling_rate=16_000)) == pytest.approx(16_000, abs=1600)
    assert reasons(table, "repaired") == {
        "segment after the end of its video: no clip, text kept": ["-3g5yACwYnA$_$3"],
        "no face in the video: only its audio used": ["dark$_$0"],
        "segment not in the transcripts: text from the table, no clip": ["-3g5yACwYnA$_$2"],
        "video missing: no clip, text kept": ["gone$_$0"],
    }
    assert rows["-3g5yACwYnA$_$2"]["text"] == "of the table"
    assert rows["gone$_$0"]["video"] is None
    assert reasons(table, "dropped") == {"score outside [-3, 3]": ["dark$_$0"]}
    assert reasons(table, "notes") == {
        "unreadable line in a transcript": ["-3g5yACwYnA.txt:3"],
        "segment without a label": ["-3g5yACwYnA$_$4"],
    }


def test_mosei_check_cuts_clips_without_writing(mosei_folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    mosei.main([str(mosei_folder), "--check", "--no_progress", "--num_workers", "1"])
    said = capsys.readouterr().out
    assert "segment after the end of its video" in said and "nothing was written" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_segments_of_every_defect_are_counted(convert, mosei_folder):
    path = mosei_folder / "Videos/Full/Combined/black.mp4"
    write_video(path, np.zeros((50, 32, 48, 3), np.uint8), fps=25, audio=sine(440, 2, 16_000))
    (mosei_folder / "Transcript/Segmented/Combined/black.txt").write_text(
        "black___0___-0.5___1.0___sp well sp I spoke sp\n"
        "black___1___1.0___9.0___too long\n"
        "black___2___1.5___1.0___backwards\n"
        "black___3___nan___1.0___no time\n",
        encoding="utf-8",
    )
    labels = ("3.3333332539", "-3.3333", "1", "2")
    write_csv(mosei_folder / "label.csv", [mosei_row("black", str(i), label) for i, label in enumerate(labels)])
    found, table = convert(mosei, mosei_folder, "--media", "embed")
    rows = {row["clip_id"]: row for row in found["train"]}
    assert (rows["0"]["answer"], rows["1"]["answer"], rows["0"]["text"]) == (3.0, -3.0, "well I spoke")
    assert rows["0"]["start_seconds"] == 0.0 and rows["0"]["video"] is None and rows["0"]["audio"] is not None
    assert reasons(table, "repaired") == {
        "clip with only black frames: only its audio used": ["black$_$0", "black$_$1"],
        "score slightly outside [-3, 3]: clamped": ["black$_$0", "black$_$1"],
        "segment not in the transcripts: text from the table, no clip": ["black$_$3"],
        "segment that does not end after its start: no clip, text kept": ["black$_$2"],
        "segment that ends after its video: clip cut off there": ["black$_$1"],
        "segment with a negative start: starts at 0": ["black$_$0"],
        "transcript with `sp` tokens for pauses: removed": ["black$_$0"],
    }


def test_mosei_bad_layout_is_refused(tmp_path, refuse, mosei_folder):
    for path in (mosei_folder / "Videos/Full/Combined").iterdir():
        path.unlink()
    assert "has no Videos/Full/Combined/*.mp4" in refuse(mosei, mosei_folder)
    write_csv(mosei_folder / "label.csv", [{"video_id": "a", "clip_id": "0", "text": "b", "label": "1"}])
    assert "label.csv has no column mode" in refuse(mosei, mosei_folder, "--media", "none")
    (mosei_folder / "label.csv").unlink()
    assert "has no label.csv" in refuse(mosei, mosei_folder)


def test_transcripts_as_tools_and_people_write_them(convert, mosei_folder):
    """Two lines of one segment, a video id with the separator in it, another video's line, old encodings, ids."""
    lines = {
        "twice": b"twice___0___0.0___1.0___first\ntwice___0___2.0___3.0___second\n",
        "a___b": b"a___b___0___0.0___1.0___under\n",
        "moved": b"other___0___0.0___1.0___of another video\n",
        "breaks": "breaks___0___0.0___1.0___one\u2028two\x0cthree\nbreaks___1___1___2___next\n".encode(),
        "windows": "windows___0___0.0___1.0___I\u2019m in a caf\xe9\r\n".encode("cp1252"),
        "wide": "wide___0___0.0___1.0___wide\r\n".encode("utf-16"),
        "zeros": b"zeros___00___0.0___1.0___padded\nzeros___1___1___2___one\n",
        "cut": b"cut___0___0.0___1.0___\xff\xfe\x81\n",
    }
    transcripts = mosei_folder / "Transcript/Segmented/Combined"
    for name, content in lines.items():
        (transcripts / f"{name}.txt").write_bytes(content)
    rows = [mosei_row(name, "0") for name in lines] + [mosei_row("breaks", "1"), mosei_row("zeros", "1.0")]
    write_csv(mosei_folder / "label.csv", rows)
    found, table = convert(mosei, mosei_folder, "--media", "none")
    assert {row["id"]: row["text"] for row in found["train"]} == {
        "twice$_$0": "first",
        "a___b$_$0": "under",
        "moved$_$0": "of the table",
        "breaks$_$0": "one\u2028two three",
        "breaks$_$1": "next",
        "windows$_$0": "I\u2019m in a caf\xe9",
        "wide$_$0": "wide",
        "zeros$_$0": "padded",
        "zeros$_$1.0": "one",
        "cut$_$0": "of the table",
    }
    notes = reasons(table, "notes")
    assert notes["repeated segment in a transcript: the first kept"] == ["twice.txt:2"]
    assert notes["unreadable line in a transcript"] == ["moved.txt:1"]
    assert notes["unreadable transcript"] == ["cut.txt"]


def test_names_and_times_that_cannot_be(tmp_path, convert, refuse, mosei_folder):
    """An id with folders in it must not write outside of DEST; float32 does not hold 1e300 seconds."""
    name = "-3g5yACwYnA"
    transcripts = mosei_folder / "Transcript/Segmented/Combined"
    lines = f"{name}___x/../../../../escaped___0.0___1.0___out\n{name}___1___0.0___1e300___long\n"
    (transcripts / f"{name}.txt").write_text(lines, encoding="utf-8")
    rows = [mosei_row(name, "x/../../../../escaped"), mosei_row(name, "1")]
    write_csv(mosei_folder / "label.csv", rows)
    (tmp_path / "faceless.txt").write_bytes("dark\r\nnobody\r\n".encode("utf-8-sig"))
    found, table = convert(mosei, mosei_folder, "--no_face", str(tmp_path / "faceless.txt"))
    assert not list(tmp_path.rglob("escaped*"))
    assert [(row["text"], row["video"]) for row in found["train"]] == [("out", None), ("of the table", None)]
    assert reasons(table, "repaired") == {
        "id that cannot be the name of a file: no clip, text kept": [rows[0]["video_id"] + "$_$" + rows[0]["clip_id"]],
        "segment not in the transcripts: text from the table, no clip": [f"{name}$_$1"],
    }
    assert reasons(table, "notes") == {
        "unreadable line in a transcript": [f"{name}.txt:2"],
        "video in --no_face that SOURCE does not have": ["nobody"],
    }
    (tmp_path / "faceless.txt").write_bytes(b"\xff\xfe\x81")
    assert "faceless.txt begins as UTF-16" in refuse(mosei, mosei_folder, "--no_face", str(tmp_path / "faceless.txt"))
