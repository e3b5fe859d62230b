"""MoE-CXL's prefetches: what is predicted, what it has to earn, and what its places in GPU memory would earn as residents.

Knows predictions, times and backlogs; places no resident and no master copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Foreseen, Moves, Step, View
from moesim.policies.kit.migration import pairs_of
from moesim.policies.near_data.moe_cxl_chances import Choice
from moesim.policies.near_data.moe_cxl_devices import Devices
from moesim.policies.near_data.moe_cxl_history import SequenceHistory
from moesim.policies.near_data.moe_cxl_placement import route

__all__ = ["Prefetcher", "Rules"]

_NOBODY: IntArray = np.zeros(0, dtype=np.int64)


class Rules(NamedTuple):
    """What a prefetch has to earn."""

    depth: int
    """Layers ahead."""
    confidence: float
    """Least chance of being used."""
    idle_cost: float
    """Delay of demand by a wrong copy on an idle link, in copies."""
    alpha: float
    """Weight of the last window in its average."""


@dataclass
class Prefetcher:
    """Prefetches of one run: `Choice` says which copies pay. Pollution: the places in GPU memory that prefetched
    copies take are given back, half of them each period, while residents would save more there.
    """

    rules: Rules
    devices: Devices
    history: SequenceHistory
    slots: int
    """Places in GPU memory for predicted experts."""
    borrowed: BoolArray
    """[L, E] prefetched copies, dropped after their visit."""
    ended: list[float | None]
    """[L] simulated seconds at which each layer ended in this pass."""
    learning: bool
    """Whether anything is prefetched at all; places may all be given back."""
    hinted: bool
    """Whether a hint of coming layers is part of the prediction."""
    functions: Any = None
    """Of the kernel, where they are compiled."""
    window: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})
    """Phase -> moving average of the seconds between a layer's end and the dispatch of the layer that it predicts."""
    earned: float = 0.0
    """Seconds that prefetched copies have saved in this period."""
    choice: Choice = field(init=False)
    polluted: float = 0.0
    """Seconds that their places would have saved as residents, in all periods in which that was more."""

    def __post_init__(self) -> None:
        self.choice = Choice(self.functions, self.borrowed.shape[1])

    def meet(self, layer: int, phase: str, now: float) -> None:
        """A layer asks for its dispatch."""
        before = layer - self.rules.depth
        ended = self.ended[before] if before >= 0 else None
        if ended is not None:
            self.window[phase] += self.rules.alpha * (now - ended - self.window[phase])

    def after_layer(self, step: Step, view: View) -> Moves:
        """Drops what the layer has used, and loads what a later one is likely to use."""
        if not self.learning:
            return NO_MOVES
        spent, chosen = self.after((step.layer, step.phase), step.counts, step.ahead, view)
        evict = pairs_of(step.layer, spent) if len(spent) else None
        if not len(chosen):
            return Moves(evict=evict) if evict is not None else NO_MOVES
        load = pairs_of(step.layer + self.rules.depth, chosen)
        return Moves(evict=evict, load=load, load_source=self.sources(view, load))

    def after(self, met: tuple[int, str], counts: IntArray, ahead: Foreseen, view: View) -> tuple[IntArray, IntArray]:
        """Experts of a layer whose prefetched copies are dropped, and those of a later one that are loaded, best first.

        `met`: the layer that has used `counts` [E], and its phase; `ahead`: the hint of later layers.
        """
        layer, phase = met
        target = layer + self.rules.depth
        self.ended[layer] = view.now
        self.history.learn(layer, counts, phase)
        borrowed = self.borrowed[layer]
        spent = (borrowed & view.resident[layer]).nonzero()[0]
        if len(spent):
            used = spent[counts[spent] > 0]
            self.earned += float(np.minimum(self.devices.access[view.home[layer][used]], self.window[phase]).sum())
            borrowed[spent] = False
        if not self.slots or target >= len(self.ended):
            return spent, _NOBODY
        chance = self.history.chance(layer, counts, phase, ahead(self.rules.depth) if self.hinted else None)
        chosen = self._chosen(chance, phase, view, target, len(spent))
        self.borrowed[target][chosen] = True
        return spent, chosen

    def sources(self, view: View, pairs: IntArray) -> IntArray | None:
        """[n] tier that each of `pairs` [n, 2] is read from: the copy with the least queueing delay."""
        if view.replicas is None or not len(pairs):
            return None
        layers, experts = pairs.T
        copies = view.replicas[:, layers, experts]
        if not copies.any():
            return None
        return route(copies, view.home[layers, experts], self.devices.access + self.devices.backlog(view.backlog))

    def _chosen(self, chance: FloatArray, phase: str, view: View, target: int, freed: int) -> IntArray:
        """Experts of layer `target`, each with `chance` [E] of being used, that are worth loading, best first."""
        rules, room = self.rules, min(view.free_slots + freed, self.slots - int(np.count_nonzero(self.borrowed)))
        if room <= 0:
            return _NOBODY
        home, there = view.home[target], view.resident[target] | view.in_flight[target]
        copy, waiting = self.devices.access[home], self.devices.backlog(view.backlog)[home]
        terms = self.window[phase], rules.confidence, rules.idle_cost
        chosen = self.choice.best(chance, copy, waiting, there, terms, room)
        self.history.fetch(target, chosen, chance[chosen])
        return chosen

    def nearer(self, view: View, free: FloatArray) -> IntArray:
        """[n, 3] (layer, expert, tier): copies for the fastest CXL device with room (`free` [T] experts), best first.

        Of experts that live on something slower and are likely to be used in the next pass: p * (t_home - t_device) against
        (1 - p) * idle * copy, on links that nothing else uses.
        """
        devices, none = self.devices, np.zeros((0, 3), dtype=np.int64)
        target = next((tier for tier in devices.cxl_tiers if free[tier] >= 1), -1)
        if target < 0 or not self.learning or view.replicas is None:
            return none
        home = view.home
        gain = devices.access[home] - devices.access[target]
        away = (gain > 0) & ~(view.resident | view.in_flight | view.replicas[target])
        if not away.any():
            return none
        chance = self.history.again()
        worth = chance * gain - (1.0 - chance) * self.rules.idle_cost * devices.move[home, target]
        worth[~away | (chance < self.rules.confidence)] = -1.0
        good = np.flatnonzero(worth.ravel() > 0.0)
        best = good[np.argsort(-worth.ravel()[good], kind="stable")[: int(free[target])]]
        return np.column_stack([*np.divmod(best, home.shape[1]), np.full(len(best), target)])

    def end_pass(self, view: View) -> IntArray:
        """[n, 2] copies that came too late for their visit, which are dropped."""
        self.ended = [None] * len(self.ended)
        late = np.argwhere(self.borrowed & view.resident)
        self.borrowed[late[:, 0], late[:, 1]] = False
        return late

    def give_back(self, outside: FloatArray, margin: float) -> int:
        """Places that residents get at the end of a period; `outside` [n]: seconds per period that each would save."""
        earned, self.earned = self.earned, 0.0
        if not self.slots or len(outside) < self.slots:
            return 0
        lost = float(-np.sort(-outside)[: self.slots].sum())
        if lost <= (1.0 + margin) * earned:
            return 0
        self.polluted += lost - earned
        count = -(-self.slots // 2)
        self.slots -= count
        return count
