"""Prediction from the command line: one clip, a folder, errors of a clip, and the output file."""

import builtins
import io
import json
import os
import re
import shutil

import pyarrow.parquet as pq
import pytest

from processing_egmf import EGMFPipeline, EGMFProcessor
from processing_egmf.batches_egmf import modalities_of
from tests.helpers.corpus_files import write_corpus
from tests.helpers.media_files import JUNK, gray_frames, junk, sine, write_audio, write_video
from training.evaluation.predictor import Clip, Predictor, find_clips, write_lines
from training.predict import check_arguments, main, make_parser
from training.records import only_writer


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkpoint(make_model, make_processor, tmp_path_factory):
    """A standalone checkpoint, all weights random."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model("waveform", "frames", lora=None).save_pretrained(folder)
    make_processor("waveform", "frames").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def predict(checkpoint):
    """`predict("--text", "a")`: runs the command with the checkpoint, on the CPU."""

    def run(*options):
        main(["--model_name_or_path", checkpoint, "--device", "cpu", *map(str, options)])

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture
def folder(corpus, tmp_path):
    """Two good clips, one with a transcript next to it, a broken clip, and files of other kinds."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(corpus / "clips/0.mp4", folder / "a.mp4")
    shutil.copy(corpus / "clips/1.mp4", folder / "deep/c.MP4")
    (folder / "a.txt").write_text(" I'm fine.\n", encoding="utf-8")
    (folder / "b.wav").write_text("no sound")
    (folder / "notes.md").write_text("no clip")
    return folder


def printed(capsys):
    """The prediction on the terminal."""
    out = capsys.readouterr().out
    return json.loads(out[out.index("{") :])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_predictions_do_not_write_one_file(predict, tmp_path):
    output = tmp_path / "predictions.jsonl"
    with only_writer(output, "prediction"):
        with pytest.raises(SystemExit, match=r"Another prediction is writing to .*predictions.jsonl"):
            predict("--text", "a", "--output", output)
    assert not output.exists()


def test_one_clip_on_the_terminal(predict, corpus, capsys):
    clip = str(corpus / "clips/0.mp4")
    predict("--video", clip, "--text", "I'm fine.", "--task", "mosei", "--top_k", "2")
    prediction = printed(capsys)
    assert prediction["clip"] == clip
    assert -3 <= prediction["value"] <= 3
    assert len(prediction["probabilities"]) == 2
    assert prediction["modalities"] == ["text", "audio", "video"]


def test_labels_restrict_the_answer(predict, corpus, capsys):
    predict("--text", "I'm fine.", "--task", "emotion")
    every = printed(capsys)["probabilities"]
    predict("--text", "I'm fine.", "--task", "emotion", "--labels", "joy", "anger")
    chosen = printed(capsys)["probabilities"]
    assert list(chosen) == ["joy", "anger"]
    assert chosen["joy"] == pytest.approx(every["joy"] / (every["joy"] + every["anger"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--text", "a", "--task", "emotion"],
            "--labels: `labels` that task 'emotion' does not have: .*'joi'.*, joy,",
        ),
        (
            ["--dataset", "CORPUS"],
            r"--labels: the model does not have \['joi'\]; use any of .*, joy, .*Did you mean 'joy'",
        ),
        (["--text", "a", "--task", "mosei"], "--labels: `labels` are given, but task 'mosei' is a regression"),
    ],
)
def test_labels_that_the_task_does_not_have(predict, corpus, arguments, message):
    arguments = [corpus if argument == "CORPUS" else argument for argument in arguments]
    with pytest.raises(SystemExit, match=message):
        predict(*arguments, "--labels", "joi", "anger")


@pytest.mark.parametrize(
    ("arguments", "modalities"),
    [
        (["--text", "Hm."], ["text"]),
        (["--audio", "CLIP"], ["audio"]),
        (["--video", "CLIP", "--modalities", "video"], ["video"]),
        (["--video", "CLIP", "--text", "a", "--modalities", "text", "audio"], ["text", "audio"]),
    ],
)
def test_modalities_that_were_used(predict, corpus, capsys, arguments, modalities):
    clip = str(corpus / "clips/0.mp4")
    predict(*[clip if argument == "CLIP" else argument for argument in arguments])
    assert printed(capsys)["modalities"] == modalities


