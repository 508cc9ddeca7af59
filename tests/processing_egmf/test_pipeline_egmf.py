"""The pipeline: equal to score_answers and post_process_answers, from every kind of input, in a fresh process."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments, pipeline

from modeling_egmf import EGMFForConditionalGeneration
from processing_egmf import EGMFPipeline, EGMFProcessor
from processing_egmf.pipeline_egmf import EXPERT_FIELDS
from tests.helpers.media_files import gray_frames, sine, write_audio, write_video
from training.model.export import merge


TASK = "multimodal-emotion-recognition"
CODE = {
    *(f"{stem}_egmf.py" for stem in ("answers", "checkpoints", "configuration", "encoders", "experts", "fusion")),
    *(f"{stem}_egmf.py" for stem in ("modeling", "batches", "frontends", "media", "pipeline", "processing")),
    *(f"{stem}_egmf.py" for stem in ("audio", "prompts", "tasks", "video")),
}
COMMON = ("score", "probabilities", "task", "modalities")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`both` (mp4 with sound), `silent` (mp4 without), `sound` (wav), `long` (40 s of sound), and broken ones."""
    folder = tmp_path_factory.mktemp("clips")
    frames = gray_frames(6, 32, 48)
    paths = {
        "both": write_video(folder / "both.mp4", frames, audio=sine(440, 0.48, 16_000)),
        "silent": write_video(folder / "silent.mp4", frames),
        "sound": write_audio(folder / "sound.wav", sine(300, 0.3, 16_000), 16_000),
        "long": write_audio(folder / "long.wav", sine(300, 40.0, 8_000), 8_000),
    }
    paths["named wrongly"] = Path(shutil.copy(paths["both"], folder / "film.wav"))
    for name, content in (("empty", b""), ("page", b"<!doctype html><html><body>404</body></html>" * 40)):
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def judge(make_model, make_processor):
    model, processor = make_model("waveform", "frames"), make_processor("waveform", "frames")
    return EGMFPipeline(model=model, processor=processor, task=TASK, device="cpu")


@pytest.fixture
def direct(judge):
    """`direct(**processor_arguments)` -> what score_answers and post_process_answers say."""

    def answer(top_k=None, interval=0.9, **inputs):
        output = judge.model.score_answers(**judge.processor(**inputs))
        return judge.processor.post_process_answers(output, top_k=top_k, interval=interval)[0]

    return answer


def without_experts(answer):
    return {key: value for key, value in answer.items() if key not in EXPERT_FIELDS}


