"""The original ChatGLM3-6B, base or chat, as a folder that `transformers` loads without remote code.

    python -m training.chatglm3.convert chatglm3-6b-base backbones/glm3-6b
    python -m training.chatglm3.convert chatglm3-6b-base backbones/glm3-6b --verify stored_logits.safetensors

SOURCE is a folder with the checkpoint as it was published (safetensors or `.bin` shards), or its Hub id. DEST then
loads with `AutoModelForCausalLM` and `AutoTokenizer` as the native `Glm` architecture, in the source's precision.

    SOURCE ─► refuse what is not ChatGLM3 ─► DEST.partial: shards, config, tokenizer ─► checks ─► DEST

Bytes are copied through one small buffer. DEST appears whole or not at all; the same line run again after an
interruption keeps the shards that were finished. What is already in DEST is never touched without --overwrite, which
moves it aside. Next: chatglm3_layout.py (names and settings), chatglm3_tokenizer.py, chatglm3_logits.py.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from .layout import check_tensors, native_config, native_pieces, read_layout, refuse_other_models
from .tensor_files import Piece, find_shards, is_written, open_checkpoint, split_into_shards, write_shard
from .tokenizer import read_pieces, write_tokenizer


HALVES = ("weights", "tokenizer")
# The last of each is what loaders look for first: it comes last into a folder that is there already.
FILES = {
    "weights": ("*LICENSE*", "model*.safetensors", "model.safetensors.index.json", "config.json"),
    "tokenizer": ("generation_config.json", "tokenizer_config.json", "tokenizer.json"),
}
SHARD_BYTES = 2 * 10**9
SPARE_BYTES = 64 * 2**20
PLAN, LOCK = "plan.json", ".lock"


def locate_source(source: str, halves: Sequence[str], revision: str | None = None) -> Path:
    """The folder of the checkpoint; a Hub id is fetched into the Hub's own cache, without its code being run.

    Raises:
        ValueError: there is no such folder, and no such repository could be fetched.
    """
    if Path(source).is_dir():
        return Path(source).resolve()
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"There is no folder {source}. Give the checkpoint's folder, or a Hub id (owner/name).")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "tokenizer.model", "tokenization_chatglm.py", "*LICENSE*"]
        if "weights" in halves:
            names = HfApi().list_repo_files(source, revision=revision)
            wanted.append("*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin")
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted)).resolve()
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{source} is no folder, and could not be fetched from the Hub: {error}") from error


def files_of(folder: Path, half: str) -> list[Path]:
    """The files in a folder that belong to one half of a converted checkpoint, in the order in which they may come."""
    return [path for pattern in FILES[half] for path in sorted(folder.glob(pattern))]


def check_destination(dest: Path, source: Path, halves: Sequence[str], overwrite: bool) -> None:
    """Raise a ValueError if DEST may not be written."""
    if source.is_relative_to(dest):
        raise ValueError(f"{source} lies in {dest}. Give a folder of its own.")
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not dest.is_dir():
        raise ValueError(f"{dest} is a file; give a folder.")
    present = {half for half in HALVES if files_of(dest, half)}
    if not overwrite and (not present or present & set(halves)):
        holds = f"the {' and the '.join(sorted(present))}" if present else "other files"
        raise ValueError(f"{dest} is there already and holds {holds}. Give another folder, or --overwrite.")


@contextlib.contextmanager
def staging(dest: Path, source: Path, halves: Sequence[str]) -> Iterator[Path]:
    """The folder `DEST.partial`, locked; what an earlier run left in it is kept if it began with the same files."""
    folder = dest.with_name(f"{dest.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise ValueError(f"Nothing can be written to {folder} ({error.strerror}). Give another DEST.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"Another conversion is writing {folder}.") from error
        paths = find_shards(source)[0] if "weights" in halves else []
        paths += [path for path in (source / "config.json", source / "tokenizer.model") if path.is_file()]
        facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        plan = json.dumps({"halves": list(halves), "shard_bytes": SHARD_BYTES, "source": facts}, indent=1)
        found = {path.name for path in folder.iterdir()} - {LOCK}
        if found and PLAN not in found:
            raise ValueError(f"{folder} is there already and is no unfinished conversion. Move it away.")
        if not found or (folder / PLAN).read_text(encoding="utf-8") != plan:
            for name in found - {PLAN}:
                (folder / name).unlink()
            (folder / PLAN).write_text(plan, encoding="utf-8")
        try:
            yield folder
        except BaseException:
            if folder.is_dir() and not any(folder.glob("model*.safetensors")):
                shutil.rmtree(folder)  # nothing to go on from
            raise


def convert_weights(source: Path, folder: Path) -> list[Piece]:
    """Write shards, index and configuration of the native model into `folder`, keeping shards that are whole.

    Raises:
        ValueError: the checkpoint is not ChatGLM3's, is broken, or does not fit on the disk.
    """
    layout = read_layout(source)
    stored = open_checkpoint(source)
    precision = check_tensors(layout, stored)
    pieces = native_pieces(layout, stored)
    groups = split_into_shards(pieces, SHARD_BYTES)
    numbered = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    shards = dict(zip(["model.safetensors"] if len(groups) == 1 else numbered, groups, strict=True))
    missing = [name for name, shard in shards.items() if not is_written(folder / name, shard)]
    total = sum(piece.num_bytes for piece in pieces)
    left = sum(piece.num_bytes for name in missing for piece in shards[name])
    for part in folder.glob(".*.part"):
        part.unlink()
    free = shutil.disk_usage(folder).free
    if left and free < left + SPARE_BYTES:
        raise ValueError(f"{folder} needs {left / 1e9:.2f} GB more, and {free / 1e9:.2f} GB are free. Make room.")
    with tqdm(total=total, initial=total - left, desc="weights", unit="B", unit_scale=True) as bar:
        for name in missing:
            write_shard(folder / name, shards[name], bar.update)
    if len(shards) > 1:
        weight_map = {piece.name: name for name, shard in shards.items() for piece in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for path in source.glob("*LICENSE*"):
        shutil.copyfile(path, folder / path.name)
    native_config(layout, precision).save_pretrained(folder)
    return pieces


def check_weights(folder: Path, pieces: Sequence[Piece]) -> None:
    """Hold names and shapes against the model that `transformers` builds, first and last rows against the source's.

    Raises:
        ValueError: a name, a shape, a precision or a row differs.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    written = open_checkpoint(folder)
    wrong = sorted(
        name for name in expected.keys() | written if name not in written or written[name].shape != expected.get(name)
    )
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are not GlmForCausalLM's, among them {', '.join(wrong[:3])}.")
    for piece in pieces:
        copy, rows = written[piece.name], piece.last - piece.first
        for row in {0, rows - 1}:
            ours = b"".join(map(bytes, copy.read_rows(row, row + 1)))
            theirs = b"".join(map(bytes, piece.source.read_rows(piece.first + row, piece.first + row + 1)))
            if copy.dtype != piece.source.dtype or ours != theirs:
                raise ValueError(f"Row {row} of {piece.name} is not what the source holds. Run the same line again.")


