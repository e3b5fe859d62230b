"""Prototypes: every kind of request in proportion, and a profile that is as good as their share of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.scenario import load_data
from moesim.workload.routing.strata import allotted, popularity, prototypes, strata

EXPERTS = 16


def mixture(requests: list[int], seed: int = 0) -> np.ndarray:
    """[R, 2, E] prompts of several kinds; each kind uses experts of its own."""
    rng = np.random.default_rng(seed)
    width = EXPERTS // len(requests)
    prefill = np.zeros((sum(requests), 2, EXPERTS), dtype=np.uint32)
    kind = rng.permutation(np.repeat(np.arange(len(requests)), requests))
    for request, number in enumerate(kind):
        for layer in range(2):
            prefill[request, layer, width * number : width * (number + 1)] = rng.multinomial(200, np.full(width, 1.0 / width))
    return prefill


def test_strata_are_the_kinds_of_requests() -> None:
    prefill = mixture([30, 20, 10, 4])
    found = strata(prefill, 4, np.random.default_rng(1))
    kinds = prefill[:, 0].argmax(axis=1) // 4
    pairs = {(int(a), int(b)) for a, b in zip(found, kinds, strict=True)}
    assert len(pairs) == 4


def test_prototypes_keep_the_proportions_that_chance_misses() -> None:
    prefill = mixture([72, 24, 8])
    whole = prefill.sum(axis=0) / prefill.sum(axis=(0, 2))[:, None]

    def misses(clusters: int) -> float:
        counts = [popularity(prefill, 13, clusters, np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([np.abs(c / c.sum(axis=1, keepdims=True) - whole).sum() for c in counts]))

    assert misses(3) < 0.5 * misses(1)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 120))
def test_every_draw_is_given_to_a_stratum_that_has_it(sizes: list[int], count: int) -> None:
    given_ = allotted(np.array(sizes), count)
    assert given_.sum() == min(count, sum(sizes))
    assert (given_ <= sizes).all()
    exact = min(count / sum(sizes), 1.0) * np.array(sizes)
    assert (np.abs(given_ - exact) < 1).all()
    chosen = prototypes(np.repeat(np.arange(len(sizes)), sizes), count, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == len(chosen) == given_.sum()


@pytest.mark.parametrize("requests", [1, 3])
def test_few_or_equal_requests_are_one_stratum(requests: int) -> None:
    prefill = np.ones((requests, 2, EXPERTS), dtype=np.uint32)
    assert not strata(prefill, 8, np.random.default_rng(0)).any()


def table(profile: dict[str, object], seed: int = 0):
    workload = {"kind": "offline", "requests": 24, "prompt": 40, "output": 3, "routing": {"kind": "sticky"}, "profile": profile}
    data = {"hardware": "rtx4090-desktop", "model": "qwen3-30b-a3b", "workload": workload, "policy": "lru", "seed": seed}
    return load_data(data).build()[1]


def test_a_scenario_learns_from_its_own_prompts() -> None:
    few, all_of_them = (table({"kind": "stratified", "prototypes": count}) for count in (6, 24))
    assert np.allclose(few.profile.sum(axis=1), 1.0)
    assert np.array_equal(few.prefill, all_of_them.prefill)
    counts = all_of_them.prefill.sum(axis=0, dtype=np.int64)
    assert np.allclose(all_of_them.profile, counts / counts.sum(axis=1, keepdims=True))
    own = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(few.profile - own).sum() < np.abs(1.0 / 128 - own).sum()


def test_prototypes_are_the_same_at_every_run() -> None:
    profile = {"kind": "stratified", "prototypes": 6, "strata": 3}
    assert np.array_equal(table(profile).profile, table(profile).profile)
    assert not np.array_equal(table(profile).profile, table(profile, seed=1).profile)
