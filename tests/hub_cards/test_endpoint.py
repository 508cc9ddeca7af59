"""The endpoint's handler: typed JSON, limits, refused addresses, and a hundred requests at once."""

import base64
import copy
import ipaddress
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from hub_cards.endpoint import handler
from hub_cards.endpoint.handler import EndpointHandler, RequestError, fetch_public, is_public, resolve_public
from processing_egmf import EGMFPipeline
from tests.helpers.media_files import gray_frames, sine, write_video


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, gray_frames(6, 32, 48), audio=sine(440, 0.48, 16_000)).read_bytes()


@pytest.fixture(scope="module")
def pipe(make_model, make_processor):
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    return EGMFPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def endpoint(pipe, monkeypatch):
    asked = []
    own_pipe = copy.copy(pipe)  # the handler replaces its `forward`
    monkeypatch.setattr(handler, "pipeline", lambda *args, **options: asked.append((args, options)) or own_pipe)
    made = EndpointHandler("the/folder")
    assert asked == [(("multimodal-emotion-recognition",), {"model": "the/folder", "trust_remote_code": True})]
    return made


def written(content):
    return base64.b64encode(content).decode()


def refused(endpoint, status, message, inputs, **parameters):
    found = endpoint({"inputs": inputs, "parameters": parameters})
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"status", "error"}
    assert set(found["error"]) == {"type", "message"}
    assert found["status"] == status, found
    assert message in found["error"]["message"]
    assert len(found["error"]["message"]) <= handler.MAX_MESSAGE + 10


# ---- answers -------------------------------------------------------------------------------------------------


def test_calibrated_answer_needs_a_calibration(endpoint, pipe, monkeypatch):
    inputs = {"text": "I'm fine."}
    refused(endpoint, 400, "give true or false", inputs, calibrated="yes")
    refused(endpoint, 400, "not calibrated for text", inputs, task="emotion", calibrated=True)
    calibration = {"text": {"temperature": 2.0, "uniform_weight": 0.1}}
    monkeypatch.setattr(pipe.processor.task_objects["emotion"], "calibration", calibration)
    found = endpoint({"inputs": inputs, "parameters": {"task": "emotion", "calibrated": True}})
    assert found["answer"] == pipe(inputs, task="emotion", calibrated=True)
    assert found["answer"]["score"] < pipe(inputs, task="emotion")["score"]


def test_answer_matches_the_pipeline(endpoint, pipe, clip):
    data = {
        "inputs": {"video": written(clip), "text": "I'm fine.", "context": [["Ann", "He left."]]},
        "parameters": {"task": "emotion", "top_k": 3, "return_experts": True},
    }
    found = endpoint(json.loads(json.dumps(data)))
    expected = pipe(
        {"video": clip, "text": "I'm fine.", "context": [("Ann", "He left.")]},
        task="emotion",
        top_k=3,
        return_experts=True,
    )
    assert found == {"status": 200, "answer": expected}
    assert json.loads(json.dumps(found)) == found


def test_a_string_is_a_clip(endpoint, pipe, clip):
    expected = {"status": 200, "answer": pipe(clip)}
    assert endpoint({"inputs": written(clip)}) == expected
    assert endpoint({"inputs": "data:video/mp4;base64," + written(clip)}) == expected
    assert endpoint({"inputs": {"video": base64.encodebytes(clip).decode()}, "parameters": None}) == expected


def test_many_clips_and_one_error(endpoint):
    found = endpoint({"inputs": [{"text": "a"}, {"text": ""}, {"text": "b", "task": "mosei"}]})
    assert found["status"] == 200
    assert [answer["status"] for answer in found["answers"]] == [200, 400, 200]
    assert found["answers"][2]["answer"]["task"] == "mosei"


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


