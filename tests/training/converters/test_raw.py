"""Converters of raw releases: SIMS, MELD, MOSEI, and a folder of one's own, with real mp4 files."""

import json
import os

import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from tests.helpers.release_files import (
    meld_row,
    read_back,
    reasons,
    sims_row,
    table_of,
    write_clip,
    write_csv,
)
from training.converters import folder, meld, mosei, sims


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """A clip of 31 s."""
    return write_video(tmp_path_factory.mktemp("clip") / "long.mp4", gray_frames(31, 16, 16), fps=1)


@pytest.fixture
def convert(tmp_path):
    """`convert(module, source, *options)` -> split -> rows, and the stored table."""

    def run(module, source, *options):
        dest = tmp_path / "made/dest"
        module.main([str(source), str(dest), "--no_progress", "--num_workers", "1", *options])
        return read_back(dest, tmp_path / "cache"), table_of(dest)

    return run


@pytest.fixture
def refuse(tmp_path, capsys):
    """`refuse(module, source, *options)` -> the message with which a conversion ends; nothing is left behind."""

    def run(module, source, *options):
        with pytest.raises(SystemExit) as stopped:
            module.main([str(source), str(tmp_path / "dest"), "--no_progress", "--num_workers", "1", *options])
        assert stopped.value.code == 2
        assert not (tmp_path / "dest").exists()
        return capsys.readouterr().err

    return run


# ---- SIMS ----------------------------------------------------------------------------------------------------


def write_sims(folder_, clip, rows, table="meta.csv", missing=()):
    write_csv(folder_ / table, rows)
    for row in rows:
        if (row["video_id"], row["clip_id"]) not in missing:
            write_clip(folder_ / f"Raw/{row['video_id']}/{row['clip_id']}.mp4", clip)
    return folder_


SIMS = [
    sims_row("video_0001", "0001", "-1.0", "train", "我不想“嫁”给李茶"),
    sims_row("video_0001", "0002", "0.4", "valid"),
    sims_row("00020", "0003", "-0.1", "test"),
    sims_row("00020", "0010", "0.0", "train"),
]


@pytest.mark.parametrize(("corpus", "table"), [("sims", "label.csv"), ("sims_v2", "meta.csv")])
def test_sims_rows(tmp_path, convert, clip, corpus, table):
    source = write_sims(tmp_path / "SIMS", clip, SIMS, table)
    found, stored = convert(sims, source, "--corpus", corpus)
    assert {split: [row["id"] for row in rows] for split, rows in found.items()} == {
        "train": ["video_0001$_$0001", "00020$_$0010"],
        "validation": ["video_0001$_$0002"],
        "test": ["00020$_$0003"],
    }
    row = found["train"][0]
    assert (row["video_id"], row["clip_id"], row["text"]) == ("video_0001", "0001", "我不想“嫁”给李茶")
    assert (row["answer"], row["task"], row["annotation"]) == (-1.0, "sims_v2", "Positive")
    assert [row[name] for name in ("label_text", "label_audio", "label_video")] == [pytest.approx(0.4), None, -1]
    assert row["video"] == "../../SIMS/Raw/video_0001/0001.mp4"
    assert (tmp_path / "made/dest" / row["video"]).is_file()
    assert found["test"][0]["answer"] == -0.2
    assert list(stored["repaired"]) == ["score between the steps of 0.2: moved to the nearest"]
    assert (tmp_path / "made/dest/splits/video_disjoint.json").is_file()


