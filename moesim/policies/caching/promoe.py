"""ProMoE: learned predictors fetch experts a stride ahead, beside the layers.

Knows the past of the run, and what its predictors see.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from moesim.contract import Deployment, Problem
from moesim.policies.caching.prefetch import PrefetchPolicy
from moesim.policies.kit.predictors import Learned, Predictor
from moesim.policies.kit.prefetch_buffers import Aim

__all__ = ["ProMoe"]


class ProMoe(PrefetchPolicy):
    """An LRU cache per layer; while layer l runs, a small network on the CPU predicts layer l + stride, which is fetched.

    Experts cross in three pieces (gate, up, down matrix), each with a set-up. Experts of the layer that runs go ahead of all
    prefetches, of one under way when its present piece has crossed; what is queued for a layer whose router has spoken, and not
    used, is called off. Cached experts run first, then pieces as they land.
    Source: ProMoE, arXiv:2410.22134 (stride, two-level queue, order; stride 2).
    Inferred: recall (of the class of gate predictors), the predictor's 200 us, the number of buffers; a copy leaves at the
    first decision after its prediction is known.
    """

    kind: Literal["promoe"] = "promoe"
    stride: int = Field(2, ge=1)
    """Layers from the one whose hidden state is read to the one predicted (published: 2)."""
    predictor: Learned = Learned()
    """Recall by depth, and the predictor's CPU time."""
    pieces: int = Field(3, ge=1)
    """Pieces in which an expert crosses (published: 3)."""

    source: ClassVar[str] = "ProMoE (arXiv:2410.22134)"

    def deploy(self, problem: Problem) -> Deployment:
        """As all that prefetch, in pieces."""
        return replace(super().deploy(problem), pieces=self.pieces)

    def sight(self) -> Predictor:
        """The networks."""
        return self.predictor

    def aim(self) -> Aim:
        """One layer, a stride ahead."""
        return Aim(first=self.stride, depth=self.stride)
