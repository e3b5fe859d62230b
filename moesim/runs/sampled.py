"""A long served run by a sample of it: windows in detail, the queue between them in closed form.

A functional model (`scheduling.fluid`) plays all requests; where a window begins it says who runs and who waits. The engine
walks each window, first a part that does not count, and what its steps took mends the model, until the two agree.
"""

from __future__ import annotations

import math
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
from moesim.results.statistics import Interval, ratio_interval, windows_needed
from moesim.runs.served import counted_gaps
from moesim.scenario.scenario import LoadedScenario
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.fluid import Fluid, Snapshot, StepLine, fit_steps, play
from moesim.scheduling.online import Online
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.windows import WindowedServing, WindowRows
from moesim.streams import Streams
from moesim.workload.jobs import routed
from moesim.workload.table import Job, RoutingTable

__all__ = ["Part", "walk"]

_AGREES = 0.03
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
    length = simulation.sample * float(job.arrival[-1]) / count
    pilot_steps = _spread(job, min(_PILOT, count), length)
    walker.pilot(pilot_steps)
    walker.mend(pilot_steps)
    part = walker.walk(_spread(job, count, length))
    if simulation.error is not None:
        needed = windows_needed(_aims(part), simulation.error)
        more = min(needed, _MORE * count, int(0.5 * float(job.arrival[-1]) / length))
        if more > count:
            part = walker.walk(_spread(job, more, length))
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
        "the policy is a bound that knows the run beforehand": policy.clairvoyant,
    }
    if isinstance(scenario.workload, Online):
        scheduler, arrivals = scenario.workload.scheduler, scenario.workload.arrivals
        kinds = isinstance(scheduler, (Continuous, PrefillFirst))
        reasons["only schedulers of kind continuous and prefill_first can begin with sequences that are there"] = not kinds
        reasons["users of a closed loop wait for answers; run the whole job"] = arrivals.kind == "closed"
    sentences = [text for text, applies in reasons.items() if applies]
    if sentences:
        raise InputError(*(Mistake(f"cannot be sampled: {text}", _KEY) for text in sentences))


def _spread(job: Job, count: int, length: float) -> _Windows:
    """`count` windows that count for `length` seconds each, evenly spread over the run; as long before each to settle."""
    last = float(job.arrival[-1])
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
        self.loaded_scenario, self.policy, self.problem_of, self.job, self.notes = (
            loaded_scenario,
            policy,
            problem_of,
            job,
            notes,
        )
        self.line = StepLine(0.0, 0.0, 0.0)
        self.places = 1

    def pilot(self, windows: _Windows) -> None:
        """The first line of steps from windows that begin empty."""
        empty = Fluid(self.job.arrival, self.job.arrival, [Snapshot([], [])] * len(windows.begin))
        outcome = self._simulate(_rows(self.job, windows, empty))[3]
        scheduler: Any = outcome.scheduler
        pool, job = scheduler.server.session.pool, self.job
        held = float((job.output * (job.prompt + job.output / 2)).sum() / job.output.sum())  # as a running one is met
        self.places = max(min(_places(self.loaded_scenario), int(pool.total * pool.size / held)), 1)
        self.line = _line(outcome)

    def mend(self, windows: _Windows) -> None:
        """Fits the line anew on windows that begin where the model says, until the two agree about steps."""
        for _ in range(_ROUNDS):
            mended, off = self._off(self._simulate(_rows(self.job, windows, self._play(windows)))[3])
            self.line = mended
            if off <= _AGREES:
                break

    def walk(self, windows: _Windows) -> Part:
        """The windows, and what counts of them."""
        fluid = self._play(windows)
        rows = _rows(self.job, windows, fluid)
        part, table, problem, outcome = self._simulate(rows)
        details = {
            "windows": len(windows.begin),
            "share": float((windows.end - windows.counted).sum() / self.job.arrival[-1]),
            "requests": self.job.requests,
            "model_off": self._off(outcome)[1],
        }
        return Part(part, table, problem, outcome, _sample(outcome, rows, fluid, details))

    def _play(self, windows: _Windows) -> Fluid:
        job = self.job
        return play(job.arrival, job.prompt, job.output, self.places, self.line, windows.begin.tolist())

    def _off(self, outcome: Outcome) -> tuple[StepLine, float]:
        """The line of a run, and by which share its mean step is off the present one's."""
        line = _line(outcome)
        return line, line.off(self.line, float(np.mean([row.sequences for row in outcome.recorder.passes])))

    def _simulate(self, rows: WindowRows) -> tuple[Job, RoutingTable, Problem, Outcome]:
        loaded_scenario, workload = self.loaded_scenario, self.loaded_scenario.scenario.workload
        assert isinstance(workload, Online)
        job = _job_of(rows, self.job, self.line)
        streams = Streams(loaded_scenario.scenario.seed, loaded_scenario.scenario.replicate)
        table = routed(
            workload.routing, workload.profile, job, loaded_scenario.scenario.model, streams, loaded_scenario.base, None
        )
        table = replace(table, notes=(*table.notes, *self.notes))
        problem = self.problem_of(loaded_scenario, job, table)
        whole = replace(problem, job=replace(self.job, chunk=problem.job.chunk))

        def schedule(part: Problem, deployment: Deployment) -> WindowedServing:
            return WindowedServing(workload.scheduler, part, deployment, rows, whole)

        engine = loaded_scenario.scenario.simulation.engine
        outcome = simulate(problem, self.policy, table, SimulationOptions(engine=engine, whole=whole, schedule=schedule))
        return job, table, problem, outcome


