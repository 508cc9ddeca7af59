"""The EGMF processor: media decoding, prompts, tasks, answers, pipeline. Start with processing_egmf.py.

Importing it registers the processor with `AutoProcessor`, which then loads that of any EGMF checkpoint with this code,
and needs no `trust_remote_code=True`. This file is not part of a checkpoint.
"""

from transformers import AutoProcessor

from .collator_egmf import EGMFDataCollator
from .pipeline_egmf import EGMFPipeline
from .processing_egmf import MODALITIES, EGMFProcessor
from .tasks_egmf import BUILT_IN_TASKS, EGMFAnswer, EGMFTask


__all__ = [
    "BUILT_IN_TASKS",
    "MODALITIES",
    "EGMFAnswer",
    "EGMFDataCollator",
    "EGMFPipeline",
    "EGMFProcessor",
    "EGMFTask",
]

# `AutoProcessor` finds it by the name in processor_config.json; the model's configuration is not known here.
AutoProcessor.register(EGMFProcessor, EGMFProcessor, exist_ok=True)
