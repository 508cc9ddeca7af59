"""Names of pretrained encoders that `--audio` and `--video` take instead of a Hub id, with their licenses.

    --audio whisper-base ─┬─► .cache/assets/whisper-base, if that folder has a copy
                          └─► openai/whisper-base on the Hub

The licenses are those that the authors give the weights; a model with such an encoder is bound by them.
"""

import difflib
from pathlib import Path
from typing import NamedTuple


# Kind of raw input of each modality, which is also the name of EGMF's own encoder for it.
RAW_INPUTS = {"audio": "waveform", "video": "frames"}
COPIES = Path(".cache/assets")  # a copy of a preset is in the folder of its name


class Preset(NamedTuple):
    """A pretrained encoder with a name.

    Args:
        modality: `audio` or `video`.
        model_id: on the Hub.
        license: of its weights.
        about: what it was trained on, and its size.
    """

    modality: str
    model_id: str
    license: str
    about: str


PRESETS = {
    "whisper-base": Preset("audio", "openai/whisper-base", "Apache-2.0", "transcription in 99 languages, 21 M"),
    "wav2vec2-base": Preset("audio", "facebook/wav2vec2-base", "Apache-2.0", "English audiobooks, 95 M"),
    "wavlm-base-plus": Preset("audio", "microsoft/wavlm-base-plus", "CC BY-SA 3.0", "English speech, noise, 94 M"),
    "clip-vit-base": Preset(
        "video", "openai/clip-vit-base-patch32", "MIT, for research", "images with captions, 87 M"
    ),
    "dinov2-small": Preset("video", "facebook/dinov2-small", "Apache-2.0", "images, 22 M"),
}


def preset_names(modality: str) -> list[str]:
    """Names of the presets of a modality."""
    return [name for name, preset in PRESETS.items() if preset.modality == modality]


def check_encoder_name(modality: str, name: str | None, feature_size: int | None) -> None:
    """Refuse a name that is nearly that of an encoder, an encoder of the other modality, and features without a width.

    Args:
        modality: `audio` or `video`.
        name: `--audio` or `--video`; None for no encoder.
        feature_size: width of precomputed features.

    Raises:
        ValueError: the message names the encoder that was probably meant.
    """
    if name == "features" and feature_size is None:
        raise ValueError(f"--{modality} features needs --{modality}_feature_size, the width of one feature vector.")
    known = (RAW_INPUTS[modality], "features", "none", *preset_names(modality))
    if name is None or name in known or Path(name).exists():
        return
    if name in RAW_INPUTS.values():
        raise ValueError(f"--{modality} {name} is not an encoder of {modality}. Give one of {', '.join(known)}.")
    locate_preset(name, modality)
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if similar:
        raise ValueError(f"--{modality} {name} is not an encoder. Did you mean {similar[0]}?")


def locate_preset(name: str, modality: str) -> str:
    """The folder or the Hub id of a preset; any other name unchanged.

    Raises:
        ValueError: the preset is one of the other modality.
    """
    if name not in PRESETS or Path(name).is_dir():
        return name
    preset = PRESETS[name]
    if preset.modality != modality:
        raise ValueError(
            f"--{modality} {name}: this encoder is for {preset.modality}. Give one of "
            f"{', '.join(preset_names(modality))}, or another {modality} encoder."
        )
    copy = COPIES / name
    return str(copy) if (copy / "config.json").is_file() else preset.model_id


def explain_download(name: str) -> str:
    """How to get a preset whose weights cannot be reached; empty for any other name."""
    if name not in PRESETS:
        return ""
    preset = PRESETS[name]
    return (
        f" {name} is {preset.model_id} (license {preset.license}). Without internet, put a copy into {COPIES / name}: "
        f"`hf download {preset.model_id} --local-dir {COPIES / name}`, run where there is internet."
    )
