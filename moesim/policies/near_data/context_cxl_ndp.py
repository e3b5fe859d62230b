"""Context-aware mixed precision on CXL GPU-NDP: the prompt picks the experts for the GPU and the bits of all others.

Knows one prompt; nothing changes during its decode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import in_gpu_memory, upload_missing
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, place, quota
from moesim.policies.kit.precision import bit_budget, native_bits, with_copies
from moesim.policies.kit.schedule import on_devices
from moesim.policies.near_data.units import in_place, near_data_first, near_data_tiers

__all__ = ["ContextCxlNdp"]


@dataclass
class _Memory:
    """What is decided once per prompt."""

    slots: IntArray
    """[L] experts of each layer in GPU memory."""
    units: IntArray
    """[L, E] device that computes an expert in place."""
    nbytes: FloatArray
    """[L, E] bytes of the copy that serves an expert there."""


class ContextCxlNdp(SizedPolicy):
    """After the prompt, each layer's most used experts stay on the GPU; the others run beside their memory at 1 to 4 bits.

    Prompt: on the GPU, missing experts uploaded in full precision; per layer the `pinned` with most tokens stay. The others, by
    tokens, get the bits that lose least with a mean of `mean_bits` (`bit_budget`). Decode: GPU and near-data units side by
    side, nothing moves.
    Source: arXiv:2512.04476 (score, pins: 4 of 8 for Mixtral-8x7B, 2 of 8 for 8x22B, exact search of the bits, frozen after the
    prompt). Inferred: loss of an expert = its share of tokens * `losses`, in place of a table measured on 1,024 samples of C4;
    summed gate weights follow token counts, so its score S is the share of tokens; the prompt runs on the GPU alone; low bits
    cost the unit fewer bytes and no fewer operations, so one that computes as slowly as it reads gains nothing (published: 5x
    at 3 bits and 8x at 2, the ratio of bytes alone). Valid: changes outputs (`quality`); published for one sequence
    (`batch: 1`), near-data units are simulated hardware; part of the gain over MoNDE is precision, not placement.
    """

    kind: Literal["context_cxl_ndp"] = "context_cxl_ndp"
    pinned: int | None = Field(None, ge=0)
    """K: experts per layer on the GPU in full precision; as many as fit if not given."""
    mean_bits: float = Field(3.0, ge=1, le=4)
    """Mean bits of the copies that near-data units compute from (published: 3 or 2)."""
    losses: tuple[float, float, float, float] = (1.0, 0.25, 0.0625, 0.015625)
    """Loss at 1, 2, 3 and 4 bits, relative: the error of a uniform quantiser falls by four with each bit."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "context-aware mixed precision (arXiv:2512.04476)"

    def deploy(self, problem: Problem) -> Deployment:
        """Every expert, and its four small copies, where a near-data unit is; the profile stands in for the first prompt."""
        near_data_tiers(problem)
        size, shape = float(problem.model.expert_bytes), (problem.layers, problem.experts)
        further = float(sum(_share(problem, bits) for bits in (1, 2, 3, 4)))
        cut = self.cut(problem, movable=True, nbytes=size * (1.0 + further))
        groups = near_data_first(problem)[:1]
        deployment = with_copies(
            lambda sizes: place(problem, homes=HomeOrder(groups), expert_bytes=sizes, cut=cut, movable=True),
            np.full(shape, size),
            further,
        )
        resident = quota(problem.popularity, self.pinned)(problem.gpu_free(cut), deployment.expert_bytes)
        memory = _Memory(resident.sum(axis=1), in_place(problem, deployment.home), np.empty(shape))
        for layer, shares in enumerate(problem.popularity):
            memory.nbytes[layer] = self._bytes(problem, shares, resident[layer])
        return replace(deployment, resident=resident, state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The GPU for what it holds, the unit beside it for each other expert."""
        if visit.phase == "prefill":
            return upload_missing(visit, view)
        memory: _Memory = view.state
        here = in_gpu_memory(visit, view)
        device = np.where(here, view.problem.attending_index, memory.units[visit.layer])
        return on_devices(device, visit, view)._replace(nbytes=memory.nbytes[visit.layer])

    def adapt(self, step: Step, view: View) -> Moves:
        """After each layer of a prompt: who stays, and the bits of the others."""
        if step.phase != "prefill":
            return NO_MOVES
        memory: _Memory = view.state
        layer, resident = step.layer, view.resident[step.layer]
        pinned = np.zeros_like(resident)
        ranked = np.argsort(-step.counts - 0.5 * resident, kind="stable")  # of equals, who is there need not be moved
        there = resident.copy()
        there[step.uploaded] = True
        pinned[ranked[there[ranked]][: int(memory.slots[layer])]] = True
        memory.nbytes[layer] = self._bytes(view.problem, step.counts / step.counts.sum(), pinned)
        return Moves(np.flatnonzero(pinned & ~resident), pairs_of(layer, np.flatnonzero(resident & ~pinned)))

    def _bytes(self, problem: Problem, shares: FloatArray, pinned: BoolArray) -> FloatArray:
        """[E] bytes of the copy that serves each expert of a layer whose tokens are shared out as `shares` [E]."""
        size = float(problem.model.expert_bytes)
        nbytes = np.full(len(shares), size)
        compressed = np.flatnonzero(~pinned)
        compressed = compressed[np.argsort(-shares[compressed], kind="stable")]
        bits = bit_budget(shares[compressed, None] * np.array(self.losses), self.mean_bits)
        nbytes[compressed] = size * np.array([_share(problem, b) for b in range(5)])[bits]
        return nbytes


def _share(problem: Problem, bits: int) -> float:
    """Bytes of a copy with that many bits per weight, as a share of the model's own."""
    return min(bits / native_bits(problem.model.expert_bytes, problem.model.expert_flops), 1.0)
