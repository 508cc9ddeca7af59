"""What converters share: repairs of sequences, splits, tables of labels, the report, and clips."""

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS
from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from tests.helpers.release_files import write_clip
from training.converters.core.arrays import LIMIT, common_width, load_npy, npy_width, repair_sequence
from training.converters.core.clips import cut, files_below, probe
from training.converters.core.conversion_report import ConversionReport
from training.converters.core.labels import check_answer, clean_text
from training.converters.core.splits import unique_rows, video_disjoint


def sequence(steps=6, padding=3, width=4, seed=0):
    """(steps + padding, width) with zeros at its end."""
    values = np.random.default_rng(seed).normal(size=(steps, width))
    return np.concatenate([values, np.zeros((padding, width))])


def repair(values, length=None, **options):
    """The repaired sequence, and reason -> rows."""
    report = ConversionReport()
    found = repair_sequence(values, length, "r", "audio", report, **options)
    return found, {reason: (names, report.values[reason]) for reason, names in report.reasons["repaired"].items()}


@pytest.mark.parametrize("length", [None, 6])
def test_padding_goes_and_nothing_else(length):
    found, done = repair(sequence(), length)
    assert found.dtype == np.float32
    assert np.array_equal(found, sequence()[:6].astype(np.float32))
    assert done == {}


def test_stated_zeros_stay():
    """A length beyond the last vector that is not zero is believed."""
    found, done = repair(sequence(), 8)
    assert found.shape == (8, 4)
    assert done == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_becomes_zero(value):
    values = sequence()
    values[1, 2] = values[3, 0] = value
    found, done = repair(values, 6)
    assert found[1, 2] == found[3, 0] == 0
    assert np.count_nonzero(found) == 22
    assert done == {"audio features NaN or infinite: set to 0": (["r"], 2)}


def test_infinity_at_the_end_is_no_padding():
    values = sequence()
    values[5] = -np.inf
    assert repair(values)[0].shape == (6, 4)


@pytest.mark.parametrize("length", [1, 3])
def test_length_cut_at_a_zero_vector_is_put_right(length):
    values = sequence()
    values[length] = 0  # the first whose sum is 0
    found, done = repair(values, length)
    assert np.array_equal(found, values[:6].astype(np.float32))
    assert list(done) == ["audio features cut at a zero vector by their stated length: length put right"]


def test_first_vector_zero_is_no_padding_where_a_length_says_so():
    values = sequence()
    values[0] = 0
    found, done = repair(values, 6)
    assert found.shape == (6, 4)
    assert done == {}


@pytest.mark.parametrize("length", [None, 0, 1])
def test_padding_in_front_goes(length):
    values = sequence()[::-1]
    found, done = repair(values, length)
    assert np.array_equal(found, values[3:].astype(np.float32))
    assert list(done) == ["audio features padded in front: zeros removed"]


def test_length_beyond_the_array():
    found, done = repair(sequence(), 20)
    assert found.shape == (9, 4)
    assert list(done) == ["audio features shorter than their stated length: the array's own taken"]


@pytest.mark.parametrize("values", [np.zeros((5, 4)), np.full((5, 4), np.nan), np.zeros((0, 4)), []])
@pytest.mark.parametrize("length", [None, 1])
def test_all_padding_is_left_out(values, length):
    found, done = repair(values, length, width=4)
    assert found is None
    assert "audio features are all padding: left out" in done


def test_what_overflows_half_precision_is_clipped():
    values = sequence()
    values[0, :3] = 3e5, -7e4, 9999
    found, done = repair(values, 6)
    assert found[0, :3].tolist() == [LIMIT, -LIMIT, 9999]
    assert np.isfinite(found.astype(np.float16)).all()
    assert done == {"audio features beyond 10000: clipped": (["r"], 2)}


def test_other_width_is_left_out():
    found, done = repair(sequence(width=3), width=4)
    assert found is None
    assert list(done) == ["audio features of another width than 4: left out"]
    assert repair(np.zeros((2, 2, 4)), width=4)[0] is None


@pytest.mark.parametrize("values", [[["a"]], [[1, 2], [3]], {"a": 1}])
def test_what_is_no_numbers_is_left_out(values):
    found, done = repair(values)
    assert found is None
    assert list(done) == ["audio features are no numbers: left out"]


def test_single_vector_is_one_step():
    assert repair(np.ones(4))[0].tolist() == [[1.0] * 4]


def test_the_pickled_array_is_not_changed():
    values = sequence().astype(np.float32)
    values[0, 0] = np.nan
    before = values.copy()
    repair(values, 6)
    assert np.array_equal(values, before, equal_nan=True)


def test_common_width():
    assert common_width([4, 5, 5, None]) == 5
    assert common_width([4, 5]) == 4
    assert common_width([None]) is None


# ---- npy -----------------------------------------------------------------------------------------------------


