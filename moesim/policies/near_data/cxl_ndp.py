"""CXL-NDP: experts in CXL devices that keep them as compressed bit-planes and hand out as many planes as are asked for.

Knows the precision of a read; what a device gains inside by compression is the tier's `compression`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import FloatArray
from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import cpu_missing, upload_missing
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, host_order, place, quota, require_cpu
from moesim.policies.kit.precision import native_bits
from moesim.units import Share

__all__ = ["CxlNdp"]


class CxlNdp(SizedPolicy):
    """Experts that the GPU does not hold are read from CXL memory, of each weight the first `bits` bits.

    The host policy is left as it is: residents by profile, a missing expert is uploaded or computed by the CPU in place. All
    bits stay stored, so capacity is the device's affair (`compression` of the tier: 1/0.748 of the room for weights, 1/0.531
    for the KV cache), and so is its internal bandwidth. The link carries plain data: where it is the slower of the two, only
    `bits` shortens a copy, by bits / native bits, and lossless compression alone changes nothing.
    Channels of a weight matrix may get different precisions (`channels`); of the KV cache it is the model's `precision.kv`.
    Source: CXL-NDP, arXiv:2509.03377 (footprint of weights -25.2 %, of the KV cache -46.9 %). Inferred: the same precisions for
    all experts in CXL memory; residents and experts in other tiers are read in full. The codec works in step with memory and
    link: its tens of nanoseconds are part of the tier's `latency`, and its 2 TB/s never bind behind links of 32 GB/s. Left
    out: the choice of channels, which changes outputs and no time.
    Valid: fewer bits than the model's change its outputs (`quality`); the source is a simulation.
    """

    kind: Literal["cxl_ndp"] = "cxl_ndp"
    bits: float = Field(8.0, ge=1, le=16)
    """p: bits of each weight that are read from CXL memory; the model's own number or more is lossless."""
    channels: dict[float, Share] | None = None
    """Bits -> share of the channels of each weight matrix that are read with so many; in place of `bits` for all of them."""
    misses: Literal["upload", "cpu"] = "upload"
    """Who computes an expert that is not in GPU memory."""

    memoryless: ClassVar[bool] = True
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "CXL-NDP (arXiv:2509.03377)"

    @model_validator(mode="after")
    def _channels_are_all(self) -> CxlNdp:
        if self.channels is not None:
            if "bits" in self.model_fields_set:
                raise ValueError("bits and channels say the same thing; leave one out")
            if not all(1 <= bits <= 16 for bits in self.channels):
                raise ValueError(f"channels: bits lie between 1 and 16, got {', '.join(f'{bits:g}' for bits in self.channels)}")
            if abs(sum(self.channels.values()) - 1.0) > 1e-6:
                raise ValueError(f"channels: shares add up to {sum(self.channels.values()):g}; they must add up to 1")
        return self

    def mean_bits(self, native: float) -> float:
        """Bits that are read of a weight, over all channels, of `native` that are stored."""
        channels = {self.bits: 1.0} if self.channels is None else self.channels
        return sum(share * min(bits, native) for bits, share in channels.items())

    def deploy(self, problem: Problem) -> Deployment:
        """Popular experts in GPU memory, masters in CXL memory, what finds no room there in the other tiers."""
        devices = [tier for tier in host_order(problem) if problem.system.tiers[tier].kind == "cxl"]
        if not devices:
            raise InputError(Mistake("this policy reads experts from CXL memory; the machine has no tier of that kind"))
        if self.misses == "cpu":
            require_cpu(problem)
        host_tiers = [tier for tier in host_order(problem) if tier not in devices]
        homes = HomeOrder([[tier] for tier in (*devices, *host_tiers)])
        deployment = place(problem, resident=quota(problem.popularity), homes=homes, cut=self.cut(problem))
        return replace(deployment, state=self._table(problem, devices))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Residents on the GPU, the rest by `misses`, from CXL memory in the precision asked for."""
        answer = upload_missing(visit, view) if self.misses == "upload" else cpu_missing(visit, view)
        sizes: FloatArray = view.state
        return answer._replace(nbytes=np.where(visit.resident, view.state.max(), sizes[view.home[visit.layer]]))

    def _table(self, problem: Problem, devices: list[str]) -> FloatArray:
        """[T] bytes that a read of an expert in each tier takes."""
        size = float(problem.model.expert_bytes)
        native = native_bits(size, problem.model.expert_flops)
        return np.array([size * (self.mean_bits(native) / native if tier in devices else 1.0) for tier in problem.tiers])
