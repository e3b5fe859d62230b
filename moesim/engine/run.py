"""One run: the policy places the model, then the passes are walked until the job is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.engine.context import Context, EngineKind
from moesim.engine.prelude import preludes_of_pass
from moesim.engine.rounds import Pass, passes_of_job
from moesim.engine.tally import WorkTally
from moesim.engine.walk import Events, PassWalk, walk_prelude
from moesim.policies.base import Deployment, Policy, Step
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
    met: dict[str, tuple[int, int]]
    """Device -> fewest and most tokens per expert that it computed, for devices whose cost says where it holds."""


def simulate(
    problem: Problem,
    policy: Policy,
    routing: RoutingTable,
    *,
    engine: EngineKind = "auto",
    timeline: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Runs the job of `problem` under `policy`; `routing` holds what the router will say and is shown to nobody beforehand.

    `engine`: `events` walks everything by events, `closed_form` refuses what needs them, `auto` takes the closed form where
    it is exact. `progress(done, total)` counts tokens of prompts and outputs. Raises InputError when the placement does not
    fit, PolicyError when a slot breaks its contract.
    """
    context = Context(problem, policy, engine, timeline)
    clock = context.machine.clock
    clock.run(until=clock.process(_job(context, routing, progress)))
    recorder = context.recorder
    recorder.makespan = recorder.passes[-1].end
    recorder.events = clock.events
    recorder.layers.time += recorder.layers.attention + recorder.layers.experts
    context.ledger.add(recorder.busy, {context.gpu: context.machine.gpu.busy})
    recorder.peak = dict(context.residency.peak)
    return Outcome(recorder, context.deployment, context.tally, context.bench.met)


def _job(context: Context, routing: RoutingTable, progress: Callable[[int, int], None] | None) -> Events:
    job = context.problem.job
    total = int(job.prompt.sum() + job.output.sum()) - job.requests
    done = 0
    for one in passes_of_job(job, routing, context.deployment):
        yield from _pass(context, one)
        done += int(one.new_tokens.sum())
        if progress is not None:
            progress(done, total)


def _pass(context: Context, one: Pass) -> Events:
    start, before = context.machine.now, _Sums.of(context.recorder)
    preludes, trailer = preludes_of_pass(context.problem, context.deployment, one.phase, one.new_tokens, one.context)
    context.tally.add(one)
    for prelude in (*preludes, trailer):
        context.ledger.prelude(prelude)
    yield from PassWalk(context, one, preludes).visits()
    yield from walk_prelude(context, trailer)
    _close(context, one, start, before)


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
    if one.phase == "prefill":
        recorder.first_token[one.requests] = end
    recorder.finish[one.ending] = end
    if context.policy.adapts in ("pass", "both"):
        context.adapt(Step(one.index, one.phase, -1, one.counts.sum(axis=1), np.zeros(0, dtype=np.int64)))
    context.ledger.flush()
    context.movers.settle()
