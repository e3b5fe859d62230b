"""The least time of small pieces of work, of which it can be seen: who could share them, and what each limit adds."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest

from moesim.errors import MoesimError
from moesim.results.bound.limits import Dense, FurtherGpus, Limits, PhaseWork, lower_bound

ROOM = 1e9
"""Bytes of GPU memory that never limit."""


def work(gpu: Any = inf, weight: Any = 0.0, *, passes: int = 1, **more: Any) -> PhaseWork:
    return PhaseWork.of(gpu, weight, passes=passes, **more)


def test_items_of_equal_cost_are_counted_together() -> None:
    phase = PhaseWork.of(
        [[2.0, 1.0], [2.0, 2.0]], 8.0, passes=3, cpu=[5.0, 5.0], ndp=[[[7.0, 7.0], [7.0, 9.0]]], fixed=[(1, 2)]
    )
    assert phase.count.tolist() == [1, 2, 1]
    assert (phase.gpu.tolist(), phase.cpu.tolist(), phase.ndp.tolist()) == ([1, 2, 2], [5, 5, 5], [[7, 7, 9]])
    assert (phase.weight.tolist(), phase.passes, phase.fixed, phase.further) == ([8, 8, 8], 3, (Dense(1, 2),), None)
    assert work(1.0, further=[[2.0]]).further.tolist() == [[2.0]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("phase", "limits", "seconds"),
    [
        (work([2.0, 3.0]), Limits(ROOM), 5.0),  # one after the other
        (work(1.0, cpu=3.0), Limits(ROOM), 0.75),  # three quarters on the GPU take as long as a quarter on the CPU
        (work([1.0, 1.0], cpu=1.0), Limits(ROOM), 1.0),
        (work(ndp=[[1.0], [1.0]]), Limits(ROOM), 0.5),  # two units
        (work(1.0, cpu=1.0, ndp=[[1.0]]), Limits(ROOM), 1 / 3),
        (work([0.1, 0.1], 10.0), Limits(10.0, upload=10.0), 1.0),  # one stays, one is brought
        (work([0.1, 0.1], 10.0, passes=2), Limits(10.0, upload=10.0), 0.2),  # in each of two passes one finds it there
        (work([0.1, 0.1], 10.0), Limits(15.0, upload=10.0), 0.5),  # shares of experts are allowed
        (work([1.0, 1.0], 10.0), Limits(0.0, upload=5.0), 4.0),
        (work([1.0, 1.0], 10.0), Limits(0.0, upload=5.0, concurrent=2), 2.0),  # an upload serves two passes
        (work(1e-3, 6.0), Limits(0.0, upload=5.0, sources=(1.0, 2.0)), 2.0),
        (work(1e-3, 6.0), Limits(0.0, upload=2.0, sources=(5.0, 5.0)), 3.0),
        (work(1e-3, 8.0), Limits(0.0, upload=100.0, host_bandwidth=4.0), 2.0),
        (work(1e-3, 8.0), Limits(0.0, upload=100.0, host_bandwidth=4.0, concurrent=4), 0.5),
        # the CPU reads what uploads do not: 8 bytes at 4 B/s whoever runs it
        (work(1e-3, 8.0, cpu=1e-3), Limits(0.0, upload=100.0, host_bandwidth=4.0), 2.0),
        (work(1.0, fixed=[(2.0, inf)]), Limits(ROOM), 3.0),  # attention on the GPU, too
        (work(1.0, fixed=[(2.0, 3.0)]), Limits(ROOM), 1.8),  # 1 + 2 x = 3 (1 - x): x = 0.4
        (work(1.0, further=[[1.0]]), Limits(ROOM, further=(FurtherGpus(1, ROOM),)), 0.5),
        (work(1.0, further=[[1.0]]), Limits(ROOM, further=(FurtherGpus(2, ROOM),)), 1 / 3),
        (work(inf, 12.0, further=[[1e-3]]), Limits(ROOM, further=(FurtherGpus(2, 4.0, upload=1.0),)), 2.0),  # 8 of 12 B stay
        (work(1.0, further=[[1.0]], fixed=[(1.0, inf)]), Limits(ROOM, further=(FurtherGpus(1, ROOM),)), 1.0),
        (work(np.zeros(0), np.zeros(0)), Limits(ROOM), 0.0),
        (work(0.0), Limits(0.0), 0.0),
    ],
)  # fmt: skip
def test_no_schedule_is_faster_than_what_the_least_share_takes(phase: PhaseWork, limits: Limits, seconds: float) -> None:
    bound = lower_bound([phase], limits)
    assert bound.seconds == pytest.approx(seconds, rel=1e-6, abs=1e-12)
    assert bound.phases == (bound.seconds,)
    assert sum(bound.prices.values()) == pytest.approx(1.0 if seconds else 0.0)


def test_phases_run_one_after_another_unless_taken_jointly() -> None:
    phases = [work(2.0), work(cpu=3.0)]
    apart, joint = lower_bound(phases, Limits(ROOM)), lower_bound(phases, Limits(ROOM), joint=True)
    assert apart.seconds == pytest.approx(5.0)
    assert apart.phases == pytest.approx((2.0, 3.0))
    assert (apart.prices["gpu"], apart.prices["cpu"]) == pytest.approx((0.4, 0.6))  # by their seconds
    assert joint.seconds == pytest.approx(3.0)
    assert len(joint.phases) == 1
    assert joint.prices["cpu"] == pytest.approx(1.0)


def test_prices_name_what_a_faster_part_would_help() -> None:
    (uploads,) = [lower_bound([work([0.1, 0.1], 10.0)], Limits(0.0, upload=1.0)).prices]
    assert uploads == {
        "gpu": pytest.approx(0.0),
        "cpu": pytest.approx(0.0),
        "upload": pytest.approx(1.0),
        "host": pytest.approx(0.0),
    }
    names = lower_bound([work(1.0, ndp=[[1.0]], further=[[1.0]])], Limits(ROOM, further=(FurtherGpus(1, ROOM),))).prices
    assert list(names) == ["gpu", "cpu", "upload", "host", "ndp 0", "gpu 1", "upload 1"]


def test_without_phases_there_is_nothing_to_wait_for() -> None:
    assert lower_bound([], Limits(ROOM)) == (0, (), {})
    assert lower_bound([], Limits(ROOM), joint=True) == (0, (), {})


def test_work_that_no_device_can_do_has_no_bound() -> None:
    phase = work([1.0, inf, inf], [1.0, 2.0, 3.0])
    with pytest.raises(MoesimError, match=r"^no device can do 2 of 3 kinds of work, so there is no bound$"):
        lower_bound([phase], Limits(ROOM))
    with pytest.raises(MoesimError, match="no device can do 1 of 2 kinds of work"):
        lower_bound([work(1.0, fixed=[(inf, inf)])], Limits(ROOM))


def test_times_beyond_all_numbers_are_refused() -> None:
    with pytest.raises(MoesimError, match=r"^the times of its work are too long to add up$"):
        lower_bound([work([1e308, 1.5e308])], Limits(ROOM))
