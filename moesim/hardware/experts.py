"""Seconds for the tokens of one expert: rooflines with a rounded corner, kernel curves of CPUs, prices per token.

Knows bytes, operations and rates; not which device it serves, nor where the weights lie.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Len
from numpy.typing import ArrayLike
from pydantic import model_validator

from moesim import jit
from moesim.arrays import FloatArray
from moesim.hardware import corner_kernel as k
from moesim.portable import cube_root, exponential, logarithms, power, powers
from moesim.spec import Spec
from moesim.units import Bandwidth, ComputeRate, Duration, Share, Size

__all__ = [
    "CpuKernels",
    "Kernel",
    "PerToken",
    "PositiveShare",
    "Roofline",
    "Sharpness",
    "Table",
    "TokenRange",
    "activation_unit",
    "p_norm",
    "where_tokens",
]

PositiveShare = Annotated[Share, Gt(0)]
"""A share above 0, up to 1."""
Sharpness = Annotated[float, Gt(0)]
"""Exponent of a p-norm; `inf` gives the maximum, 1 the sum."""
TokenRange = Annotated[tuple[float, ...], Len(2, 2)]
"""Fewest and most tokens per expert at which a cost was held against measurements; outside it is an extrapolation."""

_EACH, _COMPILING = 5e-5, 1.0
"""Seconds that numpy takes for a few pairs, and that compiling takes."""
_MOST = 600
"""Pairs from which on numpy, which takes several at once, is as fast as what is compiled."""
_PACKED_BITS = 16.0
_MATRICES, _ACTIVATION_BYTES = 3.0, 2.0
"""An expert is gate, up and down projection; its activations are 16-bit numbers."""


def p_norm(first: ArrayLike, second: ArrayLike, q: float) -> FloatArray:
    """`(first^q + second^q)^(1/q)` for non-negative arrays that broadcast; the maximum for `q = inf`.

    Written around the larger term, so that no power under- or overflows.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size == b.size == 1:
        return np.full(np.broadcast_shapes(a.shape, b.shape), _p_norm(a.item(), b.item(), q))
    large = np.maximum(a, b, order="C")
    if math.isinf(q):
        return large
    small = np.minimum(a, b, order="C")
    if large.size <= _MOST and jit.repaid(k, _EACH, _COMPILING):
        _compiled().norms(small.reshape(-1), large.reshape(-1), np.array([q, 1.0 / q]))
        return large
    ratio = np.divide(small, large, out=np.zeros_like(large), where=large > 0)
    return np.asarray(large * _root(1.0 + powers(ratio, q), q))


@cache
def _compiled() -> Any:
    return jit.native(k) or k


def _p_norm(a: float, b: float, q: float) -> float:
    """The same of two numbers: Python adds and multiplies as numpy does, in a tenth of the time."""
    large, small = (a, b) if a >= b or math.isnan(a) else (b, a)
    if math.isinf(q):
        return large
    return large * float(_root(1.0 + power(small / large if large > 0 else 0.0, q), q))


def _root(x: Any, q: float) -> Any:
    """The q-th root of numbers [..] from 1 to 2, or of one; common exponents without logarithms, some ten times as fast."""
    if q == 1.5:
        return cube_root(x * x)
    if q == 3.0:
        return cube_root(x)
    return power(x, 1.0 / q) if isinstance(x, float) else powers(x, 1.0 / q)


def where_tokens(tokens: ArrayLike, seconds: ArrayLike) -> FloatArray:
    """`seconds` where there are tokens, 0 elsewhere: an expert without tokens is never called."""
    return np.where(np.asarray(tokens) > 0, seconds, 0.0)


def activation_unit(flops_per_token: ArrayLike) -> FloatArray:
    """Bytes [..] of sqrt(hidden * width) 16-bit numbers of experts that take `flops_per_token` [..]."""
    return np.asarray(_ACTIVATION_BYTES * np.sqrt(np.asarray(flops_per_token, dtype=np.float64) / (2.0 * _MATRICES)))


