"""One run: the policy places the model, then a scheduler composes step after step until the job is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.contract import Deployment, Policy, Problem, Step
from moesim.contract.steps import Scheduler, StepPlan
from moesim.engine.books.work_done import WorkTally
from moesim.engine.context import Context
from moesim.engine.foresight_view import hindsight
from moesim.engine.kv import KvBook
from moesim.engine.machine import EngineKind
from moesim.engine.passes import Pass, pass_of
from moesim.engine.programs.pre_expert import structure_of_pass
from moesim.engine.series import SeriesWalk
from moesim.engine.stream import StreamWalk
from moesim.engine.walk import PassWalk
from moesim.errors import InputError, Mistake
from moesim.hardware.device import Phase
from moesim.hardware.fault import Fault
from moesim.progress import Progress
from moesim.results.levels import Disruption
from moesim.results.recorder import Recorder
from moesim.results.rows import PassRow
from moesim.scheduling.rounds import Rounds
from moesim.workload.table import RoutingTable

__all__ = ["Outcome", "SimulationOptions", "simulate"]


_PASSED = 512
"""Steps after which the routing that was read is let go."""


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
    disruptions: list[Disruption]
    """The faults, as the result counts what they cost."""
    scheduler: Scheduler
    """Who composed the steps."""


@dataclass(frozen=True)
class SimulationOptions:
    """How a job is simulated, beside what is simulated."""

    engine: EngineKind = "auto"
    """`kernel`, or the slow and plain `reference`, which gives the same; `auto` takes the kernel."""
    timeline: bool = False
    """Whether to record who did what when."""
    window: tuple[int, int] | None = None
    """(ps, ps): the only stretch of the timeline that is recorded; all of it for None."""
    faults: Sequence[Fault] = ()
    """Tiers that fail and come back."""
    schedule: Callable[[Problem, Deployment], Scheduler] = Rounds
    """Makes the scheduler that composes the steps, once the policy has placed the model."""
    progress: Progress | None = None
    """`progress(done, total)` counts tokens of prompts and outputs."""
    whole: Problem | None = None
    """The problem that the policy places the model for, where the job is a part of a longer one."""


def simulate(problem: Problem, policy: Policy, routing: RoutingTable, options: SimulationOptions | None = None) -> Outcome:
    """Runs the job of `problem` under `policy`; `routing` is hidden from the policy until each visit.

    Raises InputError when the placement does not fit, PolicyError when a slot breaks its contract.
    """
    how = options or SimulationOptions()
    if policy.clairvoyant:
        problem = replace(problem, hindsight=hindsight(problem.job, routing))
    context = Context(problem, policy, how.engine, how.timeline, how.window, how.faults, how.whole)
    scheduler = how.schedule(problem, context.deployment)
    _job(context, routing, scheduler, how.progress)
    recorder = context.recorder
    context.machine.show(last=True)
    recorder.makespan = context.machine.now  # a window of a sample may end idle
    recorder.events = context.machine.engine.moments
    recorder.layers.time += recorder.layers.attention + recorder.layers.experts
    recorder.busy = context.machine.busy()
    recorder.drop_idle_lanes()
    recorder.peak = dict(context.residency.peak)
    recorder.breakdown.resident[:] = context.residency.resident
    recorder.breakdown.home[:] = np.array(problem.tiers, dtype=object)[context.residency.home]
    context.quality.close()
    recorder.recoveries = context.faults.recoveries
    smallest, met = context.quality.smallest, context.faults
    return Outcome(recorder, context.deployment, context.tally, smallest, context.met(), met.notes, met.disruptions, scheduler)


def _job(context: Context, routing: RoutingTable, scheduler: Scheduler, progress: Progress | None) -> None:
    job = context.problem.job
    total = int(job.prompt.sum() + job.output.sum()) - job.requests
    index, done = 0, 0
    expert_batch = context.deployment.plan.expert_batch
    if context.policy.sees_future:
        context.foresee([pass_of(number, plan, job, routing, expert_batch) for number, plan in enumerate(_all(scheduler))])
    stream, cache = StreamWalk(context), KvBook(context.problem, scheduler.kv_room())
    series = SeriesWalk(context, routing, scheduler, cache, stream)
    kv_moves = context.kv_moves
    while (plan := _next(context, scheduler)) is not None:
        if isinstance(plan, int):
            context.wait(plan)
            continue
        if plan.moves:
            kv_moves.begin(plan.moves)
        if not len(plan.requests):
            kv_moves.pause()
            continue
        walked, tokens = series.walk(index)
        if not walked:
            step = pass_of(index, plan, job, routing, expert_batch)
            _step(context, step, scheduler, stream, cache)
            walked, tokens = 1, int(step.new_tokens.sum())
        if (index + walked) // _PASSED > index // _PASSED:
            routing.let_go()
        index, done = index + walked, done + tokens
        if progress is not None:
            progress(min(done, total), total)
    series.close()
    cache.settle()
    context.recorder.kv_peak = cache.peak


def _next(context: Context, scheduler: Scheduler) -> StepPlan | int | None:
    """What the scheduler composes, once it knows which KV blocks have come."""
    if context.kv_moves.any and (landed := context.kv_moves.landed()):
        scheduler.landed(landed)
    return scheduler.compose(context.machine.now)


def _step(context: Context, step: Pass, scheduler: Scheduler, stream: StreamWalk, cache: KvBook) -> None:
    """Times a single step."""
    cache.enter(step.plan)
    context.faults.meet(context.machine.now)
    _pass(context, step, scheduler.follows(), stream)
    cache.leave(step.ending)
    scheduler.ended(step.plan, context.machine.now)


def _all(scheduler: Scheduler) -> list[StepPlan]:
    """The steps of the run, for a bound."""
    plans = scheduler.foreseen()
    if plans is None:
        message = "this policy needs to know the run to come, which here depends on the clock; take an offline job"
        raise InputError(Mistake(message, path="policy"))
    return plans


def _pass(context: Context, step: Pass, following: Phase | None, stream: StreamWalk) -> None:
    start, problem = context.machine.now, context.problem
    structure = structure_of_pass(problem, context.deployment, step)
    context.operations.dense(step, structure.cores, structure.work)
    context.ledger.attention(structure)
    context.books.turn_to(step.phase)
    if stream.takes(step.phase):
        computed = stream.walk_pass(step, following, structure)
    else:
        walk = PassWalk(context, step)
        walk.run(structure)
        computed = walk.computed
    context.tally.add(step, computed, structure.work)
    _close(context, step, start)


def _close(context: Context, step: Pass, start: int) -> None:
    """Books a pass that has just ended and lets the policy adapt to it."""
    end, recorder = context.machine.now, context.recorder
    sums = context.ledger.close_pass(step.phase, context.machine.program.lanes)
    recorder.close_phase(step.phase)
    recorder.passes.append(PassRow(step.index, step.phase, start, end, len(step.requests), int(step.new_tokens.sum()), *sums))
    recorder.breakdown.laps.append(context.machine.busy())
    recorder.slice("pass", f"{step.phase} {step.index}", start, end)
    if sums.activations:
        recorder.level("hit rate", start, sums.hits / sums.activations)
    recorder.first_token[step.first] = end
    recorder.finish[step.ending] = end
    if context.policy.adapts in ("pass", "both"):
        context.adapt(Step(step.index, step.phase, -1, step.counts.sum(axis=1), np.zeros(0, dtype=np.int64)))
    context.movers.settle()
