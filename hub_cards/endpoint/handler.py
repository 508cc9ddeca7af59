"""Handler for Inference Endpoints: JSON in, typed JSON out, by the pipeline of the checkpoint it is stored with.

    {"inputs": {"video": BASE64_OR_URL, "text": "I'm fine."}, "parameters": {"task": "emotion", "top_k": 3}}
    {"status": 200, "answer": {"label": ..., "score": ..., "probabilities": {...}, ...}}
    {"status": 400, "error": {"type": "bad_input", "message": ...}}

`inputs` is one clip or a list of clips; a list gives `answers`, one such object for each. A clip is an object with any
of `text`, `audio`, `video`, `audio_features`, `video_features`, `context`, `task` and `modalities`, or a string, its
audio or video. Audio and video are base64, a `data:` URI with base64, or an http(s) URL; never a path.

Requests may arrive concurrently. Media of at most `MAX_PARALLEL_CLIPS` clips are fetched and decoded at a time; other
requests wait, with only their own JSON in memory. Only the model's forward pass is limited to one clip at a time, so
that text does not wait while videos are decoded.
"""

import base64
import binascii
import http.client
import ipaddress
import logging
import queue
import re
import reprlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from transformers import pipeline


logger = logging.getLogger(__name__)

TASK = "multimodal-emotion-recognition"
MAX_PARALLEL_CLIPS = 2  # fetched and decoded at a time
MAX_DECODE_SECONDS = 10.0  # of work for one clip
MAX_MEDIA_BYTES = 64 * 2**20  # of one audio or video
MAX_TEXT = 20_000  # characters of the transcript and all of its context
MAX_FEATURES = 4_000_000  # numbers of one modality
MAX_DEPTH = 4  # of nested lists
MAX_CLIPS = 32  # of one request
MAX_REDIRECTS = 3
FETCH_SECONDS = 20.0  # for one URL, redirects included
WAIT_SECONDS = 600.0  # waiting for its turn
MAX_URL = 8_192  # characters
MAX_MESSAGE = 600  # characters of an error

URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986; not quoted, because they have a meaning or are quoted already
FIELDS = ("text", "audio", "video", "audio_features", "video_features", "context", "task", "modalities")
PARAMETERS = {  # name -> what is accepted
    "task": "a task's name",
    "modalities": "a list of text, audio, video",
    "top_k": "a whole number, at least 1",
    "labels": "a list of labels",
    "interval": "a number between 0 and 1",
    "calibrated": "true or false",
    "return_experts": "true or false",
}
ERROR_TYPES = {
    400: "bad_input",
    403: "refused",
    413: "too_large",
    422: "unreachable",
    503: "busy",
    504: "timeout",
}


class RequestError(Exception):
    """An error that is returned instead of an answer, with its HTTP status."""

    def __init__(self, status: int, message: str):
        if len(message) > MAX_MESSAGE:  # it quotes the input, and ends with what to do
            message = f"{message[: MAX_MESSAGE // 2]} [...] {message[-MAX_MESSAGE // 2 :]}"
        super().__init__(message)
        self.status = status

    def to_dict(self) -> dict[str, Any]:
        error_type = ERROR_TYPES.get(self.status, "failed")
        return {"status": self.status, "error": {"type": error_type, "message": str(self)}}


