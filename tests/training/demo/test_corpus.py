"""Build of the demo corpus: reproducible bytes, safe to interrupt, never replaces anything else."""

import json

import pytest

from training.demo import corpus as corpus_module
from training.demo.corpus import CorpusOptions, build_corpus, main
from training.demo.phrases import EMOTIONS, SPLITS
from training.demo.snippets import VADER_FILE
from training.records import only_writer, read_json


COLUMNS = ["id", "split", "task", "text", "video", "answer", "language", "speaker", "cues"]


@pytest.fixture
def build(snippets):
    """`build_corpus` in this process, from the tests' snippets."""

    def run(folder, options, **arguments):
        arguments = {"snippets": snippets, "num_workers": 1, "show_progress": False} | arguments
        return build_corpus(folder, options, **arguments)

    return run


def contents(folder):
    """Path -> bytes of every file."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(corpus, options, build, tmp_path):
    other = build(tmp_path / "other", options, num_workers=2)
    files = contents(corpus)
    assert len(files) == 12 + 4
    assert contents(other) == files


def test_metadata_is_complete(corpus):
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    assert [sum(example["split"] == split for example in examples) for split in SPLITS] == [6, 2, 4]
    for example in examples:
        assert list(example) == COLUMNS
        assert (corpus / example["video"]).is_file()
        assert list(example["cues"]) == ["text", "audio", "video"]
        if example["task"] == "emotion":
            assert {example["answer"], *example["cues"].values()} <= set(EMOTIONS)
        else:
            assert all(-3 <= score <= 3 for score in (example["answer"], *example["cues"].values()))
    for split in SPLITS:
        tasks = [example["task"] for example in examples if example["split"] == split]
        assert tasks == ["emotion" if i % 5 < 3 else "sentiment" for i in range(len(tasks))]
    assert "synthetic" in (corpus / "README.md").read_text(encoding="utf-8")


def test_second_build_at_once_is_refused(options, build, tmp_path):
    with (
        only_writer(tmp_path / "corpus", "build of a corpus"),
        pytest.raises(ValueError, match="Another build of a corpus is writing to"),
    ):
        build(tmp_path / "corpus", options)


def test_interrupted_build_is_completed(corpus, options, build, tmp_path, monkeypatch, capsys):
    write = corpus_module.write_mp4
    written = []

    def interrupted_write(path, samples, frames):
        if len(written) == 5:
            path.with_name(".half.mp4").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, samples, frames)
        written.append(path)

    folder = tmp_path / "corpus"
    monkeypatch.setattr(corpus_module, "write_mp4", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        build(folder, options)
    assert not folder.exists()
    monkeypatch.setattr(corpus_module, "write_mp4", write)
    build(folder, options)
    assert "5 of 12 clips exist" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [folder]
    assert contents(folder) == contents(corpus)


def test_existing_corpus_is_used(corpus, options, build, capsys):
    before = (corpus / "metadata.jsonl").stat().st_mtime_ns
    assert build(corpus, options) == corpus
    assert "using it" in capsys.readouterr().out
    assert (corpus / "metadata.jsonl").stat().st_mtime_ns == before


def test_corpus_with_other_settings_is_refused(corpus, build):
    options = CorpusOptions(seed=1, num_train=6, num_validation=2, num_test=4, frame_size=48)
    with pytest.raises(FileExistsError, match=r"seed: it has 0, requested 1\).*--overwrite"):
        build(corpus, options)


def test_folder_with_something_else_is_never_replaced(options, build, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a demo corpus"):
        build(tmp_path, options, overwrite=True)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_overwrite_replaces(build, tmp_path):
    folder = tmp_path / "corpus"
    for seed in (0, 1):
        options = CorpusOptions(seed=seed, num_train=1, num_validation=0, num_test=1, frame_size=16)
        build(folder, options, overwrite=True)
    assert read_json(folder / "build.json")["settings"]["seed"] == 1


def test_corpus_of_languages_needs_no_snippets(tmp_path, capsys):
    arguments = ["--train", "3", "--validation", "0", "--test", "1", "--frame_size", "16", "--num_workers", "1"]
    folder = tmp_path / "corpus"
    main(["--output", str(folder), "--languages", "zh", "es", *arguments])
    record = read_json(folder / "build.json")
    assert record["settings"]["languages"] == ["zh", "es"]
    assert record["counts"]["task"] == {"emotion": 4}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "language: [zh, es]" in card
    assert "sentiment" not in card
    with pytest.raises(SystemExit, match="Got languages fr; expected any of en, zh, es"):
        main(["--output", str(folder), "--languages", "fr"])


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="frame_size=33"):
        CorpusOptions(frame_size=33)
    with pytest.raises(ValueError, match="at least 0 in every split and 1 in total"):
        CorpusOptions(num_train=0, num_validation=0, num_test=0)
    with pytest.raises(ValueError, match="num_workers=0"):
        build_corpus(tmp_path / "corpus", num_workers=0)
    with pytest.raises(ValueError, match="sources"):
        build_corpus(tmp_path / "corpus")


def test_command_ends_with_one_line_for_a_wrong_archive(tmp_path):
    (tmp_path / VADER_FILE).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="error: .* has sha256"):
        main(["--output", str(tmp_path / "corpus"), "--sources", str(tmp_path)])
