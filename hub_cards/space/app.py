"""The Space: give a clip or words, see how the person seems to feel, how sure that is, and what made the difference.

    python hub_cards/space/app.py --model_name_or_path runs/demo

Needs Gradio, the extra `space`; `make space` brings it along. On the Hub the variable
`EGMF_MODEL` of the Space names the checkpoint. Nothing is fetched from elsewhere: fonts are those of the system, and
the page may not reach another server than its own.
"""

import argparse
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rendering
from predictions import MAX_MEGABYTES, MAX_TEXT, Predictor, RefusedError


logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
WAITING = 256  # requests in line; more are told that it is full
DELETED_AFTER_SECONDS = 3000
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; object-src 'none'; form-action 'self'"
)

Answer = Callable[[str | None, str | None, str, str, list[str]], Iterator[tuple[str, str]]]


def answering(judge: Predictor) -> Answer:
    """The function behind the page: clip, words, task and modalities in, HTML of answer and timeline out, twice for a
    long clip. What goes wrong is told on the page, and the app lives on."""

    def answer(
        video: str | None, sound: str | None, text: str, task: str, modalities: list[str]
    ) -> Iterator[tuple[str, str]]:
        clip = video or sound
        try:
            if task not in judge.tasks:
                raise RefusedError(f"There is no task {task!r}. Choose one of {', '.join(judge.tasks)}.")
            shown = rendering.answer(judge.whole(clip, text, task, modalities), judge.tasks[task])
            yield shown, ""
            parts = judge.parts(clip, task, modalities) if clip else []
            if parts:
                yield shown, rendering.timeline(parts, judge.tasks[task], modalities)
        except (ValueError, TypeError) as error:  # RefusedError is one; the others name the clip and say what to do
            yield rendering.notice(str(error)), ""
        except Exception:
            logger.exception("a clip could not be judged")
            yield rendering.notice("The clip could not be judged, and the log says why. Try another one."), ""

    return answer


def examples(tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the clips beside this file whose task the checkpoint knows: name, task, video (a path), text."""
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    return [{**each, "video": str(EXAMPLES / each["video"])} for each in listed if each["task"] in tasks]


def uploads_only(component: Any) -> Any:
    """The component, made to take uploaded files alone: Gradio would fetch what a stranger's address names. Of what is
    raised here only Gradio's own error reaches who asked over HTTP."""
    import gradio as gr

    move = component.async_move_resource_to_block_cache

    async def checked(place: Any) -> Any:
        if "://" in str(place):
            raise gr.Error("An address is refused. Download the clip, and upload it.")
        return await move(place)

    component.async_move_resource_to_block_cache = checked
    return component


def build(judge: Predictor) -> Any:
    """The page, as `gradio.Blocks`."""
    import gradio as gr

    answer, listed = answering(judge), examples(judge.tasks) if "video" in judge.modalities else []
    with gr.Blocks(title="EGMF", analytics_enabled=False, delete_cache=(600, DELETED_AFTER_SECONDS)) as page:
        shown = gr.HTML(rendering.EMPTY, elem_id="answer", render=False)
        timeline = gr.HTML(elem_id="timeline", render=False)
        gr.HTML(rendering.INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                with gr.Tabs():
                    with gr.Tab("Video"):
                        video = gr.Video(
                            label="Video", sources=["upload", "webcam"], include_audio=True, elem_id="video"
                        )
                    with gr.Tab("Sound only"):
                        sound = gr.Audio(
                            label="Sound", sources=["upload", "microphone"], type="filepath", elem_id="sound"
                        )
                text = gr.Textbox(
                    label="What was said",
                    placeholder="Type or paste the words; leave it empty if unknown.",
                    lines=2,
                    max_length=MAX_TEXT,
                    elem_id="words",
                )
                names = list(judge.tasks)
                task = gr.Radio(names, value=names[0], label="Task", elem_id="task")
                offered = [(rendering.TITLES[name], name) for name in judge.modalities]
                modalities = gr.CheckboxGroup(
                    offered, value=judge.modalities, label="Predictor by", elem_id="modalities"
                )
                button = gr.Button("Predictor", variant="primary", size="lg", elem_id="judge")
                given, told = [uploads_only(video), uploads_only(sound), text, task, modalities], [shown, timeline]
                if listed:
                    gr.Examples(
                        examples=[
                            [each["video"], None, each["text"], each["task"], judge.modalities] for each in listed
                        ],
                        example_labels=[each["name"] for each in listed],
                        inputs=given,
                        outputs=told,
                        fn=answer,
                        run_on_click=True,
                        cache_examples=False,
                        api_visibility="private",
                    )
            with gr.Column(scale=6, min_width=320):
                shown.render()
                timeline.render()
        gr.HTML(rendering.RESPONSIBLE)
        asked = {"fn": answer, "inputs": given, "outputs": told, "trigger_mode": "always_last"}
        asked |= {"show_progress": "minimal", "concurrency_limit": 1, "concurrency_id": "judge"}
        gr.on([button.click, text.submit], **asked, scroll_to_output=True, api_name="judge")
        gr.on([task.input, modalities.input], **asked, api_visibility="private")
        video.input(lambda: None, outputs=sound, queue=False, api_visibility="private")
        sound.input(lambda: None, outputs=video, queue=False, api_visibility="private")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def serve(page: Any, host: str, port: int | None) -> str:
    """Start the server; returns its address."""
    import gradio as gr
    from starlette.middleware import Middleware

    system = ["system-ui", "sans-serif"]
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=system)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme,
        css_paths=HERE / "style.css",
        max_file_size=MAX_MEGABYTES * 10**6,
        app_kwargs={"middleware": [Middleware(Guarded)]},
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address


class Guarded:
    """Every answer of the server tells the browser to reach no other."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, guarded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model_name_or_path", default=os.environ.get("EGMF_MODEL", "runs/demo"), help="checkpoint: folder or id"
    )
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    arguments = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs Gradio: pip install 'gradio>=6.31'")
    try:
        judge = Predictor(arguments.model_name_or_path)
    except (OSError, ValueError) as error:
        parser.error(
            f"{arguments.model_name_or_path} cannot be loaded: {error}. Give --model_name_or_path, or set EGMF_MODEL."
        )
    judge.whole(None, "Hello.", next(iter(judge.tasks)), ["text"])  # the first answer is the slowest
    page = build(judge)
    print(f"EGMF listens at {serve(page, arguments.host, arguments.port)}", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
