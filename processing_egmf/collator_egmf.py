"""EGMFDataCollator: rows of a dataset, or prepared samples, as batches for `transformers.Trainer`.

    rows ─► processor.prepare ─► samples ─► processor.collate ─► batch ─► model.forward

Training reads `labels`. In evaluation, the model scores every one of `answer_ids` instead: see its `forward`.
"""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature

from .arguments_egmf import shorten
from .batches_egmf import collate_answer_ids


class EGMFDataCollator:
    """The `data_collator` of `transformers.Trainer`, for a list or a `datasets.Dataset` of rows.

    A row holds `answer`, the true label or score; any of `text`, `audio`, `video`, `audio_features`, `video_features`;
    and, if needed, other arguments of `EGMFProcessor.prepare`, such as `task` and `context`. `id` names it in
    messages. None counts as missing. Media are decoded here, in the workers of the data loader. Samples that
    `processor.prepare(answer=...)` has prepared are collated as they are.

    Args:
        processor: the model's `EGMFProcessor`.
        score_answers: add `answer_ids` (B, A, L) to the batch, so that a model in evaluation mode returns the
            probabilities of the answers; if not, it returns the logits of the answer's tokens.
    """

    def __init__(self, processor: Any, score_answers: bool = True):
        self.processor = processor
        self.score_answers = score_answers

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Rows or prepared samples as one batch: the processor's tensors with `labels` (B, S).

        Raises:
            ValueError, TypeError, FileNotFoundError: a row has no answer, an unknown column, or media that cannot be
                read; the message names the row.
        """
        samples = [self.prepare(row, number) for number, row in enumerate(rows)]
        batch = self.processor.collate(samples)
        if self.score_answers and "labels" in batch:
            batch["answer_ids"] = collate_answer_ids(samples)
        return batch

    def prepare(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        """One row as a prepared sample.

        Args:
            row: a row of a dataset, or a prepared sample, which is returned unchanged.
            number: its place in the batch, for messages.
        """
        if "input_ids" in row:
            return row
        columns = {name: value for name, value in row.items() if value is not None}
        name = f"row {shorten(columns.pop('id'))}" if "id" in columns else f"row {number} of the batch"
        if columns.get("answer") is None:
            raise ValueError(
                f"{name} has no `answer`; its columns are {', '.join(row) or 'none that EGMF reads'}. Give the true "
                "label or score as `answer`; for predictions call model.score_answers(**processor(...))."
            )
        return self.processor.prepare(**columns, name=name)
