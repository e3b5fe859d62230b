"""KV blocks that change their tier between two steps: copies over the links that experts use, which the next step waits for.

Decides nothing: which blocks move is the scheduler's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesim.clock import to_ps
from moesim.contract import KvMove
from moesim.engine.context import Context
from moesim.engine.programs.durations import queue_of, usage_of
from moesim.engine.programs.program import DEMAND, JOIN, Operation, label_of

__all__ = ["carry"]


def carry(context: Context, moves: Sequence[KvMove]) -> None:
    """Runs until all of `moves` have ended: side by side where their ways differ, and beside copies that are under way."""
    machine, recorder, costs = context.machine, context.recorder, context.problem.costs
    operations = []
    for nbytes, source, target in moves:
        path, chunks = costs.path(source, target), int(costs.chunks(nbytes, source, target))
        alone = float(costs.copy(nbytes, source, target)) / chunks
        draws = usage_of(path.usage, nbytes)
        recorder.count_move(draws, nbytes, "kv")
        recorder.rounded += chunks
        service = int(to_ps(alone, f"a copy of KV blocks from {source} to {target}"))
        lane, label = machine.lane(queue_of(path)), label_of("KV blocks")
        operations.append(Operation(lane, service, (), DEMAND, count=chunks, draws=draws, label=label))
    join = Operation(JOIN, 0, range(len(operations)))
    context.ledger.critical(machine.run([*operations, join]), "attention", None)
    recorder.close_phase(None)
