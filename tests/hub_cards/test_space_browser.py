"""The Space in a headless Chromium: upload, predict, switch a modality off, see the bars move; desktop and phone.

Screenshots go to the folder that `EGMF_SCREENSHOTS` names, if it does.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.space_server import space_server


pytest.importorskip("gradio", reason="Gradio is not installed: make test-space")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-space")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, BROWSERS) if path), None)
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
TRANSCRIPT = "I can't believe it!"
SHARES = "nodes => Object.fromEntries(nodes.map(node => [node.dataset.label, Number(node.dataset.share)]))"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(make_model, make_processor):
    with space_server(make_model("waveform", "frames"), make_processor("waveform", "frames")) as url:
        yield url


@pytest.fixture(scope="module")
def chromium():
    sync_api.expect.set_options(timeout=60_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    louder = sine(300, 11.5, 16_000) * np.linspace(0.1, 1, 184_000, dtype=np.float32)
    paths = {
        "both": write_video(folder / "both.mp4", gray_frames(6, 32, 48), audio=sine(440, 0.48, 16_000)),
        "long": write_video(folder / "long.mp4", gray_frames(46, 32, 48), fps=4, audio=louder),
        "text": folder / "text.mp4",
        "note": folder / "note.txt",
    }
    for name in ("text", "note"):
        paths[name].write_text("Only words.\n" * 99)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request, chromium, address):
    """The page, open and ready. Fails if it requested another server, or was too wide for the screen."""
    reached = set()
    context = chromium.new_context(viewport=request.param)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.on("request", lambda request: reached.add(request.url))
    opened.goto(address)
    opened.locator("#predict").wait_for()
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    own = urlsplit(address).netloc
    assert {url for url in reached if urlsplit(url).netloc not in ("", own)} == set()
    if "EGMF_SCREENSHOTS" in os.environ:
        name = request.node.name.translate(str.maketrans("[]", "-."))
        opened.screenshot(path=Path(os.environ["EGMF_SCREENSHOTS"]) / f"{name}png", full_page=True)
    context.close()


def upload(page, path):
    page.locator("#video input[type=file]").set_input_files(path)
    page.locator("#video video").wait_for()


def shares(page):
    page.locator("#prediction [data-share]").first.wait_for()
    return page.locator("#prediction [data-label]").evaluate_all(SHARES)


def test_upload_predict_and_switch_a_modality_off(page, clips):
    upload(page, clips["both"])
    page.locator("#text textarea").fill(TRANSCRIPT)
    page.locator("#predict").click()
    first = shares(page)
    assert len(first) == 7
    assert sum(first.values()) == pytest.approx(1, abs=0.01)
    changes = page.locator("#prediction [data-modality]")
    assert changes.count() == 3
    page.locator("#modalities").get_by_label("Audio").uncheck()
    sync_api.expect(changes).to_have_count(2)
    second = shares(page)
    assert max(abs(second[label] - first[label]) for label in first) > 0.01
    page.locator("#task").get_by_label("sentiment").check()
    sync_api.expect(page.locator("#prediction [data-value]")).to_have_count(61)
    sync_api.expect(page.locator("#prediction")).to_contain_text("90% between")


def test_errors_are_shown_and_the_page_keeps_working(page, clips):
    alert = page.get_by_role("alert").filter(has_text="That did not work")
    page.locator("#predict").click()
    sync_api.expect(alert).to_contain_text("Upload or record a clip, or type the transcript.")
    page.locator("#video input[type=file]").set_input_files(clips["text"])
    page.locator("#video video").wait_for(state="attached")
    page.locator("#predict").click()
    sync_api.expect(alert).to_contain_text("not a readable audio or video file")
    page.locator("#text textarea").fill(TRANSCRIPT)
    for name in ("Text", "Audio", "Video"):
        page.locator("#modalities").get_by_label(name).uncheck()
    sync_api.expect(alert).to_contain_text("Choose at least one of text, audio, video.")
    page.locator("#modalities").get_by_label("Text").check()
    assert len(shares(page)) == 7


def test_a_long_clip_has_a_timeline(page, clips):
    upload(page, clips["long"])
    page.locator("#predict").click()
    sync_api.expect(page.locator("#timeline [data-label]")).to_have_count(4)


def test_an_example_is_predicted_at_once(page):
    page.get_by_role("button", name="All three agree").click()
    assert len(shares(page)) == 7
    sync_api.expect(page.locator("#text textarea")).to_have_value("Look, the whole garden is in bloom!")
