"""The demo corpus: real mp4 clips of synthesized speakers of which the truth is known.

Emotion task: a label is drawn, and text, voice and face each show it with a stated reliability, else another emotion.
Sentiment task: the text is a real snippet with a human rating; voice and face show the rating plus stated noise. Both
are simple enough that the best possible result for every subset of modalities is computed exactly (`ceilings.json`).

    plan (one rng) -> rows: answer, text, cues, speaker -> clip (rng of seed and clip id): voice + face -> mp4

    python -m training.demo.corpus --output data/demo --sources ~/.cache/egmf --seed 0

The corpus is synthetic: it serves to teach and to test, and scores on it say nothing about people.
Next: `demo_phrases.py` holds the texts, `demo_voice.py` the voice, `demo_face.py` the face.
"""

import argparse
import hashlib
import html
import io
import json
import multiprocessing
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
import scipy
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import norm
from tqdm import tqdm

from training.demo.face import FACE_AFFECTS, draw_face, make_face_speaker, mix_face_affects, render_clip
from training.demo.phrases import EMOTIONS, SPLITS, bank
from training.demo.voice import SAMPLE_RATE, make_voice_speaker, mix_voice_affects, synthesize


GENERATOR_VERSION = 3  # raise it when the same settings no longer give the same corpus
FRAMES_PER_SECOND = Fraction(25, 2)
NUM_SPEAKERS = {"train": 40, "validation": 8, "test": 14}
# Probability that a cue shows the true label, in the order of EMOTIONS. Voices tell anger, sadness and fear best;
# faces tell joy, disgust and surprise best.
RELIABILITIES = {
    "text": (0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 0.88),
    "audio": (0.72, 0.60, 0.82, 0.86, 0.56, 0.56, 0.88),
    "video": (0.72, 0.84, 0.56, 0.58, 0.90, 0.84, 0.58),
}
EMOTION_SHARE = (3, 5)  # of every five clips in a row, three are of the emotion task
NOISE_STD = {"audio": 1.0, "video": 0.9}  # in points of the sentiment scale
SCORE_LIMIT = 3.0
SCORE_PER_RATING = 0.75  # VADER ratings in [-4, 4] become scores in [-3, 3]
SUBSETS = ("text", "audio", "video", "text+audio", "text+video", "audio+video", "text+audio+video")

VADER_FILE = "vaderSentiment-3.3.2.tar.gz"
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_VADER_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_VADER_TEXTS = ("tweets_GroundTruth.txt", "amazonReviewSnippets_GroundTruth.txt")
# A demonstration need not show insults of groups or sexual violence.
_UNWANTED = re.compile(r"nigg|fagg|retard|\brap(e|ist)|cunt|bitch|whore|slut|porn|\bdick\b|\bgay\b", re.IGNORECASE)


# --- texts of the sentiment task --------------------------------------------------------------------------------


def read_vader_snippets(sources: str | Path) -> list[tuple[float, str]]:
    """Reads the rated tweets and product reviews out of the VADER source distribution, without unpacking it.

    Args:
        sources: folder that holds `vaderSentiment-3.3.2.tar.gz`.

    Returns:
        Pairs of mean human rating in about [-4, 4] and raw text.

    Raises:
        FileNotFoundError: if the archive is not there.
        ValueError: if it is not the archive that we know.

    Source: Hutto and Gilbert (2014), "VADER: A parsimonious rule-based model for sentiment analysis of social media
    text", ICWSM.
    """
    path = Path(sources) / VADER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Fetch it once with "
            f"`pip download vaderSentiment==3.3.2 --no-deps --no-binary :all: -d {path.parent}`."
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != VADER_SHA256:
        raise ValueError(f"{path} has sha256 {found}, expected {VADER_SHA256}. Delete the file and fetch it again.")
    snippets = []
    with tarfile.open(fileobj=io.BytesIO(data)) as outer:
        inner_data = outer.extractfile(_VADER_INNER).read()
    with tarfile.open(fileobj=io.BytesIO(inner_data)) as inner:
        for name in _VADER_TEXTS:
            for line in inner.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("latin-1").splitlines():
                _, rating, text = line.split("\t", 2)
                snippets.append((float(rating), text))
    return snippets


