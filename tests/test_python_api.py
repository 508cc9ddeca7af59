"""The examples of training/PYTHON_API.md, run in their order with a tiny checkpoint."""

import re
import shutil

import pytest

from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.sources import ROOT
from tests.helpers.tiny_checkpoint import make_model_and_processor


PAGE = ROOT / "training/PYTHON_API.md"
CLIP = "data/demo/clips/test_0000.mp4"


@pytest.mark.integration
def test_examples_run(tmp_path, monkeypatch):
    model, processor = make_model_and_processor("waveform", "frames", tmp_path / "runs")
    model.save_pretrained(tmp_path / "runs/demo")
    processor.save_pretrained(tmp_path / "runs/demo")
    shutil.copytree(tmp_path / "runs/demo", tmp_path / "runs/old")
    (tmp_path / CLIP).parent.mkdir(parents=True)
    write_video(tmp_path / CLIP, gray_frames(20), fps=12.5, audio=sine(440, 1.6, 16000), sampling_rate=16000)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 9
    printed = []
    scope = {"print": printed.append}
    for block in blocks:
        exec(block, scope)  # noqa: S102
    assert [len(printed[0]["probabilities"]), printed[1] in ("joy", "anger")] == [3, True]
    assert printed[2] == printed[3]
    assert [prediction["modalities"] for prediction in printed[4:6]] == [["text", "audio", "video"], ["text"]]
    assert set(scope["model"].language_model.peft_config) == {"default", "german"}
    assert scope["model"].language_model.active_adapters() == ["default"]
    assert (tmp_path / "runs/renewed/config.json").is_file()
