"""How many experts of each layer a GPU should cache when later layers are predicted: AdapMoE's expected loads and programme.

Pure arithmetic; knows no placement and no run.

Short names: L MoE layers, E experts per layer, k experts per token, S slots in all.
"""

from __future__ import annotations

from math import comb

import numpy as np

from moesim.arrays import FloatArray, IntArray

__all__ = ["ACCURACY", "SINGLE", "best_slots", "by_depth", "expected_loads"]

ACCURACY = (
    0.0, 0.566, 0.721, 0.789, 0.866, 0.859, 0.83, 0.84, 0.849, 0.801, 0.898, 0.898, 0.893, 0.91, 0.925, 0.881, 0.915,
    0.939, 0.905, 0.879, 0.876, 0.893, 0.879, 0.876, 0.888, 0.884, 0.922, 0.913, 0.886, 0.9, 0.903, 0.85,
)  # fmt: skip
"""[32] share of a layer's experts predicted right by its gate on the layer before's hidden state, Mixtral-8x7B.
Source: PKU-SEC-Lab/AdapMoE, src/dp.py."""
SINGLE = (
    0.0, 0.0348, 0.0049, 0.0009, 0.0004, 0.0025, 0.0079, 0.0341, 0.0345, 0.0491, 0.013, 0.0196, 0.0296, 0.0055, 0.0155,
    0.0284, 0.0639, 0.071, 0.1407, 0.2803, 0.2987, 0.3651, 0.4145, 0.3556, 0.4952, 0.521, 0.5479, 0.618, 0.78, 0.884,
    0.9754, 0.8577,
)  # fmt: skip
"""[32] share of tokens that use one expert of a layer only, Mixtral-8x7B at the published accuracy budget; mean 0.248.
Source: as `ACCURACY`."""


def by_depth(values: tuple[float, ...], layers: int) -> FloatArray:
    """[L] `values`, given from the first layer to the last, read off at the same relative depth of `layers` layers."""
    if layers == len(values):
        return np.array(values)
    return np.interp(np.linspace(0.0, 1.0, layers), np.linspace(0.0, 1.0, len(values)), values)


def expected_loads(experts: int, top_k: int, accuracy: FloatArray, single: FloatArray) -> FloatArray:
    """[L, E + 1] uploads that a token is expected to wait for in each layer that has 0 .. E slots.

    With s slots and uniform routing m of the token's experts are missing, with hypergeometric probability. A prediction that
    is right (`accuracy` [L]) has fetched one of them. A share `single` [L] of tokens does without its last expert. For k = 2
    these are the four terms of AdapMoE: f1 = (1 - s/E)(1 - a), f2 + f4 = E[m] (1 - a), f3 = P(m = 2) a, and
    r f1 + (1 - r)(f2 + f3 + f4). Source: AdapMoE, arXiv:2408.10284, and its src/dp.py. Inferred: k other than 2.
    Valid: uniform routing, one token.
    """
    slots = np.arange(experts + 1)

    def waited(active: int) -> FloatArray:
        missing = active * (1.0 - slots / experts)  # E[m]
        none = np.array([comb(held, active) for held in slots.tolist()]) / comb(experts, active)  # P(m = 0)
        fetched = missing - 1.0 + none
        return np.asarray((1.0 - accuracy)[:, None] * missing + accuracy[:, None] * fetched)

    alone = waited(top_k - 1) if top_k > 1 else np.zeros((len(accuracy), experts + 1))
    return single[:, None] * alone + (1.0 - single)[:, None] * waited(top_k)


def best_slots(loads: FloatArray, slots: int) -> IntArray:
    """[L] slots of each layer with the least sum of `loads` [L, E + 1], `slots` in all, by dynamic programming over layers.

    Every layer gets at least one where that is possible, none more than E; equal sums go to fewer slots of later layers.
    Source: AdapMoE, arXiv:2408.10284.
    """
    layers, most = loads.shape[0], loads.shape[1] - 1
    slots = min(slots, layers * most)
    least = 1 if slots >= layers else 0
    best, taken = np.full(slots + 1, np.inf), []
    best[0] = 0.0
    for costs in loads:
        sums = np.full((most + 1, slots + 1), np.inf)
        for own in range(least, min(most, slots) + 1):
            sums[own, own:] = best[: slots + 1 - own] + costs[own]
        taken.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    slots_of, left = np.zeros(layers, dtype=np.int64), slots
    for layer in range(layers - 1, -1, -1):
        slots_of[layer] = taken[layer][left]
        left -= int(slots_of[layer])
    return slots_of
