"""The benchmark of Whisper over a clip's own length."""

import json

import pytest

from training.benchmarks.cost import clip_length


pytestmark = pytest.mark.integration


def test_record(capsys, monkeypatch):
    monkeypatch.setattr(clip_length, "WHISPER_BASE", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1})
    clip_length.main(["--seconds", "0.5", "--repeats", "1"])
    record = json.loads(capsys.readouterr().out)
    assert record["ratio"] == pytest.approx(
        record["encode"]["padded"]["median_s"] / record["encode"]["own_length"]["median_s"]
    )
    assert record["settings"] == {"seconds": 0.5, "threads": 1, "repeats": 1}


def test_clip_longer_than_whisper_takes_is_refused(capsys):
    with pytest.raises(SystemExit):
        clip_length.main(["--seconds", "31"])
    assert "--seconds" in capsys.readouterr().err
