"""What a policy may know of routing that is still to come: a predictor's view with its recall, or a bound's full knowledge.

Types and arithmetic only; the engine fills them in, since policies must not hold the future themselves.

Short names: L MoE layers, E experts per layer, k experts per token, V visits of each layer in the run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.spec import Spec
from moesim.units import Share

__all__ = ["NEVER", "Foreseen", "Foresight", "Future"]


Foreseen = Callable[[int], "IntArray | None"]
"""Depth -> [E] predicted tokens of the layer that many ahead; None beyond the last layer."""

NEVER = np.iinfo(np.int32).max
"""`Future.next_use` of an expert that is not used again."""

_LOSS_PER_LAYER = 0.03
"""Recall lost with each further layer. Source: stacked gates of HOBBIT (arXiv:2411.01433), 96 % one layer ahead and about
90 % two to three ahead, and the means over published gate predictors."""


class Foresight(Spec):
    """A predictor that reads hidden states: how often it is right, and what a prediction costs.

    Recall is the share of (token, expert) pairs of a layer that it predicts; every other pair falls on another expert, drawn
    from the profile's popularity. The simulator has no hidden states, so it blurs the true routing by that much.
    Sources: next-layer gates 0.87 to 0.96 one layer ahead (AdapMoE arXiv:2408.10284, HOBBIT arXiv:2411.01433).
    """

    recall: tuple[Share, ...] = Field(default=(0.9,), min_length=1)
    """Share of pairs predicted right, by depth from 1; deeper than given, 0.03 less for each further layer."""
    seconds: float = Field(default=0.0, ge=0)
    """GPU time of the predictions of one visit, s."""
    blind_layers: int = Field(default=0, ge=0)
    """First MoE layers of which nothing is predicted (their true routing follows from nothing that is known)."""

    by_layer: tuple[Share, ...] | None = None
    """Share of pairs of a layer predicted right one layer ahead, from the first layer to the last, read off at the same
    relative depth of a model with more or fewer; it takes the place of `recall`, less 0.03 for each further layer ahead."""

    def of_layer(self, target: int, layers: int, depth: int) -> float:
        """Recall of MoE layer `target` of `layers`, `depth` >= 1 layers ahead."""
        if self.by_layer is None:
            return self.at(depth)
        place = target / max(layers - 1, 1) * (len(self.by_layer) - 1)
        nearest = float(np.interp(place, np.arange(len(self.by_layer)), self.by_layer))
        return max(nearest - _LOSS_PER_LAYER * (depth - 1), 0.0)

    def at(self, depth: int) -> float:
        """Recall `depth` >= 1 layers ahead."""
        known = len(self.recall)
        if depth <= known:
            return self.recall[depth - 1]
        return max(self.recall[-1] - _LOSS_PER_LAYER * (depth - known), 0.0)


class Future:
    """The whole run, in order of visits. The engine moves it on; a clairvoyant policy reads it."""

    def __init__(self, counts: list[IntArray]) -> None:
        """`counts`: [L, E] of every round (one for each group of sequences of each pass), in the order of the run."""
        self._counts = counts
        used = np.stack(counts) > 0
        self._next = np.full((len(counts) + 1, *counts[0].shape), NEVER, dtype=np.int64)
        for number in range(len(counts) - 1, -1, -1):
            self._next[number] = np.where(used[number], 0, np.minimum(self._next[number + 1] + 1, NEVER))
        self._upcoming: IntArray = np.zeros(len(counts[0]), dtype=np.int64)
        """[L] round of each layer's next visit, the one that runs excluded."""

    def move(self, first: int, groups: int, group: int, layer: int) -> None:
        """The visit of MoE layer `layer` by `group` begins, in the pass whose `groups` rounds begin with round `first`.

        A layer is visited by all groups before the next layer is.
        """
        self._upcoming[:layer] = first + groups
        self._upcoming[layer] = first + group + 1
        self._upcoming[layer + 1 :] = first

    def next_use(self, layer: int, ahead: int = 0) -> IntArray:
        """[E] visits of `layer` until each expert is used: 0 at its next visit (not the one that runs), `NEVER` if never.

        `ahead`: visits of that layer that are skipped first.
        """
        return np.asarray(self._next[min(int(self._upcoming[layer]) + ahead, len(self._counts))][layer])

    def counts(self, layer: int, ahead: int = 0) -> IntArray | None:
        """[E] tokens of the layer's visit `ahead` after its next one (the one that runs excluded); None after the last."""
        number = int(self._upcoming[layer]) + ahead
        return self._counts[number][layer].copy() if number < len(self._counts) else None

    @property
    def popularity(self) -> FloatArray:
        """[L, E] share of each layer's activations over the whole run."""
        total = np.sum(self._counts, axis=0).astype(np.float64)
        return np.asarray(total / np.maximum(total.sum(axis=1, keepdims=True), 1.0))
