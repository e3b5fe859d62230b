"""Requests that arrive over time: how many output tokens are simulated per CPU second, beside naive SimPy, and how that grows.

W1: 1,000 requests at 2/s, 1,024 tokens in and 256 out, Mixtral-8x7B at 4 bits resident on one 96 GB GPU, the routing of every
token drawn. W2: ten such servers. `SHARES`: the same requests where an LRU cache holds a part of the experts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks import naive_serving
from moesim.engine import SimulationOptions, simulate
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.run import Outcome
from moesim.runs.run import problem_of
from moesim.scenario import LoadedScenario, load

__all__ = ["SHARES", "beside_naive", "measure", "scenario", "steps_of"]

SHARES = {0.25: 2, 0.5: 4, 0.75: 6}
"""Share of the experts that is resident -> slots of an LRU cache per layer."""
W1 = "serving/mixtral-4bit-poisson"


def scenario(requests: int, *, slots: int | None = None, replicate: int = 0, output: int = 256, **sets: Any) -> LoadedScenario:
    """W1 with so many requests, everything resident or `slots` experts of each layer."""
    changes: dict[str, Any] = {"workload.requests": requests, "workload.output": output, "replicate": replicate, **sets}
    return load(W1, policy=None if slots is None else {"kind": "lru", "capacity": slots}, sets=changes)


def _simulated(loaded: LoadedScenario) -> tuple[Outcome, float]:
    """A run, and the CPU seconds of its loop: the routing is there before."""
    job, routing = loaded.build()
    problem, schedule = problem_of(loaded, job, routing), loaded.scenario.workload.schedule
    begin = time.process_time()
    outcome = simulate(problem, loaded.scenario.policy, routing, SimulationOptions(schedule=schedule))
    return outcome, time.process_time() - begin


def measure(requests: int, *, slots: int | None = None, replicas: int = 1, output: int = 256) -> dict[str, Any]:
    """Output tokens and layer visits per CPU second of the loop, over `replicas` servers one after another."""
    tokens = visits = steps = 0
    seconds = 0.0
    for replicate in range(replicas):
        loaded = scenario(requests, slots=slots, replicate=replicate, output=output)
        outcome, spent = _simulated(loaded)
        served = outcome.scheduler.ledger  # type: ignore[attr-defined]
        assert (served.finish >= 0).all(), "a request was not served to its end"
        tokens += requests * output
        visits, steps, seconds = visits + outcome.recorder.layer_visits, steps + len(outcome.recorder.passes), seconds + spent
    return {
        "requests": requests * replicas,
        "output_tokens": tokens,
        "steps": steps,
        "layer_visits": visits,
        "cpu_s": round(seconds, 3),
        "output_tokens_per_cpu_s": round(tokens / seconds),
        "us_per_step": round(seconds / steps * 1e6, 1),
    }


def beside_naive(requests: int, output: int = 256) -> dict[str, Any]:
    """The first requests of W1, with steps composed one after another, by moesim and by naive SimPy in the same process."""
    loaded = scenario(requests, output=output, **{"workload.scheduler.asynchronous": False})
    _simulated(loaded)  # loads what is compiled
    outcome, spent = _simulated(loaded)
    with _noted() as steps:
        _simulated(loaded)
    ledger = outcome.scheduler.ledger  # type: ignore[attr-defined]
    arriving = [naive_serving.Request(arrival, output) for arrival in ledger.arrival.tolist()]
    begin = time.process_time()
    finish, events = naive_serving.serve(arriving, steps)
    naive = time.process_time() - begin
    assert finish == ledger.finish.tolist(), "moesim and naive SimPy disagree about when requests end"
    tokens = requests * output
    return {
        "requests": requests,
        "steps": len(steps),
        "output_tokens_per_cpu_s": {"kernel": round(tokens / spent), "naive": round(tokens / naive)},
        "speedup": round(naive / spent, 1),
        "naive_events": events,
    }


@contextmanager
def _noted() -> Iterator[list[naive_serving.StepTimes]]:
    """The times of all steps that the engine walks meanwhile."""
    steps: list[naive_serving.StepTimes] = []
    walk = KernelEngine.walk_steps

    def noting(self: KernelEngine, rows: Any, plan: Any) -> Any:
        answer = walk(self, rows, plan)
        steps.extend(steps_of(self, np.array(rows), len(answer[1])))
        return answer

    KernelEngine.walk_steps = noting  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        KernelEngine.walk_steps = walk  # type: ignore[method-assign]


def steps_of(engine: KernelEngine, rows: Any, number: int) -> Iterator[naive_serving.StepTimes]:
    """The first `number` steps that the engine has been given, of which all experts are resident."""
    templates = np.array(engine._templates[2]).reshape(-1, k.A_WIDTH)[:, k.A_ALONE]
    visits = np.array(engine._visits).reshape(-1, k.V_WIDTH)
    layers, experts = int(engine._tables.T[k.T_LAYERS]), int(engine._tables.T[k.T_EXPERTS])
    size = number * layers * experts
    begins = (int(rows[k.R_PLACES + 3 * field]) for field in (k.COUNTS, k.GPU))
    counts, gpu = (rows[begin : begin + size].reshape(-1, experts) for begin in begins)
    call = int(engine._tables.T[k.T_TOGETHER])
    for step in range(number):
        here = visits[step * (layers + 1) : (step + 1) * (layers + 1)]
        times = []
        for row in here[:layers]:
            active = gpu[row[k.V_AT]][counts[row[k.V_AT]] > 0].tolist()
            active[0] += call  # the experts of a layer are one call
            times.append((int(templates[row[k.V_TEMPLATE]]), active))
        yield naive_serving.StepTimes(times, int(templates[here[layers, k.V_TEMPLATE]]))
