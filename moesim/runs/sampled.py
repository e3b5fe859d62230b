"""A long served run by a sample of it: windows in detail, the queue between them in closed form.

A functional model (`scheduling.fluid`) plays all requests; where a window begins it says who runs and who waits. The engine
walks each window, first a part that does not count, and what its steps took mends the model, until the two agree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Policy, Problem
from moesim.engine import SimulationOptions, simulate
from moesim.engine.run import Outcome
from moesim.errors import InputError, Mistake
from moesim.results.recorder import SECOND
from moesim.results.serving import Sample
from moesim.results.statistics import Interval, windows_needed
from moesim.runs.estimates import Counted, counted, estimates, modelled
from moesim.scenario.scenario import LoadedScenario
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.fluid import Fluid, Limits, Snapshot, StepLine, fit_steps, play
from moesim.scheduling.online import Online
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.windows import WindowedServing, WindowRows
from moesim.streams import Streams
from moesim.workload.draws.late import begun, drawn_part
from moesim.workload.jobs import routed
from moesim.workload.routing.sticky import Sticky
from moesim.workload.routing.zipf import Uniform, Zipf
from moesim.workload.table import Job, RoutingTable

__all__ = ["Part", "walk"]

_AGREES = 0.01
"""Share by which a step of the model may differ from one of the engine."""
_ROUNDS = 3
"""How often the model is mended at most."""
_PILOT = 4
"""Windows on which the model is mended; in the first round they begin with an empty server."""
_MORE = 10
"""Times the windows that the user named, where an error is aimed at."""


class Part(NamedTuple):
    """What was simulated of a run."""

    job: Job
    routing: RoutingTable
    problem: Problem
    outcome: Outcome
    sample: Sample


class _Windows(NamedTuple):
    """[W] windows, s from the beginning of the run."""

    begin: FloatArray
    counted: FloatArray
    end: FloatArray

    @property
    def looks(self) -> IntArray:
        """[3, W] places of `begin`, `counted` and `end` among all these moments in order."""
        moments = np.concatenate(self)
        places = np.empty(len(moments), dtype=np.int64)
        places[np.argsort(moments, kind="stable")] = np.arange(len(moments))
        return places.reshape(3, -1)


def walk(loaded_scenario: LoadedScenario, policy: Policy, problem_of: Any) -> Part:
    """The sample that `simulation` of a scenario asks for. InputError where the run cannot be sampled."""
    simulation, workload = loaded_scenario.scenario.simulation, loaded_scenario.scenario.workload
    _refuse(loaded_scenario, policy)
    assert isinstance(workload, Online)
    assert simulation.sample is not None
    job, notes = workload.job(
        loaded_scenario.scenario.model,
        Streams(loaded_scenario.scenario.seed, loaded_scenario.scenario.replicate),
        loaded_scenario.base,
    )
    if job.shared is not None and any(job.shared):
        raise InputError(
            Mistake("prompts that share prefixes cannot be sampled: what a cache holds depends on all before", _KEY)
        )
    walker = _Walker(loaded_scenario, policy, problem_of, job, notes)
    count = simulation.windows
    length = simulation.sample * walker.last / count
    pilot_steps = _spread(walker.last, min(_PILOT, count), length)
    walker.pilot(pilot_steps)
    walker.mend(pilot_steps)
    length = simulation.sample * walker.last / count
    part = walker.walk(_spread(walker.last, count, length))
    if simulation.error is not None:
        needed = windows_needed(_aims(part), simulation.error)
        more = min(needed, _MORE * count, int(0.5 * walker.last / length))
        if more > count:
            part = walker.walk(_spread(walker.last, more, length))
        part.sample.details["error"] = simulation.error
        part.sample.details["reached"] = windows_needed(_aims(part), simulation.error) <= part.sample.details["windows"]
    return part


_KEY = "simulation.sample"


def _refuse(loaded_scenario: LoadedScenario, policy: Policy) -> None:
    """InputError for what cannot be sampled."""
    scenario = loaded_scenario.scenario
    reasons = {
        "requests do not arrive over time; take a workload of kind online": not isinstance(scenario.workload, Online),
        "faults happen once, and a sample may miss them; run the whole job": bool(scenario.faults),
        "the policy needs to know the run to come": policy.clairvoyant,
    }
    if isinstance(scenario.workload, Online):
        scheduler, arrivals = scenario.workload.scheduler, scenario.workload.arrivals
        kinds = isinstance(scheduler, (Continuous, PrefillFirst))
        reasons["only schedulers of kind continuous and prefill_first can begin with sequences that are there"] = not kinds
        reasons["max_waiting refuses by a queue that a window knows in part; leave it out"] = scheduler.max_waiting is not None
        reasons["KV blocks in other tiers depend on all before; leave swap and offload out"] = bool(scheduler.aside)
        reasons["users of a closed loop wait for answers; run the whole job"] = arrivals.kind == "closed"
    sentences = [text for text, applies in reasons.items() if applies]
    if sentences:
        raise InputError(*(Mistake(f"cannot be sampled: {text}", _KEY) for text in sentences))


def _spread(last: float, count: int, length: float) -> _Windows:
    """`count` windows that count for `length` seconds each, evenly spread over `last` s; as long before each to settle."""
    counted = (np.arange(count) + 0.5) * last / count - length / 2
    return _Windows(np.maximum(counted - length, 0.0), counted, counted + length)


def _places(loaded_scenario: LoadedScenario) -> int:
    """Sequences that the scheduler lets run at a time."""
    workload = loaded_scenario.scenario.workload
    assert isinstance(workload, Online)
    return workload.scheduler.most_sequences


class _Walker:
    """One scenario, window after window."""

    def __init__(
        self, loaded_scenario: LoadedScenario, policy: Policy, problem_of: Any, job: Job, notes: tuple[str, ...]
    ) -> None:
        self.loaded_scenario, self.policy, self.problem_of = loaded_scenario, policy, problem_of
        self.job, self.notes = job, notes
        self.line = StepLine(0.0, 0.0, 0.0)
        self.limits = Limits(1)
        self.served: IntArray = np.arange(job.requests)
        """Numbers of the requests that no rule refuses whatever the queue."""
        self.last = float(job.arrival[-1])
        """s at which the run is over, as far as is known."""

    def pilot(self, windows: _Windows) -> None:
        """The first line of steps from windows that begin empty, and who is refused."""
        empty = Fluid(self.job.arrival, self.job.arrival, [Snapshot([], [])] * 3 * len(windows.begin))
        outcome = self._simulate(_rows(self.job, windows, empty))[3]
        scheduler: Any = outcome.scheduler
        session, tokens = scheduler.server.session, self.job.prompt + self.job.output
        most = min(session.limits.max_model_len or tokens.max(), session.pool.total * session.pool.size)
        self.served = np.flatnonzero(tokens <= most)
        if not len(self.served):
            raise InputError(Mistake(f"every request is longer than the {most:,} tokens that one may have", path="workload"))
        self.limits = Limits(_places(self.loaded_scenario), session.pool.total * session.pool.size)
        self.line = _line(outcome)

    def mend(self, windows: _Windows) -> None:
        """Fits the line anew on windows that begin where the model says, until the two agree about steps."""
        for _ in range(_ROUNDS):
            fluid = self._play(windows)
            self.last = float(np.nanmax(fluid.finish))
            mended, off = self._off(self._simulate(_rows(self.job, windows, fluid))[3])
            self.line = mended
            if off <= _AGREES:
                break

    def walk(self, windows: _Windows) -> Part:
        """The windows, and what counts of them."""
        fluid = self._play(windows)
        rows = _rows(self.job, windows, fluid)
        part, table, problem, outcome = self._simulate(rows)
        model = modelled(fluid, rows, self.job, (windows.looks[1], windows.looks[2]))
        result = counted(outcome.scheduler, rows)
        intervals = estimates(result, model, float(self.job.output[self.served].mean()) - 1.0)
        details = {
            "windows": len(windows.begin),
            "share": float((windows.end - windows.counted).sum() / self.last),
            "requests": self.job.requests,
            "model_off": self._off(outcome)[1],
            "intervals": {name: interval._asdict() for name, interval in intervals.items()},
        }
        return Part(part, table, problem, outcome, _sample(result, outcome.scheduler, rows, fluid, details))

    def _play(self, windows: _Windows) -> Fluid:
        """The model's run, with what it says of refused requests left open."""
        job, served = self.job, self.served
        moments = np.sort(np.concatenate([windows.begin, windows.counted, windows.end]))
        parts = job.arrival[served], job.prompt[served], job.output[served]
        fluid = play(*parts, self.limits, self.line, moments.tolist())
        return fluid if len(served) == job.requests else fluid.of(served, job.requests)

    def _off(self, outcome: Outcome) -> tuple[StepLine, float]:
        """The line of a run, and by which share its mean step is off the present one's."""
        line, sequences, held = _line(outcome), outcome.recorder.passes.column("sequences"), _held(outcome)
        return line, line.off(self.line, float(sequences.mean()), float(held.mean()))

    def _simulate(self, rows: WindowRows) -> tuple[Job, RoutingTable, Problem, Outcome]:
        """The windows in detail; outputs are cut to what a window has time for, and to twice that where a window had more."""
        left = rows.end[rows.window] - np.maximum(rows.begin[rows.window], rows.arrival)
        most = np.full(len(left), int(self.job.output.max()))
        steps = np.minimum(64 + np.ceil(1.25 * left / self.line.step).astype(np.int64), most) if self.line.step else most
        while True:
            job = _job_of(rows, self.job, steps)
            table, problem, outcome = self._outcome(rows, job)
            cut = job.output < self.job.output[rows.request] - rows.produced
            scheduler: Any = outcome.scheduler
            if not (cut & (scheduler.ledger.finish >= 0)).any():
                return job, table, problem, outcome
            steps = np.minimum(2 * steps, most)

    def _outcome(self, rows: WindowRows, job: Job) -> tuple[RoutingTable, Problem, Outcome]:
        loaded_scenario, workload = self.loaded_scenario, self.loaded_scenario.scenario.workload
        assert isinstance(workload, Online)
        streams, model = (
            Streams(loaded_scenario.scenario.seed, loaded_scenario.scenario.replicate),
            loaded_scenario.scenario.model,
        )
        laws = isinstance(workload.routing, (Uniform, Zipf, Sticky))
        begun_tokens = np.where(laws & (rows.produced > 0), job.prompt - 1, 0)
        drawn = drawn_part(job, begun_tokens)
        table = routed(workload.routing, workload.profile, drawn, model, streams, loaded_scenario.base, None)
        table = replace(begun(table, job, begun_tokens), notes=(*table.notes, *self.notes))
        problem = self.problem_of(loaded_scenario, job, table)
        whole = replace(problem, job=replace(self.job, chunk=problem.job.chunk))

        def schedule(part: Problem, deployment: Deployment) -> WindowedServing:
            return WindowedServing(workload.scheduler, part, deployment, rows, whole)

        engine = loaded_scenario.scenario.simulation.engine
        return (
            table,
            problem,
            simulate(problem, self.policy, table, SimulationOptions(engine=engine, whole=whole, schedule=schedule)),
        )


