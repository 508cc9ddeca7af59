"""What media files declare about themselves: the samples of mp4 and mov files, and the bytes of a whole file.

    open file ─┬─► check_sample_tables ─► an error if they need too much memory
               └─► declared_size ───────► compared with the bytes that there are, to tell of files that were cut off

media_egmf.py opens the files.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from typing import Any


# Boxes of mp4 and mov files that contain the sample tables.
NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
# Declared by an mp4 file, which needs memory for each, present or not.
MAX_SAMPLES = 2_000_000
HEAD_BYTES = 1024
MAX_OGG_PAGE = 65_307  # bytes
# Where the head of a file declares its bytes, and in which format of `struct`.
DECLARED_SIZES = {
    "wav, avi": (rb"RIFF(.{4})", "<I"),
    "w64": (rb"riff.{12}(.{4})", "<I"),
    "asf that is not streamed": (rb"0&\xb2u.*?\xa1\xdc\xab\x8cG\xa9\xcf\x11.{32}(?=.{48}[\0\2])(.{4})", "<I"),
    "caf": (rb"caff.*?data\0{4}(.{4})", ">I"),
    "Matroska": (rb"\x1aE\xdf\xa3.*?\x18S\x80g\x01\0{3}(.{4})", ">I"),
    "mp3": (rb".*?(?:Xing|Info)\0{3}[\x03\x07\x0b\x0f].{4}(.{4})", ">I"),
    "flv": (rb"FLV.*?\0\x08filesize\0(.{8})", ">d"),
}
# Of MPEG-TS without and with time codes: bytes before the mark of each, and its size.
PACKETS = ((0, 188), (4, 192))


def check_sample_tables(file: Any, size: int) -> None:
    """Refuse an mp4 or mov file that declares far more samples than it can hold; FFmpeg needs memory for each.

    Args:
        file: open, in binary mode.
        size: bytes of the file.
    """
    num_samples = sum(_declared_samples(file, 0, size, size))
    if num_samples > MAX_SAMPLES:
        raise ValueError(
            f"the file declares {num_samples} samples; at most {MAX_SAMPLES} are read. It is damaged, or must be cut."
        )


def _declared_samples(file: Any, start: int, stop: int, file_size: int, depth: int = 0) -> Iterator[int]:
    """The numbers of samples that the boxes in a part of an mp4 file declare, however deep they lie."""
    while start + 8 <= stop:
        file.seek(start)
        header = file.read(28).ljust(28, b"\0")
        box_size, kind, long_size = struct.unpack(">I4sQ", header[:16])
        header_size = 16 if box_size == 1 else 8
        if box_size == 1:
            box_size = long_size
        elif box_size == 0:  # up to the end
            box_size = stop - start
        if box_size < header_size:
            # Damaged, or not an mp4 file.
            return
        _, sample_size, count = struct.unpack(">3I", header[header_size : header_size + 12])
        if kind in NESTED_BOXES and depth < len(NESTED_BOXES):
            end = min(start + box_size, stop)
            yield from _declared_samples(file, start + header_size, end, file_size, depth + 1)
        elif kind == b"trun":
            yield sample_size  # its second field
        elif kind == b"stz2" or (kind == b"stsz" and not 0 < sample_size * count <= file_size):
            # Uncompressed audio has a size that fits.
            yield count
        start += box_size


def declared_size(file: Any) -> float:
    """The bytes that an open file declares, 0 if it does not.

    Infinity without the last page (4) of Ogg, or with a part of the last packet of MPEG-TS. Streams state 2 GiB, which
    counts as nothing.
    """
    head = file.read(HEAD_BYTES)
    size = file.seek(0, io.SEEK_END) or file.tell()
    file.seek(max(0, size - MAX_OGG_PAGE))
    last_page = file.read().rpartition(b"OggS")[2]
    is_cut = head.startswith(b"OggS") and last_page[1:2] < b"\4"
    for start, step in PACKETS:
        is_stream = set(head[start::step]) == {0x47}
        is_cut |= is_stream and size % step > 0
    if is_cut:
        return math.inf
    for pattern, number_format in DECLARED_SIZES.values():
        declared = re.match(pattern, head, re.DOTALL)
        if declared is not None:
            (size,) = struct.unpack(number_format, declared[1])
            return size if size < 2e9 else 0
    return 0