def move_aside(dest: Path, halves: Sequence[str]) -> Path | None:
    """Move what would be replaced to `DEST.replaced-N`: all of DEST, or the files of one half; -> where to."""
    present = [path for half in halves for path in files_of(dest, half)]
    if not dest.is_dir() or not any(dest.iterdir()) or (len(halves) < len(HALVES) and not present):
        return None
    number = 1
    while (aside := dest.with_name(f"{dest.name}.replaced-{number}")).exists():
        number += 1
    if len(halves) == len(HALVES):
        os.rename(dest, aside)
    else:
        aside.mkdir()
        for path in reversed(present):
            os.rename(path, aside / path.name)
    return aside


def promote(folder: Path, dest: Path, halves: Sequence[str]) -> Path | None:
    """Make the staged files DEST, moving aside what they replace; -> where that went."""
    aside = move_aside(dest, halves)
    if dest.is_dir() and any(dest.iterdir()):  # the other half is there: ours joins it, the file looked for first last
        for path in [path for half in halves for path in files_of(folder, half)]:
            os.replace(path, dest / path.name)
        shutil.rmtree(folder)
    else:
        os.rename(folder, dest)
        for name in (PLAN, LOCK):
            (dest / name).unlink()
    return aside


def convert(source: Path, dest: Path, only: str | None = None, overwrite: bool = False) -> None:
    """Convert a checkpoint, or one half of it.

    Args:
        source: folder of the original checkpoint.
        dest: folder to make. If it holds the other half alone, this one joins it.
        only: `"weights"` or `"tokenizer"`; None for both.
        overwrite: move what is there aside.

    Raises:
        ImportError: `sentencepiece` is needed and not installed.
        ValueError: the source is not ChatGLM3's, DEST may not be written, or a check failed.
    """
    halves = HALVES if only is None else (only,)
    source, dest = source.resolve(), dest.resolve()
    check_destination(dest, source, halves, overwrite)
    # What can fail at once is tried before gigabytes are written.
    vocab_size = read_layout(source).vocab_size if (source / "config.json").is_file() else None
    if "weights" in halves:
        check_tensors(read_layout(source), open_checkpoint(source))
    else:
        refuse_other_models(source)
    if "tokenizer" in halves:
        read_pieces(source / "tokenizer.model")
    with staging(dest, source, halves) as folder:
        if "tokenizer" in halves:
            count = write_tokenizer(source, folder, vocab_size)
            print(f"tokenizer: equal to sentencepiece on {count} strings", flush=True)
        if "weights" in halves:
            pieces = convert_weights(source, folder)
            check_weights(folder, pieces)
            total = sum(piece.num_bytes for piece in pieces)
            print(f"weights: {len(pieces)} tensors, {total / 1e9:.2f} GB, as GlmForCausalLM has them", flush=True)
        aside = promote(folder, dest, halves)
    if aside is not None:
        print(f"what was in {dest} is now in {aside}")
    print(f"ready: {dest}")


