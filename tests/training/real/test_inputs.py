"""The inputs that a converted corpus offers: landmarks rather than videos, and what was asked for or nothing."""

import pytest

from tests.helpers.acted_speech import copy_to, face_points, openface_rows, ravdess_name, write_table, write_wave
from tests.helpers.release_files import write_clip
from training.converters import ravdess
from training.real.inputs import choose_inputs


QUIET = ("--no_progress", "--num_workers", "1")
ACTORS = (1, 2, 3)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Converted corpora: `sound`, `videos` without sound files, and `landmarks` beside both."""
    folder = tmp_path_factory.mktemp("corpora")
    wave = write_wave(folder / "a.wav")
    clip = write_clip(folder / "a.mp4")
    copy_to(wave, *[folder / f"sound/{ravdess_name(actor)}.wav" for actor in ACTORS])
    copy_to(clip, *[folder / f"videos/{ravdess_name(actor, modality='01')}.mp4" for actor in ACTORS])
    copy_to(wave, *[folder / f"landmarks/{ravdess_name(actor)}.wav" for actor in ACTORS])
    copy_to(clip, *[folder / f"landmarks/{ravdess_name(actor, modality='01')}.mp4" for actor in ACTORS])
    for actor in ACTORS:
        write_table(folder / f"landmarks/{ravdess_name(actor)}.csv", openface_rows(face_points()))
    for name in ("sound", "videos", "landmarks"):
        ravdess.main([str(folder / name), str(folder / f"converted-{name}"), *QUIET])
    return folder


@pytest.mark.parametrize(
    ("name", "faces", "options"),
    [
        ("sound", "auto", ["--video", "none", "--modalities", "audio"]),
        ("videos", "auto", ["--video", "clip-vit-base", "--modalities", "audio", "video"]),
        ("videos", "none", ["--video", "none", "--modalities", "audio"]),
        ("landmarks", "videos", ["--video", "clip-vit-base", "--modalities", "audio", "video"]),
        (
            "landmarks",
            "auto",
            ["--video", "features", "--modalities", "audio", "video", "--video_feature_size", "24"],
        ),
    ],
)
def test_inputs_are_those_of_the_corpus(corpora, name, faces, options):
    assert choose_inputs(corpora / f"converted-{name}", faces).options() == options


def test_faces_that_are_missing_are_refused(corpora):
    with pytest.raises(ValueError, match="--faces landmarks: only 0% of the examples"):
        choose_inputs(corpora / "converted-sound", "landmarks")
    with pytest.raises(ValueError, match="--faces videos: only 0% of the examples"):
        choose_inputs(corpora / "converted-sound", "videos")
