"""A light model made a full one, which needs nothing else to load: LoRA merged, or kept in layers of its own.

Merged, a weight is rounded once more. In float32 no answer notices. In bfloat16 every activation behind it is rounded
otherwise, and probabilities move by hundredths, in whichever precision the merged weights are held: there LoRA is
better kept apart.
"""

from peft.tuners.tuners_utils import BaseTunerLayer

from modeling_egmf import EGMFForConditionalGeneration


def stand_alone(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Let the configuration name nothing that lies apart, so that everything is saved, LoRA in layers of its own.

    Returns:
        The same model, changed in place; its answers stay as they are.
    """
    config = model.config
    config.text_model_id = config.text_model_revision = config.text_model_fingerprint = None
    for encoder in filter(None, (config.audio_config, config.video_config)):
        encoder.backbone_id = encoder.backbone_revision = None
    return model


def merge(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Add LoRA's product to the weights, take its layers out, and let the model stand alone.

    Returns:
        The same model, changed in place.
    """
    for name, module in list(model.language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.language_model.get_submodule(parent), child, module.get_base_layer())
    model.config.lora = None
    return stand_alone(model)
