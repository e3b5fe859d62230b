"""The bound: I10 (more machine never lowers it), I11 (no schedule beats it), scale, and agreement with brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.errors import MoesimError
from moesim.results.bound import Dense, FurtherGpus, Limits, PhaseWork, lower_bound

CLOSE = 1e-6
SMALL = settings(max_examples=15, deadline=None)
seconds = st.floats(0.01, 100)


RATE = st.one_of(st.just(0.0), st.floats(0.1, 100))
GPUS = 2
"""Kinds of further GPUs that works know; a machine has none of them, or both."""


@st.composite
def works(draw: st.DrawFn, passes: st.SearchStrategy[int] | None = None) -> PhaseWork:
    classes, units = draw(st.integers(1, 5)), draw(st.integers(0, 2))

    def numbers(low: float, high: float) -> np.ndarray:
        return np.array(draw(st.lists(st.floats(low, high), min_size=classes, max_size=classes)))

    near = np.array([numbers(0.01, 100) for _ in range(units)]).reshape(units, classes)
    count = np.array(draw(st.lists(st.integers(1, 50), min_size=classes, max_size=classes)), dtype=float)
    fixed = tuple(Dense(draw(seconds), draw(st.one_of(seconds, st.just(np.inf)))) for _ in range(draw(st.integers(0, 2))))
    further = np.array([numbers(0.01, 10) for _ in range(GPUS)])
    return PhaseWork(
        count, numbers(0.01, 10), numbers(0.01, 100), near, numbers(1, 50), draw(passes or st.integers(1, 9)), fixed, further
    )


limits = st.builds(
    Limits,
    gpu_memory=st.floats(0, 500),
    upload=st.floats(0.1, 100),
    sources=st.one_of(st.none(), st.tuples(st.floats(0.1, 100), st.floats(0.1, 100))),
    host_bandwidth=st.one_of(st.none(), st.floats(0.1, 200)),
    concurrent=st.integers(1, 3),
    further=st.one_of(st.just(()), st.tuples(*[st.builds(FurtherGpus, st.integers(1, 7), st.floats(0, 500), RATE)] * GPUS)),
)


def phase_work(**sizes: float) -> PhaseWork:
    """One class of ten items of 8 B, 1 s on the GPU, in one pass."""
    values = {"gpu": 1.0, "cpu": np.inf, "weight": 8.0} | sizes
    return PhaseWork.of(np.full(10, values["gpu"]), values["weight"], cpu=values["cpu"], passes=1)


def test_a_gpu_that_holds_everything_is_bound_by_its_own_work() -> None:
    assert lower_bound([phase_work()], Limits(gpu_memory=80, upload=1)).seconds == pytest.approx(10, rel=CLOSE)


def test_what_does_not_fit_is_uploaded_once_per_pass() -> None:
    bound = lower_bound([phase_work()], Limits(gpu_memory=24, upload=2))
    assert bound.seconds == pytest.approx((80 - 24) / 2, rel=CLOSE)
    assert bound.prices["upload"] == pytest.approx(1, abs=CLOSE)


def test_gpu_and_cpu_share_the_work_so_that_both_end_together() -> None:
    bound = lower_bound([phase_work(cpu=3.0)], Limits(gpu_memory=80, upload=1))
    assert bound.seconds == pytest.approx(10 / (1 + 1 / 3), rel=CLOSE)
    assert sum(bound.prices.values()) == pytest.approx(1)


def test_the_slowest_of_link_sources_and_host_memory_limits_uploads() -> None:
    machine = Limits(gpu_memory=0, upload=8)
    assert lower_bound([phase_work()], machine).seconds == pytest.approx(10, rel=CLOSE)
    assert lower_bound([phase_work()], replace(machine, sources=(1.0, 3.0))).seconds == pytest.approx(20, rel=CLOSE)
    assert lower_bound([phase_work()], replace(machine, host_bandwidth=2.0)).seconds == pytest.approx(40, rel=CLOSE)
    assert lower_bound([phase_work()], replace(machine, host_bandwidth=2.0, concurrent=2)).seconds == pytest.approx(
        20, rel=CLOSE
    )


def test_uploads_and_the_reads_of_the_cpu_share_host_memory() -> None:
    machine = Limits(gpu_memory=0, upload=100, host_bandwidth=2.0)
    assert lower_bound([phase_work(cpu=0.1)], machine).seconds == pytest.approx(40, rel=CLOSE)


def test_dense_work_goes_where_it_is_cheapest_and_may_be_split() -> None:
    work = PhaseWork.of(np.empty(0), np.empty(0), passes=1, fixed=[(4.0, 4.0), (2.0, np.inf)])
    assert lower_bound([work], Limits(gpu_memory=0)).seconds == pytest.approx(3, rel=CLOSE)


def test_work_that_nobody_can_do_is_refused() -> None:
    with pytest.raises(MoesimError, match="no device"):
        lower_bound([phase_work(gpu=np.inf)], Limits(gpu_memory=80, upload=1))
    with pytest.raises(MoesimError, match="cannot be uploaded"):
        lower_bound([phase_work()], Limits(gpu_memory=24))


def test_no_work_takes_no_time() -> None:
    empty = PhaseWork.of(np.empty(0), np.empty(0), passes=0)
    assert lower_bound([empty], Limits(gpu_memory=1)).seconds == 0
    assert lower_bound([], Limits(gpu_memory=1)).seconds == 0


def test_equal_items_are_counted_together() -> None:
    work = PhaseWork.of([[1.0, 2.0], [1.0, 1.0]], 8.0, cpu=[[3.0, 3.0], [3.0, 4.0]], ndp=[[[5.0, 5.0], [5.0, 5.0]]], passes=2)
    assert work.count.tolist() == [2, 1, 1]
    assert (work.gpu.tolist(), work.cpu.tolist(), work.ndp.tolist()) == ([1, 1, 2], [3, 4, 3], [[5, 5, 5]])


@SMALL
@given(works(), limits)
def test_compressed_and_single_items_have_one_bound(work: PhaseWork, machine: Limits) -> None:
    times = work.count.astype(int)
    items = PhaseWork.of(
        np.repeat(work.gpu, times), np.repeat(work.weight, times), cpu=np.repeat(work.cpu, times),
        ndp=np.repeat(work.ndp, times, axis=1), passes=work.passes, fixed=work.fixed,
        further=np.repeat(work.further, times, axis=1))  # fmt: skip
    assert lower_bound([items], machine).seconds == pytest.approx(lower_bound([work], machine).seconds, rel=CLOSE)


@SMALL
@given(works(), limits, st.floats(1, 10), st.sampled_from(["gpu_memory", "upload", "host_bandwidth", "sources"]))
def test_i10_more_memory_or_bandwidth_never_raises_the_time(
    work: PhaseWork, machine: Limits, factor: float, field: str
) -> None:
    value = getattr(machine, field)
    more = value if value is None else tuple(factor * v for v in value) if field == "sources" else factor * value
    before, after = (lower_bound([work], limit).seconds for limit in (machine, replace(machine, **{field: more})))
    assert after <= before * (1 + CLOSE)


@SMALL
@given(works(), limits, st.floats(1, 10), st.sampled_from(["gpu", "cpu", "ndp", "further"]))
def test_i10_faster_devices_never_raise_the_time(work: PhaseWork, machine: Limits, factor: float, field: str) -> None:
    faster = replace(work, **{field: getattr(work, field) / factor})
    assert lower_bound([faster], machine).seconds <= lower_bound([work], machine).seconds * (1 + CLOSE)


@SMALL
@given(works(), limits)
def test_i10_another_device_never_raises_the_time(work: PhaseWork, machine: Limits) -> None:
    alone = replace(work, ndp=work.ndp[:0])
    assert lower_bound([work], machine).seconds <= lower_bound([alone], machine).seconds * (1 + CLOSE)
    assert lower_bound([work], machine).seconds <= lower_bound([work], replace(machine, further=())).seconds * (1 + CLOSE)


@SMALL
@given(works(), limits, st.floats(1, 10), st.sampled_from(["memory", "upload", "number"]))
def test_i10_more_of_further_gpus_never_raises_the_time(work: PhaseWork, machine: Limits, factor: float, field: str) -> None:
    scale = int(factor) if field == "number" else factor
    more = tuple(gpus._replace(**{field: scale * getattr(gpus, field)}) for gpus in machine.further)
    before, after = (lower_bound([work], limit).seconds for limit in (machine, replace(machine, further=more)))
    assert after <= before * (1 + CLOSE)


@SMALL
@given(works(), limits, st.floats(0.01, 100))
def test_a_machine_slower_by_a_factor_takes_that_much_longer(work: PhaseWork, machine: Limits, factor: float) -> None:
    fixed = tuple(Dense(factor * pair.gpu, factor * pair.cpu) for pair in work.fixed)
    times = {name: factor * getattr(work, name) for name in ("gpu", "cpu", "ndp", "further")}
    slow = replace(work, **times, fixed=fixed)
    rates = {
        "upload": machine.upload / factor,
        "sources": machine.sources and tuple(rate / factor for rate in machine.sources),
        "host_bandwidth": machine.host_bandwidth and machine.host_bandwidth / factor,
        "further": tuple(gpus._replace(upload=gpus.upload / factor) for gpus in machine.further),
    }
    expected = factor * lower_bound([work], machine).seconds
    assert lower_bound([slow], replace(machine, **rates)).seconds == pytest.approx(expected, rel=CLOSE)


@SMALL
@given(works(), limits, st.floats(0.001, 1e9))
def test_the_unit_of_bytes_does_not_matter(work: PhaseWork, machine: Limits, factor: float) -> None:
    scaled = Limits(
        factor * machine.gpu_memory, factor * machine.upload,
        machine.sources and tuple(factor * rate for rate in machine.sources),
        machine.host_bandwidth and factor * machine.host_bandwidth, machine.concurrent,
        tuple(gpus._replace(memory=factor * gpus.memory, upload=factor * gpus.upload) for gpus in machine.further))  # fmt: skip
    bound = lower_bound([replace(work, weight=factor * work.weight)], scaled).seconds
    assert bound == pytest.approx(lower_bound([work], machine).seconds, rel=CLOSE)


@SMALL
@given(st.lists(works(), min_size=1, max_size=3), limits)
def test_phases_add_up_and_together_they_are_never_slower(phases: list[PhaseWork], machine: Limits) -> None:
    apart = lower_bound(phases, machine)
    assert apart.seconds == pytest.approx(sum(lower_bound([phase], machine).seconds for phase in phases))
    together = lower_bound(phases, machine, joint=True)
    assert together.seconds <= apart.seconds * (1 + CLOSE)
    assert len(together.phases) == 1


def primal(work: PhaseWork, machine: Limits) -> float:
    """The linear programme as the docstring of `lower_bound` states it: unknowns are items per option, and T."""
    classes, units, dense, gpus = work.count.size, len(work.ndp), len(work.fixed), machine.further
    options = 3 + units + 2 * len(gpus)
    unknowns = options * classes + 2 * dense + 1
    part = [slice(index * classes, (index + 1) * classes) for index in range(options)]
    offset = options * classes
    rows, limit = np.zeros((5 + units + 3 * len(gpus), unknowns)), np.zeros(5 + units + 3 * len(gpus))
    rows[0, part[0]] = rows[0, part[1]] = work.gpu
    rows[0, offset : offset + dense] = [pair.gpu for pair in work.fixed]
    rows[1, part[2]] = work.cpu
    rows[1, offset + dense : -1] = [min(pair.cpu, 1e9) for pair in work.fixed]
    rows[2, part[1]] = work.weight / min(machine.upload, sum(machine.sources or (np.inf,))) / machine.concurrent
    if machine.host_bandwidth:
        rows[3, part[1]] = work.weight / machine.host_bandwidth / machine.concurrent
        rows[3, part[2]] = work.weight / machine.host_bandwidth
    for unit in range(units):
        rows[5 + unit, part[3 + unit]] = work.ndp[unit]
    rows[:, -1] = -1
    for number, gpu in enumerate(gpus):  # their seconds, bytes brought there, bytes that lie there
        first, here = 5 + units + 3 * number, [part[3 + units + 2 * number], part[4 + units + 2 * number]]
        rows[first, here[0]] = rows[first, here[1]] = work.further[number] / gpu.number
        rows[first + 1, here[1]] = work.weight / max(gpu.number * gpu.upload * machine.concurrent, 1e-9)
        rows[first + 2, here[0]], rows[first + 2, -1] = work.weight, 0
        limit[first + 2] = work.passes * gpu.number * gpu.memory
    rows[4] = 0
    rows[4, part[0]], limit[4] = work.weight, work.passes * machine.gpu_memory
    whole = np.zeros((classes + dense, unknowns))
    for piece in part:
        whole[:classes, piece] = np.eye(classes)
    whole[classes:, offset : offset + dense] = whole[classes:, offset + dense : -1] = np.eye(dense)
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}  # the default is 1e-7 of a row
    demand = np.concatenate([work.count, np.ones(dense)])
    solution = linprog(np.eye(unknowns)[-1], rows, limit, whole, demand, options=exact)
    return float(solution.fun)


@SMALL
@given(works(), limits)
def test_the_bound_is_the_optimum_of_the_stated_programme(work: PhaseWork, machine: Limits) -> None:
    assert lower_bound([work], machine).seconds == pytest.approx(primal(work, machine), rel=CLOSE)


def grid_minimum(work: PhaseWork, machine: Limits, parts: int) -> float:
    """Least time over all splits of two classes in steps of 1/parts: resident, uploaded, CPU."""
    splits = [(a, b, parts - a - b) for a in range(parts + 1) for b in range(parts + 1 - a)]
    best = np.inf
    every = work.count * work.weight
    for choice in product(splits, repeat=work.count.size):
        share = np.array(choice).T / parts
        if share[0] @ every > work.passes * machine.gpu_memory + 1e-9:
            continue
        sent, read = share[1] @ every, share[2] @ every
        gpu, cpu = (share[0] + share[1]) @ (work.count * work.gpu), share[2] @ (work.count * work.cpu)
        best = min(best, max(gpu, cpu, sent / machine.upload, (sent + read) / (machine.host_bandwidth or np.inf)))
    return best


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(seconds, seconds, st.floats(1, 20)), min_size=2, max_size=2),
    st.floats(0, 40), st.floats(0.1, 10), st.one_of(st.none(), st.floats(0.5, 10)),
)  # fmt: skip
def test_brute_force_over_splits_agrees(
    rows: list[tuple[float, float, float]], memory: float, upload: float, host: float | None
) -> None:
    parts = 8
    gpu, cpu, weight = np.array(rows).T
    work = PhaseWork(np.array([1.0, 2.0]), gpu, cpu, np.empty((0, 2)), weight, 1)
    machine = Limits(memory, upload, host_bandwidth=host)
    bound = lower_bound([work], machine).seconds
    coarse = grid_minimum(work, machine, parts)
    # rounding a split to the grid moves at most one step of each class from where it belongs
    step = float((work.count * (gpu + cpu + weight / upload + weight * (2 / host if host else 0))).sum()) / parts
    assert bound <= coarse * (1 + CLOSE)
    assert bound >= coarse - 2 * step


def best_schedule(gpu: np.ndarray, cpu: np.ndarray, passes: int, slots: int, upload: float, passed: list[set[int]]) -> float:
    """Least time of whole experts of 1 B under any dynamic cache of `slots` experts, with every lane perfectly busy.

    A state is (cache when the pass begins) -> the non-dominated (uploads, GPU s, CPU s) that reach it.
    """
    subsets = [frozenset(c) for n in range(slots + 1) for c in combinations(range(gpu.size), n)]
    states = {cache: {(0, 0.0, 0.0)} for cache in subsets}
    for active in passed[:passes]:
        following: dict[frozenset[int], set[tuple[int, float, float]]] = {}
        on_gpu = [frozenset(c) for n in range(len(active) + 1) for c in combinations(sorted(active), n)]
        for (cache, spent), chosen in product(states.items(), on_gpu):
            rest = active - chosen
            seconds_gpu, seconds_cpu = float(gpu[list(chosen)].sum()), float(cpu[list(rest)].sum())
            moved = {(u + len(chosen - cache), g + seconds_gpu, c + seconds_cpu) for u, g, c in spent}
            for after in subsets:
                if after <= cache | chosen:
                    following.setdefault(after, set()).update(moved)
        states = following
    return min(max(u / upload, g, c) for spent in states.values() for u, g, c in spent)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 20)), min_size=3, max_size=3),
    st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=3), st.integers(0, 2), st.floats(0.1, 3),
)  # fmt: skip
def test_i11_no_schedule_with_a_dynamic_cache_beats_the_bound(
    costs: list[tuple[int, int]], passed: list[set[int]], slots: int, upload: float
) -> None:
    gpu, cpu = (np.array(column, dtype=float) for column in zip(*costs, strict=True))
    items = [expert for active in passed for expert in sorted(active)]
    work = PhaseWork.of(gpu[items], 1.0, cpu=cpu[items], passes=len(passed))
    best = best_schedule(gpu, cpu, len(passed), slots, upload, passed)
    assert lower_bound([work], Limits(slots, upload)).seconds <= best * (1 + 1e-12)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_times_and_bytes_of_any_size_have_a_bound(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))

    def numbers(low: float, high: float) -> np.ndarray:
        return 10.0 ** rng.uniform(low, high, classes)

    dense = Dense(*10.0 ** rng.uniform(-9, 9, 2))
    work = PhaseWork(numbers(0, 2), numbers(-12, 6), numbers(-20, 25), numbers(-12, 25)[None], numbers(0, 12), 3, (dense,))
    machine = Limits(10.0 ** rng.uniform(-3, 15), 10.0 ** rng.uniform(-9, 14))
    uploaded = np.maximum(work.gpu, work.weight / machine.upload)
    alone = float((work.count * np.minimum(work.cpu, uploaded)).sum()) + min(dense)
    assert 0 <= lower_bound([work], machine).seconds <= alone * (1 + 1e-9)


def test_an_option_that_is_slow_beyond_reason_changes_nothing() -> None:
    machine = Limits(gpu_memory=24, upload=1)
    assert lower_bound([phase_work(cpu=1e20)], machine).seconds == pytest.approx(
        lower_bound([phase_work()], machine).seconds, rel=CLOSE
    )
