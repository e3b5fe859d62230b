"""TriMoE: GPU, CPU and memory modules that compute share the experts of every visit so that the busiest device ends early.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, upload_missing
from moesim.policies.kit.migration import Terms, exchanges, pairs_of
from moesim.policies.kit.placement import SizedPolicy, quota, require_cpu
from moesim.policies.kit.schedule import on_devices
from moesim.policies.near_data.dimms import Layout, Modules, modules_of, shared_out
from moesim.policies.near_data.units import place_near_data
from moesim.units import Share

__all__ = ["TriMoe"]


@dataclass
class _Memory:
    """What TriMoE remembers."""

    modules: Modules
    layout: Layout
    slots: IntArray
    """[L] experts of each layer in GPU memory."""
    average: FloatArray
    """[L, E] moving average of tokens."""
    read: FloatArray
    """[T, U] seconds for which a read of an expert from each tier keeps each module."""


class TriMoe(SizedPolicy):
    """Each expert to the device that ends first, then off the busiest one; experts follow a moving average through layouts.

    Warm experts are striped over all modules, for the CPU; a cold one is confined to a module, for the unit in it, and is read
    by others at the rate of that module's channel. Times per expert: GPU max(gpu, copy) if missing, CPU and unit from its
    home; reads by GPU and CPU keep the modules that they come from. Prompts run on the GPU. After every layer EMA <- a c + (1 -
    a) EMA; the hottest experts outside GPU memory displace the coldest inside; warm and cold ones change layout, and modules
    with much work hand experts on, over whatever link joins modules (DIMM-Link), beside the layers.
    Source: TriMoE, DAC 2026, arXiv:2603.01058 (schedule, layouts, a = 0.3). Inferred: the limit between warm and cold (where
    CPU and units would end together); at most two exchanges and two changes of layout per visit, and the gain in tokens that
    one needs (`hysteresis`); residents at first by the profile, equally many per layer. On a machine without a set of tiers
    over its near-data units all experts are confined. Left out: reads of the cache of keys and values in the same modules,
    which their model leaves out too, where `kv` is GPU memory. Valid: near-data units are simulated hardware.
    """

    kind: Literal["trimoe"] = "trimoe"
    alpha: Share = 0.3
    """a of the moving average (published: 0.3)."""
    moves: int = Field(2, ge=0)
    """Most exchanges with GPU memory after a visit, and most changes of layout."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which the average of a newcomer must exceed that of the expert which leaves, beside one token per visit, and by
    which tokens must pass the limit between warm and cold."""
    cpu: bool = True
    """Whether the CPU computes (an ablation)."""
    refine: bool = True
    """Whether experts leave the busiest device after the greedy assignment (an ablation)."""
    relayout: bool = True
    """Whether layouts follow the average (an ablation: else they stay as the profile had them)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "TriMoE (DAC 2026, arXiv:2603.01058)"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything in modules, striped or confined, the most popular on the GPU too."""
        require_cpu(problem)
        modules = modules_of(problem)
        layout, cut = Layout(problem, modules), self.cut(problem, movable=True)
        tokens = problem.popularity * problem.model.top_k * cut.batch
        deployment = place_near_data(problem, resident=quota(problem.popularity), cut=cut, movable=True)
        if modules.striped >= 0:
            rows = zip(tokens, deployment.resident, strict=True)
            deployment = replace(deployment, home=np.stack([layout.homes(row, held) for row, held in rows]))
        slots = deployment.resident.sum(axis=1)
        return replace(deployment, state=_Memory(modules, layout, slots, tokens, _reads(problem, modules)))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The schedule over three kinds of device."""
        if visit.phase == "prefill":
            return upload_missing(visit, view)
        memory: _Memory = view.state
        problem, modules = view.problem, memory.modules
        order = by_tokens(visit.counts)[: int(np.count_nonzero(visit.counts))]
        home, missing = view.home[visit.layer][order], ~in_gpu_memory(visit, view)[order]
        columns = np.concatenate(([problem.attending_index, problem.cpu_index], modules.units))
        times = np.full((len(order), len(columns)), np.inf)
        times[:, 0] = np.maximum(visit.gpu[order], visit.copy[order] * missing)
        times[:, 1] = visit.cpu[order] if self.cpu else np.inf
        times[:, 2:] = np.where(home[:, None] == modules.tiers, visit.local[order][:, None], np.inf)
        reads = np.zeros((len(order), 2, len(columns)))
        reads[:, 0, 2:] = memory.read[home] * missing[:, None]
        reads[:, 1, 2:] = memory.read[home]
        device = np.full(len(visit.counts), problem.attending_index)
        device[order] = columns[shared_out(times, reads, 2, refine=self.refine)]
        return on_devices(device, visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Follows the average."""
        memory: _Memory = view.state
        average, layer = memory.average[step.layer], step.layer
        if step.phase == "prefill":
            return NO_MOVES
        average += self.alpha * (step.counts - average)
        resident = view.resident[layer]
        held, terms = resident | view.in_flight[layer], Terms(1.0, self.hysteresis, self.moves, self.hysteresis)
        enter, drop = exchanges(average, np.ones(len(average)), held, resident, int(memory.slots[layer]), terms)
        layouts = self._layouts(step, view, memory)
        if not len(enter) and layouts is None:
            return NO_MOVES
        just = np.isin(enter, step.uploaded)
        return Moves(enter[just], pairs_of(layer, drop), pairs_of(layer, enter[~just]), layouts)

    def _layouts(self, step: Step, view: View, memory: _Memory) -> IntArray | None:
        """[n, 3] changes of home, or None."""
        if not self.relayout or memory.modules.striped < 0:
            return None
        apart = view.resident[step.layer] | view.in_flight[step.layer]
        changes = memory.layout.changes(memory.average[step.layer], apart, view.home[step.layer], self.hysteresis, self.moves)
        return np.column_stack((np.full(len(changes), step.layer), changes)) if len(changes) else None


def _reads(problem: Problem, modules: Modules) -> FloatArray:
    """[T, U] seconds for which reading an expert from a tier keeps each module."""
    size, resources = problem.model.expert_bytes, problem.system.resources()
    seconds = np.zeros((len(problem.tiers), len(modules.tiers)))
    for column, tier in enumerate(modules.tiers):
        whole = size / resources[f"{problem.tiers[tier]}:read"]
        seconds[tier, column] = whole
        if modules.striped >= 0:
            seconds[modules.striped, column] = whole / len(modules.tiers)
    return seconds
