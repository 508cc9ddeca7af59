"""The demo corpus: the same for the same seed, clean splits, exact ceilings, real mp4 files, safe to interrupt."""

import itertools
import json

import av
import numpy as np
import pytest

from training.demo import corpus as demo_corpus
from training.demo.corpus import (
    NOISE_STD,
    RELIABILITIES,
    SUBSETS,
    VADER_FILE,
    all_ceilings,
    build_corpus,
    clean_snippet,
    cue_probabilities,
    emotion_ceilings,
    plan_rows,
    preview,
    read_vader_snippets,
    score_of_rating,
    select_snippets,
    sentiment_ceilings,
    valence_weights,
)
from training.demo.face import FACE_AFFECTS, draw_face, make_face_speaker
from training.demo.phrases import EMOTIONS, SPLITS, bank, phrases
from training.demo.voice import VOICE_AFFECTS, make_voice_speaker, synthesize


_NUMBERS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
]
SNIPPETS = [
    (rating, f"The {size} parcel number {number} came today")
    for (number, size), rating in zip(
        itertools.product(_NUMBERS, ("small", "large", "red", "blue")),
        np.linspace(-3.8, 3.8, 60).tolist(),
        strict=True,
    )
]
TINY = {
    "num_train": 6, "num_validation": 2, "num_test": 4, "frame_size": 64, "snippets": SNIPPETS,
    "show_progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("demo") / "corpus", num_workers=1, **TINY)


def read_rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_same_seed_same_bytes_whatever_the_workers(corpus, tmp_path):
    other = build_corpus(tmp_path / "other", num_workers=2, **TINY)
    names = sorted(str(p.relative_to(corpus)) for p in corpus.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(other)) for p in other.rglob("*") if p.is_file())
    assert len(names) == 12 + 4
    for name in names:
        assert (corpus / name).read_bytes() == (other / name).read_bytes(), name


def test_another_seed_gives_another_plan():
    counts = {"train": 14, "validation": 4, "test": 6}
    assert plan_rows(0, counts, SNIPPETS)[0] == plan_rows(0, counts, SNIPPETS)[0]
    assert plan_rows(0, counts, SNIPPETS)[0] != plan_rows(1, counts, SNIPPETS)[0]


def test_rows_are_complete(corpus):
    rows = read_rows(corpus)
    assert [sum(row["split"] == split for row in rows) for split in SPLITS] == [6, 2, 4]
    for row in rows:
        assert list(row) == ["id", "split", "task", "text", "video", "answer", "language", "speaker", "cues"]
        assert (corpus / row["video"]).is_file()
        assert list(row["cues"]) == ["text", "audio", "video"]
        if row["task"] == "emotion":
            assert row["answer"] in EMOTIONS and set(row["cues"].values()) <= set(EMOTIONS)
        else:
            assert -3 <= row["answer"] <= 3 and all(-3 <= cue <= 3 for cue in row["cues"].values())
    for split in SPLITS:
        tasks = [row["task"] for row in rows if row["split"] == split]
        assert tasks == ["emotion" if i % 5 < 3 else "sentiment" for i in range(len(tasks))]


def test_speakers_and_snippets_do_not_cross_splits():
    rows, _ = plan_rows(0, {"train": 70, "validation": 14, "test": 28}, SNIPPETS)
    for key, of_interest in (("speaker", rows), ("text", [row for row in rows if row["task"] == "sentiment"])):
        used = {split: {row[key] for row in of_interest if row["split"] == split} for split in SPLITS}
        for a, b in itertools.combinations(SPLITS, 2):
            assert not used[a] & used[b]
    sentiment = [row["text"] for row in rows if row["task"] == "sentiment"]
    assert len(sentiment) == len(set(sentiment))


