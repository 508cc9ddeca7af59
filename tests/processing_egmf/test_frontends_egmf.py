"""Front ends: the feature extractors and image processors of pretrained encoders."""

import json
from contextlib import contextmanager

import pytest
import torch
import transformers
from packaging import version
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoImageProcessor,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    VideoMAEImageProcessorPil,
    ViTImageProcessor,
    ViTImageProcessorPil,
    VivitImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from processing_egmf import EGMFProcessor
from tests.helpers.media_files import gray_frames, sine
from tests.helpers.processor_outputs import assert_same_media, reloaded


@contextmanager
def edited_fields(folder):
    """The fields of a stored processor, written again at the end, without their checksums: the edit is meant."""
    path = folder / "processor_config.json"
    fields = json.loads(path.read_text())
    fields.pop("settings_checksum", None)
    yield fields
    path.write_text(json.dumps(fields))


def test_frontend_wav2vec2(make_processor, tmp_path):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    processor = make_processor("waveform", None, feature_extractor=extractor)
    tone = sine(200, 0.1, 16_000)
    batch = processor(audio=[tone, tone[:800]], sampling_rate=16_000)
    assert batch["audio_values"].shape == (2, 1600)
    assert batch["audio_mask"].sum(dim=1).tolist() == [1600, 800]
    assert batch["audio_values"][0].mean() == pytest.approx(0, abs=1e-4)
    assert batch["audio_values"][0].std() == pytest.approx(1, abs=1e-2)
    again = reloaded(processor, tmp_path)
    assert again.feature_extractor.to_dict() == extractor.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()
    assert not {"image_processor", "video_processor"} & vars(again).keys()
    with pytest.raises(OSError, match="Can't load image processor"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_frontend_whisper(make_processor, tmp_path):
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1, return_attention_mask=True)
    processor = make_processor("waveform", None, feature_extractor=extractor)
    batch = processor(
        audio=[sine(200, 0.5, 16_000), sine(200, 0.25, 16_000), None],
        text=["a", "b", "c"],
        sampling_rate=16_000,
    )
    assert batch["audio_values"].shape == (3, 50, 8)  # not padded to the second that the extractor pads to
    assert batch["audio_mask"].sum(dim=1).tolist() == [50, 25, 0]
    assert_same_media(
        reloaded(processor, tmp_path)(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
        processor(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
    )


def test_frontend_whisper_keeps_the_length_of_the_clip(make_processor):
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    processor = make_processor("waveform", None, feature_extractor=extractor)
    # Every frame is real; as many frames as mel bands, without and with those after the clip; part of a frame.
    for seconds, steps in ((1.0, 100), (0.08, 8), (0.06, 6), (0.025, 3)):
        tone = sine(200, seconds, 16_000)
        batch = processor(audio=tone, sampling_rate=16_000)
        assert batch["audio_mask"].tolist() == [[True] * steps]
        features = extractor(tone, sampling_rate=16_000, return_tensors="pt")["input_features"]  # (1, 8, 100)
        torch.testing.assert_close(batch["audio_values"], features[:, :, :steps].transpose(1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("extractor", [SeamlessM4TFeatureExtractor, ParakeetFeatureExtractor, ASTFeatureExtractor])
@pytest.mark.parametrize("seconds", [0.5, 0.033])
def test_frontend_of_spectrograms(make_processor, extractor, seconds):
    if extractor is ParakeetFeatureExtractor and version.parse(transformers.__version__) < version.parse("5.23"):
        pytest.importorskip("librosa")  # which older versions use
    processor = make_processor("waveform", None, feature_extractor=extractor())
    batch = processor(audio=sine(200, seconds, 16_000), sampling_rate=16_000)
    assert batch["audio_values"].ndim == 3
    assert batch["audio_mask"].shape == batch["audio_values"].shape[:2]
    assert batch["audio_mask"].all()
    assert batch["audio_values"].isfinite().all()


@pytest.mark.parametrize("name", ["Wav2Vec2FeatureExtractor", "Wav2Vec2AudioProcessor"])
@pytest.mark.parametrize("key", ["feature_extractor_type", "audio_processor_type"])
@pytest.mark.parametrize("is_renamed", [False, True])
def test_feature_extractor_and_audio_processor_are_the_same(
    make_processor, tmp_path, monkeypatch, name, key, is_renamed
):
    """Fields of a version before or after the renaming, read by a version before or after it."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    make_processor("waveform", None, feature_extractor=extractor).save_pretrained(tmp_path)
    with edited_fields(tmp_path) as fields:
        del fields["feature_extractor"]["feature_extractor_type"]
        fields["feature_extractor"][key] = name
    if is_renamed:
        monkeypatch.delattr(transformers, "Wav2Vec2FeatureExtractor")
        monkeypatch.setattr(transformers, "Wav2Vec2AudioProcessor", Wav2Vec2FeatureExtractor, raising=False)
    batch = EGMFProcessor.from_pretrained(tmp_path)(audio=sine(200, 0.1, 16_000) * 0.1, sampling_rate=16_000)
    assert batch["audio_values"].std() == pytest.approx(1, abs=1e-2)


def test_stored_fields_that_are_no_sub_processor_are_refused(make_processor, tmp_path):
    make_processor("waveform", None).save_pretrained(tmp_path)
    cases = {
        "`feature_extractor` is of the class ''": {"feature_extractor": {"sampling_rate": 16_000}},
        "is of the class 'ViTModel', which is not FeatureExtractor or Aud": {
            "feature_extractor": {"audio_processor_type": "ViTModel"}
        },
        "is of the class 'AutoModel', which is not ImageProcessor of": {
            "image_processor": {"image_processor_type": "AutoModel"}
        },
    }
    for message, changed in cases.items():
        with edited_fields(tmp_path) as fields:
            for name in ("feature_extractor", "image_processor"):
                fields.pop(name, None)
            fields.update(changed)
        with pytest.raises(ValueError, match=message):
            EGMFProcessor.from_pretrained(tmp_path)


def test_sub_processors_of_the_wrong_class_are_refused(make_processor):
    vit = ViTImageProcessorPil()
    with pytest.raises(TypeError, match="Received a dict for argument feature_extractor"):
        make_processor("waveform", None, feature_extractor=Wav2Vec2FeatureExtractor().to_dict())
    with pytest.raises(TypeError, match="Received a ViTImageProcessorPil for argument feature_extractor"):
        make_processor("waveform", None, feature_extractor=vit)
    with pytest.raises(ValueError, match="an image_processor or a video_processor, not both"):
        make_processor(None, "frames", image_processor=vit, video_processor=vit)


def test_frontend_vit(make_processor, clips, tmp_path):
    image_processor = ViTImageProcessor(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = make_processor(None, "frames", image_processor=image_processor)
    frames = gray_frames(3, 24, 24)
    batch = processor(video=frames)
    assert batch["video_values"].shape == (1, 3, 3, 12, 12)
    expected = image_processor(list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["video_values"][0], expected)
    assert_same_media(reloaded(processor, tmp_path)(video=clips["both"]), processor(video=clips["both"]))
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == image_processor.to_dict()
    media = processor.load_media(video=clips["both"])
    assert_same_media(processor(**media), processor(video=clips["both"]))


@pytest.mark.parametrize("image_processor", [VideoMAEImageProcessorPil, VivitImageProcessor])
def test_frontend_of_whole_clips(make_processor, image_processor):
    """Their processors return a batch of one clip."""
    image_processor = image_processor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    processor = make_processor(None, "frames", image_processor=image_processor)
    batch = processor(video=gray_frames(3, 20, 24))
    assert batch["video_values"].shape == (1, 3, 3, 12, 12)
    assert batch["video_mask"].tolist() == [[True] * 3]


# ---- image backends ------------------------------------------------------------------------------------------


class OtherBackend(ViTImageProcessorPil):
    """Stands for the class of an installation with torchvision."""

    @property
    def backend(self):
        return "torchvision"


def test_image_backend_is_recorded_and_kept(make_processor, monkeypatch, tmp_path, caplog):
    """Trained without torchvision, used with it: the frames are still resized by Pillow."""
    image_processor = ViTImageProcessorPil(size={"height": 12, "width": 12})
    assert image_processor.to_dict()["image_processor_type"] == "ViTImageProcessor"  # it does not tell the backend
    processor = make_processor(None, "frames", image_processor=image_processor)
    monkeypatch.setattr(transformers, "ViTImageProcessor", OtherBackend)
    loaded = reloaded(processor, tmp_path)
    assert loaded.image_backend == "pil"
    frames = gray_frames(3, 20, 24)
    assert_same_media(loaded(video=frames), processor(video=frames))
    assert "were resized" not in caplog.text


def test_missing_image_backend_is_warned_of(make_processor, monkeypatch, tmp_path, caplog):
    """Trained with torchvision, used without it."""
    image_processor = OtherBackend(size={"height": 12, "width": 12})
    processor = make_processor(None, "frames", image_processor=image_processor)
    processor.save_pretrained(tmp_path)
    with edited_fields(tmp_path) as fields:
        fields["image_processor"]["image_processor_type"] = "ViTImageProcessor"
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    with caplog.at_level("WARNING"):
        loaded = EGMFProcessor.from_pretrained(tmp_path)
    assert "frames resized by torchvision, but here they are resized by pil" in caplog.text
    assert loaded.image_backend == "torchvision"


@pytest.mark.parametrize(
    ("extractor", "seconds"),
    [
        (ASTFeatureExtractor(max_length=50, num_mel_bins=16), 0.5),
        (WhisperFeatureExtractor(feature_size=8, chunk_length=1), 1.0),
    ],
    ids=["AST", "Whisper"],
)
def test_a_recording_that_the_extractor_cuts_off_is_named(make_processor, caplog, extractor, seconds):
    processor = make_processor("waveform", None, feature_extractor=extractor)
    tone = sine(200, 2 * seconds, 16_000)
    beginning = processor(audio=tone[: len(tone) // 2], sampling_rate=16_000)
    assert caplog.messages == []
    assert beginning["audio_values"].shape == processor(audio=tone, sampling_rate=16_000)["audio_values"].shape
    (message,) = caplog.messages
    assert message.startswith(f"sample 0: the audio has {2 * seconds:.2f} s, but ")
    assert f"FeatureExtractor takes {seconds:g} s; only its beginning is used" in message


def test_wav2vec2_takes_recordings_of_any_length(make_processor, caplog):
    processor = make_processor("waveform", None, feature_extractor=Wav2Vec2FeatureExtractor())
    processor(audio=sine(200, 29.0, 16_000), sampling_rate=16_000)
    assert caplog.messages == []