def test_loading_asks_no_question(predict, capsys, monkeypatch):
    """The checkpoint holds its own code, but ours is loaded, so no consent is needed."""
    questions = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": questions.append(prompt) or "n")
    predict("--text", "a")
    assert questions == []
    assert capsys.readouterr().out.startswith("{")


def test_clips_of_a_folder(folder):
    clips, skipped = find_clips(folder)
    assert skipped == {".md": 1}
    assert [clip.name.removeprefix(f"{folder}/") for clip in clips] == ["a.mp4", "b.wav", "deep/c.MP4"]
    assert [clip.transcript_file.name for clip in clips] == ["a.txt", "b.txt", "c.txt"]
    audio = str(folder / "b.wav")
    assert clips[1] == Clip(audio, recording=audio, transcript_file=folder / "b.txt", speaker=folder.name)
    assert clips[2].speaker == "deep"


def test_every_kind_of_recording_is_found_and_the_rest_is_counted(tmp_path):
    endings = ("FLV", "3gp", "amr", "wma", "mpg", "ts", "aiff", "caf", "opus", "webm", "mov", "jpg", "gif", "mts")
    found = [f"{index}.{ending}" for index, ending in enumerate(endings)]
    for name in [
        *found,
        "1.txt",
        "z.txt",
        "notes.md",
        "x.json",
        "y.json",
        "LICENSE",
        "._a.mp4",
        ".mp4",
        ".x.json",
        ".1.txt",
    ]:
        (tmp_path / name).touch()
    (tmp_path / "o.mp4").symlink_to(tmp_path / "o.mp4")
    (tmp_path / "folder.mp4").mkdir()
    clips, skipped = find_clips(tmp_path)
    assert sorted(clip.name.removeprefix(f"{tmp_path}/") for clip in clips) == sorted(found)
    assert skipped == {".json": 2, ".mp4": 1, ".txt": 1, ".md": 1, "no extension": 1, "hidden files": 4}


