"""Owns drawn tables that later runs find again: files named by everything that determines what is in them.

Knows arrays and the cache folder. A file is mapped into memory, so that processes on one machine share it, and what a run has
passed need not stay there. A file that was cut off or changed is noticed by its length or its CRC, and drawn again.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import moesim
from moesim.cache import ROUTING, folder, keeps_routing, limit, touch
from moesim.cache import write as write_file
from moesim.workload.table import Job

__all__ = ["place", "read", "write"]

Form = tuple[np.dtype[Any], tuple[int, ...]]
"""Type of the numbers of an array, and its shape: rows first."""
_HEADER = 512
"""Bytes before the first row: forms as JSON."""
_ALIGNED = 8
"""Rows begin at multiples of so many bytes."""
_PIECE = 1 << 20
"""Bytes that are read at once where a file is checked."""
_LAW = (
    "streams",
    "workload/draws/blocks",
    "workload/draws/experts",
    "workload/draws/job",
    "workload/draws/kernel",
    "workload/draws/laws",
    "portable",
)
"""Modules on which a drawn id depends: a change in their source is a new table."""


def place(law: Iterable[Any], origin: Sequence[Any], job: Job) -> Path | None:
    """Where the table of these draws is or would be kept; None if nothing is to be kept.

    `law`: its parts; `origin`: seed, replicate and stream.
    """
    if not keeps_routing():
        return None
    digest = hashlib.sha256(_VERSION)
    for part in (*origin, *law, job.prompt, job.output):
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(f"{part!r};".encode())
    return folder() / ROUTING / f"{digest.hexdigest()[:40]}.table"


def read(path: Path) -> list[np.ndarray[Any, Any]] | None:
    """The arrays of a file, not to be written to; None if it is not there or not whole."""
    try:
        with path.open("rb") as file:
            whole = _whole(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if whole else None
    except OSError:
        return None
    if mapped is None:
        return None
    touch(path)
    forms = [(np.dtype(dtype), tuple(shape)) for dtype, shape in json.loads(mapped[:_HEADER])]
    ends, arrays = _ends(forms), []
    for (dtype, shape), end in zip(forms, ends, strict=True):
        own = np.dtype((dtype, shape[1:]))
        begin = _HEADER + end - own.itemsize
        arrays.append(np.ndarray(shape[0], own, mapped, begin, _record(ends)))
    return arrays


def write(path: Path, forms: Sequence[Form], blocks: Callable[[], Iterable[Sequence[np.ndarray[Any, Any]]]]) -> bool:
    """Keeps arrays of `forms`, which come in blocks of rows, so that no more than a block is in memory; False if not possible.

    The arrays of a row follow each other, then those of the next row.
    """
    ends = _ends(forms)
    if forms[0][1][0] * _record(ends) > limit():  # it would be the first to go
        return False

    def pieces() -> Iterator[bytes]:
        header = json.dumps([(dtype.str, shape) for dtype, shape in forms]).encode().ljust(_HEADER)
        crc = zlib.crc32(header)
        yield header
        for arrays in blocks():
            rows = np.zeros((len(arrays[0]), _record(ends)), dtype=np.uint8)
            for array, end in zip(arrays, ends, strict=True):
                flat = np.ascontiguousarray(array).reshape(len(rows), -1).view(np.uint8)
                rows[:, end - flat.shape[1] : end] = flat
            data = rows.tobytes()
            crc = zlib.crc32(data, crc)
            yield data
        yield _seal(crc)

    return write_file(path, pieces())


def _ends(forms: Sequence[Form]) -> list[int]:
    """Where each of the arrays ends within a record; each begins at a multiple of its numbers' size."""
    ends, end = [], 0
    for dtype, shape in forms:
        begin = -(-end // dtype.itemsize) * dtype.itemsize
        end = begin + dtype.itemsize * math.prod(shape[1:])
        ends.append(end)
    return ends


def _record(ends: Sequence[int]) -> int:
    """Bytes of a row."""
    return max(-(-ends[-1] // _ALIGNED) * _ALIGNED, _ALIGNED)


def _whole(file: BinaryIO) -> bool:
    """Whether a file is as it was written; it is read piece by piece, so that none of it stays in memory."""
    rest = os.fstat(file.fileno()).st_size - len(_seal(0))
    if rest < _HEADER:
        return False
    crc = 0
    while rest and (piece := file.read(min(rest, _PIECE))):
        crc, rest = zlib.crc32(piece, crc), rest - len(piece)
    return file.read() == _seal(crc)


def _seal(crc: int) -> bytes:
    """The last bytes of a file, by the CRC of all others."""
    return b"moesim table 2 %08x\n" % crc


def _version() -> bytes:
    """What else a drawn id depends on: the source of the law, and numpy, from whose generators the random bits come."""
    package = Path(str(moesim.__file__)).parent
    digest = hashlib.sha256(np.__version__.encode())
    for name in _LAW:
        digest.update((package / f"{name}.py").read_bytes())
    return digest.digest()


_VERSION = _version()
"""Of the source as it is imported: what changes later does not reach this process."""