def test_sims_quirks(tmp_path, convert, clip):
    rows = [*SIMS, sims_row("v", "0001", "2"), sims_row("v", "0002", mode="extra"), sims_row("w", "0001", text=" ")]
    source = write_sims(tmp_path / "SIMS", clip, rows, missing={("video_0001", "0001"), ("w", "0001")})
    (source / "Raw/video_0001/0002.mp4").write_bytes(clip.read_bytes()[:900])
    write_clip(source / "Raw/x/0009.mp4", clip)
    write_clip(source / "Raw/00020/._0010.mp4", clip)
    eaten = [dict(row, clip_id=row["clip_id"].lstrip("0")) for row in rows]
    eaten[2]["video_id"] = "20"
    write_csv(source / "meta.csv", eaten)
    found, table = convert(sims, source, "--corpus", "sims_v2")
    assert [row["id"] for row in found["train"]] == ["video_0001$_$1", "00020$_$0010"]
    assert [row["video"] for row in found["train"]] == [None, "../../SIMS/Raw/00020/0010.mp4"]
    assert found["validation"][0]["video"] is None
    assert found["test"][0]["id"] == "00020$_$0003"
    assert reasons(table, "repaired") == {
        "clip cannot be read: left out, words kept": ["video_0001$_$0002"],
        "clip missing: left out, words kept": ["video_0001$_$1", "w$_$1"],
        "leading zeros of the ids taken from the clip's name": [
            "video_0001$_$0002", "00020$_$0003", "00020$_$0010", "v$_$0001", "v$_$0002",
        ],
        "score between the steps of 0.2: moved to the nearest": ["00020$_$0003"],
    }  # fmt: skip
    assert reasons(table, "dropped") == {
        "neither words nor a clip": ["w$_$1"],
        "score outside [-1, 1]": ["v$_$0001"],
        "unknown mode 'extra'": ["v$_$0002"],
    }
    assert reasons(table, "noted") == {
        "clip without a label": ["x$_$0009"],
        "too few videos: nothing in this split of video_disjoint": ["test"],
    }


def test_zeros_are_not_guessed_where_two_clips_fit(tmp_path, convert, clip):
    source = write_sims(tmp_path / "SIMS", clip, [sims_row("v", "01"), sims_row("v", "001"), sims_row("v", "1")])
    found, table = convert(sims, source, "--corpus", "sims")
    assert [row["video"][-8:] for row in found["train"]] == ["v/01.mp4", "/001.mp4", "/v/1.mp4"]
    assert table["repaired"] == {}
    (source / "Raw/v/1.mp4").unlink()
    found, table = convert(sims, source, "--corpus", "sims", "--overwrite")
    assert reasons(table, "repaired") == {"clip missing: left out, words kept": ["v$_$1"]}


def test_clips_are_embedded(tmp_path, convert, clip):
    source = write_sims(tmp_path / "SIMS", clip, SIMS)
    found = convert(sims, source, "--corpus", "sims_v2", "--media", "embed")[0]
    assert found["train"][0]["video"] == {"path": "0001.mp4", "bytes": clip.read_bytes()}


def test_words_alone_need_no_clips(tmp_path, convert, refuse, clip):
    write_csv(tmp_path / "SIMS/meta.csv", SIMS)
    assert "holds no mp4 files. Take --media none" in refuse(sims, tmp_path / "SIMS", "--corpus", "sims_v2")
    found, table = convert(sims, tmp_path / "SIMS", "--corpus", "sims_v2", "--media", "none")
    assert "video" not in found["train"][0]
    assert "clip missing: left out, words kept" not in table["repaired"]


def test_sims_bad_layout_is_refused(tmp_path, refuse, clip):
    source = write_sims(tmp_path / "SIMS", clip, SIMS)
    rows = [{name: value for name, value in row.items() if name != "mode"} for row in SIMS]
    write_csv(source / "meta.csv", rows)
    assert "meta.csv has no column mode" in refuse(sims, source, "--corpus", "sims_v2")
    (source / "meta.csv").unlink()
    assert "holds no meta.csv or label.csv" in refuse(sims, source, "--corpus", "sims_v2")
    assert "no folder" in refuse(sims, tmp_path / "absent", "--corpus", "sims_v2")


# ---- MELD ----------------------------------------------------------------------------------------------------

FOLDERS = {"train": "train/train_splits", "dev": "dev_splits_complete", "test": "test/output_repeated_splits_test"}


def write_meld(source, clip, tables, missing=()):
    for split, rows in tables.items():
        write_csv(source / f"{split}_sent_emo.csv", rows)
        for row in rows:
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if (split, name) not in missing:
                write_clip(source / FOLDERS[split] / f"{name}.mp4", clip)
    return source


@pytest.fixture
def meld_tables():
    return {
        "train": [
            meld_row(0, 0, "neutral", "“You’re” late…", Speaker="Ann"),
            meld_row(0, 1, "surprise", "Am I?", Speaker="Bob"),
            meld_row(0, 3, "joy", "Yes — you are.", Speaker="Ann"),
            meld_row(2, 0, "anger"),
        ],
        "dev": [meld_row(0, 0, "fear"), meld_row(0, 1, "sadness")],
        "test": [meld_row(0, 0, "disgust", StartTime="0:00:01,5", EndTime="0:00:02.25")],
    }