def clean_snippet(text: str) -> str | None:
    """Makes a tweet or review look like something said, or returns None where that cannot be done."""
    text = html.unescape(html.unescape(text))
    text = re.sub(r"(https?://|www\.)\S+|\bRT\b|\{?link\}?:?$", " ", text)
    text = re.sub(r"^(\s*[.:,-]*\s*@\w+[:,]?)+", " ", text)
    text = re.sub(r"(\s@\w+)+\s*$", " ", text)
    text = re.sub(r"#(\w+)", r"\1", text)
    text = text.replace("''", '"').replace("`", "'")
    text = re.sub(r"\s+([,.!?;:])(?=\s|$)", r"\1", re.sub(r"\s+", " ", text)).strip(" -|~*")
    letters = sum(c.isalpha() or c.isspace() for c in text)
    if "@" in text or not text.isascii() or not 3 <= len(text.split()) <= 25 or letters < 0.8 * len(text):
        return None
    if _UNWANTED.search(text):
        return None
    return text[0].upper() + text[1:]


def score_of_rating(rating: float) -> float:
    """Linear map from a VADER rating in [-4, 4] to a score in [-3, 3] with one decimal; what is outside is clipped."""
    return round(float(np.clip(rating * SCORE_PER_RATING, -SCORE_LIMIT, SCORE_LIMIT)), 1) + 0.0


def select_snippets(
    snippets: Sequence[tuple[float, str]], counts: dict[str, int], rng: np.random.Generator
) -> dict[str, list[tuple[float, str]]]:
    """Picks snippets whose scores are spread and cuts them into splits with like distributions.

    Args:
        snippets: pairs of rating in [-4, 4] and raw text.
        counts: snippets wanted in every split.
        rng: decides which.

    Returns:
        Split name to pairs of score in [-3, 3] and clean text; no text occurs twice.
    """
    seen: set[str] = set()
    bins: dict[int, list[tuple[float, str]]] = {}
    for rating, raw in snippets:
        text = clean_snippet(raw)
        key = re.sub(r"\W+", "", text.lower()) if text else ""
        if text and key not in seen:
            seen.add(key)
            score = score_of_rating(rating)
            bins.setdefault(int(np.floor(score * 2 + 0.5)), []).append((score, text))
    total = sum(counts.values())
    available = sum(len(members) for members in bins.values())
    if available < total:
        raise ValueError(
            f"{total} snippets are wanted for the sentiment task but {available} of {len(snippets)} are fit for use. "
            "Ask for fewer clips or give more snippets."
        )
    queues = {b: [members[i] for i in rng.permutation(len(members))] for b, members in sorted(bins.items())}
    picked: list[tuple[float, str]] = []
    while len(picked) < total:  # one of every bin in turn keeps the scores as even as the source allows
        order = [b for b in queues if queues[b]]
        for b in rng.permutation(order)[: total - len(picked)]:
            picked.append(queues[int(b)].pop())
    picked.sort()
    chosen: dict[str, list[tuple[float, str]]] = {split: [] for split in SPLITS}
    for i, item in enumerate(picked):  # walking up the scores, each goes to the split that lags most behind its share
        lag = {split: counts[split] * (i + 1) / total - len(chosen[split]) for split in SPLITS}
        chosen[max(lag, key=lag.get)].append(item)
    return {split: [items[i] for i in rng.permutation(len(items))] for split, items in chosen.items()}


# --- the plan ---------------------------------------------------------------------------------------------------


def cue_probabilities(modality: str) -> np.ndarray:
    """P(emotion shown | label) of a modality, (7 labels, 7 shown)."""
    reliability = np.array(RELIABILITIES[modality])
    table = np.repeat(((1 - reliability) / (len(EMOTIONS) - 1))[:, None], len(EMOTIONS), axis=1)
    np.fill_diagonal(table, reliability)
    return table


