"""The prediction of the README's quickstart: stored as the pipeline gives it, and shown as it prints."""

import ast

from processing_egmf import EGMFPipeline
from tests.helpers.corpus_files import write_corpus
from training.demo import quickstart
from training.demo.update_readme import render_quickstart
from training.records import read_json


def test_stored_prediction_is_the_pipelines(tmp_path, monkeypatch, make_model, make_processor):
    write_corpus(tmp_path / "corpus")
    monkeypatch.setattr(quickstart, "CLIP", "clips/0.mp4")
    pipe = EGMFPipeline(model=make_model("waveform", "frames"), processor=make_processor("waveform", "frames"))
    monkeypatch.setattr("transformers.pipeline", lambda *_, **__: pipe)
    output = tmp_path / "quickstart.json"
    quickstart.main(["--dataset", str(tmp_path / "corpus"), "--output", str(output)])
    record = read_json(output)
    clip = str(tmp_path / "corpus/clips/0.mp4")
    assert record["prediction"] == pipe(clip, text=quickstart.TEXT, task=quickstart.TASK, top_k=quickstart.TOP_K)

    block = render_quickstart(record)
    call, printed = block.split("top_k=3))\n")
    assert 'print(pipe("data/demo/clips/0.mp4", text="I\'m fine.", task="emotion", ' in call
    printed = "\n".join(line.removeprefix("# ") for line in printed.removesuffix("\n```").splitlines())
    assert ast.literal_eval(printed) == record["prediction"]
