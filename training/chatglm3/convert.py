"""Conversion of the original ChatGLM3-6B, base or chat, to a folder that `transformers` loads without remote code.

    python -m training.chatglm3.convert chatglm3-6b-base backbones/glm3-6b
    python -m training.chatglm3.convert chatglm3-6b-base backbones/glm3-6b --verify stored_logits.safetensors

SOURCE is a folder with the published checkpoint (safetensors or `.bin` shards), or its Hub id. `AutoModelForCausalLM`
and `AutoTokenizer` load DEST as the native `Glm` architecture, in the source's precision.

    SOURCE ─► refuse other models ─► DEST.partial: shards, config, tokenizer ─► checks ─► DEST

Bytes are copied through one small buffer. DEST appears complete or not at all; after an interruption, the same command
keeps the finished shards. Existing files in DEST are never touched without --overwrite, which moves them aside.

Next: layout.py (names and settings), tensor_files.py (bytes), destination.py (folders), tokenizer.py, logits.py.
"""

import argparse
import errno
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..cli import CommandParser, command_errors
from ..records import expand_home, new_folder, real_path
from .destination import HALVES, check_destination, files_of, promote, staging
from .layout import check_tensors, native_config, native_pieces, read_layout, refuse_other_models
from .tensor_files import Piece, is_written, open_checkpoint, split_into_shards, write_shard
from .tokenizer import read_pieces, write_tokenizer


logger = logging.getLogger(__name__)

SHARD_BYTES = 2 * 10**9
SPARE_BYTES = 64 * 2**20  # must stay free on the disk
RESUME_ADVICE = "Run the same command again: finished shards are kept."


def locate_source(source: str, halves: Sequence[str], revision: str | None = None) -> Path:
    """The folder of the checkpoint; a Hub id is downloaded into the Hub's own cache, and none of its code is run.

    Args:
        source: folder or Hub id.
        halves: what to download: `weights`, `tokenizer`, or both.
        revision: commit or tag of a Hub id.

    Raises:
        ValueError: it is not a folder and could not be downloaded.
    """
    if Path(source).is_dir():
        return Path(source).resolve()
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"There is no folder {source}. Give the checkpoint's folder, or a Hub id (owner/name).")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "tokenizer.model", "tokenization_chatglm.py", "*LICENSE*"]
    try:
        if "weights" in halves:
            names = HfApi().list_repo_files(source, revision=revision)
            has_safetensors = any(name.endswith(".safetensors") for name in names)
            patterns.append("*.safetensors" if has_safetensors else "*.bin")
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns)).resolve()
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{source} is not a folder, and could not be downloaded from the Hub: {error}") from error


# ---- weights --------------------------------------------------------------------------------------------------


def convert_weights(source: Path, folder: Path) -> list[Piece]:
    """Write shards, index and configuration of the native model into `folder`; complete shards are kept.

    Returns:
        The tensors of the native model, as rows of the source's tensors.

    Raises:
        ValueError: the checkpoint is not ChatGLM3, is broken, or does not fit on the disk.
    """
    layout = read_layout(source)
    stored = open_checkpoint(source)
    precision = check_tensors(layout, stored)
    pieces = native_pieces(layout, stored)
    shards = name_shards(split_into_shards(pieces, SHARD_BYTES))
    write_missing_shards(folder, shards)
    if len(shards) > 1:
        write_index(folder / "model.safetensors.index.json", shards)
    for path in source.glob("*LICENSE*"):
        shutil.copyfile(path, folder / path.name)
    native_config(layout, precision).save_pretrained(folder)
    return pieces


def name_shards(groups: Sequence[list[Piece]]) -> dict[str, list[Piece]]:
    """File name -> its tensors, with the names that `transformers` uses."""
    count = len(groups)
    if count == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{count:05d}.safetensors": group for i, group in enumerate(groups, 1)}


def write_missing_shards(folder: Path, shards: dict[str, list[Piece]]) -> None:
    """Write the shards that the folder does not have yet.

    Raises:
        ValueError: the disk has too little space.
    """
    missing = [name for name, pieces in shards.items() if not is_written(folder / name, pieces)]
    total = sum(piece.num_bytes for pieces in shards.values() for piece in pieces)
    remaining = sum(piece.num_bytes for name in missing for piece in shards[name])
    for part in folder.glob(".*.part"):
        part.unlink()
    free = shutil.disk_usage(folder).free
    if remaining and free < remaining + SPARE_BYTES:
        raise ValueError(
            f"{folder} needs {remaining / 1e9:.2f} GB more, but only {free / 1e9:.2f} GB are free. "
            "Free some disk space."
        )
    with tqdm(total=total, initial=total - remaining, desc="weights", unit="B", unit_scale=True) as bar:
        for name in missing:
            write_shard(folder / name, shards[name], bar.update)


