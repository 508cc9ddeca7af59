"""Inference Endpoints: JSON in, typed JSON out, over the checkpoint's own pipeline, beside whose files this lies.

    {"inputs": {"video": BASE64_OR_URL, "text": "I'm fine."}, "parameters": {"task": "emotion", "top_k": 3}}
    {"status": 200, "answer": {"label": ..., "score": ..., "probabilities": {...}, ...}}
    {"status": 400, "error": {"type": "bad_input", "message": ...}}

`inputs` is one clip or a list of them, answered by `answers`, one such object each. A clip is an object with any of
`text`, `audio`, `video`, `audio_features`, `video_features`, `context`, `task`, `modalities`; or a string: its audio
or video. Audio and video are base64, a `data:` URI with base64, or an http(s) URL; never a path.

Many may ask at once: media are fetched and decoded `AT_ONCE` at a time, the model answers one after another, and the
others wait in line. What waits holds its own request and no more.
"""

import base64
import binascii
import http.client
import ipaddress
import logging
import re
import reprlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from transformers import pipeline


logger = logging.getLogger(__name__)

TASK = "multimodal-emotion-recognition"
AT_ONCE = 2  # clips that are fetched and decoded at a time
MAX_MEDIA_BYTES = 64 * 2**20  # of one sound or video
MAX_TEXT = 20_000  # characters, of the transcript and of all its context together
MAX_FEATURES = 4_000_000  # numbers, of one modality
MAX_DEPTH = 4  # of lists in lists
MAX_CLIPS = 32  # of one request
MAX_REDIRECTS = 3
FETCH_SECONDS = 20.0  # for one URL, redirects included
WAIT_SECONDS = 600.0  # in line

FIELDS = ("text", "audio", "video", "audio_features", "video_features", "context", "task", "modalities")
PARAMETERS = {  # name -> whether a value will do, and what does
    "task": (lambda value: isinstance(value, str), "a task's name"),
    "modalities": (
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        "a list of text, audio, video",
    ),
    "top_k": (lambda value: type(value) is int and value >= 1, "a whole number, at least 1"),
    "interval": (lambda value: isinstance(value, float) and 0 < value < 1, "a number between 0 and 1"),
    "return_experts": (lambda value: isinstance(value, bool), "true or false"),
}
KINDS = {400: "bad_input", 403: "refused", 413: "too_large", 422: "unreachable", 503: "busy", 504: "timeout"}


