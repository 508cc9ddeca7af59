"""Clips cut out of longer videos start and end at the given times."""

import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, sine, write_video
from training.converters.core.cutting import cut_clip


@pytest.mark.parametrize("with_video", [True, False])
def test_cut_starts_and_ends_at_the_given_times(tmp_path, with_video):
    sound = np.concatenate([np.zeros(16_000), sine(440, 1, 16_000), np.zeros(16_000)]).astype(np.float32)
    path = write_video(tmp_path / "long.mp4", gray_frames(75, 32, 48), fps=25, audio=sound)
    found = cut_clip(path, 1.0, 2.0, with_video)
    heard = load_audio(found, target_sampling_rate=16_000)
    assert len(heard) / 16_000 == pytest.approx(1.0, abs=0.1)
    assert np.abs(heard[1600:14_400]).mean() > 0.2  # the tone, from end to end
    if with_video:
        frames = load_video(found, num_frames=100)
        assert len(frames) == pytest.approx(25, abs=1)
        levels = frames.reshape(len(frames), -1).mean(axis=1)
        assert levels[0] == pytest.approx(16 + 3 * 25, abs=4)
        assert levels[-1] == pytest.approx(16 + 3 * 49, abs=4)
    else:
        with pytest.raises(ValueError, match="no video|pictures|video"):
            load_video(found, num_frames=1)


def test_cut_keeps_the_proportions(tmp_path):
    path = write_video(tmp_path / "wide.mp4", gray_frames(25, 32, 48), fps=25, sample_aspect_ratio=2)
    assert load_video(cut_clip(path, 0.2, 0.6), 4).shape == (4, 32, 96, 3)


def test_empty_cut_is_refused(clip, tmp_path):
    with pytest.raises(ValueError, match="nothing between 5.00 and 6.00 s"):
        cut_clip(clip, 5, 6)
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match="."):
        cut_clip(tmp_path / "a.mp4", 0, 1)


@pytest.mark.parametrize(
    ("start", "end", "shown"), [(1.2, 1.8, [1]), (1.2, 3.5, [1, 2, 3]), (2.0, 3.0, [2]), (3.4, 3.6, [3])]
)
def test_cut_starts_with_the_frame_on_screen(tmp_path, start, end, shown):
    """Also of slides, with a frame per second, where none appears within the clip."""
    path = write_video(tmp_path / "slides.mp4", gray_frames(4, 32, 48), fps=1, audio=sine(440, 4, 16_000))
    levels = load_video(cut_clip(path, start, end), 10).mean(axis=(1, 2, 3))
    assert levels == pytest.approx([16 + 3 * index for index in shown], abs=1)