def write_index(path: Path, shards: dict[str, list[Piece]]) -> None:
    """Write the index of a sharded checkpoint."""
    weight_map = {}
    total = 0
    for name, pieces in shards.items():
        for piece in pieces:
            weight_map[piece.name] = name
            total += piece.num_bytes
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def check_weights(folder: Path, pieces: Sequence[Piece]) -> None:
    """Compare names and shapes with the model that `transformers` builds, and first and last rows with the source.

    Raises:
        ValueError: a name, a shape, a precision or a row differs.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    written = open_checkpoint(folder)
    shapes = {name: stored.shape for name, stored in written.items()}
    names = sorted(expected.keys() | shapes.keys())
    wrong = [name for name in names if shapes.get(name) != expected.get(name)]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not match GlmForCausalLM, such as {', '.join(wrong[:3])}.")
    for piece in pieces:
        copy = written[piece.name]
        num_rows = piece.last - piece.first
        for row in {0, num_rows - 1}:
            copied = b"".join(map(bytes, copy.read_rows(row, row + 1)))
            original = b"".join(map(bytes, piece.source.read_rows(piece.first + row, piece.first + row + 1)))
            if copy.dtype != piece.source.dtype or copied != original:
                raise ValueError(f"Row {row} of {piece.name} differs from the source. Run the same command again.")


# ---- the conversion -------------------------------------------------------------------------------------------


def convert(source: Path, dest: Path, only: str | None = None, overwrite: bool = False) -> None:
    """Convert a checkpoint, or one half of it.

    Args:
        source: folder of the original checkpoint.
        dest: folder to create. If it holds only the other half, this half joins it.
        only: `"weights"` or `"tokenizer"`; None for both.
        overwrite: move existing files aside.

    Raises:
        ImportError: `sentencepiece` is needed but not installed.
        ValueError: the source is not ChatGLM3, DEST may not be written, or a check failed.
    """
    halves = HALVES if only is None else (only,)
    source = expand_home(source).resolve()
    dest = new_folder(dest) if only is None else real_path(expand_home(dest))
    check_destination(dest, source, halves, overwrite)
    check_source(source, halves)
    with staging(dest, source, halves, SHARD_BYTES) as folder:
        if "tokenizer" in halves:
            vocab_size = read_layout(source).vocab_size if (source / "config.json").is_file() else None
            count = write_tokenizer(source, folder, vocab_size)
            print(f"tokenizer: equal to sentencepiece on {count} strings", flush=True)
        if "weights" in halves:
            pieces = convert_weights(source, folder)
            check_weights(folder, pieces)
            total = sum(piece.num_bytes for piece in pieces)
            print(f"weights: {len(pieces)} tensors of GlmForCausalLM, {total / 1e9:.2f} GB", flush=True)
        replaced = promote(folder, dest, halves)
    if replaced is not None:
        print(f"The previous content of {dest} is now in {replaced}.")
    print(f"ready: {dest}")


def check_source(source: Path, halves: Sequence[str]) -> None:
    """Check as much of the source as possible before gigabytes are written."""
    if (source / "config.json").is_file() or "weights" in halves:
        layout = read_layout(source)
        if "weights" in halves:
            check_tensors(layout, open_checkpoint(source))
    else:
        refuse_other_models(source)
    if "tokenizer" in halves:
        read_pieces(source / "tokenizer.model")


def verify(dest: Path, stored_file: Path, tolerance: float) -> None:
    """Compare the converted model with stored logits and print the difference for each case.

    Args:
        dest: the converted model.
        stored_file: logits of the original code: see logits.py.
        tolerance: largest allowed difference, relative to the case's largest logit.

    Raises:
        ValueError: a case differs by more than the tolerance.
    """
    from .logits import compare_logits

    differences = compare_logits(dest, stored_file)
    for case, (absolute, relative) in differences.items():
        print(f"{case}: {relative:.1e} of the largest logit ({absolute:.1e})")
    # Not `relative > tolerance`, which NaN would pass.
    wrong = [case for case, (_, relative) in differences.items() if not relative <= tolerance]
    if wrong:
        raise ValueError(f"{dest} differs from the stored logits by more than {tolerance:.0e} in {', '.join(wrong)}.")
    print(f"verified: {len(differences)} cases within {tolerance:.0e}")


# ---- command line ---------------------------------------------------------------------------------------------


def make_parser() -> CommandParser:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub id of the original checkpoint")
    parser.add_argument("dest", metavar="DEST", type=Path, help="folder to create")
    parser.add_argument("--only", choices=HALVES, help="convert only this half; DEST may already hold the other one")
    parser.add_argument("--overwrite", action="store_true", help="move existing files of DEST aside")
    parser.add_argument("--revision", help="commit or tag of a Hub id")
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="stored logits to compare with; an existing DEST is not converted again",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-6,
        help="largest difference that --verify accepts, relative to the largest logit (default: 1e-6)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Convert, unless DEST is already converted and only needs to be verified, and then verify."""
    if arguments.verify is not None and not arguments.verify.is_file():
        raise ValueError(f"--verify {arguments.verify} does not exist, or is not a file. Check the path.")
    halves = HALVES if arguments.only is None else (arguments.only,)
    arguments.dest = expand_home(arguments.dest)
    is_converted = all(files_of(arguments.dest, half) for half in halves)
    if arguments.verify is not None and is_converted and not arguments.overwrite:
        print(f"{arguments.dest} is already converted: only verifying it.")
    else:
        source = locate_source(arguments.source, halves, arguments.revision)
        convert(source, arguments.dest, arguments.only, arguments.overwrite)
    if arguments.verify is not None:
        verify(arguments.dest, arguments.verify, arguments.tolerance)


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors(RESUME_ADVICE):
        arguments = make_parser().parse_args(argv)
        try:
            run(arguments)
        except ImportError as error:
            raise ValueError(str(error)) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ValueError(f"{error}. Free some disk space. {RESUME_ADVICE}") from error


if __name__ == "__main__":
    main()
