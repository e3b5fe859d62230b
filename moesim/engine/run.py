"""One run: the policy places the model, then the passes are walked until the job is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.context import Context
from moesim.engine.machine import EngineKind
from moesim.engine.prelude import structure_of_pass
from moesim.engine.rounds import Pass, passes_of_job
from moesim.engine.seer import Oracle, hindsight
from moesim.engine.stream import StreamWalk
from moesim.engine.tally import WorkTally
from moesim.engine.walk import PassWalk
from moesim.hardware.fault import Fault
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

    `engine`: `kernel`, or the slow and plain `reference`, which gives the same; `auto` takes the kernel. `window` (ps) keeps
    only that stretch of the timeline. `faults`: tiers that fail and come back.
    `progress(done, total)` counts tokens of prompts and outputs. Raises InputError when the placement does not fit,
    PolicyError when a slot breaks its contract.
    """
    if policy.clairvoyant:
        problem = replace(problem, hindsight=hindsight(problem.job, routing))
    context = Context(problem, policy, engine, timeline, window, faults)
    _job(context, routing, progress)
    recorder = context.recorder
    context.machine.show(last=True)
    recorder.makespan = recorder.passes[-1].end
    recorder.events = context.machine.engine.moments
    recorder.layers.time += recorder.layers.attention + recorder.layers.experts
    recorder.busy = context.machine.busy()
    recorder.drop_idle_lanes()
    recorder.peak = dict(context.residency.peak)
    recorder.breakdown.resident[:] = context.residency.resident
    recorder.breakdown.home[:] = np.array(problem.tiers, dtype=object)[context.residency.home]
    context.quality.close()
    return Outcome(recorder, context.deployment, context.tally, context.quality.smallest, context.met(), context.faults.notes)


def _job(context: Context, routing: RoutingTable, progress: Callable[[int, int], None] | None) -> None:
    job = context.problem.job
    total = int(job.prompt.sum() + job.output.sum()) - job.requests
    done = 0
    passes: Iterable[Pass] = passes_of_job(job, routing, context.deployment)
    if context.policy.clairvoyant:
        passes = list(passes)
        context.oracle = Oracle(passes)
        context.view.future = context.oracle.future
    stream = StreamWalk(context)
    for step, following in _with_next(passes):
        context.faults.meet(context.machine.now)
        _pass(context, step, following, stream)
        done += int(step.new_tokens.sum())
        if progress is not None:
            progress(done, total)


def _with_next(passes: Iterable[Pass]) -> Iterator[tuple[Pass, Pass | None]]:
    """Each pass with the one that follows it; None behind the last."""
    ahead = iter(passes)
    step = next(ahead, None)
    while step is not None:
        following = next(ahead, None)
        yield step, following
        step = following


def _pass(context: Context, step: Pass, following: Pass | None, stream: StreamWalk) -> None:
    start, problem = context.machine.now, context.problem
    structure = structure_of_pass(problem, context.deployment, step.phase, step.new_tokens, step.context)
    context.operations.dense(step)
    context.ledger.attention(structure)
    if stream.takes(step.phase):
        computed = stream.walk_pass(step, following, structure)
    else:
        walk = PassWalk(context, step)
        walk.run(structure)
        computed = walk.computed
    context.tally.add(step, computed)
    _close(context, step, start)


def _close(context: Context, step: Pass, start: int) -> None:
    """Books a pass that has just ended and lets the policy adapt to it."""
    end, recorder = context.machine.now, context.recorder
    sums = context.ledger.close_pass(step.phase, context.machine.program.lanes)
    recorder.passes.append(PassRow(step.index, step.phase, start, end, len(step.requests), int(step.new_tokens.sum()), *sums))
    recorder.breakdown.laps.append(context.machine.busy())
    recorder.slice("pass", f"{step.phase} {step.index}", start, end)
    if sums.activations:
        recorder.level("hit rate", start, sums.hits / sums.activations)
    if step.phase == "prefill":
        recorder.first_token[step.requests] = end
    recorder.finish[step.ending] = end
    if context.policy.adapts in ("pass", "both"):
        context.adapt(Step(step.index, step.phase, -1, step.counts.sum(axis=1), np.zeros(0, dtype=np.int64)))
    context.movers.settle()