def _rows(job: Job, windows: _Windows, fluid: Fluid) -> WindowRows:
    """Who is in which window: those that run, those that wait, those that arrive.

    Of the last two those that the model serves within twice the window: a queue may be as long as the run.
    """
    window, request, tokens = [], [], []
    for number, (begin, end, there) in enumerate(zip(windows.begin, windows.end, fluid.snapshots, strict=True)):
        low, high = np.searchsorted(job.arrival, [begin, end])
        running = [(name, has) for name, has in there.running if has]
        early = [name for name, has in there.running if not has] + there.waiting
        fresh = np.array([*early, *range(max(int(low), 1 + max(early, default=-1)), int(high))], dtype=np.int64)
        fresh = fresh[fluid.first[fresh] < 2 * end - begin]
        names = [*running, *((name, 0) for name in fresh.tolist())]
        request += [name for name, _ in names]
        tokens += [has for _, has in names]
        window += [number] * len(names)
    numbers, produced = np.array(request, dtype=np.int64), np.array(tokens, dtype=np.int64)
    return WindowRows(
        np.array(window, dtype=np.int64), job.arrival[numbers], produced, numbers, windows.begin, windows.counted, windows.end
    )


def _job_of(rows: WindowRows, job: Job, line: StepLine) -> Job:
    """The rows as a job. What a sequence has counts as its prompt; no output is longer than its window has steps."""
    longest = float((rows.end - rows.begin).max())
    most = 64 + math.ceil(2 * longest / line.step) if line.step else int(job.output.max())
    return replace(
        job,
        arrival=np.zeros(len(rows.request)),
        prompt=job.prompt[rows.request] + rows.produced,
        output=np.minimum(job.output[rows.request] - rows.produced, most),
        shared=None,
        source=None if job.source is None else job.source[rows.request],
        priority=None if job.priority is None else job.priority[rows.request],
    )


def _line(outcome: Outcome) -> StepLine:
    steps = outcome.recorder.passes
    seconds = np.array([(row.end - row.start) / SECOND for row in steps])
    counts = np.array([(row.sequences, row.tokens) for row in steps], dtype=np.int64)
    return fit_steps(seconds, counts[:, 0], counts[:, 1])


def _sample(outcome: Outcome, rows: WindowRows, fluid: Fluid, details: dict[str, Any]) -> Sample:
    """What counts of the windows, and the intervals of means."""
    scheduler: Any = outcome.scheduler
    ledger, started = scheduler.ledger, rows.produced > 0
    since = np.array([scheduler.counted_from(window) for window in range(len(rows.begin))])
    first = ~started & (ledger.first_token >= since[rows.window])
    finish = ledger.finish >= since[rows.window]
    seconds = (np.array(scheduler.closed) - since) / SECOND
    gap_counts = np.array([last - first_gap for first_gap, last in scheduler.gap_marks], dtype=np.float64)
    gaps = np.array(counted_gaps(scheduler), dtype=np.float64) / SECOND
    places = np.repeat(np.arange(len(since)), gap_counts.astype(np.int64))
    tokens = gap_counts + np.bincount(rows.window[first], minlength=len(since))
    windows = len(since)
    times = {
        "ttft_s": np.where(first, (ledger.first_token - ledger.arrival) / SECOND, np.nan),
        "e2e_s": np.where(finish, (ledger.finish - ledger.arrival) / SECOND, np.nan),
    }
    sampled = {name: ratio_interval(*_by_window(values, rows.window, windows)) for name, values in times.items()}
    sampled["itl_s"] = ratio_interval(*_by_window(gaps, places, windows))
    sampled["throughput_tok_s"] = ratio_interval(tokens.tolist(), seconds.tolist())
    before = np.where(started, fluid.first[rows.request] - rows.arrival, np.nan)
    intervals = {name: interval._asdict() for name, interval in sampled.items() if interval is not None}
    return Sample(
        window=rows.window, left=scheduler.left, first_counts=first, finish_counts=finish, ttft_before=before,
        seconds=float(seconds.sum()), tokens=int(tokens.sum()), details={**details, "intervals": intervals},
    )  # fmt: skip


def _by_window(values: FloatArray, window: IntArray, windows: int) -> tuple[list[float], list[float]]:
    """[W] sums and counts of the `values` that are numbers, by their `window`."""
    known = ~np.isnan(values)
    sums = np.bincount(window[known], weights=values[known], minlength=windows)
    counts = np.bincount(window[known], minlength=windows)
    return sums.tolist(), counts.astype(np.float64).tolist()


def _aims(part: Part) -> list[Interval]:
    """The intervals that an error is about."""
    intervals = part.sample.details["intervals"]
    return [Interval(**intervals[name]) for name in ("ttft_s", "itl_s", "e2e_s") if name in intervals]
