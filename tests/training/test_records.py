"""Results files: atomic writing, JSON that other programs can read, and stable digests."""

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from training.converters.core.pickles import read_pickle
from training.data.tables import read_csv, read_json_list, read_jsonl, read_metadata
from training.records import (
    as_json_value,
    check_new_folder,
    checksum_of_array,
    digest_of_bytes,
    digest_of_chunks,
    digest_of_file,
    digest_of_json,
    new_folder,
    only_writer,
    peak_gib,
    print_record,
    read_json,
    read_yaml,
    replacing,
    short_commit,
    temporary_name,
    write_json,
    write_text,
)


READERS = {
    "a.json": read_json,
    "list.json": read_json_list,
    "a.csv": read_csv,
    "a.jsonl": read_jsonl,
    "a.pkl": read_pickle,
    "metadata.parquet": read_metadata,
}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not say it in another way")
def test_peak_memory_of_this_process():
    with open("/proc/self/status", encoding="utf-8") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert peak_gib("cpu") == pytest.approx(kilobytes / 2**20, rel=0.1)


def test_short_commit_keeps_that_files_were_changed():
    assert short_commit("0123456789abcdef") == "0123456"
    assert short_commit("0123456789abcdef+changes") == "0123456+changes"
    assert short_commit("unknown") == "unknown"


def test_json_round_trip(tmp_path):
    value = {"label": "愤怒", "scores": [0.1, 2], "none": None, "yes": True}
    path = write_json(tmp_path / "new/results.json", value)
    assert read_json(path) == value
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_record_is_printed_and_stored_if_there_is_an_output(tmp_path, capsys):
    record = {"seconds": 0.5, "versions": {"torch": "2"}}
    for output in (None, tmp_path / "record.json"):
        print_record(record, output)
        assert json.loads(capsys.readouterr().out) == record
    assert read_json(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_nonfinite_numbers_become_null_and_numpy_becomes_plain():
    value = {"nan": math.nan, "inf": np.float32("inf"), "n": np.int64(3), "x": np.float32(0.5), "flag": np.bool_(True)}
    assert as_json_value(value) == {"nan": None, "inf": None, "n": 3, "x": 0.5, "flag": True}
    assert as_json_value({1: (2, 3), "path": np.dtype("int8")}) == {"1": [2, 3], "path": "int8"}


def test_error_for_invalid_json_names_the_file(tmp_path):
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"cut\.json is not a JSON file"):
        read_json(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        ("/annex/objects/SHA256E-s1--0.csv\n", "git-annex pointer.*git annex get"),
        ("\ufeff\n<!DOCTYPE html>\n<html><title>Sign in</title>", "web page that was saved in the file's place"),
    ],
)
def test_placeholders_of_files_are_named_by_every_reader(tmp_path, content, message):
    for name, read in READERS.items():
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{name}: a.*{message}"):
            read(path)