def test_folders_that_are_not_entered_are_counted(tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    for name in ("a.wav", "a.TXT", ".cache/b.wav", "closed/c.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed")
    clips, skipped = find_clips(folder)
    assert [clip.name for clip in clips] == [str(folder / "a.wav"), str(folder / "closed/c.wav")]
    assert clips[0].transcript_file == folder / "a.TXT"
    assert skipped == {"hidden files": 1, "linked folders": 1, "unreadable folders": 1}


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
def test_content_decides_whether_a_file_is_audio_or_video(make_processor, tmp_path, ending):
    sound = write_audio(tmp_path / f"sound{ending}", sine(440, 0.5, 16_000), 16_000)
    clip = write_video(tmp_path / f"clip{ending}", gray_frames(6), audio=sine(440, 0.5, 16_000))
    processor = make_processor("waveform", "frames")
    for path, expected in ((sound, ["audio"]), (clip, ["audio", "video"])):
        arguments = Clip(str(path), recording=str(path)).processor_arguments(processor)
        arguments["name"] = arguments.pop("sample_names")
        assert modalities_of(processor.prepare(**arguments)) == expected
    audio_only = make_processor("waveform", None)
    assert Clip("clip", recording=str(clip)).processor_arguments(audio_only)["audio"] == str(clip)


def test_transcript_next_to_a_clip_is_read(make_model, make_processor, folder):
    predictor = Predictor(make_model("waveform", "frames", lora=None), make_processor("waveform", "frames"), "emotion")
    prediction = next(predictor.predict_all(find_clips(folder)[0]))
    answer = predictor.predict(video=str(folder / "a.mp4"), text="I'm fine.")
    assert prediction == {"clip": str(folder / "a.mp4"), **answer}


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_file_of_junk_is_refused_also_beside_a_text(predict, tmp_path, capsys, kind, modality):
    path = tmp_path / "clip.wav"
    path.write_bytes(junk(kind))
    with pytest.raises(SystemExit):
        predict(f"--{modality}", path, "--text", "I'm fine.")
    assert re.search("clip.wav: (not a readable|not audio|no video|empty)", capsys.readouterr().out)


def test_a_transcript_under_another_name_is_not_read_and_the_right_one_named(predict, folder, capsys):
    (folder / "c.mp4.txt").write_text("I'm fine.")
    with pytest.raises(SystemExit):
        predict("--folder", folder, "--task", "emotion")
    assert " The transcript of a.mp4 is a.txt, next to it." in capsys.readouterr().err


def test_unreadable_clip_does_not_stop_the_others(predict, folder, tmp_path, capsys):
    output = tmp_path / "predictions.jsonl"
    with pytest.raises(SystemExit) as caught:
        predict("--folder", folder, "--task", "emotion", "--output", output)
    assert caught.value.code == 1
    messages = capsys.readouterr().err
    assert "1 of 3 clips could not be predicted" in messages
    assert "skipped 1 files that are not recordings: 1 .md." in messages
    first, bad, last = lines(output)
    assert first["modalities"] == ["text", "audio", "video"]
    assert last["modalities"] == ["audio", "video"]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert bad["clip"] == str(folder / "b.wav")
    assert "b.wav: not a readable media file" in bad["error"]
    assert not list(tmp_path.glob("*.tmp"))


def test_transcript_in_another_encoding_is_an_error_of_that_clip(predict, folder, tmp_path):
    (folder / "a.txt").write_bytes("déjà vu".encode("latin-1"))
    (folder / "b.wav").unlink()
    output = tmp_path / "predictions.jsonl"
    with pytest.raises(SystemExit):
        predict("--folder", folder, "--output", output)
    first, last = lines(output)
    assert (
        first["error"]
        == f"{folder}/a.txt: a transcript that is not UTF-8 (invalid continuation byte). Save it as UTF-8."
    )
    assert "error" not in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "Hi", "--speaker_normalization"], "needs all clips of a speaker: give --folder"),
        (["--folder", ".", "--speaker_normalization", "--window_hop", "2"], "is for whole clips"),
    ],
)
def test_speakers_of_one_clip_or_of_windows_are_refused(options, message, capsys):
    parser = make_parser()
    with pytest.raises(SystemExit):
        check_arguments(parser, parser.parse_args(["--model_name_or_path", "runs/any", *options]))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("hop", ["0", "-1", "99", "nan"])
def test_impossible_hop_is_refused_once(predict, folder, tmp_path, hop):
    output = tmp_path / "predictions.jsonl"
    with pytest.raises(SystemExit, match=rf"error: --window_hop is {hop}.*; it must be"):
        predict("--folder", folder, "--output", output, "--window_hop", hop)
    assert not output.exists()


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.parquet"])
def test_folder_without_errors(predict, folder, tmp_path, name):
    (folder / "b.wav").unlink()
    output = tmp_path / name
    predict("--folder", folder, "--output", output)
    if output.suffix == ".jsonl":
        predictions = lines(output)
    else:
        rows = pq.read_table(output).to_pylist()
        predictions = [json.loads(row["answer"]) for row in rows]
        assert [row["label"] for row in rows] == [prediction["label"] for prediction in predictions]
        assert [row["error"] for row in rows] == [None, None]
    assert [prediction["clip"] for prediction in predictions] == [str(folder / "a.mp4"), str(folder / "deep/c.MP4")]


def test_predictions_match_the_model(checkpoint, make_model, corpus):
    processor = EGMFProcessor.from_pretrained(checkpoint)
    model = make_model("waveform", "frames", lora=None)
    inputs = {"video": str(corpus / "clips/0.mp4"), "text": "a", "task": "emotion"}
    expected = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
    assert Predictor(model, processor).predict(**inputs) == expected
    largest = Predictor(model, processor, top_k=1).predict(**inputs)
    assert list(largest["probabilities"]) == [expected["label"]]


