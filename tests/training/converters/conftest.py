"""Fixtures of the converters' tests: a real clip, and converter calls that succeed or fail."""

import pytest

from tests.helpers.release_files import read_back, table_of, write_clip


QUIET = ["--no_progress", "--num_workers", "1"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """An mp4 file of 0.24 s."""
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4")


@pytest.fixture
def convert(tmp_path):
    """`convert(module, source, *options)` -> examples by split, and the stored report."""

    def run(module, source, *options):
        dest = tmp_path / "made/dest"
        module.main([str(source), str(dest), *QUIET, *options])
        return read_back(dest, tmp_path / "cache"), table_of(dest)

    return run


@pytest.fixture
def refuse(tmp_path, capsys):
    """`refuse(module, source, *options)` -> the error message of a conversion, which must leave nothing behind."""

    def run(module, source, *options):
        with pytest.raises(SystemExit) as stopped:
            module.main([str(source), str(tmp_path / "dest"), *QUIET, *options])
        message = str(stopped.value)
        assert message.startswith("error: ")
        assert not (tmp_path / "dest").exists()
        return message

    return run
