"""A GPU: experts, dense layers and attention as rooflines over its own memory.

Knows nothing of links and uploads; the bandwidth of its memory is that of the tier it names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt
from numpy.typing import ArrayLike
from pydantic import Field

from moesim.arrays import FloatArray
from moesim.hardware.device import Attention, Device, Phase
from moesim.hardware.experts import PerToken, Roofline, Table, TokenRange
from moesim.spec import Spec
from moesim.units import ComputeRate, Duration

__all__ = ["ExpertFormat", "FixedTimes", "Gpu"]


class ExpertFormat(Spec):
    """How experts of a packed format run: kernels of their own, on operands with a peak of their own.

    Source: measured fused layers of that format. Valid: experts stored in at most `bits` bits per weight, scales included,
    and more than the next smaller format of the GPU.
    """

    bits: Annotated[float, Gt(0)]
    """The most stored bits per weight."""
    compute: ComputeRate | None = None
    """Dense peak of the operands, FLOP/s; that of BF16 if not given (weights are unpacked, the product is in BF16)."""
    experts: Annotated[Roofline | Table, Field(discriminator="kind")]
    """Cost of an expert of this format."""


class FixedTimes(Spec):
    """Seconds that a kernel takes however little it has to do, by kind.

    Source: constants of the fits to measured kernels, beside their rooflines. Valid: kernels in a row on one stream, captured;
    what a launch costs on top is the runtime's.
    """

    gemm: Duration = 0.0
    """Product of matrices."""
    attention: Duration = 0.0
    """Attention core."""
    layer: Duration = 0.0
    """Fused layer of experts, its sorting of tokens included."""
    small: Duration = 0.0
    """Norms, rotations, activations and other kernels over the hidden states of few tokens."""


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
    """Tier that is this GPU's memory; in a profile of a GPU, the memory that it brings, as a mapping."""
    compute: ComputeRate
    """Dense BF16 peak, FLOP/s."""
    vector: ComputeRate | None = None
    """Vector operations per second, 64 of each multiprocessor and clock: what unpacking weights in registers takes most of.
    Without it a program's own kernels for packed products (`packed` of a runtime) cost what other products do."""
    experts: Annotated[Roofline | Table | PerToken, Field(discriminator="kind")] = Roofline()
    """Cost of an expert: a roofline, an interpolated table, or a price per token."""
    formats: dict[str, ExpertFormat] = Field(default_factory=dict)
    """Costs of experts in packed formats by name; those in more bits, and all without any, cost `experts`."""
    gemm: Roofline = Roofline(streaming=0.83, efficiency=0.8, q=3.0)
    """Projections, shared experts and dense layers."""
    attention: Attention = Attention()
    """Cost of the attention core."""
    fixed: FixedTimes = FixedTimes()
    """What empty kernels take, by kind."""

    def expert_time(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, bandwidth: ArrayLike | None = None
    ) -> FloatArray:
        """As `Device.expert_time`: own memory means the GPU's memory tier at the `streaming` share."""
        if isinstance(self.experts, PerToken):
            return self.experts.seconds(tokens)
        seconds = self._cost(self.experts, self.compute, tokens, weight_bytes, flops_per_token, bandwidth)
        if not self.formats:
            return seconds
        bits = stored_bits(weight_bytes, flops_per_token)
        for packed in sorted(self.formats.values(), key=lambda packing: -packing.bits):
            peak = packed.compute or self.compute
            in_format = self._cost(packed.experts, peak, tokens, weight_bytes, flops_per_token, bandwidth)
            seconds = np.where(bits <= packed.bits, in_format, seconds)
        return seconds

    def valid_tokens(self, weight_bytes: float, flops_per_token: float) -> TokenRange | None:
        """As `Device.valid_tokens`, of the format that such experts are stored in."""
        bits = float(stored_bits(weight_bytes, flops_per_token))
        fitting = [packed for packed in self.formats.values() if bits <= packed.bits]
        experts = min(fitting, key=lambda packing: packing.bits).experts if fitting else self.experts
        return None if isinstance(experts, PerToken) else experts.valid_tokens

    def _cost(
        self,
        experts: Roofline | Table,
        peak: float,
        tokens: ArrayLike,
        weight_bytes: ArrayLike,
        flops_per_token: float,
        bandwidth: ArrayLike | None,
    ) -> FloatArray:
        if isinstance(experts, Table):
            return experts.seconds(tokens, weight_bytes, bandwidth)
        own = self._memory()
        return experts.seconds(tokens, weight_bytes, flops_per_token, experts.stream(own, bandwidth), peak, own)

    def gemm_time(self, flops: ArrayLike, nbytes: ArrayLike) -> FloatArray:
        """Seconds, as `Device.gemm_time`."""
        return self.gemm.bulk(flops, nbytes, self.gemm.stream(self._memory()), self.compute)

    def core_time(self, flops: ArrayLike, kv_bytes: ArrayLike, phase: Phase, bandwidth: ArrayLike | None = None) -> FloatArray:
        """As `Device.core_time`; both phases are the larger of KV stream and FLOP."""
        stream = np.minimum(self._memory() * self.attention.streaming, np.inf if bandwidth is None else bandwidth)
        compute = np.asarray(flops) / (self.compute * self.attention.efficiency)
        return np.maximum(np.asarray(kv_bytes) / stream, compute)


def stored_bits(weight_bytes: ArrayLike, flops_per_token: float) -> FloatArray:
    """Bits [..] per weight of experts of `weight_bytes` [..]; each weight is a multiplication and an addition per token."""
    return np.asarray(16.0 * np.asarray(weight_bytes, dtype=np.float64) / flops_per_token)
