"""The decisions of MoE-CXL on arrays: a pass is shown at once, and each of its visits is a few calls of what is compiled.

Knows what a `Desk` shows; what is predicted and what it is worth is for `Prefetcher` to say. Layers of which experts have
further copies are left to the policy, which chooses the copy that is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Desk, View, Visit
from moesim.policies.kit.compiled.order_kernel import scratch
from moesim.policies.near_data.moe_cxl_prefetch import Prefetcher

__all__ = ["CxlDecider"]


class CxlDecider:
    """All that is missing is uploaded from its home; behind it sets out what a later layer is likely to use."""

    looks, beside = True, False

    def __init__(self, fetcher: Prefetcher, desk: Desk, view: View, mends: Callable[[], bool], *, by_device: bool) -> None:
        """`mends`: whether a device has failed or come back; `by_device`: uploads in Johnson's order, not by tokens."""
        self._fetcher, self._desk, self._view, self._mends, self._by_device = fetcher, desk, view, mends, by_device
        self._functions: Any = fetcher.functions
        self._scratch = *scratch(len(desk.order)), np.zeros(len(desk.order), dtype=np.int64)

    @classmethod
    def of(
        cls, fetcher: Prefetcher, desk: Desk, view: View, mends: Callable[[], bool], *, by_device: bool
    ) -> CxlDecider | None:
        """None where nothing is compiled."""
        return cls(fetcher, desk, view, mends, by_device=by_device) if fetcher.functions is not None else None

    def begin(self, visits: Visit) -> None:
        """A pass begins: what its hint says of it is drawn at once."""
        fetcher, self._phase = self._fetcher, visits.phase
        self._rows = list(zip(visits.layer.tolist(), np.ascontiguousarray(visits.counts), strict=True))
        self._times = tuple(np.ascontiguousarray(part).reshape(-1) for part in (visits.counts, visits.copy, visits.gpu))
        self._seen = visits.ahead(fetcher.rules.depth) if fetcher.hinted and fetcher.learning and fetcher.slots else None

    def dispatch(self, row: int) -> bool:
        """In which order the visit uploads."""
        (layer, counts), desk = self._rows[row], self._desk
        if self._copied(layer):
            return False
        self._fetcher.meet(layer, self._phase, self._view.now)
        self._functions.turns(
            len(counts), row * len(counts), layer * len(counts), self._by_device, *self._times, desk.resident, desk.in_flight,
            desk.order, *self._scratch,
        )  # fmt: skip
        return True

    def adapt(self, row: int) -> bool:
        """What the layer has used of what was fetched leaves; what a later one is likely to use sets out."""
        (layer, counts), fetcher, desk = self._rows[row], self._fetcher, self._desk
        target, experts = layer + fetcher.rules.depth, len(counts)
        if self._mends() or (target < len(fetcher.ended) and self._copied(target)):
            return False
        if fetcher.learning:
            spent, chosen = fetcher.after((layer, self._phase), counts, lambda _: self._hint(row), self._view)
            for room, first, part in ((desk.evict, layer * experts, spent), (desk.load, target * experts, chosen)):
                room[0] = len(part)
                room[1 : 1 + len(part)] = part + first
        return True

    def _hint(self, row: int) -> IntArray | None:
        return None if self._seen is None else self._seen[row]

    def _copied(self, layer: int) -> bool:
        """Whether experts of a layer have further copies."""
        replicas = self._view.replicas
        return replicas is not None and bool(replicas[:, layer].any())
