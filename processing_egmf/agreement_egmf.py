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
    expected = {"num_pseudo_tokens": config.num_pseudo_tokens}
    if config.placeholder_token_id is not None:
        expected["placeholder_token_id"] = config.placeholder_token_id
    expected |= _encoder_settings("audio", config.audio_config, ("sampling_rate",))
    expected |= _encoder_settings("video", config.video_config, ("frame_height", "frame_width"))
    different = []
    for name, of_model in expected.items():
        of_processor = getattr(processor, name)
        accepts_any = name.endswith("_feature_size") and of_processor is None
        if of_processor != of_model and not accepts_any:
            different.append(f"{name} is {of_processor!r} in the processor and {of_model!r} in the model")
    if different:
        raise ValueError(
            f"The processor does not fit the model: {'; '.join(different)}. Load both from the same checkpoint."
        )


def _encoder_settings(modality: str, encoder: PreTrainedConfig | None, raw_settings: tuple[str, ...]) -> dict:
    """The model's values of a modality's settings; `raw_settings` hold if no pretrained encoder has its own."""
    if encoder is None:
        return {f"{modality}_input": None}
    settings = {f"{modality}_input": encoder.input_type}
    if encoder.input_type == "features":
        settings[f"{modality}_feature_size"] = encoder.feature_size
    elif encoder.backbone_config is None:
        settings |= {name: getattr(encoder, name) for name in raw_settings}
    return settings
