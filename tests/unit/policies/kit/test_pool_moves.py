"""What sets out for a pool and what leaves it: the compiled moves are those of numpy, visit after visit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reporting import for_all

from moesim import jit
from moesim.arrays import BoolArray
from moesim.contract import Moves, Step
from moesim.policies.kit.expert_pool import Pool, Wanted

LAYERS, EXPERTS = 6, 60
"""So many that the least of them are sampled before all are scanned."""


class World:
    """A pool, what GPU memory holds, and visits of one layer after another with worths and predictions drawn anew."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pool = Pool(int(self.rng.integers(20, 300)), self.rng.dirichlet(np.ones(EXPERTS), LAYERS), flight=7, visits=1)
        resident: BoolArray = self.rng.random((LAYERS, EXPERTS)) < self.rng.choice([0.1, 0.6])
        in_flight: BoolArray = ~resident & (self.rng.random((LAYERS, EXPERTS)) < 0.02)
        self.view: Any = SimpleNamespace(resident=resident, in_flight=in_flight, now=0.0)
        self.kind = int(self.rng.integers(3))

    def visit(self, number: int) -> list[Any]:
        """What the pool says at a visit; copies under way land, those that it asks for set out."""
        rng, pool, view, layer = self.rng, self.pool, self.view, number % LAYERS
        view.now = float(number)
        counts = rng.integers(0, 4, EXPERTS) * (rng.random(EXPERTS) < rng.choice([0.1, 0.5, 1.0]))
        shares, decay, worth = rng.random((LAYERS, EXPERTS)), rng.random((LAYERS, LAYERS, 1)), rng.random((LAYERS, EXPERTS)) * 3
        visit: Any = SimpleNamespace(layer=layer, counts=counts)
        pool.met(visit)
        prediction = pool.likely(layer, shares, decay, view)
        if self.kind == 1:
            prediction = Wanted(prediction.places)
        pool.look_ahead(number + (0.0 if self.kind == 0 else rng.choice([0.0, 0.5])), prediction)
        before = pool.before(visit, view, lambda: worth)
        self.carry_out(before, layer)
        uploaded = np.flatnonzero((counts > 0) & ~view.resident[layer] & ~view.in_flight[layer])
        view.now += 0.75
        after = pool.after(Step(0, "decode", layer, counts, uploaded, None), view, pool.by_use() if number % 2 else worth)
        self.carry_out(after, layer)
        return [prediction.places, prediction.value, *(before or ()), *after]

    def carry_out(self, moves: Moves | None, layer: int) -> None:
        """As the engine would; half of what is under way lands."""
        view = self.view
        landed = view.in_flight & (self.rng.random(view.in_flight.shape) < 0.5)
        if moves is not None:
            for pairs, there in ((moves.evict, False), (moves.load, True)):
                if pairs is not None:
                    view.resident[pairs[:, 0], pairs[:, 1]] &= there
                    view.in_flight[pairs[:, 0], pairs[:, 1]] = there
            if moves.keep is not None:
                view.resident[layer, moves.keep] = True
        view.in_flight &= ~landed
        view.resident |= landed


@for_all(range(8))
def test_compiled_and_numpy_decide_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = []
    for compiled in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, compiled=compiled: compiled)
        worlds.append(World(seed))
    moved = 0
    for number in range(25):
        plain, compiled_answers = (world.visit(number) for world in worlds)
        for expected, answer in zip(plain, compiled_answers, strict=True):
            assert np.array_equal(expected, answer) if expected is not None else answer is None
        moved += sum(len(part) for part in plain if part is not None)
        for name in ("uses", "last"):
            assert np.array_equal(*(getattr(world.pool, name) for world in worlds))
        assert np.array_equal(worlds[1].pool.by_use(), worlds[1].pool.uses + worlds[1].pool.tie)
    assert moved > 0
