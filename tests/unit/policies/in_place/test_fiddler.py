"""Fiddler: one decision for each missing expert, by times that are given here. Source: arXiv:2402.07033, algorithm 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Overlap, Serial
from moesim.errors import InputError
from moesim.policies.in_place.fiddler import Fiddler

NARROW = tiny.problem(tiny.system(hbm=0.1e9))
"""GPU memory for ten experts and a slot for uploads beside all else."""
GPU, CPU = NARROW.attending_index, NARROW.cpu_index


def devices(policy: Fiddler, counts: list[int], here: list[int] = (), **seconds: Any) -> list[int]:  # type: ignore[assignment]
    """[E] who computes each expert; those of `here` are in GPU memory, one token takes the CPU 2 s."""
    _, view = tiny.first_placement(policy, NARROW)
    view.state = np.full((NARROW.layers, NARROW.experts), 2.0)
    chosen: list[int] = policy.dispatch(
        tiny.timed_visit(tiny.with_residents(view, here), counts, **seconds), view
    ).device.tolist()
    return chosen


@pytest.mark.parametrize(
    ("cpu", "copy", "gpu", "device"),
    [
        (3.9, 3.0, 1.0, CPU),
        (4.0, 3.0, 1.0, CPU),  # the CPU where both take as long
        (4.1, 3.0, 1.0, GPU),
        (4.1, 3.2, 1.0, CPU),
        (4.1, 3.0, 1.2, CPU),
        (np.inf, 3.0, 1.0, GPU),
    ],
)
def test_a_missing_expert_stays_if_the_cpu_takes_no_longer_than_its_copy_and_the_gpu(
    cpu: float, copy: float, gpu: float, device: int
) -> None:
    assert devices(Fiddler(), [2] * 8, cpu=cpu, copy=copy, gpu=gpu) == [device] * 8


def test_an_expert_in_gpu_memory_runs_there_however_fast_the_cpu_is() -> None:
    assert devices(Fiddler(), [4, 4, 4, 4, 0, 0, 0, 0], here=[1, 3], cpu=0.1) == [CPU, GPU, CPU, GPU] + [CPU] * 4
    assert devices(Fiddler(estimate="linear"), [1] * 8, here=[0]) == [GPU] + [CPU] * 7


def test_the_released_code_multiplies_the_time_of_a_token() -> None:
    # 2 s a token against 3 + 1 s: one token and two stay, three take 6 s and leave, though the curve says 0.5 s
    counts = [1, 2, 3, 10, 0, 0, 0, 0]
    assert devices(Fiddler(estimate="linear"), counts, cpu=0.5)[:4] == [CPU, CPU, GPU, GPU]
    assert devices(Fiddler(estimate="curve"), counts, cpu=0.5)[:4] == [CPU] * 4


def test_a_token_is_timed_in_the_tier_of_each_expert() -> None:
    near = tiny.problem(tiny.system(hbm=0.1e9, ddr=60e6, cxl={"near": (1e9, 22e9)}))
    deployment = Fiddler().deploy(near)
    seconds = {tier: float(near.costs.cpu(1, tier)) for tier in ("ddr", "near")}
    assert seconds["ddr"] < seconds["near"]
    for tier, time in seconds.items():
        there = deployment.home == near.tiers.index(tier)
        assert there.any()
        assert set(deployment.state[there].tolist()) == {time}


def test_the_queue_has_residents_first_and_then_those_with_most_tokens() -> None:
    _, view = tiny.first_placement(Fiddler(), NARROW)
    order = Fiddler().dispatch(tiny.timed_visit(tiny.with_residents(view, [2, 6]), [1, 5, 2, 5, 0, 9, 3, 0]), view).order
    assert order is not None
    assert order.tolist() == [6, 2, 5, 1, 3, 0, 4, 7]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 5), (0.9, 9), (0.95, 10), (1.0, 10)])
def test_so_large_a_share_of_the_room_is_filled_in_whole_experts(share: float, count: int) -> None:
    """With one slot for uploads 10.8 experts fit: half of them are 5.4, 0.9 are 9.7, 0.95 are 10.3."""
    deployment, view = tiny.first_placement(Fiddler(share=share), NARROW)
    assert int(deployment.resident.sum()) == count
    most = np.sort(NARROW.popularity[deployment.resident])
    assert most.tolist() == np.sort(NARROW.popularity.ravel())[NARROW.popularity.size - count :].tolist()
    assert view.state.shape == (3, 8)


def test_what_a_token_takes_is_read_at_the_home_of_its_expert() -> None:
    work = tiny.problem(tiny.system(hbm=0.1e9, ddr=80e6, cxl={"cxl0": (1e9, 20e9)}))
    deployment, _ = tiny.first_placement(Fiddler(), work)
    near, far = (deployment.home == work.tiers.index(tier) for tier in ("ddr", "cxl0"))
    assert near.any()
    assert far.any()
    # 6.29 MB by the kernel's 200 GB/s, and by the 20 GB/s of the CXL memory
    assert deployment.state[near] == pytest.approx(6_291_456 / 200e9, rel=2e-3)
    assert deployment.state[far] == pytest.approx(6_291_456 / 20e9, rel=2e-3)


def test_layers_are_serial_unless_they_are_to_overlap() -> None:
    assert Fiddler().deploy(NARROW).plan.decode.pipeline == Serial()
    assert Fiddler(pipeline="overlap").deploy(NARROW).plan.prefill.pipeline == Overlap()


def test_without_a_cpu_there_is_nothing_to_decide() -> None:
    with pytest.raises(InputError, match="this policy computes experts on the CPU; the machine has no CPU that computes"):
        Fiddler().deploy(tiny.problem(tiny.system(cpu=False)))
