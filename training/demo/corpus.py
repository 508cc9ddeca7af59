"""The demo corpus: mp4 clips of synthesized speakers whose true labels are known.

Every cue shows the true label with a stated probability, so the best possible result for every subset of modalities is
computed exactly (`ceilings.json`). The corpus is synthetic: it is meant for teaching and testing, and scores on it say
nothing about people.

    phrases, snippets -> plan (one rng) -> examples -> clips (rng of seed and clip id) -> mp4
                                        -> metadata.jsonl, ceilings.json, README.md, build.json

    python -m training.demo.corpus --output data/demo --sources ~/.cache/egmf --seed 0
    python -m training.demo.corpus --output data/demo-languages --languages en zh es

The second command builds a corpus of the emotion task alone, with equally many phrases in each language.

Next: `plan.py` draws the examples, `clips.py` renders them, `ceilings.py` computes the bounds.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
import scipy
from tqdm import tqdm

from ..cli import CommandParser, command_errors
from ..data.manifest import FILES, check_files, describe_files, read_record
from ..records import digest_of_json, expand_home, only_writer, read_json, write_text
from .ceilings import all_ceilings
from .clips import FRAMES_PER_SECOND, render_example, write_mp4
from .corpus_card import render_corpus_card
from .phrases import EMOTIONS, LANGUAGES, corpus_phrases
from .plan import NOISE_STD, RELIABILITIES, CorpusPlan, plan_corpus
from .preview import write_preview
from .snippets import SCORE_LIMIT, SCORE_PER_RATING, VADER_FILE, VADER_SHA256, read_vader_snippets
from .voice import SAMPLE_RATE


GENERATOR_VERSION = 3  # raise it when the same settings no longer give the same corpus


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """Options that determine the content of a corpus.

    Args:
        seed: seed of all random draws.
        num_train: clips in the train split; in every split, three of five clips belong to the emotion task.
        num_validation: clips in the validation split.
        num_test: clips in the test split.
        frame_size: height and width of the video in pixels, even and at least 16.
        languages: any of LANGUAGES, equally often, with the emotion task alone; None for the usual corpus of both
            tasks, with twice as many English as Chinese phrases.
        phrase_seed: seed of the choice of phrases; None for `seed`. With that of another corpus, the clips are new
            draws of the same distribution.
    """

    seed: int = 0
    num_train: int = 2400
    num_validation: int = 500
    num_test: int = 400
    frame_size: int = 96
    languages: tuple[str, ...] | None = None
    phrase_seed: int | None = None

    def __post_init__(self) -> None:
        counts = self.counts.values()
        if min(counts) < 0 or sum(counts) < 1:
            raise ValueError(f"Got clips {self.counts}; expected at least 0 in every split and 1 in total.")
        if self.frame_size < 16 or self.frame_size % 2:
            raise ValueError(f"Got frame_size={self.frame_size}; expected an even number of at least 16.")
        if self.languages is not None and not self.languages:
            raise ValueError(f"Got no languages; expected any of {', '.join(LANGUAGES)}.")
        unknown = [language for language in self.languages or () if language not in LANGUAGES]
        if unknown:
            raise ValueError(f"Got languages {', '.join(unknown)}; expected any of {', '.join(LANGUAGES)}.")

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}


def build_corpus(
    output: str | Path,
    options: CorpusOptions | None = None,
    sources: str | Path | None = None,
    snippets: Sequence[tuple[float, str]] | None = None,
    num_workers: int = 2,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Path:
    """Build the corpus, or return at once if it already exists.

    Everything is written to a hidden sibling folder, which is renamed at the end. An interrupted build resumes where
    it stopped.

    Args:
        output: folder to create.
        options: content of the corpus.
        sources: folder with the VADER source archive; not needed with `snippets` or `options.languages`.
        snippets: pairs of rating in [-4, 4] and text to use instead of the VADER snippets.
        num_workers: worker processes; the result does not depend on it.
        overwrite: rebuild and replace an existing corpus.
        show_progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else.
        FileNotFoundError: `sources` has no VADER archive.
        ValueError: an option is out of range, or the archive is not the expected one.
    """
    output = expand_home(output).resolve()
    options = options or CorpusOptions()
    if num_workers < 1:
        raise ValueError(f"Got num_workers={num_workers}; expected at least 1.")
    if options.languages is not None:
        snippets = ()  # the rated sentences are English
    if snippets is None and sources is None:
        raise ValueError(f"Give `sources`, the folder that holds {VADER_FILE}, or `snippets`.")
    settings = _settings(options, snippets)
    if not _must_build(output, settings, overwrite):
        print(f"{output} already holds this corpus; using it.")
        return output

    rated_texts = read_vader_snippets(sources) if snippets is None else snippets
    plan = plan_corpus(options.seed, options.counts, rated_texts, options.languages, options.phrase_seed)
    with only_writer(output, "build of a corpus"):
        partial = _open_partial(output, settings)
        _make_clips(plan.examples, partial, options, num_workers, show_progress)
        source = "none" if options.languages else VADER_FILE if snippets is None else "given by the caller"
        _write_descriptions(partial, plan, settings, source)
        (partial / "settings.json").unlink()
        if output.exists():
            shutil.rmtree(output)  # empty, or a corpus to be overwritten
        os.replace(partial, output)
    return output


def _settings(options: CorpusOptions, snippets: Sequence[tuple[float, str]] | None) -> dict[str, Any]:
    """The settings that determine the content, as recorded in `build.json`."""
    digest = VADER_SHA256 if snippets is None else digest_of_json(list(snippets))
    settings = {
        "generator_version": GENERATOR_VERSION,
        "seed": options.seed,
        "clips": options.counts,
        "frame_size": options.frame_size,
        "frames_per_second": float(FRAMES_PER_SECOND),
        "sample_rate": SAMPLE_RATE,
        "snippets_sha256": digest,
    }
    if options.languages is not None:
        settings["languages"] = list(options.languages)
    if options.phrase_seed is not None:
        settings["phrase_seed"] = options.phrase_seed
    return settings


def _must_build(output: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """False if the folder holds a corpus with these settings; a folder with anything else is refused."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return True
    record = output / "build.json"
    if not record.is_file():
        raise FileExistsError(f"{output} already exists and is not a demo corpus. Choose another --output.")
    if overwrite:
        return True
    existing_record = read_record(record)
    existing = existing_record.get("settings", {})
    if existing == settings:
        if FILES in existing_record:
            check_files(output, existing_record, ("clips",))
        return False
    differences = []
    for key in sorted(existing.keys() | settings.keys()):
        if existing.get(key) != settings.get(key):
            differences.append(f"{key}: it has {existing.get(key)}, requested {settings.get(key)}")
    raise FileExistsError(
        f"{output} holds a corpus with different settings ({', '.join(differences)}). Use --overwrite to "
        "replace it, or choose another --output."
    )


