"""The EGMF model: configuration, encoders, fusion, experts, answers. Start with modeling_egmf.py.

Importing it registers the model with the Auto classes, which then load any EGMF checkpoint with this code, and need no
`trust_remote_code=True`. This file is not part of a checkpoint.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM

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

AutoConfig.register(EGMFConfig.model_type, EGMFConfig, exist_ok=True)
AutoModel.register(EGMFConfig, EGMFForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(EGMFConfig, EGMFForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(EGMFConfig, EGMFForConditionalGeneration, exist_ok=True)