def verify(dest: Path, stored_file: Path, tolerance: float) -> None:
    """Print how far every stored case is off; raise a ValueError if one is further than `tolerance`."""
    from .logits import compare_logits

    found = compare_logits(dest, stored_file)
    for case, (absolute, relative) in found.items():
        print(f"{case}: {relative:.1e} of the largest logit ({absolute:.1e})")
    far = [case for case, (_, relative) in found.items() if not relative <= tolerance]
    if far:
        raise ValueError(f"{dest} differs from the stored logits by more than {tolerance:.0e} in {', '.join(far)}.")
    print(f"verified: {len(found)} cases within {tolerance:.0e}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub id of the original checkpoint")
    parser.add_argument("dest", metavar="DEST", type=Path, help="folder to make")
    parser.add_argument("--only", choices=HALVES, help="convert one half; it may join the other in DEST")
    parser.add_argument("--overwrite", action="store_true", help="move what is in DEST aside")
    parser.add_argument("--revision", help="commit or tag of a Hub id")
    parser.add_argument(
        "--verify", type=Path, metavar="FILE", help="compare logits with those stored here; a DEST that is there stays"
    )
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of --verify, as a share of the largest logit")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verify is not None and not arguments.verify.is_file():
            raise ValueError(f"There is no {arguments.verify}.")
        halves = HALVES if arguments.only is None else (arguments.only,)
        there = all(files_of(arguments.dest, half) for half in halves)
        if arguments.verify is not None and there and not arguments.overwrite:
            print(f"{arguments.dest} is there already: nothing is converted.")
        else:
            source = locate_source(arguments.source, halves, arguments.revision)
            convert(source, arguments.dest, arguments.only, arguments.overwrite)
        if arguments.verify is not None:
            verify(arguments.dest, arguments.verify, arguments.tolerance)
    except (ImportError, ValueError) as error:
        sys.exit(f"chatglm3: {error}")
    except OSError as error:
        advice = " Make room and run the same line again: finished shards are kept."
        sys.exit(f"chatglm3: {error}.{advice if error.errno == errno.ENOSPC else ''}")
    except KeyboardInterrupt:
        sys.exit("chatglm3: interrupted. The same line goes on from the last finished shard.")


if __name__ == "__main__":
    main()
