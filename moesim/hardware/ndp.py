"""A near-data unit: compute inside a memory device, beside the bytes it works on.

Knows nothing of how activations reach it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from moesim.arrays import FloatArray
from moesim.hardware.device import Attention, Device, Phase
from moesim.hardware.experts import PerToken, Roofline, TokenRange
from moesim.units import Bandwidth, ComputeRate

__all__ = ["NearDataUnit"]


class NearDataUnit(Device):
    """Compute inside a tier: expert time = max(weights / internal bandwidth, FLOP / rate).

    Source: MoNDE and DynaNDE assume 512 GB/s inside and 2-16 TFLOPS. Valid: simulated systems only, none can be bought.
    """

    kind: Literal["ndp"]
    inside: str
    """Tier that the unit sits in; only experts that live there can run here."""
    bandwidth: Bandwidth | None = None
    """Internal bandwidth, B/s; without it the read bandwidth of the tier."""
    compute: ComputeRate
    """FLOP/s that its arithmetic reaches."""
    experts: Annotated[Roofline | PerToken, Field(discriminator="kind")] = Roofline(streaming=1.0, efficiency=1.0, q=math.inf)
    """Cost of an expert: a roofline (by default one that reaches both rates), or a price per token."""
    attention: Attention = Attention(streaming=1.0, efficiency=1.0)
    """Cost of the attention core where a policy gives it to this unit."""

    def expert_time(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, bandwidth: ArrayLike | None = None
    ) -> FloatArray:
        """As `Device.expert_time`: own memory means the tier the unit sits in, at the internal bandwidth."""
        if isinstance(self.experts, PerToken):
            return self.experts.seconds(tokens)
        stream = self.experts.stream(self._inner(), bandwidth)
        return self.experts.seconds(tokens, weight_bytes, flops_per_token, stream, self.compute)

    def gemm_time(self, flops: ArrayLike, nbytes: ArrayLike) -> FloatArray:
        """As `Device.gemm_time`: a sharp roofline at the full rates."""
        return np.maximum(np.asarray(nbytes) / self._inner(), np.asarray(flops) / self.compute)

    def core_time(self, flops: ArrayLike, kv_bytes: ArrayLike, phase: Phase, bandwidth: ArrayLike | None = None) -> FloatArray:
        """As `Device.core_time`; both phases are the larger of KV stream and FLOP."""
        stream = np.minimum(self._inner() * self.attention.streaming, np.inf if bandwidth is None else bandwidth)
        return np.maximum(np.asarray(kv_bytes) / stream, np.asarray(flops) / (self.compute * self.attention.efficiency))

    def valid_tokens(self, weight_bytes: float, flops_per_token: float) -> TokenRange | None:
        """As `Device.valid_tokens`."""
        return None if isinstance(self.experts, PerToken) else self.experts.valid_tokens

    def _inner(self) -> float:
        return self.bandwidth if self.bandwidth is not None else self._memory()
