"""Owns the bandwidth of one memory node by the number of threads: reads, writes, copies.

Knows memory and threads; not what the numbers are for.

A thread reads by `memchr` for a byte that is not there or by the maximum of 64-bit numbers, whichever is faster, writes by
`memset`, copies by `memcpy`: the C library's loops run without Python's lock. A copy counts its read and its write.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from moesim.calibrate.budget import Budget, fastest
from moesim.calibrate.pages import Bytes, address, array, library

__all__ = ["Rates", "Sweep", "counts", "measure", "size_for"]

_FILLING = 0.4e9
"""B/s at which untouched pages are assumed to fill: keeps the buffers of a small budget small."""
_LEAST = 16 << 20


class Rates(NamedTuple):
    """B/s of one number of threads; copies count both directions."""

    threads: int
    read: float
    write: float
    copy: float


class Sweep(NamedTuple):
    """One memory node as the processors of a node see it."""

    node: int
    rates: tuple[Rates, ...]
    """By rising number of threads."""
    buffer: int
    """Bytes that each direction went through."""
    cold: bool
    """Whether the buffer was at least twice the last-level cache."""

    @property
    def read(self) -> float:
        """B/s of reads at the best number of threads."""
        return max(rate.read for rate in self.rates)

    @property
    def write(self) -> float:
        """B/s of writes at the best number of threads."""
        return max(rate.write for rate in self.rates)

    @property
    def total(self) -> float:
        """B/s of reads and writes together at the best mix seen."""
        return max(self.read, *(rate.copy for rate in self.rates))


def counts(cores: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    return sorted({*(1 << power for power in range(cores.bit_length()) if 1 << power <= cores), cores})


def size_for(cache: float, available: float, seconds: float) -> int:
    """Bytes of a buffer: four caches, but no more than an eighth of the memory or than the time allows to fill."""
    size = min(max(4.0 * cache, 256e6), available / 8.0, _FILLING * seconds)
    return max(_LEAST, int(size)) // 4096 * 4096


def measure(node: int | None, cpus: Sequence[int], cache: float, available: float, budget: Budget) -> Sweep:
    """Bandwidth of `node` (None: wherever memory comes from) by threads on `cpus`; RefusedError if it gives no memory."""
    size = size_for(cache, available, 0.5 * budget.left)
    source, target = array(size, node), array(size, node)
    numbers = counts(len(cpus))
    jobs: list[Callable[[], object]] = []
    for threads in numbers:
        for kind in (_memchr, _largest, _memset, _memcpy):
            jobs.append(_job(kind, source, target, list(cpus)[:threads]))
    seconds = np.array(fastest(jobs, budget, least=len(jobs))).reshape(len(numbers), 4)
    rates = [
        Rates(threads, size / min(row[0], row[1]), size / row[2], 2 * size / row[3])
        for threads, row in zip(numbers, seconds.tolist(), strict=True)
    ]
    return Sweep(node if node is not None else 0, tuple(rates), size, size >= 2 * cache)


def _memchr(source: Bytes, target: Bytes) -> None:
    library().memchr(address(source), 0, source.size)


def _largest(source: Bytes, target: Bytes) -> None:
    source.view(np.int64).max()


def _memset(source: Bytes, target: Bytes) -> None:
    library().memset(address(target), 1, target.size)


def _memcpy(source: Bytes, target: Bytes) -> None:
    library().memcpy(address(target), address(source), source.size)


def _job(kind: Callable[[Bytes, Bytes], None], source: Bytes, target: Bytes, cpus: list[int]) -> Callable[[], None]:
    """Runs `kind` once over the buffers, cut evenly among threads that stay on `cpus`."""
    edges = np.linspace(0, source.size // 4096, len(cpus) + 1).astype(int) * 4096
    parts = [(source[a:b], target[a:b]) for a, b in pairwise(edges.tolist())]

    def once() -> None:
        if len(parts) == 1:
            kind(*parts[0])
            return
        threads = [threading.Thread(target=_pinned, args=(cpu, kind, *part)) for cpu, part in zip(cpus, parts, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return once


def _pinned(cpu: int, kind: Callable[[Bytes, Bytes], None], source: Bytes, target: Bytes) -> None:
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # a machine that does not let us choose: the scheduler does
            os.sched_setaffinity(0, {cpu})  # of this thread alone
    kind(source, target)
