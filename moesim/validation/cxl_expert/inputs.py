"""Owns what CXL-Expert's evaluation computes with, and its sums done by hand: the closed forms beside the simulation.

Knows nothing of the simulator but how Zipf shares become whole tokens.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from moesim.arrays import IntArray
from moesim.spec import Spec
from moesim.workload.routing.zipf import expected_counts

__all__ = ["INPUTS", "Inputs"]


class Inputs(Spec):
    """The stated constants, SI. Source: CXL-Expert, section 4. Valid: its own accounting, one thing after another."""

    experts: int = 128
    tokens: int = 1024
    exponent: float = 1.5
    expert_bytes: float = 200e6
    pcie: float = 32e9
    """B/s; the 100 ns of set-up are left out here, they add 13 us to 128 loads."""
    gpu_token: float = 5e-6
    cpu_token: float = 50e-6
    gpu_rate: float = 200e12
    ndp_rate: float = 2e12
    percentile: float = 0.75
    activations: float = 24e6
    """Bytes of a group of tokens on cold experts, uncompressed."""
    activation_compression: float = 2.0
    stated_expert_bytes: float = 2 * 1024 * 2048 * 2.0
    """What the stated shapes take at 16 bit."""
    gpu_memory: float = 80e9

    @cached_property
    def counts(self) -> IntArray:
        """[E] expected tokens by popularity rank."""
        return expected_counts(self.experts, self.exponent, self.tokens)

    @property
    def hot(self) -> int:
        """Experts above the percentile, by rank of all E counts."""
        return round(self.experts * (1 - self.percentile))

    @property
    def hot_tokens(self) -> int:
        """Tokens on hot experts."""
        return int(self.counts[: self.hot].sum())

    @property
    def cold_tokens(self) -> int:
        """All other tokens."""
        return self.tokens - self.hot_tokens

    @property
    def load(self) -> float:
        """Seconds to load one expert."""
        return self.expert_bytes / self.pcie

    @property
    def ndp_token(self) -> float:
        """Seconds of a token near data, which is not given: the GPU's price scaled by the stated rates."""
        return self.gpu_token * self.gpu_rate / self.ndp_rate

    @property
    def ndp_token_of_flop(self) -> float:
        """The other reading: 2 FLOP for each 16-bit weight, at the stated rate."""
        return self.expert_bytes / self.ndp_rate

    @property
    def gpu_only(self) -> float:
        """Seconds when all experts are loaded and all tokens run on the GPU."""
        return self.experts * self.load + self.tokens * self.gpu_token

    def scheme(self, hot: int) -> float:
        """Seconds when the `hot` most popular experts are loaded and all other tokens run on the CPU; no activations."""
        on_gpu = int(self.counts[:hot].sum())
        return hot * self.load + on_gpu * self.gpu_token + (self.tokens - on_gpu) * self.cpu_token

    @property
    def near_data(self) -> float:
        """Seconds when hot experts are in GPU memory already and cold tokens run near data."""
        return self.hot_tokens * self.gpu_token + self.cold_tokens * self.ndp_token

    @property
    def pays(self) -> float:
        """Tokens above which loading an expert costs less than leaving it to the CPU."""
        return self.load / (self.cpu_token - self.gpu_token)

    @property
    def worth_loading(self) -> int:
        """Experts with more tokens than that."""
        return int(np.count_nonzero(self.counts > self.pays))


INPUTS: Final = Inputs()
