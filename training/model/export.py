"""Makes an adapter checkpoint standalone, so that nothing else is needed to load it.

    stand_alone   LoRA stays in separate layers            the answers stay the same, bit for bit
    merge         LoRA is added to the language model      each weight is rounded once more

In float32, merging changes no answer. In bfloat16, the activations after each merged layer are rounded differently,
and probabilities change by hundredths whatever the precision of the merged weights, so LoRA should stay separate.
"""

from peft.tuners.tuners_utils import BaseTunerLayer

from modeling_egmf import EGMFForConditionalGeneration


def stand_alone(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Remove all references to other models from the configuration, so that all weights are saved.

    Returns:
        The same model, changed in place; its answers stay the same.
    """
    config = model.config
    config.text_model_id = None
    config.text_model_revision = None
    config.text_model_fingerprint = None
    for encoder in (config.audio_config, config.video_config):
        if encoder is not None:
            encoder.backbone_id = None
            encoder.backbone_revision = None
    return model


def merge(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Add LoRA's product to the weights, remove its layers, and make the model standalone.

    Returns:
        The same model, changed in place.

    Raises:
        ValueError: the weights are not in memory, because a device map offloads them.
    """
    for name, parameter in model.language_model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is offloaded: LoRA cannot be added. Load the model without `device_map`.")
    for name, module in list(model.language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.language_model.get_submodule(parent), child, module.get_base_layer())
    model.config.lora = None
    return stand_alone(model)
