"""Front ends: the feature extractors and image processors of pretrained encoders."""

import pytest
import torch
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from tests.helpers.media_files import gray_frames, sine
from tests.helpers.processor_outputs import assert_same_media, reloaded


def test_frontend_wav2vec2(make_processor, tmp_path):
    fields = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    tone = sine(200, 0.1, 16_000)
    batch = processor(audio=[tone, tone[:800]], sampling_rate=16_000)
    assert batch["audio_values"].shape == (2, 1600)
    assert batch["audio_mask"].sum(dim=1).tolist() == [1600, 800]
    assert batch["audio_values"][0].mean() == pytest.approx(0, abs=1e-4)
    assert batch["audio_values"][0].std() == pytest.approx(1, abs=1e-2)
    assert reloaded(processor, tmp_path).audio_frontend == processor.audio_frontend


def test_frontend_whisper(make_processor, tmp_path):
    fields = WhisperFeatureExtractor(feature_size=8, chunk_length=1, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    batch = processor(
        audio=[sine(200, 0.5, 16_000), sine(200, 0.25, 16_000), None],
        text=["a", "b", "c"],
        sampling_rate=16_000,
    )
    assert batch["audio_values"].shape == (3, 8, 100)
    assert batch["audio_mask"].sum(dim=1).tolist() == [50, 25, 0]
    assert_same_media(
        reloaded(processor, tmp_path)(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
        processor(audio=sine(200, 0.5, 16_000), sampling_rate=16_000),
    )


def test_frontend_whisper_of_a_full_clip_keeps_its_mask(make_processor):
    fields = WhisperFeatureExtractor(feature_size=8, chunk_length=1, return_attention_mask=True).to_dict()
    processor = make_processor("waveform", None, audio_frontend=fields)
    for seconds, steps in (
        (1.0, 100),
        (0.08, 8),
    ):  # every frame is real; as many frames as mel bands
        batch = processor(audio=sine(200, seconds, 16_000), sampling_rate=16_000)
        assert batch["audio_mask"].shape == (1, 100)
        assert batch["audio_mask"].sum() == steps


def test_frontend_vit(make_processor, clips, tmp_path):
    image_processor = ViTImageProcessor(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = make_processor(None, "frames", video_frontend=image_processor.to_dict())
    frames = gray_frames(3, 20, 24)
    batch = processor(video=frames)
    assert batch["video_values"].shape == (1, 3, 3, 12, 12)
    expected = image_processor(list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["video_values"][0], expected)
    assert_same_media(reloaded(processor, tmp_path)(video=clips["both"]), processor(video=clips["both"]))
    media = processor.load_media(video=clips["both"])
    assert_same_media(processor(**media), processor(video=clips["both"]))