def _open_partial(output: Path, settings: dict[str, Any]) -> Path:
    """The sibling folder of an unfinished build, emptied if its settings differ."""
    partial = output.with_name(f".{output.name}.partial")
    settings_file = partial / "settings.json"
    if partial.exists() and not _holds_settings(settings_file, settings):
        print(f"Deleting {partial}, an interrupted build with different settings.")
        shutil.rmtree(partial)
    (partial / "clips").mkdir(parents=True, exist_ok=True)
    for leftover in (partial / "clips").glob(".*.mp4"):
        leftover.unlink()
    write_text(settings_file, json.dumps(settings))
    return partial


def _holds_settings(path: Path, settings: dict[str, Any]) -> bool:
    return path.is_file() and read_json(path) == settings


def _make_clips(
    examples: list[dict[str, Any]], folder: Path, options: CorpusOptions, num_workers: int, show_progress: bool
) -> None:
    """Write the clips that do not exist yet."""
    missing = [example for example in examples if not (folder / example["video"]).is_file()]
    num_done = len(examples) - len(missing)
    if num_done:
        print(f"Resuming an interrupted build: {num_done} of {len(examples)} clips exist.")
    jobs = [(example, options.seed, options.frame_size, folder) for example in missing]
    with tqdm(total=len(examples), initial=num_done, desc="clips", unit="clip", disable=not show_progress) as bar:
        if num_workers == 1 or len(jobs) < 2:
            for job in jobs:
                _make_clip(job)
                bar.update()
            return
        with multiprocessing.get_context("spawn").Pool(min(num_workers, len(jobs))) as pool:
            for _ in pool.imap_unordered(_make_clip, jobs, chunksize=4):
                bar.update()