def test_meld_rows(tmp_path, convert, clip, meld_tables):
    meld_tables["train"].reverse()  # the order of the dialogue is restored
    source = write_meld(tmp_path / "MELD.Raw", clip, meld_tables)
    found, table = convert(meld, source, "--context_turns", "2")
    assert {split: [(row["id"], row["answer"]) for row in rows] for split, rows in found.items()} == {
        "train": [
            ("train_dia0_utt0", "neutral"), ("train_dia0_utt1", "surprise"), ("train_dia0_utt3", "joy"),
            ("train_dia2_utt0", "anger"),
        ],
        "validation": [("dev_dia0_utt0", "fear"), ("dev_dia0_utt1", "sadness")],
        "test": [("test_dia0_utt0", "disgust")],
    }  # fmt: skip
    row = found["train"][2]
    assert (row["dialogue"], row["turn"], row["speaker"]) == ("train_dia0", 3, "Ann")
    assert row["context"] == [["Ann", "“You’re” late…"], ["Bob", "Am I?"]]
    assert found["train"][0]["context"] == found["train"][3]["context"] == []
    assert (row["text"], row["sentiment"], row["season"], row["episode"]) == ("Yes — you are.", "positive", "8", "21")
    assert (row["start_seconds"], row["end_seconds"]) == (pytest.approx(976.059), pytest.approx(981.731))
    assert (found["test"][0]["start_seconds"], found["test"][0]["end_seconds"]) == (1.5, 2.25)
    assert row["video"] == "../../MELD.Raw/train/train_splits/dia0_utt3.mp4"
    assert found["validation"][0]["video"] == "../../MELD.Raw/dev_splits_complete/dia0_utt0.mp4"
    assert table["repaired"] == table["dropped"] == {}
    assert reasons(table, "noted") == {
        "number of a dialogue that is not there": ["train_dia1"],
        "number of an utterance that is not there": ["train_dia0_utt2"],
    }


def test_meld_quirks(tmp_path, convert, clip, long_clip, meld_tables):
    """The broken, missing, long and unlabeled clips of the release, and the row without a duration."""
    meld_tables["train"] += [meld_row(125, 3, "anger"), meld_row(309, 0), meld_row(310, 0, "happiness")]
    meld_tables["dev"] += [meld_row(110, 7)]
    meld_tables["test"] += [meld_row(38, 4), meld_row(220, 0), meld_row(155, 3, EndTime="00:16:16,059")]
    meld_tables["test"] += [meld_row(156, 0, StartTime="later"), meld_row(156, 0, "fear"), meld_row(157, 0, text=" ")]
    source = write_meld(tmp_path / "MELD", clip, meld_tables, {("dev", "dia110_utt7"), ("test", "dia157_utt0")})
    train, dev, test = (source / FOLDERS[split] for split in ("train", "dev", "test"))
    (train / "dia125_utt3.mp4").write_bytes(clip.read_bytes()[:700])
    for path in (train / "dia309_utt0.mp4", test / "dia38_utt4.mp4", test / "dia220_utt0.mp4"):
        write_clip(path, long_clip)
    for path in (dev / "dia66_utt9.mp4", test / "dia108_utt2.mp4", test / "final_videos_testdia1_utt1.mp4"):
        write_clip(path, clip)
    write_clip(test / "._dia0_utt0.mp4", clip)
    found, table = convert(meld, source)
    assert reasons(table, "repaired") == {
        "clip cannot be read: left out, words kept": ["train_dia125_utt3"],
        "clip longer than 30 s, cut wrongly: left out, words kept": [
            "train_dia309_utt0", "test_dia38_utt4", "test_dia220_utt0",
        ],
        "clip missing: left out, words kept": ["dev_dia110_utt7", "test_dia157_utt0"],
        "no time between start and end: times left out": ["test_dia155_utt3"],
        "times cannot be read: left out": ["test_dia156_utt0"],
    }  # fmt: skip
    assert reasons(table, "dropped") == {
        "id is there twice: the first row kept": ["test_dia156_utt0"],
        "neither words nor a clip": ["test_dia157_utt0"],
        "unknown label 'happiness'": ["train_dia310_utt0"],
    }
    assert reasons(table, "noted")["clip without a label"] == [
        "dev_dia66_utt9", "test_dia108_utt2", "test_final_videos_testdia1_utt1",
    ]  # fmt: skip
    assert table["rows"] == {
        "train": {"read": 7, "kept": 6, "repaired": 2, "dropped": 1},
        "validation": {"read": 3, "kept": 3, "repaired": 1, "dropped": 0},
        "test": {"read": 7, "kept": 5, "repaired": 4, "dropped": 2},
    }
    rows = {row["id"]: row for part in found.values() for row in part}
    without = {name for name, row in rows.items() if row["video"] is None}
    assert without == {
        "train_dia125_utt3", "train_dia309_utt0", "dev_dia110_utt7", "test_dia38_utt4", "test_dia220_utt0",
    }  # fmt: skip
    assert rows["train_dia125_utt3"]["text"] == "Hi."
    assert rows["test_dia155_utt3"]["start_seconds"] is None
    assert rows["test_dia155_utt3"]["video"].endswith("dia155_utt3.mp4")