def test_npy_files(tmp_path):
    report = ConversionReport()
    good = tmp_path / "a.npy"
    np.save(good, np.ones((3, 4)))
    assert npy_width(good) == 4
    assert load_npy(good, "a", "video", report).shape == (3, 4)
    assert report.reasons["repaired"] == {}
    whole = good.read_bytes()
    for number, content in enumerate((whole[:-5], whole[:40], b"", b"no array")):
        path = tmp_path / f"{number}.npy"
        path.write_bytes(content)
        assert load_npy(path, str(number), "video", report) is None
        assert npy_width(path) is None
    np.save(tmp_path / "4.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert load_npy(tmp_path / "4.npy", "4", "video", report) is None
    assert load_npy(tmp_path / "5.npy", "5", "video", report) is None
    assert report.reasons["repaired"] == {
        "video features cannot be read: left out": ["0", "1", "2", "3", "4"],
        "video features missing: left out": ["5"],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'shape': (3, 4), }", b"'shape': (3, 4 , }"),  # an open bracket
        (b"'shape': (3, 4), }", b"'shape': (3  4), }"),
        (b"(3, 4), }             ", b"(99999999999999, 4), }"),  # more than any memory
        (b"'<f8'", b"'<q8'"),
        (b"\x93NUMPY", b"PK\x03\x04PY"),  # an archive by its first bytes
        (b"NUMPY\x01", b"NUMPY\x09"),
    ],
)
def test_damaged_header_of_npy(tmp_path, old, new):
    path, report = tmp_path / "a.npy", ConversionReport()
    np.save(path, np.ones((3, 4)))
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    assert npy_width(path) is None
    assert load_npy(path, "a", "audio", report) is None
    assert report.reasons["repaired"] == {"audio features cannot be read: left out": ["a"]}


# ---- splits --------------------------------------------------------------------------------------------------


def rows(*ids):
    return [{"id": name, "n": number} for number, name in enumerate(ids)]


def test_duplicates_and_overlaps_go_and_are_named():
    report = ConversionReport()
    found = unique_rows(
        {"train": rows("a", "b", "a", "t", "v"), "validation": rows("v", "t"), "test": rows("t", "t"), "x": rows("a")},
        report,
    )
    assert {split: [(row["id"], row["n"]) for row in part] for split, part in found.items()} == {
        "train": [("a", 0), ("b", 1)],
        "validation": [("v", 0)],
        "test": [("t", 0)],
        "x": [],
    }
    assert report.reasons["dropped"] == {
        "id is there twice: the first row kept": ["t", "a"],
        "also in split test: left out of validation": ["t"],
        "also in split test: left out of train": ["t"],
        "also in split validation: left out of train": ["v"],
        "also in split train: left out of x": ["a"],
    }


def test_video_disjoint_splits():
    ids = {"train": [f"{v}/{c}" for v in range(40) for c in range(5)], "validation": [], "test": []}
    ids["validation"] = [f"{v}/v{c}" for v in range(20) for c in range(2)]
    ids["test"] = [f"{v}/t{c}" for v in range(40) for c in range(2)]
    videos = {name: name.split("/")[0] for names in ids.values() for name in names}
    found = video_disjoint(ids, videos)["splits"]
    assert sorted(name for names in found.values() for name in names) == sorted(videos)
    held = {split: {videos[name] for name in names} for split, names in found.items()}
    assert not held["train"] & held["test"] and not held["train"] & held["validation"]
    assert not held["validation"] & held["test"]
    for split, names in ids.items():
        assert abs(len(found[split]) - len(names)) <= 9  # the largest video has 9 clips
    shuffled = {split: names[::-1] for split, names in ids.items()}
    again = video_disjoint(shuffled, videos)["splits"]
    assert {split: sorted(names) for split, names in again.items()} == {s: sorted(n) for s, n in found.items()}
    unlabeled = [f"{v}/u{c}" for v in range(40) for c in range(9)]
    assert video_disjoint(ids | {"unlabeled": unlabeled}, videos)["splits"] == found | {"unlabeled": unlabeled}


# ---- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "answer", "grid", "expected", "kind", "reason"),
    [
        ("meld", "joy", None, "joy", None, None),
        ("meld", " Joy ", None, "joy", None, None),
        ("cherma", "高兴", None, "高兴", None, None),
        ("meld", "happy", None, None, "dropped", "unknown label 'happy'"),
        ("meld", 4, None, None, "dropped", "unknown label '4'"),
        ("meld", "", None, None, "dropped", "unknown label ''"),
        ("mosei", "-0.33333334", None, -0.333333, None, None),
        ("mosei", 3.0, None, 3.0, None, None),
        ("mosei", 3.2, None, None, "dropped", "score outside [-3, 3]"),
        ("sims_v2", -1.2, 0.2, None, "dropped", "score outside [-1, 1]"),
        ("mosei", float("nan"), None, None, "dropped", "no score"),
        ("mosei", "good", None, None, "dropped", "no score"),
        ("mosei", None, None, None, "dropped", "no score"),
        ("mosei", True, None, None, "dropped", "no score"),
        ("mosei", 10**400, None, None, "dropped", "no score"),
        ("sims_v2", np.float32(0.6), 0.2, 0.6, None, None),
        ("sims_v2", -0.0, 0.2, 0.0, None, None),
        ("sims_v2", "-0.1", 0.2, -0.2, "repaired", "score between the steps of 0.2: moved to the nearest"),
        ("sims_v2", 0.35, 0.2, 0.4, "repaired", "score between the steps of 0.2: moved to the nearest"),
    ],
)
def test_answers(task, answer, grid, expected, kind, reason):
    report = ConversionReport()
    found = check_answer(BUILT_IN_TASKS[task], answer, "r", report, grid)
    assert found == expected
    assert str(found) != "-0.0"
    happened = {k: names for k, names in report.reasons.items() if names}
    assert happened == ({kind: {reason: ["r"]}} if kind else {})


