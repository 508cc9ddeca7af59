"""Errors between a run and the Hub, with messages that say what to do."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError


class PushError(ValueError):
    """A push that was refused or failed, and what to do about it."""


@contextlib.contextmanager
def hub_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub and of the network into `PushError`.

    Args:
        doing: what the block does, as it reads after "while" in the message: `checking the token`.
        repo_id: the repo that the block works on.
    """
    try:
        yield
    except PushError:
        raise
    except HfHubHTTPError as error:
        raise PushError(_describe_refusal(error, doing, repo_id)) from error
    except KeyboardInterrupt as error:
        raise PushError(f"Interrupted while {doing}.{_how_to_resume(repo_id)}") from error
    except Exception as error:  # the network's errors have no class in common
        cause = error.__cause__ or error
        raise PushError(
            f"The connection failed while {doing} ({type(cause).__name__}: {cause}).{_how_to_resume(repo_id)}"
        ) from error


def _describe_refusal(error: HfHubHTTPError, doing: str, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401 and "Repository Not Found" not in str(error):
        return (
            f"The Hub rejected the token while {doing}. Log in with `hf auth login`, or set HF_TOKEN to a token with "
            "write access."
        )
    if status == 403:
        return f"The token cannot write to {repo_id} (while {doing}). Use a token of its owner with the role 'write'."
    if status in (409, 412):
        return (
            f"{repo_id} was changed by someone else in the meantime (while {doing}). Nothing was overwritten: check "
            "the repo, and run the same command again."
        )
    lines = str(error).strip().splitlines()
    return f"The Hub refused ({status}) while {doing}: {lines[0] if lines else error}.{_how_to_resume(repo_id)}"


def _how_to_resume(repo_id: str) -> str:
    return (
        f" {repo_id} is either unchanged or complete: all files come in one commit. Run the same command again; large "
        "files that have arrived are not sent twice."
    )
