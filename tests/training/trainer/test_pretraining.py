"""Fusion pretraining: it changes only our own layers, learns, and sees the modalities together and separately."""

import copy
import math
from itertools import combinations

import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.training_runs import SHORT, run
from training.data.collator import SampleCollator
from training.data.dataset import EGMFDataset, load_examples
from training.trainer.pretraining import AnswerHeads, drop_tokens, fuse_modalities, make_optimizer, pretrain_fusion


pytestmark = pytest.mark.integration
MODALITIES = ("text", "audio", "video")


@pytest.fixture
def setting(make_model, make_processor, place):
    """`setting(batch_size)` -> model, new heads, loader over the training examples."""
    model = make_model("waveform", "frames")
    processor = make_processor("waveform", "frames")
    dataset = EGMFDataset(load_examples(place / "corpus", "train"), processor, cache_media=True)

    def make(batch_size):
        heads = AnswerHeads(processor, model.config.fusion_hidden_size)
        return model, heads, DataLoader(dataset, batch_size, collate_fn=SampleCollator(processor))

    return make


@pytest.mark.parametrize("progress", [False, True])
def test_only_our_own_layers_change(setting, progress):
    model, heads, loader = setting(3)
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, heads, 1e-2, 0.01)
    losses = pretrain_fusion(model, heads, loader, optimizer, epochs=2, progress=progress)
    assert len(losses) == 2
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert not set(trained) & set(model.egmf.pseudo_tokens.parameters())
    after = model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if not name.startswith("egmf.")}
    for part in ("audio_visual_encoder.audio", "audio_visual_encoder.video", "fusion", "experts"):
        assert any(name.startswith(f"egmf.{part}") for name in changed), part


def test_token_dropout_leaves_out_a_share_and_never_all():
    text_mask = torch.ones(50, 40, dtype=torch.bool)
    text_mask[:10, 1:] = False  # texts of one token
    text_mask[10] = False  # asked without the text
    kept = drop_tokens(text_mask, 0.3)
    assert not (kept & ~text_mask).any()
    assert torch.equal(kept[:11], text_mask[:11])
    assert kept[11:].float().mean() == pytest.approx(0.7, abs=0.05)
    assert len(kept[11:].unique(dim=0)) == 39
    assert drop_tokens(text_mask, 0.0) is text_mask


def test_token_dropout_changes_what_is_fused_with_text_alone(setting):
    model, _, loader = setting(3)
    model.eval()
    batch = next(iter(loader))
    plain = fuse_modalities(model, batch)
    dropped = fuse_modalities(model, batch, token_dropout=0.7)
    changed = (plain.vectors != dropped.vectors).any(dim=1)
    assert torch.equal(plain.subsets, dropped.subsets)
    assert changed.any()
    assert not changed[~plain.subsets[:, 0]].any()


def test_loss_falls(setting):
    model, heads, loader = setting(6)
    optimizer = make_optimizer(model, heads, 1e-2, 0.01)
    losses = pretrain_fusion(model, heads, loader, optimizer, epochs=15, progress=False)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("epochs", "steps"), [(0.0, 0), (0.1, 1), (1.0, 2), (1.5, 3)])
def test_fractions_of_an_epoch_are_rounded_up(setting, epochs, steps):
    model, heads, loader = setting(3)
    calls = []
    model.egmf.audio_visual_encoder.register_forward_hook(lambda *_: calls.append(1))  # once per step
    optimizer = make_optimizer(model, heads, 1e-3, 0.01)
    losses = pretrain_fusion(model, heads, loader, optimizer, epochs=epochs, progress=False)
    assert len(calls) == steps
    assert len(losses) == math.ceil(epochs)


def test_pretraining_sees_all_modalities_and_training_loses_some(place, monkeypatch):
    """The pretraining fuses every subset of the modalities anyway."""
    loaders = []
    monkeypatch.setattr(
        "training.trainer.run.pretrain_fusion",
        lambda model, heads, loader, *_, **__: loaders.append(loader) or [],
    )
    options = {"augmentation": "true", "modality_dropout": 0.4, "fusion_pretraining_epochs": 1}
    trainer = run(place, "pretrained", fusion_pretraining_batch_size=2, **options, **SHORT)
    (loader,) = loaders
    datasets = (loader.dataset, trainer.train_dataset, trainer.eval_dataset)
    assert [dataset.augmentation.modality_dropout for dataset in datasets] == [0.0, 0.4, 0.0]
    assert [dataset.augmentation.augmentation for dataset in datasets] == [True, True, False]
    assert [dataset.with_labels for dataset in datasets] == [False, True, False]
    assert [len(batch) for batch in loader.batch_sampler] == [2, 2, 2]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_subset_is_fused_as_if_it_were_a_sample(make_model, make_processor, bidirectional):
    model = make_model(bidirectional_attention=bidirectional)
    processor = make_processor()
    audio = torch.randn(3, 6)
    video = torch.randn(2, 5)
    given = [("text", "audio", "video"), ("text", "video"), ("audio",)]
    batch = processor(
        text=["one word" if "text" in present else None for present in given],
        audio_features=[audio if "audio" in present else None for present in given],
        video_features=[video if "video" in present else None for present in given],
    )
    fused, samples, *_ = fuse_modalities(model, batch)
    subsets = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]
    expected = [(i, subset) for i, present in enumerate(given) for subset in subsets if set(subset) <= set(present)]
    assert len(expected) == len(samples) == 7 + 3 + 1
    names = ("input_ids", "utterance_mask", "audio_values", "audio_mask", "video_values", "video_mask")
    for sample, subset in expected:
        mask = torch.tensor([[modality in subset for modality in MODALITIES]])
        inputs = {name: batch[name][sample : sample + 1] for name in names}
        _, alone = model.embed_prompt(**inputs, modality_mask=mask)
        distances = (fused - alone.fused).abs().amax(dim=1)
        torch.testing.assert_close(fused[distances.argmin()], alone.fused[0], rtol=1e-4, atol=1e-5)
