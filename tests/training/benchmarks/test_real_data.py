"""The benchmark on real data, on small files in the same layouts, with a tiny language model."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from processing_egmf import BUILT_IN_TASKS, EGMFTask
from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.media_files import sine, write_audio
from training.benchmarks.real_data import __main__ as real_data
from training.benchmarks.real_data.__main__ import PIECES, main, merge
from training.benchmarks.real_data.baselines import VECTORS, WORDS, evaluate_baseline
from training.benchmarks.real_data.corpora import TASKS, first_groups
from training.benchmarks.real_data.table import render
from training.data.dataset import load_examples


pytestmark = pytest.mark.integration
SECRET = "zanzibar"  # in every transcript: it must not come out again
TINY = {
    "text_model_dtype": "float32", "conv_channels": "4 6", "encoder_hidden_size": 8, "fusion_hidden_size": 16,
    "lora_r": 2, "max_steps": 1, "fusion_pretraining_epochs": 1, "per_device_train_batch_size": 4, "disable_tqdm": "true",
    "max_length": 320,
}  # fmt: skip
EMOTIONS = list(TASKS["emotiontalk"]["labels"])


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def words(i):
    return f"{SECRET} good {i}" if i % 2 else f"{SECRET} bad {i}"


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """All five folders: 32 rows each, of 8 videos, dialogues, sessions or speakers."""
    root, rng = tmp_path_factory.mktemp("releases"), np.random.default_rng(0)
    emotions = list(BUILT_IN_TASKS["meld"].labels)
    for split, count in (("train", 32), ("dev", 8)):
        rows = [
            {
                "Sr No.": i, "Utterance": words(i), "Speaker": "Ann", "Emotion": emotions[i % 2],
                "Sentiment": "neutral", "Dialogue_ID": i // 4, "Utterance_ID": i % 4, "Season": 1, "Episode": 1,
                "StartTime": "00:00:01,000", "EndTime": "00:00:02,000",
            }
            for i in range(count)
        ]  # fmt: skip
        write_table(root / f"meld_text/{split}_sent_emo.csv", rows)
    splits = ["train"] * 24 + ["val"] * 8
    write_table(
        root / "ch_sims_v2_text/train_valid.csv",
        [
            {
                "name": f"video_{i // 4:04d}_{i:04d}", "split": split, "label": 0.6 if i % 2 else -0.4,
                "chinese": f"{SECRET}{'好' if i % 2 else '坏'}", "english": words(i),
            }
            for i, split in enumerate(splits)
        ],
    )  # fmt: skip
    write_table(
        root / "emotiontalk_text/train_val.csv",
        [
            {
                "name": f"G{i}", "split": split, "session": f"S{i // 4}", "emotion_text": EMOTIONS[i % 2],
                "text_clean": f"{SECRET}{'好' if i % 2 else '坏'}",
            }
            for i, split in enumerate(splits)
        ],
    )  # fmt: skip
    (root / "cmu_mosi_trimodal").mkdir()
    score = np.linspace(-3, 3, 32).round(1)
    np.savez(
        root / "cmu_mosi_trimodal/train.npz",
        id=np.array([f"video{i % 8}_x_{i}" for i in range(32)]),
        text=np.array([words(i).upper() for i in range(32)]),
        label=score.astype(np.float32),
        **{
            f"{name}_feat": (rng.normal(0, 0.1, (32, width)) + score[:, None]).astype(np.float32)
            for name, width in (("text", 100), ("audio", 73), ("video", 100))
        },
    )
    (root / "ravdess_speech_16k").mkdir()
    for i in range(32):
        emotion, actor = (1, 5)[i % 2], 5 + i // 4
        name = f"03-01-{emotion:02d}-01-01-{i % 4:02d}-{actor:02d}.flac"
        write_audio(root / "ravdess_speech_16k" / name, sine(200 * emotion, 0.2, 16_000), 16_000)
    return root


@pytest.fixture
def llm(tmp_path, trained_tokenizer):
    return write_language_model(tmp_path / "tiny-llm", tiny_llama(trained_tokenizer), trained_tokenizer)


def measure(releases, tmp_path, llm, *argv):
    options = [part for key, value in TINY.items() for part in (f"--{key}", *str(value).split())]
    place = ["--text_model_name_or_path", llm, "--work", tmp_path / "work", "--output", tmp_path / "results/real.json"]
    main([str(releases), *map(str, [*argv, *place]), *options, "--use_cpu"])
    return json.loads((tmp_path / "results/real.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", list(PIECES))
def test_piece_alone_from_release_to_table(name, releases, llm, tmp_path):
    results = measure(releases, tmp_path, llm, "--only", name)
    piece, part = PIECES[name], results["pieces"][name]
    assert list(results["pieces"]) == [name]
    assert results["text_model"] == "tiny-llm"
    assert part["rows"]["validation"] == 8 if name != "mosi" else 4 <= part["rows"]["validation"] <= 8
    assert bool(part["rows"]["inner"]) == bool(piece.inner)
    assert part["rows"]["train"]
    assert ("to the last epoch" in (tmp_path / "results/real.md").read_text(encoding="utf-8")) != bool(piece.inner)
    assert set(part["aims"]) == set(piece.aims)
    for figure in piece.shown:
        assert set(part["baseline"]["figures"]) >= {figure}
        ours = part["egmf"]["subsets"][part["egmf"]["everything"]][figure]
        assert ours["n"] == len([value for value in ours["values"] if value is not None])
    text = (tmp_path / "results/real.md").read_text(encoding="utf-8")
    assert piece.title in text and piece.about in text
    assert text == render(results)
    everything = text + (tmp_path / "results/real.json").read_text(encoding="utf-8")
    assert SECRET not in everything.casefold()
    assert not [place for place in (str(releases), str(tmp_path)) if place in everything]
    assert not list((tmp_path / "results").glob(".*")) + list((tmp_path / "results").glob("*.part"))


def test_pieces_and_seeds_are_merged_and_nothing_is_made_twice(releases, llm, tmp_path):
    measure(releases, tmp_path, llm, "--only", "mosi")
    made = sorted((tmp_path / "work").rglob("model.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in made]
    results = measure(releases, tmp_path, llm, "--only", "meld", "mosi", "--seeds", 0, 1)
    assert list(results["pieces"]) == ["mosi", "meld"]  # in the order of the pieces
    assert results["pieces"]["mosi"]["egmf"]["seeds"] == [0, 1]
    assert results["pieces"]["mosi"]["egmf"]["subsets"]["text+audio+video"]["mae"]["n"] == 2
    assert [path.stat().st_mtime_ns for path in made] == stamps


def test_no_group_is_on_two_sides(releases, tmp_path):
    for name in ("mosi", "ravdess", "meld", "emotiontalk"):
        piece = PIECES[name]
        corpus = real_data.convert(piece, name, releases / piece.folder, tmp_path)
        real_data.cut(piece, corpus, 12)
        rows = load_examples(corpus, manifest=real_data.MANIFEST)
        groups = {
            split: {r[piece.group] for r in rows if r["split"] == split} for split in ("train", "inner", "unused")
        }
        held = {row[piece.group] for row in rows if row["split"] == "validation"}
        assert {split for split in groups if not groups[split]} == (set() if piece.inner else {"inner"}), name
        assert not groups["train"] & groups["inner"] | groups["train"] & groups["unused"] | held & groups["train"], (
            name
        )
        assert len([row for row in rows if row["split"] == "train"]) <= 14
    assert held == {"S6", "S7"}


def test_missing_corpus_is_named(tmp_path, llm):
    with pytest.raises(SystemExit, match=r"no folder meld_text/.*'meld'"):
        main(
            [
                str(tmp_path),
                "--only",
                "meld",
                "--work",
                str(tmp_path / "work"),
                "--text_model_name_or_path",
                str(tmp_path),
            ]
        )


def test_missing_language_model_is_said_before_any_work(releases, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(releases), "--work", str(tmp_path / "work"), "--text_model_name_or_path", str(tmp_path / "nowhere")])
    assert "There is no folder" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_merging_keeps_other_pieces(tmp_path):
    part = json.loads(json.dumps(made_up()))
    for name in ("meld", "mosi"):
        merge(tmp_path / "r.json", tmp_path / "lock", name, part, "llm")
    assert list(json.loads((tmp_path / "r.json").read_text())["pieces"]) == ["mosi", "meld"]


# ---- baselines and table -------------------------------------------------------------------------------------


def made_up():
    summary = {"n": 2, "mean": 0.5, "std": 0.125, "values": [0.4, 0.6]}
    return {
        "title": "Title", "about": "About.", "shown": ["accuracy"],
        "rows": {"train": 10, "inner": 2, "unused": 3, "validation": 4},
        "baseline": {"name": "ridge", "rows": 15, "figures": {"accuracy": 0.4}, "constant": {"accuracy": 0.1}},
        "egmf": {
            "seeds": [0, 1], "subsets": {"text": {"accuracy": summary}, "audio": {"accuracy": summary}},
            "everything": "audio", "confidence_intervals": {"accuracy": [0.3, 0.7]}, "minutes": [1.0, 2.0],
            "trained_parameters": 1234,
        },
        "aims": {"accuracy": {"above": 0.4, "at_least": None, "reached": True}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reached", "shown"), [(True, "| above 0.400: reached |"), (False, "above 0.400: **not reached**")]
)
def test_table_says_whether_the_aim_was_reached(reached, shown):
    part = made_up()
    part["aims"]["accuracy"]["reached"] = reached
    text = render({"text_model": "llm", "pieces": {"meld": part}})
    assert "| Title | accuracy | 0.100 | 0.400 | 0.500 ± 0.125 | 0.300 to 0.700 |" in text
    assert shown in text
    assert "3 of train not used" in text and "words alone" in text


def rows_of(train, test, **columns):
    splits = ["train"] * train + ["validation"] * test
    return [
        {"split": split, "group": str(i % 5), **{name: column(i) for name, column in columns.items()}}
        for i, split in enumerate(splits)
    ]


def test_words_that_tell_are_found():
    task = EGMFTask("mood", "classification", labels=["calm", "glad"], prompt="\nMood:")
    rows = rows_of(40, 10, text=words, answer=lambda i: ("calm", "glad")[i % 2])
    found = evaluate_baseline(WORDS, task, rows)
    assert found["figures"]["accuracy"] == 1
    assert found["constant"]["accuracy"] == 0.5
    assert (found["rows"], found["name"]) == (40, "logistic regression on TF-IDF of words")


def test_vectors_that_tell_are_found():
    rng = np.random.default_rng(0)
    feature = lambda i: rng.normal((i % 7 - 3, i % 2), 0.01, (3, 2))  # noqa: E731
    rows = rows_of(70, 14, audio_features=feature, video_features=feature, answer=lambda i: float(i % 7 - 3))
    found = evaluate_baseline(VECTORS, BUILT_IN_TASKS["sentiment"], rows)
    assert found["figures"]["correlation"] > 0.99
    assert found["name"] == "ridge regression on the vectors"


def test_reported_rows_do_not_teach_the_baseline():
    """Answers that the reported rows alone have cannot be known."""
    task = EGMFTask("mood", "classification", labels=["calm", "glad", "sad"], prompt="\nMood:")
    rows = rows_of(40, 10, text=words, answer=lambda i: "sad" if i >= 40 else ("calm", "glad")[i % 2])
    assert evaluate_baseline(WORDS, task, rows)["figures"]["accuracy"] == 0


def test_groups_are_chosen_alike_everywhere():
    groups = [f"v{i % 10}" for i in range(100)]
    chosen = first_groups(groups, 30)
    assert len(chosen) == 3
    assert chosen == first_groups(groups[::-1], 30)
    assert set(chosen) < set(first_groups(groups, 50))


def test_tasks_are_valid_and_cover_the_pieces():
    known = {**BUILT_IN_TASKS, **{name: EGMFTask.from_dict({"name": name, **t}) for name, t in TASKS.items()}}
    assert {piece.task for piece in PIECES.values()} <= set(known)


def test_shipped_results_are_those_of_the_table():
    path = Path(real_data.RESULTS) / "real_data.json"
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
        assert path.with_suffix(".md").read_text(encoding="utf-8") == render(results)
