"""Where weights other than routed experts live, and what of them crosses to the GPU in every step.

Knows kinds of weights and tiers; routed experts have homes of their own, `Deployment.home`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.arrays import BoolArray
from moesim.model import Architecture

__all__ = ["HERE", "Homes", "Weights", "crossing", "in_flight", "lying"]

Weights = tuple[tuple[str, float], ...]
"""(tier, bytes) of weights that are copied to the GPU together."""


@dataclass(frozen=True)
class Homes:
    """The tier of each kind of weights; None is GPU memory. Routers are always there.

    Weights that live elsewhere and that the GPU computes with are copied to it anew in every step: a layer's when it begins, or
    as many layers ahead as its pipeline streams, into buffers beside the staging slots. Where the plan of a phase names another
    device for projections, that device reads them and nothing crosses. The lookup of an embedding elsewhere copies the rows of
    the step's tokens.
    """

    attention: str | None = None
    """Projections of every decoder layer, in and out."""
    dense: str | None = None
    """Feed-forward parts of layers without experts."""
    shared: str | None = None
    """Shared experts."""
    head: str | None = None
    """LM head; the input embedding, too, where both are one matrix."""
    embeddings: str | None = None
    """Input embedding, where it is a matrix of its own."""
    kept_layers: int = 0
    """Decoder layers, from `kept_from` on, whose weights stay in GPU memory all the same."""
    kept_from: int = 0
    """The first of them."""
    attends: str | None = None
    """Device that attends in the layers that are not kept, over a cache in the tier of `attention`; decoding it projects there,
    too, computes shared experts and feed-forward parts that live elsewhere, and reads the weights where they lie. None: the
    GPU does, and the cache lies with that of the other layers."""

    @classmethod
    def everything(cls, tier: str, kept_layers: int = 0) -> Homes:
        """All of them in `tier`."""
        return cls(tier, tier, tier, tier, tier, kept_layers)

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers that it names."""
        kinds = (self.attention, self.dense, self.shared, self.head, self.embeddings)
        return tuple(dict.fromkeys(tier for tier in kinds if tier is not None))

    @property
    def elsewhere(self) -> bool:
        """Whether any weights live outside GPU memory."""
        return bool(self.tiers)

    def stays(self, layer: int) -> bool:
        """Whether the weights of decoder layer `layer` stay in GPU memory."""
        return self.kept_from <= layer < self.kept_from + self.kept_layers

    def away(self, layer: int) -> bool:
        """Whether another device attends in decoder layer `layer`."""
        return self.attends is not None and not self.stays(layer)

    def apart(self, layers: int) -> BoolArray:
        """[layers] in which decoder layers another device attends."""
        apart = np.full(layers, self.attends is not None)
        apart[self.kept_from : self.kept_from + self.kept_layers] = False
        return apart

    @property
    def shares_apart(self) -> bool:
        """Whether shared experts run before the routed ones of their layer, on the device that attends there."""
        return self.attends is not None and self.shared is not None

    def cache_share(self, model: Architecture) -> float:
        """Share of the KV cache that lies with that device."""
        if self.attends is None:
            return 0.0
        nbytes = model.kv_bytes_per_layer
        return float(np.sum(nbytes[self.apart(model.layers)]) / np.sum(nbytes))


HERE = Homes()
"""Everything in GPU memory."""


def crossing(model: Architecture, homes: Homes, *, first: bool = True, last: bool = True, rest: bool = True) -> list[Weights]:
    """[D] what crosses for each decoder layer in a step; `first`, `last`, `rest`: whether the GPU runs the projections in and
    out, and what follows them."""
    if not homes.elsewhere:
        return [()] * model.layers
    matrices = model.qkv_bytes * first + model.output_bytes * last
    dense = set(range(model.layers)) - set(model.moe_layers) - set(model.bare_layers)
    weights: list[Weights] = []
    for layer in range(model.layers):
        parts = [(homes.attention, matrices)]
        if rest and layer in dense:
            parts.append((homes.dense, model.dense_bytes))
        elif rest and layer not in model.bare_layers:
            parts.append((homes.shared, model.shared_bytes))
        sums: dict[str, float] = {}
        for tier, nbytes in () if homes.stays(layer) else parts:
            if tier is not None and nbytes:
                sums[tier] = sums.get(tier, 0.0) + float(nbytes)
        weights.append(tuple(sums.items()))
    return weights


def lying(model: Architecture, homes: Homes) -> dict[str, float]:
    """Tier -> bytes of these weights in it, GPU memory left out."""
    sums: dict[str, float] = {}
    pairs = [pair for layer in crossing(model, homes) for pair in layer]
    if homes.head is not None:
        pairs.append((homes.head, model.head_bytes))
    if homes.embeddings is not None and not model.tied_embedding:
        pairs.append((homes.embeddings, model.embedding_bytes))
    for tier, nbytes in pairs:
        sums[tier] = sums.get(tier, 0.0) + nbytes
    return sums


def in_flight(model: Architecture, homes: Homes, layers: Sequence[Weights], ahead: int) -> float:
    """Most bytes of GPU memory that copies of `layers` [D] take: those of a layer with experts and of the `ahead` next ones.

    Layers without experts go with the next one that has some, what comes behind all of them with the head.
    """
    groups, sums = [], 0.0
    for layer, parts in enumerate(layers):
        sums += sum(nbytes for _, nbytes in parts)
        if layer in model.moe_layers:
            groups.append(sums)
            sums = 0.0
    groups.append(sums + (model.head_bytes if homes.head is not None else 0.0))
    around = groups * 2
    return max(sum(around[first : first + min(ahead + 1, len(groups))]) for first in range(len(groups)))