def _rows(job: Job, windows: _Windows, fluid: Fluid) -> WindowRows:
    """Who is in which window: those that run, those that wait, those that arrive.

    Of the last two those that the model serves within twice the window: a queue may be as long as the run.
    """
    window, request, tokens = [], [], []
    states = [fluid.snapshots[look] for look in windows.looks[0]]
    for number, (begin, end, there) in enumerate(zip(windows.begin, windows.end, states, strict=True)):
        low, high = np.searchsorted(job.arrival, [begin, end])
        running = [(name, has) for name, has in there.running if has]
        early = [name for name, has in there.running if not has] + there.waiting
        fresh = np.array([*early, *range(max(int(low), 1 + max(early, default=-1)), int(high))], dtype=np.int64)
        fresh = fresh[~(fluid.first[fresh] >= 2 * end - begin)]  # one that is refused has no first token
        names = [*running, *((name, 0) for name in fresh.tolist())]
        request += [name for name, _ in names]
        tokens += [has for _, has in names]
        window += [number] * len(names)
    numbers, produced = np.array(request, dtype=np.int64), np.array(tokens, dtype=np.int64)
    return WindowRows(
        np.array(window, dtype=np.int64), job.arrival[numbers], produced, numbers, windows.begin, windows.counted, windows.end
    )


