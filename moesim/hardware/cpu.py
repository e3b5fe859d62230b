"""A CPU: the fastest of its kernels runs an expert; attention reads the KV cache at a rate of its own.

Several sockets behave as one whose kernels reach a share of their sum; a tier that is not its own only caps the stream.
"""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Gt, Len
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from moesim.arrays import FloatArray
from moesim.errors import did_you_mean
from moesim.hardware.device import Device, Phase
from moesim.hardware.experts import CpuKernels, Kernel, PerToken, PositiveShare, TokenRange
from moesim.spec import Spec
from moesim.units import Bandwidth, ComputeRate

__all__ = ["Cpu", "CpuAttention"]


class CpuAttention(Spec):
    """Attention core on a CPU: decode is bound by reading the KV cache, prefill by FLOP.

    Source: MoE-Lightning artifact, figure 9: 45 GB/s of KV on a 24-core 2.2 GHz Xeon; others 12 (FlexGen) to 50 GB/s.
    Valid: 16-bit KV cache, hand-written AVX-512 kernel.
    """

    bandwidth: Bandwidth = 45e9
    """B/s of KV cache read while decoding."""
    rate: ComputeRate = 1e12
    """FLOP/s of scores and sums."""


class Cpu(Device):
    """A CPU socket (or several behaving as one) with named kernels; the fastest one allowed by `experts` wins.

    Source: KTransformers (SOSP 2025): AMX and AVX-512 curves, tuned and stock. Valid: see `Kernel`.
    """

    kind: Literal["cpu"]
    at: str
    """Node of the machine's graph."""
    memory: str | None = None
    """Tier the CPU works from; by default the first tier at its node."""
    cores: Annotated[int, Gt(0)] | None = None
    """Physical cores, by which programs' kernels scale; without them only kernels measured on this CPU can run."""
    sockets: Annotated[int, Gt(0)] = 1
    """Sockets that it stands for."""
    together: PositiveShare = 1.0
    """Share of the sum of each socket alone that its kernels reach: those of programs that place weights by socket."""
    bf16: bool = False
    """Whether it has instructions that multiply BF16 numbers (AVX512_BF16, AMX); frameworks emulate them elsewhere."""
    kernels: Annotated[dict[str, Kernel], Len(min_length=1)]
    """Kernel curves by name."""
    experts: Annotated[CpuKernels | PerToken, Field(discriminator="kind")] = CpuKernels()
    """Cost of an expert: by these kernels, or a price per token."""
    attention: CpuAttention = CpuAttention()
    """Cost of the attention core where a policy gives it to this CPU."""
    launches_gpu: bool | None = None
    """Whether its thread launches the GPU's calls first, as `one_thread` of a runtime, which says so by default."""

    @model_validator(mode="after")
    def _known_kernels(self) -> Self:
        for name in self.experts.use if isinstance(self.experts, CpuKernels) else ():
            if name not in self.kernels:
                known = ", ".join(self.kernels)
                raise ValueError(f"experts.use: no kernel '{name}'; this CPU has {known}.{did_you_mean(name, self.kernels)}")
        if isinstance(self.experts, CpuKernels) and all(kernel.bits is not None for kernel in self._allowed()):
            raise ValueError("experts.use: every kernel takes narrow weights only; name one that takes 16-bit weights, too")
        return self

    def expert_time(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, bandwidth: ArrayLike | None = None
    ) -> FloatArray:
        """As `Device.expert_time`: each kernel at most at `bandwidth`, or at that of own memory."""
        if isinstance(self.experts, PerToken):
            return self.experts.seconds(tokens)
        stream = self._own if bandwidth is None else bandwidth
        return reduce(np.minimum, [kernel.seconds(tokens, weight_bytes, flops_per_token, stream) for kernel in self._allowed()])

    def gemm_time(self, flops: ArrayLike, nbytes: ArrayLike) -> FloatArray:
        """Seconds, as `Device.gemm_time`, by the same kernels, those for narrow weights left out."""
        whole = [kernel for kernel in self._allowed() if kernel.bits is None]
        return reduce(np.minimum, [kernel.bulk(flops, nbytes, self._own) for kernel in whole])

    def core_time(self, flops: ArrayLike, kv_bytes: ArrayLike, phase: Phase, bandwidth: ArrayLike | None = None) -> FloatArray:
        """Seconds, as `Device.core_time`; prefill reads each KV block once for many queries: own memory limits it."""
        stream = self._own if bandwidth is None else bandwidth
        if phase == "decode" or stream is None:
            stream = np.minimum(self.attention.bandwidth, np.inf if stream is None else stream)
        return np.maximum(np.asarray(kv_bytes) / stream, np.asarray(flops) / self.attention.rate)

    def valid_tokens(self, weight_bytes: float, flops_per_token: float) -> TokenRange | None:
        """As `Device.valid_tokens`: from the first to the last token count that any allowed kernel was measured at."""
        ranges = [kernel.valid_tokens for kernel in self._allowed()]
        known = [bounds for bounds in ranges if bounds is not None]
        if isinstance(self.experts, PerToken) or len(known) < len(ranges):
            return None
        return min(low for low, _ in known), max(high for _, high in known)

    def _allowed(self) -> list[Kernel]:
        use = self.experts.use if isinstance(self.experts, CpuKernels) else ()
        return [self.kernels[name].beside(self._own) for name in use or self.kernels]
