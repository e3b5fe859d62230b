"""llama.cpp's streaming from an SSD: time goes by hits, and halved counts forget."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.contract import Uses
from moesim.policies.caching.llama_cpp_stream import LayerHot
from moesim.runs.run import RunOptions, loaded, run_loaded


def summary(capacity: int):
    sets = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 6}
    policy = {"kind": "llama_cpp_stream", "capacity": capacity}
    return run_loaded(loaded("quickstart", policy=policy, **sets), RunOptions(bound=False)).summary


def test_the_time_of_a_token_is_linear_in_the_misses():
    small, middle, most = (summary(capacity) for capacity in (4, 16, 40))
    misses = [1.0 - run["decode_hit_rate"] for run in (small, middle, most)]
    seconds = [run["tpot_s"]["mean"] for run in (small, middle, most)]
    share = (misses[0] - misses[1]) / (misses[0] - misses[2])
    assert seconds[0] - seconds[1] == pytest.approx(share * (seconds[0] - seconds[2]), rel=0.05)
    assert small["bytes"]["nvme:read"] == pytest.approx(small["bytes"]["pcie:forward"], rel=0.02)


def test_halved_counts_let_an_expert_of_the_past_go():
    cache = LayerHot(np.array([2]), 1, 4, period=4)
    resident = np.array([[True, True, False, False]])

    def visit(counts, clock, uploaded=(False,) * 4):
        return cache.after(Uses(np.array([0]), np.array([clock]), np.array([counts]), np.array([uploaded]), resident, 0))

    visit([8, 1, 0, 0], 1)
    for clock in range(2, 10):
        visit([0, 1, 0, 0], clock)
    _, leave = visit([0, 0, 1, 0], 10, (False, False, True, False))
    assert leave[0].tolist() == [True, False, False, False]
