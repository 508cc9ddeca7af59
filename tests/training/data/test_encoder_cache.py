"""Cached outputs of frozen encoders: the same numbers, with a key for every clip, setting and encoder."""

import copy
import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    VideoMAEImageProcessorPil,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from modeling_egmf.encoders_egmf import mean_and_deviation
from tests.helpers.backbone_configs import AUDIO_BACKBONES, CLIP_BACKBONES, SPEECH_BACKBONES, VISION_BACKBONES
from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model
from tests.helpers.media_files import gray_frames, sine, write_video
from tests.helpers.run_files import SMALL_RUN as SMALL
from training.arguments import parse_arguments
from training.benchmarks.cost import encoder_cache as benchmark
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, load_examples
from training.data.encoder_cache import EncoderCache, condense
from training.model.builder import build
from training.trainer.run import train


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    """A corpus, a language model, and encoders with their front ends, saved on disk."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "corpus")
    # One is longer than its neighbors, so that they are padded.
    write_video(folder / "corpus/clips/1.mp4", gray_frames(6, 16, 16), audio=sine(250, 0.48, 16_000))
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    backbones = {**AUDIO_BACKBONES, **VISION_BACKBONES, **CLIP_BACKBONES}
    backbones["wav2vec2"] = SPEECH_BACKBONES["wav2vec2_group_norm"]  # padding would change its output
    square = {"height": 16, "width": 16}
    frontends = {
        "wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True),
        "whisper": WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=400),
        "vit": ViTImageProcessor(size=square),
        "videomae": VideoMAEImageProcessorPil(size={"shortest_edge": 16}, crop_size=square),
    }
    for number, (name, frontend) in enumerate(frontends.items()):
        torch.manual_seed(number)
        AutoModel.from_config(backbones[name]).save_pretrained(folder / name)
        frontend.save_pretrained(folder / name)
    return folder


def options(place, name, **changes):
    settings = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
    }
    settings |= {
        "audio": place / "wav2vec2",
        "video": place / "vit",
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    argv = ["--use_cpu"]
    for key, value in {**SMALL, **settings, **changes}.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return parse_arguments(argv)


def prepared(place, cache=None, with_labels=False, **changes):
    """Model and training set, and the filled cache if a folder is given, with the counts of computed outputs."""
    torch.manual_seed(0)
    model, processor = build(options(place, "unused", **changes)[0])
    examples = load_examples(place / "corpus", "train")
    encoder_cache = EncoderCache(cache, model, processor) if cache is not None else None
    dataset = EGMFDataset(examples, processor, with_labels, encoder_cache=encoder_cache)
    counts = encoder_cache.fill((dataset,), "cpu") if encoder_cache is not None else None
    return model.eval(), dataset, encoder_cache, counts


@pytest.mark.parametrize(
    ("audio", "video", "with_labels"),
    [
        ("wav2vec2", "vit", True),
        ("wav2vec2", "vit", False),
        ("whisper", "vit", True),
        ("none", "vit", True),
        ("none", "videomae", False),
        ("statistics of whisper", "vit", False),
    ],
)
def test_batch_and_answers_match_the_encoders(place, tmp_path, audio, video, with_labels):
    pooled = audio.startswith("statistics of ")
    audio = audio.removeprefix("statistics of ")
    changes = {"audio": "none" if audio == "none" else place / audio, "video": place / video}
    if pooled:
        changes |= {"encoder_pooling": "statistics", "sequence_encoder": "none"}
    plain, plain_set, *_ = prepared(place, with_labels=with_labels, **changes)
    model, cached_set, _, counts = prepared(place, tmp_path / "cache", with_labels, **changes)
    num_states = sum(len(example["state_keys"]) for example in cached_set.examples)
    assert counts == {"stored": 0, "computed": num_states}
    assert not cached_set.load_media(0)  # nothing is decoded again
    model.load_state_dict(plain.state_dict())
    for chosen in (None, ["audio"], ["text", "video"]):
        if audio == "none" and chosen == ["audio"]:
            continue
        batches = [
            SampleCollator(dataset.processor, chosen)([dataset[i] for i in range(6)])
            for dataset in (plain_set, cached_set)
        ]
        assert set(batches[0]) == set(batches[1])
        encoded = {"audio_values", "audio_mask", "video_values", "video_mask"}
        for name in set(batches[0]) - encoded:
            assert torch.equal(batches[0][name], batches[1][name]), name
        with torch.no_grad():
            found = [
                m(**b).loss
                if with_labels
                else m.score_answers(**{k: v for k, v in b.items() if k != "label_index"}).probabilities
                for m, b in zip((plain, model), batches, strict=True)
            ]
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_layers", "num_steps"), [(1, 20), (3, 20), (3, 5), (3, 4)])
def test_condensed_clip_has_the_statistics_of_every_sum_over_layers(num_layers, num_steps):
    torch.manual_seed(0)
    states = torch.randn(num_steps, num_layers * 4) * torch.logspace(-2, 2, num_layers * 4) + 5
    condensed = condense(states, num_layers)
    assert condensed.shape == (num_layers + 1, num_layers * 4)
    for weights in torch.rand(3, num_layers):
        pooled = []
        for steps in (states, condensed):
            total = torch.einsum("k,tkw->tw", weights, steps.unflatten(1, (num_layers, 4)))
            pooled.append(mean_and_deviation(total[None], torch.ones(1, len(steps))))
        torch.testing.assert_close(*pooled, rtol=1e-5, atol=1e-5)


def test_training_with_and_without_the_cache_gives_the_same_losses(place, tmp_path, capsys):
    """At learning rate 0, because Adam amplifies rounding errors; two runs with the cache are equal bit for bit."""
    still = {"learning_rate": 0, "max_steps": 2}
    kept = {"encoder_cache": tmp_path, "max_steps": 2}
    runs = {"plain": still, "first": kept | still, "second": kept, "third": kept}
    losses = {}
    said = []
    for name, changes in runs.items():
        trainer = train(*options(place, name, **changes))
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        said += [line for line in capsys.readouterr().out.splitlines() if line.startswith("Frozen encoders")]
    counts = [(20, 0), (0, 20), (0, 20)]
    assert said == [f"Frozen encoders: {new} outputs computed, {old} found in {tmp_path}." for new, old in counts]
    assert len(losses["plain"]) == 2
    assert losses["first"] == pytest.approx(losses["plain"], abs=1e-5)
    assert losses["second"] == losses["third"] != losses["first"]
    second, third = (load_file(place / f"runs/{name}/model.safetensors") for name in ("second", "third"))
    assert all(torch.equal(second[name], third[name]) for name in second)
    assert not [name for name in second if "backbone" in name]  # the checkpoint has not grown


@pytest.fixture(scope="module")
def filled(place, tmp_path_factory):
    """The folder of a filled cache, and how many outputs it holds."""
    folder = tmp_path_factory.mktemp("cache")
    *_, counts = prepared(place, folder)
    return folder, counts["computed"]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "flipped", "foreign"])
def test_damaged_entry_is_recomputed(place, filled, tmp_path, damage):
    folder, num_outputs = filled
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    paths = sorted(tmp_path.rglob("*.safetensors"))
    before = {path: load_file(path)["states"].clone() for path in paths}  # not what is mapped from the file
    data = bytearray(paths[0].read_bytes())
    if damage == "gone":
        paths[0].unlink()
    elif damage == "foreign":
        other = next(path for path in paths if path.parent.parent == paths[0].parent.parent and path != paths[0])
        states = load_file(other)["states"] + 1
        save_file({"states": states}, paths[0])
    else:
        if damage == "flipped":
            data[-3] ^= 4
        paths[0].write_bytes({"cut": data[: len(data) // 2], "empty": b"", "flipped": data}[damage])
    *_, again = prepared(place, tmp_path)
    assert again == {"stored": num_outputs - 1, "computed": 1}
    assert all(torch.equal(load_file(path)["states"], states) for path, states in before.items())


def test_keys_depend_on_content_settings_and_weights(place, tmp_path):
    *_, dataset, encoder_cache, _ = prepared(place, tmp_path)
    example = dataset.examples[0]
    moved = tmp_path / "elsewhere.mp4"
    shutil.copy(example["video"], moved)
    assert encoder_cache.keys({**example, "video": str(moved)}) == example["state_keys"]
    other = encoder_cache.keys({**example, "video": dataset.examples[1]["video"]})
    assert not set(other.values()) & set(example["state_keys"].values())
    assert encoder_cache.keys({**example, "window": (0.0, 0.1, 0.24)}) != example["state_keys"]
    assert encoder_cache.keys({"id": "x", "text": "words"}) == {}
    *_, others, _ = prepared(place, tmp_path, num_frames=3)
    changed = others.keys(example)
    assert changed["video"] != example["state_keys"]["video"]
    assert changed["audio"] == example["state_keys"]["audio"]
    assert others.folders == encoder_cache.folders
    heavier = tmp_path / "heavier"
    shutil.copytree(place / "vit", heavier)
    vit = AutoModel.from_pretrained(heavier)
    with torch.no_grad():
        vit.embeddings.cls_token.add_(1e-3)
    vit.save_pretrained(heavier)
    *_, others, _ = prepared(place, tmp_path, video=heavier)
    assert others.folders["video"] != encoder_cache.folders["video"]
    assert others.folders["audio"] == encoder_cache.folders["audio"]


def test_copy_of_the_encoder_finds_the_same_entries(place, tmp_path):
    shutil.copytree(place / "wav2vec2", tmp_path / "copy")
    folders = [
        prepared(place, tmp_path / "cache", audio=audio)[2].folders
        for audio in (place / "wav2vec2", tmp_path / "copy")
    ]
    assert folders[0] == folders[1]


def test_cache_is_filled_in_parts_and_concurrently(place, tmp_path):
    model, processor = build(options(place, "unused")[0])
    encoder_cache = EncoderCache(tmp_path, model, processor)
    dataset = EGMFDataset(load_examples(place / "corpus", "train"), processor, encoder_cache=encoder_cache)
    parts = [encoder_cache.fill((dataset,), "cpu", (index, 3)) for index in range(2)]
    assert [part["computed"] for part in parts] == [4, 4]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: encoder_cache.fill((dataset,), "cpu"), range(2)))
    for example in dataset.examples:
        assert all(encoder_cache.is_intact(modality, key) for modality, key in example["state_keys"].items())
    assert not list(tmp_path.rglob(".*"))
    assert encoder_cache.fill((dataset,), "cpu") == {"stored": 12, "computed": 0}


def test_old_temporary_files_of_killed_processes_are_removed(place, filled, tmp_path):
    shutil.copytree(filled[0], tmp_path, dirs_exist_ok=True)
    entries = sorted(tmp_path.rglob("*.safetensors"))
    left = {days: entries[0].with_name(f".{entries[0].stem}.{days}") for days in (0.9, 1.1)}
    for days, path in left.items():
        path.write_bytes(b"half")
        written = time.time() - days * 24 * 60 * 60
        os.utime(path, (written, written))
    os.utime(entries[0], (0, 0))  # an entry of any age stays
    model, processor = build(options(place, "unused")[0])
    EncoderCache(tmp_path, model, processor)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([left[0.9], *entries])


@pytest.mark.slow
def test_ten_pairs_of_processes_fill_one_empty_cache_at_once(place, tmp_path):
    model, processor = build(options(place, "unused")[0])
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    for number in range(10):
        encoder_cache = EncoderCache(tmp_path / str(number), model, processor)
        dataset = EGMFDataset(load_examples(place / "corpus", "train"), processor, encoder_cache=encoder_cache)

        def fill(encoder_cache=encoder_cache, dataset=dataset):
            start.wait()
            encoder_cache.fill((dataset,), "cpu")

        processes = [context.Process(target=fill) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert encoder_cache.fill((dataset,), "cpu") == {"stored": 12, "computed": 0}
        assert not list(encoder_cache.root.rglob(".*"))


def test_workers_read_the_cache_without_the_encoder(place, tmp_path):
    _, dataset, *_ = prepared(place, tmp_path, with_labels=True)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=6,
        num_workers=1,
        collate_fn=SampleCollator(dataset.processor),
        multiprocessing_context="fork",
    )
    (batch,) = loader
    direct = SampleCollator(dataset.processor)([dataset[i] for i in range(6)])
    assert all(torch.equal(batch[name], direct[name]) for name in direct)
    assert dataset.encoder_cache.__getstate__()["stems"] == {"audio": None, "video": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augmentation": "true"}, "--augmentation changes clips every time"),
        ({"voice_augmentation": "true"}, "--voice_augmentation changes clips every time"),
        (
            {"encoder_cache": "corpus/metadata.jsonl"},
            r"metadata.jsonl is not writable \(Not a directory",
        ),
    ],
)
def test_encoders_that_cannot_be_cached_are_refused(place, tmp_path, changes, said):
    if "encoder_cache" in changes:
        changes = {"encoder_cache": place / changes["encoder_cache"]}
    with pytest.raises(ValueError, match=said):
        train(*options(place, "refused", **{"encoder_cache": tmp_path, **changes}))


@pytest.mark.parametrize("changes", [{"audio": "waveform", "video": "frames"}, {"train_backbones": "true"}])
def test_cache_of_a_recipe_has_no_effect_on_trained_encoders(place, tmp_path, caplog, changes):
    settings = {"encoder_cache": tmp_path / "cache", "max_steps": 1, "overwrite": "true", **changes}
    train(*options(place, "trained encoders", **settings))
    assert "--encoder_cache has no effect" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_full_disk_is_reported(place, tmp_path, monkeypatch):
    model, processor = build(options(place, "unused")[0])
    encoder_cache = EncoderCache(tmp_path, model, processor)
    dataset = EGMFDataset(load_examples(place / "corpus", "train"), processor, encoder_cache=encoder_cache)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.encoder_cache.save_file", full)
    with pytest.raises(OSError, match=r"could not be written .*No space left.*another --encoder_cache"):
        encoder_cache.fill((dataset,), "cpu")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_settings_do_not_include_the_folder(place, tmp_path):
    """A run may be resumed with the cache in another folder."""
    train(*options(place, "moved", encoder_cache=tmp_path, max_steps=1))
    assert "encoder_cache" not in json.loads((place / "runs/moved/settings.json").read_text())


def test_benchmark_runs(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "CLIP_SECONDS", 0.5)
    sizes = [
        "--width",
        "32",
        "--layers",
        "1",
        "--clips",
        "3",
        "--batch_size",
        "2",
        "--repeats",
        "1",
    ]
    benchmark.main(
        [
            "--text_model_name_or_path",
            str(place / "llm"),
            *sizes,
            "--output",
            str(tmp_path / "encoder_cache.json"),
        ]
    )
    record = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "encoder_cache.json").read_text(encoding="utf-8")) == record
    seconds = {name: part["median_s"] for name, part in record["epoch"].items()}
    assert record["ratio"] == pytest.approx(seconds["computed"] / seconds["kept"])
    assert record["filling_s"] > 0
    steps = (8_000 - 400) // 320 + 1  # of Wav2Vec2's convolutions
    assert record["bytes_per_clip"] == pytest.approx(4 * 32 * steps, abs=1000)
