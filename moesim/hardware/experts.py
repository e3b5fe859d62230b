"""Seconds for the tokens of one expert: rooflines with a rounded corner, kernel curves of CPUs, prices per token.

Knows bytes, operations and rates; not which device it serves, nor where the weights lie.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import ArrayLike, NDArray

from moesim.spec import Spec
from moesim.units import Bandwidth, ComputeRate, Duration, Share

__all__ = ["CpuKernels", "FloatArray", "Kernel", "PerToken", "PositiveShare", "Roofline", "Sharpness", "p_norm", "where_tokens"]

FloatArray = NDArray[np.float64]
PositiveShare = Annotated[Share, Gt(0)]
"""A share above 0, up to 1."""
Sharpness = Annotated[float, Gt(0)]
"""Exponent of a p-norm; `inf` gives the maximum, 1 the sum."""

_PACKED_BITS = 16.0


def p_norm(first: ArrayLike, second: ArrayLike, q: float) -> FloatArray:
    """`(first^q + second^q)^(1/q)` for non-negative arrays that broadcast; the maximum for `q = inf`.

    Written around the larger term, so that no power under- or overflows.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    large = np.maximum(a, b)
    if math.isinf(q):
        return large
    ratio = np.divide(np.minimum(a, b), large, out=np.zeros_like(large), where=large > 0)
    return np.asarray(large * (1.0 + ratio**q) ** (1.0 / q))


def where_tokens(tokens: ArrayLike, seconds: ArrayLike) -> FloatArray:
    """`seconds` where there are tokens, 0 elsewhere: an expert without tokens is never called."""
    return np.where(np.asarray(tokens) > 0, seconds, 0.0)


class Roofline(Spec):
    """Time = ((bytes / (bandwidth * streaming))^q + (FLOP / (peak * efficiency))^q)^(1/q), a roofline with a rounded corner.

    The defaults are the middle of what fused BF16 MoE kernels reach on five NVIDIA GPUs.
    Source: fused_moe_* rows of the measured kernel tables (aiconfigurator-core 0.12.0: A100, H100, H200, L40S, RTX PRO 6000).
    Valid: BF16, experts larger than the last-level cache in sum; A100 with Mixtral shapes streams at 0.55 only.
    """

    kind: Literal["roofline"] = "roofline"
    streaming: PositiveShare = 0.84
    """Share of the memory bandwidth reached while weights stream."""
    efficiency: PositiveShare = 0.7
    """Share of the peak rate reached with many tokens per expert."""
    half: Annotated[float, Ge(0)] = 0.0
    """Tokens per expert at which half of `efficiency` is reached (tiles that are not filled); 0 for a constant efficiency."""
    q: Sharpness = 1.5
    """Roundness of the corner: 1 adds the two terms, `.inf` takes the larger one."""

    def stream(self, own: float, bandwidth: ArrayLike | None = None) -> FloatArray:
        """B/s of the weight stream: own memory at its `streaming` share, capped by the tier the weights lie in."""
        reached = np.float64(own * self.streaming)
        return np.asarray(reached if bandwidth is None else np.minimum(reached, bandwidth))

    def seconds(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, stream: ArrayLike, peak: float
    ) -> FloatArray:
        """Seconds [..] for `tokens` [..] through experts of `weight_bytes` [..]; `stream` in B/s, `peak` in FLOP/s."""
        tokens = np.asarray(tokens, dtype=np.float64)
        compute = (tokens + self.half) * flops_per_token / (peak * self.efficiency)
        return where_tokens(tokens, p_norm(np.asarray(weight_bytes) / stream, compute, self.q))

    def bulk(self, flops: ArrayLike, nbytes: ArrayLike, stream: ArrayLike, peak: float) -> FloatArray:
        """Seconds [..] of dense work: `flops` [..] over `nbytes` [..] of operands."""
        return p_norm(np.asarray(nbytes) / stream, np.asarray(flops) / (peak * self.efficiency), self.q)


class PerToken(Spec):
    """Time = tokens * `time`, whatever the weights: for papers that price work per token.

    Source: CXL-Expert, section 4 (5 us per token on a GPU, 50 us on a CPU).
    Valid: reproducing such papers only; real experts cost their weight stream first.
    """

    kind: Literal["per_token"] = "per_token"
    time: Annotated[Duration, Gt(0)]
    """Seconds of one token through one expert."""

    def seconds(self, tokens: ArrayLike) -> FloatArray:
        """Seconds [..] for `tokens` [..]."""
        return np.asarray(np.asarray(tokens, dtype=np.float64) * self.time)


class Kernel(Spec):
    """One CPU kernel: time(M) = ((W / bandwidth + unpacking)^q + (FLOP M / rate)^q)^(1/q).

    Source: KTransformers (SOSP 2025), curves of AMX and AVX-512 kernels on a Xeon 8452Y; the worst points of the fits are
    off by 4-10 %.
    Valid: one NUMA domain, 1 to 1,024 tokens per expert, experts of tens of megabytes.
    """

    bandwidth: Bandwidth | None = None
    """The most weight bytes per second the kernel was seen to stream; without it, whatever its memory gives."""
    rate: ComputeRate
    """FLOP/s with many tokens per expert, as reached, not the peak."""
    q: Sharpness = 1.5
    """Roundness of the corner, as in `Roofline`."""
    unpack: ComputeRate | None = None
    """Weights per second turned from a packed format (fewer than 16 bits) into operands; without it unpacking is free."""

    def seconds(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, stream: ArrayLike | None
    ) -> FloatArray:
        """Seconds [..] for `tokens` [..] through experts of `weight_bytes` [..]; `stream` caps in B/s, None does not."""
        tokens, weight_bytes = np.asarray(tokens, dtype=np.float64), np.asarray(weight_bytes, dtype=np.float64)
        elapsed = self.bulk(tokens * flops_per_token, weight_bytes, stream, self._unpacking(weight_bytes, flops_per_token / 2))
        return where_tokens(tokens, elapsed)

    def bulk(
        self, flops: ArrayLike, nbytes: ArrayLike, stream: ArrayLike | None, extra: FloatArray | float = 0.0
    ) -> FloatArray:
        """Seconds [..] of `flops` [..] over `nbytes` [..] of weights, `extra` seconds of the weight stream on top."""
        memory = np.asarray(nbytes) / self._reached(stream) + extra
        return p_norm(memory, np.asarray(flops) / self.rate, self.q)

    def _reached(self, stream: ArrayLike | None) -> FloatArray:
        if self.bandwidth is None and stream is None:
            raise ValueError("a kernel without a bandwidth of its own needs the rate of the memory it reads")
        caps = [cap for cap in (self.bandwidth, stream) if cap is not None]
        return np.asarray(np.minimum(caps[0], caps[-1]), dtype=np.float64)

    def _unpacking(self, weight_bytes: FloatArray, weights: float) -> FloatArray:
        """Seconds [..] to unpack `weights` weights; a weight takes 8 * weight_bytes / weights bits where it is stored."""
        if self.unpack is None:
            return np.zeros_like(weight_bytes)
        return np.where(8.0 * weight_bytes < _PACKED_BITS * weights, weights / self.unpack, 0.0)


class CpuKernels(Spec):
    """Experts cost what the fastest of the CPU's kernels takes; `use` keeps to some of them (a stock or a tuned framework)."""

    kind: Literal["kernels"] = "kernels"
    use: tuple[str, ...] = ()
    """Names of the kernels a framework has; empty for all of them."""
