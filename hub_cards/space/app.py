"""The Space: how a person in a clip seems to feel, how sure the model is, and what each modality changed.

    python hub_cards/space/app.py --model_name_or_path runs/demo

Needs Gradio (the extra `space`); `make space` installs it. On the Hub, the Space's variable `EGMF_MODEL` names the
checkpoint. Nothing is loaded from elsewhere: the page uses system fonts and may contact only its own server.
Next: predictions.py and rendering.py.
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
MAX_QUEUE = 256  # waiting requests; further ones are told that the queue is full
DELETE_AFTER_SECONDS = 3000
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; object-src 'none'; form-action 'self'"
)

# Video, audio, text, task, modalities -> HTML of the prediction and of the timeline.
Respond = Callable[[str | None, str | None, str, str, list[str]], Iterator[tuple[str, str]]]


def make_respond(predictor: Predictor) -> Respond:
    """The function behind the page: yields the prediction and then, for a long clip, the timeline as well.

    Errors are shown on the page, and the app keeps running.
    """

    def respond(
        video: str | None, audio: str | None, text: str, task: str, modalities: list[str]
    ) -> Iterator[tuple[str, str]]:
        clip = video or audio or None
        try:
            if video and audio:
                raise RefusedError("Give a video or an audio file, not both. A video brings its own audio.")
            if task not in predictor.tasks:
                raise RefusedError(f"There is no task {task!r}. Choose one of {', '.join(predictor.tasks)}.")
            prediction = predictor.predict(clip, text, task, modalities)
            html = rendering.prediction(prediction, predictor.tasks[task])
            yield html, ""
            parts = predictor.predict_parts(clip, task, modalities) if clip else []
            if parts:
                yield html, rendering.timeline(parts, predictor.tasks[task], modalities)
        except (ValueError, TypeError) as error:  # also RefusedError; all of them say what to do
            yield rendering.notice(str(error)), ""
        except Exception:
            logger.exception("prediction failed")
            yield rendering.notice("The prediction failed; the log says why. Try another clip."), ""

    return respond


def read_examples(tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The example clips for the checkpoint's tasks, as dicts with name, task, video (a path) and text."""
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    return [{**example, "video": str(EXAMPLES / example["video"])} for example in listed if example["task"] in tasks]


def uploads_only(component: Any) -> Any:
    """The component, restricted to uploaded files: Gradio would fetch any URL that a visitor sends.

    Raises `gr.Error`, because clients see no other exception over HTTP.
    """
    import gradio as gr

    move = component.async_move_resource_to_block_cache

    async def checked_move(location: Any) -> Any:
        if "://" in str(location):
            raise gr.Error("URLs are refused. Download the clip and upload it.")
        return await move(location)

    component.async_move_resource_to_block_cache = checked_move
    return component


def build_inputs(predictor: Predictor) -> list[Any]:
    """The input components, in the order of `Respond`'s arguments."""
    import gradio as gr

    with gr.Tabs():
        with gr.Tab("Video"):
            video = gr.Video(label="Video", sources=["upload", "webcam"], include_audio=True, elem_id="video")
        with gr.Tab("Audio only"):
            audio = gr.Audio(label="Audio", sources=["upload", "microphone"], type="filepath", elem_id="audio")
    text = gr.Textbox(
        label="Transcript",
        placeholder="Type or paste what was said; leave it empty if unknown.",
        lines=2,
        max_length=MAX_TEXT,
        elem_id="text",
    )
    tasks = list(predictor.tasks)
    task = gr.Radio(tasks, value=tasks[0], label="Task", elem_id="task")
    choices = [(rendering.TITLES[name], name) for name in predictor.modalities]
    modalities = gr.CheckboxGroup(choices, value=predictor.modalities, label="Modalities", elem_id="modalities")
    return [uploads_only(video), uploads_only(audio), text, task, modalities]


def build_examples(predictor: Predictor, respond: Respond, inputs: list[Any], outputs: list[Any]) -> None:
    """The row of example clips, if the checkpoint has video and their tasks."""
    import gradio as gr

    examples = read_examples(predictor.tasks) if "video" in predictor.modalities else []
    if not examples:
        return
    gr.Examples(
        examples=[
            [example["video"], None, example["text"], example["task"], predictor.modalities] for example in examples
        ],
        example_labels=[example["name"] for example in examples],
        inputs=inputs,
        outputs=outputs,
        fn=respond,
        run_on_click=True,
        cache_examples=False,
        api_visibility="private",
    )


def build(predictor: Predictor) -> Any:
    """The page, as `gradio.Blocks`."""
    import gradio as gr

    respond = make_respond(predictor)
    with gr.Blocks(title="EGMF", analytics_enabled=False, delete_cache=(600, DELETE_AFTER_SECONDS)) as page:
        outputs = [
            gr.HTML(rendering.EMPTY, elem_id="prediction", render=False),
            gr.HTML(elem_id="timeline", render=False),
        ]
        gr.HTML(rendering.INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                inputs = build_inputs(predictor)
                button = gr.Button("Predict", variant="primary", size="lg", elem_id="predict")
                build_examples(predictor, respond, inputs, outputs)
            with gr.Column(scale=6, min_width=320):
                for output in outputs:
                    output.render()
        gr.HTML(rendering.RESPONSIBLE)
        connect_events(respond, inputs, outputs, button)
    return page.queue(max_size=MAX_QUEUE, default_concurrency_limit=1)


def connect_events(respond: Respond, inputs: list[Any], outputs: list[Any], button: Any) -> None:
    """Predict on a click of the button, on Enter in the transcript, and when task or modalities change."""
    import gradio as gr

    video, audio, text, task, modalities = inputs
    options = {
        "fn": respond,
        "inputs": inputs,
        "outputs": outputs,
        "trigger_mode": "always_last",
        "show_progress": "minimal",
        "concurrency_limit": 1,
        "concurrency_id": "predict",
    }
    gr.on([button.click, text.submit], **options, scroll_to_output=True, api_name="predict")
    gr.on([task.input, modalities.input], **options, api_visibility="private")
    video.input(lambda: None, outputs=audio, queue=False, api_visibility="private")
    audio.input(lambda: None, outputs=video, queue=False, api_visibility="private")


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
        show_error=True,  # otherwise a client over HTTP gets `null` for a field that Gradio refuses
        app_kwargs={"middleware": [Middleware(Guarded)]},
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address


class Guarded:
    """Middleware: every response tells the browser to contact no other server."""

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
    default_model = os.environ.get("EGMF_MODEL", "runs/demo")
    parser.add_argument("--model_name_or_path", default=default_model, help="checkpoint: a folder or a Hub id")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    arguments = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs Gradio: pip install 'gradio>=6.31'")
    try:
        predictor = Predictor(arguments.model_name_or_path)
    except (OSError, ValueError) as error:
        parser.error(
            f"{arguments.model_name_or_path} cannot be loaded: {error}. Give --model_name_or_path, or set EGMF_MODEL."
        )
    predictor.predict(None, "Hello.", next(iter(predictor.tasks)), ["text"])  # the first prediction is the slowest
    page = build(predictor)
    print(f"EGMF is served at {serve(page, arguments.host, arguments.port)}", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
