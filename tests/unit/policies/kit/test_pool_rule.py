"""The rule of a pool, compiled, is the rule that numpy follows, and leaves the pool as full as it may be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from reporting import for_all

from moesim import jit
from moesim.policies.kit.compiled.pool_kernel import enter
from moesim.policies.kit.expert_pool import Pool
from moesim.policies.kit.pool_rule import Past, PastRule, worth_of_past

LAYERS, EXPERTS, SLOTS = 5, 9, 17


def rule_of(past: Past, rng: np.random.Generator) -> PastRule:
    return PastRule(Pool(SLOTS, rng.dirichlet(np.ones(EXPERTS), LAYERS), 1), past, visits=1)


@for_all(["lfu", "lru", "lru_ds"], range(4))
def test_compiled_and_numpy_walk_the_same(past: Past, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few slots for what a layer uses, so that some visits find too few victims."""
    rng = np.random.default_rng(seed)
    rule = rule_of(past, rng)
    layers = np.tile(np.arange(LAYERS), 12)
    counts = rng.integers(0, 4, (len(layers), EXPERTS)) * (rng.random((len(layers), EXPERTS)) < rng.choice([0.2, 0.5, 1.0]))
    resident = rng.random((LAYERS, EXPERTS)) < 0.2
    walked = []
    for compiled in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, compiled=compiled: compiled)
        mine, there = PastRule(copy.deepcopy(rule.pool), past, visits=1), resident.copy()
        parts = [slice(0, 20), slice(20, None)]
        answers = [mine.walk(layers[part], counts[part], there) for part in parts]
        walked.append((*map(np.concatenate, zip(*answers, strict=True)), there, mine.pool.uses, mine.pool.last))
        assert there.sum() == resident.sum() + sum(int(change.sum()) for _, change in answers) <= SLOTS
    for compiled_side, plain_side in zip(*walked, strict=True):
        assert np.array_equal(compiled_side, plain_side)


def test_a_copy_is_worth_its_uses_or_how_lately_it_was_used_and_the_next_three_layers_stay() -> None:
    """Behind layer 3 of 5 come layers 4, 0 and 1."""
    pool = Pool(SLOTS, np.full((LAYERS, EXPERTS), 1 / EXPERTS), 1)
    pool.last[:] = np.arange(LAYERS)[:, None] * 10
    assert worth_of_past(pool, "lru", 3)[:, 0].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert worth_of_past(pool, "lru_ds", 3)[:, 0].tolist() == [np.inf, np.inf, 20.0, 30.0, np.inf]
    assert worth_of_past(pool, "lru_ds", 4)[:, 0].tolist() == [np.inf, np.inf, np.inf, 30.0, 40.0]
    assert np.array_equal(worth_of_past(pool, "lfu", 3), pool.by_use())


def test_where_not_all_find_room_those_with_most_tokens_enter_the_first_expert_among_them() -> None:
    """Experts 0, 1 and 3 are missing, with 5, 2 and 4 tokens."""
    for room, entering in ((0, []), (1, [0]), (2, [0, 3]), (3, [0, 1, 3]), (9, [0, 1, 3])):
        resident, uses = np.zeros((1, 4), dtype=np.int64), np.full((1, 4), 7)
        resident[0, 2] = 1
        assert enter(room, 3, 0, np.array([5, 2, 6, 4]), resident, uses) == len(entering)
        assert np.flatnonzero(resident[0]).tolist() == sorted([*entering, 2])
        assert np.flatnonzero(uses[0] == 1).tolist() == entering, "their uses count anew"