class EndpointHandler:
    """The class that Inference Endpoints looks for: created once with the checkpoint's folder, called per request."""

    def __init__(self, path: str = ""):
        self.pipe = pipeline(TASK, model=path, trust_remote_code=True)
        self.pipe.processor.max_decode_seconds = MAX_DECODE_SECONDS
        self.pipe.forward = self._in_turn(self.pipe.forward)
        self._media_slots = threading.BoundedSemaphore(MAX_PARALLEL_CLIPS)
        self._model_lock = threading.Lock()

    def _in_turn(self, forward: Callable) -> Callable:
        """The pipeline's forward pass, for one thread at a time."""

        def locked_forward(*args: Any, **kwargs: Any) -> Any:
            with _waiting_for(self._model_lock):
                return forward(*args, **kwargs)

        return locked_forward

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer one request, from any number of threads. Never raises: `status` says what went wrong.

        Args:
            data: `inputs` and optionally `parameters`: those of `PARAMETERS`.

        Returns:
            `status` 200 with `answer` or `answers`; or 400 (bad input), 403 (a refused address), 413 (too large), 422
            (a URL without content), 503 (waited too long), 504 (too slow), 500 (a failure); each with `error`.
        """
        try:
            clips, parameters = _read_request(data)
        except RequestError as error:
            return error.to_dict()
        except (ValueError, RecursionError) as error:  # a number with thousands of digits
            return RequestError(400, str(error)).to_dict()
        answers = [self._answer(clip, parameters) for clip in clips]
        if isinstance(data["inputs"], list):
            return {"status": 200, "answers": answers}
        return answers[0]

    def _answer(self, clip: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        # Text needs no slot, and does not wait for slow downloads.
        has_media = isinstance(clip, str)
        if isinstance(clip, dict):
            has_media = any(clip.get(name) is not None for name in ("audio", "video"))
        try:
            with _waiting_for(self._media_slots) if has_media else nullcontext():
                return {"status": 200, "answer": dict(self.pipe(_read_clip(clip), **parameters))}
        except RequestError as error:
            return error.to_dict()
        except (ValueError, TypeError, OSError, RecursionError) as error:
            return RequestError(400, str(error)).to_dict()
        except Exception:
            logger.exception("a request failed")
            return RequestError(500, "The request failed; the endpoint's log says why.").to_dict()


@contextmanager
def _waiting_for(lock: Any) -> Iterator[None]:
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise RequestError(503, f"The endpoint was busy for {WAIT_SECONDS:g} s. Try again later.")
    try:
        yield
    finally:
        lock.release()


# ---- requests ------------------------------------------------------------------------------------------------


def _read_request(data: Any) -> tuple[list[Any], dict[str, Any]]:
    """The clips and the parameters of a request."""
    if not isinstance(data, dict) or data.get("inputs") is None:
        raise RequestError(400, 'Send an object with `inputs`, e.g. {"inputs": {"text": "I\'m fine."}}.')
    unknown = [name for name in data if name not in ("inputs", "parameters", "options")]  # clients add `options`
    if unknown:
        raise RequestError(400, f"A request has `inputs` and `parameters`, but no {reprlib.repr(unknown[0])}.")
    parameters = data.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict) or set(parameters) - set(PARAMETERS):
        raise RequestError(400, f"`parameters` must be an object with any of {', '.join(PARAMETERS)}.")
    clips = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
    if len(clips) == 0:
        raise RequestError(400, f"0 clips in one request; send 1 to {MAX_CLIPS}.")
    if len(clips) > MAX_CLIPS:
        raise RequestError(413, f"{len(clips)} clips in one request; send 1 to {MAX_CLIPS}.")
    return clips, _read_fields(parameters)


def _read_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null; those of `PARAMETERS` are checked."""
    present = {name: value for name, value in fields.items() if value is not None}
    for name, accepted in PARAMETERS.items():
        if name in present and not _is_accepted(name, present[name]):
            raise RequestError(400, f"`{name}` is {reprlib.repr(present[name])}; give {accepted}.")
    return present


def _is_accepted(name: str, value: Any) -> bool:
    if name == "task":
        return isinstance(value, str)
    if name in ("modalities", "labels"):
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if name == "top_k":
        return type(value) is int and value >= 1
    if name == "interval":
        return isinstance(value, float) and 0 < value < 1
    return isinstance(value, bool)


def _read_clip(clip: Any) -> Any:
    """One clip as the pipeline takes it, with its media as bytes: a client's string is never used as a path."""
    if isinstance(clip, str):
        return _read_media(clip, "inputs")
    if not isinstance(clip, dict) or set(clip) - set(FIELDS):
        raise RequestError(400, f"A clip is a string or an object with any of {', '.join(FIELDS)}.")
    fields = _read_fields(clip)
    if _count([fields.get("text", ""), fields.get("context", [])]) > MAX_TEXT:
        raise RequestError(413, f"More than {MAX_TEXT} characters of text and context.")
    for name in ("audio_features", "video_features"):
        if _count(fields.get(name, [])) > MAX_FEATURES:
            raise RequestError(413, f"More than {MAX_FEATURES} numbers in `{name}`.")
    for name in ("audio", "video"):
        if name in fields:
            fields[name] = _read_media(fields[name], name)
    return fields


