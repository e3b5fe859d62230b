"""One run: the policy places the model, then the passes are walked until the job is done."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from moesim.engine.context import Context, EngineKind
from moesim.engine.prelude import preludes_of_pass
from moesim.engine.rounds import Pass, passes_of_job
from moesim.engine.seer import Oracle, hindsight
from moesim.engine.stream import StreamWalk
from moesim.engine.tally import WorkTally
from moesim.engine.walk import Events, PassWalk, walk_prelude
from moesim.hardware.fault import Fault
from moesim.policies.base import Deployment, IntArray, Policy, Step
from moesim.policies.problem import Problem
from moesim.results.recorder import PassRow, Recorder
from moesim.workload.table import RoutingTable

__all__ = ["Outcome", "simulate"]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the record, the placement used, the work that the bound is taken over, the token counts met."""

    recorder: Recorder
    deployment: Deployment
    tally: WorkTally
    smallest: float
    """Bytes of the smallest copy that an expert was computed from."""
    met: dict[str, tuple[int, int]]
    """Device -> fewest and most tokens per expert that it computed, for devices whose cost says where it holds."""
    faults: list[str]
    """What failed and came back, in the order of time."""


def simulate(
    problem: Problem,
    policy: Policy,
    routing: RoutingTable,
    *,
    engine: EngineKind = "auto",
    timeline: bool = False,
    window: tuple[int, int] | None = None,
    faults: Sequence[Fault] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Runs the job of `problem` under `policy`; `routing` holds what the router will say and is shown to nobody beforehand.

    `engine`: `events` walks everything by events, `closed_form` refuses what needs them, `auto` takes the closed form where
    it is exact. `window` (ps) keeps only that stretch of the timeline. `faults`: tiers that fail and come back.
    `progress(done, total)` counts tokens of prompts and outputs. Raises InputError when the placement does not fit,
    PolicyError when a slot breaks its contract.
    """
    if policy.clairvoyant:
        problem = replace(problem, hindsight=hindsight(problem.job, routing))
    context = Context(problem, policy, engine, timeline, window, faults)
    clock = context.machine.clock
    clock.run(until=clock.process(_job(context, routing, progress)))
    recorder = context.recorder
    recorder.makespan = recorder.passes[-1].end
    recorder.events = clock.events
    recorder.layers.time += recorder.layers.attention + recorder.layers.experts
    context.machine.close()
    context.operations.close()
    recorder.drop_idle_lanes()
    recorder.peak = dict(context.residency.peak)
    recorder.breakdown.resident[:] = context.residency.resident
    recorder.breakdown.home[:] = np.array(problem.tiers, dtype=object)[context.residency.home]
    context.quality.close()
    return Outcome(
        recorder, context.deployment, context.tally, context.quality.smallest, context.bench.met, context.faults.notes
    )


def _job(context: Context, routing: RoutingTable, progress: Callable[[int, int], None] | None) -> Events:
    job = context.problem.job
    total = int(job.prompt.sum() + job.output.sum()) - job.requests
    done = 0
    passes: Iterable[Pass] = passes_of_job(job, routing, context.deployment)
    if context.policy.clairvoyant:
        passes = list(passes)
        context.oracle = Oracle(passes)
        context.view.future = context.oracle.future
    stream = StreamWalk(context)
    for one, following in _with_next(passes):
        context.faults.meet(context.machine.now)
        yield from _pass(context, one, following, stream)
        done += int(one.new_tokens.sum())
        if progress is not None:
            progress(done, total)


def _with_next(passes: Iterable[Pass]) -> Iterator[tuple[Pass, Pass | None]]:
    """Each pass with the one that follows it; None behind the last."""
    ahead = iter(passes)
    one = next(ahead, None)
    while one is not None:
        following = next(ahead, None)
        yield one, following
        one = following


def _pass(context: Context, one: Pass, following: Pass | None, stream: StreamWalk) -> Events:
    start, before = context.machine.now, _Sums.of(context.recorder)
    if stream.takes(one.phase):
        computed = yield from stream.one_pass(one, following)
    else:
        computed = yield from _by_layers(context, one)
    context.tally.add(one, computed)
    _close(context, one, start, before)


def _by_layers(context: Context, one: Pass) -> Generator[Any, Any, IntArray]:
    """Layer by layer, each for itself; [L, G, E] tokens that the experts computed."""
    preludes, trailer = preludes_of_pass(context.problem, context.deployment, one.phase, one.new_tokens, one.context)
    context.operations.dense(one)
    for prelude in (*preludes, trailer):
        context.ledger.prelude(prelude)
    walk = PassWalk(context, one, preludes)
    yield from walk.visits()
    yield from walk_prelude(context, trailer)
    return walk.computed


class _Sums(NamedTuple):
    activations: int
    hits: int
    uploads: int

    @classmethod
    def of(cls, recorder: Recorder) -> _Sums:
        sums = recorder.layers
        return cls(int(sums.activations.sum()), int(sums.hits.sum()), int(sums.uploads.sum()))


def _close(context: Context, one: Pass, start: int, before: _Sums) -> None:
    """Books a pass that has just ended and lets the policy adapt to it."""
    end, recorder = context.machine.now, context.recorder
    change = [b - a for a, b in zip(before, _Sums.of(recorder), strict=True)]
    recorder.passes.append(PassRow(one.index, one.phase, start, end, len(one.requests), int(one.new_tokens.sum()), *change))
    recorder.breakdown.laps.append(context.machine.busy())
    recorder.slice("pass", f"{one.phase} {one.index}", start, end)
    if change[0]:
        recorder.level("hit rate", start, change[1] / change[0])
    if one.phase == "prefill":
        recorder.first_token[one.requests] = end
    recorder.finish[one.ending] = end
    if context.policy.adapts in ("pass", "both"):
        context.adapt(Step(one.index, one.phase, -1, one.counts.sum(axis=1), np.zeros(0, dtype=np.int64)))
    context.ledger.flush()
    context.movers.settle()
