"""Conversion into a folder: complete or absent, resumed after a kill, independent of the number of processes."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.release_files import mmsa, read_back, sims_row, table_of, write_csv, write_pickle
from training.converters import mmsa as mmsa_converter
from training.converters import sims
from training.converters.core import conversion, shards
from training.records import only_writer


@pytest.fixture
def source(tmp_path):
    return write_pickle(tmp_path / "a.pkl", mmsa(train=30, valid=7, test=9))


def run(source, dest, *options):
    arguments = [
        str(source),
        str(dest),
        "--corpus",
        "sims_v2",
        "--no_progress",
        "--num_workers",
        "1",
        *options,
    ]
    mmsa_converter.main(arguments)


def content(folder):
    """name -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def error_of(*arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    return str(stopped.value)


def test_result_is_the_same_with_any_number_of_processes(tmp_path, source, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 8)
    run(source, tmp_path / "one")
    run(source, tmp_path / "two", "--num_workers", "2")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    names = [name for name in content(tmp_path / "one") if name.startswith("data/")]
    assert names == [
        *(f"data/test-{i:05d}-of-00002.parquet" for i in range(2)),
        *(f"data/train-{i:05d}-of-00004.parquet" for i in range(4)),
        "data/validation-00000-of-00001.parquet",
    ]
    found = read_back(tmp_path / "one", tmp_path / "cache")
    assert [row["id"] for row in found["train"]] == mmsa(train=30, valid=7, test=9)["train"]["id"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pkl", "cache", "one", "two"]


def test_row_groups_are_small(tmp_path, source, monkeypatch):
    """Only one row group is held in memory; it is written as soon as it is large enough."""
    monkeypatch.setattr(shards, "BYTES_PER_GROUP", 2000)
    run(source, tmp_path / "dest")
    file = pq.ParquetFile(tmp_path / "dest/data/train-00000-of-00001.parquet")
    assert file.num_row_groups > 5
    assert file.metadata.num_rows == 30


def test_card_and_manifests(tmp_path, source):
    run(source, tmp_path / "dest")
    card = (tmp_path / "dest/README.md").read_text(encoding="utf-8")
    assert "pretty_name: CH-SIMS v2" in card and "path: data/validation-*.parquet" in card
    assert "| train | 30 | 30 | 0 | 0 |" in card and "`splits/video_disjoint.json`" in card
    manifest = json.loads((tmp_path / "dest/splits/official.json").read_text(encoding="utf-8"))
    assert manifest["name"] == "official"
    assert manifest["splits"]["test"] == mmsa(train=30, valid=7, test=9)["test"]["id"]
    stored = json.loads((tmp_path / "dest/conversion.json").read_text(encoding="utf-8"))
    assert stored["settings"] == {"converter": "mmsa", "corpus": "sims_v2", "task": None}
    assert stored["versions"]["python"]


def test_report_is_printed_and_written_on_request(tmp_path, source, capsys):
    run(source, tmp_path / "dest", "--report", str(tmp_path / "report.json"))
    said = capsys.readouterr().out
    assert "split             read    kept  repaired  dropped" in said
    assert "train               30      30         0        0" in said
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == table_of(tmp_path / "dest")


def test_check_reports_the_same_and_writes_nothing(tmp_path, source, capsys):
    release = mmsa(train=30, valid=7, test=9)
    release["train"]["vision"][3] = 0
    release["train"]["regression_labels"][4] = 7
    write_pickle(source, release)
    before = content(tmp_path)
    run(source, tmp_path / "dest", "--check", "--num_workers", "2")
    checked = capsys.readouterr().out
    assert content(tmp_path) == before and not (tmp_path / "dest").exists()
    run(source, tmp_path / "dest")
    converted = capsys.readouterr().out
    assert checked.splitlines()[:-1] == converted.splitlines()[:-1]
    assert "all padding" in checked and "score outside" in checked


def test_repeating_the_command_does_nothing(tmp_path, source, capsys):
    run(source, tmp_path / "dest")
    first = content(tmp_path / "dest")
    times = os.stat(tmp_path / "dest").st_mtime_ns
    printed = capsys.readouterr().out
    run(source, tmp_path / "dest")
    again = capsys.readouterr()
    assert "already holds this conversion" in again.err
    assert again.out == printed
    assert (content(tmp_path / "dest"), os.stat(tmp_path / "dest").st_mtime_ns) == (first, times)


def test_conversion_without_one_of_its_shards_is_incomplete(tmp_path, source):
    run(source, tmp_path / "dest")
    before = content(tmp_path / "dest")
    shard = tmp_path / "dest/data/validation-00000-of-00001.parquet"
    for damage in (lambda: shard.write_bytes(b"PAR1"), shard.unlink):
        damage()
        said = error_of(source, tmp_path / "dest")
        assert "its data/ holds 0 of the 7 examples of validation. Convert it again with --overwrite" in said
    run(source, tmp_path / "dest", "--overwrite")
    assert content(tmp_path / "dest") == before


def test_conversion_by_another_version_is_reported(tmp_path, source, capsys, monkeypatch):
    monkeypatch.setattr(conversion, "CONVERTER_VERSION", 1)
    run(source, tmp_path / "dest")
    monkeypatch.undo()
    assert "or by another version. Use --overwrite" in error_of(source, tmp_path / "dest")


def test_nothing_is_overwritten_without_the_option(tmp_path, source, capsys):
    run(source, tmp_path / "dest")
    before = content(tmp_path / "dest")
    assert "different files, with different options" in error_of(source, tmp_path / "dest", "--task", "x")
    write_pickle(source, mmsa(train=31))
    assert "different files, with different options" in error_of(source, tmp_path / "dest")
    assert content(tmp_path / "dest") == before
    run(source, tmp_path / "dest", "--overwrite")
    assert table_of(tmp_path / "dest")["rows"]["train"]["read"] == 31
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    for options in ((), ("--overwrite",)):
        assert "is not a converted corpus" in error_of(source, tmp_path / "other", *options)
    assert content(tmp_path / "other") == {"mine.txt": b"mine"}


def test_second_conversion_into_the_same_folder_is_refused(tmp_path, source, capsys):
    with only_writer(tmp_path / "dest", "conversion"):
        assert "Another conversion is writing to" in error_of(source, tmp_path / "dest")
    run(source, tmp_path / "dest")


def run_words(source, dest):
    """Convert only the table of SIMS."""
    arguments = ["--corpus", "sims_v2", "--media", "none", "--no_progress", "--num_workers", "1"]
    sims.main([str(source), str(dest), *arguments])


def test_empty_split(tmp_path):
    """The card does not list the empty split, so that the others can be loaded."""
    write_csv(tmp_path / "SIMS/meta.csv", [sims_row("v", "1"), sims_row("v", "2", mode="test", text=" ")])
    run_words(tmp_path / "SIMS", tmp_path / "dest")
    assert list(read_back(tmp_path / "dest", tmp_path / "cache")) == ["train"]
    assert table_of(tmp_path / "dest")["rows"]["test"] == {
        "read": 1,
        "kept": 0,
        "repaired": 0,
        "dropped": 1,
    }


def test_too_few_videos_for_disjoint_splits_are_noted(tmp_path, capsys):
    clips = [sims_row(video, mode, mode=mode) for video in ("v", "w") for mode in ("train", "valid", "test")]
    write_csv(tmp_path / "SIMS/meta.csv", clips)
    run_words(tmp_path / "SIMS", tmp_path / "dest")
    reason = "too few videos: this split of video_disjoint is empty"
    assert table_of(tmp_path / "dest")["notes"][reason]["ids"] == ["test"]
    assert f"{reason}: test" in capsys.readouterr().out


def test_empty_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 1)
    write_csv(
        tmp_path / "SIMS/meta.csv",
        [sims_row("v", "1", text=" "), sims_row("v", "2"), sims_row("v", "3")],
    )
    run_words(tmp_path / "SIMS", tmp_path / "dest")
    found = read_back(tmp_path / "dest", tmp_path / "cache")
    assert [row["id"] for row in found["train"]] == ["v$_$2", "v$_$3"]


def test_bad_options(tmp_path, source, capsys):
    for options, message in (
        ([str(source)], "give DEST"),
        ([str(source), str(tmp_path / "d"), "--num_workers", "0"], "--num_workers is 0"),
        ([str(source), "--check", "--report", str(tmp_path)], "is a folder. Give the name of a file"),
        ([str(source), "--check", "--num_procs", "2"], "There is no option --num_procs"),
    ):
        with pytest.raises(SystemExit):
            mmsa_converter.main([*options, "--corpus", "mosi"])
        assert message in capsys.readouterr().err


# ---- kill ----------------------------------------------------------------------------------------------------


@pytest.fixture
def start(monkeypatch):
    """`start(*arguments)` -> a converter in a separate process, with two rows per shard."""
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 2)

    def begin(*arguments):
        process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
        process.start()
        return process

    return begin


