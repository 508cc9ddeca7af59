"""Copies of clips with other voices in the encoder cache: which there are, and when each of them is used."""

import copy
import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.corpus_files import tiny_llama, write_corpus, write_language_model, write_whisper
from tests.helpers.run_files import SMALL_RUN as SMALL
from training.arguments import parse_arguments
from training.data.augmentation import AugmentationSettings, augment_voice
from training.data.dataset import EGMFDataset, SampleIndex, load_examples
from training.data.encoder_cache import EncoderCache, check_voice_copies, condense, encode_clip
from training.data.voice_copies import change_voice
from training.model.builder import build
from training.trainer.run import train
from training.trainer.trainer import EGMFTrainer


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_tokenizer):
    """A corpus, a language model and a Whisper, saved on disk."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "corpus")
    tokenizer = copy.deepcopy(trained_tokenizer)
    write_language_model(folder / "llm", tiny_llama(tokenizer), tokenizer)
    write_whisper(folder / "whisper")
    return folder


def options(place, name, **changes):
    settings = {
        "dataset": place / "corpus",
        "text_model_name_or_path": place / "llm",
        "output_dir": place / "runs" / name,
        "encoder_cache": place / "cache",
        "audio": place / "whisper",
        "video": "none",
        "encoder_pooling": "statistics",
        "sequence_encoder": "none",
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    argv = ["--use_cpu"]
    for key, value in {**SMALL, **settings, **changes}.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return parse_arguments(argv)


@pytest.fixture(scope="module")
def parts(place):
    """The model and processor, and a filled cache."""
    torch.manual_seed(0)
    model, processor = build(options(place, "unused")[0])
    cache = EncoderCache(place / "cache", model, processor)
    return model, processor, cache


def make_dataset(place, parts, copies, seed=0):
    _, processor, cache = parts
    augmentation = AugmentationSettings(voice_copies=copies, seed=seed)
    examples = load_examples(place / "corpus", "train")
    dataset = EGMFDataset(examples, processor, augmentation=augmentation, encoder_cache=cache)
    cache.fill((dataset,), "cpu")
    return dataset


def test_a_copy_is_what_the_encoder_makes_of_the_changed_voice(place, parts):
    _, processor, cache = parts
    dataset = make_dataset(place, parts, copies=2)
    stem = cache.stems["audio"]
    example = dataset.examples[0]
    arrays = dataset.decode(example, ("audio",))
    for key in example["copy_keys"]:
        changed = augment_voice(arrays["audio"], np.random.default_rng(int(key, 16)))
        states = encode_clip(stem, processor, "audio", {"audio": changed}, "a")
        expected = condense(states, len(stem.layer_sum.weights))
        torch.testing.assert_close(cache.read("audio", key), expected, rtol=1e-5, atol=1e-5)
    stored = [cache.read("audio", key) for key in (example["state_keys"]["audio"], *example["copy_keys"])]
    assert not any(torch.allclose(stored[i], stored[j], atol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_copies_are_stored_once_and_differ_between_seeds(place, parts):
    dataset = make_dataset(place, parts, copies=2)
    _, _, cache = parts
    num_clips = sum(len(example["state_keys"]) for example in dataset.examples)
    assert num_clips
    assert cache.fill((dataset,), "cpu") == {"stored": 3 * num_clips, "computed": 0}
    three = make_dataset(place, parts, copies=3)
    other = make_dataset(place, parts, copies=2, seed=1)
    for example, more, elsewhere in zip(dataset.examples, three.examples, other.examples, strict=True):
        assert more["copy_keys"][:2] == example["copy_keys"]
        assert elsewhere["state_keys"] == example["state_keys"]
        assert not set(elsewhere["copy_keys"]) & set(example["copy_keys"])
        assert len(set(more["copy_keys"])) == 3


def which(dataset, sample, index):
    """The number of the copy that a sample was made of, 0 for the clip itself."""
    example = dataset.examples[index]
    keys = [example["state_keys"]["audio"], *example["copy_keys"]]
    equal = [torch.equal(sample["audio_values"], dataset.encoder_cache.read("audio", key)) for key in keys]
    assert sum(equal) == 1
    return equal.index(True)


def test_each_use_in_training_draws_the_clip_or_a_copy(place, parts):
    dataset = make_dataset(place, parts, copies=2)
    uses = [SampleIndex(index, 0, epoch, 1.0) for epoch in range(40) for index in range(len(dataset))]
    drawn = [which(dataset, dataset[use], use.index) for use in uses]
    counts = Counter(drawn)
    assert set(counts) == {0, 1, 2}
    assert min(counts.values()) > len(uses) / 4
    # The draw depends on nothing but the use: not on the order, the process, or what was prepared before.
    again = make_dataset(place, parts, copies=2).without_labels()
    assert [which(again, again[use], use.index) for use in reversed(uses)] == drawn[::-1]
    others = [which(again, again[use._replace(seed=1)], use.index) for use in uses]
    assert others != drawn


def test_without_a_use_in_training_it_is_the_clip_itself(place, parts):
    dataset = make_dataset(place, parts, copies=2)
    for _ in range(5):
        assert which(dataset, dataset[0], 0) == 0
    assert torch.equal(dataset.load_vectors(0)["audio"], dataset[0]["audio_values"])


def test_without_copies_the_modalities_are_drawn_as_before(place, parts):
    """One generator makes all choices: nothing is drawn from it for copies that there are none of."""
    _, processor, cache = parts
    examples = load_examples(place / "corpus", "train")
    dataset = EGMFDataset(
        examples, processor, augmentation=AugmentationSettings(modality_dropout=0.5), encoder_cache=cache
    )
    plain = EGMFDataset(examples, processor, augmentation=AugmentationSettings(modality_dropout=0.5))
    uses = [SampleIndex(0, 0, epoch, 1.0) for epoch in range(20)]
    assert [dataset[use]["modalities"] for use in uses] == [plain[use]["modalities"] for use in uses]


def test_a_slower_voice_is_cut_to_the_longest_clip():
    audio = np.sin(np.arange(16_000) / 10).astype(np.float32)
    keys = [f"{number:x}" for number in range(20)]
    lengths = [len(change_voice({"audio": audio}, key, 16_000)["audio"]) for key in keys]
    assert max(lengths) == 16_000 > min(lengths)
    uncut = [len(change_voice({"audio": audio}, key, 32_000)["audio"]) for key in keys]
    assert max(uncut) > 16_000
    assert change_voice({"video": audio}, "0", 5) == {"video": audio}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder_cache": ""}, "--voice_copies needs --encoder_cache"),
        ({"voice_copies": -1}, "--voice_copies is -1; it must be at least 0"),
        ({"audio": "none", "video": "frames"}, "is for a frozen pretrained audio encoder.*give --voice_copies 0"),
        ({"train_backbones": "true"}, "is for a frozen pretrained audio encoder"),
        ({"audio": "features", "audio_feature_size": 4}, "is for a frozen pretrained audio encoder"),
        ({"modalities": ["text"]}, "is for a frozen pretrained audio encoder"),
    ],
)
def test_copies_that_would_not_be_used_are_refused(place, changes, said):
    with pytest.raises(ValueError, match=said):
        train(*options(place, "refused", **{"voice_copies": 2, **changes}))
    assert not (place / "runs/refused").exists()


def test_copies_are_refused_where_a_checkpoint_is_trained_without_audio(parts):
    *_, cache = parts
    with pytest.raises(ValueError, match="changes audio, which --modalities leaves out.*give --voice_copies 0"):
        check_voice_copies(1, cache, ["text"])
    check_voice_copies(0, None, ["text"])
    check_voice_copies(1, cache, None)


def test_interrupted_run_ends_like_an_uninterrupted_one(place, monkeypatch):
    saving = {"save_strategy": "steps", "save_steps": 2, "fusion_pretraining_epochs": 2, "max_steps": 4}
    copies = {**saving, "voice_copies": 2}
    train(*options(place, "plain", **saving))
    train(*options(place, "whole", **copies))
    save = EGMFTrainer._save_checkpoint

    def is_killed(self, *arguments, **further):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        save(self, *arguments, **further)

    monkeypatch.setattr(EGMFTrainer, "_save_checkpoint", is_killed)
    with pytest.raises(KeyboardInterrupt):
        train(*options(place, "killed", **copies))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="voice_copies was 2 and is 0"):
        train(*options(place, "killed", **saving))
    train(*options(place, "killed", **copies))
    weights = {name: load_file(place / f"runs/{name}/model.safetensors") for name in ("plain", "whole", "killed")}
    assert json.loads((place / "runs/killed/training.json").read_text())["resumed_from"].endswith("checkpoint-2")
    assert all(torch.equal(weights["whole"][name], weights["killed"][name]) for name in weights["whole"])
    assert any(not torch.equal(weights["whole"][name], weights["plain"][name]) for name in weights["whole"])
