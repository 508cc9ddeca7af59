"""LoRA merged into the language model: a light model made a full one, which needs nothing else to load."""

from peft.tuners.tuners_utils import BaseTunerLayer

from modeling_egmf import EGMFForConditionalGeneration


def merge(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Add LoRA's product to the weights, take its layers out, and let the configuration name nothing that lies apart.

    Returns:
        The same model, changed in place.
    """
    for name, module in list(model.language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.language_model.get_submodule(parent), child, module.get_base_layer())
    config = model.config
    config.lora = config.text_model_id = config.text_model_revision = config.text_model_fingerprint = None
    for encoder in filter(None, (config.audio_config, config.video_config)):
        encoder.backbone_id = encoder.backbone_revision = None
    return model