def wait_until(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.is_alive()
        time.sleep(0.001)


def children(pid):
    """Of all threads of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def alive(pid):
    """Whether any thread of a process still runs: its files, with the lock, are open until the last one has ended."""
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states.append(path.read_text().rsplit(")", 1)[1].split()[0])
    return any(state not in "ZX" for state in states)


@pytest.mark.integration
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_conversion_resumes(tmp_path, start, num_workers, monkeypatch, capsys):
    source = write_pickle(tmp_path / "a.pkl", mmsa(train=120))
    dest = tmp_path / "dest"
    partial = tmp_path / ".dest.partial"
    process = start(source, dest, "--num_workers", str(num_workers))
    wait_until(lambda: len(list(partial.glob("data/*.parquet"))) >= 5, process)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: not any(map(alive, workers)))  # no worker waits for work forever
    made = {path.name: path.stat().st_mtime_ns for path in partial.glob("work/train-*.json")}
    assert 3 <= len(made) < 60 and not dest.exists()
    (partial / "data/train-00000-of-00060.parquet.1.tmp").write_bytes(b"half")
    last = sorted(partial.glob("work/train-*.json"))[-1]
    last.unlink()  # as if it had been killed between the shard and its record

    kept = []
    times = {}
    original = conversion.complete_folder

    def look(folder, *arguments):
        kept.extend(path.name for path in folder.glob("work/train-*.json"))
        times.update({path.name: path.stat().st_mtime_ns for path in folder.glob("work/train-*.json")})
        original(folder, *arguments)

    monkeypatch.setattr(conversion, "complete_folder", look)
    run(source, dest)
    assert f"Resuming an interrupted conversion: {len(made) - 1} of 64 shards exist." in capsys.readouterr().err
    assert len(kept) == 60
    assert all(times[name] == before for name, before in made.items() if name != last.name)
    run(source, tmp_path / "fresh")
    assert content(dest) == content(tmp_path / "fresh")
    assert not partial.exists()
    assert len(datasets.load_dataset(str(dest), cache_dir=str(tmp_path / "cache"))["train"]) == 120


def die(example, report, widths):
    """Replacement of `finish` that kills the worker at an example in the middle."""
    if example["id"].endswith("0005"):
        os._exit(9)
    return mmsa_converter.finish(example, report, widths)


def test_killed_worker_is_reported(tmp_path, source, monkeypatch):
    run(source, tmp_path / "fresh")
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 2)
    real_plan = mmsa_converter.plan

    def plan(arguments):
        corpus = real_plan(arguments)
        corpus.finish = die
        return corpus

    monkeypatch.setattr(mmsa_converter, "plan", plan)
    with pytest.raises(SystemExit) as stopped:
        run(source, tmp_path / "dest", "--num_workers", "2")
    assert "Run the same command again" in str(stopped.value)
    assert not (tmp_path / "dest").exists()
    monkeypatch.setattr(mmsa_converter, "plan", real_plan)
    run(source, tmp_path / "dest")
    assert table_of(tmp_path / "dest") == table_of(tmp_path / "fresh")


def test_unfinished_conversion_with_other_options_is_removed(tmp_path, source, monkeypatch, capsys):
    run(source, tmp_path / "fresh")
    monkeypatch.setattr(conversion, "complete_folder", lambda *_: None)
    run(source, tmp_path / "dest", "--task", "other")
    assert (tmp_path / ".dest.partial/work").is_dir()
    monkeypatch.undo()
    run(source, tmp_path / "dest")
    assert "an unfinished conversion of different files or with different options" in capsys.readouterr().err
    assert content(tmp_path / "dest") == content(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "dest")


def test_value_that_no_column_can_hold_is_named():
    schema = pa.schema([("id", pa.string()), ("age", pa.int32())])
    with pytest.raises(ValueError, match="Example 'b': age is 1099511627776, which cannot be stored as int32"):
        shards.arrow_table([{"id": "a", "age": 3}, {"id": "b", "age": 2**40}], schema)
