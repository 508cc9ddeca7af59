"""The EGMF model: configuration, encoders, fusion, experts, answers. Start with modeling_egmf.py."""

from .configuration_egmf import EGMFConfig, EGMFEncoderConfig
from .modeling_egmf import EGMFAnswerOutput, EGMFForConditionalGeneration, EGMFModel


__version__ = "0.1.0"

__all__ = ["EGMFAnswerOutput", "EGMFConfig", "EGMFEncoderConfig", "EGMFForConditionalGeneration", "EGMFModel"]
