"""Owns tables that outgrow memory: their latest rows are in memory, all before in a file without a name.

Knows whole numbers; not what they mean. The file lies in the folder of the cache, else in the system's folder for temporary
files, and goes with the table or with the process, however that ends. Where neither has room for it, or many tables have files
already, the rows stay in memory.
"""

from __future__ import annotations

import errno
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet, finalize

import numpy as np
from numpy.typing import NDArray

from moesim.cache import folder
from moesim.writing import nameless_file

__all__ = ["PART", "SpilledRows"]

IntArray = NDArray[np.int64]
_MOST = 1 << 14
"""Numbers of a table that are kept in memory."""
_FILES = 64
"""Tables that have a file at a time: who holds hundreds of results must still be able to open others (macOS: 256 a process)."""
PART = 1 << 12
"""Rows that are read at once."""


class SpilledRows:
    """Rows of `width` whole numbers of 64 bits, to which rows are added at the end."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._latest = array("q")
        self._most = _MOST
        self._file: BinaryIO | None = None
        self._stored = 0
        """Numbers in the file."""

    def append(self, row: Iterable[int]) -> None:
        """Adds a row, or several behind each other."""
        self._latest.extend(row)
        if len(self._latest) >= self._most:
            self._spill()

    def extend(self, rows: IntArray) -> None:
        """Adds rows [n, width]."""
        self._latest.frombytes(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        if len(self._latest) >= self._most:
            self._spill()

    def __len__(self) -> int:
        return (self._stored + len(self._latest)) // self.width

    def rows(self, first: int, last: int) -> IntArray:
        """[n, width] a copy of the rows `first` to `last` - 1 that there are."""
        first, last = (min(place, len(self)) * self.width for place in (first, max(first, last)))
        stored, latest = self._read(first, min(last, self._stored)), np.empty(0, dtype=np.int64)
        if last > self._stored:
            latest = np.asarray(self._latest)[max(first - self._stored, 0) : last - self._stored]
        return np.concatenate([stored, latest]).reshape(-1, self.width)

    def parts(self) -> Iterator[IntArray]:
        """All rows in order, [n, width] at a time."""
        for first in range(0, len(self), PART):
            yield self.rows(first, first + PART)

    def __array__(self, dtype: object = None, copy: object = None) -> IntArray:
        """[n, width] all rows, in memory."""
        return np.concatenate([np.empty((0, self.width), dtype=np.int64), *self.parts()])

    def _spill(self) -> None:
        """Moves what is in memory to the file; where no folder has room for it, it stays from now on."""
        if self._file is None and len(_filed) < _FILES:
            self._file = nameless_file([folder(), Path(tempfile.gettempdir())])
            if self._file is not None:
                finalize(self, self._file.close)
                _filed.add(self)
        if self._file is None or not self._written(self._file):
            self._most = sys.maxsize
            return
        self._stored += len(self._latest)
        self._latest = array("q")

    def _written(self, file: BinaryIO) -> bool:
        """Whether the file took all that is in memory; a part of it does no harm."""
        try:
            file.seek(8 * self._stored)
            return file.write(self._latest) == 8 * len(self._latest)
        except OSError:
            return False

    def _read(self, first: int, last: int) -> IntArray:
        """[last - first] numbers of the file; none where `last` is not behind `first`."""
        numbers = np.empty(max(last - first, 0), dtype=np.int64)
        if len(numbers) and self._file is not None:
            self._file.seek(8 * first)
            if self._file.readinto(numbers.data) != numbers.nbytes:  # type: ignore[attr-defined]
                raise OSError(errno.EIO, "a table that was moved out of memory cannot be read again")
        return numbers


_filed: WeakSet[SpilledRows] = WeakSet()
"""Tables that have a file."""
