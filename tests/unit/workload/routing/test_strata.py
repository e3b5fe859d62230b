"""Prototypes: every kind of request in proportion, and a profile that is as good as their share of the batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.policies.in_place.cox_moe import CoxMoe
from moesim.runs.run import problem_of
from moesim.scenario import load_data
from moesim.workload.routing.strata import allotted, prototypes

EXPERTS = 16


def mixture(requests: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[R, 2, E] prompts of several kinds, each of which uses experts of its own, and [R] the kind of each."""
    rng = np.random.default_rng(seed)
    width = EXPERTS // len(requests)
    prefill = np.zeros((sum(requests), 2, EXPERTS), dtype=np.uint32)
    kind = rng.permutation(np.repeat(np.arange(len(requests)), requests))
    for request, number in enumerate(kind):
        for layer in range(2):
            prefill[request, layer, width * number : width * (number + 1)] = rng.multinomial(200, np.full(width, 1.0 / width))
    return prefill, kind


def test_prototypes_keep_the_proportions_that_chance_misses() -> None:
    prefill, kind = mixture([72, 24, 8])
    whole = prefill.sum(axis=0) / prefill.sum(axis=(0, 2))[:, None]

    def misses(topics: np.ndarray) -> float:
        counts = [prefill[prototypes(topics, 13, np.random.default_rng(seed))].sum(axis=0) for seed in range(20)]
        return float(np.mean([np.abs(c / c.sum(axis=1, keepdims=True) - whole).sum() for c in counts]))

    assert misses(kind) < 0.5 * misses(np.zeros_like(kind))


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


def table(profile: dict[str, object], seed: int = 0, routing: dict[str, object] | None = None):
    shape = {"routing": routing or {"kind": "sticky"}, "profile": profile}
    workload = {"kind": "offline", "requests": 24, "prompt": 40, "output": 3, **shape}
    data = {"hardware": "rtx4090-desktop", "model": "qwen3-30b-a3b", "workload": workload, "policy": "lru", "seed": seed}
    return load_data(data).build()[1]


def test_a_scenario_learns_from_its_own_prompts() -> None:
    six, all_of_them = (table({"kind": "stratified", "prototypes": count}) for count in (6, 24))
    assert np.allclose(six.profile.sum(axis=1), 1.0)
    assert np.array_equal(six.prefill, all_of_them.prefill)
    counts = all_of_them.prefill.sum(axis=0, dtype=np.int64)
    assert np.allclose(all_of_them.profile, counts / counts.sum(axis=1, keepdims=True))
    own = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(six.profile - own).sum() < np.abs(1.0 / 128 - own).sum()


def test_prototypes_are_the_same_at_every_run() -> None:
    profile = {"kind": "stratified", "prototypes": 6}
    assert np.array_equal(table(profile).profile, table(profile).profile)
    assert not np.array_equal(table(profile).profile, table(profile, seed=1).profile)


def test_topics_are_the_domains_of_the_routing_and_nothing_of_its_experts() -> None:
    routing = {"kind": "sticky", "kin": 0.5, "domains": {"law": 3, "code": 1}}
    drawn = table({"kind": "stratified", "prototypes": 8}, routing=routing)
    assert drawn.topics is not None
    assert set(drawn.topics.tolist()) == {0, 1}
    own = prototypes(drawn.topics, 8, np.random.default_rng(0))
    assert (drawn.topics[own] == 0).sum() == allotted(np.bincount(drawn.topics), 8)[0]


def test_the_policy_draws_its_own_prototypes_from_a_batch_that_is_there() -> None:
    workload = {
        "kind": "offline",
        "requests": 24,
        "prompt": 40,
        "output": 3,
        "routing": {"kind": "sticky", "kin": 0.5, "domains": 3},
    }
    scenario = load_data({"hardware": "rtx4090-desktop", "model": "qwen3-30b-a3b", "workload": workload, "policy": "cox_moe"})
    problem = problem_of(scenario, *scenario.build())
    assert problem.prompted is not None

    def residents(policy: CoxMoe) -> np.ndarray:
        return policy.deploy(problem).resident

    every = CoxMoe(prototypes=24, residents=32)
    used = scenario.build()[1].prefill.sum(axis=0, dtype=np.int64)
    by_use = np.argsort(np.argsort(-used, axis=1, kind="stable"), axis=1) < 32
    assert np.array_equal(residents(every), by_use)
    assert not np.array_equal(residents(CoxMoe(members="profile", residents=32)), by_use)
