"""Owns closed forms of what a run of a resident model should take, for rows that a published number contradicts.

Knows the durations of one model on one machine and the routing that a run draws; runs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Costs
from moesim.contract.costs import StepLoad
from moesim.runs.run import loaded
from moesim.validation.runtimes.single import Setting, scenario_of
from moesim.workload.table import RoutingTable

__all__ = ["Drawn", "drawn", "resident_prefill"]


class Drawn(NamedTuple):
    """What a run of a setting starts from."""

    costs: Costs
    routing: RoutingTable
    prompt: int


def drawn(setting: Setting, sequences: int, prompt: int, output: int) -> Drawn:
    """Durations of the setting's model under its runtime, and the routing of such a run."""
    loaded_scenario = loaded(scenario_of(setting, sequences, prompt, output))
    scenario = loaded_scenario.scenario
    return Drawn(Costs(scenario.model, scenario.hardware, scenario.runtime), loaded_scenario.build()[1], prompt)


def resident_prefill(run: Drawn, piece: int | None = None) -> float:
    """Seconds until the prompt of the first request has passed all layers, in pieces of `piece` tokens or whole, and one word
    is sampled."""
    costs, gpu, memory = run.costs, run.costs.system.attending_gpu, run.costs.system.gpu_tier
    total, whole = float(costs.head(1)), np.array([run.prompt])
    for first in range(0, run.prompt, piece or run.prompt):
        last = min(first + (piece or run.prompt), run.prompt)
        tokens = last - first
        flops, nbytes = (work([tokens], [first]) for work in (costs.model.core_flops_prefill, costs.model.core_bytes_prefill))
        core = costs.core(gpu, flops, nbytes, "prefill", memory, StepLoad(tokens=tokens))
        counts = run.routing.chunk_counts(np.arange(1), np.array([first]), np.array([last]), whole)
        total += _layers(costs, tokens, counts) + float(core.sum())
    return total


def _layers(costs: Costs, tokens: int, counts: IntArray) -> float:
    """Seconds of everything in the layers but the attention core, with `counts` [L, E] tokens per expert."""
    model, gpu = costs.model, costs.system.attending_gpu
    dense = float(costs.projections(gpu, tokens) + costs.output(gpu, tokens))
    per_layer = float(costs.router(tokens) + costs.shared(tokens)) + costs.calls(gpu).once
    experts = float(costs.gpu(counts, several=tokens > 1).sum())
    return model.layers * dense + model.n_moe * per_layer + experts + model.n_dense * float(costs.dense(tokens))