def test_duplicate_snippets_are_used_once():
    counts = {"train": 30, "validation": 10, "test": 20}
    twins = [(rating, text.upper() + " !!") for rating, text in SNIPPETS]
    chosen = select_snippets([*SNIPPETS, *twins], counts, np.random.default_rng(0))
    keys = ["".join(filter(str.isalnum, text.lower())) for items in chosen.values() for _, text in items]
    assert len(keys) == len(set(keys)) == 60
    with pytest.raises(ValueError, match="fit for use"):
        select_snippets(SNIPPETS, {"train": 61, "validation": 0, "test": 0}, np.random.default_rng(0))


def test_phrase_bank():
    texts = [text for text, _, _ in phrases()]
    assert len(texts) == len(set(texts))
    for language, clear, ambiguous in (("en", 40, 60), ("zh", 20, 30)):
        for emotion in EMOTIONS:
            assert sum(lang == language and fits == (emotion,) for _, lang, fits in phrases()) >= clear
        assert sum(lang == language and len(fits) > 1 for _, lang, fits in phrases()) >= ambiguous
    assert len(texts) / 2 <= len(bank(3)) <= len(texts) / 2 + 40  # odd blocks are rounded up
    assert bank(3) == bank(3) != bank(4)
    values = [[emotion_ceilings(rows)[subset] for subset in SUBSETS] for rows in (bank(3), bank(4), phrases())]
    assert np.ptp(values, axis=0).max() < 0.015  # the same ambiguity whichever half is used


def test_emotion_ceilings_by_hand(monkeypatch):
    """Two labels, one cue of reliability 0.8, one of 0.6, and a text of three phrases of which one fits both."""
    monkeypatch.setattr(demo_corpus, "EMOTIONS", ("joy", "anger"))
    monkeypatch.setattr(demo_corpus, "RELIABILITIES", {"text": (1.0, 1.0), "audio": (0.8, 0.8), "video": (0.6, 0.6)})
    found = emotion_ceilings([("a", "en", ("joy",)), ("b", "en", ("anger",)), ("c", "en", ("joy", "anger"))])
    assert found["text"] == pytest.approx(0.5 + 0.5 * 0.5)
    assert found["audio"] == pytest.approx(0.8)
    assert found["video"] == pytest.approx(0.6)
    assert found["text+audio"] == pytest.approx(0.5 + 0.5 * 0.8)
    assert found["audio+video"] == pytest.approx(0.8)  # the weaker cue never overrules the stronger one


def test_emotion_ceilings_against_simulation():
    """The guess that the enumeration calls best, played against the generator."""
    rng = np.random.default_rng(0)
    rows = bank(0)
    fits = np.array([[emotion in phrase[2] for emotion in EMOTIONS] for phrase in rows], dtype=float)
    tables = {m: cue_probabilities(m) for m in RELIABILITIES}
    tables["text"] = tables["text"] @ (fits / fits.sum(axis=0)).T
    draws = 20_000
    labels = rng.integers(len(EMOTIONS), size=draws)
    seen = {}
    for modality in ("audio", "video", "text"):
        shown = np.array([rng.choice(7, p=cue_probabilities(modality)[label]) for label in labels])
        if modality == "text":
            fitting = [np.flatnonzero(fits[:, e]) for e in range(7)]
            shown = np.array([fitting[e][rng.integers(len(fitting[e]))] for e in shown])
        seen[modality] = shown
    expected = emotion_ceilings(rows)
    for subset in SUBSETS:
        posterior = np.prod([tables[m][:, seen[m]] for m in subset.split("+")], axis=0)  # (7, draws)
        # Ties are met evenly rather than by the first label.
        guess = (posterior * (1 + 1e-9 * rng.uniform(size=posterior.shape))).argmax(axis=0)
        assert (guess == labels).mean() == pytest.approx(expected[subset], abs=4 * 0.5 / np.sqrt(draws))


def test_planned_cues_follow_the_stated_reliabilities():
    rng = np.random.default_rng(0)
    rows = [demo_corpus._plan_emotion(label, bank(0), rng) for label in range(7) for _ in range(400)]
    for modality, reliability in RELIABILITIES.items():
        for i, emotion in enumerate(EMOTIONS):
            hits = [row["cues"][modality] == emotion for row in rows if row["answer"] == emotion]
            assert np.mean(hits) == pytest.approx(reliability[i], abs=0.1)
    fits = {text: emotions for text, _, emotions in phrases()}
    assert all(row["cues"]["text"] in fits[row["text"]] for row in rows)