def _job_of(rows: WindowRows, job: Job, steps: IntArray) -> Job:
    """The rows as a job. What a sequence has counts as its prompt; no output is longer than `steps` [R]."""
    return replace(
        job,
        arrival=np.zeros(len(rows.request)),
        prompt=job.prompt[rows.request] + rows.produced,
        output=np.minimum(job.output[rows.request] - rows.produced, steps),
        shared=None,
        source=None if job.source is None else job.source[rows.request],
        priority=None if job.priority is None else job.priority[rows.request],
    )


def _line(outcome: Outcome) -> StepLine:
    steps = outcome.recorder.passes
    seconds = (steps.column("end") - steps.column("start")) / SECOND
    return fit_steps(seconds, steps.column("sequences"), steps.column("tokens"), _held(outcome))


def _held(outcome: Outcome) -> FloatArray:
    """Tokens of the KV blocks in use when each step began."""
    scheduler: Any = outcome.scheduler
    levels = np.asarray(scheduler.ledger.levels)
    place = np.searchsorted(levels[:, 0], outcome.recorder.passes.column("start"), side="right") - 1
    blocks: FloatArray = levels[place, 3].astype(np.float64)
    return blocks * float(scheduler.server.session.pool.size)


def _sample(windows: Counted, scheduler: Any, rows: WindowRows, fluid: Fluid, details: dict[str, Any]) -> Sample:
    """What counts of the windows."""
    before = np.where(rows.produced > 0, fluid.first[rows.request] - rows.arrival, np.nan)
    return Sample(
        window=rows.window, left=scheduler.left, first_counts=windows.first, finish_counts=windows.finish, ttft_before=before,
        seconds=float(windows.seconds.sum()), tokens=int(windows.tokens.sum()), details=details,
    )  # fmt: skip


def _aims(part: Part) -> list[Interval]:
    """The intervals that an error is about."""
    intervals = part.sample.details["intervals"]
    return [Interval(**intervals[name]) for name in ("ttft_s", "itl_s", "e2e_s") if name in intervals]