class Roofline(Spec):
    """Time = ((bytes / (bandwidth * streaming))^q + (FLOP / (peak * efficiency))^q)^(1/q), a roofline with a rounded corner.

    FLOP stand for what is done per token: with `activations` each token also moves that many times sqrt(hidden * width)
    16-bit numbers through the device's own memory, which is why narrow experts reach a smaller share of the peak.
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
    activations: Annotated[float, Ge(0)] = 0.0
    """Numbers moved per token and expert in units of sqrt(hidden * width); about 8 for gather, gate, up, down and sum."""
    valid_tokens: TokenRange | None = None
    """Range of tokens per expert that the constants were fitted and tested on; a run that leaves it says so."""

    def stream(self, own: float, bandwidth: ArrayLike | None = None) -> FloatArray:
        """B/s of the weight stream: own memory at its `streaming` share, capped by the tier the weights lie in."""
        reached = np.float64(own * self.streaming)
        return np.asarray(reached if bandwidth is None else np.minimum(reached, bandwidth))

    def seconds(
        self,
        tokens: ArrayLike,
        weight_bytes: ArrayLike,
        flops_per_token: ArrayLike,
        stream: ArrayLike,
        peak: float,
        own: float = math.inf,
    ) -> FloatArray:
        """Seconds [..] for `tokens` [..] through experts of `weight_bytes` [..]; `stream` and `own` in B/s, `peak` in FLOP/s.

        `own` is the bandwidth of the device's memory, through which activations go.
        """
        tokens, flops = np.asarray(tokens, dtype=np.float64), np.asarray(flops_per_token, dtype=np.float64)
        compute = (tokens + self.half) * flops / (peak * self.efficiency)
        if self.activations:
            compute = compute + tokens * (self.activations * activation_unit(flops)) / own
        return where_tokens(tokens, p_norm(np.asarray(weight_bytes) / stream, compute, self.q))

    def bulk(self, flops: ArrayLike, nbytes: ArrayLike, stream: ArrayLike, peak: float) -> FloatArray:
        """Seconds [..] of dense work: `flops` [..] over `nbytes` [..] of operands."""
        return p_norm(np.asarray(nbytes) / stream, np.asarray(flops) / (peak * self.efficiency), self.q)


class Table(Spec):
    """Time of one expert interpolated between measured points, straight in log tokens against log time.

    Below the first point the time stays (the weights set it), above the last it grows with the tokens. An expert of another
    size takes proportionally longer, which is an assumption.
    Source: the table that the points come from. Valid: `valid_tokens` and experts of the measured shape.
    """

    kind: Literal["table"] = "table"
    weights: Size
    """Stored bytes of the expert that was measured."""
    tokens: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(min_length=2)]
    """Tokens per expert of each point, rising."""
    time: tuple[Annotated[Duration, Gt(0)], ...]
    """Seconds of one expert at each point, launches left out."""

    @model_validator(mode="after")
    def _points_fit(self) -> Self:
        if len(self.time) != len(self.tokens):
            raise ValueError(f"time: {len(self.time)} times for {len(self.tokens)} points; give one for each")
        if any(right <= left for left, right in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError("tokens: the points must rise")
        return self

    @property
    def valid_tokens(self) -> TokenRange:
        """First and last measured point."""
        return self.tokens[0], self.tokens[-1]

    def seconds(self, tokens: ArrayLike, weight_bytes: ArrayLike, bandwidth: ArrayLike | None = None) -> FloatArray:
        """Seconds [..] for `tokens` [..]; `bandwidth` (B/s) is that of another tier the weights come from."""
        c = np.asarray(tokens, dtype=np.float64)
        inside = np.clip(c, self.tokens[0], self.tokens[-1])
        points, times = (logarithms(np.array(values, dtype=np.float64)) for values in (self.tokens, self.time))
        interpolated = exponential(np.interp(logarithms(inside), points, times))
        scaled = interpolated * np.maximum(c / self.tokens[-1], 1.0) * (np.asarray(weight_bytes) / self.weights)
        return where_tokens(c, scaled if bandwidth is None else np.maximum(scaled, np.asarray(weight_bytes) / bandwidth))


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
    memory: Bandwidth | None = None
    """Read bandwidth of the memory that it streamed them from. Where the CPU has a faster or slower memory of its own, it
    streams in proportion (the carry-over rule of docs/hardware.md); without it `bandwidth` is what the cores manage. Valid:
    as long as the cores can ask for so much; none of the kernels was measured beside a second memory."""
    rate: ComputeRate
    """FLOP/s with many tokens per expert, as reached, not the peak."""
    q: Sharpness = 1.5
    """Roundness of the corner, as in `Roofline`."""
    unpack: ComputeRate | None = None
    """Weights per second turned from a packed format (fewer than 16 bits) into operands; without it unpacking is free."""
    bits: Annotated[float, Gt(0)] | None = None
    """Bits of the widest weights that the kernel takes, where that is not all: 8 for integers of 8 bits."""
    block: Annotated[int, Ge(1)] = 1
    """Tokens of an expert that are computed together, as many as tiles have rows: a block that is not full costs as much."""
    valid_tokens: TokenRange | None = None
    """Range of tokens per expert that the constants were fitted and tested on; a run that leaves it says so."""

    def beside(self, memory: float | None) -> Kernel:
        """The kernel on a CPU whose own memory gives `memory` B/s; None for one that is not known."""
        if self.bandwidth is None or self.memory is None or memory is None:
            return self
        return self.model_copy(update={"bandwidth": self.bandwidth * (memory / self.memory)})

    def seconds(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, stream: ArrayLike | None
    ) -> FloatArray:
        """Seconds [..] for `tokens` [..] through experts of `weight_bytes` [..]; `stream` caps in B/s, None does not."""
        tokens, weight_bytes = np.asarray(tokens, dtype=np.float64), np.asarray(weight_bytes, dtype=np.float64)
        rows = tokens if self.block == 1 else np.ceil(tokens / self.block) * self.block
        weights = flops_per_token / 2
        elapsed = self.bulk(rows * flops_per_token, weight_bytes, stream, self._unpacking(weight_bytes, weights))
        if self.bits is not None:
            elapsed = np.where(8.0 * weight_bytes > self.bits * weights * (1 + 1e-12), np.inf, elapsed)
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