def test_more_modalities_are_better():
    found = emotion_ceilings(bank(0))
    for pair in ("text+audio", "text+video", "audio+video"):
        assert all(found[pair] > found[single] + 0.04 for single in pair.split("+"))
        assert found["text+audio+video"] > found[pair] + 0.04
    found = sentiment_ceilings(np.round(np.linspace(-2.5, 2.5, 51), 1))
    assert found["audio+video"] < found["video"] < found["audio"] < found["prior"]


def test_sentiment_ceilings_against_simulation():
    rng = np.random.default_rng(0)
    scores = np.round(rng.uniform(-3, 3, 300), 1)
    expected = sentiment_ceilings(scores)
    grid, counts = np.unique(scores, return_counts=True)
    truth = rng.choice(scores, size=8_000)
    seen = {m: np.clip(truth + rng.normal(0, std, len(truth)), -3, 3) for m, std in NOISE_STD.items()}

    def likelihood(value: np.ndarray, std: float) -> np.ndarray:
        from scipy.stats import norm

        inside = norm.pdf((value[:, None] - grid) / std)
        tail = np.where(value[:, None] > 0, norm.sf((3 - grid) / std), norm.cdf((-3 - grid) / std))
        return np.where(np.abs(value[:, None]) >= 3, tail, inside)

    for subset in ("audio", "video", "audio+video"):
        posterior = counts * np.prod([likelihood(seen[m], NOISE_STD[m]) for m in subset.split("+")], axis=0)
        mass = np.cumsum(posterior, axis=1)
        median = grid[(mass >= mass[:, -1:] / 2).argmax(axis=1)]
        errors = np.abs(median - truth)
        assert errors.mean() == pytest.approx(expected[subset], abs=4 * errors.std() / np.sqrt(len(errors)))
    centerd = np.abs(scores - np.median(scores)).mean()
    assert expected["prior"] == pytest.approx(centerd, abs=1e-9)


def test_sentiment_ceiling_by_hand():
    """Scores of -3 and 3 alone: without a clip the error is 3, and seeing the voice errs only past the middle."""
    from scipy.stats import norm

    found = sentiment_ceilings([-3.0, 3.0])
    assert found["prior"] == pytest.approx(3)
    assert found["audio"] == pytest.approx(6 * norm.cdf(-3 / NOISE_STD["audio"]), rel=1e-6)


def test_ceilings_file(corpus):
    found = json.loads((corpus / "ceilings.json").read_text())
    _, chosen = plan_rows(0, {"train": 6, "validation": 2, "test": 4}, SNIPPETS)
    assert found == all_ceilings(0, chosen)
    for task in ("emotion", "sentiment"):
        assert set(SUBSETS) <= set(found[task])
    assert all(found["sentiment"][subset] is None for subset in SUBSETS if "text" in subset)
    assert "synthetic" in (corpus / "README.md").read_text(encoding="utf-8")


def test_mp4_files_hold_both_streams(corpus):
    for row in read_rows(corpus):
        with av.open(str(corpus / row["video"])) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert float(video.average_rate) == 12.5 and (video.width, video.height) == (64, 64)
            assert audio.rate == 16_000 and audio.layout.nb_channels == 1
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        with av.open(str(corpus / row["video"])) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert 1.4 <= len(frames) / 12.5 <= 3.0
        assert abs(len(sound) / 16_000 - len(frames) / 12.5) < 0.15
        assert np.sqrt(np.mean(sound**2)) > 0.003 and np.std(frames[-1]) > 10


