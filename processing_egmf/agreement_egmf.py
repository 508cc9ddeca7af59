"""The settings that a model and its processor must share: the processor prepares what the model was trained on."""

from typing import Any

from transformers import PreTrainedConfig


def check_agreement(config: PreTrainedConfig, processor: Any) -> None:
    """Refuse a processor whose inputs differ from those that the model was trained on.

    Args:
        config: `EGMFConfig` of the model.
        processor: `EGMFProcessor`.

    Raises:
        ValueError: the message names every setting that differs.
    """
    settings = [("num_pseudo_tokens", processor.num_pseudo_tokens, config.num_pseudo_tokens)]
    if config.placeholder_token_id is not None:
        settings.append(("placeholder_token_id", processor.placeholder_token_id, config.placeholder_token_id))
    settings += audio_settings(config.audio_config, processor)
    settings += video_settings(config.video_config, processor)
    different = [
        f"{name} is {of_processor!r} in the processor and {of_model!r} in the model"
        for name, of_processor, of_model in settings
        if of_processor != of_model
    ]
    if different:
        raise ValueError(
            f"The processor does not fit the model: {'; '.join(different)}. Load both from the same checkpoint."
        )


def audio_settings(encoder: PreTrainedConfig | None, processor: Any) -> list[tuple[str, Any, Any]]:
    """Name, value in the processor and value in the model of the settings of audio."""
    if encoder is None:
        return [("audio_input", processor.audio_input, None)]
    settings = [("audio_input", processor.audio_input, encoder.input_type)]
    if encoder.input_type == "features" and processor.audio_feature_size is not None:
        settings.append(("audio_feature_size", processor.audio_feature_size, encoder.feature_size))
    if encoder.input_type == "waveform" and encoder.backbone_config is None:
        settings.append(("sampling_rate", processor.sampling_rate, encoder.sampling_rate))
    return settings


def video_settings(encoder: PreTrainedConfig | None, processor: Any) -> list[tuple[str, Any, Any]]:
    """Name, value in the processor and value in the model of the settings of video."""
    if encoder is None:
        return [("video_input", processor.video_input, None)]
    settings = [("video_input", processor.video_input, encoder.input_type)]
    if encoder.input_type == "features" and processor.video_feature_size is not None:
        settings.append(("video_feature_size", processor.video_feature_size, encoder.feature_size))
    if encoder.input_type == "frames" and encoder.backbone_config is None:
        settings.append(("frame_height", processor.frame_height, encoder.frame_height))
        settings.append(("frame_width", processor.frame_width, encoder.frame_width))
    return settings
