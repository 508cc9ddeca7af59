"""The Space as a server: concurrent requests, files that clients may read, servers that pages may reach."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.space_server import space_server


pytest.importorskip("gradio", reason="Gradio is not installed: make test-space")
gradio_client = pytest.importorskip("gradio_client", reason="it comes with Gradio")

ALL = ["text", "audio", "video"]
TRANSCRIPT = "I can't believe it!"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def address(make_model, make_processor):
    with space_server(make_model("waveform", "frames"), make_processor("waveform", "frames")) as url:
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return str(write_video(path, gray_frames(6, 32, 48), audio=sine(440, 0.48, 16_000)))


def inputs(text="", video=None, modalities=ALL):
    return [video, None, text, "emotion", modalities]


def test_clip_and_text(client, clip):
    page, timeline = client.predict(*inputs(TRANSCRIPT, gradio_client.handle_file(clip)), api_name="/predict")
    assert page.count("data-share") == 7
    assert page.count("data-modality") == 3
    assert not timeline


def test_a_hundred_concurrent_requests(client):
    jobs = [client.submit(*inputs(f"{TRANSCRIPT} {number}"), api_name="/predict") for number in range(100)]
    pages = [job.result(timeout=120)[0] for job in jobs]
    assert all(page.count("data-share") == 7 for page in pages)
    assert len(set(pages)) > 50


def call(address, *data):
    """The server's response to a request that its page would not send."""
    request = urllib.request.Request(  # noqa: S310
        f"{address}/gradio_api/call/predict",
        data=json.dumps({"data": list(data)}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            event = json.load(response)["event_id"]
        with urllib.request.urlopen(f"{address}/gradio_api/call/predict/{event}", timeout=30) as response:  # noqa: S310
            return response.read().decode()
    except urllib.error.HTTPError as error:
        return f"event: error {error.code}"


def test_server_files_and_addresses_are_rejected(address):
    requests = []

    class Private(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Private) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/clip.mp4"
        outside = "https://192.0.2.1/clip.mp4"
        for place in ("/etc/passwd", str(Path(__file__).resolve()), url, "file:///etc/passwd", outside):
            file = {"path": place, "meta": {"_type": "gradio.FileData"}}
            for each in (file, file | {"url": place}):
                response = call(address, *inputs(TRANSCRIPT, each))
                assert "event: error" in response
                assert "data-share" not in response
                is_ours = "URLs are refused. Download the clip and upload it." in response
                assert is_ours == (place in (url, outside))  # Gradio itself refuses paths, also those of file://
        server.shutdown()
    assert requests == []
    assert "data-share" in call(address, *inputs(TRANSCRIPT))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("video", value) for value in ("clip.mp4", 3, {"path": None}, {"meta": 1}, [1])],
        *[("task", value) for value in ("mood", 7, None, ["emotion"])],
        *[("modalities", value) for value in (["smell"], "text", 3, None)],
        *[("text", value) for value in (3, ["a"], {"a": 1})],
    ],
)
def test_refused_fields_say_why(address, name, value):
    fields = dict(zip(("video", "audio", "text", "task", "modalities"), inputs(TRANSCRIPT), strict=True))
    response = call(address, *{**fields, name: value}.values())
    if "event: error" in response:
        assert json.loads(response.partition("data: ")[2])["error"]
    else:
        assert "event: complete" in response


def test_content_security_policy_allows_no_other_server(address):
    with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert "http:" not in response.headers["Content-Security-Policy"]