def test_meld_some_splits_without_clips(tmp_path, convert, refuse, meld_tables):
    write_csv(tmp_path / "MELD/dev_sent_emo.csv", meld_tables["dev"])
    assert "holds no train_sent_emo.csv" in refuse(meld, tmp_path / "MELD")
    said = refuse(meld, tmp_path / "MELD", "--splits", "validation")
    assert "holds no clips of split validation (dev_splits_complete/dia0_utt0.mp4" in said
    found, _ = convert(meld, tmp_path / "MELD", "--splits", "validation", "--media", "none")
    assert list(found) == ["validation"]


def test_meld_bad_table_is_refused(tmp_path, refuse, meld_tables):
    options = ("--splits", "train", "--media", "none")
    path = tmp_path / "MELD/train_sent_emo.csv"
    write_csv(path, [dict(meld_tables["train"][0], Utterance_ID="x")])
    assert "row 2: Dialogue_ID and Utterance_ID are no numbers" in refuse(meld, tmp_path / "MELD", *options)
    write_csv(path, [{"Utterance": "Hi.", "Emotion": "joy"}])
    assert "has no column Speaker, Sentiment, Dialogue_ID" in refuse(meld, tmp_path / "MELD", *options)


# ---- MOSEI ---------------------------------------------------------------------------------------------------


def mosei_row(video, clip, label="0.6666666865348816", mode="train", text="of the table"):
    return {"video_id": video, "clip_id": clip, "text": text, "label": label, "annotation": "Positive", "mode": mode}


@pytest.fixture
def mosei_folder(tmp_path):
    """A video of 3 s of which the second one sounds, and one that has no face."""
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
    rows += [mosei_row("-3g5yACwYnA", "2"), mosei_row("-3g5yACwYnA", "3"), mosei_row("dark", "0", "0", "test")]
    write_csv(source / "label.csv", [*rows, mosei_row("gone", "0", mode="test"), mosei_row("dark", "0", "4")])
    return source


@pytest.mark.parametrize("media", ["paths", "embed"])
def test_mosei_clips_are_cut(tmp_path, convert, mosei_folder, media):
    (tmp_path / "faceless.txt").write_text("dark\n", encoding="utf-8")
    options = ("--media", media, "--no_face", str(tmp_path / "faceless.txt"))
    found, table = convert(mosei, mosei_folder, *options)
    rows = {row["id"]: row for part in found.values() for row in part}
    assert {split: len(part) for split, part in found.items()} == {"train": 3, "validation": 1, "test": 2}
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
        "clip cannot be cut: left out, words kept": ["-3g5yACwYnA$_$3"],
        "no face in the video: sound alone": ["dark$_$0"],
        "segment not in the transcripts: words of the table, no clip": ["-3g5yACwYnA$_$2"],
        "video missing: no clip, words kept": ["gone$_$0"],
    }
    assert rows["-3g5yACwYnA$_$2"]["text"] == "of the table"
    assert rows["gone$_$0"]["video"] is None
    assert reasons(table, "dropped") == {"score outside [-3, 3]": ["dark$_$0"]}
    assert reasons(table, "noted") == {
        "line of a transcript that cannot be read": ["-3g5yACwYnA.txt:3"],
        "segment without a label": ["-3g5yACwYnA$_$4"],
    }


