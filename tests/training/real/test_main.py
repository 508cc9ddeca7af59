"""`make real` from a tiny RAVDESS to a report and a prediction, with a tiny encoder; refusals before any work."""

import copy
import re

import pytest
from transformers import AutoModel, WhisperFeatureExtractor

from tests.helpers.acted_speech import copy_to, face_points, openface_rows, ravdess_name, write_table, write_wave
from tests.helpers.backbone_configs import AUDIO_BACKBONES
from tests.helpers.corpus_files import tiny_llama, write_language_model
from training.real.__main__ import convert, main, make_parser, predict
from training.records import read_json


TINY = {
    "encoder_hidden_size": 8, "fusion_hidden_size": 16, "lora_r": 2, "max_clip_seconds": 1, "max_steps": 2,
    "fusion_pretraining_epochs": 1, "per_device_train_batch_size": 4, "text_model_dtype": "float32",
    "disable_tqdm": "true",
}  # fmt: skip


def write_release(folder):
    """Three actors with two emotions each, and landmarks of all."""
    wave = write_wave(folder.parent / "a.wav")
    for actor in (1, 2, 3):
        for emotion in (1, 5):
            name = ravdess_name(actor, emotion)
            copy_to(wave, folder / f"Actor_{actor:02d}/{name}.wav")
            write_table(folder / f"FacialTracking/{name}.csv", openface_rows(face_points()))
    return folder


def test_wrong_options_are_refused_before_any_work(tmp_path):
    paths = ["--output", str(tmp_path / "run"), "--dataset", str(tmp_path / "corpus"), "--cache", str(tmp_path)]
    with pytest.raises(SystemExit, match="is not a folder. Give the folder with RAVDESS's unpacked archives"):
        main(["--data", str(tmp_path / "nowhere"), *paths])
    with pytest.raises(SystemExit, match=r"--clip .*b.wav does not exist"):
        main(["--data", str(tmp_path), "--clip", str(tmp_path / "b.wav"), *paths])
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), *paths, "--", "--lora_rank", "3"])
    assert list(tmp_path.iterdir()) == []


def test_corpus_of_an_older_converter_is_replaced_if_asked(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("training.real.__main__.run_stage", lambda name, command, timings: commands.append(command))
    options = ["--data", str(tmp_path)]
    convert(make_parser().parse_args(options), {})
    convert(make_parser().parse_args([*options, "--overwrite"]), {})
    assert commands[1] == [*commands[0], "--overwrite"]


@pytest.mark.parametrize(
    ("clip", "video", "option"),
    [
        ("a.wav", "features", "--audio"),
        ("a.mp4", "features", "--audio"),
        ("a.mp4", "clip-vit-base", "--video"),
        ("a.mp4", "none", "--video"),
    ],
)
def test_model_of_landmarks_hears_the_sound_of_a_video(clip, video, option, tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr("training.real.__main__.run_stage", lambda name, command, timings: commands.append(command))
    predict(make_parser().parse_args(["--data", str(tmp_path), "--clip", clip]), video, {})
    assert commands[0][-2:] == [option, clip]
    is_partial = (clip, video) == ("a.mp4", "features")
    assert ("only its sound is used" in capsys.readouterr().out) == is_partial


@pytest.mark.slow
def test_from_release_to_prediction(tmp_path, trained_tokenizer, capfd):
    tokenizer = copy.deepcopy(trained_tokenizer)
    llm = write_language_model(tmp_path / "llm", tiny_llama(tokenizer), tokenizer)
    config = copy.deepcopy(AUDIO_BACKBONES["whisper"])
    config.max_source_positions = 50  # a second
    AutoModel.from_config(config).save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path / "whisper")
    paths = {
        "data": write_release(tmp_path / "R"), "output": tmp_path / "run", "dataset": tmp_path / "corpus",
        "audio": tmp_path / "whisper", "text_model_name_or_path": llm,
    }  # fmt: skip
    options = [part for name, value in paths.items() for part in (f"--{name}", str(value))]
    training = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    training += ["--encoder_cache", str(tmp_path / "cache"), "--use_cpu", "true"]
    main([*options, "--", *training])
    printed = capfd.readouterr().out
    assert "The model takes audio and video (video: features)." in printed
    assert "prediction of 03-01-05-01-01-01-01.wav, actor_01 who was held out; true: angry" in printed
    results = read_json(tmp_path / "run/results-test.json")
    assert set(results["subsets"]) == {"audio", "video", "audio+video"}
    report = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    assert re.search(r"audio \+ video.*\d\.\d{3}", report)
    assert "Test split: 2 examples of ravdess" in report

    written = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    main([*options, "--clip", str(tmp_path / "a.wav"), "--", *training])
    printed = capfd.readouterr().out
    assert "is trained with these options; it is kept" in printed
    assert f"prediction of {tmp_path / 'a.wav'}" in printed
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == written
