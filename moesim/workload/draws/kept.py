"""Owns drawn tables that later runs find again: files named by everything that determines what is in them.

Knows arrays and the cache folder. A file is mapped into memory, so that processes on one machine share it. A file that was cut
off or changed is noticed by its length or its CRC, and drawn again.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import moesim
from moesim.cache import ROUTING, folder, keeps_routing, touch
from moesim.cache import write as write_file
from moesim.workload.table import Job

__all__ = ["place", "read", "write"]

_HEADER = 512
"""Bytes before the first array: a seal, then shapes as JSON."""
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
    digest = hashlib.sha256(_version())
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
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None
    if mapped[: len(_seal(0))] != _seal(zlib.crc32(memoryview(mapped)[len(_seal(0)) :])):
        return None
    touch(path)
    arrays, first = [], _HEADER
    for dtype, shape in json.loads(mapped[len(_seal(0)) : _HEADER]):
        arrays.append(np.frombuffer(mapped, dtype, int(np.prod(shape)), first).reshape(shape))
        first += arrays[-1].nbytes
    return arrays


def write(path: Path, arrays: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Keeps the arrays; False where that is not possible."""
    shapes = json.dumps([(array.dtype.str, array.shape) for array in arrays]).encode().ljust(_HEADER - len(_seal(0)))
    parts: list[Any] = [shapes, *(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays)]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return write_file(path, [_seal(crc), *parts])


def _seal(crc: int) -> bytes:
    """The first bytes of a file, by the CRC of all others."""
    return b"moesim table 1 %08x\n" % crc


@cache
def _version() -> bytes:
    """What else a drawn id depends on: the source of the law, and numpy, from whose generators the random bits come."""
    package = Path(str(moesim.__file__)).parent
    digest = hashlib.sha256(np.__version__.encode())
    for name in _LAW:
        digest.update((package / f"{name}.py").read_bytes())
    return digest.digest()
