"""What can go wrong between a run and the Hub, in sentences with what to do."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError


class PushError(ValueError):
    """A push that was refused or failed, and what to do about it."""


@contextlib.contextmanager
def hub_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub and of the network into `PushError`.

    Args:
        doing: what the block does, for the message: `asking who you are`.
        repo_id: the repo that it is about.
    """
    try:
        yield
    except PushError:
        raise
    except HfHubHTTPError as error:
        raise PushError(_describe_refusal(error, doing, repo_id)) from error
    except KeyboardInterrupt as error:
        raise PushError(f"Interrupted, {doing}.{_how_to_resume(repo_id)}") from error
    except Exception as error:  # the network's errors have no class in common
        cause = error.__cause__ or error
        raise PushError(
            f"The connection broke off, {doing} ({type(cause).__name__}: {cause}).{_how_to_resume(repo_id)}"
        ) from error


def _describe_refusal(error: HfHubHTTPError, doing: str, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401 and "Repository Not Found" not in str(error):
        return (
            f"The Hub does not know this token, {doing}. Log in with `hf auth login`, or set HF_TOKEN to a token with "
            "the right to write."
        )
    if status == 403:
        return (
            f"The token has no right to write to {repo_id}, {doing}. Use a token of its owner with the role 'write'."
        )
    if status in (409, 412):
        return (
            f"{repo_id} was changed by somebody else meanwhile, {doing}. Nothing was overwritten: look at it, and run "
            "the same command again."
        )
    lines = str(error).strip().splitlines()
    return f"The Hub refused ({status}), {doing}: {lines[0] if lines else error}.{_how_to_resume(repo_id)}"


def _how_to_resume(repo_id: str) -> str:
    return (
        f" {repo_id} is either unchanged or complete: all files come in one commit. Run the same command again; large "
        "files that have arrived are not sent twice."
    )