def plan_rows(
    seed: int, counts: dict[str, int], snippets: Sequence[tuple[float, str]]
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[float, str]]]]:
    """Draws everything about the clips that is told in the metadata.

    Args:
        seed: seed of the corpus.
        counts: clips in every split; `EMOTION_SHARE` says how many of them are of the emotion task.
        snippets: pairs of rating and raw text.

    Returns:
        The rows of the metadata, and the snippets by split.
    """
    rng = np.random.default_rng([seed, 1])
    tasks = {split: [_is_emotion(i) for i in range(counts[split])] for split in SPLITS}
    num_sentiment = {split: tasks[split].count(False) for split in SPLITS}
    chosen = select_snippets(snippets, num_sentiment, rng)
    phrase_bank = bank(seed)
    rows = []
    for split in SPLITS:
        num_emotion = counts[split] - num_sentiment[split]
        labels = rng.permutation(np.arange(num_emotion) % len(EMOTIONS))
        speakers = rng.permutation(np.arange(counts[split]) % NUM_SPEAKERS[split])
        labels, scores = iter(labels), iter(chosen[split])
        for i, is_emotion in enumerate(tasks[split]):
            row = {"id": f"{split}_{i:04d}", "split": split}
            if is_emotion:
                row |= _plan_emotion(int(next(labels)), phrase_bank, rng)
            else:
                row |= _plan_sentiment(*next(scores), rng)
            row |= {"video": f"clips/{row['id']}.mp4", "speaker": f"{split}_speaker_{speakers[i]:02d}"}
            rows.append({key: row[key] for key in _COLUMNS})
    return rows, chosen


def _is_emotion(index: int) -> bool:
    return index % EMOTION_SHARE[1] < EMOTION_SHARE[0]


_COLUMNS = ("id", "split", "task", "text", "video", "answer", "language", "speaker", "cues")


def _plan_emotion(
    label: int, phrase_bank: list[tuple[str, str, tuple[str, ...]]], rng: np.random.Generator
) -> dict[str, Any]:
    shown = {m: EMOTIONS[rng.choice(len(EMOTIONS), p=cue_probabilities(m)[label])] for m in RELIABILITIES}
    fitting = [phrase for phrase in phrase_bank if shown["text"] in phrase[2]]
    text, language, _ = fitting[rng.integers(len(fitting))]
    return {"task": "emotion", "text": text, "answer": EMOTIONS[label], "language": language, "cues": shown}


def _plan_sentiment(score: float, text: str, rng: np.random.Generator) -> dict[str, Any]:
    cues = {"text": score}
    for modality, std in NOISE_STD.items():
        cues[modality] = round(float(np.clip(score + rng.normal(0, std), -SCORE_LIMIT, SCORE_LIMIT)), 3)
    return {"task": "sentiment", "text": text, "answer": score, "language": "en", "cues": cues}


# --- ceilings ---------------------------------------------------------------------------------------------------


def emotion_ceilings(phrase_bank: Sequence[tuple[str, str, tuple[str, ...]]]) -> dict[str, float]:
    """Best possible accuracy for every subset of modalities, by enumeration of all that can be observed.

    The best guess takes the label with the greatest probability given the observation o, hence the accuracy is
    sum over o of max over labels of P(label) P(o | label). The cues are independent given the label. For the text,
    o is the phrase itself: phrases that fit several emotions are ambiguous.

    Args:
        phrase_bank: (text, language, emotions that it fits).
    """
    fits = np.array([[emotion in phrase[2] for emotion in EMOTIONS] for phrase in phrase_bank], dtype=np.float64)
    phrase_given_shown = (fits / fits.sum(axis=0)).T  # (7 shown, phrases)
    observed = {m: cue_probabilities(m) for m in RELIABILITIES}
    observed["text"] = observed["text"] @ phrase_given_shown  # (7 labels, phrases)
    result = {}
    for subset in SUBSETS:
        joint = np.full((len(EMOTIONS), 1), 1 / len(EMOTIONS))
        for modality in subset.split("+"):
            joint = (joint[:, :, None] * observed[modality][:, None, :]).reshape(len(EMOTIONS), -1)
        result[subset] = float(joint.max(axis=0).sum())
    return result


