"""What the reference engine keeps of lanes, operations and slots, and how lanes share what they draw from.

Plain containers and one pure function; `reference.py` says what happens to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.engine.programs.program import Operation

__all__ = ["Lane", "Pool", "Running", "Stretch", "max_min"]


@dataclass
class Stretch:
    """Items of one operation that a lane serves without a pause; they share one flow."""

    operation: Running
    lane: int
    first_item: int
    start: int
    before: Stretch | None
    """What let it start: the stretch before on the same lane if that had just ended, else what it waited for last."""
    ends: list[int] = field(default_factory=list)
    """When each of its items ended."""
    end: int = -1
    total: int = 0
    """ps of its items so far, alone."""
    since: int = 0
    done: float = 0.0
    """ps of its own that were served at `since`."""
    speed: float = 1.0

    def due(self) -> int:
        """When the item in service ends at the present speed."""
        if self.speed == 1.0 and self.done == 0.0:
            return self.since + self.total
        left = self.total - self.done
        return self.since + (math.ceil(left) if self.speed == 1.0 else math.ceil(left / self.speed))

    def set_speed(self, speed: float, now: int) -> None:
        """Goes on at `speed`."""
        if speed != self.speed:
            self.done += (now - self.since) if self.speed == 1.0 else (now - self.since) * self.speed
            self.speed, self.since = speed, now


@dataclass
class Running:
    """An operation and how far it is."""

    number: int
    entry: Operation
    waits: int = 0
    heirs: list[Running] = field(default_factory=list)
    feed: Running | None = None
    consumer: Running | None = None
    rates: list[tuple[str, float]] = field(default_factory=list)
    """(resource, bytes per ps at full speed)."""
    next: int = 0
    """Items that have ended."""
    state: str = "waiting"
    key: int = 0
    ready_at: int = -1
    ready_by: Stretch | None = None
    start: int = -1
    end: int = -1

    def item_there(self) -> bool:
        """Whether the weights of the next item have landed."""
        return self.feed is None or self.feed.next >= (self.next + 1) * self.entry.ratio


class Lane:
    """A serial device or copy engine: serves items by (priority, key) and never interrupts one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: list[Running] = []
        self.running: Running | None = None
        self.stretch: Stretch | None = None
        """The running or the last one."""
        self.drawn: Stretch | None = None
        """The one that ran when speeds were last set."""
        self.freed = -1
        """When the last item ended."""
        self.item_start = 0
        self.busy = 0
        self.due = -1
        """When the item in service ends, as far as is known."""
        self.armed = -1
        """Item for which that is set."""


class Pool:
    """Slots that items take and others give back."""

    def __init__(self) -> None:
        self.free = 0
        self.waiting: list[Running] = []


def _weights(draws: list[list[tuple[str, float]]], demands: list[float], filling: list[int]) -> dict[str, float]:
    """What flows draw from each resource per unit of their common rate."""
    weight: dict[str, float] = {}
    for flow in filling:
        for resource, rate in draws[flow]:
            weight[resource] = weight.get(resource, 0.0) + rate / demands[flow]
    return weight


def _first_full(left: Mapping[str, float], weight: Mapping[str, float]) -> float:
    """By how much the common rate may rise until the first resource is full."""
    return min((left[resource] / drawn for resource, drawn in weight.items() if drawn > 0), default=math.inf)


def max_min(draws: list[list[tuple[str, float]]], capacity: Mapping[str, float]) -> list[float]:
    """Speeds [n] in (0, 1] of flows that at full speed draw `draws` (resource, bytes per ps) each.

    Progressive filling: all rates rise together; a flow stops at its own demand or when a resource that it draws from is full.
    Source: Bertsekas and Gallager, Data Networks, section 6.5.2. Valid: fluid sharing, no packet effects.
    """
    demands = [max((rate for _, rate in draw), default=0.0) for draw in draws]
    speeds = [1.0] * len(draws)
    left = dict(capacity)
    filling = [flow for flow, demand in enumerate(demands) if demand > 0]
    level = 0.0
    while filling:
        weight = _weights(draws, demands, filling)
        by_resource = _first_full(left, weight)
        by_demand = min(demands[flow] for flow in filling) - level
        rise = min(by_resource, by_demand)
        level += rise
        for resource, w in weight.items():
            left[resource] -= rise * w
        if by_demand <= by_resource:
            stopped = [flow for flow in filling if demands[flow] <= level * (1 + 1e-12)]
        else:
            full = {r for r, w in weight.items() if w > 0 and left[r] <= 1e-9 * capacity[r]}
            stopped = [flow for flow in filling if not full.isdisjoint(r for r, _ in draws[flow])]
        for flow in stopped:
            speeds[flow] = min(level / demands[flow], 1.0)
        filling = [flow for flow in filling if flow not in stopped]
    return speeds
