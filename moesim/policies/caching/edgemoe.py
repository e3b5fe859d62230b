"""EdgeMoE: experts on storage in 2, 4 or 8 bits each, a small buffer, and preloading by the path of the last two layers.

Knows the profile and the past of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, upload_missing
from moesim.policies.kit.history import CoOccurrence
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, fitting, place, ranking, ranks, storage_first
from moesim.policies.kit.precision import native_bits
from moesim.units import Share

__all__ = ["EdgeMoe"]


@dataclass
class _Memory:
    """What EdgeMoE remembers."""

    slots: int
    """Experts that the buffer holds, of all layers."""
    frequency: FloatArray
    """[L, E] uses, those that the profile expects of one pass included."""
    paths: tuple[CoOccurrence, ...]
    """What follows one layer later, and two."""
    seen: list[IntArray | None]
    """[L] counts of the pass that runs, or of the one before."""


class EdgeMoe(SizedPolicy):
    """Experts stay on storage at a bit width of their own; the likely ones of the next layer are preloaded into a small buffer.

    Widths: the `share8` most important experts of each layer get 8 bits, the `share2` least important 2, the rest 4. While a
    layer runs, up to `preload` experts of the next one are loaded, the likeliest after the experts of this layer and the one
    before; those still in the queue when the router has spoken and not wanted are called off. The copy with the least use
    frequency / layers to its next turn leaves the buffer.
    Source: EdgeMoE, arXiv:2308.14352 (widths 2, 4, 8; buffer of 10; 1 to 3 preloaded; eviction).
    Inferred: the three shares, in place of a budget of 2 % accuracy, and which experts are important, in place of each one's
    measured sensitivity to 2 bits: the popular ones, or (`importance: chance`) whichever, for sensitivity need not follow use;
    the path table is learnt from the profile and online, as the mean of a first-order table per distance. Left out:
    dequantisation, and the device without a GPU. Valid: changes outputs (`quality`); paths are predictable in Switch-like
    models (20 % of them cover 99 %), hardly in Mixtral; published for one sequence (`batch: 1`).
    """

    kind: Literal["edgemoe"] = "edgemoe"
    share8: Share = 0.25
    """Share of a layer's experts stored with 8 bits."""
    share2: Share = 0.25
    """Share stored with 2 bits; what is left has 4."""
    importance: Literal["popularity", "chance"] = "popularity"
    """What a layer's experts are put in order by before they get their bits: use in the profile, or a lot."""
    buffer: int | None = Field(10, ge=0)
    """Experts in GPU memory, of all layers together (published: 10); null for as many as fit."""
    preload: int = Field(2, ge=0)
    """Most experts of the next layer that are loaded before its router has spoken (published: 1 to 3)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "EdgeMoE (arXiv:2308.14352)"

    def deploy(self, problem: Problem) -> Deployment:
        """All experts on storage where there is any, the buffer filled by the profile."""
        shares, model = problem.popularity, problem.model
        important = shares if self.importance == "popularity" else _lots(problem)
        sizes = model.expert_bytes * np.minimum(
            self.widths(important) / native_bits(model.expert_bytes, model.expert_flops), 1.0
        )
        cut = self.cut(problem, movable=True, nbytes=float(sizes.mean()))
        fits = max(int(problem.gpu_free(cut) // sizes.max()), 0)
        slots = min(fits if self.buffer is None else self.buffer, fits, sizes.size)
        first = fitting(ranking(shares)[:slots], sizes, np.inf)
        paths = tuple(CoOccurrence(shares, model.top_k, back, visits=problem.least_visits) for back in (1, 2))
        memory = _Memory(slots, shares * model.top_k, paths, [None] * problem.layers)
        homes = HomeOrder(storage_first(problem))
        return replace(place(problem, resident=first, homes=homes, expert_bytes=sizes, cut=cut, movable=True), state=memory)

    def widths(self, importance: FloatArray) -> FloatArray:
        """[L, E] bits per weight."""
        experts = importance.shape[1]
        order = np.argsort(-importance, axis=1, kind="stable")
        wide = round(self.share8 * experts)
        narrow = min(round(self.share2 * experts), experts - wide)
        by_rank = np.repeat([8.0, 4.0, 2.0], [wide, experts - wide - narrow, narrow])
        bits = np.empty(importance.shape)
        np.put_along_axis(bits, order, np.broadcast_to(by_rank, importance.shape), axis=1)
        return bits

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing, and behind it what the next layer will probably ask for."""
        memory: _Memory = view.state
        layer = visit.layer
        memory.frequency[layer] += visit.counts > 0
        for distance, table in enumerate(memory.paths, start=1):
            before = memory.seen[layer - distance] if layer >= distance else None
            if before is not None:
                table.learn(layer - distance, before, visit.counts)
        memory.seen[layer] = visit.counts
        return upload_missing(visit, view)._replace(moves=self._preload(visit, view))

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: _Memory = view.state
        if not len(step.uploaded):
            return NO_MOVES
        new = step.uploaded[by_tokens(step.counts[step.uploaded])]
        safe = np.zeros_like(view.resident)
        safe[step.layer] = step.counts > 0
        room, victims = _room(memory, len(new), step.layer, safe, view)
        return Moves(new[:room], victims)

    def _preload(self, visit: Visit, view: View) -> Moves | None:
        """The likeliest experts of the next layer; what waits to be preloaded for this one in vain is called off."""
        memory: _Memory = view.state
        layer, target = visit.layer, visit.layer + 1
        vain = np.flatnonzero(view.in_flight[layer] & (visit.counts == 0))
        called_off = pairs_of(layer, vain)
        if not self.preload or target == len(memory.seen):
            return Moves(evict=called_off) if len(vain) else None
        tokens = memory.paths[0].expected(layer, visit.counts)
        before = memory.seen[layer - 1] if layer else None
        if before is not None:
            tokens = tokens + memory.paths[1].expected(layer - 1, before)
        here = view.resident[target] | view.in_flight[target]
        likely = np.argsort(-tokens, kind="stable")[: self.preload]
        safe = np.zeros_like(view.resident)
        safe[layer], safe[target, likely] = visit.counts > 0, True
        missing = likely[~here[likely]]
        room, victims = _room(memory, len(missing), layer, safe, view)
        evict = np.concatenate((called_off, victims))
        return Moves(evict=evict, load=pairs_of(target, missing[:room])) if room or len(evict) else None


def _room(memory: _Memory, number: int, layer: int, safe: BoolArray, view: View) -> tuple[int, IntArray]:
    """(copies that can enter the buffer, [n, 2] copies that leave for them: least frequency / distance to the next turn)."""
    free = memory.slots - int(np.count_nonzero(view.resident | view.in_flight))
    if not number or free >= number:
        return number, np.zeros((0, 2), dtype=np.int64)
    layers, experts = memory.frequency.shape
    distance = (np.arange(layers) - layer - 1) % layers + 1  # a layer that has just run comes round after all others
    candidates = np.flatnonzero(view.resident & ~safe)
    scores = (memory.frequency / distance[:, None]).ravel()[candidates]
    victims = candidates[np.argsort(scores, kind="stable")[: number - max(free, 0)]]
    return min(max(free, 0) + len(victims), number), np.column_stack(np.divmod(victims, experts))


def _lots(problem: Problem) -> FloatArray:
    """[L, E] a lot for each expert, the same under other labels."""
    lots = problem.rng.random((problem.layers, problem.experts))
    return np.asarray(np.take_along_axis(lots, ranks(problem.popularity), axis=1))