def test_calibrated_predictions(predict, checkpoint, corpus, tmp_path, capsys):
    options = ("--text", "a", "--task", "emotion", "--calibrated")
    with pytest.raises(SystemExit, match=r"--calibrated: .* is not calibrated. Run egmf calibrate on it"):
        predict(*options)
    processor = EGMFProcessor.from_pretrained(checkpoint)
    processor.task_objects["emotion"].calibration["text"] = {"temperature": 2.0, "uniform_weight": 0.0}
    processor.save_pretrained(shutil.copytree(checkpoint, tmp_path / "calibrated"))
    main(["--model_name_or_path", str(tmp_path / "calibrated"), "--device", "cpu", *options])
    calibrated = printed(capsys)["probabilities"]
    predict(*options[:-1])
    roots = {label: probability**0.5 for label, probability in printed(capsys)["probabilities"].items()}
    total = sum(roots.values())
    assert calibrated == pytest.approx({label: root / total for label, root in roots.items()})


def test_a_model_without_video_hears_the_soundtrack(make_model, make_processor, corpus, tmp_path, capsys):
    make_model("waveform", None, lora=None).save_pretrained(tmp_path)
    make_processor("waveform", None).save_pretrained(tmp_path)
    argv = ["--model_name_or_path", str(tmp_path), "--device", "cpu", "--video", str(corpus / "clips/0.mp4")]
    main(argv)
    assert printed(capsys)["modalities"] == ["audio"]
    with pytest.raises(SystemExit, match="--modalities text video: this model has text, audio"):
        main([*argv, "--modalities", "text", "video"])


# ---- interruptions ----------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(predict, folder, tmp_path, monkeypatch):
    """The output file of a command that was interrupted after the first clip, and a list of the clips predicted."""
    output = tmp_path / "predictions.jsonl"
    shutil.copy(folder / "deep/c.MP4", folder / "d.mp4")
    predicted = []
    original = Predictor.predict

    def stop_at_the_last(self, speaker=None, **sample):
        name = sample["sample_names"]
        if name.endswith("d.mp4") and not predicted[1:]:
            raise KeyboardInterrupt
        predicted.append(os.path.basename(name))
        return original(self, speaker, **sample)

    monkeypatch.setattr(Predictor, "predict", stop_at_the_last)
    with pytest.raises(SystemExit) as ended:
        predict("--folder", folder, "--output", output)
    assert ended.value.code == 130
    assert predicted == ["a.mp4"]
    monkeypatch.setattr(Predictor, "predict", lambda self, *a, **k: predicted.append("") or original(self, *a, **k))
    predicted.clear()
    return output, predicted


def names_beside(output):
    return sorted(path.name for path in output.parent.iterdir() if output.name in path.name)


def test_finished_predictions_survive_an_interruption(predict, folder, interrupted, tmp_path, capsys):
    output, predicted = interrupted
    assert names_beside(output) == [".predictions.jsonl.unfinished-0-of-1"]
    with pytest.raises(SystemExit):  # one clip is broken
        predict("--folder", folder, "--output", output)
    assert "1 clips were predicted before the interruption; 3 are left." in capsys.readouterr().out
    assert len(predicted) == 2  # the broken one is not asked
    assert names_beside(output) == ["predictions.jsonl"]
    whole = tmp_path / "whole.jsonl"
    with pytest.raises(SystemExit):
        predict("--folder", folder, "--output", whole)
    assert lines(output) == lines(whole)


def test_a_cut_off_line_is_predicted_again(predict, folder, interrupted):
    output, predicted = interrupted
    (unfinished,) = [path for path in output.parent.iterdir() if "unfinished" in path.name]
    unfinished.write_bytes(unfinished.read_bytes()[:-20])
    with pytest.raises(SystemExit):
        predict("--folder", folder, "--output", output)
    assert len(predicted) == 3
    assert [os.path.basename(line["clip"]) for line in lines(output)] == ["a.mp4", "b.wav", "d.mp4", "c.MP4"]


@pytest.mark.parametrize("change", ["options", "transcript", "model"])
def test_what_has_changed_is_predicted_again(predict, folder, interrupted, checkpoint, change):
    output, predicted = interrupted
    options = ["--top_k", "2"] if change == "options" else []
    if change == "transcript":
        (folder / "a.txt").write_text("I'm not fine at all.", encoding="utf-8")
    if change == "model":
        os.utime(f"{checkpoint}/model.safetensors")
    with pytest.raises(SystemExit):
        predict("--folder", folder, "--output", output, *options)
    assert len(predicted) == 3


