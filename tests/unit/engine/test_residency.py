"""The books of copies by hand: what GPU memory and host tiers hold, evictions, migrations, failures, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Deployment, Module, Problem
from moesim.contract.homes import Homes
from moesim.engine.residency import Residency
from moesim.errors import CapacityError, InputError, PolicyError
from moesim.plugins import find
from tests.policy_problems import GB, MB, problem, system

EXPERT = 6 * 1024 * 1024.0
"""Bytes of an expert of the small model; it has 3 layers of 8."""
PAIR = {"near": (GB, 22e9), "far": (GB, 9e9)}


@pytest.fixture
def posed() -> tuple[Problem, Deployment]:
    work = problem(system(hbm=GB, cxl=PAIR))
    return work, find("policies", "on_demand")().deploy(work)


def books(posed: tuple[Problem, Deployment], backup: str | None = None, **changes: Any) -> Residency:
    work, deployment = posed
    return Residency(work, replace(deployment, **changes), backup)


def at(layer: int, expert: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([layer]), np.array([expert])


def mask_of(work: Problem, *experts: tuple[int, int]) -> np.ndarray:
    """[L, E] true for these (layer, expert)."""
    mask = np.zeros((work.layers, work.experts), dtype=np.bool_)
    for place in experts:
        mask[place] = True
    return mask


def test_at_the_start_memory_holds_what_is_resident_and_hosts_the_masters(posed: tuple[Problem, Deployment]) -> None:
    work, deployment = posed
    copies = books(posed, resident=mask_of(work, (0, 1), (2, 7)))
    assert copies.held == 2 * EXPERT
    assert copies.fixed == pytest.approx(GB - work.gpu_free(deployment.plan))
    assert copies.free_bytes == pytest.approx(GB - copies.fixed - 2 * EXPERT)
    home = work.tiers[int(deployment.home[0, 0])]
    assert (deployment.home == deployment.home[0, 0]).all()
    assert copies.host == {tier: 24 * EXPERT if tier == home else 0.0 for tier in ("ddr", "near", "far")}
    assert copies.levels() == copies.peak == {"hbm": copies.fixed + 2 * EXPERT, **copies.host}


def test_room_of_a_copy_on_its_way_is_given_back_if_it_is_cancelled(posed: tuple[Problem, Deployment]) -> None:
    copies = books(posed)
    copies.in_flight[1, 4], copies.held = True, 2 * EXPERT
    copies.within()
    copies.cancel(*at(1, 4))
    assert (copies.held, copies.in_flight[1, 4], copies.resident[1, 4]) == (EXPERT, False, False)
    assert copies.peak["hbm"] == copies.fixed + 2 * EXPERT


def test_smaller_copies_take_what_they_have_and_whole_ones_take_their_place(posed: tuple[Problem, Deployment]) -> None:
    copies = books(posed)
    copies.keep(0, np.array([2]), np.array([EXPERT / 4]))
    assert (copies.held, copies.mixed) == (EXPERT / 4, True)
    sizes = np.full((1, 8), EXPERT / 2)
    assert not copies.serving(copies.resident[:1], slice(0, 1), sizes).any()
    assert copies.serving(copies.resident[:1], slice(0, 1), sizes / 2)[0].tolist() == copies.resident[0].tolist()
    assert copies.serving(copies.resident[:1], slice(0, 1), None)[0, 2]
    copies.keep(0, np.array([2, 5]), np.array([EXPERT, EXPERT / 2]))
    assert copies.held == 1.5 * EXPERT
    copies.evict(np.array([0]), np.array([5]))
    assert copies.held == EXPERT
    copies.keep(0, np.array([5]))
    assert copies.held == 2 * EXPERT, "a copy of no stated size is whole"
    copies.keep(0, np.array([5]))
    assert copies.held == 2 * EXPERT, "what is there already is not held twice"


def test_a_copy_of_the_stored_size_counts_as_whole(posed: tuple[Problem, Deployment]) -> None:
    copies = books(posed)
    copies.keep(0, np.array([2]), np.array([EXPERT]))
    assert not copies.mixed


def test_evictions_count_each_copy_once_and_only_those_that_are_there(posed: tuple[Problem, Deployment]) -> None:
    work, _ = posed
    copies = books(posed, resident=mask_of(work, (0, 1), (1, 1), (2, 0)))
    copies.evict(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 0]))
    assert copies.held == EXPERT
    assert np.argwhere(copies.resident).tolist() == [[1, 1]]


def test_the_only_copy_of_an_expert_stays(posed: tuple[Problem, Deployment]) -> None:
    work, deployment = posed
    home = deployment.home.copy()
    home[1, 2] = work.gpu_tier_index
    copies = books(posed, home=home, resident=mask_of(work, (1, 2), (1, 3)))
    copies.evict(np.array([1]), np.array([3]))
    with pytest.raises(PolicyError, match="expert 2 of MoE layer 1 has no copy outside GPU memory and can't be evicted"):
        copies.evict(np.array([1]), np.array([2]))
    with pytest.raises(PolicyError, match="gave an expert its home in GPU memory but did not make it resident"):
        books(posed, home=home)


def test_gpu_memory_may_be_filled_to_the_last_byte_and_no_further(posed: tuple[Problem, Deployment]) -> None:
    work, deployment = posed
    room = work.gpu_free(deployment.plan)
    exact = deployment.expert_bytes.copy()
    exact[0, :3] = room / 2
    copies = books(posed, expert_bytes=exact)
    copies.keep(0, np.array([0]))
    copies.keep(0, np.array([1]))
    with pytest.raises(CapacityError, match=r"resident experts and those on their way .* the policy must evict first"):
        copies.keep(0, np.array([2]))
    with pytest.raises(InputError, match="3 resident experts"):
        books(posed, expert_bytes=exact, resident=mask_of(work, (0, 0), (0, 1), (0, 2)))


def test_visits_that_a_cache_passes_many_at_once_leave_what_they_leave_and_hold_what_they_held(
    posed: tuple[Problem, Deployment],
) -> None:
    work, deployment = posed
    copies = books(posed)
    after = mask_of(work, (0, 3))
    copies.follow(after, np.array([2 * EXPERT, 3 * EXPERT, -4 * EXPERT]))
    assert (copies.held, copies.peak["hbm"]) == (EXPERT, copies.fixed + 5 * EXPERT)
    assert (copies.resident == after).all()
    assert copies.resident is not after
    with pytest.raises(CapacityError):
        copies.follow(after, np.array([work.gpu_free(deployment.plan), -EXPERT]))


def test_a_migration_holds_room_in_both_tiers_until_it_has_settled(posed: tuple[Problem, Deployment]) -> None:
    work, deployment = posed
    copies, near = books(posed), work.tiers.index("near")
    source = int(deployment.home[0, 0])
    copies.reserve(near, EXPERT)
    copies.replicas[near, 0, 0] = True
    assert copies.holds(np.array([near, source, near]), np.array([0, 0, 0]), np.array([0, 0, 1])).tolist() == [
        True,
        True,
        False,
    ]
    copies.settle(0, 0, near)
    assert copies.home[0, 0] == near
    assert not copies.replicas[near, 0, 0]
    assert copies.host["near"] == EXPERT
    assert copies.host[work.tiers[source]] == 23 * EXPERT
    assert copies.room(near) == GB - EXPERT
    with pytest.raises(CapacityError, match="experts, those on their way too"):
        copies.reserve(near, GB)


def test_further_copies_are_given_up_where_they_are(posed: tuple[Problem, Deployment]) -> None:
    work, _ = posed
    near, far = (work.tiers.index(name) for name in PAIR)
    replicas = np.zeros((len(work.tiers), work.layers, work.experts), dtype=np.bool_)
    replicas[near, 0, 0] = replicas[far, 0, 0] = True
    copies = books(posed, replicas=replicas)
    assert (copies.host["near"], copies.host["far"]) == (EXPERT, EXPERT)
    copies.retire(np.array([[0, 0, near], [0, 1, near]]))
    assert (copies.host["near"], copies.host["far"]) == (0.0, EXPERT)


def test_of_a_tier_that_fails_replicas_take_the_place_and_the_backup_that_of_the_rest(
    posed: tuple[Problem, Deployment],
) -> None:
    work, deployment = posed
    home, (near, far, ddr) = deployment.home.copy(), (work.tiers.index(name) for name in ("near", "far", "ddr"))
    home[:] = ddr
    home[0, :3] = near
    replicas = np.zeros((len(work.tiers), work.layers, work.experts), dtype=np.bool_)
    replicas[far, 0, 1] = replicas[near, 2, 2] = True
    copies = books(posed, "far", home=home, replicas=replicas)
    assert copies.host["far"] == 24 * EXPERT, "a backup has a copy of everything"
    assert copies.room(far) == float("inf")
    lost = copies.fail(near)
    assert np.argwhere(lost).tolist() == [[0, 0], [0, 2]]
    assert copies.home[0, :4].tolist() == [far, far, far, ddr]
    assert (copies.host["near"], copies.host["far"]) == (0.0, 24 * EXPERT)
    assert not copies.replicas.any()
    assert copies.down.tolist() == [tier == "near" for tier in work.tiers]
    copies.reserve(far, 1e15)
    copies.release(far, 1e15)
    assert copies.host["far"] == 24 * EXPERT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"home": np.zeros((2, 8), dtype=np.int64)}, r"deploy returned home of shape \(2, 8\), not \[L, E\] = \(3, 8\)"),
        ({"home": np.full((3, 8), 4)}, "a home that is not a tier of the machine"),
        ({"home": np.full((3, 8), -1)}, "a home that is not a tier of the machine"),
        ({"order": np.array([0, 1, 2, 2])}, "an order that is not a permutation of the 4 requests"),
        ({"replicas": np.zeros((4, 3, 7), dtype=np.bool_)}, r"replicas of shape \(4, 3, 7\), not bool \[T, L, E\]"),
        ({"replicas": np.ones((4, 3, 8), dtype=np.bool_)}, "deploy put a replica into GPU memory or beside its master copy"),
    ],
)
def test_deployments_that_break_the_contract_are_refused(
    posed: tuple[Problem, Deployment], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        books(posed, **changes)


def test_plans_that_break_the_contract_are_refused(posed: tuple[Problem, Deployment]) -> None:
    _, deployment = posed
    plan = deployment.plan
    bad = {
        "deploy put the KV cache into GPU memory and the attention core on 'cpu'": replace(
            plan, kv="hbm", decode=replace(plan.decode, core="cpu")
        ),
        "deploy gave prefill the pipeline Module": replace(plan, prefill=replace(plan.prefill, pipeline=Module())),
        "deploy gave weights a home that is not a host tier: hbm, moon": replace(
            plan, homes=Homes(head="moon", embeddings="hbm")
        ),
    }
    for message, changed in bad.items():
        with pytest.raises(PolicyError, match=message):
            books(posed, plan=changed)


def test_all_tiers_that_are_too_small_are_named_at_once() -> None:
    work = problem(system(hbm=GB, ddr=GB))
    deployment = find("policies", "on_demand")().deploy(work)
    small = problem(system(hbm=30 * MB, ddr=20 * MB))
    with pytest.raises(InputError) as caught:
        Residency(small, deployment)
    assert len(caught.value.mistakes) == 2
    assert "of tier 'hbm', which has 30,000,000 B to give" in str(caught.value)
    assert "of tier 'ddr', which has 20,000,000 B to give" in str(caught.value)
