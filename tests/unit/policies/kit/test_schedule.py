"""Schedules over several devices against plain loops and exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reporting import for_all

from moesim.policies.kit.schedule import best_prefix, makespan, prefix_share, two_ended


def drawn(seed: int, experts: int = 7):
    """here, counts, gpu, cpu, copy of one visit; some experts are idle, some are there."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, experts) * (rng.random(experts) < 0.7)
    here = rng.random(experts) < 0.4
    gpu = 1e-5 + counts * 1e-7
    return here, counts, gpu, 2e-5 + counts * rng.uniform(1e-6, 2e-5), np.full(experts, rng.uniform(2e-5, 4e-4))


def reference_two_ended(here, counts, gpu, cpu, copy, start):
    """The published loop, word for word."""
    active = np.flatnonzero(counts).tolist()
    queue = sorted((e for e in active if here[e]), key=lambda e: (-counts[e], e))
    queue += sorted((e for e in active if not here[e]), key=lambda e: (-counts[e], e))
    tg = tc = tm = 0.0
    cpu_side, first = [], True
    while queue:
        a, b = queue[0], queue[-1]
        ga = gpu[a] + (0.0 if here[a] else max(0.0, tm + copy[a] - tg))
        cb = cpu[b] + (start if first else 0.0)
        if tg + ga <= tc + cb:
            tg += ga
            tm += 0.0 if here[a] else copy[a]
            queue.pop(0)
        else:
            tc, first = tc + cb, False
            cpu_side.append(queue.pop())
    return sorted(cpu_side)


@for_all(range(60), [0.0, 1e-4])
def test_two_ended_equals_the_published_loop(seed, start):
    visit = drawn(seed)
    assert np.flatnonzero(two_ended(*visit, start)).tolist() == reference_two_ended(*visit, start)


def test_two_ended_gives_nothing_to_a_cpu_that_cannot():
    here, counts, gpu, cpu, copy = drawn(1)
    assert not two_ended(here, counts, gpu, np.full_like(cpu, np.inf), copy, 0.0).any()


def test_two_ended_takes_the_light_end_for_the_cpu():
    counts = np.array([50, 1, 20, 3])
    split = two_ended(np.array([True, False, False, False]), counts, counts * 1e-6, counts * 4e-6, np.full(4, 1e-5), 0.0)
    assert split.tolist() == [False, True, False, True]


def end_of(times, chosen):
    loads = np.zeros(times.shape[1])
    np.add.at(loads, chosen, times[np.arange(len(chosen)), chosen])
    return float(loads.max(initial=0.0))


@for_all(range(60))
def test_makespan_is_never_worse_than_one_device_and_close_to_the_best(seed):
    rng = np.random.default_rng(seed)
    jobs = int(rng.integers(1, 7))
    times = rng.uniform(1, 10, (jobs, 3)) * rng.uniform(0.3, 3, 3)
    times[:, 2][rng.random(jobs) < 0.4] = np.inf
    times = times[np.argsort(-times[:, 0])]
    end = end_of(times, makespan(times))
    best = min(end_of(times, np.array(c)) for c in itertools.product(range(3), repeat=jobs))
    assert end <= times.sum(axis=0).min() + 1e-12
    assert best <= end <= 2.0 * best


def test_makespan_finds_the_best_of_most_small_cases():
    near_best = 0
    for seed in range(40):
        times = -np.sort(-np.random.default_rng(seed).uniform(1, 10, (6, 1)), axis=0) * np.array([[1.0, 1.7, 2.5]])
        best = min(end_of(times, np.array(c)) for c in itertools.product(range(3), repeat=6))
        near_best += end_of(times, makespan(times)) <= best * 1.1
    assert near_best >= 36


def test_makespan_improves_on_greedy():
    times = np.array([[3.0, 4.0], [3.0, 4.0], [2.0, 6.0]])  # greedy: 5 on the first, 4 on the second
    assert end_of(times, makespan(times)) == 5.0
    late = np.array([[1.0, 1.1], [1.0, 9.0], [4.0, 9.0]])  # greedy leaves the first job where it blocks the last
    assert end_of(late, makespan(late)) == 5.0


def test_makespan_respects_what_devices_do_already():
    times = np.array([[1.0, 2.0]])
    assert makespan(times, np.array([0.0, 0.0])).tolist() == [0]
    assert makespan(times, np.array([5.0, 0.0])).tolist() == [1]
    assert makespan(np.zeros((0, 2))).tolist() == []


def test_prefix_share_rounds_up_and_takes_at_least_one():
    counts = np.array([5, 0, 9, 1, 1])
    assert np.flatnonzero(prefix_share(counts, 0.0)).tolist() == [2]
    assert np.flatnonzero(prefix_share(counts, 0.3)).tolist() == [0, 2]
    assert np.flatnonzero(prefix_share(counts, 9.0)).tolist() == [0, 2, 3, 4]
    assert not prefix_share(np.zeros(3, dtype=int), 0.5).any()


@for_all(range(30))
def test_best_prefix_equals_trying_all(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, 8))
    copy, gpu, ndp = rng.uniform(0, 3, size) * (rng.random(size) < 0.6), rng.uniform(0, 1, size), rng.uniform(0, 4, size)
    crossing = np.sort(rng.uniform(0, 1, size + 1))[::-1]

    def end(n):
        gpu_side = max(copy[:n].sum() + gpu[n - 1], gpu[:n].sum()) if n else 0.0
        return max(gpu_side, crossing[n] + ndp[n:].sum() if n < size else 0.0)

    ends = [end(n) for n in range(size + 1)]
    assert ends[best_prefix(copy, gpu, ndp, crossing)] == pytest.approx(min(ends))
