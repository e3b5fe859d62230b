"""The state of a machine in the kernel's two buffers: laid out, enlarged, read.

Knows the layout of `M` and `F`; times nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.clock import SECOND
from moesim.engine.kernel import kernel as k
from moesim.errors import MoesimError
from moesim.hardware.paths import both_ways

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
            at = self.M[k.AT_RESOURCE] + self.resources[name]
            self.F[at] = self.F[at + k.NOMINAL * len(capacity)] = rate / SECOND
            self.F[at + k.ONE_WAY * len(capacity)] = 0.0 if both_ways(name) else 1.0
        for field in (k.RUN, k.LAST, k.ROW, k.FREED, k.DRAWING, k.DRAWN, *range(k.QUEUE, k.LANE_WIDTH)):
            self._fill(self.M[k.AT_LANE] + field, k.LANE_WIDTH, [-1] * lanes)
        for field in (k.FIRST_WAITING, k.LAST_WAITING):
            self._fill(self.M[k.AT_POOL] + field, k.POOL_WIDTH, [-1] * k.POOLS)

    def _fill(self, first: int, width: int, values: list[int]) -> None:
        """Writes `values` from `first` on, one every `width` places."""
        self.M[first : first + len(values) * width : width] = values

    def _places(self) -> tuple[dict[int, int], int, int]:
        """Header field -> where its part begins or how large it is, for the present sizes; the lengths of both buffers."""
        resources, sizes, lanes = len(self.resources), self._sizes, self._lanes
        width = k.OP_FIXED + resources
        at_pool = k.HEADER + lanes * k.LANE_WIDTH
        at_op = at_pool + k.POOLS * k.POOL_WIDTH
        at_node = at_op + sizes[k.OP_SIZE] * width
        at_item = at_node + 2 * sizes[k.NODE_SIZE]
        at_log = at_item + sizes[k.ITEM_SIZE]
        at_resource = lanes * k.LANE_FLOATS
        at_demand = at_resource + (k.ONE_WAY + 1) * resources
        at_rate = at_demand + 2 * lanes
        at_log_rate = at_rate + sizes[k.OP_SIZE] * resources
        header = {
            k.RESOURCES: resources,
            k.OP_WIDTH: width,
            k.AT_LANE: k.HEADER,
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
        return header, at_log + (sizes[k.LOG_SIZE] + lanes) * k.ROW_WIDTH, at_log_rate + sizes[k.LOG_SIZE] + lanes

    def _lay_out(self) -> None:
        """Fresh buffers for the present sizes; what was there keeps its numbers."""
        old_i, old_f = self.M, self.F
        header, total, floats = self._places()
        self.M = np.zeros(total, dtype=np.int64) if self._arrays else [0] * total
        self.F = np.zeros(floats) if self._arrays else [0.0] * floats
        before: dict[int, int] = {}
        if len(old_i):
            before = {field: old_i[field] for field in header}
            self._copy_from(old_i, old_f, before, header)
        self._chain_free(k.OP_SIZE, k.OP_FREE, header[k.AT_OP], header[k.OP_WIDTH], k.LINK_NEXT, before)
        self._chain_free(k.NODE_SIZE, k.NODE_FREE, header[k.AT_NODE], 2, 1, before)
        self.M[k.LANES] = self.M[k.LANES] if before else 0
        for field, value in header.items():
            self.M[field] = value

    def _copy_from(self, old_i: Any, old_f: Any, before: Mapping[int, int], header: Mapping[int, int]) -> None:
        """Takes over what stood in the old buffers, whose header was `before`."""
        self.M[: header[k.AT_OP]] = old_i[: header[k.AT_OP]]
        self.F[: header[k.AT_RATE]] = old_f[: header[k.AT_RATE]]
        for field, size, width in (
            (k.AT_OP, k.OP_SIZE, header[k.OP_WIDTH]),
            (k.AT_NODE, k.NODE_SIZE, 2),
            (k.AT_ITEM, k.ITEM_SIZE, 1),
            (k.AT_LOG, k.LOG_SIZE, k.ROW_WIDTH),
        ):
            start, old, length = header[field], before[field], before[size] * width
            self.M[start : start + length] = old_i[old : old + length]
        for field, size, width in ((k.AT_RATE, k.OP_SIZE, len(self.resources)), (k.AT_LOG_RATE, k.LOG_SIZE, 1)):
            start, old, length = header[field], before[field], before[size] * width
            self.F[start : start + length] = old_f[old : old + length]

    def _chain_free(self, size: int, head: int, at: int, width: int, link: int, before: Mapping[int, int]) -> None:
        """Puts the new places in front of the free list."""
        first, end = before.get(size, 0), self._sizes[size]
        if first < end:
            self._fill(at + first * width + link, width, [*range(first + 1, end), self.M[head] if before else -1])
            self.M[head] = first

    def reserve(self, operations: int, heirs: int, items: int, lanes: int) -> None:
        """Makes room for a program of so many operations; `lanes` are known by now."""
        if lanes > self._lanes:
            raise MoesimError(f"a machine may have {self._lanes} devices and copy queues, this one uses {lanes}")
        self.M[k.LANES] = lanes
        if not self.M[k.LISTS_USED]:
            self.M[k.ITEM_USED] = 0
        operations, heirs, items = (
            self.M[k.OP_USED] + operations,
            self.M[k.NODE_USED] + heirs,
            self.M[k.ITEM_USED] + items,
        )
        sizes = self._sizes
        if operations > sizes[k.OP_SIZE] or heirs > sizes[k.NODE_SIZE] or items > sizes[k.ITEM_SIZE]:
            self._grow({k.OP_SIZE: operations, k.NODE_SIZE: heirs, k.ITEM_SIZE: items})

    def grow_log(self) -> None:
        """Room for more stretches."""
        self._grow({k.LOG_SIZE: self._sizes[k.LOG_SIZE] + 1})

    def _grow(self, needs: Mapping[int, int]) -> None:
        for field, need in needs.items():
            while self._sizes[field] < need:
                self._sizes[field] *= 2
        self._lay_out()
