"""The benchmarks on real data: how each corpus is read, trained on, and compared.

All benchmarks share the options in `COMMON`; a benchmark changes those that its corpus needs. The best epoch is
chosen on `inner`, groups taken out of train. If these are few, the settings are fixed beforehand
(training/log/text_corpora.md), and training uses all of train up to its last epoch. Settings were chosen on examples
of train as well, but results of earlier ones on the reported split were known (training/log/).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .baselines import CHARACTERS, SOUNDS, VECTORS, WORDS, Baseline
from .corpora import GROUP, read_emotiontalk, read_mosi, read_ravdess, read_sims_v2


COMMON: dict[str, Any] = {
    "audio": "none",
    "video": "none",
    "encoder_hidden_size": 96,
    "fusion_hidden_size": 128,
    "lora_r": 8,
    "lora_dropout": 0.0,
    "fusion_pretraining_epochs": 3,
    "fusion_pretraining_learning_rate": 1e-3,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 1e-3,
    "fusion_learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": "true",
    "metric_for_best_model": "eval_loss",
    "greater_is_better": "false",
    "max_eval_samples": 128,
    "max_length": 256,
    "logging_steps": 10,
    "report_to": "none",
}
# For a language model that has not read the language: the transcript reaches it only through the pseudo tokens.
NOT_IN_PROMPT = {"transcript_in_prompt": "false", "fit_pseudo_tokens": "true"}
TO_LAST_EPOCH = {"eval_strategy": "no", "load_best_model_at_end": "false"}

EMOTION_FIGURES = ("weighted_f1", "accuracy", "macro_f1")
SCORE_FIGURES = ("acc2_sims", "f1_sims", "mae", "correlation")


class Benchmark(NamedTuple):
    """One corpus, and how it is measured.

    Args:
        title: name of the benchmark in the table.
        folder: folder of the release, within the folder of all releases.
        task: a built-in task, or one of `corpora.TASKS`.
        options: training options besides `COMMON`.
        baseline: the baseline that EGMF is compared with.
        shown: figures in the table.
        about: one or two sentences below the table.
        read: function from a release and a folder to input of the folder converter; None for MELD, which has a
            converter of its own.
        converter_options: options of MELD's converter.
        group: column with the groups, which must not be divided between splits.
        inner: share of train on which the best epoch is chosen; 0 to train on all of it, up to the last epoch.
        max_train_samples: examples to train on; None for all remaining ones.
        subsets: subsets of the modalities to evaluate.
        subset_titles: titles of subsets whose names would mislead.
        aims: figures that should exceed the baseline's.
        min_first_aim: value that the first of the aims should also reach.
    """

    title: str
    folder: str
    task: str
    options: dict[str, Any]
    baseline: Baseline
    shown: tuple[str, ...]
    about: str
    read: Callable[[Path, Path], Path] | None = None
    converter_options: tuple[str, ...] = ()
    group: str = GROUP
    inner: float = 0.1
    max_train_samples: int | None = None
    subsets: tuple[str, ...] = ("all",)
    subset_titles: dict[str, str] = {}
    aims: tuple[str, ...] = ()
    min_first_aim: float | None = None

    def training_options(self) -> dict[str, Any]:
        """Training options that do not depend on the run."""
        last_epoch = {} if self.inner else TO_LAST_EPOCH
        return {**COMMON, **self.options, **last_epoch}


def read_sims_v2_english(source: Path, folder: Path) -> Path:
    return read_sims_v2(source, folder, column="english", task="sims_v2_english")


BENCHMARKS: dict[str, Benchmark] = {
    "mosi": Benchmark(
        title="CMU-MOSI, text and three vectors",
        folder="cmu_mosi_trimodal",
        task="sentiment",
        read=read_mosi,
        options={
            "audio": "features",
            "audio_feature_size": 173,
            "video": "features",
            "video_feature_size": 100,
            "sequence_encoder": "none",
            "modality_dropout": 0.4,
            "fusion_pretraining_epochs": 5,
            "num_train_epochs": 4,
            "fusion_learning_rate": 1e-5,
        },
        baseline=VECTORS,
        inner=0,
        shown=("correlation", "acc2_has0", "acc2_non0", "mae"),
        aims=("correlation", "acc2_has0", "acc2_non0"),
        subsets=("text", "audio", "video", "text+audio+video"),
        subset_titles={
            "audio": "vectors of text and audio",
            "video": "vector of video",
            "text+audio+video": "everything",
        },
        about="The official training split, cut by video. The vectors of text and video were trained on these very "
        "labels, so all figures are optimistic. The text vector is concatenated with the audio vector.",
    ),
    "ravdess": Benchmark(
        title="RAVDESS speech, raw audio",
        folder="ravdess_speech_16k",
        task="ravdess",
        read=read_ravdess,
        options={
            "audio": "waveform",
            "modalities": ["audio"],
            "max_clip_seconds": 6,
            "conv_channels": [64, 96, 128],
            "cache_media": "true",
            "encoder_hidden_size": 128,
            "sequence_encoder": "none",
            "voice_augmentation": "true",
            "fusion_pretraining_epochs": 60,
            "fusion_pretraining_learning_rate": 1e-3,
            "fusion_pretraining_batch_size": 16,
            "num_train_epochs": 2,
            "fusion_learning_rate": 1e-5,
            "train_sampling_strategy": "random",
        },
        baseline=SOUNDS,
        inner=0,
        shown=("accuracy", "weighted_f1", "macro_f1"),
        aims=("accuracy",),
        min_first_aim=3 / 8,
        about="Actors 11 and 12 held out; eight emotions, chance 0.125.",
    ),
    "meld": Benchmark(
        title="MELD, text",
        folder="meld_text",
        task="meld",
        group="dialogue",
        inner=0.05,
        max_train_samples=4000,
        options={"max_length": 128},
        baseline=WORDS,
        shown=EMOTION_FIGURES,
        aims=("weighted_f1",),
        about="The official dev split, utterances without context.",
    ),
    "meld_context": Benchmark(
        title="MELD, text after three earlier turns",
        folder="meld_text",
        task="meld",
        converter_options=("--context_turns", "3"),
        group="dialogue",
        inner=0.05,
        max_train_samples=1200,
        options={"max_length": 256},
        baseline=WORDS,
        shown=EMOTION_FIGURES,
        aims=("weighted_f1",),
        about="The official dev split, each utterance after the three turns before it; the baseline reads only the "
        "utterance.",
    ),
    "sims_v2": Benchmark(
        title="CH-SIMS v2, text",
        folder="ch_sims_v2_text",
        task="sims_v2",
        read=read_sims_v2,
        options={**NOT_IN_PROMPT, "fusion_pretraining_epochs": 8},
        baseline=CHARACTERS,
        shown=SCORE_FIGURES,
        about="The official validation split, in Chinese, of which the language model knows little: only the fusion "
        "reads the transcript.",
    ),
    "sims_v2_english": Benchmark(
        title="CH-SIMS v2, machine-translated text",
        folder="ch_sims_v2_text",
        task="sims_v2_english",
        read=read_sims_v2_english,
        max_train_samples=1200,
        options={},
        baseline=WORDS,
        shown=SCORE_FIGURES,
        about="The same examples, translated into English by a machine.",
    ),
    "emotiontalk": Benchmark(
        title="EmotionTalk, text",
        folder="emotiontalk_text",
        task="emotiontalk",
        read=read_emotiontalk,
        options={
            **NOT_IN_PROMPT,
            "distillation": "true",
            "fusion_learning_rate": 1e-5,
            "fusion_pretraining_epochs": 5,
            "per_device_train_batch_size": 4,
            "max_steps": 150,
        },
        baseline=CHARACTERS,
        shown=EMOTION_FIGURES,
        about="The official validation split, other sessions, in Chinese, which only the fusion reads; the text alone "
        "was labeled. The labels are English words. The language model learned for 150 steps.",
    ),
}
