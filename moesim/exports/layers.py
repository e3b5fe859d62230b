"""The nearest placement of programs that move the experts of a layer as one tensor: which layers stay in GPU memory.

Knows the run's placement and what fits; nothing of the words of a program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray
from moesim.contract import Deployment, Dispatch, Policy, Problem, Serial, View, Visit
from moesim.errors import InputError, Mistake
from moesim.exports.placed import Placed
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import SizedPolicy, place

__all__ = ["HostLayers", "first_layers", "nearest_layers", "resident_of"]


class HostLayers(SizedPolicy):
    """The experts of some layers lie in the host and are brought to the GPU when their layer runs; nothing else moves.

    Source: `--cpu-offload-gb` of vLLM (weights that the GPU reads over PCIe in place: those that tokens ask for) and of SGLang
    (`whole`: the weights of a module are copied before it runs). Valid: as far as an upload stands for a read in place.
    """

    host_layers: tuple[int, ...]
    """MoE layers (from 0) whose experts lie in the host."""
    chunk: int = Field(ge=1)
    """Tokens of prompts that pass the layers together."""
    whole: bool = False
    """Whether a layer crosses with all its experts, used or not."""

    memoryless: ClassVar[bool] = True

    def deploy(self, problem: Problem) -> Deployment:
        """The other layers resident."""
        cut = self.cut(problem, chunk=self.chunk)
        return place(problem, resident=resident_of(problem, self.host_layers), cut=cut.piped(Serial()))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All on the GPU."""
        return upload_missing(visit, view, whole_layer=self.whole)


def resident_of(problem: Problem, host_layers: tuple[int, ...]) -> BoolArray:
    """[L, E] all experts of the layers that are not in the host."""
    resident = np.ones((problem.layers, problem.experts), dtype=np.bool_)
    resident[list(host_layers)] = False
    return resident


def nearest_layers(placed: Placed, policy: Callable[[tuple[int, ...]], Policy]) -> tuple[int, ...]:
    """The MoE layers to leave in the host, so that those in GPU memory share most experts with the run's placement.

    They take no more bytes than the run's residents did, and no more than `policy(host layers)` can place. Ties go to the layer
    whose residents were used more, then to the later one.
    """
    shared, used = placed.resident.sum(axis=1), (placed.uses * placed.resident).sum(axis=1)
    order = np.lexsort((-np.arange(len(shared)), -used, -shared)).tolist()
    return _fitting(placed, order, policy)


def first_layers(placed: Placed, policy: Callable[[tuple[int, ...]], Policy]) -> tuple[int, ...]:
    """As `nearest_layers`, of programs that can only leave the first layers in the host."""
    return _fitting(placed, list(range(len(placed.resident)))[::-1], policy)


def _fitting(placed: Placed, order: list[int], policy: Callable[[tuple[int, ...]], Policy]) -> tuple[int, ...]:
    """The layers that do not fit when those in `order` become resident one after another."""
    budget = float(placed.sizes[placed.resident].sum())
    taken = np.cumsum(placed.sizes.sum(axis=1)[order])
    for count in range(int(np.searchsorted(taken, budget * (1 + 1e-12), side="right")), -1, -1):
        host = tuple(sorted(set(order) - set(order[:count])))
        try:
            policy(host).deploy(placed.problem)
        except InputError as error:
            reason = error
            continue
        return host
    raise InputError(Mistake(f"this program cannot place the model on the run's machine: {reason}", file=placed.place))
