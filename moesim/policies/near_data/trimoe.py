"""TriMoE: GPU, CPU and near-data units share the experts of every visit so that the busiest device ends early.

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
from moesim.policies.kit.schedule import makespan, on_devices
from moesim.policies.near_data.units import in_place, near_data_tiers, place_near_data
from moesim.units import Share

__all__ = ["TriMoe"]


@dataclass
class _Memory:
    """What TriMoE remembers."""

    devices: IntArray
    """[L, E] near-data unit of each expert's home; the CPU where it has none."""
    units: IntArray
    """[U] device indices of near-data units."""
    slots: IntArray
    """[L] experts of each layer in GPU memory."""
    average: FloatArray
    """[L, E] moving average of tokens."""


class TriMoe(SizedPolicy):
    """Each expert to the device that ends first, then off the busiest one; experts that turn hot are fetched beside the layers.

    Times per expert: GPU max(gpu, copy) if missing, CPU from its home, near-data unit of its home. Prompts run on the GPU.
    After every layer EMA <- a c + (1 - a) EMA; the hottest experts outside GPU memory displace the coldest inside, kept if they
    were just uploaded, else fetched for the next pass.
    Source: TriMoE, DAC 2026, arXiv:2603.01058 (schedule, a = 0.3). Inferred: at most two exchanges per visit, and the gain
    in tokens that one needs (`hysteresis`); residents at first by the profile, equally many per layer. Left out: experts
    striped over or confined to DIMMs and the re-layout between them (worth about 1.16x there), and contention of a unit with
    other readers of its memory beyond what the tier's bandwidth gives. Valid: near-data units are simulated hardware.
    """

    kind: Literal["trimoe"] = "trimoe"
    alpha: Share = 0.3
    """a of the moving average (published: 0.3)."""
    moves: int = Field(2, ge=0)
    """Most exchanges after a visit."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which the average of a newcomer must exceed that of the expert which leaves, beside one token per visit."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "TriMoE (DAC 2026, arXiv:2603.01058)"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything beside near-data units, the most popular on the GPU too."""
        require_cpu(problem)
        units = [problem.ndp_index[problem.tiers.index(tier)] for tier in near_data_tiers(problem)]
        cut = self.cut(problem, movable=True)
        deployment = place_near_data(problem, resident=quota(problem.popularity), cut=cut, movable=True)
        slots = deployment.resident.sum(axis=1)
        tokens = problem.popularity * problem.model.top_k * cut.batch
        devices = in_place(problem, deployment.home)
        return replace(deployment, state=_Memory(devices, np.array(units), slots, tokens))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The schedule over three kinds of device."""
        if visit.phase == "prefill":
            return upload_missing(visit, view)
        memory, problem = view.state, view.problem
        order = by_tokens(visit.counts)[: int(np.count_nonzero(visit.counts))]
        missing = ~in_gpu_memory(visit, view)[order]
        columns = np.concatenate(([problem.gpu_index, problem.cpu_index], memory.units))
        times = np.full((len(order), len(columns)), np.inf)
        times[:, 0] = np.maximum(visit.gpu[order], visit.copy[order] * missing)
        times[:, 1] = visit.cpu[order]
        near = memory.devices[visit.layer][order]
        times[:, 2:] = np.where(near[:, None] == memory.units, visit.ndp[order][:, None], np.inf)
        device = np.full(len(visit.counts), problem.gpu_index)
        device[order] = columns[makespan(times)]
        return on_devices(device, visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Follows the average."""
        memory: _Memory = view.state
        average, layer = memory.average[step.layer], step.layer
        if step.phase == "prefill":
            return NO_MOVES
        average += self.alpha * (step.counts - average)
        resident = view.resident[layer]
        held, terms = resident | view.in_flight[layer], Terms(1.0, self.hysteresis, self.moves)
        enter, drop = exchanges(average, np.ones(len(average)), held, resident, int(memory.slots[layer]), terms)
        if not len(enter):
            return NO_MOVES
        just = np.isin(enter, step.uploaded)
        return Moves(enter[just], pairs_of(layer, drop), pairs_of(layer, enter[~just]))
