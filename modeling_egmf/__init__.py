"""The EGMF model: configuration, encoders, fusion, experts, answers. Start with modeling_egmf.py."""

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig
from .modeling_egmf import EGMFForConditionalGeneration, EGMFModel
from .outputs_egmf import EGMFAnswerOutput, EGMFCausalLMOutput, EGMFFusionOutput


__version__ = "0.1.0"

__all__ = [
    "EGMFAnswerOutput",
    "EGMFCausalLMOutput",
    "EGMFConfig",
    "EGMFEncoderConfig",
    "EGMFForConditionalGeneration",
    "EGMFFusionOutput",
    "EGMFModel",
]
