"""How a job is cut: the order of host tiers, slots, micro-batches, and the largest batch whose cache finds room."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.contract import BatchPlan, PhasePlan, Problem
from moesim.errors import InputError
from moesim.policies.kit.sizing import (
    Sizing,
    default_staging,
    gpu_account,
    gpu_room,
    host_order,
    host_room,
    largest,
    micro_batches,
    no_plan,
    portions,
    slots_in_host,
)
from tests.policy_problems import GB, MB, job, model, problem, system

EXPERT = 6 * 1024 * 1024.0
TOKEN = 3 * 2 * 2 * 128 * 2.0
"""Bytes of a token in the cache: 3 layers, 2 heads of 128 values in 2 bytes, keys and values."""


def posed(work: dict[str, Any] | None = None, **machine: Any) -> Problem:
    return problem(system(**machine), model(), job(**(work or {})))


def refused(work: Problem, sizing: Sizing | None = None, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        portions(work, sizing, **more)
    return str(caught.value)


@pytest.mark.parametrize("most", range(12))
def test_the_largest_that_fits_is_found_by_halving(most: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= most

    assert largest(fits, 9) == min(most, 9)
    assert len(tried) <= 5
    assert all(1 <= count <= 9 for count in tried)
    assert largest(fits, 0) == 0


def test_host_tiers_are_ordered_by_their_way_to_the_gpu_whatever_they_are_called() -> None:
    tiers = {"a_slow": (GB, 9e9), "z_fast": (GB, 22e9)}
    assert host_order(posed(cxl=tiers)) == ["ddr", "z_fast", "a_slow"]
    assert host_order(posed(cxl=tiers, far={"ssd": GB})) == ["ddr", "z_fast", "a_slow", "ssd"]
    assert host_order(posed(cxl={"quick": (GB, 90e9)}, pcie=9e9)) == ["ddr", "quick"], "the link is what counts"


def test_a_layer_has_a_slot_for_each_expert_if_that_costs_little() -> None:
    """6 % of 1 GB are nine experts of 6.3 MB, of 200 MB one, of 500 MB four."""
    assert [default_staging(posed(hbm=size)) for size in (GB, 200 * MB, 500 * MB)] == [8, 2, 4]


def test_micro_batches_keep_intermediates_below_a_twentieth_of_gpu_memory() -> None:
    """Twice the activations around the core, in 5 % of 100 MB: so many tokens, and prompts of 64 tokens each."""
    work = posed({"requests": 40}, hbm=100 * MB)
    tokens = int(0.05 * 100 * MB / (2 * (work.model.qkv_activation_bytes + work.model.core_activation_bytes)))
    assert micro_batches(work, 40) == (tokens // 64, 40)
    assert micro_batches(work, 2 * tokens) == (tokens // 64, tokens)
    assert micro_batches(posed({"requests": 40}, hbm=MB), 40)[0] == 1, "one at least"
    assert micro_batches(posed({"attention": False, "output": 1}), 3) == (3, 3)


def test_rooms_are_what_is_left_beside_the_cache() -> None:
    work = posed()
    plan = BatchPlan(4, PhasePlan(4), PhasePlan(4), "ddr", 0)
    cache = 4 * (64 + 16) * TOKEN
    assert host_room(work, plan)["ddr"] == pytest.approx(8 * GB - cache, rel=1e-3)
    assert slots_in_host(work, plan, GB) == 7
    assert list(gpu_room(work, plan)) == ["hbm"]
    assert gpu_room(work, plan)["hbm"] == work.gpu_free(plan)
    two = posed(far={"hbm1": 50 * MB})
    assert 48 * MB < gpu_room(two, plan)["hbm1"] < 50 * MB, "beside activations that come to it"
    assert "'hbm' has 1,000,000,000 B and would hold" in gpu_account(work, plan, {"spare": 5.0})


def test_the_cache_lies_in_gpu_memory_where_a_fifth_of_it_remains_for_experts() -> None:
    work = {"requests": 64, "prompt": 1000, "output": 24}
    roomy, tight = portions(posed(work, hbm=2 * GB)), portions(posed(work, hbm=300 * MB))
    assert (roomy.kv, roomy.batch) == ("hbm", 64)
    assert tight.kv == "ddr"
    stated = portions(posed(work, hbm=300 * MB), Sizing(kv="hbm"))
    assert stated.kv == "hbm"
    assert stated.batch < tight.batch
    assert portions(posed(work, hbm=2 * GB), Sizing(spare=0.99)).kv == "ddr"


def test_what_is_stated_is_kept() -> None:
    plan = portions(posed({"requests": 9}), Sizing(batch=5, micro_batch=2, kv="ddr", core="cpu", staging=3, chunk=16))
    assert (plan.batch, plan.kv, plan.staging, plan.prefill.chunk) == (5, "ddr", 3, 16)
    assert (plan.prefill.micro_batch, plan.decode.micro_batch) == (2, 2)
    assert (plan.prefill.core, plan.decode.core) == ("gpu", "cpu")
    assert portions(posed({"requests": 9}), Sizing(batch=99)).batch == 9, "no more than there are"


def test_a_cache_in_the_host_is_attended_to_where_that_ends_first() -> None:
    work = {"requests": 8, "prompt": 2000}
    assert portions(posed(work), Sizing(kv="ddr")).decode.core == "cpu"
    assert portions(posed(work, cpu=False), Sizing(kv="ddr")).decode.core == "gpu"
    assert portions(posed(work), Sizing(kv="hbm")).decode.core == "gpu"


def test_a_batch_is_as_large_as_its_cache_has_room() -> None:
    """Every request takes 1,024 tokens; DRAM holds the 24 experts and the caches of five."""
    work = {"requests": 64, "prompt": 1000, "output": 24}
    small = portions(posed(work, hbm=200 * MB, ddr=24 * EXPERT + 5.5 * 1024 * TOKEN), Sizing(kv="ddr"), movable=True)
    assert small.batch == 5
    assert portions(posed(work, hbm=200 * MB, ddr=24 * EXPERT + 5.5 * 1024 * TOKEN), Sizing(kv="ddr")).batch > 5, "residents"


def test_a_batch_that_does_not_fit_as_stated_is_refused_with_every_share() -> None:
    work = posed({"requests": 64, "prompt": 1000, "output": 24}, hbm=200 * MB, ddr=24 * EXPERT + 5.5 * 1024 * TOKEN)
    text = refused(work, Sizing(batch=6, kv="ddr"), movable=True)
    assert "with a batch of 6 does not fit into bench" in text
    assert "24 experts of 6,291,456 B are 150,994,944 B" in text
    assert "staging slot" in text
    assert portions(work, Sizing(batch=5, kv="ddr"), movable=True).batch == 5


@pytest.mark.parametrize(
    ("sizing", "message"),
    [
        (Sizing(kv="drd"), "no tier 'drd' in this machine; it has hbm, ddr. Did you mean 'ddr'?"),
        (Sizing(core="gpus"), "no device 'gpus' in this machine"),
        (Sizing(kv="hbm", core="cpu"), "'cpu' cannot attend to a KV cache in GPU memory; choose a host tier"),
    ],
)
def test_names_that_the_machine_does_not_have_are_refused(sizing: Sizing, message: str) -> None:
    assert message in refused(posed(), sizing)


def test_another_gpu_holds_no_cache() -> None:
    text = refused(posed(far={"hbm1": 50 * MB}), Sizing(kv="hbm1"))
    assert "'hbm1' is not of 'gpu', the GPU that attends, or of the host: hbm, ddr" in text


def test_pinned_parameters_without_a_plan_are_named() -> None:
    assert "no plan fits with batch as given (4): too much; leave it to the search" in str(no_plan({"batch": 4}, "too much"))
    both = str(no_plan({"batch": 4, "shares": (1, 2)}, "too much"))
    assert "with batch, shares as given (4, [1, 2]): too much; leave one of them to the search" in both
