"""Owns the reading of numpy's files: arrays of numbers out of npz archives and npy bytes, never a pickle, never a bomb.

Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim import files
from moesim.errors import InputError, Mistake, excerpt

__all__ = ["NPY", "from_npy", "read_arrays"]

NPY = b"\x93NUMPY"
"""First bytes of an npy file."""
_MOST_MEMBERS = 1000
_LARGEST = 8 * 2**30
_SMALL_ENOUGH = 64 * 2**20
_MOST_PACKED = 200
"""How much longer than the archive arrays of more than `_SMALL_ENOUGH` bytes may be: expert ids pack 1 to 20 times smaller."""


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays `names` of the npz archive at `path`; others in it are not looked at. InputError where one is missing."""
    with files.opened(path, missing="no such routing trace") as file:
        if file.read(len(NPY)) == NPY:
            raise InputError(Mistake("holds a single array, not an npz archive; write it with numpy.savez", file=str(path)))
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                has = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                _refuse_missing(names, has, path)
                _refuse_large([has[name] for name in names], path.stat().st_size, path)
                return {name: from_npy(archive.read(has[name])) for name in names}
        except InputError:
            raise
        except Exception as error:  # damaged archives raise what the reader of zip files, and those of packers, come across
            message = f"is not a readable npz file, perhaps truncated ({excerpt(str(error))})"
            raise InputError(Mistake(message, file=str(path))) from None


def _refuse_missing(names: Iterable[str], has: dict[str, zipfile.ZipInfo], path: Path) -> None:
    if len(has) > _MOST_MEMBERS:
        raise InputError(Mistake(f"holds {len(has):,} arrays; at most {_MOST_MEMBERS:,} are read", file=str(path)))
    shown = excerpt(", ".join(sorted(has)) or "none", 200)
    texts = [f"array '{name}' is missing; the file has {shown}" for name in names if name not in has]
    if texts:
        raise InputError(*(Mistake(text, file=str(path)) for text in texts))


def _refuse_large(members: list[zipfile.ZipInfo], packed: int, path: Path) -> None:
    size = sum(member.file_size for member in members)
    if size > min(_LARGEST, max(_SMALL_ENOUGH, _MOST_PACKED * packed)):
        message = f"unpacks to {size:,} bytes, {size / packed:,.0f} times its size; at most {_MOST_PACKED} times are read"
        raise InputError(
            Mistake(message if size <= _LARGEST else f"holds {size:,} bytes; at most {_LARGEST:,}", file=str(path))
        )


def from_npy(raw: bytes) -> NDArray[Any]:
    """The array that the bytes of an npy file hold. ValueError, in a few words, where they hold none."""
    if not raw.startswith(NPY):
        raise ValueError("not an npy array")
    try:
        array: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    except Exception as error:  # the header is Python text, whose reader raises whatever it likes
        raise ValueError(f"a damaged npy array: {excerpt(str(error))}") from None
    return array
