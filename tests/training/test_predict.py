"""Predicting from the command line: one clip, a folder, what goes wrong with a clip, and the output file."""

import builtins
import json
import shutil

import pytest

from processing_egmf import EGMFProcessor
from tests.helpers.corpus_files import write_corpus
from training.evaluation.predictor import clips_of, judge, main, predict_all


pytestmark = pytest.mark.integration


@pytest.fixture
def checkpoint(make_model, make_processor, tmp_path):
    """A full checkpoint, all weights random."""
    make_model("waveform", "frames", lora=None).save_pretrained(tmp_path / "checkpoint")
    make_processor("waveform", "frames").save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture
def folder(corpus, tmp_path):
    """Two good clips, one with words beside it, a broken one, and files that are no media."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(corpus / "clips/0.mp4", folder / "a.mp4")
    shutil.copy(corpus / "clips/1.mp4", folder / "deep/c.MP4")
    (folder / "a.txt").write_text(" I'm fine.\n", encoding="utf-8")
    (folder / "b.wav").write_text("no sound")
    (folder / "notes.md").write_text("no clip")
    return folder


def shown(capsys):
    """The answer on the screen."""
    out = capsys.readouterr().out
    return json.loads(out[out.index("{") :])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_clip_on_the_screen(checkpoint, corpus, capsys):
    clip = str(corpus / "clips/0.mp4")
    main(
        [
            "--model_name_or_path",
            checkpoint,
            "--video",
            clip,
            "--text",
            "I'm fine.",
            "--task",
            "mosei",
            "--top_k",
            "2",
            "--device",
            "cpu",
        ]
    )
    found = shown(capsys)
    assert found["clip"] == clip
    assert -3 <= found["score"] <= 3
    assert len(found["probabilities"]) == 2
    assert found["modalities"] == ["text", "audio", "video"]


@pytest.mark.parametrize(
    ("arguments", "modalities"),
    [
        (["--text", "Hm."], ["text"]),
        (["--audio", "CLIP"], ["audio"]),
        (["--video", "CLIP", "--modalities", "video"], ["video"]),
        (["--video", "CLIP", "--text", "a", "--modalities", "text", "audio"], ["text", "audio"]),
    ],
)
def test_modalities_that_took_part(checkpoint, corpus, capsys, arguments, modalities):
    clip = str(corpus / "clips/0.mp4")
    main(
        [
            "--model_name_or_path",
            checkpoint,
            "--device",
            "cpu",
            *[clip if word == "CLIP" else word for word in arguments],
        ]
    )
    assert shown(capsys)["modalities"] == modalities


def test_loading_asks_no_question(checkpoint, capsys, monkeypatch):
    """The checkpoint's own code is beside it, but ours is loaded: there is nothing to consent to."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": asked.append(prompt) or "n")
    main(["--model_name_or_path", checkpoint, "--text", "a", "--device", "cpu"])
    assert asked == []
    assert capsys.readouterr().out.startswith("{")


def test_clips_of_a_folder(folder):
    found = clips_of(folder)
    names = [clip["sample_names"].removeprefix(f"{folder}/") for clip in found]
    assert names == ["a.mp4", "b.wav", "deep/c.MP4"]
    assert [clip["words"].name for clip in found] == ["a.txt", "b.txt", "c.txt"]
    assert found[1] == {
        "audio": str(folder / "b.wav"),
        "words": folder / "b.txt",
        "sample_names": str(folder / "b.wav"),
    }


def test_words_beside_a_clip_are_heard(make_model, make_processor, folder):
    model, processor = make_model("waveform", "frames", lora=None), make_processor("waveform", "frames")
    found = next(predict_all(model, processor, clips_of(folder), task="emotion"))
    inputs = {"video": str(folder / "a.mp4"), "text": "I'm fine.", "task": "emotion"}
    assert found == {"clip": str(folder / "a.mp4"), **judge(model, processor, inputs)}


def test_folder_goes_on_after_a_bad_clip(checkpoint, folder, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "--model_name_or_path",
                checkpoint,
                "--folder",
                str(folder),
                "--task",
                "emotion",
                "--output",
                str(output),
                "--device",
                "cpu",
            ]
        )
    assert caught.value.code == 1
    assert "1 of 3 clips could not be judged" in capsys.readouterr().err
    first, bad, last = lines(output)
    assert first["modalities"] == ["text", "audio", "video"]
    assert last["modalities"] == ["audio", "video"]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert bad["clip"] == str(folder / "b.wav")
    assert "b.wav: not a media file" in bad["error"]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_transcript_in_another_encoding_spoils_its_clip_alone(checkpoint, folder, tmp_path):
    (folder / "a.txt").write_bytes("déjà vu".encode("latin-1"))
    (folder / "b.wav").unlink()
    output = tmp_path / "answers.jsonl"
    with pytest.raises(SystemExit):
        main(["--model_name_or_path", checkpoint, "--folder", str(folder), "--output", str(output), "--device", "cpu"])
    first, last = lines(output)
    assert "error" in first
    assert "error" not in last


@pytest.mark.parametrize("hop", ["0", "-1", "99", "nan"])
def test_hop_that_cannot_be_is_refused_once(checkpoint, folder, tmp_path, hop):
    output = tmp_path / "answers.jsonl"
    words = ["--model_name_or_path", checkpoint, "--folder", str(folder), "--output", str(output), "--device", "cpu"]
    with pytest.raises(SystemExit, match=rf"error: `window_hop` is {hop} s; it must lie above 0 and up to"):
        main([*words, "--window_hop", hop])
    assert not output.exists()


def test_good_folder_ends_well(checkpoint, folder, tmp_path):
    (folder / "b.wav").unlink()
    output = tmp_path / "answers.jsonl"
    main(["--model_name_or_path", checkpoint, "--folder", str(folder), "--output", str(output), "--device", "cpu"])
    assert len(lines(output)) == 2


def test_answers_are_those_of_the_model(checkpoint, make_model, corpus):
    processor = EGMFProcessor.from_pretrained(checkpoint)
    model = make_model("waveform", "frames", lora=None)
    inputs = {"video": str(corpus / "clips/0.mp4"), "text": "a", "task": "emotion"}
    expected = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
    assert judge(model, processor, inputs) == expected
    assert list(judge(model, processor, inputs, top_k=1)["probabilities"]) == [expected["label"]]


def test_output_is_not_overwritten(checkpoint, folder, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    output.write_text("precious")
    argv = ["--model_name_or_path", checkpoint, "--text", "a", "--output", str(output), "--device", "cpu"]
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "is there already" in capsys.readouterr().err
    assert output.read_text() == "precious"
    main([*argv, "--overwrite"])
    assert "label" in json.loads(output.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--folder", "absent"], "absent is no folder"), (["--folder", "EMPTY"], r"holds no media. Known endings: .mp4")],
)
def test_folder_without_clips_is_refused(checkpoint, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(
            [
                "--model_name_or_path",
                checkpoint,
                *[str(tmp_path / "empty") if word == "EMPTY" else word for word in arguments],
            ]
        )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --text, --audio or --video"),
        (["--folder", ".", "--text", "a"], "--folder takes no --text"),
        (["--text", "a", "--task", "mood"], "nknown task 'mood'"),
        (["--video", "absent.mp4"], "there is no file 'absent.mp4'"),
        (["--text", "a", "--modalities", "smell"], "smell"),
    ],
)
def test_clip_that_cannot_be_judged_is_reported(checkpoint, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["--model_name_or_path", checkpoint, "--device", "cpu", *arguments])
    assert caught.value.code in (1, 2)
    out, err = capsys.readouterr()
    assert message in out + err
