"""KV blocks that change their tier: copies over the links that experts use, beside steps or such that the next one waits.

Decides nothing: which blocks move is the scheduler's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moesim.clock import to_ps
from moesim.contract import KvMove
from moesim.engine.books.passes import Ledger
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import queue_of, usage_of
from moesim.engine.programs.program import DEMAND, JOIN, MIGRATION, PREFETCH, Operation, label_of

__all__ = ["KvMoves"]


class _Copy(NamedTuple):
    """A move under way, and the number of its operation."""

    move: KvMove
    number: int


class KvMoves:
    """The moves of one run. What a request waits for goes behind experts that a layer waits for, what is kept for later last.

    Valid: a copy that a request waits for runs when no layer's copy wants the link, however long that is.
    """

    def __init__(self, machine: Machine, ledger: Ledger) -> None:
        self._machine, self._ledger = machine, ledger
        self._under_way: list[_Copy] = []

    @property
    def any(self) -> bool:
        """Whether blocks are under way."""
        return bool(self._under_way)

    def begin(self, moves: Sequence[KvMove]) -> None:
        """Sets moves off that the step which begins does not wait for, and runs until those have ended that it waits for."""
        awaited = [move for move in moves if move.awaited]
        for move in moves:
            if not move.awaited:
                number = self._machine.program.add(self._operation(move, MIGRATION if move.request < 0 else PREFETCH))
                self._under_way.append(_Copy(move, number))
        self._machine.engine.submit()
        if awaited:
            operations = [self._operation(move, DEMAND) for move in awaited]
            self._critical(self._machine.run([*operations, Operation(JOIN, 0, range(len(operations)))]))
            for move in awaited:
                self._book(move)

    def landed(self) -> list[int]:
        """Requests that nothing is under way for any more, since this was asked last."""
        ended = [copy for copy in self._under_way if self._machine.engine.ended(copy.number)]
        if not ended:
            return []
        numbers = {copy.number for copy in ended}
        self._under_way = [copy for copy in self._under_way if copy.number not in numbers]
        self._machine.forget(sorted(numbers))
        for copy in ended:
            self._book(copy.move)
        wait = {copy.move.request for copy in self._under_way}
        return sorted({copy.move.request for copy in ended} - wait - {-1})

    def pause(self) -> None:
        """Nobody can run: until the first move has ended that a request waits for."""
        machine, first = self._machine, next(copy for copy in self._under_way if copy.move.request >= 0)
        machine.mark()
        begin = machine.now
        machine.engine.run(first.number)
        self._critical(machine.shares(machine.engine.critical(first.number, begin)))

    def _critical(self, shares: Mapping[str, int]) -> None:
        self._ledger.critical(shares, "attention", None)
        self._machine.recorder.close_phase(None)

    def _operation(self, move: KvMove, priority: int) -> Operation:
        """One copy, in parts of equal time; it waits for those that still bring blocks to where it reads."""
        costs, machine = self._machine.problem.costs, self._machine
        path = costs.path(move.source, move.target)
        seconds = float(costs.copy(move.nbytes, move.source, move.target))
        service = int(to_ps(seconds / move.items, f"a copy of KV blocks from {move.source} to {move.target}"))
        machine.recorder.rounded += move.items
        draws, lane = usage_of(path.usage, move.nbytes), machine.lane(queue_of(path))
        after = [] if move.awaited else [copy.number for copy in self._under_way if copy.move.target == move.source]
        return Operation(lane, service, after, priority, count=move.items, draws=draws, label=label_of("KV blocks"))

    def _book(self, move: KvMove) -> None:
        usage = self._machine.problem.costs.path(move.source, move.target).usage
        self._machine.recorder.count_moves(usage_of(usage, move.nbytes), move.nbytes, "kv")