def test_mosei_check_cuts_without_writing(mosei_folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    mosei.main([str(mosei_folder), "--check", "--no_progress", "--num_workers", "1"])
    said = capsys.readouterr().out
    assert "clip cannot be cut" in said and "nothing was written" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_mosei_bad_layout_is_refused(tmp_path, refuse, mosei_folder):
    for path in (mosei_folder / "Videos/Full/Combined").iterdir():
        path.unlink()
    assert "holds no Videos/Full/Combined/*.mp4" in refuse(mosei, mosei_folder)
    write_csv(mosei_folder / "label.csv", [{"video_id": "a", "clip_id": "0", "text": "b", "label": "1"}])
    assert "label.csv has no column mode" in refuse(mosei, mosei_folder, "--media", "none")
    (mosei_folder / "label.csv").unlink()
    assert "holds no label.csv" in refuse(mosei, mosei_folder)


# ---- a folder of one's own -----------------------------------------------------------------------------------

TASKS = """mood:
  kind: classification
  labels: [calm, glad]
  prompt: "\\nThe mood is"
"""


@pytest.fixture
def own(tmp_path, clip):
    """A folder with media; `own(rows)` writes its metadata."""
    source = tmp_path / "mine"
    write_clip(source / "clips/a.mp4", clip)
    write_audio(source / "b.wav", sine(200, 0.2, 16_000), 16_000)
    np.save(source / "a.npy", np.ones((3, 4), np.float32))
    np.save(source / "b.npy", np.ones((3, 7), np.float32))
    np.save(source / "zero.npy", np.zeros((3, 4), np.float32))
    (tmp_path / "tasks.yaml").write_text(TASKS, encoding="utf-8")

    def write(rows):
        (source / "metadata.jsonl").write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
        )
        return source

    return write


def test_own_rows(tmp_path, convert, own):
    source = own(
        [
            {"id": "007", "split": "train", "task": "mood", "text": "“Not again”", "video": "clips/a.mp4",
             "answer": "calm", "context": [["Ann", "Hi."], "Well"], "speaker": "x", "age": 3, "tags": ["a"]},
            {"id": "b", "split": "dev", "task": "mood", "audio": "b.wav", "audio_features": "a.npy",
             "answer": "glad", "age": 4.5, "tags": {"k": 1}},
        ]
    )  # fmt: skip
    found, table = convert(folder, source, "--tasks_file", str(tmp_path / "tasks.yaml"))
    first, second = found["train"][0], found["validation"][0]
    assert first["context"] == [["Ann", "Hi."], ["", "Well"]]
    assert (first["id"], first["text"], first["answer"], first["task"]) == ("007", "“Not again”", "calm", "mood")
    assert (first["speaker"], first["age"], first["tags"]) == ("x", 3.0, '["a"]')
    assert second["tags"] == '{"k": 1}' and second["speaker"] is None
    assert first["video"] == "../../mine/clips/a.mp4"
    assert second["audio"] == "../../mine/b.wav" and second["text"] is None
    assert second["audio_features"] == [[1.0] * 4] * 3 and first["audio_features"] is None
    assert table["repaired"] == table["dropped"] == table["noted"] == {}


def test_own_csv_with_scores(tmp_path, convert, own):
    source = own([])
    (source / "metadata.jsonl").unlink()
    (source / "metadata.csv").write_text(
        "id,split,task,text,video_features,answer\n0001,train,mosei,Hi,,0.5\n2,test,mosei,,a.npy,-3\n3,train,mosei,x,,4\n",
        encoding="utf-8",
    )
    found, table = convert(folder, source)
    assert [(row["id"], row["answer"]) for row in found["train"]] == [("0001", 0.5)]
    assert found["test"][0]["answer"] == -3.0
    assert reasons(table, "dropped") == {"score outside [-3, 3]": ["3"]}


