"""What precedes the experts of each MoE layer where the GPU attends alone: a time, for many steps at once.

Knows the plan and the costs; knows no routing and no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.clock import to_ps
from moesim.contract import Deployment, Module, Problem
from moesim.contract.costs import StepLoad
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visits import PackedTemplates
from moesim.hardware.device import PHASES

__all__ = ["GpuSteps", "Parts", "StepTemplates", "attends_alone"]


_LARGE = 1 << 14
"""Tokens of a step beyond which times are computed for each step, since a table would take longer."""


class Parts(NamedTuple):
    """The attention of n steps, or micro-batches: that of prompts, then that of decodes, by the K kinds of decoder layers."""

    tokens: IntArray
    """[n] tokens of each."""
    sampled: IntArray
    """[n] output tokens that each yields."""
    of_phase: IntArray
    """[n, 2] of its tokens, those of prompts and those that decode."""
    flops: FloatArray
    """[n, 2, K] FLOP of their cores."""
    nbytes: FloatArray
    """[n, 2, K] bytes of keys and values."""

    def rows(self, index: Any) -> Parts:
        """Some of the steps."""
        return Parts(*(part[index] for part in self))


def attends_alone(problem: Problem, deployment: Deployment) -> bool:
    """Whether all of a step but its experts runs on the GPU, from its own memory."""
    plan, gpu = deployment.plan, problem.system.attending_gpu
    phases = (plan.prefill, plan.decode)
    here = all(device == gpu for part in phases for device in (part.projections, part.core, part.output))
    split = any(isinstance(part.pipeline, Module) for part in phases)
    return problem.job.attention and here and not split and plan.kv == problem.gpu_tier and not plan.homes.elsewhere


class StepTemplates(NamedTuple):
    """What the GPU does before the experts of each layer of n steps, and behind the layers: a time each, no operations."""

    packed: PackedTemplates
    of_visit: IntArray
    """[n, L + 1] the template of each visit, -1 where nothing follows the layers."""


class GpuSteps:
    """Steps of m micro-batches: the GPU passes them one after another, then what follows attention."""

    def __init__(self, problem: Problem, micro_batches: int) -> None:
        self._problem = problem
        self.kinds, kind_of = _kinds(problem)
        """[K] a decoder layer of each kind of attention."""
        self.layers_of_kind = np.bincount(kind_of, minlength=len(self.kinds))
        """[K] decoder layers of each kind."""
        self._tables: dict[str, IntArray] = {}
        moe, bare, parts = set(problem.model.moe_layers), set(problem.model.bare_layers), micro_batches * len(self.kinds)
        groups: list[tuple[int, ...]] = []
        columns: list[int] = []
        for layer, kind in enumerate(kind_of.tolist()):
            columns += (*range(kind, parts, len(self.kinds)), parts + (0 if layer in moe else 2 if layer in bare else 1))
            if layer in moe:
                groups.append(tuple(columns))
                columns = []
        self._trailing = columns
        self._groups = list(dict.fromkeys(groups))
        """Columns of the times that each template adds up."""
        self._of_layer: IntArray = np.array([self._groups.index(group) for group in groups], dtype=np.int64)
        """[L] the template of each MoE layer; that of what follows the layers is the last."""

    def templates(self, parts: Parts, micro_batches: Parts) -> StepTemplates:
        """Of n steps; `micro_batches`: the m of the first step, then those of the next."""
        model, costs, number = self._problem.model, self._problem.costs, len(parts.tokens)
        gpu, pieces, tokens = self._problem.system.attending_gpu, micro_batches.tokens, parts.tokens
        around = self._ps("QKV projection", pieces, lambda t: costs.projections(gpu, t))
        around = around + self._ps("output projection", pieces, lambda t: costs.output(gpu, t))
        attention = (around[:, None] + self._cores(micro_batches)).reshape(number, -1)
        zero = np.zeros(number, dtype=np.int64)
        dense = self._ps("a dense layer", tokens, costs.dense) if model.n_dense else zero
        router = self._ps("the router", tokens, costs.router) if self._groups else zero
        head = np.where(parts.sampled > 0, self._ps("the LM head", parts.sampled, costs.head), 0)
        bank = np.column_stack([attention, router, dense, zero])
        last = head + bank[:, self._trailing].sum(axis=1)
        table = np.zeros((number, len(self._groups) + 1, k.A_WIDTH), dtype=np.int64)
        for place, group in enumerate(self._groups):
            table[:, place, k.A_ALONE], table[:, place, k.A_MOMENTS] = bank[:, group].sum(axis=1), len(group)
        table[:, -1, k.A_ALONE], table[:, -1, k.A_MOMENTS] = last, 1
        first = (np.arange(number) * table.shape[1])[:, None]
        behind = np.where(last > 0, first[:, 0] + table.shape[1] - 1, -1)
        of_visit = np.column_stack([first + self._of_layer, behind])
        return StepTemplates(PackedTemplates(np.zeros(1, dtype=np.int64), np.zeros(1), table.ravel(), (0, 0, 0)), of_visit)

    def _cores(self, parts: Parts) -> IntArray:
        """[n, K] ps of the attention core: prompts and decodes one after another."""
        problem, gpu = self._problem, self._problem.system.attending_gpu
        seconds = np.zeros((len(parts.tokens), len(self.kinds)))
        mixed = np.all(parts.of_phase > 0, axis=1, keepdims=True)
        for number, phase in enumerate(PHASES):
            tokens = parts.of_phase[:, number, None]
            if tokens.any():
                alone = problem.costs.core(
                    gpu, parts.flops[:, number], parts.nbytes[:, number], phase, problem.gpu_tier,
                    StepLoad(tokens, mixed, parts.tokens[:, None]),
                )  # fmt: skip
                seconds += np.where(tokens > 0, alone, 0.0)
        return to_ps(seconds, f"attention on {gpu}")

    def _ps(self, operation: str, tokens: IntArray, seconds: Callable[[IntArray], FloatArray]) -> IntArray:
        """ps by tokens, looked up unless steps are large; the table grows with the largest step."""
        most = int(tokens.max())
        if most > _LARGE:
            return to_ps(seconds(tokens), operation)
        if most >= len(self._tables.get(operation, ())):
            self._tables[operation] = to_ps(seconds(np.arange(max(64, 1 << most.bit_length()))), operation)
        return self._tables[operation][tokens]


def _kinds(problem: Problem) -> tuple[list[int], IntArray]:
    """A decoder layer of each kind of attention, and [D] the kind of each."""
    model = problem.model
    linear, sparse = set(model.linear_layers), set(model.sparse_layers)
    windows, cached = list(model.windows) or [0] * model.layers, model.kv_bytes_per_layer
    alike = [(windows[layer], layer in linear, layer in sparse, float(cached[layer])) for layer in range(model.layers)]
    distinct = list(dict.fromkeys(alike))
    return [alike.index(kind) for kind in distinct], np.array([distinct.index(kind) for kind in alike], dtype=np.int64)