def test_interrupted_build_is_completed(corpus, tmp_path, monkeypatch, capsys):
    write, done = demo_corpus.write_mp4, []

    def failing(path, sound, frames):
        if len(done) == 5:
            path.with_name(".half.mp4").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, sound, frames)
        done.append(path)

    folder = tmp_path / "corpus"
    monkeypatch.setattr(demo_corpus, "write_mp4", failing)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(folder, num_workers=1, **TINY)
    assert not folder.exists()
    monkeypatch.setattr(demo_corpus, "write_mp4", write)
    build_corpus(folder, num_workers=1, **TINY)
    assert "5 of 12 clips are there" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]
    for path in corpus.rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(corpus)).read_bytes() == path.read_bytes()
    assert len(list((folder / "clips").iterdir())) == 12


def test_existing_corpus_is_used_or_refused(corpus, tmp_path, capsys):
    before = (corpus / "metadata.jsonl").stat().st_mtime_ns
    assert build_corpus(corpus, num_workers=1, **TINY) == corpus
    assert "used as it is" in capsys.readouterr().out
    assert (corpus / "metadata.jsonl").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"seed: 0 there, 1 asked for.*--overwrite"):
        build_corpus(corpus, seed=1, num_workers=1, **TINY)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a demo corpus"):
        build_corpus(tmp_path, num_workers=1, overwrite=True, **TINY)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_overwrite_replaces(tmp_path):
    small = TINY | {"num_train": 1, "num_validation": 0, "num_test": 1}
    build_corpus(tmp_path / "c", num_workers=1, **small)
    build_corpus(tmp_path / "c", seed=1, num_workers=1, overwrite=True, **small)
    assert json.loads((tmp_path / "c" / "build.json").read_text())["settings"]["seed"] == 1


def test_wrong_source_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip download vaderSentiment==3.3.2"):
        read_vader_snippets(tmp_path)
    (tmp_path / VADER_FILE).write_bytes(b"something else")
    with pytest.raises(ValueError, match="sha256"):
        build_corpus(tmp_path / "corpus", tmp_path, num_workers=1)
    with pytest.raises(ValueError, match="sources"):
        build_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match="frame_size=33"):
        build_corpus(tmp_path / "corpus", **(TINY | {"frame_size": 33}))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("@user @anonymous so happy for you! http://t.co/abc #blessed", "So happy for you! blessed"),
        ("good food &amp; good wine", "Good food & good wine"),
        ("told @user about the film", None),
        ("too short", None),
        ("caf\xe9 was closed today", None),
    ],
)
def test_clean_snippet(raw, clean):
    assert clean_snippet(raw) == clean


def test_score_map():
    assert [score_of_rating(r) for r in (-4, -2, 0, 1.5, 4, 4.4)] == [-3.0, -1.5, 0.0, 1.1, 3.0, 3.0]
    assert valence_weights(-1.5) == {"neutral": 0.5, "sadness": 0.5}
    assert valence_weights(3.0) == {"neutral": 0.0, "joy": 1.0}


def test_every_affect_looks_and_sounds_different():
    voice, face = make_voice_speaker(np.random.default_rng(0)), make_face_speaker(np.random.default_rng(0))
    pictures = [draw_face(face, FACE_AFFECTS[emotion], 48).astype(float) for emotion in EMOTIONS]
    sounds = [synthesize(voice, VOICE_AFFECTS[emotion], 8, np.random.default_rng(1)) for emotion in EMOTIONS]
    assert list(FACE_AFFECTS) == list(VOICE_AFFECTS) == list(EMOTIONS)
    for a, b in itertools.combinations(pictures, 2):
        assert np.abs(a - b).mean() > 2
    for sound in sounds:
        assert sound.dtype == np.float32 and np.abs(sound).max() <= 1 and 1.5 <= len(sound) / 16_000 <= 3.0
    level = dict(zip(EMOTIONS, [np.sqrt(np.mean(s**2)) for s in sounds], strict=True))
    assert level["anger"] > level["neutral"] > level["sadness"]


def test_preview(corpus, tmp_path):
    from PIL import Image

    preview(corpus, tmp_path / "sheet.png", tile=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 7 * 32 and sheet.height > 4 * 32
