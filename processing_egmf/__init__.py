"""The EGMF processor: media decoding, prompts, tasks, answers, pipeline. Start with processing_egmf.py."""

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