@pytest.mark.parametrize("content", [b"a: [1\n", b"{", b"\xff", b"[" * 600, b"a: " + b"9" * 5000])
def test_error_for_invalid_yaml_is_one_line(tmp_path, content):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.yaml is (not a YAML file: |nested)") as caught:
        read_yaml(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    """The last one counted, without a word."""
    path = tmp_path / "my.yaml"
    path.write_text("learning_rate: 1\nseed: 2\nnested: {a: 1, b: {c: 1}}\nlearning_rate: 3\n")
    with pytest.raises(ValueError, match="my.yaml is not a YAML file: the key 'learning_rate' appears twice .*line 4"):
        read_yaml(path)
    path.write_text("a: {c: 1, d: 2, c: 3}\n")
    with pytest.raises(ValueError, match="the key 'c' appears twice"):
        read_yaml(path)
    path.write_text("base: &base {a: 1, b: 2}\none: {<<: *base, a: 3}\n1: x\n'1': y\n? [a, b]\n: z\n")
    with pytest.raises(ValueError, match="unhashable"):
        read_yaml(path)
    path.write_text("base: &base {a: 1, b: 2}\none: {<<: *base, a: 3}\n1: x\n'1': y\n")
    assert read_yaml(path)["one"] == {"a": 3, "b": 2}
    # `inner` is merged into `two` before it is constructed itself.
    path.write_text("one: {deep: {inner: &inner {<<: &base {a: 1}, a: 2}}}\ntwo: {<<: *inner}\n")
    assert read_yaml(path) == {"one": {"deep": {"inner": {"a": 2}}}, "two": {"a": 2}}


def write_half(path):
    path.write_text("half")
    raise RuntimeError("disk full")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "report.md", "old")
    with pytest.raises(RuntimeError, match="disk full"), replacing(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_to_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_text(tmp_path / "a.txt", "x")
    assert flushed == [str(tmp_path / ".a.txt.tmp"), str(tmp_path)]


def test_a_link_keeps_leading_to_the_file_that_is_replaced(tmp_path):
    """It used to become a file of its own, and the one that it led to stayed as it was."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.json").write_text("1")
    for name, target in {"link.json": "disk/a.json", "dangling.json": "disk/b.json"}.items():
        (tmp_path / name).symlink_to(target)
        write_json(tmp_path / name, 2)
        assert (tmp_path / name).is_symlink()
        assert json.loads((tmp_path / target).read_text()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling.json", "disk", "link.json"]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/abc").write_text("1")
    (tmp_path / "config.json").symlink_to("blobs/abc")
    write_json(tmp_path / "config.json", 2)
    assert (tmp_path / "blobs/abc").read_text() == "1"


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    with pytest.raises(ValueError, match=r"a\.json is a link that leads back to itself\. Give another name\."):
        write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="leads back to itself"):
        check_new_folder(tmp_path / "b.json")


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_device_or_a_pipe_is_not_replaced(tmp_path, name):
    """`--output /dev/null` as root would replace it for all programs."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ValueError, match=f"{name} is not a regular file"):
        write_json(tmp_path / name, 1)
    assert (tmp_path / "pipe").is_fifo()


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for folder in (".", "..", "inner/..", tmp_path):
        with pytest.raises(ValueError, match="is the current folder, or around it"):
            check_new_folder(Path(folder))
    check_new_folder(Path("inner"))
    check_new_folder(Path("../other"))


def test_home_is_expanded_before_the_current_folder_is_looked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new_folder("~/new") == tmp_path / "new"
    assert new_folder("~nobody-of-this-name/new") == tmp_path / "here/~nobody-of-this-name/new"
    for folder in ("~", "~/here", Path("~/here/..")):
        with pytest.raises(ValueError, match="is the current folder, or around it"):
            new_folder(folder)


def test_file_of_a_killed_process_is_used_again(tmp_path):
    leftover = tmp_path / ".report.md.tmp"
    leftover.write_text("half of a long report")
    path = write_text(tmp_path / "report.md", "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_have_files_of_their_own(tmp_path):
    path = tmp_path / "report.md"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("Arrow: disk is full")])
def test_error_of_a_full_disk_names_the_file(tmp_path, error):
    def write(temporary):
        temporary.write_text("half")
        raise error

    path = write_text(tmp_path / "report.md", "old")
    with pytest.raises(OSError, match=r"report\.md"), replacing(path) as temporary:
        write(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_has_one_writer(tmp_path):
    folder = tmp_path / "runs/mine"
    message = r"Another training run is writing to .*runs/mine\. Wait"
    with only_writer(folder, "training run"), only_writer(tmp_path / "runs/other", "training run"):
        with pytest.raises(ValueError, match=message), only_writer(folder, "training run"):
            pass
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "runs/.mine.lock").write_text("left by a process that was killed")
    with only_writer(folder, "training run"):
        pass


def test_the_next_writer_keeps_its_temporary_file(tmp_path, monkeypatch):
    """Two calls of egmf calibrate at once: one deleted what the other was writing."""
    path = tmp_path / "answers.json"
    other = tmp_path / ".answers.json.tmp"
    replace = os.replace

    def replace_while_another_process_begins(source, target):
        replace(source, target)
        other.write_text("half of the other's")

    monkeypatch.setattr("training.records.os.replace", replace_while_another_process_begins)
    write_text(path, "own")
    assert path.read_text() == "own"
    assert other.read_text() == "half of the other's"


def test_a_lock_that_cannot_be_written_is_refused_by_its_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"/file is not writable \(Not a directory\). Give another folder"):
        with only_writer(tmp_path / "file/x.jsonl", "prediction"):
            pass


def test_temporary_names_are_hidden_and_differ(tmp_path):
    names = {temporary_name(tmp_path / "a.json").name for _ in range(9)}
    assert len(names) == 9
    assert all(name.startswith(".a.json.") for name in names)


def test_digests_keep_their_values(tmp_path):
    """Stored files hold digests from earlier versions, so the same content must give the same digest."""
    data = b"egmf"
    (tmp_path / "file").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert digest_of_bytes(data) == expected
    assert digest_of_chunks([b"eg", b"mf"]) == expected
    assert digest_of_file(tmp_path / "file") == expected
    value = {"b": [1, None], "a": "x"}
    assert digest_of_json(value) == hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
    assert digest_of_json(value, sort_keys=True) == digest_of_json({"a": "x", "b": [1, None]})
    array = np.arange(6, dtype=np.float32)
    assert checksum_of_array(array) == hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