# ---- bad requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [None, {}, [], "text", {"inputs": None}, {"parameters": {}}]
    + [{"inputs": {"text": "a"}, "parameters": wrong} for wrong in ([], [1], "", 0, False)]
    + [{"inputs": {"text": "a"}, name: {"task": "sentiment"}} for name in ("task", "paramters")],
)
def test_requests_without_inputs_or_with_bad_parameters(endpoint, data):
    found = endpoint(data)
    assert found["status"] == 400
    assert found["error"]["type"] == "bad_input"


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        ({"video": "???"}, 400, "not valid base64"),
        ({"audio": "YWJ"}, 400, "not valid base64"),
        ({"audio": ""}, 400, "empty, 0 bytes"),
        ({"audio": written(b"<html>404</html>")}, 400, "a web page that was saved"),
        ({"audio": {"path": "/etc/passwd"}}, 400, "must be base64 or a URL, not dict"),
        ({"video": "/etc/passwd"}, 400, "not valid base64"),
        ({"path": "/etc/passwd"}, 400, "A clip is a string or an object"),
        ({"text": "a", "name": "b"}, 400, "A clip is a string or an object"),
        ({"text": ["a"]}, 400, "text must be a string"),
        ({"text": "a", "task": "mood"}, 400, "unknown task ['mood']"),
        (5, 400, "A clip is a string or an object"),
        ("I'm fine.", 400, 'A transcript goes into an object: {"text": ...}'),
        ({"text": "a", "context": ["b\ud800"]}, 400, "half a character"),
        ({"text": "a", "context": [{"speaker": "Ann"}]}, 400, "must be a string or a pair (speaker, text)"),
        ({"text": "a", "context": nested(10_000)}, 400, "Lists are nested too deeply"),
        ({"text": "a", "context": [{"turns": nested(10_000)}]}, 400, "Lists are nested too deeply"),
        ({"audio_features": nested(10_000)}, 400, "Lists are nested too deeply"),
        ({"text": nested(10_000)}, 400, "Lists are nested too deeply"),
        ({}, 400, "Give at least one"),
        ({"text": "a" * 20_001}, 413, "20000 characters"),
        ({"text": "a", "context": ["b" * 200] * 200}, 413, "20000 characters"),
        ([{"text": "a"}] * 33, 413, "33 clips"),
        ([], 400, "0 clips in one request; send 1 to 32"),
        ({"text": "a", "task": "m" * 100_000}, 400, "unknown task"),
        ({"text": "a", "modalities": [10**5000]}, 400, "integer string conversion"),
        (
            {"audio": written(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")},
            400,
            "Git LFS pointer",
        ),
    ],
)
def test_bad_clips(endpoint, inputs, status, message):
    refused(endpoint, status, message, inputs)


def test_bad_parameters(endpoint):
    refused(endpoint, 400, "any of task", {"text": "a"}, fetch="print")
    refused(endpoint, 400, "`top_k` is 0", {"text": "a"}, top_k=0)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("task", {"name": "emotion"}, "a task's name"),
        ("task", ["emotion"], "a task's name"),
        ("task", nested(10_000), "a task's name"),
        ("modalities", 5, "a list of text, audio, video"),
        ("modalities", "text", "a list of text, audio, video"),
        ("modalities", [["text"]], "a list of text, audio, video"),
        ("top_k", "3", "a whole number, at least 1"),
        ("top_k", 1.5, "a whole number, at least 1"),
        ("top_k", True, "a whole number, at least 1"),
        ("interval", "x", "a number between 0 and 1"),
        ("interval", [0.5], "a number between 0 and 1"),
        ("interval", float("nan"), "a number between 0 and 1"),
        ("return_experts", "no", "true or false"),
    ],
)
def test_parameters_of_the_wrong_type(endpoint, name, value, accepted):
    refused(endpoint, 400, f"; give {accepted}.", {"text": "a"}, **{name: value})
    if name in handler.FIELDS:
        refused(endpoint, 400, f"; give {accepted}.", {"text": "a", name: value})


