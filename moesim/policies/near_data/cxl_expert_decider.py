"""The compiled decisions of CXL-Expert: a pass is shown to the lanes at once, and each of its visits is a call.

Knows what `decide` of `cxl_expert_kernel` reads and writes; decides nothing itself.
"""

from __future__ import annotations

from typing import Any

from moesim import jit
from moesim.contract import Desk, View, Visit
from moesim.policies.kit.compiled.order_kernel import scratch
from moesim.policies.kit.dispatch import in_gpu_memory
from moesim.policies.near_data import cxl_expert_kernel as k
from moesim.policies.near_data.cxl_expert_classes import Memory

__all__ = ["LanesDecider"]


class LanesDecider:
    """What `CxlExpert.dispatch` says, where lanes are compiled."""

    looks = beside = True

    def __init__(self, memory: Memory, desk: Desk, view: View) -> None:
        experts = len(desk.order)
        self._functions: Any = jit.native(k)
        self._memory, self._desk, self._view = memory, desk, view
        self._bins, self._values, self._places = scratch(experts)

    @classmethod
    def of(cls, memory: Memory, desk: Desk, view: View) -> LanesDecider | None:
        """None where the lanes are not compiled."""
        return cls(memory, desk, view) if memory.lanes.arrays else None

    def begin(self, visits: Visit) -> None:
        """A pass begins: copies that are on their way land in it, and no other comes or goes."""
        memory, thresholds = self._memory, self._memory.thresholds
        memory.lanes.show(visits, self._view, in_gpu_memory(visits, self._view), memory.sizes)
        memory.lanes.F[[k.STEP, k.LEAST, k.MOST_COLD]] = thresholds.step, thresholds.least, thresholds.most_cold
        sizes = [tokens.bit_length() for tokens in visits.tokens.tolist()]
        self._rows = list(zip(visits.layer.tolist(), sizes, strict=True))

    def dispatch(self, row: int) -> bool:
        """Who computes what, and in which order."""
        (layer, size), desk, thresholds, lanes = self._rows[row], self._desk, self._memory.thresholds, self._memory.lanes
        lanes.queue(self._view.backlog)
        self._functions.decide(
            lanes.M, lanes.F, row, layer, size, thresholds.hot, thresholds.cold, thresholds.high, thresholds.low,
            desk.resident, desk.in_flight, lanes.devices, desk.order, desk.device, self._bins, self._values, self._places,
        )  # fmt: skip
        return True

    def adapt(self, row: int) -> bool:
        """Experts move between passes."""
        return True
