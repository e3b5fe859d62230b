"""A GPU: experts, dense layers and attention as rooflines over its own memory.

Knows nothing of links and uploads; the bandwidth of its memory is that of the tier it names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from moesim.hardware.device import Attention, Device, Phase
from moesim.hardware.experts import FloatArray, PerToken, Roofline
from moesim.units import ComputeRate, Duration

__all__ = ["Gpu"]


class Gpu(Device):
    """A GPU whose kernels are rooflines: bytes over achieved memory bandwidth, FLOP over achieved rate.

    Source: fused MoE layers and GEMMs measured on five NVIDIA GPUs (aiconfigurator-core 0.12.0 tables); with the constants of
    the profiles the rows that were not fitted on are met within 2-10 % (median) and 8-25 % (nine of ten).
    Valid: BF16 or formats with the same operand rate; weights larger than the last-level cache.
    """

    kind: Literal["gpu"]
    at: str
    """Node of the machine's graph."""
    memory: str
    """Tier that is this GPU's memory."""
    compute: ComputeRate
    """Dense BF16 peak, FLOP/s."""
    experts: Annotated[Roofline | PerToken, Field(discriminator="kind")] = Roofline()
    gemm: Roofline = Roofline(streaming=0.83, efficiency=0.8, q=3.0)
    """Projections, shared experts and dense layers."""
    attention: Attention = Attention()
    launch: Duration = 5e-6
    fused: bool = True

    def expert_time(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, bandwidth: ArrayLike | None = None
    ) -> FloatArray:
        """As `Device.expert_time`: own memory means the GPU's memory tier at the `streaming` share."""
        if isinstance(self.experts, PerToken):
            return self.experts.seconds(tokens)
        stream = self.experts.stream(self._memory(), bandwidth)
        return self.experts.seconds(tokens, weight_bytes, flops_per_token, stream, self.compute)

    def gemm_time(self, flops: ArrayLike, nbytes: ArrayLike) -> FloatArray:
        """As `Device.gemm_time`."""
        return self.gemm.bulk(flops, nbytes, self.gemm.stream(self._memory()), self.compute)

    def core_time(self, flops: ArrayLike, kv_bytes: ArrayLike, phase: Phase, bandwidth: ArrayLike | None = None) -> FloatArray:
        """As `Device.core_time`; both phases are the larger of KV stream and FLOP."""
        stream = np.minimum(self._memory() * self.attention.streaming, np.inf if bandwidth is None else bandwidth)
        compute = np.asarray(flops) / (self.compute * self.attention.efficiency)
        return np.maximum(np.asarray(kv_bytes) / stream, compute)