def _make_clip(job: tuple[dict[str, Any], int, int, Path]) -> None:
    example, seed, frame_size, folder = job
    samples, frames = render_example(example, seed, frame_size)
    write_mp4(folder / example["video"], samples, frames)


def _write_descriptions(folder: Path, plan: CorpusPlan, settings: dict[str, Any], source: str) -> None:
    """Write metadata, ceilings, README and build record."""
    languages = settings.get("languages")
    ceilings = all_ceilings(corpus_phrases(settings), plan.snippets)
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in plan.examples]
    write_text(folder / "metadata.jsonl", "".join(lines))
    write_text(folder / "ceilings.json", json.dumps(ceilings, indent=2) + "\n")
    write_text(folder / "README.md", render_corpus_card(settings["clips"], ceilings, languages))
    record = _build_record(settings, plan.examples, source)
    record[FILES] = describe_files(folder, ("clips",))
    write_text(folder / "build.json", json.dumps(record, indent=2) + "\n")


def _build_record(settings: dict[str, Any], examples: list[dict[str, Any]], source: str) -> dict[str, Any]:
    """The content of `build.json`."""
    reliabilities = {}
    for modality, shares in RELIABILITIES.items():
        reliabilities[modality] = dict(zip(EMOTIONS, shares, strict=True))
    return {
        "settings": settings,
        "reliabilities": reliabilities,
        "noise_std": NOISE_STD,
        "score_map": f"clip({SCORE_PER_RATING} * rating, -{SCORE_LIMIT}, {SCORE_LIMIT}), one decimal",
        "snippets": source,
        "counts": {
            "clips": len(examples),
            "split": _count_values(examples, "split"),
            "task": _count_values(examples, "task"),
            "language": _count_values(examples, "language"),
            "speakers": len({example["speaker"] for example in examples}),
        },
        "versions": {
            "av": av.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "scipy": scipy.__version__,
        },
    }


def _count_values(examples: list[dict[str, Any]], key: str) -> dict[str, int]:
    values = [example[key] for example in examples]
    return {value: values.count(value) for value in sorted(set(values))}


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--sources", help=f"folder that holds {VADER_FILE}; not needed with --languages")
    parser.add_argument("--seed", type=int, minimum=0, default=0)
    parser.add_argument("--train", type=int, default=2400, help="clips in the train split")
    parser.add_argument("--validation", type=int, default=500, help="clips in the validation split")
    parser.add_argument("--test", type=int, default=400, help="clips in the test split")
    parser.add_argument(
        "--num_workers", type=int, default=2, help="worker processes; the result does not depend on it"
    )
    parser.add_argument("--frame_size", type=int, default=96, help="height and width of the video in pixels")
    parser.add_argument(
        "--languages",
        nargs="+",
        help=f"build a corpus of the emotion task alone, with equally many phrases in these of {', '.join(LANGUAGES)}",
    )
    parser.add_argument("--phrase_seed", type=int, minimum=0, help="seed of the choice of phrases; default: --seed")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    parser.add_argument("--preview", help="also write a contact sheet to this PNG file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        args = make_parser().parse_args(argv)
        languages = None if args.languages is None else tuple(args.languages)
        folder = build_corpus(
            args.output,
            CorpusOptions(
                args.seed, args.train, args.validation, args.test, args.frame_size, languages, args.phrase_seed
            ),
            sources=args.sources,
            num_workers=args.num_workers,
            overwrite=args.overwrite,
        )
        if args.preview:
            write_preview(folder, args.preview)
        print(f"The corpus is in {folder}.")


if __name__ == "__main__":
    main()
