"""Owns how the systems of CoX-MoE's evaluation are run: plans as their papers make them, at a cost of every call of an expert.

Knows its scenario by name; knows no published result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import Field, SerializeAsAny

from moesim.contract import Deployment, Dispatch, Policy, Problem, View, Visit
from moesim.scenario.run import loaded, problem_of, run_loaded
from moesim.scenario.scenario import LoadedScenario
from moesim.validation.cox_moe.account import pass_seconds
from moesim.validation.pace import Pace
from moesim.workload.table import Job, RoutingTable

__all__ = ["Parameters", "Planned", "Setting", "added", "calls", "planned", "simulated", "tokens_per_second"]

SCENARIO = "cox_moe/qwen3-30b"
_STEPS = 2
"""Decode passes that are simulated; the last one counts."""
Parameters = tuple[tuple[str, Any], ...]
"""A policy: `kind` and its parameters."""


class Setting(NamedTuple):
    """A machine, a model and a batch."""

    hardware: str
    model: str
    exponent: float
    """Of the Zipf law of popularity."""
    sequences: int
    prompt: int
    output: int

    def workload(self) -> dict[str, Any]:
        """What of the scenario it sets, beside the machine and the lengths."""
        return {
            "model": self.model,
            "workload.requests": self.sequences,
            "workload.routing.exponent": self.exponent,
        }


class Planned(Policy):
    """Another policy, held to what it decided before: a plan that knows less than the run charges."""

    kind: Literal["planned"] = "planned"
    inner: SerializeAsAny[Policy]
    plan: Any = Field(exclude=True)
    """Its `Deployment`."""

    @property
    def memoryless(self) -> bool:
        """As the policy itself."""
        return self.inner.memoryless

    def deploy(self, problem: Problem) -> Deployment:
        """As decided."""
        plan: Deployment = self.plan
        return plan

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """As the policy itself."""
        return self.inner.dispatch(visit, view)


def calls(seconds: float, *, one_thread: bool = True) -> dict[str, Any]:
    """Overrides for a framework that calls every expert by itself, at `seconds` a call on either device.

    `one_thread` calls those of both devices, one after another; else each device has a thread.
    """
    if not seconds:
        return {}
    cost = f"{1e6 * seconds:.6g} us"
    gpu = {"runtime.gpu.fused": False, "runtime.gpu.launches.eager": cost}
    return {**gpu, "runtime.cpu.launch": cost, "runtime.cpu.one_thread": one_thread}


@lru_cache(maxsize=4)
def _built(model: str, exponent: float, sequences: int, prompt: int, output: int) -> tuple[Job, RoutingTable]:
    """Requests and routing, which no machine and no policy changes."""
    sets = {**Setting("", model, exponent, sequences, 0, 0).workload(), **_lengths(prompt, output)}
    made: tuple[Job, RoutingTable] = loaded(SCENARIO, **sets).build()
    return made


def _lengths(prompt: int, output: int) -> dict[str, Any]:
    return {"workload.prompt": prompt, "workload.output": output}


def _scenario(setting: Setting, policy: Parameters, sets: Mapping[str, Any], *, decode: bool) -> LoadedScenario:
    """Its prefill alone, or a short stretch in the middle of its decode."""
    prompt, output = (setting.prompt + setting.output // 2 - _STEPS, 1 + _STEPS) if decode else (setting.prompt, 1)
    fixed = {**setting.workload(), **_lengths(prompt, output), "hardware": setting.hardware}
    this = loaded(SCENARIO, policy=dict(policy), **fixed, **sets)
    return replace(this, made=_built(setting.model, setting.exponent, setting.sequences, prompt, output))


@lru_cache(maxsize=16)
def planned(setting: Setting, policy: Parameters, *, decode: bool) -> Planned:
    """The policy with the plan it makes where calls cost what a kernel launch does, as the published planners assume."""
    this = _scenario(setting, policy, {}, decode=decode)
    return Planned(inner=this.scenario.policy, plan=this.scenario.policy.deploy(problem_of(this, *this.build())))


@cache
def simulated(setting: Setting, policy: Parameters, call: float, *, one_thread: bool = True) -> Pace:
    """Seconds of all sequences: prefill, and one decode pass of each round in the middle of the output; calls as in `calls`."""

    def seconds(this: LoadedScenario, held: Planned, decode: bool) -> float:
        steps = run_loaded(this, bound=False, policy=held, policy_name="planned").frame("steps")
        times = steps.loc[steps["phase"] == ("decode" if decode else "prefill"), "step_time_s"]
        return float(times.iloc[_STEPS - 1 :: _STEPS].sum() if decode else times.sum())

    return _pace(setting, policy, calls(call, one_thread=one_thread), seconds)


def added(setting: Setting, policy: Parameters, call: float) -> Pace:
    """The same by sums over layers, without lanes, queues and events."""

    def seconds(this: LoadedScenario, held: Planned, decode: bool) -> float:
        job, routing = this.build()
        return pass_seconds(problem_of(this, job, routing), held.plan, routing, decode=decode)

    return _pace(setting, policy, calls(call), seconds)


def _pace(
    setting: Setting,
    policy: Parameters,
    sets: Mapping[str, Any],
    seconds: Callable[[LoadedScenario, Planned, bool], float],
) -> Pace:
    """Prefill and decode by `seconds`, each with the plan for it."""
    prefill, step = (
        seconds(_scenario(setting, policy, sets, decode=decode), planned(setting, policy, decode=decode), decode)
        for decode in (False, True)
    )
    return Pace(prefill, step)


def tokens_per_second(setting: Setting, pace: Pace) -> float:
    """Output tokens per second of the whole batch."""
    return setting.sequences * setting.output / pace.total(setting.output)
