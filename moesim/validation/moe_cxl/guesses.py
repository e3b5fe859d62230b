"""Owns how often MoE-CXL's prefetches are right: runs that fetch one expert for every layer, and the predictor replayed alone.

Knows scenarios by name; judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.arrays import BoolArray
from moesim.contract import Problem
from moesim.engine import simulate
from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.policies.near_data.moe_cxl_history import SequenceHistory
from moesim.runs.run import loaded, problem_of
from moesim.validation.moe_cxl.setups import DRAM
from moesim.workload.table import RoutingTable

__all__ = ["Guesses", "break_even", "guesses", "replayed", "without_history"]

_AT_ONCE: dict[str, Any] = {
    **DRAM,
    **{f"hardware.links.pcie.{way}": "100 TB/s" for way in ("rate", "both")},
    **{f"hardware.tiers.ddr.{way}": "100 TB/s" for way in ("read", "total")},
    "hardware.links.pcie.setup": "0 us",
}
"""Copies take no time, so that nothing but the predictor decides what is fetched."""


@dataclass(frozen=True)
class Guesses:
    """A run that fetches the likeliest missing expert of every coming layer, whatever that costs."""

    fetched: int
    used: int
    window: float
    """Seconds between the end of a layer and the dispatch of the next: what a copy can hide in."""
    copy: float
    """Seconds of a copy."""
    alone: float
    """Share of fetched experts that is used, by the predictor alone."""

    @property
    def accuracy(self) -> float:
        """Share of fetched experts that is used."""
        return self.used / max(self.fetched, 1)


def guesses(scenario: str = "moe_cxl/mixtral-8x7b", *, hinted: bool = False, **workload: Any) -> Guesses:
    """Decode of a scenario's model with `workload` keys changed; one token of prompt, so that decode is all there is.

    From the sequence of activations alone, or with the policy's hint, too.
    """
    plain = {"prefetch": 1, "idle_cost": 0.0, "adapt_placement": False}
    policy = MoeCxl.model_validate(plain if hinted else {**plain, "hint": None})
    sets = {f"workload.{key}": value for key, value in {"prompt": 1, "output": 32, **workload}.items()}
    loaded_scenario = loaded(scenario, **_AT_ONCE, **sets)
    job, routing = loaded_scenario.build()
    problem = problem_of(loaded_scenario, job, routing)
    deployment = simulate(problem, policy, routing).deployment
    prefetcher = deployment.state.prefetcher
    real = problem_of(loaded(scenario), job, routing)
    copy = float(real.costs.copy(real.model.expert_bytes, "ddr", real.gpu_tier))
    alone = replayed(problem, routing, deployment.resident, policy)
    return Guesses(prefetcher.history.fetched, prefetcher.history.used, prefetcher.window["decode"], copy, alone)


def replayed(problem: Problem, routing: RoutingTable, resident: BoolArray, policy: MoeCxl) -> float:
    """Share of right guesses when the predictor goes through what the router said, one expert not `resident` per layer."""
    history = SequenceHistory(problem.popularity, problem.model.top_k, policy.depth, policy.ngram)
    members, layers = np.arange(problem.job.requests), problem.layers
    right = number = 0
    for step in range(int(problem.job.output.max())):
        phase = "decode" if step else "prefill"
        counts = routing.decode_counts(members, step - 1) if step else routing.prefill_counts(members)
        for layer in range(layers):
            history.learn(layer, counts[layer], phase)
            if layer + policy.depth < layers:
                chance = np.where(resident[layer + policy.depth], -1.0, history.chance(layer, counts[layer], phase))
                guess = np.array([int(chance.argmax())])
                history.fetch(layer + policy.depth, guess, chance[guess])
                right += int(counts[layer + policy.depth][guess[0]] > 0)
                number += 1
    return right / number


def without_history(experts: int, top_k: int, batch: int) -> float:
    """Chance that an expert picked blindly is used by `batch` independent tokens: 1 - (1 - k / E)^batch."""
    return 1.0 - (1.0 - top_k / experts) ** batch


def break_even(copy: float, window: float, idle: float = 0.5) -> float:
    """Accuracy above which fetching ahead saves time: p window > (1 - p) idle copy, for copies longer than the window.

    A right guess saves what fits into the window; a wrong one holds demand up for `idle` of a copy.
    """
    saved = min(copy, window)
    return idle * copy / (saved + idle * copy)
