"""Owns the machines and jobs that MoE-CXL's claims are tried on, and runs them beside the sums done by hand.

Knows scenarios by name; judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from moesim.contract import Deployment, Problem
from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded
from moesim.validation.moe_cxl.account import Account, account
from moesim.validation.parts import profile

__all__ = [
    "BUSY",
    "CXL",
    "DRAM",
    "FASTEST",
    "GPUS",
    "LARGE",
    "LONG",
    "MANY",
    "NO_CXL",
    "NVME",
    "ONE",
    "PAGEABLE",
    "PROMPT",
    "PUBLISHED_SLICE",
    "SLOW",
    "Sets",
    "Tried",
    "only",
    "tried",
]

Sets = Mapping[str, Any]

PUBLISHED_SLICE: Sets = {"hardware.tiers.hbm.capacity": "20 GB"}
"""GPU memory that holds 15 % of Mixtral's experts beside everything else, as published."""
NO_CXL: Sets = {f"hardware.tiers.cxl_{letter}.capacity": "1 MB" for letter in "abcd"}
CXL: Sets = PUBLISHED_SLICE
"""The machine of `moe_cxl/mixtral-8x7b`: four CXL devices, and DRAM of 16 GB that nothing spills into."""


def only(letter: str, capacity: str = "128 GB") -> Sets:
    """One CXL device that holds all experts, none in the others."""
    return {**PUBLISHED_SLICE, **NO_CXL, f"hardware.tiers.cxl_{letter}.capacity": capacity}


FASTEST: Sets = only("d")
"""CXL-D alone, whose 52 GB/s outrun PCIe."""
DRAM: Sets = {**PUBLISHED_SLICE, **NO_CXL, "hardware.tiers.ddr.capacity": "512 GB"}
"""All experts in page-locked DRAM."""
PAGEABLE: Sets = {**DRAM, "hardware.links.pcie.rate": profile("pcie4-x16-pageable")["rate"]}
"""All experts in DRAM that is not page-locked."""
SLOW: Sets = {**DRAM, "hardware.links.pcie.rate": "7 GB/s"}
"""The same at the lower end of what pageable copies reach."""
BUSY: Sets = {**DRAM, "hardware.tiers.ddr.read": "12 GB/s", "hardware.tiers.ddr.total": "12 GB/s"}
"""All experts in page-locked DRAM of which other users leave 12 GB/s (assumed: half of PCIe)."""
NVME: Sets = {**PUBLISHED_SLICE, **NO_CXL, "hardware.tiers.ddr.capacity": "1 MB"}
"""All experts on the SSD."""
GPUS: Sets = {"hardware.tiers.hbm.capacity": "160 GB", "hardware.devices.gpu.price": "30000 USD", **NO_CXL}
"""The memory and the price of two cards with the speed of one, and no CXL: what GPU-only serving of Mixtral takes."""
ONE: Sets = {"workload.requests": 1, "workload.output": 16}
MANY: Sets = {"workload.requests": 32, "workload.output": 8}
LONG: Sets = {
    **{"workload.requests": 1, "workload.prompt": 16384, "workload.output": 16},
    **{"workload.routing": {"kind": "uniform"}, "workload.profile": {"kind": "uniform"}},
}
"""Each of the experts gets tokens of so long a prompt, whatever the law."""
PROMPT: Sets = {**LONG, "workload.prompt": 32768, "workload.output": 1}
"""A prompt alone, without any decode step."""

_POWERS: Sets = {
    **{f"hardware.tiers.cxl_{letter}.energy": "100 pJ/B" for letter in "abcd"},
    "hardware.tiers.nvme.energy": "1000 pJ/B",
    "hardware.links.nvme_link.energy": "48 pJ/B",
}
"""Assumed: DRAM at some 6 pJ/bit behind a link of as much; an SSD of 7 W at 7 GB/s; PCIe 4. No time depends on them."""

SCENARIO, LARGE = "moe_cxl/mixtral-8x7b", "moe_cxl/qwen3-235b"
POLICIES: dict[str, dict[str, Any]] = {
    "baseline": {"kind": "deepspeed_moe"},
    "moe_cxl": {"kind": "moe_cxl", "period": 4},
    "still": {"kind": "moe_cxl", "prefetch": 0, "adapt_placement": False},
    "gpu_only": {"kind": "gpu_only"},
}
"""`moe_cxl` has all its parts, with periods as short as the jobs; `still` changes nothing during a run, so that sums by hand
follow it exactly."""


@dataclass(frozen=True)
class Tried:
    """One run, and what its layers add up to by hand."""

    result: Result
    by_hand: Account
    deployment: Deployment
    problem: Problem = field(repr=False)

    def simulated(self, metric: str) -> float:
        """`ttft`, `tpot` or `whole`, seconds; `capital`, USD times seconds per token."""
        summary = self.result.summary
        if metric == "capital":
            return self.problem.system.price * float(summary["makespan_s"] / summary["output_tokens"])
        return float(summary["makespan_s"] if metric == "whole" else summary[f"{metric}_s"]["mean"])

    def derived(self, metric: str) -> float:
        """The same by hand."""
        if metric == "capital":
            return self.problem.system.price * self.by_hand.whole / float(self.problem.job.output.sum())
        return {"ttft": self.by_hand.prefill, "tpot": self.by_hand.decode, "whole": self.by_hand.whole}[metric]


def tried(policy: str, machine: Sets, job: Sets, scenario: str = SCENARIO) -> Tried:
    """A scenario under one of `POLICIES` on a machine; each is run once."""
    return _tried(policy, json.dumps(machine), json.dumps(job), scenario)


@cache
def _tried(policy: str, machine: str, job: str, scenario: str) -> Tried:
    """By text, which can be looked up."""
    loaded_scenario = loaded(scenario, policy=POLICIES[policy], **json.loads(machine), **json.loads(job), **_POWERS)
    loaded_scenario = replace(loaded_scenario, job_and_table=_made(job, scenario))
    problem = problem_of(loaded_scenario, *loaded_scenario.build())
    deployment = loaded_scenario.scenario.policy.deploy(problem)
    ahead = deployment.state.prefetcher.slots if isinstance(loaded_scenario.scenario.policy, MoeCxl) else 0
    by_hand = account(problem, loaded_scenario.build()[1], deployment, ahead)
    return Tried(run_loaded(loaded_scenario, RunOptions(bound=False)), by_hand, deployment, problem)


@cache
def _made(job: str, scenario: str) -> Any:
    """Requests and routing of a job: the same for every machine and policy."""
    return loaded(scenario, **json.loads(job)).build()
