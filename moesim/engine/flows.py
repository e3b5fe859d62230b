"""Bandwidth that is shared: flows with max-min fair rates over the resources on their paths.

A flow is work that would take `duration` ps alone and draws bytes from named resources meanwhile. Contention slows it
to a speed below 1; an event happens only when a flow starts or ends. Knows nothing of queues or experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.engine.clock import SECOND, Clock

__all__ = ["Flow", "FlowNetwork", "max_min"]


_ROUNDING = 1e-6
"""Share by which the rates of flows may exceed a resource before it counts as contended: a microsecond's worth of whole ps."""


class _Draw(NamedTuple):
    resource: str
    rate: float  # bytes per ps at full speed


class Flow:
    """Work under way: how much of it is done, and how fast it goes. `curve` keeps the times at which its speed changed."""

    __slots__ = ("curve", "done", "draws", "due", "on_done", "since", "speed", "total")

    def __init__(self, total: int, draws: tuple[_Draw, ...], now: int, on_done: Callable[[], None]) -> None:
        self.total = total
        self.draws = draws
        self.on_done = on_done
        self.done: float = 0  # stays an int while the speed is 1, which keeps uncontended flows exact
        self.speed = 1.0
        self.since = now
        self.due = now + total
        self.curve: list[tuple[int, float]] = [(now, 0)]

    def work_at(self, now: int) -> float:
        """Alone-time [ps] already served at `now`."""
        elapsed = now - self.since
        return self.done + (elapsed if self.speed == 1.0 else elapsed * self.speed)

    def times_of(self, work: NDArray[np.int64], now: int | None = None) -> NDArray[np.int64]:
        """Times [N] at which the flow had served `work` [N] ps of its own: once it has ended, or up to `now`."""
        curve = self.curve if now is None else [*self.curve, (now, self.work_at(now))]
        if len(curve) == 2 and curve[1][0] - curve[0][0] == curve[1][1]:
            return work + curve[0][0]
        times, served = zip(*curve, strict=True)
        exact: NDArray[np.int64] = np.ceil(np.interp(work, served, times)).astype(np.int64)
        return exact


def max_min(demands: list[float], draws: list[tuple[tuple[str, float], ...]], capacity: Mapping[str, float]) -> list[float]:
    """Speeds [n] in (0, 1] of flows that at full speed move `demands` [n] B/ps and draw `draws` per resource.

    Progressive filling: all rates rise together; a flow stops at its own demand or when a resource on its path is full.
    Source: Bertsekas and Gallager, Data Networks, section 6.5.2. Valid: fluid sharing, no packet effects.
    """
    speeds = [0.0] * len(demands)
    left = dict(capacity)
    open_flows = [i for i, demand in enumerate(demands) if demand > 0]
    for i, demand in enumerate(demands):
        if demand <= 0:
            speeds[i] = 1.0
    level = 0.0
    while open_flows:
        # Per unit of common rate, flow i draws (rate on r / its demand) from resource r.
        weight: dict[str, float] = {}
        for i in open_flows:
            for resource, rate in draws[i]:
                weight[resource] = weight.get(resource, 0.0) + rate / demands[i]
        rise_resource = min((left[r] / w for r, w in weight.items()), default=math.inf)
        rise_demand = min(demands[i] for i in open_flows) - level
        rise = min(rise_resource, rise_demand)
        level += rise
        for r, w in weight.items():
            left[r] -= rise * w
        if rise_demand <= rise_resource:
            closing = {i for i in open_flows if demands[i] <= level * (1 + 1e-12)}
        else:
            full = {r for r, w in weight.items() if left[r] <= 1e-9 * capacity[r]}
            closing = {i for i in open_flows if any(r in full for r, _ in draws[i])}
        for i in closing:
            speeds[i] = min(level / demands[i], 1.0)
        open_flows = [i for i in open_flows if i not in closing]
    return speeds


class FlowNetwork:
    """All flows of a machine and the resources that they share; capacities in B/s."""

    def __init__(self, clock: Clock, capacity: Mapping[str, float]) -> None:
        self._clock = clock
        self._capacity = {name: rate / SECOND for name, rate in capacity.items()}
        self._flows: list[Flow] = []
        self._timer_due = -1
        self._armed: set[int] = set()  # times with a timer in the heap, to be used again when their turn comes back
        self._contended = False
        self._holding = 0

    @property
    def idle(self) -> bool:
        """No flow is under way."""
        return not self._flows

    @contextmanager
    def together(self) -> Iterator[None]:
        """Flows that start and end inside the block share anew once, at its end: one timer instead of one for each."""
        self._holding += 1
        yield
        self._holding -= 1
        if not self._holding:
            self._reshare()

    def start(self, duration: int, usage: Mapping[str, float], on_done: Callable[[], None]) -> Flow:
        """Starts work of `duration` ps alone that draws `usage` [resource -> bytes] evenly; calls `on_done` at its end.

        Work that would draw more than a resource has is taken to draw all of it: only rounding to whole ps asks for that.
        """
        draws = tuple(_Draw(r, min(b / duration, self._capacity[r])) for r, b in usage.items() if b > 0) if duration else ()
        flow = Flow(duration, draws, int(self._clock.now), on_done)
        self._flows.append(flow)
        self._reshare()
        return flow

    def shorten(self, flow: Flow, total: int) -> None:
        """Ends the flow once it has served `total` ps of its own (not less than it has served)."""
        flow.total = total
        self._set_due(flow, int(self._clock.now))
        if not self._holding:
            self._arm()

    def _reshare(self) -> None:
        """Sets all speeds anew and arms the timer for the earliest end."""
        if self._holding:
            return
        load: dict[str, float] = {}
        for flow in self._flows:
            for resource, rate in flow.draws:
                load[resource] = load.get(resource, 0.0) + rate
        contended = any(amount > self._capacity[r] * (1 + _ROUNDING) for r, amount in load.items())
        if contended or self._contended:
            self._apply_speeds(contended)
        self._contended = contended
        self._arm()

    def _apply_speeds(self, contended: bool) -> None:
        now = int(self._clock.now)
        if contended:
            demands = [max((rate for _, rate in flow.draws), default=0.0) for flow in self._flows]
            speeds = max_min(demands, [flow.draws for flow in self._flows], self._capacity)
        else:
            speeds = [1.0] * len(self._flows)
        for flow, speed in zip(self._flows, speeds, strict=True):
            if speed != flow.speed:
                flow.done = flow.work_at(now)
                flow.since = now
                flow.speed = speed
                flow.curve.append((now, flow.done))
                self._set_due(flow, now)

    def _set_due(self, flow: Flow, now: int) -> None:
        left = flow.total - flow.work_at(now)
        flow.due = now + max(math.ceil(left if flow.speed == 1.0 else left / flow.speed), 0)

    def _arm(self) -> None:
        if not self._flows:
            return
        due = min(flow.due for flow in self._flows)
        if due != self._timer_due:
            self._timer_due = due
            if due not in self._armed:
                self._armed.add(due)
                self._clock.at(due, lambda: self._ring(due), "the transfers under way")

    def _ring(self, due: int) -> None:
        self._armed.discard(due)
        if due != self._timer_due:
            return  # another end was armed meanwhile
        self._timer_due = -1
        ended = [flow for flow in self._flows if flow.due <= due]
        self._flows = [flow for flow in self._flows if flow.due > due]
        for flow in ended:
            flow.curve.append((due, flow.total))
        with self.together():
            for flow in ended:
                flow.on_done()
