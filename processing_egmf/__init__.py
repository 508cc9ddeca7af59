"""The EGMF processor: media decoding, prompts, tasks, answers. Start with processing_egmf.py."""

from .processing_egmf import EGMFProcessor
from .tasks_egmf import BUILT_IN_TASKS, EGMFTask


__all__ = ["BUILT_IN_TASKS", "EGMFProcessor", "EGMFTask"]