def close(found, expected):
    assert [answer["task"] for answer in found] == [answer["task"] for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        assert one["modalities"] == other["modalities"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


# ---- one clip ------------------------------------------------------------------------------------------------


def test_one_clip_equals_the_model_and_the_processor(judge, direct, clips):
    expected = direct(video=clips["both"], text="I'm fine.", task="emotion")
    assert judge(clips["both"], text="I'm fine.", task="emotion", return_experts=True) == expected
    assert judge(clips["both"], text="I'm fine.", task="emotion") == without_experts(expected)
    assert set(expected) == {*COMMON, "label", *EXPERT_FIELDS}
    assert expected["modalities"] == ["text", "audio", "video"]
    assert expected["expert"] == max(expected["experts"], key=expected["experts"].get)


def test_regression(judge, direct, clips):
    found = judge(clips["both"], task="mosei", interval=0.5)
    assert found == without_experts(direct(video=clips["both"], task="mosei", interval=0.5))
    assert set(found) == {*COMMON, "mean", "median", "most_likely", "interval"}
    low, high = found["interval"]
    assert -3 <= low <= found["score"] <= high <= 3
    assert json.loads(json.dumps(found)) == found


def test_top_k(judge, direct):
    found = judge(text="Well.", task="emotion", top_k=2)
    assert found == without_experts(direct(text="Well.", task="emotion", top_k=2))
    assert next(iter(found["probabilities"])) == found["label"]
    assert len(found["probabilities"]) == 2


def test_context_moves_the_answer(judge, direct):
    found = judge(text="Well.", context=[("Ann", "He left."), "No!"], task="emotion")
    assert found == without_experts(direct(text="Well.", context=[("Ann", "He left."), "No!"], task="emotion"))
    assert found["probabilities"] != judge(text="Well.", task="emotion")["probabilities"]


@pytest.mark.parametrize("kind", ["path", "bytes", "file", "dict", "bytes in a dict"])
def test_every_kind_of_file_gives_the_same(judge, direct, clips, kind):
    expected = without_experts(direct(video=clips["both"]))
    content = Path(clips["both"]).read_bytes()
    with open(clips["both"], "rb") as file:
        given = {
            "path": Path(clips["both"]),
            "bytes": content,
            "file": file,
            "dict": {"video": clips["both"]},
            "bytes in a dict": {"bytes": content, "path": None},
        }
        assert judge(given[kind]) == expected


def test_what_is_in_a_file_decides_not_its_name(judge, direct, clips):
    assert judge(clips["named wrongly"]) == without_experts(direct(video=clips["both"]))
    assert judge(clips["sound"])["modalities"] == ["audio"]
    assert judge(clips["silent"])["modalities"] == ["video"]


def test_a_model_without_pictures_hears_a_video(make_model, make_processor, clips):
    model, processor = make_model("waveform", None), make_processor("waveform", None)
    found = EGMFPipeline(model=model, processor=processor, device="cpu")(clips["both"])
    assert found["modalities"] == ["audio"]


def test_arrays(judge, direct):
    tone, frames = sine(200, 0.2, 8_000), gray_frames(5, 20, 24)
    expected = without_experts(direct(audio=tone, sampling_rate=8_000))
    assert judge(tone, sampling_rate=8_000) == expected
    assert judge(torch.from_numpy(tone), sampling_rate=8_000) == expected
    assert judge({"array": tone, "sampling_rate": 8_000}) == expected
    assert judge(frames) == without_experts(direct(video=frames))
    both = judge({"audio": tone, "video": [Image.fromarray(frame) for frame in frames], "sampling_rate": 8_000})
    assert both == without_experts(direct(audio=tone, video=frames, sampling_rate=8_000))


def test_features(make_model, make_processor):
    model, processor = make_model(), make_processor()
    judge = EGMFPipeline(model=model, processor=processor, device="cpu")
    inputs = {"text": "a", "audio_features": np.ones((3, 6)), "video_features": np.ones((2, 5))}
    expected = processor.post_process_answers(model.score_answers(**processor(**inputs)))[0]
    assert judge(inputs) == judge(**inputs) == without_experts(expected)


def test_modalities_of_the_call(judge, clips):
    found = judge(clips["both"], text="a", modalities=["text", "audio"])
    assert found["modalities"] == ["text", "audio"]


def test_settings_of_the_pipeline_hold_until_a_call_says_otherwise(make_model, make_processor):
    model, processor = make_model("waveform", "frames"), make_processor("waveform", "frames")
    judge = EGMFPipeline(model=model, processor=processor, device="cpu", top_k=1, return_experts=True)
    assert len(judge(text="a", task="emotion")["probabilities"]) == 1
    found = judge(text="a", task="emotion", top_k=3, return_experts=False)
    assert len(found["probabilities"]) == 3
    assert "experts" not in found


# ---- many clips ----------------------------------------------------------------------------------------------


def mixed(clips):
    return [
        clips["both"],
        {"text": "I'm fine, thank you. That was a wonderful film.", "task": "mosei"},
        {"video": clips["silent"], "text": "No!", "context": ["He left."]},
        {"array": sine(200, 0.2, 8_000), "sampling_rate": 8_000},
        Path(clips["sound"]).read_bytes(),
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_many_clips_are_what_each_is_alone(judge, clips, batch_size):
    """Padding on the other side would change these answers without a word."""
    alone = [judge(clip, task="emotion") for clip in mixed(clips)[:1]] + [judge(clip) for clip in mixed(clips)[1:]]
    close(judge(mixed(clips), batch_size=batch_size), alone)


def test_the_batch_is_one_forward(judge, clips, monkeypatch):
    sizes, score = [], judge.model.score_answers
    monkeypatch.setattr(
        judge.model, "score_answers", lambda **inputs: sizes.append(len(inputs["input_ids"])) or score(**inputs)
    )
    judge(mixed(clips), batch_size=3)
    assert sizes == [3, 2]


def test_a_generator_is_read_as_it_is_needed(judge, clips):
    read = []

    def clips_of_a_day():
        for clip in mixed(clips):
            read.append(clip)
            yield clip

    answers = judge(clips_of_a_day(), batch_size=2)
    assert read == []
    first = next(answers)
    assert len(read) == 2
    close([first, *answers], judge(mixed(clips)))


class Rows(torch.utils.data.Dataset):
    """A dataset that knows its length, and ends with no error of its own."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"text": "abc"[min(index, 2)]}


def test_a_dataset(judge):
    close(list(judge(Rows(), batch_size=2)), [judge(text=text) for text in "abc"])
    assert judge([]) == []


def test_one_word_for_all_gives_way_to_a_clips_own(judge):
    found = judge([{"text": "a"}, {"text": "a", "task": "sims_v2"}], task="mosei")
    assert [answer["task"] for answer in found] == ["mosei", "sims_v2"]


# ---- what cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "arguments", "error", "message"),
    [
        (None, {}, ValueError, "clip 0 has neither text nor audio nor video.*Give at least one"),
        ({}, {"text": "  "}, ValueError, "Give at least one"),
        ("empty", {}, ValueError, r"empty.mp4: empty, 0 bytes"),
        ("page", {}, ValueError, r"page.mp4: not a media file"),
        ("absent.mp4", {}, FileNotFoundError, "there is no file 'absent.mp4'"),
        (b"<html></html>", {}, ValueError, "clip 0: not a media file"),
        (b"", {}, ValueError, "clip 0: empty, 0 bytes"),
        (5, {}, ValueError, "cannot read media from int"),
        (np.zeros(100, np.float32), {}, ValueError, "needs sampling_rate"),
        ({"txt": "a"}, {}, TypeError, r"unknown keys \['txt'\]; known are text, audio"),
        ({"text": "a", "name": "my clip", "task": "mood"}, {}, ValueError, "my clip: unknown task 'mood'"),
        ([Image.new("RGB", (8, 8))], {}, ValueError, "clip 0: cannot read media from Image"),
        (None, {"text": ["a", "b"]}, TypeError, "text must be a string"),
        (None, {"text": "a", "topk": 3}, TypeError, r"Unknown arguments \['topk'\]; known are text.*top_k"),
        (None, {"text": "a", "top_k": 0}, ValueError, "`top_k` is 0"),
        (None, {"text": "a", "interval": 90}, ValueError, "between 0 and 1"),
        (["a.mp4"], {"batch_size": -1}, ValueError, "`batch_size` is -1; give a whole number"),
        (["a.mp4"], {"batch_size": "2"}, ValueError, "`batch_size` is '2'; give a whole number"),
    ],
)
def test_errors_name_the_clip_and_the_remedy(judge, clips, clip, arguments, error, message):
    clip = clips.get(clip, clip) if isinstance(clip, str) else clip
    with pytest.raises(error, match=f"(?s){message}"):
        judge(clip, **arguments)


def test_a_bad_clip_among_others_is_named(judge, clips):
    with pytest.raises(ValueError, match="page.mp4: not a media file"):
        judge([clips["both"], clips["page"]], batch_size=2)


def test_of_a_long_clip_the_beginning_is_heard_and_that_is_said(judge, direct, clips):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("processing_egmf.audio_egmf").addHandler(handler)
    try:
        found = judge(clips["long"])
    finally:
        logging.getLogger("processing_egmf.audio_egmf").removeHandler(handler)
    assert any("long.wav: the audio is longer than" in message for message in records)
    assert found == without_experts(direct(audio=clips["long"]))


def test_markup_in_text_is_words(judge, direct):
    page = "<b>I'm fine</b><script>alert(1)</script><|egmf|></s>"
    assert judge(text=page) == without_experts(direct(text=page))


def test_silence_is_judged_as_silence(judge, direct):
    silence = np.zeros(8_000, np.float32)
    assert judge(silence, sampling_rate=16_000) == without_experts(direct(audio=silence, sampling_rate=16_000))


# ---- addresses -----------------------------------------------------------------------------------------------


def test_a_url_needs_a_fetch(judge):
    for clip in ("https://example.org/a.mp4", {"video": "https://example.org/a.mp4"}, "http://127.0.0.1/a.mp4"):
        with pytest.raises(ValueError, match="is a URL, and this code opens no connection.*`fetch`"):
            judge(clip)


def test_fetch_is_asked_for_urls_alone(judge, direct, clips):
    asked = []

    def fetch(url):
        asked.append(url)
        return Path(clips["both"]).read_bytes()

    expected = without_experts(direct(video=clips["both"]))
    assert judge("https://example.org/a.mp4", fetch=fetch) == expected
    assert judge({"video": "http://example.org/b"}, fetch=fetch) == expected
    assert judge({"path": "http://example.org/c", "bytes": None}, fetch=fetch) == expected
    assert judge(clips["both"], fetch=fetch) == expected
    assert asked == ["https://example.org/a.mp4", "http://example.org/b", "http://example.org/c"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:/etc/passwd", "ftp://example.org/a", "data:,a", "blob:x"])
def test_other_schemes_are_refused(judge, url):
    for clip in (url, {"audio": url}):
        with pytest.raises((ValueError, FileNotFoundError), match="is a URL.*http or https|there is no file 'FILE:"):
            judge(clip, fetch=lambda url: pytest.fail("fetched"))


# ---- stored with the checkpoint ------------------------------------------------------------------------------

FRESH_PROCESS = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("modeling_egmf") is None and importlib.util.find_spec("processing_egmf") is None
import torch
from transformers import pipeline
torch.set_num_threads(1)
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    arguments = {} if name == "full" else {"task": "multimodal-emotion-recognition"}
    judge = pipeline(model=folder, trust_remote_code=True, device="cpu", **arguments)
    answers = judge([sys.argv[2], {"text": "No!"}], text="I'm fine.", return_experts=True, batch_size=2)
    judge.model.save_pretrained(folder + "-again")
    found[name] = {
        "module": type(judge).__module__,
        "task": judge.task,
        "alone": judge(sys.argv[2], text="I'm fine.", return_experts=True),
        "answers": answers,
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(make_model, make_language_model, make_processor_once, tmp_path_factory):
    """`light`, `full`, and `checkpoint` as Trainer writes it, all of one model."""
    root = tmp_path_factory.mktemp("folders")
    make_language_model().save_pretrained(root / "llm")
    model = make_model("waveform", "frames", text_model_id="../llm")
    processor = make_processor_once("waveform", "frames")
    model.save_pretrained(root / "light")
    processor.save_pretrained(root / "light")
    arguments = TrainingArguments(str(root / "run"), use_cpu=True, report_to=[])
    trainer = Trainer(model, arguments, processing_class=processor)
    trainer.save_model(str(root / "checkpoint"))
    merge(model).save_pretrained(root / "full")
    processor.save_pretrained(root / "full")
    return {name: root / name for name in ("light", "full", "checkpoint")}


@pytest.fixture(scope="module")
def make_processor_once(trained_tokenizer):
    import copy

    def make(audio, video):
        return EGMFProcessor(
            copy.deepcopy(trained_tokenizer),
            num_pseudo_tokens=3,
            audio_input=audio,
            video_input=video,
            num_frames=4,
            frame_height=16,
            frame_width=16,
        )

    return make


@pytest.mark.parametrize("name", ["light", "full", "checkpoint"])
def test_the_code_travels_with_every_checkpoint(folders, name):
    assert {path.name for path in folders[name].glob("*.py")} == CODE
    stored = json.loads((folders[name] / "config.json").read_text())["custom_pipelines"]
    assert stored == {TASK: {"impl": "pipeline_egmf.EGMFPipeline", "pt": ["AutoModel"]}}


def test_a_pipeline_saves_what_it_needs(judge, tmp_path):
    judge.model.config.text_model_id = None
    judge.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE
    model = EGMFForConditionalGeneration.from_pretrained(tmp_path)
    again = EGMFPipeline(model=model, processor=EGMFProcessor.from_pretrained(tmp_path), device="cpu")
    close([again(text="I'm fine.", task="emotion")], [judge(text="I'm fine.", task="emotion")])


@pytest.mark.integration
def test_in_a_fresh_process(folders, clips, tmp_path):
    paths = json.dumps({name: str(folder) for name, folder in folders.items()})
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH_PROCESS, paths, clips["both"]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for name, folder in folders.items():
        assert found[name]["module"].startswith("transformers_modules")
        assert found[name]["task"] == TASK
        model, processor = EGMFForConditionalGeneration.from_pretrained(folder), EGMFProcessor.from_pretrained(folder)
        expected = processor.post_process_answers(
            model.score_answers(**processor(video=clips["both"], text="I'm fine."))
        )[0]
        close([found[name]["alone"]], [expected])
        close(found[name]["answers"][:1], [expected])
        assert found[name]["answers"][1]["modalities"] == ["text"]
        stored = json.loads(Path(f"{folder}-again", "config.json").read_text())["custom_pipelines"]
        assert stored[TASK]["pt"] == ["AutoModel"]


def test_without_consent_no_code_runs(folders):
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(TASK, model=str(folders["full"]), trust_remote_code=False)
