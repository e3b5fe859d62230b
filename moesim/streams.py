"""Randomness is handed in: one seed, one independent generator per name.

A new consumer never shifts another one's numbers, and every policy sees the same routing and the same arrivals.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["Streams"]


class Streams:
    """Named random generators of one seed and one replicate.

    `Streams(7)["routing"]` is the same generator state in any process, whatever else was drawn before. `spawn` gives
    the generator of one numbered part (a block of requests, say) of a named stream.
    """

    def __init__(self, seed: int, replicate: int = 0) -> None:
        self.seed = seed
        self.replicate = replicate

    def __getitem__(self, name: str) -> np.random.Generator:
        return self.spawn(name)

    def spawn(self, name: str, *part: int) -> np.random.Generator:
        """A fresh generator for part `part` of the stream `name`; equal arguments give equal generators."""
        key = (zlib.crc32(name.encode()), self.replicate, *part)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))