def _count(value: Any, depth: int = MAX_DEPTH) -> int:
    """Number of characters in strings plus numbers, in lists that may be nested `MAX_DEPTH` deep."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | dict):
        return 1
    if depth == 0:
        raise RequestError(
            400, "Lists are nested too deeply: context is a list of [speaker, text], features are a list of vectors."
        )
    entries = value.values() if isinstance(value, dict) else value
    return sum(_count(entry, depth - 1) for entry in entries)


def _read_media(value: Any, name: str) -> bytes:
    """base64, a data URI or a URL -> bytes."""
    if not isinstance(value, str):
        raise RequestError(400, f"`{name}` must be base64 or a URL, not {type(value).__name__}.")
    if re.match(r"data:[^,]{0,200};base64,", value):
        encoded = value.partition(",")[2]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        return fetch_public(value)
    else:
        encoded = value
    if len(encoded) * 3 // 4 > MAX_MEDIA_BYTES + 3:
        raise RequestError(413, f"`{name}` is larger than {MAX_MEDIA_BYTES} bytes.")
    try:
        content = base64.b64decode(re.sub(r"\s+", "", encoded), validate=True)
    except (binascii.Error, ValueError) as error:
        hint = ' A transcript goes into an object: {"text": ...}.' if name == "inputs" else ""
        message = f"`{name}` is not valid base64 ({error}). Encode the file's bytes again.{hint}"
        raise RequestError(400, message) from error
    if not content:
        raise RequestError(400, f"`{name}` is empty, 0 bytes.")
    return content


# ---- addresses -----------------------------------------------------------------------------------------------


class PublicHost(NamedTuple):
    """The host of a URL. Connect to one of its addresses: its name may by now resolve to a different one."""

    scheme: str
    name: str
    port: int
    addresses: list[str]


# https://www.iana.org/assignments/ipv6-address-space: unicast addresses are allocated only from this block.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
# Addresses that Python 3.11's `ipaddress.is_global` accepts although they lead into private networks.
NOT_PUBLIC = [
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890, protocol assignments; Oracle Cloud's metadata
    ipaddress.ip_network("192.88.99.0/24"),  # RFC 7526, the nearest 6to4 relay
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's own services, from inside a virtual machine
    ipaddress.ip_network("3fff::/20"),  # RFC 9637, documentation
]


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is on the public internet. An IPv4 address embedded in an IPv6 address decides."""
    if address.version == 6:
        embedded = _embedded_ipv4(address)
        if embedded is not None:
            return is_public(embedded)
        if address not in GLOBAL_UNICAST:
            return False
    listed = any(address in network for network in NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not listed


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def resolve_public(url: str, seconds: float = FETCH_SECONDS) -> PublicHost:
    """Resolve the host of a URL, all of whose addresses must be public.

    Args:
        url: http or https; its host may have letters outside ASCII.
        seconds: time limit of the lookup.

    Raises:
        RequestError: 400 for a malformed URL, 403 for a scheme other than http and https or a private address, 413 for
            a URL that is too long, 422 for an unknown host, 504 for a lookup that takes too long.
    """
    if len(url) > MAX_URL:
        raise RequestError(413, f"The URL has {len(url)} characters; at most {MAX_URL} are read.")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError as error:
        raise RequestError(400, f"{url!r} is not a URL ({error}).") from error
    if parts.scheme not in ("http", "https"):
        raise RequestError(403, f"URLs with the scheme {parts.scheme!r} are refused; use http or https.")
    port = port or {"http": 80, "https": 443}[parts.scheme]
    addresses = _look_up(host, port, seconds) if host else []
    without_zones = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    if not addresses or not all(is_public(address) for address in without_zones):
        raise RequestError(403, f"The host {host!r} is at a private address; only public ones are allowed.")
    return PublicHost(parts.scheme, host, port, addresses)


def _look_up(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host. The system's lookup has no time limit, so a separate thread waits for it."""
    results: queue.Queue[list[str] | Exception] = queue.Queue()

    def resolve() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            results.put(list(dict.fromkeys(entry[4][0] for entry in entries)))
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        addresses = results.get(timeout=max(seconds, 0))
    except queue.Empty:
        raise RequestError(504, f"The host {host!r} was not found in time.") from None
    if isinstance(addresses, Exception):
        raise RequestError(422, f"The host {host!r} cannot be found.") from addresses
    return addresses


# ---- downloads -----------------------------------------------------------------------------------------------


def fetch_public(url: str, max_bytes: int | None = None, seconds: float | None = None) -> bytes:
    """Fetch a URL from the public internet. Every redirect is checked like the first address.

    Args:
        url: http or https.
        max_bytes: largest size; None for `MAX_MEDIA_BYTES`.
        seconds: time limit, redirects included; None for `FETCH_SECONDS`.

    Raises:
        RequestError: 403 refused, 413 too large, 422 unreachable, 504 too slow.
    """
    max_bytes = MAX_MEDIA_BYTES if max_bytes is None else max_bytes
    deadline = time.monotonic() + (FETCH_SECONDS if seconds is None else seconds)
    for _ in range(MAX_REDIRECTS + 1):
        host = resolve_public(url, deadline - time.monotonic())
        seconds_left = deadline - time.monotonic()
        with _sockets_until(seconds_left, host.name) as sockets:
            sockets.append(_connect(host, max(seconds_left, 0.001)))
            response = _get(url, host, sockets, max_bytes)
        if isinstance(response, bytes):
            return response
        url = urljoin(url, response)
    raise RequestError(422, f"More than {MAX_REDIRECTS} redirects.")


@contextmanager
def _sockets_until(seconds: float, host: str) -> Iterator[list[socket.socket]]:
    """A list for sockets, which are shut down after `seconds` and closed at the end.

    A socket's own timeout is not enough: it restarts with every byte that trickles in.
    """
    sockets: list[socket.socket] = []
    is_late = threading.Event()
    timer = threading.Timer(max(seconds, 0), _shut_down, (sockets, is_late))
    timer.daemon = True
    timer.start()
    try:
        yield sockets
    except (OSError, http.client.HTTPException, RequestError) as error:
        if is_late.is_set() or isinstance(error, TimeoutError):
            raise RequestError(504, f"{host} did not send the clip in time.") from error
        if isinstance(error, RequestError):
            raise
        raise RequestError(422, f"{host} cannot be read ({type(error).__name__}).") from error
    finally:
        timer.cancel()
        for opened in sockets:
            opened.close()
    if is_late.is_set():
        raise RequestError(504, f"{host} did not send the clip in time.")


def _shut_down(sockets: list[socket.socket], is_late: threading.Event) -> None:
    is_late.set()
    for opened in sockets:
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


def _connect(host: PublicHost, seconds: float) -> socket.socket:
    """A socket to the first of the host's addresses that answers."""
    *others, last = host.addresses
    for address in others:
        with suppress(OSError):
            return socket.create_connection((address, host.port), timeout=seconds / len(host.addresses))
    return socket.create_connection((last, host.port), timeout=seconds)


def _get(url: str, host: PublicHost, sockets: list[socket.socket], max_bytes: int) -> bytes | str:
    """One request over the open socket: the content, or the URL of a redirect."""
    if host.scheme == "https":  # the certificate must match the name, not the address
        context = ssl.create_default_context()
        sockets.append(context.wrap_socket(sockets[0], server_hostname=host.name, do_handshake_on_connect=False))
        sockets[-1].do_handshake()
    connection = http.client.HTTPConnection(host.name, host.port)
    connection.sock = sockets[-1]
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    target = quote((parts.path or "/") + query, safe=URL_CHARACTERS)  # letters outside ASCII as UTF-8
    headers = {"Accept-Encoding": "identity", "User-Agent": "egmf-endpoint"}
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    location = response.getheader("Location")
    if response.status in (301, 302, 303, 307, 308) and location:
        return quote(location.encode("latin-1"), safe=URL_CHARACTERS)  # http.client reads headers as latin-1
    if response.status != 200:
        raise RequestError(422, f"{host.name} answered with status {response.status}.")
    return _read_body(response, host.name, max_bytes)


def _read_body(response: http.client.HTTPResponse, host: str, max_bytes: int) -> bytes:
    if (response.length or 0) > max_bytes:
        raise RequestError(413, f"The clip at {host} is larger than {max_bytes} bytes.")
    content = bytearray()
    while piece := response.read1(2**16):
        content += piece
        if len(content) > max_bytes:
            raise RequestError(413, f"The clip at {host} is larger than {max_bytes} bytes.")
    if response.length:
        raise RequestError(422, f"The download from {host} was cut off; try again.")
    return bytes(content)