def sentiment_ceilings(scores: Sequence[float], step: float = 0.02) -> dict[str, float]:
    """Best possible mean absolute error: the posterior median, with the scores' own distribution as the prior.

    The posterior lives on the 61 possible scores. What is seen of a modality is the score plus Gaussian noise,
    clipped to the scale, which is integrated over cells of `step` with the two clipped tails as cells of their own.

    Args:
        scores: all scores of the corpus, in [-3, 3] with one decimal.
        step: width of a cell.

    Returns:
        The error for "audio", "video", "audio+video" and for the "prior" alone.
    """
    grid = np.round(np.linspace(-SCORE_LIMIT, SCORE_LIMIT, 61), 1)
    prior = np.array([np.count_nonzero(np.isclose(scores, s)) for s in grid], dtype=np.float64)
    prior /= prior.sum()
    edges = np.linspace(-SCORE_LIMIT, SCORE_LIMIT, round(2 * SCORE_LIMIT / step) + 1)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    seen = {m: np.diff(norm.cdf((edges[None] - grid[:, None]) / std), axis=1) for m, std in NOISE_STD.items()}

    def error(joint: np.ndarray) -> float:  # joint: P(score, cell), (61, cells)
        mass = np.cumsum(joint, axis=0)
        median = grid[np.argmax(mass >= mass[-1] / 2, axis=0)]
        return float((joint * np.abs(grid[:, None] - median)).sum())

    audio = prior[:, None] * seen["audio"]
    both = sum(error(audio * column[:, None]) for column in seen["video"].T)
    return {
        "audio": error(audio),
        "video": error(prior[:, None] * seen["video"]),
        "audio+video": both,
        "prior": error(prior[:, None]),
    }


def all_ceilings(seed: int, chosen: dict[str, list[tuple[float, str]]]) -> dict[str, Any]:
    """What `ceilings.json` holds."""
    emotion = {subset: round(value, 6) for subset, value in emotion_ceilings(bank(seed)).items()}
    chance = round(1 / len(EMOTIONS), 6)
    result: dict[str, Any] = {
        "emotion": {
            "metric": "accuracy",
            "split": "test",
            **emotion,
            "chance": chance,
            "majority": chance,
            "note": "Best possible accuracy, enumerated from the generator's probabilities.",
        }
    }
    scores = [score for items in chosen.values() for score, _ in items]
    computed = sentiment_ceilings(scores) if scores else {}
    result["sentiment"] = {
        "metric": "mae",
        "split": "test",
        **{subset: round(computed[subset], 6) if subset in computed else None for subset in SUBSETS},
        "prior": round(computed["prior"], 6) if computed else None,
        "note": "Best possible mean absolute error: posterior median with the scores of all splits as the prior. "
        "Null with text, because the rating is a property of the sentence itself.",
    }
    return result


# --- clips ------------------------------------------------------------------------------------------------------