def test_own_videos_make_a_second_manifest(tmp_path, convert, own):
    rows = [{"text": "a", "answer": "joy", "split": ("train", "test")[i % 2], "video_id": i // 4} for i in range(16)]
    convert(folder, own(rows))
    splits = json.loads((tmp_path / "made/dest/splits/video_disjoint.json").read_text(encoding="utf-8"))["splits"]
    assert sorted(map(int, splits["train"] + splits["test"])) == list(range(16))
    assert not {int(name) // 4 for name in splits["train"]} & {int(name) // 4 for name in splits["test"]}
    assert len(splits["train"]) == 8
    convert(folder, own([*rows, {"text": "a", "answer": "joy"}]), "--overwrite")
    assert not (tmp_path / "made/dest/splits/video_disjoint.json").exists()


def test_own_files_that_changed_are_noticed(tmp_path, convert, own, capsys):
    source = own([{"text": "a", "answer": "joy", "video": "clips/a.mp4", "audio_features": "late.npy"}])
    assert "audio features missing: left out" in convert(folder, source)[1]["repaired"]
    for path, mend in (
        (source / "clips/a.mp4", lambda path: os.utime(path, ns=(1, 1))),
        (source / "late.npy", lambda path: np.save(path, np.ones((3, 4)))),
    ):
        convert(folder, source)
        assert "holds this very conversion already" in capsys.readouterr().out
        mend(path)
        with pytest.raises(SystemExit):
            convert(folder, source)
        assert "from other files or with other options" in capsys.readouterr().err
        _, table = convert(folder, source, "--overwrite")
    assert table["repaired"] == {}


def test_own_tasks_of_both_kinds(convert, own):
    found, _ = convert(folder, own([{"text": "a", "answer": "joy"}, {"text": "b", "task": "mosei", "answer": -1}]))
    assert [(row["id"], row["answer"]) for row in found["train"]] == [("0", "joy"), ("1", "-1.0")]


def test_own_quirks(convert, own):
    source = own(
        [
            {"id": "a", "answer": "joy", "video": "clips/no.mp4", "text": "a"},
            {"id": "b", "answer": "joy", "audio_features": "a.npy"},
            {"id": "b", "answer": "joy", "text": "again"},
            {"id": "c", "answer": "joy", "audio_features": "b.npy", "text": "c"},
            {"id": "d", "answer": "joy", "audio_features": "zero.npy"},
            {"id": "e", "answer": "glee", "text": "e"},
            {"id": "f", "text": "f"},
            {"id": "g", "split": "test", "answer": "joy", "text": "g", "context": "no list"},
            {"id": "g", "split": "train", "answer": "joy", "text": "g"},
            {"id": "h", "answer": "joy", "audio_features": [[1, 2, 3, 4]]},
            {"id": "i", "answer": "joy", "text": "i", "video_features": 3},
        ]
    )
    found, table = convert(folder, source)
    assert [row["id"] for row in found["train"]] == ["a", "b", "c", "h", "i"]
    assert reasons(table, "repaired") == {
        "audio features are all padding: left out": ["d"],
        "audio features of another width than 4: left out": ["c"],
        "clip missing: left out, words kept": ["a"],
        "context is no list of turns: left out": ["g"],
        "video features are no sequence of vectors: left out": ["i"],
    }
    assert reasons(table, "dropped") == {
        "also in split test: left out of train": ["g"],
        "id is there twice: the first row kept": ["b"],
        "neither words nor anything to hear or see": ["d"],
        "no answer": ["f"],
        "unknown label 'glee'": ["e"],
    }
    assert reasons(table, "noted") == {"no split: put into train": ["a", "b", "b", "c", "d", "e", "f", "h", "i"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a"}], "has no column answer"),
        ([{"answer": "joy", "vidoe": "a.mp4"}], "unknown column 'vidoe'. Did you mean 'video'?"),
        ([{"answer": "joy", "task": "mood"}], "unknown task 'mood'. Known are emotion"),
        ([{"answer": "joy", "split": "../x"}], "has the split '../x'; use letters"),
        ([{"answer": "joy", "video": 5}], "Row '0': video is 5; it must be the path of a file"),
        ([{"answer": "joy", "task": ["emotion"]}], "unknown task ['emotion']"),
        ([3], "line 1: a row is an object"),
    ],
)
def test_own_bad_metadata_is_refused(refuse, own, rows, message):
    assert message in refuse(folder, own(rows))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_own_metadata_in_another_encoding(tmp_path, refuse, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes('id,answer,text\na,joy,"It’s"\n'.encode("cp1252"))
    assert f"{name} is not UTF-8" in refuse(folder, tmp_path / "mine")


def test_own_folder_without_metadata(tmp_path, refuse):
    assert "holds neither metadata.jsonl nor metadata.csv" in refuse(folder, tmp_path)


def test_paths_hold_from_wherever_the_converter_is_called(tmp_path, own, monkeypatch):
    own([{"answer": "joy", "video": "clips/a.mp4"}])
    monkeypatch.chdir(tmp_path)
    folder.main(["mine", "x/y", "--no_progress", "--num_workers", "1"])
    row = read_back(tmp_path / "x/y", tmp_path / "cache")["train"][0]
    assert row["video"] == os.path.join("..", "..", "mine", "clips", "a.mp4")
    assert (tmp_path / "x/y" / row["video"]).is_file()
