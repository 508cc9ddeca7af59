"""Makes an adapter checkpoint standalone, so that nothing else is needed to load it.

    stand_alone   PEFT adapters stay separate, each with its files   the answers stay the same, bit for bit
    merge         the active ones are added to the language model    each weight is rounded once more

In float32, merging changes no answer. In bfloat16, the activations after each merged layer are rounded differently,
and probabilities change by hundredths whatever the precision of the merged weights, so LoRA should stay separate.
"""

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.adapters_egmf import adapter_configs
from modeling_egmf.fields_egmf import ties_word_embeddings


def stand_alone(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Remove all references to other models from the configuration, so that all weights are saved.

    Returns:
        The same model, changed in place; its answers stay the same.
    """
    config = model.config
    config.text_model_id = None
    config.text_model_revision = None
    config.text_model_fingerprint = None
    config.text_model_checksum = None
    for encoder in (config.audio_config, config.video_config):
        if encoder is not None:
            encoder.backbone_id = None
            encoder.backbone_revision = None
            encoder.backbone_checksum = None
    return model


def merge(model: EGMFForConditionalGeneration) -> EGMFForConditionalGeneration:
    """Add the active adapters to the weights, remove all adapters, and make the model standalone.

    Returns:
        The same model, changed in place.

    Raises:
        ValueError: the weights are not in memory, because a device map offloads them, or the output layer shares its
            weights with the embeddings and has an adapter.
    """
    language_model = model.language_model
    for name, parameter in language_model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is offloaded: LoRA cannot be added. Load the model without `device_map`.")
    output_layer = language_model.get_output_embeddings()
    if isinstance(output_layer, BaseTunerLayer) and ties_word_embeddings(language_model.config):
        raise ValueError(
            "LoRA of the output layer, whose weights are those of the embeddings, cannot be added to them. "
            "Keep it separate: stand_alone(model)."
        )
    adapted = [
        (name, module)
        for name, module in language_model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for _, module in adapted:
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=model.active_adapters())
    inside = ()
    for name, module in adapted:
        if name.startswith(inside):  # of another adapter, or of a trained embedding
            continue
        inside += (f"{name}.",)
        if isinstance(module, BaseTunerLayer):
            merged = module.get_base_layer()
        else:
            merged = module.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, merged)
    if adapter_configs(language_model):
        language_model.delete_adapter(list(adapter_configs(language_model)))
    model.config.lora = None
    return stand_alone(model)