class RequestError(Exception):
    """What is answered in place of an answer, with its status as in HTTP."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "error": {"type": KINDS.get(self.status, "failed"), "message": str(self)}}


class EndpointHandler:
    """What Inference Endpoints looks for: made once with the checkpoint's folder, called once a request."""

    def __init__(self, path: str = ""):
        self.judge = pipeline(TASK, model=path, trust_remote_code=True)
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._model = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """One request, from as many threads as you like. Never raises: what goes wrong is told by `status`.

        Args:
            data: `inputs` and, if wanted, `parameters`: `task`, `modalities`, `top_k`, `interval`, `return_experts`.

        Returns:
            `status` 200 with `answer` or `answers`; or 400 (bad input), 403 (an address that is refused), 413 (too
            large), 422 (a URL that gives nothing), 503 (too long in line), 504 (too slow), 500; each with `error`.
        """
        try:
            clips, parameters = _checked(data)
        except RequestError as error:
            return error.to_dict()
        answers = [self._answer(clip, parameters) for clip in clips]
        return {"status": 200, "answers": answers} if isinstance(data["inputs"], list) else answers[0]

    def _answer(self, clip: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            # Words alone take no room, and need not wait for addresses that are slow.
            media = isinstance(clip, dict) and any(clip.get(name) is not None for name in ("audio", "video"))
            with _waiting(self._room) if media else nullcontext():
                sample = _sample(clip)
                with _waiting(self._model):
                    return {"status": 200, "answer": dict(self.judge(sample, **parameters))}
        except RequestError as error:
            return error.to_dict()
        except (ValueError, TypeError, OSError) as error:
            return RequestError(400, str(error)).to_dict()
        except Exception:
            logger.exception("a request failed")
            return RequestError(500, "The request failed; the endpoint's log says why.").to_dict()


@contextmanager
def _waiting(lock: Any) -> Iterator[None]:
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise RequestError(503, f"Nothing was free for {WAIT_SECONDS:g} s. Ask again later.")
    try:
        yield
    finally:
        lock.release()


# ---- what is asked -------------------------------------------------------------------------------------------


def _checked(data: Any) -> tuple[list[Any], dict[str, Any]]:
    """The clips and the parameters of a request."""
    if not isinstance(data, dict) or data.get("inputs") is None:
        raise RequestError(400, 'Send an object with `inputs`, e.g. {"inputs": {"text": "I\'m fine."}}.')
    parameters = {} if data.get("parameters") is None else data["parameters"]
    if not isinstance(parameters, dict) or set(parameters) - set(PARAMETERS):
        raise RequestError(400, f"`parameters` must be an object with any of {', '.join(PARAMETERS)}.")
    clips = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
    if not 1 <= len(clips) <= MAX_CLIPS:
        raise RequestError(413 if clips else 400, f"{len(clips)} clips in one request; send 1 to {MAX_CLIPS}.")
    return clips, _plain(parameters)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """What is not null, where those of `PARAMETERS` are what they must be."""
    for name, (fits, accepted) in PARAMETERS.items():
        if fields.get(name) is not None and not fits(fields[name]):
            raise RequestError(400, f"`{name}` is {reprlib.repr(fields[name])}; give {accepted}.")
    return {name: value for name, value in fields.items() if value is not None}


def _sample(clip: Any) -> Any:
    """One clip as the pipeline takes it, with bytes where media are: no string of a stranger is taken for a path."""
    if isinstance(clip, str):
        return _media(clip, "inputs")
    if not isinstance(clip, dict) or set(clip) - set(FIELDS):
        raise RequestError(400, f"A clip is a string or an object with any of {', '.join(FIELDS)}.")
    sample = _plain(clip)
    words = [sample.get("text", ""), sample.get("context", [])]
    if _size(words) > MAX_TEXT:
        raise RequestError(413, f"More than {MAX_TEXT} characters of text and context.")
    for name in ("audio_features", "video_features"):
        if _size(sample.get(name, [])) > MAX_FEATURES:
            raise RequestError(413, f"More than {MAX_FEATURES} numbers in `{name}`.")
    for name in ("audio", "video"):
        if name in sample:
            sample[name] = _media(sample[name], name)
    return sample


def _size(value: Any, depth: int = MAX_DEPTH) -> int:
    """Characters of strings and numbers of lists, which lie at most `MAX_DEPTH` deep."""
    if isinstance(value, list | dict):
        if depth == 0:
            raise RequestError(
                400, "Lists lie too deep: context is a list of [speaker, words], features a list of rows."
            )
        return sum(_size(each, depth - 1) for each in (value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 1


def _media(value: Any, name: str) -> bytes:
    """base64, a data URI or a URL -> bytes."""
    if not isinstance(value, str):
        raise RequestError(400, f"`{name}` must be base64 or a URL, not {type(value).__name__}.")
    if re.match(r"data:[^,]{0,200};base64,", value):
        value = value.partition(",")[2]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        return fetch_public(value)
    if len(value) * 3 // 4 > MAX_MEDIA_BYTES + 3:
        raise RequestError(413, f"`{name}` is larger than {MAX_MEDIA_BYTES} bytes.")
    try:
        content = base64.b64decode(re.sub(r"\s+", "", value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"`{name}` is broken base64 ({error}). Encode the file's bytes again.") from error
    if not content:
        raise RequestError(400, f"`{name}` is empty, 0 bytes.")
    return content


# ---- addresses -----------------------------------------------------------------------------------------------


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the open internet, also if it is an IPv4 address in an IPv6 one's clothes."""
    if address.version == 6:
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if hidden is None and address in ipaddress.ip_network("64:ff9b::/96"):
            hidden = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
        if hidden is not None:
            return is_public(hidden)
    return address.is_global and not address.is_multicast


def resolve_public(url: str) -> tuple[str, str, int, list[str]]:
    """Scheme, host, port and addresses of a URL, all of which are public.

    Whoever connects must connect to one of these addresses, and not to the name: it may resolve to another meanwhile.

    Raises:
        RequestError: 403 for another scheme than http and https or a private address, 422 for a name without one.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise RequestError(400, f"{url[:200]!r} is no URL ({error}).") from error
    if scheme not in ("http", "https"):
        raise RequestError(403, f"A URL of the scheme {scheme!r} is refused; http and https are read.")
    port = port or {"http": 80, "https": 443}[scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise RequestError(422, f"The host {host!r} cannot be found.") from error
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    if not addresses or not all(is_public(ipaddress.ip_address(address.partition("%")[0])) for address in addresses):
        raise RequestError(403, f"The host {host!r} is at a private address; only public ones are read.")
    return scheme, host, port, addresses


def fetch_public(url: str, max_bytes: int | None = None, seconds: float | None = None) -> bytes:
    """What a URL of the open internet holds. Every redirect is checked like the first address.

    Args:
        max_bytes: at most so many; None for `MAX_MEDIA_BYTES`.
        seconds: for all of it, redirects included; None for `FETCH_SECONDS`.

    Raises:
        RequestError: 403 refused, 413 too large, 422 not to be had, 504 too slow.
    """
    max_bytes = MAX_MEDIA_BYTES if max_bytes is None else max_bytes
    deadline = time.monotonic() + (FETCH_SECONDS if seconds is None else seconds)
    for _ in range(MAX_REDIRECTS + 1):
        scheme, host, port, addresses = resolve_public(url)
        left = deadline - time.monotonic()
        late, sockets = threading.Event(), []
        watch = threading.Timer(max(left, 0), _hang_up, (sockets, late))
        watch.daemon = True
        watch.start()
        try:
            sockets.append(_connect(addresses, port, max(left, 0.001)))
            found = _get(sockets, url, scheme, host, port, max_bytes)
        except (OSError, http.client.HTTPException, RequestError) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise RequestError(504, f"{host} did not send the clip in time.") from error
            if isinstance(error, RequestError):
                raise
            raise RequestError(422, f"{host} cannot be read ({type(error).__name__}).") from error
        finally:
            watch.cancel()
            for each in sockets:
                each.close()
        if late.is_set():
            raise RequestError(504, f"{host} did not send the clip in time.")
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise RequestError(422, f"More than {MAX_REDIRECTS} redirects.")


def _connect(addresses: list[str], port: int, seconds: float) -> socket.socket:
    """A socket to the first of the addresses that answers."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), timeout=seconds / len(addresses))
    return socket.create_connection((addresses[-1], port), timeout=seconds)


def _hang_up(sockets: list[socket.socket], late: threading.Event) -> None:
    """A timeout of the socket would begin anew with every byte that trickles in."""
    late.set()
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _get(sockets: list[socket.socket], url: str, scheme: str, host: str, port: int, max_bytes: int) -> bytes | str:
    """One request over the open socket: the content, or where else it is."""
    if scheme == "https":  # the certificate is that of the name, whichever of its addresses is behind the socket
        secure = ssl.create_default_context()
        sockets.append(secure.wrap_socket(sockets[0], server_hostname=host, do_handshake_on_connect=False))
        sockets[-1].do_handshake()
    connection = http.client.HTTPConnection(host, port)
    connection.sock = sockets[-1]
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "egmf-endpoint"})
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
        return response.getheader("Location")
    if response.status != 200:
        raise RequestError(422, f"{host} answers with status {response.status}.")
    if (response.length or 0) > max_bytes:
        raise RequestError(413, f"The clip at {host} is larger than {max_bytes} bytes.")
    content = bytearray()
    while piece := response.read1(2**16):
        content += piece
        if len(content) > max_bytes:
            raise RequestError(413, f"The clip at {host} is larger than {max_bytes} bytes.")
    if response.length:
        raise RequestError(422, f"The clip from {host} broke off; ask again.")
    return bytes(content)
