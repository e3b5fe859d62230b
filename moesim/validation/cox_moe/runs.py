"""Owns how the systems of CoX-MoE's evaluation are run: plans as their papers make them, in the authors' program.

Knows its scenario by name; knows no published result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, SerializeAsAny

from moesim.contract import Deployment, Dispatch, Policy, Problem, View, Visit
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded
from moesim.scenario.scenario import LoadedScenario
from moesim.validation.cox_moe.account import pass_seconds
from moesim.validation.pace import Pace
from moesim.workload.table import Job, RoutingTable

__all__ = [
    "OWN",
    "SCENARIO",
    "Parameters",
    "Planned",
    "Program",
    "Setting",
    "added",
    "planned",
    "simulated",
    "tokens_per_second",
]

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


Program = tuple[tuple[str, Any], ...]
"""The program that runs: overrides of the scenario's runtime, which has its kernels at the machine's best rates."""
OWN: Program = (("runtime", "cox-moe"),)
"""CoX-MoE's."""


def _built(setting: Setting, *, decode: bool) -> tuple[Job, RoutingTable]:
    """Requests and routing of the prefill, or of the stretch of decode."""
    return _drawn(setting.model, setting.exponent, setting.sequences, setting.prompt, setting.output)[decode]


@lru_cache(maxsize=2)
def _drawn(
    model: str, exponent: float, sequences: int, prompt: int, output: int
) -> tuple[tuple[Job, RoutingTable], tuple[Job, RoutingTable]]:
    """The same for both, which no machine and no policy changes, drawn once: what precedes the stretch are the same tokens."""
    middle = _middle(output)
    sets = {**Setting("", model, exponent, sequences, 0, 0).workload(), **_lengths(prompt, middle + 1 + _STEPS)}
    job, table = loaded(SCENARIO, **sets).build()
    lone = replace(job, output=np.ones_like(job.output))
    later = replace(job, prompt=job.prompt + middle, output=job.output - middle)
    generated = np.stack([table.count(ids[:middle]) for ids in table.decode]).astype(table.prefill.dtype)
    return (
        (lone, replace(table, decode=table.decode[:, :0])),
        (later, replace(table, prefill=table.prefill + generated, decode=table.decode[:, middle:], prompts=None)),
    )


def _middle(output: int) -> int:
    """Tokens that are generated before the stretch of decode."""
    return output // 2 - _STEPS


def _lengths(prompt: int, output: int) -> dict[str, Any]:
    return {"workload.prompt": prompt, "workload.output": output}


def _scenario(setting: Setting, policy: Parameters, sets: Mapping[str, Any], *, decode: bool) -> LoadedScenario:
    """Its prefill alone, or a short stretch in the middle of its decode."""
    prompt, output = (setting.prompt + _middle(setting.output), 1 + _STEPS) if decode else (setting.prompt, 1)
    fixed = {**setting.workload(), **_lengths(prompt, output), "hardware": setting.hardware}
    scenario = loaded(SCENARIO, policy=dict(policy), **fixed, **sets)
    return replace(scenario, job_and_table=_built(setting, decode=decode))


@lru_cache(maxsize=16)
def planned(setting: Setting, policy: Parameters, known: Program = ()) -> Planned:
    """The policy with the plan it makes for the whole job, knowing the hardware's rates but not the program's (`known`)."""
    fixed = {**setting.workload(), **_lengths(setting.prompt, setting.output), "hardware": setting.hardware}
    scenario = loaded(SCENARIO, policy=dict(policy), **fixed, **dict(known))
    prompts, table = _built(setting, decode=False)
    # of routing a plan knows the profile, which is the same however long the answers are
    job = replace(prompts, output=np.full_like(prompts.output, setting.output))
    return Planned(inner=scenario.scenario.policy, plan=scenario.scenario.policy.deploy(problem_of(scenario, job, table)))


@cache
def simulated(setting: Setting, policy: Parameters, program: Program) -> Pace:
    """Seconds of all sequences: prefill, and one decode pass of each round in the middle of the output."""

    def seconds(scenario: LoadedScenario, held: Planned, decode: bool) -> float:
        steps = run_loaded(scenario, RunOptions(bound=False), policy=held, policy_name="planned").frame("steps")
        times = steps.loc[steps["phase"] == ("decode" if decode else "prefill"), "step_time_s"]
        return float(times.iloc[_STEPS - 1 :: _STEPS].sum() if decode else times.sum())

    return _pace(setting, planned(setting, policy), policy, program, seconds)


@lru_cache(maxsize=64)
def added(setting: Setting, policy: Parameters, program: Program, known: Program = ()) -> Pace:
    """The same by sums over layers, without events; planned with `known` of the program."""

    def seconds(scenario: LoadedScenario, held: Planned, decode: bool) -> float:
        job, routing = scenario.build()
        return pass_seconds(problem_of(scenario, job, routing), held.plan, routing, decode=decode)

    return _pace(setting, planned(setting, policy, known), policy, program, seconds)


def _pace(
    setting: Setting,
    held: Planned,
    policy: Parameters,
    program: Program,
    seconds: Callable[[LoadedScenario, Planned, bool], float],
) -> Pace:
    """Prefill and decode by `seconds`, with the plan for the whole job."""
    prefill, step = (
        seconds(_scenario(setting, policy, dict(program), decode=decode), _stretch(held) if decode else held, decode)
        for decode in (False, True)
    )
    return Pace(prefill, step)


def _stretch(held: Planned) -> Planned:
    """The plan for a stretch of decode: prompts as long as the context come in small portions, whose time does not count."""
    plan: Deployment = held.plan
    prefill = plan.plan.prefill
    portion = min(prefill.sequences or plan.plan.batch, max(plan.plan.batch // 8, 1))
    smaller = replace(prefill, micro_batch=min(prefill.micro_batch, portion), sequences=portion)
    return held.model_copy(update={"plan": replace(plan, plan=replace(plan.plan, prefill=smaller))})


def tokens_per_second(setting: Setting, pace: Pace) -> float:
    """Output tokens per second of the whole batch."""
    return setting.sequences * setting.output / pace.total(setting.output)
