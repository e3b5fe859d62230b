"""The one notation of everything that takes time: operations on lanes, and which waits for which.

A program is built once and timed by either engine: `reference.py` reads the operations, the kernel their packed form.
Knows no layers, no policies and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "ACTIVATION",
    "BULK",
    "DEMAND",
    "EARLY",
    "FIRST",
    "JOIN",
    "LABELS",
    "MIGRATION",
    "PREFETCH",
    "Label",
    "Operation",
    "Packed",
    "Program",
    "label_of",
    "packed",
    "unpacked",
]

ACTIVATION, DEMAND, PREFETCH, MIGRATION = range(4)
"""Priorities where a lane serves first come, first served: activations hold a layer up in microseconds, weights in
milliseconds, the rest not at all."""
EARLY, FIRST, BULK = range(3)
"""Priorities in programs of overlapping layers: what another device waits for goes ahead of activations and computation, and
those of weights that nothing waits for yet."""
JOIN = -1
"""The lane of an operation that takes no time and ends when all that it waits for has ended."""


@dataclass(slots=True)
class Operation:
    """Items on one lane, one after another, once all of `after` (numbers of operations) have ended."""

    lane: int
    """Number of the lane; `JOIN` for none."""
    service: int
    """ps of each item."""
    after: Sequence[int] = ()
    priority: int = DEMAND
    in_order: bool = False
    """Among ready operations of a priority the lowest number goes first; else the one that was ready first."""
    count: int = 1
    services: Sequence[int] = ()
    """ps of every item, where they differ."""
    feed: int = -1
    """Operation whose items this one consumes: item j starts once `ratio` * (j + 1) items of it have ended."""
    ratio: int = 1
    takes: int = -1
    """Pool of which the first of every `group` items takes a slot before it starts."""
    gives: int = -1
    """Pool to which the last of every `group` items gives a slot back when it ends."""
    group: int = 1
    draws: Mapping[str, float] = field(default_factory=dict)
    """Resource -> bytes that all items together draw from it, evenly over their service."""
    label: int = 0
    """What it is called on the timeline: number of a `Label`."""

    @property
    def items(self) -> Sequence[int]:
        """ps of every item."""
        return self.services or [self.service] * self.count

    @property
    def total(self) -> int:
        """ps of all items."""
        return sum(self.services) if self.services else self.service * self.count


class Program:
    """Operations in the order in which they are numbered. An operation waits for earlier ones only."""

    def __init__(self) -> None:
        self.lanes: dict[str, int] = {}
        """Name of a lane -> its number, in the order in which lanes take and end what they do at one moment."""
        self.operations: dict[int, Operation] = {}
        """Those that may still be asked for."""
        self._next = 0

    def lane(self, name: str) -> int:
        """The number of a lane; a new name gets a new one."""
        return self.lanes.setdefault(name, len(self.lanes))

    def add(self, operation: Operation) -> int:
        """Adds an operation; its number."""
        number = self._next
        self.operations[number] = operation
        self._next = number + 1
        return number

    def __len__(self) -> int:
        """Operations ever added."""
        return self._next

    def forget(self, numbers: Sequence[int]) -> None:
        """These operations have ended and are not asked for any more."""
        for number in numbers:
            del self.operations[number]


class Label(NamedTuple):
    """What an operation is called on the timeline, and why its bytes move."""

    name: str
    cause: str = ""


LABELS = (
    Label(""),
    Label("expert ids", "routing"),
    Label("upload experts", "demand"),
    Label("resident experts"),
    Label("uploaded expert"),
    Label("activations", "activation"),
    Label("experts"),
    Label("attention"),
    Label("read KV", "kv"),
    Label("store KV", "kv"),
    Label("router"),
    Label("dense part"),
    Label("LM head"),
    Label("deferred experts"),
    Label("experts ahead"),
    Label("waits for requests"),
    Label("upload weights", "demand"),
    Label("layers without experts"),
    Label("KV blocks", "kv"),
)
"""The first ones as the kernel's visit builder numbers them."""
_NUMBERS = {label.name: number for number, label in enumerate(LABELS)}


def label_of(name: str) -> int:
    """The number of a label that every run has."""
    return _NUMBERS[name]


class Packed(NamedTuple):
    """A program as the kernel reads it."""

    numbers: list[int]
    floats: list[float]
    items: int
    """Services of items that stand one by one."""
    heirs: int
    """References from operations to what they wait for."""


def packed(operations: Sequence[Operation], resources: Mapping[str, int], places: Mapping[int, int], first: int = 0) -> Packed:
    """Operations numbered from `first` on as the kernel reads them; `places`: where it has earlier ones that have not ended."""
    numbers: list[int] = [len(operations)]
    floats: list[float] = []
    items = heirs = 0
    for number, op in enumerate(operations, first):
        after = [
            earlier - first if earlier >= first else -2 - places[earlier]
            for earlier in op.after
            if earlier >= first or earlier in places
        ]
        feed = op.feed if op.feed < 0 else op.feed - first if op.feed >= first else -2 - places[op.feed]
        numbers += (
            op.lane, op.priority, number if op.in_order else -1, len(op.services) or op.count, op.service, feed,
            op.ratio, op.takes, op.gives, op.group, len(op.services), len(after), len(op.draws), op.label,
        )  # fmt: skip
        numbers += op.services
        numbers += after
        numbers += [resources[resource] for resource in op.draws]
        floats += op.draws.values()
        items += len(op.services)
        heirs += len(after)
    return Packed(numbers, floats, items, heirs)


def unpacked(numbers: Sequence[int], floats: Sequence[float], resources: Sequence[str], first: int) -> list[Operation]:
    """The operations of a packed program, numbered from `first` on."""
    operations = []
    p, f = 1, 0
    for number in range(first, first + numbers[0]):
        lane, priority, rank, count, service, feed, ratio, takes, gives, group, items, waits, draws, label = numbers[p : p + 14]
        p += 14
        services, p = list(numbers[p : p + items]), p + items
        after, p = [_known(earlier, first) for earlier in numbers[p : p + waits]], p + waits
        drawn = {resources[r]: b for r, b in zip(numbers[p : p + draws], floats[f : f + draws], strict=True)}
        p, f = p + draws, f + draws
        operations.append(
            Operation(
                lane, service, after, priority, in_order=rank >= 0, count=count, services=services, feed=_known(feed, first),
                ratio=ratio, takes=takes, gives=gives, group=group, draws=drawn, label=label,
            )
        )  # fmt: skip
        assert rank < 0 or rank == number
    return operations


def _known(reference: int, first: int) -> int:
    return reference + first if reference >= 0 else -1 if reference == -1 else -2 - reference
