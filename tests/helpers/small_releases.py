"""Write one small release for each converter, in its layout, for damage.py.

`write_releases(folder)` -> name of the converter -> its release, below `folder`.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from tests.helpers.acted_speech import (
    copy_to,
    face_points,
    openface_rows,
    ravdess_name,
    write_iemocap,
    write_table,
    write_wave,
)
from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.release_files import (
    meld_row,
    mmsa,
    sims_row,
    write_clip,
    write_csv,
    write_json,
    write_pickle,
)
from training.converters import cherma, crema_d, iemocap, meld, mosei, processed, ravdess, sims
from training.converters import folder as folder_converter
from training.converters import mmsa as mmsa_converter


class SmallRelease(NamedTuple):
    """A release on disk.

    Args:
        converter: the module.
        source: relative to the folder of all releases.
        options: of the command.
    """

    converter: ModuleType
    source: str
    options: tuple[str, ...] = ()


def write_releases(folder: Path) -> dict[str, SmallRelease]:
    """Write all releases. Tables, pickles and lists have texts with letters outside of ASCII."""
    clip = write_clip(folder / "media/a.mp4")
    wave = write_wave(folder / "media/a.wav")
    writers: dict[str, Callable[[Path], SmallRelease]] = {
        "folder": functools.partial(write_own, clip=clip),
        "meld": functools.partial(write_meld, clip=clip),
        "sims": functools.partial(write_sims, clip=clip),
        "mosei": write_mosei,
        "cherma": write_cherma,
        "mmsa": write_mmsa,
        "processed": write_processed,
        "ravdess": functools.partial(write_ravdess, wave=wave),
        "crema_d": functools.partial(write_crema_d, wave=wave),
        "iemocap": functools.partial(write_conversations, wave=wave),
    }
    return {name: write(folder / name) for name, write in writers.items()}


def write_own(source: Path, clip: Path) -> SmallRelease:
    rows = []
    for number, label in enumerate(("joy", "anger", "neutral", "sadness", "joy", "fear")):
        row = {"id": f"r{number}", "split": "train" if number < 4 else "test", "text": f"wörd {number}"}
        row |= {
            "video": f"clips/{number}.mp4",
            "audio_features": f"{number}.npy",
            "answer": label,
            "rating_time": number,
        }
        rows.append(row)
        copy_to(clip, source / row["video"])
        np.save(source / row["audio_features"], np.random.default_rng(number).normal(size=(5, 4)).astype(np.float32))
    write_csv(source / "metadata.csv", rows)
    return SmallRelease(folder_converter, source.name)


def write_meld(source: Path, clip: Path) -> SmallRelease:
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    for split, parent in folders.items():
        emotions = ("neutral", "surprise", "joy", "anger")
        rows = [meld_row(i // 2, i % 2, emotion, f"It’s “{split} {i}” é.") for i, emotion in enumerate(emotions)]
        write_csv(source / f"{split}_sent_emo.csv", rows)
        for row in rows:
            copy_to(clip, source / parent / f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4")
    return SmallRelease(meld, source.name, ("--context_turns", "2"))


def write_sims(source: Path, clip: Path) -> SmallRelease:
    rows = []
    for number in range(8):
        mode = ("train", "train", "valid", "test")[number // 2]
        rows.append(
            sims_row(f"video_000{number // 2}", f"000{number}", f"{number / 5 - 0.8:.1f}", mode, f"好 {number}")
        )
        copy_to(clip, source / f"Raw/{rows[-1]['video_id']}/{rows[-1]['clip_id']}.mp4")
    write_csv(source / "meta.csv", rows)
    return SmallRelease(sims, source.name, ("--corpus", "sims_v2"))


def write_mosei(source: Path) -> SmallRelease:
    rows = []
    for number, mode in enumerate(("train", "valid", "test")):
        name = f"vid{number}"
        video = source / f"Videos/Full/Combined/{name}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, gray_frames(12, 16, 16), fps=6, audio=sine(200, 2, 16_000))
        lines = [f"{name}___{i}___{i}.0___{i + 1}.0___Segment “{i}” é\n" for i in range(2)]
        transcript = source / f"Transcript/Segmented/Combined/{name}.txt"
        transcript.parent.mkdir(parents=True, exist_ok=True)
        transcript.write_text("".join(lines), encoding="utf-8")
        for i in range(2):
            row = {"video_id": name, "clip_id": str(i), "text": f"table {number} {i}", "label": f"{i - 0.3333:.4f}"}
            rows.append(row | {"annotation": "Positive", "mode": mode})
    write_csv(source / "label.csv", rows)
    return SmallRelease(mosei, source.name)


def write_cherma(source: Path) -> SmallRelease:
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        entries = []
        for number, label in enumerate(("高兴", "悲伤", "平静")):
            name = f"{split}{number}"
            entry = {"audio_file": f"{name}.wav", "video_file": f"{name}.mp4", "txt_label": "平静"}
            entries.append(entry | {"audio_label": "愤怒", "visual_label": label, "video_label": label})
            for path, width in ((f"audio/{split}/{name}.npy", 6), (f"visual/{split}/{name}.mp4.npy", 5)):
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                np.save(source / path, rng.normal(size=(4, width)).astype(np.float32))
        write_json(source / f"{split}.json", entries)
    return SmallRelease(cherma, source.name)


def write_mmsa(source: Path) -> SmallRelease:
    write_pickle(source / "unaligned.pkl", mmsa(4, 3, 3))
    return SmallRelease(mmsa_converter, f"{source.name}/unaligned.pkl", ("--corpus", "mosei"))


def write_processed(source: Path) -> SmallRelease:
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        entries = []
        for number, label in enumerate(("joy", "anger", "fear")):
            features = {
                "text": f"say “{number}” é",
                "audio": rng.normal(size=(4, 6)),
                "video": rng.normal(size=(4, 5)),
            }
            entries.append({"label": label, "features": features | {"audio_len": 4, "video_len": 4}})
        write_pickle(source / f"meld_{split}.pkl", entries)
    return SmallRelease(processed, source.name, ("--corpus", "meld"))


def write_ravdess(source: Path, wave: Path) -> SmallRelease:
    for actor in (1, 2, 3):
        for emotion in (1, 3):
            name = ravdess_name(actor, emotion)
            copy_to(wave, source / f"Actor_{actor:02d}/{name}.wav")
            write_table(source / f"FacialTracking/{name[3:]}.csv", openface_rows(face_points()))
    return SmallRelease(ravdess, source.name)


def write_crema_d(source: Path, wave: Path) -> SmallRelease:
    names = [f"{actor}_{code}" for actor in (1001, 1002, 1003) for code in ("DFA_ANG_XX", "IEO_SAD_HI")]
    copy_to(wave, *[source / f"AudioWAV/{name}.wav" for name in names])
    people = [{"ActorID": actor, "Age": 50, "Sex": "Male", "Race": "x"} for actor in (1001, 1002, 1003)]
    write_csv(source / "VideoDemographics.csv", people)
    votes = []
    ratings = []
    for name in names:
        letter = name[9]
        votes.append({"": "1", "FileName": name, "VoiceVote": letter, "FaceVote": letter, "MultiModalVote": letter})
        rating = {"": "1", "localid": "7", "queryType": "1", "clipName": name, "respEmo": letter, "respLevel": "60"}
        ratings.append(rating)
    write_csv(source / "processedResults/summaryTable.csv", votes)
    write_csv(source / "finishedResponses.csv", ratings)
    return SmallRelease(crema_d, source.name, ("--label", "both"))


def write_conversations(source: Path, wave: Path) -> SmallRelease:
    labels = {f"Ses0{session}F_impro01": ["neu", "hap", "sad"] for session in (1, 2, 3)}
    write_iemocap(source, wave, labels)
    return SmallRelease(iemocap, source.name, ("--context_turns", "1"))


def copy_release(folder: Path, name: str, place: Path) -> Path:
    """Copy a release to damage it; returns the folder with its files."""
    return Path(shutil.copytree(folder / name, place / name))


def stored_rows(dest: Path) -> list[dict]:
    """Every row of a converted corpus, with its split; vectors as lists."""
    import pyarrow.parquet as pq

    rows = []
    for path in sorted(dest.glob("data/*.parquet")):
        split = path.name.rsplit("-", 3)[0]
        rows += [{"split": split, **row} for row in pq.read_table(path).to_pylist()]
    return rows


def stored_table(dest: Path) -> dict:
    """The conversion report of a converted corpus."""
    return json.loads((dest / "conversion.json").read_text(encoding="utf-8"))["table"]
