"""Owns the latency of dependent loads on one memory node, idle and while other cores stream.

Knows memory and threads; not what the numbers are for.

A program in Python cannot chase pointers at the speed of memory, but the GNU C library can be made to: its function
`_obstack_allocated_p` follows a list of chunks (`chunk = chunk->prev`, one dependent load each) until the list ends when it is
asked for the object at address 0. Lists of our own, in random order over a buffer larger than the caches, with 128 bytes
between the nodes so that no neighbour is fetched along, make it a pointer chase: seconds / nodes is the load-to-load latency,
address translation included (in the pages that the kernel gave). The buffer is cut into many lists that are walked in turn, so
that each is out of the caches when it comes round again. Where the C library has no such function the latency is not
measurable from here, and that is what is said.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.calibrate.bandwidth import size_for
from moesim.calibrate.budget import Budget
from moesim.calibrate.pages import Bytes, address, array, library

__all__ = ["Chain", "Latency", "Load", "idle", "loaded", "possible"]

_STRIDE = 128
_LIST = 1 << 15
"""Nodes of one list: a few milliseconds."""
_BLOCK = 4 << 20


class Load(NamedTuple):
    """Latency beside a stream of reads."""

    bandwidth: float
    """B/s that the streaming threads read meanwhile."""
    latency: float
    """Seconds of one load."""


class Latency(NamedTuple):
    """One memory node."""

    node: int
    idle: float
    """Seconds of one load on an idle machine."""
    loads: tuple[Load, ...]


def possible() -> bool:
    """Whether the C library can chase pointers for us."""
    return ctypes.sizeof(ctypes.c_void_p) == 8 and hasattr(library(), "_obstack_allocated_p")


class Chain:
    """Lists through a buffer, each node in a place that the one before does not foretell."""

    def __init__(self, nbytes: int, rng: np.random.Generator, node: int | None = None) -> None:
        self.memory = array(nbytes, node)
        nodes = nbytes // _STRIDE
        self.lists = max(1, nodes // _LIST)
        self.nodes = nodes // self.lists
        """Nodes of each list."""
        order = rng.permutation(self.lists * self.nodes)
        begins = np.uint64(address(self.memory)) + order.astype(np.uint64) * np.uint64(_STRIDE)
        following = np.append(begins[1:], np.uint64(0))
        following[self.nodes - 1 :: self.nodes] = 0
        words = self.memory[: nodes * _STRIDE].view(np.uint64).reshape(nodes, -1)
        words[order, 1] = following  # struct chunk {char *limit; struct chunk *prev; ...}
        self._heads = begins[:: self.nodes]
        self._turn = 0
        self._head = np.zeros(16, dtype=np.uint64)  # struct obstack {long size; struct chunk *chunk; ...}
        self._walk = library()._obstack_allocated_p
        self._walk.argtypes, self._walk.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_int

    def walk(self) -> float:
        """Follows the next list from end to end; seconds of one load."""
        self._head[1] = self._heads[self._turn % self.lists]
        self._turn += 1
        begin = time.perf_counter()
        end = self._walk(address(self._head), None)
        seconds = time.perf_counter() - begin
        if end != 0:
            raise RuntimeError("the C library found an object at address 0")
        return seconds / self.nodes

    def walks(self, budget: Budget) -> FloatArray:
        """[walks] seconds of one load, as many as the budget allows, at least 3."""
        seconds = [self.walk() for _ in range(3)]
        while budget.left > 0 and len(seconds) < 4 * self.lists:
            seconds.append(self.walk())
        return np.array(seconds)


def idle(chain: Chain, budget: Budget) -> float:
    """Seconds of one load: a tenth of the walks are faster. What others do on the machine only ever adds."""
    return float(np.quantile(chain.walks(budget), 0.1))


def buffer(cache: float, available: float, budget: Budget) -> int:
    """Bytes of a chain."""
    return size_for(cache, available, 0.3 * budget.left)


def loaded(chain: Chain, stream: Bytes, cpus: Sequence[int], budget: Budget) -> tuple[Load, ...]:
    """Latency beside more and more reading: one thread part of the time, then all of the time, then more threads.

    `cpus` are those that stream; the one that chases is not among them. Empty without any.
    """
    levels = [(1, share) for share in (0.25, 0.5, 0.75, 1.0)] if cpus else []
    levels += [(number, 1.0) for number in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96) if number <= len(cpus)]
    if len(cpus) > 1:
        levels.append((len(cpus), 1.0))
    points = []
    for index, (number, share) in enumerate(dict.fromkeys(levels)):
        points.append(_beside(chain, stream, list(cpus)[:number], share, budget.part(1 / (len(levels) - index))))
    return tuple(points)


class _Stream(threading.Thread):
    """Reads a buffer again and again, blocks of it, a share of the time."""

    def __init__(self, memory: Bytes, cpu: int, share: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.memory, self.cpu, self.share, self.stop = memory, cpu, share, stop
        self.done = 0

    def run(self) -> None:
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # the scheduler chooses then
                os.sched_setaffinity(0, {self.cpu})
        offset = 0
        while not self.stop.is_set():
            block = self.memory[offset : offset + _BLOCK]
            begin = time.perf_counter()
            library().memchr(address(block), 0, block.size)
            self.done += block.size
            offset = (offset + _BLOCK) % max(1, self.memory.size - _BLOCK + 1)
            if self.share < 1.0:
                time.sleep((time.perf_counter() - begin) * (1.0 / self.share - 1.0))


def _beside(chain: Chain, stream: Bytes, cpus: list[int], share: float, budget: Budget) -> Load:
    """The median walk beside streams on `cpus`, and what they read in all: a load is a state, not a lucky moment."""
    stop = threading.Event()
    edges = np.linspace(0, stream.size // 4096, len(cpus) + 1).astype(int) * 4096
    threads = [_Stream(stream[a:b], cpu, share, stop) for cpu, (a, b) in zip(cpus, pairwise(edges.tolist()), strict=True)]
    for thread in threads:
        thread.start()
    begin, before = time.perf_counter(), sum(thread.done for thread in threads)
    walks = chain.walks(budget)
    spent, read = time.perf_counter() - begin, sum(thread.done for thread in threads) - before
    stop.set()
    for thread in threads:
        thread.join()
    return Load(read / spent, float(np.median(walks)))
