"""Moves between host tiers: changes of home and replicas, which wait for idle ways and for room.

Carries out what policies asked for; decides nothing itself.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.clock import to_ps
from moesim.contract import Problem
from moesim.engine.copies import Copies
from moesim.engine.kernel.kernel import K_SPAN, MIGRATED, PLACE, REPLICATED, ROLE, TIER
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import queue_of
from moesim.engine.residency import Residency
from moesim.errors import PolicyError

__all__ = ["Migrations"]


class Migrations:
    """What is on its way between host tiers, and what waits."""

    def __init__(self, machine: Machine, residency: Residency, copies: Copies) -> None:
        self._machine, self._residency, self._copies = machine, residency, copies
        self._problem: Problem = machine.problem
        self._moved_homes: list[tuple[int, int, int]] = []
        self._busy: BoolArray = np.zeros(residency.home.shape, dtype=np.bool_)
        """[L, E] experts with a migration or a replica under way, or a home that changes when the pass ends."""
        self._waiting: IntArray = np.zeros((0, 4), dtype=np.int64)
        """(layer, expert, tier, whether it is a replica) of what waits, in the order in which it was asked for."""
        self._repeated = False
        """An expert waits more than once."""

    @property
    def _span(self) -> int:
        """ps between the last two looks: as much as a way may be given at once."""
        return int(self._copies.K[K_SPAN])

    @property
    def waits(self) -> bool:
        """Whether anything waits for its way."""
        return len(self._waiting) > 0

    def arrive(self, rows: IntArray) -> None:
        """The copies `rows` [columns, n] have landed in host tiers.

        They may be read at once, and are the masters between passes, but for replicas.
        """
        books = self._residency
        for place, tier, role in rows[[PLACE, TIER, ROLE]].T.tolist():
            pair = divmod(place, self._problem.experts)
            if books.down[tier]:  # it failed meanwhile
                books.release(tier, float(books.bytes[pair]))
                self._busy[pair] = False
                continue
            books.replicas[(tier, *pair)] = True
            books.arrived[tier] = self._machine.now
            if role == REPLICATED:
                self._busy[pair] = False
            else:
                self._moved_homes.append((*pair, tier))
        self._copies.book_rows(rows, "migration")

    def settle(self) -> bool:
        """Between passes: finished migrations become the new homes. Whether there were any."""
        moved, self._moved_homes = self._moved_homes, []
        for layer, expert, tier in moved:
            self._residency.settle(layer, expert, tier)
            self._busy[layer, expert] = False
        return bool(moved)

    def stay(self, layer: int, rows: IntArray, uploaded: IntArray) -> None:
        """Experts [n, 3] (layer, expert, tier) that have crossed a tier and find room there get their home there."""
        problem, books = self._problem, self._residency
        for at, expert, tier in rows.tolist():
            pair, name = (at, expert), problem.tiers[tier]
            crossed = problem.costs.path(problem.tiers[int(books.home[pair])], problem.gpu_tier).usage
            if at != layer or expert not in uploaded or f"{name}:write" not in dict(crossed) or tier == problem.gpu_tier_index:
                raise PolicyError(f"an expert can stay only in a host tier that it has just crossed; '{name}' is not one")
            if not self._busy[pair] and books.room(tier) >= float(books.bytes[pair]):
                books.reserve(tier, float(books.bytes[pair]))
                self._busy[pair] = True
                self._moved_homes.append((*pair, tier))

    def ask(self, migrate: IntArray | None, replicate: IntArray | None) -> None:
        """Changes of home and replicas [n, 3] to make, in place of those asked for before that have not begun."""
        kinds = ((migrate, 0), (replicate, 1))
        rows = np.concatenate([np.insert(pairs, 3, further, axis=1) for pairs, further in kinds if pairs is not None])
        first: dict[tuple[int, ...], int] = {}
        for place, row in enumerate(rows[:, :3].tolist()):
            first.setdefault(tuple(row), place)
        self._waiting = rows[list(first.values())]
        self._repeated = len({row[:2] for row in first}) < len(first)

    def start(self) -> None:
        """Sends off what waits, first come first served, on every way that is idle: as much as it carries until the next look.

        A copy whose target is full waits for room. Nothing moves to where the bytes are already.
        """
        books, rows = self._residency, self._waiting
        layers, experts, tiers, further = rows.T
        pairs = layers, experts
        homes = books.home[pairs]
        there = books.replicas[tiers, layers, experts] | (tiers == books.backup)
        over = (homes == tiers) | (there & (further > 0)) | self._busy[pairs] | books.pinned[pairs] | books.down[tiers]
        moving = ~over & ~there
        if (tiers[moving] == self._problem.gpu_tier_index).any():
            raise PolicyError("a copy in the host goes to a host tier; use load to bring it into GPU memory")
        ways = homes * len(self._problem.tiers) + tiers
        filled, idle = self._filled(ways[moving])
        turns = ~over if self._repeated else ~over & (there | idle[ways])
        for place in np.flatnonzero(turns).tolist():
            layer, expert, tier, replica = rows[place].tolist()
            pair = layer, expert
            if self._busy[pair]:  # another row has just set this expert off
                over[place] = True
            elif there[place]:
                over[place] = self._busy[pair] = True
                self._moved_homes.append((*pair, tier))
            elif filled[int(ways[place])][0] <= self._span and books.room(tier) >= float(books.bytes[pair]):
                over[place] = True
                filled[int(ways[place])][0] += self._migrate(pair, homes[place], tier, REPLICATED if replica else MIGRATED)
        self._waiting = rows[~over]

    def _filled(self, ways: IntArray) -> tuple[dict[int, list[int]], BoolArray]:
        """Way -> ps for which its queue is filled until the next look, which ways of one queue share; [T * T] idle ways."""
        tiers = self._problem.tiers
        idle = np.zeros(len(tiers) ** 2, dtype=np.bool_)
        queues: dict[str, list[int]] = {}
        filled: dict[int, list[int]] = {}
        for way in dict.fromkeys(ways.tolist()):
            home, tier = divmod(way, len(tiers))
            queue = queue_of(self._problem.costs.path(tiers[home], tiers[tier]))
            if queue not in queues:
                queues[queue] = [0 if self._machine.idle(queue) else self._span + 1]
            filled[way] = queues[queue]
            idle[way] = queues[queue][0] <= self._span
        return filled, idle

    def _migrate(self, pair: tuple[int, int], home: IntArray, tier: int, role: int) -> int:
        """Sends a copy behind everything else on its way; ps that it takes alone."""
        nbytes, tiers = self._residency.bytes[pair], self._problem.tiers
        self._residency.reserve(tier, float(nbytes))
        self._busy[pair] = True
        place = np.array([pair[0] * self._problem.experts + pair[1]])
        self._copies.send(place, np.array([nbytes]), np.array([home]), tier, role)
        return int(to_ps(float(self._problem.costs.copy(float(nbytes), tiers[int(home)], tiers[tier])), "a migration"))