def test_large_media_and_features_are_refused_before_they_are_decoded(endpoint, monkeypatch):
    monkeypatch.setattr(handler, "MAX_MEDIA_BYTES", 1000)
    monkeypatch.setattr(handler, "MAX_FEATURES", 100)
    monkeypatch.setattr(handler.base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    refused(endpoint, 413, "larger than 1000 bytes", {"audio": written(bytes(2000))})
    refused(endpoint, 413, "More than 100 numbers", {"audio_features": np.zeros((11, 10)).tolist()})


def test_internal_failures_are_not_revealed(endpoint, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret place")

    endpoint.pipe = fail
    found = endpoint({"inputs": {"text": "a"}})
    assert found["status"] == 500
    assert "secret" not in json.dumps(found)


# ---- a hundred at once ---------------------------------------------------------------------------------------


def test_a_hundred_requests_at_once_are_answered_one_after_another(endpoint, monkeypatch):
    lock = threading.Lock()
    active = {"media": 0, "model": 0}
    peak = {"media": 0, "model": 0}

    def enter(stage, step):
        with lock:
            active[stage] += step
            peak[stage] = max(peak[stage], active[stage])

    read_clip = handler._read_clip

    def decoded(clip):
        enter("media", 1)
        return read_clip(clip)

    @endpoint._in_turn
    def forward(clip):
        enter("model", 1)
        time.sleep(0.002)
        enter("model", -1)
        return {"label": clip["text"], "length": len(clip["audio"])}

    def predict(clip, **_):
        answer = forward(clip)
        enter("media", -1)
        return answer

    monkeypatch.setattr(handler, "_read_clip", decoded)
    endpoint.pipe = predict
    answers = {}

    def ask(i):
        answers[i] = endpoint({"inputs": {"text": f"clip {i}", "audio": written(bytes(i + 1))}})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == {i: {"status": 200, "answer": {"label": f"clip {i}", "length": i + 1}} for i in range(100)}
    assert peak["model"] == 1
    assert peak["media"] <= handler.MAX_PARALLEL_CLIPS


def test_text_does_not_wait_for_the_decoding_of_a_video(endpoint, pipe, clip, monkeypatch):
    decoding = threading.Event()
    answered = threading.Event()
    load_media = type(pipe.processor).load_media

    def slow_load_media(self, **arguments):
        if arguments["video"] is not None:
            decoding.set()
            assert answered.wait(60)
        return load_media(self, **arguments)

    monkeypatch.setattr(type(pipe.processor), "load_media", slow_load_media)
    found = {}
    thread = threading.Thread(target=lambda: found.update(endpoint({"inputs": {"video": written(clip)}})))
    thread.start()
    assert decoding.wait(60)
    assert endpoint({"inputs": {"text": "Hm."}})["status"] == 200
    answered.set()
    thread.join(60)
    assert found["status"] == 200


def test_waiting_too_long_is_an_error(endpoint, monkeypatch):
    monkeypatch.setattr(handler, "WAIT_SECONDS", 0.01)
    with endpoint._model_lock:
        refused(endpoint, 503, "Try again later", {"text": "a"})
    assert endpoint({"inputs": {"text": "a"}})["status"] == 200


# ---- addresses -----------------------------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1/a.mp4", "http://localhost:8000/a", "http://10.1.2.3/a", "http://192.168.0.1/a",
    "http://172.16.0.1/a", "http://169.254.169.254/latest/meta-data", "http://100.64.0.1/a", "http://0.0.0.0/a",
    "http://224.0.0.1/a", "http://[::1]/a", "http://[::ffff:127.0.0.1]/a", "http://[fe80::1]/a", "http://[fd00::1]/a",
    "http://[64:ff9b::7f00:1]/a", "http://[2002:7f00:1::]/a", "http://127.1/a", "http://2130706433/a",
    "http://0x7f000001/a", "http:///a", "https://user:word@127.0.0.1/a", "http://192.0.0.192/a", "http://[fec0::1]/a",
    "http://[64:ff9b:1::a00:1]/a", "http://[::127.0.0.1]/a", "http://[::ffff:0:127.0.0.1]/a", "http://168.63.129.16/a",
    "http://[2001::7f00:1]/a", "http://[3fff::1]/a", "http://[4000::1]/a", "http://[ff0e::1]/a", "http://[::]/a",
    "http://[2002:a9fe:a9fe::]/a", "http://\uff11\uff12\uff17\u30020\u30020\u30021/a",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused(endpoint, url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    for inputs in (url, {"audio": url}):
        refused(endpoint, 403, "private address", inputs)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:/etc/passwd", "ftp://example.org/a", "data:,a", "x:y"])
def test_other_schemes_are_refused(endpoint, url):
    refused(endpoint, 403, "scheme", {"video": url})


def test_public_addresses():
    for text in ("93.184.216.34", "192.0.1.1", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"):
        assert is_public(ipaddress.ip_address(text))


@pytest.fixture
def names(monkeypatch):
    """`names["host"] = [addresses]` sets what a host resolves to; `names["asked"]` lists the hosts looked up."""
    known = {"asked": []}
    real = socket.getaddrinfo

    def resolve(host, port, *args, **options):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            known["asked"].append(host)
            if host not in known:
                raise socket.gaierror("unknown") from None
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def test_one_private_address_among_several_is_enough(names):
    names["mixed.example"] = ["93.184.216.34", "10.0.0.1"]
    with pytest.raises(RequestError, match="private address"):
        resolve_public("http://mixed.example/a")
    names["good.example"] = ["93.184.216.34"]
    assert resolve_public("https://good.example/a") == ("https", "good.example", 443, ["93.184.216.34"])
    with pytest.raises(RequestError, match="cannot be found"):
        resolve_public("http://absent.example/a")


def test_slow_lookup_counts_as_time(names, monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: stop.wait(60) and [])
    with pytest.raises(RequestError, match="'slow.example' was not found in time") as caught:
        fetch_public("http://slow.example/a", seconds=0.05)
    stop.set()
    assert caught.value.status == 504


@pytest.mark.parametrize(
    "inputs",
    [
        {"task": "x" * 5_000_000},
        {"audio": "x" * 5_000_000 + ":"},
        {"audio": "http://" + "x" * 5_000_000},
        {"audio": "http://[" + "x" * 5_000_000},
        {"audio": "ä" * 5_000_000},
        {"x" * 5_000_000: 1},
    ],
    ids=["task", "scheme", "host", "address", "base64", "field"],
)
def test_long_fields_are_not_echoed(endpoint, inputs):
    response = endpoint({"inputs": inputs})
    assert response["status"] in (400, 413)
    assert len(json.dumps(response)) < 3 * handler.MAX_MESSAGE


@pytest.fixture
def server(names, monkeypatch, clip):
    """A server at 127.0.0.1 named `clips.example`; no other address counts as public here."""

    class Serve(BaseHTTPRequestHandler):
        hosts = []
        paths = []

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.hosts.append(self.headers["Host"])
            self.paths.append(self.path)
            kind, _, rest = self.path.strip("/").partition("?")
            if kind == "to":
                self.send_response(302)
                self.send_header("Location", unquote(rest).encode().decode("latin-1"))
                self.end_headers()
                return
            self.send_response(404 if kind == "absent" else 200)
            if kind in ("clip", "short"):
                self.send_header("Content-Length", str(len(clip) + (kind == "short")))
            if kind == "declared":
                self.send_header("Content-Length", str(10**9))
            self.end_headers()
            if kind in ("clip", "short"):
                self.wfile.write(clip)
            for _ in range({"endless": 4000, "trickle": 100}.get(kind, 0)):
                self.wfile.write(bytes(1000) if kind == "endless" else b"a")
                self.wfile.flush()
                time.sleep(0.02 if kind == "trickle" else 0)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(handler, "is_public", lambda address: str(address) == "127.0.0.1")
    names["clips.example"] = ["127.0.0.1"]
    running.url = f"http://clips.example:{running.server_port}"
    running.hosts = Serve.hosts
    running.paths = Serve.paths
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_clip_from_a_url(server, endpoint, pipe, clip):
    expected = {"status": 200, "answer": pipe(clip)}
    assert endpoint({"inputs": f"{server.url}/clip"}) == expected
    assert endpoint({"inputs": {"video": f"{server.url}/to?{server.url}/clip"}}) == expected
    assert set(server.hosts) == {f"clips.example:{server.server_port}"}


def test_letters_outside_ascii_in_url_and_redirect(server, names, clip):
    names["xn--mnchen-3ya.example"] = ["127.0.0.1"]
    port = server.server_port
    assert fetch_public(f"http://münchen.example:{port}/clip?ä b%20c") == clip
    assert fetch_public(f"http://münchen.example:{port}/to?/clip?ö") == clip
    assert server.paths == ["/clip?%C3%A4%20b%20c", "/to?/clip?%C3%B6", "/clip?%C3%B6"]
    assert set(server.hosts) == {f"xn--mnchen-3ya.example:{port}"}


def test_a_name_is_looked_up_once_and_its_checked_address_is_used(server, names, clip):
    """The name may resolve to another address a moment later, but is not looked up again."""
    assert fetch_public(f"{server.url}/clip") == clip
    assert names["asked"] == ["clips.example"]


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("to?http://127.0.0.2/secret", 403, "private address"),
        ("to?http://inside.example/secret", 403, "private address"),
        ("to?file:///etc/passwd", 403, "scheme 'file'"),
        ("to?/to?/to?/to?/clip", 422, "More than 3 redirects"),
        ("absent", 422, "status 404"),
        ("short", 422, "cannot be read|was cut off"),
        ("declared", 413, "larger than 100000 bytes"),
        ("endless", 413, "larger than 100000 bytes"),
        ("trickle", 504, "did not send the clip in time"),
    ],
)
def test_misbehaving_servers_are_refused(server, names, place, status, message):
    names["inside.example"] = ["10.0.0.1"]
    started = time.monotonic()
    with pytest.raises(RequestError, match=message) as caught:
        fetch_public(f"{server.url}/{place}", max_bytes=100_000, seconds=0.5 if place == "trickle" else 30)
    assert caught.value.status == status
    assert time.monotonic() - started < 20


def test_a_server_that_is_down(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(RequestError, match="cannot be read") as caught:
        fetch_public(f"{server.url}/clip")
    assert caught.value.status == 422


def test_requirements_match_the_project():
    wanted = (ROOT / "hub_cards/endpoint/requirements.txt").read_text().split()
    project = (ROOT / "pyproject.toml").read_text()
    assert {"transformers", "peft", "av", "numpy"} <= {line.split(">")[0] for line in wanted}
    assert [line for line in wanted if f'"{line}"' not in project] == []
