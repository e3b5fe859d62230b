"""ProMoE: learned predictors fetch experts a stride ahead, beside the layers.

Knows the past of the run, and what its predictors see.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from moesim.policies.predictors import Learned, Predictor
from moesim.policies.prefetch import PrefetchPolicy
from moesim.policies.prefetch_buffers import Aim

__all__ = ["ProMoe"]


class ProMoe(PrefetchPolicy):
    """An LRU cache per layer; while layer l runs, a small network on the CPU predicts layer l + stride, which is fetched.

    Experts of the layer that runs go ahead of all prefetches; what is queued for a layer whose router has spoken, and not used,
    is called off; cached experts run first.
    Source: ProMoE, arXiv:2410.22134 (stride, two-level queue, order; stride 2).
    Inferred: recall (of the class of gate predictors), the predictor's 200 us, the number of buffers; a copy leaves at the
    first decision after its prediction is known. Left out: copies in three chunks (gate, up, down), between which a demand load
    goes ahead of a running prefetch: give the link a `chunk` of a third of an expert to have them.
    """

    kind: Literal["promoe"] = "promoe"
    stride: int = Field(2, ge=1)
    """Layers from the one whose hidden state is read to the one predicted (published: 2)."""
    predictor: Learned = Learned()
    """Recall by depth, and the predictor's CPU time."""

    source: ClassVar[str] = "ProMoE (arXiv:2410.22134)"

    def sight(self) -> Predictor:
        """The networks."""
        return self.predictor

    def aim(self) -> Aim:
        """One layer, a stride ahead."""
        return Aim(first=self.stride, depth=self.stride)