def render_row(row: dict[str, Any], seed: int, frame_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes sound (S,) in [-1, 1] and RGB frames (T, size, size, 3) of a row; depends on seed and row alone."""
    rng = np.random.default_rng([seed, 3, zlib.crc32(row["id"].encode())])
    voice_speaker, face_speaker = (make(_speaker_rng(seed, row["speaker"], k)) for k, make in enumerate(_SPEAKERS))
    if row["task"] == "emotion":
        strength = {m: float(rng.uniform(0.88, 1.05)) for m in ("audio", "video")}
        weights = {m: {"neutral": 1 - strength[m]} for m in strength}
        for m, share in strength.items():
            weights[m][row["cues"][m]] = weights[m].get(row["cues"][m], 0) + share
    else:
        weights = {m: valence_weights(row["cues"][m]) for m in ("audio", "video")}
    sound = synthesize(voice_speaker, mix_voice_affects(weights["audio"]), count_syllables(row["text"]), rng)
    samples_per_frame = int(SAMPLE_RATE / FRAMES_PER_SECOND)
    num_frames = len(sound) // samples_per_frame
    sound = sound[: num_frames * samples_per_frame]
    loudness = np.sqrt(np.mean(sound.reshape(num_frames, samples_per_frame) ** 2, axis=1))
    speech = np.clip((loudness / (np.percentile(loudness, 95) + 1e-9) - 0.1) / 0.9, 0, 1)  # (T,)
    affect = mix_face_affects(weights["video"])
    return sound, render_clip(face_speaker, affect, speech, float(FRAMES_PER_SECOND), frame_size, rng)


_SPEAKERS = (make_voice_speaker, make_face_speaker)


def _speaker_rng(seed: int, speaker: str, part: int) -> np.random.Generator:
    return np.random.default_rng([seed, 2, zlib.crc32(speaker.encode()), part])


def valence_weights(valence: float) -> dict[str, float]:
    """Sentiment as a mixture of affects: neutral to joy above zero, neutral to sadness below."""
    share = abs(valence) / SCORE_LIMIT
    return {"neutral": 1 - share, "joy" if valence > 0 else "sadness": share}


def count_syllables(text: str) -> int:
    """Rough number of syllables: vowel groups of Latin words plus Chinese characters."""
    return max(2, len(re.findall(r"[aeiouy]+", text.lower())) + len(re.findall(r"[\u4e00-\u9fff]", text)))


def write_mp4(path: Path, sound: np.ndarray, frames: np.ndarray) -> None:
    """Writes H.264 and AAC; the same input gives the same bytes.

    Args:
        path: the file, renamed into place once it is whole.
        sound: mono samples in [-1, 1] at 16 kHz, (S,).
        frames: RGB, uint8 of shape (T, height, width, 3).
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(str(partial), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # What x264 estimates ahead of time differs from run to run: without it the bytes are the same.
        steady = "aq-mode=0:mbtree=0:rc-lookahead=0:sync-lookahead=0"
        video.options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": steady}
        audio = container.add_stream("aac", rate=SAMPLE_RATE)
        audio.layout, audio.bit_rate = "mono", 48_000
        audio.options = {"aac_coder": "fast"}
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = SAMPLE_RATE, 0
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
    os.replace(partial, path)


def _make_clip(job: tuple[dict[str, Any], int, int, str]) -> str:
    row, seed, frame_size, folder = job
    write_mp4(Path(folder) / row["video"], *render_row(row, seed, frame_size))
    return row["id"]


# --- the corpus -------------------------------------------------------------------------------------------------


def build_corpus(
    output: str | Path,
    sources: str | Path | None = None,
    seed: int = 0,
    num_train: int = 2400,
    num_validation: int = 200,
    num_test: int = 400,
    num_workers: int = 2,
    frame_size: int = 96,
    snippets: Sequence[tuple[float, str]] | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Path:
    """Builds the corpus, or returns at once if it is there already.

    Everything is written into a hidden sibling folder, which is renamed at the end. An interrupted build is taken up
    where it stopped.

    Args:
        output: folder to make.
        sources: folder with the VADER source distribution; not needed with `snippets`.
        seed: seed of everything.
        num_train: clips of the train split, and so on; `EMOTION_SHARE` of each is of the emotion task.
        num_workers: processes; the result does not depend on it.
        frame_size: height and width of the video in pixels, even.
        snippets: pairs of rating in [-4, 4] and text to use in place of the VADER snippets.
        overwrite: build again and replace the corpus that is there.
        show_progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if a setting or the source file is wrong.
    """
    output = Path(output).expanduser().resolve()
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    if min(counts.values()) < 0 or sum(counts.values()) < 1 or frame_size % 2 or frame_size < 16 or num_workers < 1:
        raise ValueError(
            f"Got clips {counts}, frame_size={frame_size}, num_workers={num_workers}; expected clips of at least 0 "
            "in every split and 1 in all, an even frame size of at least 16, and at least 1 worker."
        )
    if snippets is None and sources is None:
        raise ValueError(f"Give sources, the folder that holds {VADER_FILE}, or snippets.")
    texts = VADER_SHA256 if snippets is None else hashlib.sha256(json.dumps(list(snippets)).encode()).hexdigest()
    settings = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "clips": counts,
        "frame_size": frame_size,
        "frames_per_second": float(FRAMES_PER_SECOND),
        "sample_rate": SAMPLE_RATE,
        "snippets_sha256": texts,
    }
    if not _must_build(output, settings, overwrite):
        print(f"{output} holds this corpus already; it is used as it is.")
        return output

    rows, chosen = plan_rows(seed, counts, read_vader_snippets(sources) if snippets is None else snippets)
    partial = _open_partial(output, settings)
    todo = [row for row in rows if not (partial / row["video"]).is_file()]
    if len(todo) < len(rows):
        print(f"Taking up an interrupted build: {len(rows) - len(todo)} of {len(rows)} clips are there.")
    jobs = [(row, seed, frame_size, str(partial)) for row in todo]
    bar = tqdm(total=len(rows), initial=len(rows) - len(todo), desc="clips", unit="clip", disable=not show_progress)
    with bar:
        if num_workers == 1 or len(jobs) < 2:
            for job in jobs:
                _make_clip(job)
                bar.update()
        else:
            with multiprocessing.get_context("spawn").Pool(min(num_workers, len(jobs))) as pool:
                for _ in pool.imap_unordered(_make_clip, jobs, chunksize=4):
                    bar.update()
    ceilings = all_ceilings(seed, chosen)
    _write_text(partial / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _write_text(partial / "ceilings.json", json.dumps(ceilings, indent=2) + "\n")
    _write_text(partial / "README.md", _card(counts, ceilings))
    _write_text(partial / "build.json", json.dumps(_build_record(settings, rows, snippets is None), indent=2) + "\n")
    (partial / "settings.json").unlink()
    if output.exists():
        shutil.rmtree(output)  # empty, or a corpus that --overwrite gave up
    os.replace(partial, output)
    return output


def _must_build(output: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return True
    if not (output / "build.json").is_file():
        raise FileExistsError(f"{output} is there and is not a demo corpus. Choose another --output.")
    found = json.loads((output / "build.json").read_text(encoding="utf-8"))["settings"]
    if overwrite:
        return True
    if found == settings:
        return False
    differing = ", ".join(
        f"{key}: {found.get(key)} there, {settings.get(key)} asked for"
        for key in sorted(found.keys() | settings.keys())
        if found.get(key) != settings.get(key)
    )
    raise FileExistsError(
        f"{output} holds a corpus with other settings ({differing}). Use --overwrite to replace it, or choose "
        "another --output."
    )


def _open_partial(output: Path, settings: dict[str, Any]) -> Path:
    """The sibling folder of an unfinished build; one with other settings is thrown away."""
    partial = output.with_name(f".{output.name}.partial")
    note = partial / "settings.json"
    if partial.exists() and not (note.is_file() and json.loads(note.read_text(encoding="utf-8")) == settings):
        print(f"Throwing away {partial}, an interrupted build with other settings.")
        shutil.rmtree(partial)
    (partial / "clips").mkdir(parents=True, exist_ok=True)
    for leftover in (partial / "clips").glob(".*.mp4"):
        leftover.unlink()
    _write_text(note, json.dumps(settings))
    return partial


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _build_record(settings: dict[str, Any], rows: list[dict[str, Any]], from_vader: bool) -> dict[str, Any]:
    def tally(key: str) -> dict[str, int]:
        return {str(v): sum(row[key] == v for row in rows) for v in sorted({row[key] for row in rows})}

    return {
        "settings": settings,
        "reliabilities": {m: dict(zip(EMOTIONS, r, strict=True)) for m, r in RELIABILITIES.items()},
        "noise_std": NOISE_STD,
        "score_map": f"clip({SCORE_PER_RATING} * rating, -{SCORE_LIMIT}, {SCORE_LIMIT}), one decimal",
        "snippets": VADER_FILE if from_vader else "given by the caller",
        "counts": {
            "clips": len(rows),
            "split": tally("split"),
            "task": tally("task"),
            "language": tally("language"),
            "speakers": len({row["speaker"] for row in rows}),
        },
        "versions": {
            "av": av.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "scipy": scipy.__version__,
        },
    }


def _card(counts: dict[str, int], ceilings: dict[str, Any]) -> str:
    def cell(task: str, subset: str) -> str:
        value = ceilings[task][subset]
        if value is None:
            return "-"
        return f"{100 * value:.1f} %" if task == "emotion" else f"{value:.2f}"

    table = "\n".join(f"| {subset} | {cell('emotion', subset)} | {cell('sentiment', subset)} |" for subset in SUBSETS)
    reliability = "\n".join(
        f"| {emotion} | " + " | ".join(f"{RELIABILITIES[m][i]:.2f}" for m in RELIABILITIES) + " |"
        for i, emotion in enumerate(EMOTIONS)
    )
    return _CARD.format(
        **counts,
        table=table,
        reliability=reliability,
        audio_std=NOISE_STD["audio"],
        video_std=NOISE_STD["video"],
        chance=f"{100 * ceilings['emotion']['chance']:.1f} %",
        prior=cell("sentiment", "prior"),
    )


_CARD = """---
license: apache-2.0
language: [en, zh]
pretty_name: EGMF demo corpus
tags: [synthetic, emotion-recognition, sentiment-analysis, multimodal]
---
# EGMF demo corpus

**This corpus is synthetic.** The voices are synthesized and the faces are drawn; nobody was recorded. It is there to
teach and to test. Scores on it say nothing about people, and nothing about how well a model reads people.

{train} train, {validation} validation and {test} test clips, three of five with an emotion, two with a sentiment
score. Speakers and snippets do not cross splits; the phrases of the emotion task come from one small bank and recur in
all splits. `metadata.jsonl` has one row a clip; `cues` tells what each modality shows. The sound track is in
the mp4.

## Emotion
A label is drawn uniformly out of seven. Text, voice and face each show it with the probability below, else one of the
other six. Many phrases fit more than one emotion on purpose.

| label | text | audio | video |
|---|---|---|---|
{reliability}

## Sentiment
The text is a real snippet with the mean of human ratings, mapped from [-4, 4] to [-3, 3]. The voice shows the score
plus Gaussian noise of standard deviation {audio_std}, the face with {video_std}, each clipped to the scale.

## Best possible results
Computed from the generator (`ceilings.json`): accuracy for emotion, mean absolute error for sentiment. With text there
is no such bound for sentiment, because the rating is a property of the sentence itself. Without any modality: {chance}
and {prior}.

| modalities | emotion | sentiment |
|---|---|---|
{table}

## License
Clips, phrases and metadata: Apache-2.0. The sentiment snippets are tweets and product reviews from the source
distribution of vaderSentiment 3.3.2 (MIT, © C.J. Hutto). Please cite:

> Hutto, C.J. and Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
> Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14). Ann Arbor, MI.
"""


def preview(corpus_dir: str | Path, output_png: str | Path, tile: int = 176) -> None:
    """Draws a contact sheet, seven emotions by four speakers of the corpus, at apex and larger than in the clips."""
    record = json.loads((Path(corpus_dir) / "build.json").read_text(encoding="utf-8"))
    with open(Path(corpus_dir) / "metadata.jsonl", encoding="utf-8") as file:
        speakers = sorted({json.loads(line)["speaker"] for line in file})
    faces = [make_face_speaker(_speaker_rng(record["settings"]["seed"], speaker, 1)) for speaker in speakers]
    faces.sort(key=lambda face: sum(face.skin))
    picked: list = []
    for part in np.array_split(np.arange(len(faces)), 4):  # four skins, with different hair where there is a choice
        styles = {face.style for face in picked}
        picked += sorted((faces[i] for i in part), key=lambda face: face.style in styles)[:1]
    gap, head = 6, 30
    width = len(EMOTIONS) * (tile + gap) + gap
    sheet = Image.new("RGB", (width, head + len(picked) * (tile + gap)), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for column, emotion in enumerate(EMOTIONS):
        left = gap + column * (tile + gap)
        draw.text((left + tile / 2, head / 2), emotion, fill=(40, 40, 48), font=font, anchor="mm")
        for line, face in enumerate(picked):
            picture = draw_face(face, FACE_AFFECTS[emotion], tile)
            sheet.paste(Image.fromarray(picture), (left, head + line * (tile + gap)))
    sheet.save(output_png)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the demo corpus.")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--sources", required=True, help=f"folder that holds {VADER_FILE}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=2400, help="clips of the train split")
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--num_workers", type=int, default=2, help="processes; the result does not depend on it")
    parser.add_argument("--frame-size", type=int, default=96, help="height and width of the video in pixels")
    parser.add_argument("--overwrite", action="store_true", help="replace the corpus that is there")
    parser.add_argument("--preview", help="also write a contact sheet to this png")
    args = parser.parse_args()
    try:
        folder = build_corpus(
            args.output, args.sources, args.seed, args.train, args.validation, args.test, args.num_workers,
            args.frame_size, overwrite=args.overwrite,
        )  # fmt: skip
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    if args.preview:
        preview(folder, args.preview)
    print(f"The corpus is in {folder}.")


if __name__ == "__main__":
    main()
