"""Experts over several GPUs: who holds what, who runs what, and what is said where they do not fit."""

import numpy as np
import policy_problems as tiny
import pytest

from moesim.errors import InputError
from moesim.hardware import System
from moesim.policies.baselines.gpu_only import GpuOnly
from moesim.policies.baselines.random import Random
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.in_place.fiddler import Fiddler
from moesim.policies.kit.sizing import gpu_room
from moesim.testing.worlds import MB, machine

COUNTS = [3, 1, 0, 2, 5, 1, 1, 1]


def scene(hbm: float = 80 * MB, beside: float = 40 * MB, **rest):
    return tiny.problem(machine(hbm, far={"hbm1": beside}, **rest))


def tiers_of(p, deployment):
    """[L, E] the tier that each expert is computed from: GPU memory where a copy is resident."""
    return np.where(deployment.resident, p.gpu_tier_index, deployment.home)


def test_every_gpu_is_filled_before_the_host_and_shares_each_layer():
    p = scene()
    deployment = StaticPopularity().deploy(p)
    tiers, room = tiers_of(p, deployment), gpu_room(p, deployment.plan)
    size = p.model.expert_bytes
    held = {name: int((tiers == p.tiers.index(name)).sum()) for name in ("hbm", "hbm1", "ddr")}
    assert held["ddr"] > 0
    assert [int(room[name] // size) for name in room] == [held["hbm"], held["hbm1"]]
    assert ((tiers == p.tiers.index("hbm1")).sum(axis=1) >= 1).all()
    least = np.where(tiers == p.tiers.index("ddr"), -1.0, p.popularity).max(axis=1)
    assert (np.where(tiers == p.tiers.index("ddr"), p.popularity, 0).max(axis=1) <= least).all()  # the hottest are with a GPU


def test_the_gpu_that_is_done_first_takes_the_next_expert():
    """With room for all, the faster GPU takes more uses, and the other one as many as keep it as long at work."""
    p = scene(8e9, 8e9)
    deployment = StaticPopularity().deploy(p)
    there = deployment.home == p.tiers.index("hbm1")
    assert (there | deployment.resident).all()
    assert 0 < there.sum() < deployment.resident.sum()
    far = tiny.problem(System.model_validate(scene(8e9, 8e9).system.model_dump() | {"attending": "gpu1"}))
    assert (far.system.attending_gpu, far.gpu_tier, far.system.further_gpus) == ("gpu1", "hbm1", ("gpu",))
    deployment = StaticPopularity().deploy(far)
    assert 0 < deployment.resident.sum() < (deployment.home == far.tiers.index("hbm")).sum()


@pytest.mark.parametrize("misses", ["upload", "cpu", "threshold"])
@pytest.mark.parametrize("kind", [StaticPopularity, Random])
def test_each_gpu_runs_what_it_holds(kind, misses):
    p = scene()
    deployment = kind(misses=misses).deploy(p)
    tiers, view = tiers_of(p, deployment), tiny.view_of(p, deployment)
    for layer in range(p.layers):
        device = kind(misses=misses).dispatch(tiny.visit_of(p, deployment, layer, COUNTS), view).device
        assert (device[tiers[layer] == p.tiers.index("hbm1")] == p.devices.index("gpu1")).all()
        assert (device[tiers[layer] == p.gpu_tier_index] == p.attending_index).all()
        rest = set(device[tiers[layer] == p.tiers.index("ddr")].tolist())
        assert rest <= ({p.cpu_index} if misses == "cpu" else {p.cpu_index, p.attending_index})


def test_a_policy_of_one_gpu_leaves_the_other_alone():
    p = scene()
    assert not (Fiddler().deploy(p).home == p.tiers.index("hbm1")).any()
    assert StaticPopularity(limit=0).deploy(p).home.tolist() == np.full((3, 8), p.tiers.index("ddr")).tolist()


def test_a_dense_model_runs_on_the_gpu_that_attends():
    dense = tiny.problem(machine(8e9, far={"hbm1": 8e9}), tiny.model(layers=0, dense=2), tiny.job(layers=0), np.zeros((0, 8)))
    assert StaticPopularity().deploy(dense).resident.shape == (0, 8)


def test_gpu_only_takes_the_memory_of_all_gpus_and_says_what_is_missing():
    size = 24 * tiny.model().expert_bytes
    p = scene(120 * MB, size / 2 + 10 * MB)
    with pytest.raises(InputError):
        GpuOnly().deploy(tiny.problem(machine(120 * MB)))
    tiers = tiers_of(p, GpuOnly().deploy(p))
    assert set(tiers.ravel().tolist()) == {p.gpu_tier_index, p.tiers.index("hbm1")}
    with pytest.raises(
        InputError, match=r"24 experts of 6,291,456 B are 150,994,944 B, and there is room for .* 'hbm1' 10,.* B\)"
    ):
        GpuOnly().deploy(scene(120 * MB, 11 * MB))


def test_a_cache_and_attention_stay_with_the_gpu_that_attends():
    where = "of 'gpu', the GPU that attends, or of the host: "
    with pytest.raises(InputError, match=f"'hbm1' is not {where}hbm, ddr"):
        StaticPopularity(kv="hbm1").deploy(scene())
    with pytest.raises(InputError, match=f"'gpu1' is not {where}gpu, cpu"):
        StaticPopularity(core="gpu1").deploy(scene())
