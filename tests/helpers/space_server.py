"""The Space on a port of this machine, over a tiny random model, for tests of the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import app
import predictions

from processing_egmf import EGMFPipeline


@contextmanager
def space_server(model, processor) -> Iterator[str]:
    """The address of a running page."""
    pipe = EGMFPipeline(model=model, processor=processor, device="cpu")
    with patch.object(predictions, "pipeline", lambda *_, **__: pipe):
        page = app.build(predictions.Predictor("tiny"))
    address = app.serve(page, "127.0.0.1", None)
    try:
        yield address
    finally:
        page.close()
