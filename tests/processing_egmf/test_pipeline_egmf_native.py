"""The pipeline as `transformers` runs any pipeline: its three steps, workers, datasets, a loaded model."""

import copy

import pytest
from datasets import Audio, Dataset, Video
from torch.utils.data import IterableDataset
from transformers import pipeline
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.pipelines.pt_utils import KeyDataset

from processing_egmf import EGMFPipeline


TASK = "multimodal-emotion-recognition"
MOOD = {"name": "mood", "kind": "classification", "labels": ["good", "bad"], "prompt": "\nThe mood is"}
TEXTS = ("I'm fine.", "No! I can't believe it, that was a wonderful film.", "Well.")


@pytest.fixture(scope="module")
def pipe(make_model, make_processor):
    """Made by `transformers.pipeline` from a loaded model and its processor."""
    made = pipeline(
        TASK, model=make_model("waveform", "frames"), processor=make_processor("waveform", "frames"), device="cpu"
    )
    assert type(made) is EGMFPipeline
    return made


@pytest.fixture(scope="module")
def expected(pipe):
    """Probabilities of the texts, each alone."""
    return [pipe(text=text)["probabilities"] for text in TEXTS]


def assert_same(answers, expected):
    answers = list(answers)
    assert len(answers) == len(expected)
    for answer, probabilities in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, abs=1e-5)


def test_the_three_steps_by_hand(pipe, clips):
    prepared = pipe.preprocess({"video": clips["both"], "text": "a"}, task="emotion")
    assert pipe.postprocess(pipe.forward(prepared)) == pipe(clips["both"], text="a", task="emotion")
    with pytest.raises(FileNotFoundError, match="'absent.mp4' does not exist"):
        pipe.preprocess("absent.mp4")


def test_workers_prepare_clips_in_order(pipe, expected, clips):
    """Also what is checked over all clips, and with a task that only the call knows."""
    given = [{"text": text} for text in TEXTS]
    assert_same(pipe(given, num_workers=2, batch_size=2), expected)
    bad = [clips["silent"], clips["words"], "absent.mp4", {"text": "b"}, clips["both"]]
    options = {"text": "a", "on_error": "skip", "batch_size": 2, "task": MOOD}
    found = pipe(bad, num_workers=2, **options)
    assert [set(answer) == {"error"} for answer in found] == [False, True, True, False, True]
    assert f"{clips['both']}: text is given once, and another clip has it already" in found[4]["error"]
    again = copy.copy(pipe)
    again.processor = copy.copy(pipe.processor)
    again.processor.task_objects = dict(list(pipe.processor.task_objects.items())[:1])
    assert again(bad, **options) == found
    with pytest.raises(FileNotFoundError, match="^absent.mp4: 'absent.mp4' does not exist") as caught:
        pipe([clips["silent"], "absent.mp4"], num_workers=1)
    assert "Traceback" not in str(caught.value)


def test_chats(pipe, clips):
    """One, and several; a message's media are read as those of any other clip."""
    chat = [
        {"role": "assistant", "content": "How are you?"},
        {"role": "user", "content": [{"type": "video", "path": clips["silent"]}, {"type": "text", "text": "Well."}]},
    ]
    expected = pipe(clips["silent"], text="Well.", context=[("assistant", "How are you?")], task=MOOD)
    assert pipe(chat, task=MOOD) == expected
    assert pipe([chat, [{"role": "user", "content": "Well."}]], task=MOOD)[0] == expected
    with pytest.raises(ValueError, match="clip 1: the last message must be the user's"):
        pipe([chat, chat[:1]])


def test_printed(pipe):
    printed = repr(pipe)
    assert printed.startswith("EGMFPipeline: {'model': 'EGMFForConditionalGeneration', 'dtype': torch.float32")
    assert "'modalities': ('text', 'audio', 'video')" in printed


def test_batches_do_not_depend_on_sub_processors(pipe, expected):
    """The base class refuses batches if a feature extractor pads on another side than the tokenizer."""
    extractor = SequenceFeatureExtractor(feature_size=1, sampling_rate=16_000, padding_value=0.0)
    assert extractor.padding_side == "right"
    made = EGMFPipeline(
        model=pipe.model, processor=pipe.processor, feature_extractor=extractor, device="cpu", batch_size=3
    )
    assert_same(made([{"text": text} for text in TEXTS]), expected)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{"text": text} for text in TEXTS])


def test_rows_of_datasets(pipe, expected, clips):
    texts = Dataset.from_dict({"text": list(TEXTS)})
    for rows in (texts, texts.to_iterable_dataset(), Stream()):
        assert_same(pipe(rows, batch_size=2), expected)
    paths = {"audio": [clips["audio"], None], "video": [clips["silent"], clips["both"]], "text": [None, "a"]}
    rows = Dataset.from_dict(paths).cast_column("audio", Audio(decode=False)).cast_column("video", Video(decode=False))
    alone = [pipe({"audio": clips["audio"], "video": clips["silent"]}), pipe(clips["both"], text="a")]
    assert list(pipe(rows)) == alone
    videos = pipe(KeyDataset(rows, "video"), task="emotion")
    assert [answer["modalities"] for answer in videos] == [["video"], ["audio", "video"]]
    assert_same(pipe(rows["video"], batch_size=2), [pipe(clip)["probabilities"] for clip in paths["video"]])


def test_labels_restrict_the_answers(pipe):
    everything = pipe(text="a", task="emotion")["probabilities"]
    found = pipe(text="a", task="emotion", labels=["joy", "anger"])
    share = everything["joy"] / (everything["joy"] + everything["anger"])
    assert found["probabilities"] == pytest.approx({"joy": share, "anger": 1 - share}, abs=1e-6)
    assert found["score"] == max(found["probabilities"].values()) == found["probabilities"][found["label"]]
    with pytest.raises(ValueError, match="task 'mosei' is a regression. Leave `labels` out"):
        pipe(text="a", task="mosei", labels=["joy", "anger"])


def test_push_goes_the_way_of_the_model(pipe, monkeypatch):
    """So that a checkpoint which names a local folder is refused; the pipeline of the library would upload it."""
    pushed = []
    monkeypatch.setattr(pipe.processor, "push_to_hub", lambda *names, **options: pushed.append((names, options)))

    def refuse(*names, **options):
        raise ValueError("The checkpoint names /llm, a folder that no one else has.")

    monkeypatch.setattr(pipe.model, "push_to_hub", refuse)
    with pytest.raises(ValueError, match="a folder that no one else has"):
        pipe.push_to_hub("ada/x", private=True)
    assert pushed == []
    monkeypatch.setattr(pipe.model, "push_to_hub", lambda *names, **options: f"https://hub/{names[0]}")
    assert pipe.push_to_hub("ada/x", private=True) == "https://hub/ada/x"
    assert pushed == [(("ada/x",), {"private": True})]


def test_saving_does_not_push(pipe, tmp_path):
    """Model and tokenizer were uploaded without the processor."""
    with pytest.raises(ValueError, match=r"Give the repo to pipe.push_to_hub\(\) instead"):
        pipe.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="ada/x")
    assert not (tmp_path / "saved").exists()
    pipe.save_pretrained(tmp_path / "saved", push_to_hub=False)
    assert (tmp_path / "saved" / "processor_config.json").is_file()