def test_output_is_not_overwritten(predict, tmp_path, capsys):
    output = tmp_path / "predictions.jsonl"
    output.write_text("precious")
    with pytest.raises(SystemExit) as caught:
        predict("--text", "a", "--output", output)
    assert caught.value.code == 2
    assert "already exists" in capsys.readouterr().err
    assert output.read_text() == "precious"
    predict("--text", "a", "--output", output, "--overwrite")
    assert "label" in json.loads(output.read_text())


def test_a_linked_output_without_a_folder_names_where_it_leads(predict, tmp_path, capsys):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone/a.jsonl")
    with pytest.raises(SystemExit) as caught:
        predict("--text", "a", "--output", tmp_path / "link.jsonl")
    assert caught.value.code == 2
    assert f"there is no folder {tmp_path / 'gone'} to write into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--folder", "absent"], 2, "--folder absent is not a folder"),
        (["--folder", "EMPTY"], "error: --folder EMPTY has no media files. Supported extensions: .mp4", ""),
        ([], 2, "Give --text, --audio or --video"),
        (["--folder", ".", "--text", "a"], 2, "--folder takes no --text"),
        (["--folder", ".", "--text_column", "words"], 2, "--text_column says how to read a --dataset, and none is"),
        (["--text", "a", "--split", "train"], 2, "--split says how to read a --dataset"),
        (["--text", "a", "--output", "EMPTY"], 2, "--output EMPTY is a folder"),
        (
            ["--text", "a", "--output", "/dev/null", "--overwrite"],
            2,
            "/dev/null is not a regular file. Leave --output",
        ),
        (["--text", "a", "--output", "x.CSV"], 2, "predictions are written as JSON Lines (.jsonl) or Parquet"),
        (["--text", "a", "--output", "absent/x.jsonl"], 2, "there is no folder absent to write into"),
        (["--text", "a", "--task", "mood"], "error: Unknown task 'mood'; use any of ", ""),
        (["--video", "absent.mp4"], 1, "'absent.mp4' does not exist"),
        (["--text", "a", "--modalities", "smell"], "error: --modalities smell: this model has text, audio, video", ""),
    ],
)
def test_wrong_options_and_clips_are_reported(predict, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    with pytest.raises(SystemExit) as caught:
        predict(*arguments)
    assert str(caught.value.code).startswith(str(code))
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_the_answer_says_how_many_frames_show_the_face(make_model, make_processor, folder):
    def detect(frames):
        return [[(0, 0, 24, 24, 1.0)] if index else [] for index in range(len(frames))]

    model = make_model("waveform", "frames", lora=None)
    processor = make_processor("waveform", "frames", frames="face", face_detector=detect)
    answer = Predictor(model, processor, "emotion").predict(video=str(folder / "a.mp4"))
    assert 0.5 <= answer["face_share"] < 1
    pipe = EGMFPipeline(model=model, processor=processor)
    assert pipe(str(folder / "a.mp4"), task="emotion")["face_share"] == answer["face_share"]
    assert "face_share" not in pipe(text="Fine.", task="emotion")


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.parquet", None])
def test_file_names_that_are_not_utf_8_lose_no_predictions(predict, corpus, tmp_path, capsys, name):
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(corpus / "clips/0.mp4", os.fsdecode(bytes(folder) + b"/caf\xe9.mp4"))
    output = () if name is None else ("--output", tmp_path / name)
    predict("--folder", folder, "--task", "emotion", *output)
    if name is None:
        prediction = printed(capsys)
    elif name.endswith(".jsonl"):
        (prediction,) = lines(tmp_path / name)
    else:
        (row,) = pq.read_table(tmp_path / name).to_pylist()
        assert row["clip"] == f"{folder}/caf\\udce9.mp4"
        prediction = json.loads(row["answer"])
    assert os.fsencode(prediction["clip"]) == bytes(folder) + b"/caf\xe9.mp4"


def test_terminals_of_other_encodings_get_json_escapes():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write_lines([{"clip": "é好😀"}], file, None)
    file.seek(0)
    assert json.loads(file.read()) == {"clip": "é好😀"}
