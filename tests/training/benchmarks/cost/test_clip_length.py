"""The benchmark of Whisper over a clip's own length."""

import json

import pytest

from training.benchmarks.cost import clip_length


pytestmark = pytest.mark.integration
TINY = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1}


def test_record(capsys, monkeypatch):
    monkeypatch.setattr(clip_length, "WHISPER_BASE", TINY)
    clip_length.main(["--seconds", "0.5", "--repeats", "1"])
    record = json.loads(capsys.readouterr().out)
    for ratio, suffix in (("ratio", ""), ("encoder_ratio", "_encoder")):
        padded, own_length = (record["times"][name + suffix]["median_s"] for name in ("padded", "own_length"))
        assert record[ratio] == pytest.approx(padded / own_length)
    assert record["settings"] == {"seconds": 0.5, "threads": 1, "repeats": 1}


def test_clip_longer_than_whisper_takes_is_refused():
    with pytest.raises(SystemExit, match="--seconds is 31.0; it must be at least 0.1 and at most 30"):
        clip_length.main(["--seconds", "31"])
