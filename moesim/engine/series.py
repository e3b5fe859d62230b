"""Several steps in one call of the engine: those that a scheduler is sure of, where the GPU attends alone.

Knows the order of things in a step; times nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem, Series, Visit
from moesim.contract.steps import Pace, Scheduler
from moesim.engine.books.steps import StepBooks
from moesim.engine.books.walked import Walked, WalkedSteps
from moesim.engine.cached import Snapshot, cached_residents, check_cached
from moesim.engine.context import Context
from moesim.engine.dispatches import Answers, batched
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.kernel.visits import ByLayer, Demand, visit_rows
from moesim.engine.kv import KvBook
from moesim.engine.passes import check_plan
from moesim.engine.programs.durations import ExpertTimes
from moesim.engine.programs.gpu_steps import GpuSteps, Parts, StepTemplates, attends_alone
from moesim.engine.stream import StreamWalk
from moesim.engine.walk import refuse
from moesim.hardware.device import PHASES
from moesim.model.windows import Groups
from moesim.workload.table import Job, RoutingTable

__all__ = ["SeriesWalk"]

_MOST = 64
"""Steps of a series at most."""
_KNOWN = 4096
"""Sizes of prompts whose attention is remembered at most."""
_ROOM = 150_000
"""Experts that the visits of a series meet at most."""


_Known = dict[tuple[bytes, bytes], tuple[FloatArray, FloatArray]]
"""New tokens and tokens before them -> [K] FLOP and [K] bytes."""


@dataclass(frozen=True, eq=False)
class _Steps:
    """A series with its routing."""

    series: Series
    of: IntArray
    """[N] number of the step of each sequence."""
    prompt: IntArray
    """[N] tokens of its prompt."""
    decoding: BoolArray
    """[N] whether it passes one generated token."""

    @classmethod
    def of_series(cls, series: Series, job: Job) -> _Steps:
        """All steps of a series."""
        of, prompt = np.repeat(np.arange(len(series.sizes)), series.sizes), job.prompt[series.requests]
        return cls(series, of, prompt, (series.new_tokens == 1) & (series.before >= prompt))

    def first(self, steps: int) -> _Steps:
        """The first `steps` of them."""
        if steps == self.number:
            return self
        series = self.series.first(steps)
        sequences = len(series.requests)
        return _Steps(series, self.of[:sequences], self.prompt[:sequences], self.decoding[:sequences])

    @cached_property
    def number(self) -> int:
        """n."""
        return len(self.series.sizes)

    @cached_property
    def _begins(self) -> IntArray:
        """[n] the first sequence of each step."""
        return np.cumsum(self.series.sizes) - self.series.sizes

    def sums(self, values: IntArray | BoolArray) -> IntArray:
        """[n] sums of `values` [N]."""
        return np.add.reduceat(values, self._begins, dtype=np.int64)

    @cached_property
    def tokens(self) -> IntArray:
        """[n] tokens."""
        return self.sums(self.series.new_tokens)

    @cached_property
    def decodes(self) -> BoolArray:
        """[n] whether nothing but generated tokens passes: such a step goes by the plan of decode."""
        return np.asarray(self.decoded == self.series.sizes)

    @cached_property
    def decoded(self) -> IntArray:
        """[n] sequences that pass one generated token."""
        return self.sums(self.decoding)

    def counts(self, routing: RoutingTable) -> IntArray:
        """[n, L, E] tokens per expert."""
        series, of, prompt, decoding = self.series, self.of, self.prompt, self.decoding
        tokens_of = series.requests[decoding], (series.before - prompt)[decoding], of[decoding]
        counts = routing.step_counts(*tokens_of, self.number)
        for step in dict.fromkeys(of[~decoding].tolist()):
            read = (of == step) & ~decoding
            begin, new = series.before[read], series.new_tokens[read]
            counts[step] += routing.chunk_counts(series.requests[read], begin, begin + new, prompt[read])
        return counts


def _parts(steps: _Steps, of: IntArray, number: int, problem: Problem, kinds: list[int], known: _Known) -> Parts:
    """Attention of the steps cut into `number` groups of sequences, those that `of` [N] says, in decoder layers `kinds` [K].

    `known`: that of prompts that came before.
    """
    model, series, decoding = problem.model, steps.series, steps.decoding
    flops, nbytes = np.zeros((number, 2, len(kinds))), np.zeros((number, 2, len(kinds)))
    for group in dict.fromkeys(of[~decoding].tolist()):
        read = (of == group) & ~decoding
        new, before = series.new_tokens[read], series.before[read]
        sizes = new.tobytes(), before.tobytes()
        if sizes not in known:
            if len(known) >= _KNOWN:
                known.clear()
            known[sizes] = model.core_flops_prefill(new, before)[kinds], model.core_bytes_prefill(new, before)[kinds]
        flops[group, 0], nbytes[group, 0] = known[sizes]
    if decoding.any():
        context, groups = series.before[decoding] + 1, Groups(of[decoding], number)
        flops[:, 1], nbytes[:, 1] = (work[:, kinds] for work in model.core_work_decode(context, groups))
    tokens, decodes, sampled = (
        np.bincount(of, weights=weights, minlength=number).astype(np.int64)
        for weights in (series.new_tokens, decoding, series.yields)
    )
    return Parts(tokens, sampled, np.stack([tokens - decodes, decodes], axis=1), flops, nbytes)


class _Asked:
    """What a policy may look at in the visits of some steps; times are found when it does."""

    def __init__(self, context: Context, counts: IntArray, layers: IntArray) -> None:
        self._context, self.counts, self.layers = context, counts, layers

    @cached_property
    def times(self) -> ExpertTimes:
        """[V, E] each."""
        return self._context.placement.times(self.counts, self.layers)

    @cached_property
    def resident(self) -> BoolArray:
        """[V, E] copies in GPU memory."""
        return self._context.residency.resident[self.layers]


class _Visits(Visit):
    """Some of them; the engine reads no seconds, so they need no copies."""

    __slots__ = ("_asked", "_some")

    def __init__(self, index: int, phase: str, tokens: IntArray, demand: _Asked, rows: IntArray) -> None:
        self.index, self.phase, self.layer, self.tokens, self.foreseen = index, phase, demand.layers[rows], tokens, None
        self.counts = demand.counts[rows]
        self._asked, self._some = demand, rows

    gpu = property(lambda self: self._asked.times.gpu[self._some])
    cpu = property(lambda self: self._asked.times.cpu[self._some])
    local = property(lambda self: self._asked.times.local[self._some])
    copy = property(lambda self: self._asked.times.copy[self._some])
    resident = property(lambda self: self._asked.resident[self._some])


def _woven(answers: list[tuple[IntArray, Answers]], shape: tuple[int, ...]) -> Answers:
    """Answers to some rows each, as answers to all of `shape`."""
    parts = [part for _, part in answers]
    device = np.empty(shape, dtype=np.int64)
    order = np.empty(shape, dtype=np.int64) if any(part.order is not None for part in parts) else None
    load = np.zeros(shape, dtype=np.bool_) if any(part.load is not None for part in parts) else None
    for rows, part in answers:
        device[rows] = part.device
        if order is not None:
            order[rows] = np.arange(shape[1]) if part.order is None else part.order
        if load is not None and part.load is not None:
            load[rows] = part.load
    return Answers(device, order, load)


class SeriesWalk:
    """The walk of a run through series of steps."""

    def __init__(
        self, context: Context, routing: RoutingTable, scheduler: Scheduler, cache: KvBook, stream: StreamWalk
    ) -> None:
        self._context, self._routing, self._scheduler, self._cache = context, routing, scheduler, cache
        self._known: _Known = {}
        """FLOP and bytes of the attention of prompts."""
        self._snapshot: Snapshot | None = None
        """The cache before the visits handed over last."""
        self._pace = Pace(0, 0, 0.0, 1)
        """Of the steps before."""
        self._booked = False
        """The books hold steps that no phase has been given yet."""
        policy, plan, problem = context.policy, context.deployment.plan, context.problem
        simple = policy.batched and (policy.adapts == "never" or context.deployment.pool is not None) and plan.expert_batch == 0
        watched = context.recorder.keep_slices or context.faults.any or policy.sees_future
        self._takes = context.whole_pass and simple and not watched and attends_alone(problem, context.deployment)
        self._takes = self._takes and not any(stream.takes(phase) for phase in PHASES)
        engine = context.machine.engine
        if self._takes and isinstance(engine, KernelEngine):
            self._engine = engine
            self._programs: dict[int, GpuSteps] = {}
            """By the number of micro-batches."""
            self._books = StepBooks(context.operations, context.tally, self._program(1).layers_of_kind)
            self._walked = WalkedSteps(context.recorder, problem.job, context.machine.named)

    def walk(self, index: int) -> tuple[int, int]:
        """Walks from the step composed last on, which has number `index`; how many steps that were, and tokens in them."""
        if not self._takes:
            return 0, 0
        context, scheduler = self._context, self._scheduler
        if context.kv_moves.any:  # each step is asked for when it is known which blocks have come
            self._settle()
            return 0, 0
        until, job = scheduler.until(), context.problem.job
        steps = _Steps.of_series(scheduler.sure(*self._asked(until)), job)
        fitting, micro_batches = self._fitting(steps)
        if fitting == 0:
            self._settle()
            return 0, 0
        steps = steps.first(fitting)
        check_plan(job, steps.series, steps.of * job.requests + steps.series.requests)
        counts = steps.counts(self._routing)
        program = self._program(micro_batches)
        parts = pieces = _parts(steps, steps.of, steps.number, context.problem, program.kinds, self._known)
        if micro_batches > 1:
            of = steps.of * micro_batches + self._micro_batch(steps)
            pieces = _parts(steps, of, steps.number * micro_batches, context.problem, program.kinds, self._known)
        begin = context.machine.now
        templates = program.templates(parts, pieces)
        done, laps = self._run(index, steps, counts, templates, until)
        steps = steps.first(len(done))
        cut = pieces.tokens.reshape(-1, micro_batches)
        for decodes, phase in enumerate(PHASES):
            of_phase = np.flatnonzero(steps.decodes == bool(decodes))
            if len(of_phase):
                self._books.add(phase, parts.rows(of_phase), cut[of_phase], counts[of_phase])
        self._booked = True
        self._close(steps, begin, done, laps)
        return steps.number, int(steps.tokens.sum())

    def close(self) -> None:
        """Enters what was done into the books of the run."""
        if self._takes:
            self._books.close()
            self._settle()

    def _settle(self) -> None:
        """Gives each phase what its steps did, so that a step that is timed by itself finds the books empty."""
        if not self._booked:
            return
        self._booked, context = False, self._context
        self._walked.enter()
        context.recorder.close_phase(None)
        for phase in PHASES:
            context.ledger.close_pass(phase, list(context.machine.program.lanes))
            context.recorder.close_phase(phase)

    def _program(self, micro_batches: int) -> GpuSteps:
        if micro_batches not in self._programs:
            self._programs[micro_batches] = GpuSteps(self._context.problem, micro_batches)
        return self._programs[micro_batches]

    def _asked(self, until: int | None) -> tuple[int, Pace | None]:
        """Steps to ask for, about as many as begin before `until`; and by which pace the scheduler may go further."""
        context, problem, pace = self._context, self._context.problem, self._pace
        fitting = max(1, min(_MOST, _ROOM // max(problem.layers * problem.experts, 1)))
        if not pace.step or until is None:
            return fitting, None
        ruled = context.deployment.ruled  # a cache has to be taken back behind the last step
        most = max(until - context.machine.now, 0) // pace.step + (0 if ruled else 2)
        return max(1, min(most, fitting)), None if ruled else pace._replace(now=context.machine.now, most=fitting)

    def _fitting(self, steps: _Steps) -> tuple[int, int]:
        """How many of the steps pass attention in as many micro-batches as the first, and how many these are.

        No step that holds both prompts and decodes in more than one, for these are cut apart.
        """
        plan, sizes, decodes = self._context.deployment.plan, steps.series.sizes, steps.decoded
        if int(sizes.max()) <= min(plan.prefill.micro_batch, plan.decode.micro_batch):
            return steps.number, 1
        prompts = sizes - decodes
        number = np.maximum(-(-prompts // plan.prefill.micro_batch), -(-decodes // plan.decode.micro_batch))
        number[(number > 1) & (prompts > 0) & (decodes > 0)] = 0
        alike = number == number[0]
        return (0 if number[0] == 0 else len(number) if alike.all() else int(alike.argmin())), int(number[0])

    def _micro_batch(self, steps: _Steps) -> IntArray:
        """[N] number of each sequence's micro-batch in its step."""
        plan, sizes = self._context.deployment.plan, steps.series.sizes
        place = np.arange(len(steps.of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return place // np.where(steps.decodes[steps.of], plan.decode.micro_batch, plan.prefill.micro_batch)

    def _run(
        self, index: int, steps: _Steps, counts: IntArray, templates: StepTemplates, until: int | None
    ) -> tuple[IntArray, IntArray]:
        """Hands the steps to the engine: [done, STEP_WIDTH] those that were walked, and [done, lanes] ps at work."""
        context, number = self._context, steps.number
        layers = context.problem.layers
        visits = np.empty((number, layers + 1, k.V_WIDTH), dtype=np.int64)
        visits[:, :, k.V_LAYER] = np.arange(layers + 1)
        visits[:, :, k.V_TOKENS] = steps.tokens[:, None]
        visits[:, :, k.V_TEMPLATE] = templates.of_visit
        visits[:, :, k.V_AT] = (np.arange(number) * layers)[:, None] + np.arange(layers + 1)
        context.refresh()
        context.tables.for_tokens(steps.tokens)
        self._engine.begin_steps(context.tables, context.books, templates.packed, visits.ravel())
        plan = np.zeros((number, k.STEP_WIDTH), dtype=np.int64)
        plan[:, k.STEP_DECODES] = steps.decodes
        plan[:, k.STEP_SERIAL] = np.where(steps.decodes, context.tables.serial("decode"), context.tables.serial("prefill"))
        plan[:, k.STEP_ROWS] = np.arange(1, number + 1) * (layers + 1)
        plan[:, k.STEP_UNTIL] = k.MOST if until is None else until
        for join in steps.series.joins:
            plan[join.step : join.step + 1, k.STEP_SINCE] = join.arrival
            plan[join.step :, k.STEP_UNTIL] = k.MOST if join.until is None else join.until
        rows = self._rows(index, steps, counts) if layers else np.zeros(k.R_HEADER, dtype=np.int64)
        status, done, laps = self._engine.walk_steps(rows, plan)
        refuse(status, context.tables)
        if self._snapshot is not None and len(done) < number:
            self._snapshot.restore()
            self._cached(counts[: len(done)])
        return done, laps

    def _cached(self, counts: IntArray) -> BoolArray:
        """[V, E] copies in GPU memory at the visits of steps with `counts` [n, L, E] tokens; no more of them may be made."""
        number, layers, experts = counts.shape
        self._snapshot = Snapshot(self._context)
        of = np.tile(np.arange(layers), number)
        steps = [slice(first, first + layers) for first in range(0, len(of), layers)]
        return cached_residents(self._context, of, counts.reshape(-1, experts), steps)

    def _rows(self, index: int, steps: _Steps, of_steps: IntArray) -> IntArray:
        """`R` of the kernel, for steps with `of_steps` [n, L, E] tokens."""
        context = self._context
        number, layers, experts = of_steps.shape
        counts, of = of_steps.reshape(-1, experts), np.tile(np.arange(layers), number)
        demand, ruled = _Asked(context, counts, of), context.deployment.ruled
        if ruled:
            demand.resident = self._cached(of_steps)
        answers = self._answers(index, steps, demand)
        if ruled:
            check_cached(context, answers, counts)
        resident = demand.resident if ruled else ByLayer(context.residency.resident)
        return visit_rows(context.placement, Demand(counts, of, demand.times, answers, resident))

    def _answers(self, index: int, steps: _Steps, demand: _Asked) -> Answers:
        """The policy's answers, asked for all visits of the steps of a phase in one."""
        context, layers, answers = self._context, self._context.problem.layers, []
        tokens = np.repeat(steps.tokens, layers)
        for decodes, phase in enumerate(PHASES):
            of_phase = np.flatnonzero(steps.decodes == bool(decodes))
            if len(of_phase):
                rows = (of_phase[:, None] * layers + np.arange(layers)).ravel()
                visits = _Visits(index + int(of_phase[0]), phase, tokens[rows], demand, rows)
                answers.append((rows, batched(context.policy.dispatch(visits, context.view), visits.counts)))
        return answers[0][1] if len(answers) == 1 else _woven(answers, demand.counts.shape)

    def _close(self, steps: _Steps, begin: int, done: IntArray, laps: IntArray) -> None:
        """Books steps that have ended."""
        ends = done[:, k.STEP_END].tolist()
        self._look_at(steps, np.diff(done[:, k.STEP_END], prepend=begin))
        self._cache.pass_through(steps.series, steps.of)
        self._walked.add(Walked(steps.series, steps.of, steps.tokens, steps.decodes, begin, done, laps))
        self._scheduler.passed(ends)

    def _look_at(self, steps: _Steps, lasted: IntArray) -> None:
        """How long steps took, `lasted` [n] ps each: the last one that decoded, and the last one that read prompts."""
        step, token = self._pace.step, self._pace.token
        if steps.decodes.any():
            step = int(lasted[np.flatnonzero(steps.decodes)[-1]])
        if not steps.decodes.all():
            last = np.flatnonzero(~steps.decodes)[-1]
            token = max(int(lasted[last]) - step, 0) / int(steps.tokens[last] - steps.decoded[last])
            step = step or int(lasted[last])
        self._pace = Pace(0, step, token, 1)
