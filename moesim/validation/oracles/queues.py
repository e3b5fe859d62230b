"""Owns the oracles of queues and links: M/M/1 and M/D/1 waiting times of a lane, equal flows on one link.

Knows lanes and the engine; no machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.clock import to_ps
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.programs.lanes import serve
from moesim.engine.programs.program import Operation, Program
from moesim.policies.kit import closed_forms
from moesim.results.statistics import Interval, t_interval
from moesim.streams import Streams
from moesim.validation.case import Case, Findings, Row
from moesim.validation.oracles import toy

__all__ = ["LINK", "QUEUES", "Waits", "server_waits", "waits"]

REPLICATES, CUSTOMERS, WARM_UP = 60, 50_000, 5_000
_SERVICE = 1e-3
Law = Literal["exponential", "constant"]


class Waits(NamedTuple):
    """Mean waiting time over replicates, s, with its 95 % interval, and the closed form."""

    formula: float
    interval: Interval


def _arrivals(law: Law, load: float, customers: int, replicate: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """([N] arrival, [N] service) in ps: Poisson arrivals at `load` / mean service."""
    streams = Streams(round(100 * load), replicate)
    arrival = to_ps(np.cumsum(streams[f"arrivals, {law}"].exponential(_SERVICE / load, customers)))
    drawn = streams["service"].exponential(_SERVICE, customers) if law == "exponential" else np.full(customers, _SERVICE)
    return arrival, to_ps(drawn)


def waits(law: Law, load: float) -> Waits:
    """Waiting times of a lane that takes all its jobs in one call; the first ones, which find it too empty, are left out."""
    means = []
    for replicate in range(REPLICATES):
        arrival, service = _arrivals(law, load, CUSTOMERS, replicate)
        waited = serve(arrival, service) - service - arrival
        means.append(float(waited[WARM_UP:].mean()) / 1e12)
    formula = closed_forms.mm1_wait if law == "exponential" else closed_forms.md1_wait
    return Waits(formula(load / _SERVICE, _SERVICE), t_interval(means))


def server_waits(law: Law, load: float, customers: int = 2_000) -> NDArray[np.int64]:
    """[N] waiting times in ps of the engine's server, an operation for each of the same arrivals."""
    arrival, service = _arrivals(law, load, customers, 0)
    program = Program()
    street, server = program.lane("street"), program.lane("server")
    before: tuple[int, ...] = ()
    jobs = []
    for gap, time in zip(np.diff(arrival, prepend=0).tolist(), service.tolist(), strict=True):
        before = (program.add(Operation(street, gap, before)),)
        jobs.append(program.add(Operation(server, time, before)))
    engine = KernelEngine(program, {}, compiled=False)
    engine.submit()
    engine.run(jobs[-1])
    finish = np.array([engine.end(job) for job in jobs])
    return np.asarray(finish - service - arrival)


def _queues() -> Findings:
    rows, lines = [], []
    for law, name in (("exponential", "M/M/1"), ("constant", "M/D/1")):
        for load in (0.5, 0.8):
            wait = waits(law, load)  # type: ignore[arg-type]
            low, high = wait.interval.low or 0.0, wait.interval.high or 0.0
            rows.append(Row(f"{name}, load {load:g}: waiting time, us", 1e6 * wait.formula, 1e6 * wait.interval.mean, 0.02))
            inside = "holds" if low <= wait.formula <= high else "misses"
            lines.append(f"{name}, load {load:g}: 95 % interval {1e6 * low:.1f} to {1e6 * high:.1f} us {inside} the formula.")
        arrival, service = _arrivals(law, 0.8, 2_000, 0)  # type: ignore[arg-type]
        gap = server_waits(law, 0.8) - (serve(arrival, service) - service - arrival)  # type: ignore[arg-type]
        rows.append(Row(f"{name}: largest difference of event server and lane, ps", 0.0, float(np.abs(gap).max()), 0.0))
    lines.append(f"{REPLICATES} replicates of {CUSTOMERS:,} jobs, the first {WARM_UP:,} left out, mean service 1 ms.")
    return Findings(tuple(rows), arithmetic=tuple(lines))


QUEUES = Case(
    id="oracle-queues",
    kind="component",
    summary="Waiting times of a single FIFO lane with Poisson arrivals, exponential and constant service.",
    source=f"{toy.SOURCE}; Kleinrock, Queueing Systems I (1975)",
    runner=_queues,
)


def _link() -> Findings:
    rows = []
    rate, nbytes = 25e9, 352e6
    for flows in (1, 2, 3, 8):
        ends = _ends(flows, rate, nbytes)
        formula = closed_forms.shared_link_seconds(flows, nbytes / rate)
        rows.append(Row(f"{flows} equal flows: last to end, ms", 1e3 * formula, max(ends) / 1e9, 1e-9))
        rows.append(Row(f"{flows} equal flows: first to end, ms", 1e3 * formula, min(ends) / 1e9, 1e-9))
    return Findings(tuple(rows))


def _ends(flows: int, rate: float, nbytes: float) -> list[int]:
    """[flows] ps at which flows of `nbytes` that begin at once on a link of `rate` B/s end."""
    return side_by_side({"pcie:forward": rate}, [(int(to_ps(nbytes / rate)), {"pcie:forward": nbytes})] * flows)


def side_by_side(capacity: Mapping[str, float], copies: Sequence[tuple[int, Mapping[str, float]]]) -> list[int]:
    """[n] ps at which copies end that begin at once, each on a lane of its own: (ps alone, resource -> bytes) each."""
    program = Program()
    numbers = [program.add(Operation(program.lane(f"copy {n}"), time, draws=draws)) for n, (time, draws) in enumerate(copies)]
    engine = KernelEngine(program, capacity, compiled=False)
    engine.submit()
    for number in numbers:
        engine.run(number)
    return [engine.end(number) for number in numbers]


LINK = Case(
    id="oracle-shared-link",
    kind="component",
    summary="A processor-sharing link of n equal flows finishes each in n times its alone time.",
    source=toy.SOURCE,
    runner=_link,
)
