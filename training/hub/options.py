"""Options of a push: which run goes where, and in which form."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class PushOptions:
    """The run to push, and its target.

    Args:
        run: folder of a finished run.
        repo_id: `ORG/NAME` on the Hub.
        standalone: push everything, so that nothing else has to be downloaded; otherwise the adapter checkpoint, which
            names its language model.
        endpoint: add the handler for Inference Endpoints.
        text_model_name_or_path: Hub id of the language model that an adapter checkpoint names; None for the run's.
        upload_text_model: upload the run's language model there first.
        card: YAML with `CardFacts`; None for `card.yaml` in the run.
        study: results over several seeds, from the demo's study.py.
        revision: branch to push to, created if it does not exist; None for main.
        tag: tag for the commit, set after verification and never moved.
        message: commit message.
        public: make the repo public after verification.
        overwrite: replace a different model in the repo.
        verify: load the commit back in a fresh process and compare its answer.
    """

    run: Path
    repo_id: str
    standalone: bool = False
    endpoint: bool = False
    text_model_name_or_path: str | None = None
    upload_text_model: bool = False
    card: Path | None = None
    study: Path | None = None
    revision: str | None = None
    tag: str | None = None
    message: str | None = None
    public: bool = False
    overwrite: bool = False
    verify: bool = True
