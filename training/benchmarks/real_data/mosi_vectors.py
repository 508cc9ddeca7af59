"""CMU-MOSI's vectors as a corpus of three splits by video, for the experiments on real data.

    python -m training.benchmarks.real_data.mosi_vectors SOURCE data/mosi_vectors
    egmf experiment modality_ablation gating --recipe mosi_vectors-smollm2-135m --protocol full

SOURCE holds train.npz: per utterance its text, an audio and a video vector, and a score in [-3, 3]. Its text vectors
are not used: text is what the language model reads. Its video vectors were trained on labels of these very utterances.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...cli import CommandParser, command_errors
from .corpora import GROUP, first_groups, write_metadata


SHARES = {"test": 0.2, "validation": 0.15}  # of the examples, by whole videos; the others are for training


def read_mosi_vectors(source: Path, folder: Path) -> Path:
    """Write the corpus: `metadata.jsonl` and the vectors as .npy files.

    Raises:
        OSError: there is no train.npz in the source.
    """
    with np.load(source / "train.npz", allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in ("id", "text", "audio_feat", "video_feat", "label")}
    videos = [str(name).rpartition("_")[0] for name in columns["id"]]
    splits = split_groups(videos)
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for i, video in enumerate(videos):
        for modality in ("audio", "video"):
            np.save(folder / f"{i}-{modality}.npy", columns[f"{modality}_feat"][i][None].astype(np.float32))
        examples.append(
            {
                "id": str(columns["id"][i]),
                "split": splits[video],
                "task": "sentiment",
                GROUP: video,
                "text": str(columns["text"][i]).capitalize(),
                "answer": round(float(columns["label"][i]), 6),
                "audio_features": f"{i}-audio.npy",
                "video_features": f"{i}-video.npy",
            }
        )
    return write_metadata(folder, examples)


def split_groups(groups: Sequence[str]) -> dict[str, str]:
    """Group -> its split; the same for any order of the examples."""
    splits = dict.fromkeys(groups, "train")
    for split, share in SHARES.items():
        left = [group for group in groups if splits[group] == "train"]
        for group in first_groups(left, round(share * len(groups))):
            splits[group] = split
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("source", type=Path, help="folder with train.npz")
        parser.add_argument("folder", type=Path, help="folder to write")
        arguments = parser.parse_args(argv)
        print(f"corpus: {read_mosi_vectors(arguments.source, arguments.folder)}")


if __name__ == "__main__":
    main()
