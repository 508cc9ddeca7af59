"""CMU-MOSI's vectors as a corpus of three splits by video, for the experiments on real data.

    python -m training.benchmarks.real_data.mosi_vectors SOURCE data/mosi_vectors
    egmf experiment modality_ablation gating --recipe mosi_vectors-smollm2-135m --protocol full

SOURCE holds train.npz: per utterance its text, an audio and a video vector, and a score in [-3, 3]. Its text vectors
are not used: text is what the language model reads. Its video vectors were trained on labels of these very utterances.
"""

from collections.abc import Sequence
from pathlib import Path

from ...cli import CommandParser, command_errors
from .corpora import first_groups, write_mosi


SHARES = {"test": 0.2, "validation": 0.15}  # of the examples, by whole videos; the others are for training


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
        path = write_mosi(arguments.source, arguments.folder, ("audio_feat",), split_groups)
        print(f"corpus: {path}")


if __name__ == "__main__":
    main()
