"""Tiers of memory: what they hold, how fast they read and write, how their latency rises with load; interleaved sets.

Knows nothing of links: a tier behind a slow link is as fast as its path allows, which `System` works out.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Len
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from moesim.arrays import FloatArray
from moesim.hardware.experts import PositiveShare
from moesim.spec import Spec
from moesim.units import Bandwidth, Duration, EnergyPerByte, MoneyPerByte, Size

__all__ = ["Compression", "Interleaved", "Memory", "Tier"]


class Compression(Spec):
    """Lossless compression inside a memory device: less is stored and read there, links carry plain data.

    Source: CXL-NDP, arXiv:2509.03377 (bit-planes and a codec: footprint of weights 0.748, of the KV cache 0.531, at 16 bits).
    Inferred: reads and writes inside shrink by the larger of the two ratios, whatever they are of. Valid: a codec as fast as
    the device (published: up to 2 TB/s), its latency (tens of nanoseconds) left out.
    """

    weights: PositiveShare
    """Stored bytes of a byte of weights."""
    kv: PositiveShare
    """Stored bytes of a byte of KV cache."""


class Memory(Spec):
    """One tier: GPU memory, DRAM, a CXL expander, an SSD, memory behind a network or on another socket.

    Source: loaded latency L(u) = L0 (1 + k u / (1 - u + eps)) fits the Mess benchmark's curves (MICRO 2024) within 1-5 %: reads
    of DDR5-4800 k = 0.13, eps = 0.14. Valid: u up to the achieved maximum; queues outside the memory are not in it.
    """

    kind: Literal["hbm", "ddr", "cxl", "nvme", "remote"]
    name: str = ""
    """How a bill calls the part; the file name of its profile if not given."""
    at: str
    """Node of the machine's graph."""
    capacity: Size
    """Bytes."""
    usable: PositiveShare = 1.0
    """Share of the capacity that a program may fill."""
    read: Bandwidth
    """B/s reached by reads."""
    write: Bandwidth | None = None
    """B/s reached by writes; as reads if not given."""
    total: Bandwidth | None = None
    """B/s of reads and writes together (a DDR bus); without it they do not disturb each other (full duplex)."""
    latency: Duration = 0.0
    """Idle load latency L0 in seconds."""
    k: Annotated[float, Ge(0)] = 0.0
    """Slope of the loaded latency; 0 for a latency that does not depend on load."""
    eps: Annotated[float, Gt(0)] = 0.15
    """Keeps the loaded latency finite at full load."""
    stage: str | None = None
    """Tier through which bytes pass on their way to or from another node (a bounce buffer: an SSD read into DRAM)."""
    compression: Compression | None = None
    """What the device gains by compressing what it holds; None for one that stores bytes as they come."""
    energy: EnergyPerByte | None = None
    """J per byte read or written; without it the machine's energy is not known."""
    price: MoneyPerByte | None = None
    """USD per byte of capacity; without it the cost of a token is not known, save for GPU memory, which comes with the GPU."""

    @property
    def room(self) -> float:
        """Bytes of weights that a program may put here."""
        return self.capacity * self.usable / (self.compression.weights if self.compression else 1.0)

    @property
    def kv_share(self) -> float:
        """Bytes of weights whose room a byte of KV cache takes."""
        return self.compression.kv / self.compression.weights if self.compression else 1.0

    @property
    def inside(self) -> float:
        """Bytes read or written inside for each byte that comes or goes."""
        return max(self.compression.weights, self.compression.kv) if self.compression else 1.0

    @property
    def write_rate(self) -> float:
        """B/s of writes."""
        return self.read if self.write is None else self.write

    def loaded_latency(self, load: ArrayLike) -> FloatArray:
        """Seconds [..] of a load when a share `load` [..] of the maximum bandwidth is in use; shares above 1 count as 1."""
        u = np.clip(np.asarray(load, dtype=np.float64), 0.0, 1.0)
        return np.asarray(self.latency * (1.0 + self.k * u / (1.0 - u + self.eps)))

    def latency_bound(self, in_flight: float, load: ArrayLike = 0.0) -> FloatArray:
        """B/s [..] that a reader with `in_flight` bytes outstanding gets at `load` [..]: Little's law, at most `read`."""
        latency = self.loaded_latency(load)
        return np.minimum(self.read, np.divide(in_flight, latency, out=np.full_like(latency, np.inf), where=latency > 0))


class Interleaved(Spec):
    """A set of tiers filled page by page in turn, so that all of them serve every read: bytes / (B1 + B2 + ...).

    Source: interleaving of a bandwidth-bound reader over DRAM and CXL, share of each tier proportional to its bandwidth.
    Valid: large sequential streams; the latency is the mean over the pages.
    """

    kind: Literal["interleaved"]
    of: Annotated[tuple[str, ...], Len(min_length=2)]
    """Names of the tiers."""
    shares: tuple[PositiveShare, ...] | None = None
    """Share of the bytes in each tier; proportional to the read bandwidths if not given."""
    capacity: Size | None = None
    """Bytes set aside for the set; without it the set takes its tiers whole, and they hold nothing else."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if len(set(self.of)) < len(self.of):
            raise ValueError(f"of: a tier is named twice ({', '.join(self.of)})")
        if self.shares is not None and len(self.shares) != len(self.of):
            raise ValueError(f"shares: {len(self.shares)} shares for {len(self.of)} tiers; give one for each")
        if self.shares is not None and abs(sum(self.shares) - 1.0) > 1e-6:
            raise ValueError(f"shares: they add up to {sum(self.shares):g}; they must add up to 1")
        return self

    def weights(self, members: tuple[Memory, ...]) -> FloatArray:
        """[n] share of the bytes in each member, adding up to exactly 1."""
        raw = np.array(self.shares if self.shares is not None else [member.read for member in members], dtype=np.float64)
        return np.asarray(raw / raw.sum())


Tier = Annotated[Memory | Interleaved, Field(discriminator="kind")]
"""A place that can hold bytes."""
