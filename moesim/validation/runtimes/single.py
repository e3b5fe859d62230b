"""Owns how one request is timed on a program, and how a case sums up its tested rows.

Knows scenarios as plain data; no program and no published number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.scenario.scenario import LoadedScenario
from moesim.validation.case import Row

__all__ = ["Setting", "Speeds", "batched", "batches", "scenario_of", "single", "spread", "value"]


class Setting(NamedTuple):
    """What a program was measured on."""

    hardware: Any
    model: Any
    policy: Any
    runtime: str
    routing: Mapping[str, Any]


class Speeds(NamedTuple):
    """Of a request, the mean of several."""

    ttft: float
    """s."""
    tpot: float
    """s; nan without a second token."""
    makespan: float
    """s."""
    step: float
    """s of the last decode pass; nan without one."""


def single(setting: Setting, prompt: int, output: int, sets: Mapping[str, Any] | None = None) -> Speeds:
    """One request of `prompt` tokens and `output` generated ones."""
    return batched(setting, 1, prompt, output, sets)


def batched(setting: Setting, requests: int, prompt: int, output: int, sets: Mapping[str, Any] | None = None) -> Speeds:
    """`requests` requests alike, all there from the start."""
    return _timed(json.dumps(scenario_of(setting, requests, prompt, output)), json.dumps(dict(sets or {})))


def batches(settings: Mapping[int, Setting], prompt: int, output: int) -> dict[int, Speeds]:
    """`batched` for each number of requests in `settings`, whose model and routing are the same.

    A request asks for the same experts however many come after it: the routing of the most requests is that of all batches.
    """
    most = max(settings)
    job, table = loaded(scenario_of(settings[most], most, prompt, output)).build()
    assert table.prompts is not None
    prompts, speeds = cache(table.prompts), {}
    for requests, setting in settings.items():
        first = slice(requests)
        part = replace(job, arrival=job.arrival[first], prompt=job.prompt[first], output=job.output[first])
        ids = partial(_rows, prompts, first)
        routing = replace(table, prefill=table.prefill[first], decode=table.decode[first], prompts=ids)
        scenario = loaded(scenario_of(setting, requests, prompt, output))
        speeds[requests] = _speeds(replace(scenario, job_and_table=(part, routing)))
    return speeds


def _rows(prompts: Callable[[], NDArray[Any]], first: slice) -> NDArray[Any]:
    return prompts()[first]


def scenario_of(setting: Setting, requests: int, prompt: int, output: int) -> dict[str, Any]:
    """The setting with that workload, as a scenario's plain data."""
    return {
        "name": "single",
        "hardware": setting.hardware,
        "model": setting.model,
        "policy": setting.policy,
        "runtime": setting.runtime,
        "workload": {
            "kind": "offline",
            "requests": requests,
            "prompt": prompt,
            "output": output,
            "routing": dict(setting.routing),
            **({"profile": {"kind": "uniform"}} if setting.routing["kind"] == "uniform" else {}),
        },
    }


@cache
def _timed(data: str, sets: str) -> Speeds:
    return _speeds(loaded(json.loads(data), **json.loads(sets)))


def _speeds(scenario: LoadedScenario) -> Speeds:
    result = run_loaded(scenario, RunOptions(bound=False))
    summary, steps = result.summary, result.frame("steps")
    tpot = summary["tpot_s"]["mean"] if summary["tpot_s"] else None
    decoding = steps.loc[steps["phase"] == "decode", "step_time_s"]
    step = float(decoding.iloc[-1]) if len(decoding) else float("nan")
    return Speeds(summary["ttft_s"]["mean"], float("nan") if tpot is None else tpot, summary["makespan_s"], step)


def spread(rows: Sequence[Row]) -> str:
    """Median and p90 of the errors of the tested rows, in words."""
    errors = [abs(row.error) for row in rows if not row.fitted]
    median, p90 = 100 * np.median(errors), 100 * np.quantile(errors, 0.9)
    return f"{len(errors)} tested rows: median error {median:.1f} %, p90 {p90:.1f} %."


def value(setting: Setting, *path: str) -> Any:
    """A constant of the setting's runtime, as its profile says it."""
    node: Any = loaded(scenario_of(setting, 1, 1, 1)).data["runtime"]
    for key in path:
        node = node[key]
    return node