def test_labels_go_by_name_not_by_place():
    """Another toolkit counts joy as 4 and neutral as 0, or the other way round: a number is no label."""
    for label in BUILT_IN_TASKS["meld"].labels:
        assert check_answer(BUILT_IN_TASKS["meld"], label, "r", ConversionReport()) == label
    report = ConversionReport()
    assert [check_answer(BUILT_IN_TASKS["meld"], n, "r", report) for n in range(7)] == [None] * 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" “It’s”… ", "“It’s”…"),
        ("a\x00b\nc\t", "a b c"),
        ("\ufeff好\u3000吗", "好\u3000吗"),
        ("👩‍👧", "👩‍👧"),
        (None, ""),
        (float("nan"), ""),
        ("好".encode(), "好"),
        ("a\udcffb", "a b"),
        (3, "3"),
    ],
)
def test_words_stay_as_they_are(text, expected):
    assert clean_text(text) == expected


# ---- the report ----------------------------------------------------------------------------------------------


def test_ledger_is_stored_whole_and_printed_short():
    report = ConversionReport()
    report.read["train"], report.kept["train"], report.mended["train"] = 20, 19, 12
    for number in range(12):
        report.repair("bent", f"r{number}", values=2)
        report.repair("bent", f"r{number}", values=1)
    report.drop("gone", "x")
    report.note("odd", "y")
    stored = report.to_dict()
    assert stored["rows"] == {"train": {"read": 20, "kept": 19, "repaired": 12, "dropped": 1}}
    assert stored["repaired"] == {"bent": {"count": 12, "values": 36, "ids": [f"r{n}" for n in range(12)]}}
    assert stored["dropped"] == {"gone": {"count": 1, "ids": ["x"]}}
    again = ConversionReport.from_dict(stored)
    assert again.to_dict() == stored
    again.add(report)
    assert again.to_dict()["repaired"]["bent"]["values"] == 72
    table = report.table()
    assert "r7" in table and "r8" not in table and "36 values  bent: r0, r1" in table
    assert table.splitlines()[1].split() == ["train", "20", "19", "12", "1"]


# ---- clips ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4")


def test_clip_is_looked_at(clip, tmp_path):
    found = probe(clip)
    assert found.seconds == pytest.approx(0.24, abs=0.1)
    assert found.has_audio and found.has_video
    assert not probe(write_audio(tmp_path / "a.wav", sine(200, 0.5, 16_000), 16_000)).has_video


def test_broken_clips_are_told(clip, tmp_path):
    whole = clip.read_bytes()
    front = write_video(
        tmp_path / "front.mp4", gray_frames(60, 64, 64), audio=sine(200, 4, 16_000), options={"movflags": "faststart"}
    ).read_bytes()
    for number, content in enumerate((b"", b"no film", whole[: len(whole) // 2], front[: len(front) // 2])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="."):
            probe(path)


def test_playlist_is_no_clip(clip, tmp_path):
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n")
    with pytest.raises(ValueError, match="."):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("with_video", [True, False])
def test_cut_begins_and_ends_where_it_is_told(tmp_path, with_video):
    sound = np.concatenate([np.zeros(16_000), sine(440, 1, 16_000), np.zeros(16_000)]).astype(np.float32)
    path = write_video(tmp_path / "long.mp4", gray_frames(75, 32, 48), fps=25, audio=sound)
    found = cut(path, 1.0, 2.0, with_video)
    heard = load_audio(found, target_sampling_rate=16_000)
    assert len(heard) / 16_000 == pytest.approx(1.0, abs=0.1)
    assert np.abs(heard[1600:14_400]).mean() > 0.2  # the tone, from end to end
    if with_video:
        frames = load_video(found, num_frames=100)
        assert len(frames) == pytest.approx(25, abs=1)
        levels = frames.reshape(len(frames), -1).mean(axis=1)
        assert levels[0] == pytest.approx(16 + 3 * 25, abs=4)
        assert levels[-1] == pytest.approx(16 + 3 * 49, abs=4)
    else:
        with pytest.raises(ValueError, match="no video|pictures|video"):
            load_video(found, num_frames=1)


def test_cut_of_nothing(clip, tmp_path):
    with pytest.raises(ValueError, match="nothing between 5.00 and 6.00 s"):
        cut(clip, 5, 6)
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match="."):
        cut(tmp_path / "a.mp4", 0, 1)


def test_files_below(tmp_path):
    for name in ("b/c/x.mp4", "a.csv", "b/._x.mp4", ".hidden/y.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in files_below(tmp_path)] == ["a.csv", "b/c/x.mp4"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        files_below(tmp_path / "absent")
