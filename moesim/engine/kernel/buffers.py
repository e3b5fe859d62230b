"""The state of a machine in the kernel's two buffers: laid out, enlarged, read.

Knows the layout of `kernel.py`; times nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.clock import SECOND
from moesim.engine.kernel import kernel as k
from moesim.errors import MoesimError

__all__ = ["Buffers"]


class Buffers:
    """`M` and `F` of one machine; lists for the plain kernel, arrays for the compiled one."""

    def __init__(self, capacity: Mapping[str, float], *, arrays: bool, lanes: int = k.MOST_LANES) -> None:
        self.resources = {name: number for number, name in enumerate(capacity)}
        """Resource -> its number."""
        self._arrays, self._lanes = arrays, lanes
        self._sizes = {k.OP_SIZE: 64, k.NODE_SIZE: 128, k.ITEM_SIZE: 512, k.LOG_SIZE: 512}
        self.M: Any = []
        self.F: Any = []
        self._lay_out()
        for name, rate in capacity.items():
            self.F[self.M[k.AT_RESOURCE] + self.resources[name]] = rate / SECOND
        for lane in range(lanes):
            at = self.M[k.AT_LANE] + lane * k.LANE_WIDTH
            for field in (k.RUN, k.LAST, k.ROW, k.FREED, k.DRAWN, *range(k.QUEUE, k.LANE_WIDTH)):
                self.M[at + field] = -1
        for pool in range(k.POOLS):
            at = self.M[k.AT_POOL] + pool * k.POOL_WIDTH
            self.M[at + k.FIRST_WAITING] = self.M[at + k.LAST_WAITING] = -1

    def _lay_out(self) -> None:
        """Fresh buffers for the present sizes; what was there keeps its numbers."""
        old_i, old_f = self.M, self.F
        resources, sizes = len(self.resources), self._sizes
        width = k.OP_FIXED + resources
        at_lane = k.HEADER
        at_pool = at_lane + self._lanes * k.LANE_WIDTH
        at_op = at_pool + k.POOLS * k.POOL_WIDTH
        at_node = at_op + sizes[k.OP_SIZE] * width
        at_item = at_node + 2 * sizes[k.NODE_SIZE]
        at_log = at_item + sizes[k.ITEM_SIZE]
        total = at_log + (sizes[k.LOG_SIZE] + self._lanes) * k.ROW_WIDTH
        at_resource = self._lanes * k.LANE_FLOATS
        at_demand = at_resource + 4 * resources
        at_rate = at_demand + 2 * self._lanes
        at_log_rate = at_rate + sizes[k.OP_SIZE] * resources
        floats = at_log_rate + sizes[k.LOG_SIZE] + self._lanes
        self.M = np.zeros(total, dtype=np.int64) if self._arrays else [0] * total
        self.F = np.zeros(floats) if self._arrays else [0.0] * floats
        before = {}
        if len(old_i):
            self.M[:at_op] = old_i[:at_op]
            self.F[:at_rate] = old_f[:at_rate]
            before = {field: old_i[field] for field in (k.AT_OP, k.AT_NODE, k.AT_ITEM, k.AT_LOG, k.AT_LOG_RATE, *sizes)}
            for start, field, each in (
                (at_op, k.AT_OP, (k.OP_SIZE, width)),
                (at_node, k.AT_NODE, (k.NODE_SIZE, 2)),
                (at_item, k.AT_ITEM, (k.ITEM_SIZE, 1)),
                (at_log, k.AT_LOG, (k.LOG_SIZE, k.ROW_WIDTH)),
            ):
                length = before[each[0]] * each[1]
                self.M[start : start + length] = old_i[before[field] : before[field] + length]
            length = before[k.OP_SIZE] * resources
            self.F[at_rate : at_rate + length] = old_f[at_rate : at_rate + length]
            length, start = before[k.LOG_SIZE], before[k.AT_LOG_RATE]
            self.F[at_log_rate : at_log_rate + length] = old_f[start : start + length]
        self._chain_free(k.OP_SIZE, k.OP_FREE, at_op, width, k.LINK_NEXT, before)
        self._chain_free(k.NODE_SIZE, k.NODE_FREE, at_node, 2, 1, before)
        header = {
            k.LANES: 0 if not before else self.M[k.LANES],
            k.RESOURCES: resources,
            k.OP_WIDTH: width,
            k.AT_LANE: at_lane,
            k.AT_POOL: at_pool,
            k.AT_OP: at_op,
            k.AT_NODE: at_node,
            k.AT_ITEM: at_item,
            k.AT_LOG: at_log,
            k.AT_RATE: at_rate,
            k.AT_LOG_RATE: at_log_rate,
            k.AT_RESOURCE: at_resource,
            k.AT_DEMAND: at_demand,
            **sizes,
        }
        for field, value in header.items():
            self.M[field] = value

    def _chain_free(self, size: int, head: int, at: int, width: int, link: int, before: Mapping[int, int]) -> None:
        """Puts the new places in front of the free list."""
        first = before.get(size, 0)
        rest = self.M[head] if before else -1
        for place in range(first, self._sizes[size]):
            self.M[at + place * width + link] = place + 1 if place + 1 < self._sizes[size] else rest
        if first < self._sizes[size]:
            self.M[head] = first

    def reserve(self, operations: int, heirs: int, items: int, lanes: int) -> None:
        """Makes room for a program of so many operations; `lanes` are known by now."""
        if lanes > self._lanes:
            raise MoesimError(f"a machine may have {self._lanes} devices and copy queues, this one uses {lanes}")
        self.M[k.LANES] = lanes
        if not self.M[k.LISTS_USED]:
            self.M[k.ITEM_USED] = 0
        needs = {
            k.OP_SIZE: self.M[k.OP_USED] + operations,
            k.NODE_SIZE: self.M[k.NODE_USED] + heirs,
            k.ITEM_SIZE: self.M[k.ITEM_USED] + items,
        }
        self._grow({field: need for field, need in needs.items() if need > self._sizes[field]})

    def grow_log(self) -> None:
        """Room for more stretches."""
        self._grow({k.LOG_SIZE: self._sizes[k.LOG_SIZE] + 1})

    def _grow(self, needs: Mapping[int, int]) -> None:
        for field, need in needs.items():
            while self._sizes[field] < need:
                self._sizes[field] *= 2
        if needs:
            self._lay_out()
