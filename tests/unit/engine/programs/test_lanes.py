"""I8: lanes are Lindley's recursion and simpy's Resource, exactly; bandwidth is shared max-min; queues go by priority."""

from __future__ import annotations

import numpy as np
import program_worlds
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.clock import SECOND, to_ps
from moesim.engine.programs.lanes import serve
from moesim.engine.programs.program import Operation, Program
from moesim.engine.reference.state import max_min

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None)
times = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=12)
engines = pytest.mark.parametrize("name", ["reference", "plain"])


def lindley(jobs: list[tuple[int, int]], free: int = 0) -> list[int]:
    finish = []
    for ready, service in jobs:
        free = max(free, ready) + service
        finish.append(free)
    return finish


def by_simpy(jobs: list[tuple[int, int]]) -> list[int]:
    env, finish = simpy.Environment(), [0] * len(jobs)
    resource = simpy.Resource(env)

    def lane(index: int, ready: int, service: int):
        yield env.timeout(ready)
        with resource.request() as turn:
            yield turn
            yield env.timeout(service)
            finish[index] = env.now

    for index, (ready, service) in enumerate(jobs):
        env.process(lane(index, ready, service))
    env.run()
    return finish


@SOME
@given(times, st.integers(0, 60))
def test_serve_is_lindleys_recursion(jobs, free):
    ready, service = np.array(jobs).T
    assert serve(ready, service, free).tolist() == lindley(jobs, free)


@SOME
@given(times)
def test_serve_is_a_simpy_resource(jobs):
    jobs = sorted(jobs, key=lambda job: job[0])
    ready, service = np.array(jobs).T
    assert serve(ready, service).tolist() == by_simpy(jobs)


def at(program: Program, time: int) -> int:
    """An operation that ends at `time`, on a lane of its own."""
    return program.add(Operation(program.lane(f"until {len(program)}"), time))


def played(name: str, program: Program, capacity: dict[str, float] | None = None):
    """An engine that has run a whole program."""
    engine = program_worlds.ENGINES[name](program, capacity or {})
    engine.submit()
    for number in list(program.operations):
        engine.run(number)
    return engine


@engines
@SOME
@given(jobs=times)
def test_a_lane_of_a_program_is_a_simpy_resource(name, jobs):
    program, numbers = Program(), []
    jobs = sorted(jobs, key=lambda job: job[0])
    lane = program.lane("lane")
    for ready, service in jobs:
        numbers.append(program.add(Operation(lane, service, [at(program, ready)])))
    engine = played(name, program)
    assert [engine.end(number) for number in numbers] == by_simpy(jobs)
    assert engine.busy()[lane] == sum(service for _, service in jobs)


def test_serve_takes_many_lanes_at_once():
    rng = np.random.default_rng(0)
    ready, service, free = rng.integers(0, 90, (5, 7)), rng.integers(0, 20, (5, 7)), rng.integers(0, 50, (5, 1))
    rows = [lindley(list(zip(r, s, strict=True)), f[0]) for r, s, f in zip(ready, service, free, strict=True)]
    assert serve(ready, service, free).tolist() == rows


def test_seconds_become_whole_picoseconds():
    assert to_ps([1.0, 1e-12, 2.5e-13, 7.5e-13]).tolist() == [SECOND, 1, 0, 1]


# Flows


def slow_max_min(demands, draws, capacity) -> np.ndarray:
    """Lexicographic linear programmes: raise the common rate, fix who cannot rise further, repeat."""
    n, fixed = len(demands), {}
    rows = [[dict(d).get(r, 0.0) / demand for d, demand in zip(draws, demands, strict=True)] + [0.0] for r in capacity]
    limits = list(capacity.values())
    while len(fixed) < n:
        free = [i for i in range(n) if i not in fixed]

        def best(objective, extra, extra_limits, fixed=fixed):
            bounds = [(fixed[i], fixed[i]) if i in fixed else (0, demands[i]) for i in range(n)] + [(0, None)]
            solution = linprog(objective, rows + extra, limits + extra_limits, bounds=bounds)
            return solution.x

        floor = [[-1.0 if j == i else 0.0 for j in range(n)] + [1.0] for i in free]
        level = best([0.0] * n + [-1.0], floor, [0.0] * len(free))[-1]
        for i in free:
            goal = [-1.0 if j == i else 0.0 for j in range(n + 1)]
            orders = [[-1.0 if j == o else 0.0 for j in range(n + 1)] for o in free]
            if best(goal, orders, [-(level * (1 - 1e-9))] * len(free))[i] <= level * (1 + 1e-6):
                fixed[i] = level
    return np.array([fixed[i] / demands[i] for i in range(n)])


networks = st.integers(0, 9999)


def random_network(seed: int):
    rng = np.random.default_rng(seed)
    capacity = {name: float(rng.integers(5, 30)) for name in "abc"[: rng.integers(1, 4)]}
    draws = []
    for _ in range(rng.integers(1, 5)):
        names = [name for name in capacity if rng.random() < 0.7] or ["a"]
        draws.append(tuple((name, float(rng.integers(1, 20))) for name in names))
    return [max(rate for _, rate in d) for d in draws], draws, capacity


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(networks)
def test_max_min_is_the_lexicographic_optimum(seed):
    demands, draws, capacity = random_network(seed)
    assert max_min(draws, capacity) == pytest.approx(slow_max_min(demands, draws, capacity), rel=1e-5)


@SOME
@given(networks)
def test_max_min_fills_nothing_beyond_its_capacity_and_wastes_nothing(seed):
    _, draws, capacity = random_network(seed)
    speeds = max_min(draws, capacity)
    load = {r: sum(dict(d).get(r, 0.0) * v for d, v in zip(draws, speeds, strict=True)) for r in capacity}
    assert all(load[r] <= capacity[r] * (1 + 1e-9) for r in capacity)
    for draw, speed in zip(draws, speeds, strict=True):
        assert speed == 1.0 or any(load[r] >= capacity[r] * (1 - 1e-9) for r, _ in draw)


def test_max_min_by_hand():
    # a: capacity 10 shared by three; the first needs 2 only, the others share what is left; b holds the third to 3
    speeds = max_min([(("a", 2.0),), (("a", 8.0),), (("a", 8.0), ("b", 8.0))], {"a": 10.0, "b": 3.0})
    assert speeds == pytest.approx([1.0, 5 / 8, 3 / 8])


def flows(name: str, copies, capacity):
    """Ends of copies (begin, service, draws), each on a lane of its own."""
    program = Program()
    numbers = [
        program.add(Operation(program.lane(f"copy {n}"), service, [at(program, begin)], draws=draws))
        for n, (begin, service, draws) in enumerate(copies)
    ]
    engine = played(name, program, capacity)
    return [engine.end(number) for number in numbers]


@engines
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_equal_copies_on_one_resource_take_n_times_as_long(name, n):
    ends = flows(name, [(0, 1000, {"a": 50.0})] * n, {"a": 0.05 * SECOND})
    assert all(end - n * 1000 in (0, 1) for end in ends)


@engines
def test_a_lone_copy_is_exact_even_where_rounding_asks_for_more_than_there_is(name):
    assert flows(name, [(7, 64000, {"a": 4096.03})], {"a": 64e9}) == [64007]


@engines
def test_items_of_a_slowed_copy_land_one_by_one(name):
    """Two copies of equal items share a link: each item takes twice its time, and what consumes them starts as they land."""
    program = Program()
    copies = [program.add(Operation(program.lane(f"copy {n}"), 100, count=3, draws={"a": 300.0})) for n in range(2)]
    users = [program.add(Operation(program.lane(f"user {n}"), 50, count=3, feed=copy)) for n, copy in enumerate(copies)]
    engine = played(name, program, {"a": 1.0 * SECOND})
    assert [engine.end(copy) for copy in copies] == [600, 600]
    assert [engine.end(user) for user in users] == [650, 650]


@engines
@SOME
@given(seed=networks)
def test_copies_never_gain_from_each_other_and_together_draw_no_more_than_there_is(name, seed):
    rng = np.random.default_rng(seed)
    capacity = {"a": 2.0 * SECOND, "b": 3.0 * SECOND}
    copies = []
    for _ in range(rng.integers(1, 7)):
        service = int(rng.integers(50, 900))
        draws = {r: service * float(rng.uniform(0.1, 2.0)) for r in capacity if rng.random() < 0.8}
        copies.append((int(rng.integers(0, 800)), service, draws))
    ends = flows(name, copies, capacity)
    assert all(end - begin >= service for end, (begin, service, _) in zip(ends, copies, strict=True))
    first, last = min(begin for begin, _, _ in copies), max(ends)
    for resource, rate in capacity.items():
        drawn = sum(draws.get(resource, 0.0) for _, _, draws in copies)
        assert drawn <= rate / SECOND * (last - first) * (1 + 1e-5) + 8  # ends are rounded up to whole ps


# Queues


def queue(name: str, jobs):
    """Runs jobs (begin, priority, services) on one lane: the ends of each one's items, and the engine."""
    program = Program()
    lane, watch = program.lane("pcie"), []
    for begin, priority, services in jobs:
        job = program.add(Operation(lane, 0, [at(program, begin)], priority, services=services))
        watch.append(program.add(Operation(program.lane(f"watch {job}"), 0, feed=job, count=len(services))))
    engine = program_worlds.ENGINES[name](program, {})
    engine.submit()
    ends = [[0] * len(services) for _, _, services in jobs]
    for number in list(program.operations):
        engine.run(number)
    for stretch in engine_items(engine, program, lane):
        ends[stretch[0]][stretch[1]] = stretch[2]
    return ends, engine


def engine_items(engine, program, lane):
    """(job, item, end) of a reference engine, which keeps when every item ended."""
    jobs = [number for number, operation in program.operations.items() if operation.lane == lane]
    for stretch in engine.stretches_begun:
        if stretch.lane == lane:
            for item, end in enumerate(stretch.ends, stretch.first_item):
                yield jobs.index(stretch.operation.number), item, end


def slow_queue(jobs):
    """Item by item: at every boundary the most urgent job goes on; a job that was interrupted goes before its equals."""
    order = sorted(range(len(jobs)), key=lambda i: jobs[i][0])
    finish = [[] for _ in jobs]
    now, rank = 0, {i: n for n, i in enumerate(order)}
    while any(len(finish[i]) < len(jobs[i][2]) for i in order):
        ready = [i for i in order if jobs[i][0] <= now and len(finish[i]) < len(jobs[i][2])]
        if not ready:
            now = min(jobs[i][0] for i in order if len(finish[i]) < len(jobs[i][2]))
            continue
        current = min(ready, key=lambda i: (jobs[i][1], not finish[i], rank[i]))
        now += jobs[current][2][len(finish[current])]
        finish[current].append(now)
    return finish


@SOME
@given(st.integers(0, 9999))
def test_a_lane_with_priorities_is_the_slow_queue(seed):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 7))
    begins = np.sort(rng.choice(120, number, replace=False) * 3 + 1)  # arrivals never fall on a boundary: services are threes
    jobs = [(int(b), int(rng.integers(0, 4)), (rng.integers(1, 9, rng.integers(1, 5)) * 3).tolist()) for b in begins]
    jobs[0] = (0, *jobs[0][1:])
    finish, engine = queue("reference", jobs)
    assert finish == slow_queue(jobs)
    assert engine.busy()[0] == sum(sum(services) for _, _, services in jobs)


def test_urgent_jobs_wait_for_the_running_item_only():
    assert queue("reference", [(0, 2, [10, 10, 10]), (12, 1, [5]), (13, 0, [1])])[0] == [[10, 20, 36], [26], [21]]


def test_a_job_that_arrives_at_a_boundary_goes_ahead_there():
    assert queue("reference", [(0, 2, [10, 10]), (10, 1, [5])])[0] == [[10, 25], [15]]


def test_equals_are_served_in_order_of_arrival_and_an_interrupted_job_keeps_its_place():
    jobs = [(0, 2, [10, 10]), (1, 2, [4]), (2, 1, [3]), (3, 2, [1])]
    assert queue("reference", jobs)[0] == [[10, 23], [27], [13], [28]]


# What others ask


def copies_under_way(name: str):
    """Three copies on one lane: (engine, program, numbers, clock), the last a lane to let time pass on."""
    program = Program()
    lane, clock = program.lane("pcie"), program.lane("clock")
    numbers = [program.add(Operation(lane, 10, priority=2, count=2)) for _ in range(3)]
    engine = program_worlds.ENGINES[name](program, {})

    def wait(time: int) -> None:
        number = program.add(Operation(clock, time))
        engine.submit()
        engine.run(number)

    return engine, lane, numbers, wait


@engines
def test_only_what_has_not_begun_can_be_withdrawn_or_hastened(name):
    engine, _, (first, second, third), wait = copies_under_way(name)
    wait(5)
    assert not engine.withdraw(first)
    assert not engine.hasten(first, 1)
    assert engine.withdraw(second)
    assert not engine.withdraw(second)
    engine.run(third)
    assert engine.now == 40


@engines
def test_what_is_hastened_goes_ahead_between_two_items(name):
    engine, _, (first, second, third), wait = copies_under_way(name)
    wait(5)
    assert engine.hasten(third, 1)
    engine.run(second)
    assert [engine.end(number) for number in (first, second, third)] == [40, 60, 30]


@engines
def test_an_engine_says_what_has_ended_and_what_is_left(name):
    engine, lane, numbers, wait = copies_under_way(name)
    seen = []
    for time in (4, 6, 25, 25):
        wait(time)
        seen.append(([engine.items(number) for number in numbers], engine.backlog(lane), engine.idle(lane)))
    assert seen == [([0, 0, 0], 56, False), ([1, 0, 0], 50, False), ([2, 1, 0], 25, False), ([2, 2, 2], 0, True)]


@engines
def test_a_backlog_counts_what_is_left_of_items_that_differ(name):
    """One operation behind another on a lane, whose items take 60 altogether."""
    program = Program()
    lane, clock = program.lane("pcie"), program.lane("clock")
    for services in ([5, 7, 2], [4, 6], [3, 1, 1], [2, 2], [1, 6], [5, 5], [1, 2, 3], [4]):
        program.add(Operation(lane, 0, services=services, count=len(services)))
    engine = program_worlds.ENGINES[name](program, {})
    for time in (1, 5, 7, 1, 4, 9, 32):
        number = program.add(Operation(clock, time))
        engine.submit()
        engine.run(number)
        assert engine.backlog(lane) == 60 - engine.now
    assert engine.now == 59


@engines
def test_slots_hold_copies_back_until_what_landed_has_been_used(name):
    """Two slots, copies of 10, uses of 40: copy i begins when use i - 2 has ended."""
    program = Program()
    pcie, gpu = program.lane("pcie"), program.lane("gpu")
    up = program.add(Operation(pcie, 10, count=5, takes=0))
    use = program.add(Operation(gpu, 40, count=5, feed=up, gives=0))
    engine = program_worlds.ENGINES[name](program, {})
    engine.set_pool(0, 2)
    engine.submit()
    engine.run(use)
    assert engine.end(up) == 140
    assert engine.end(use) == 10 + 5 * 40


@engines
def test_the_critical_path_goes_from_each_stretch_to_what_let_it_start(name):
    """gpu 0-30; pcie 0-20, then 20-60 whose end lets the gpu work 60-70."""
    program = Program()
    pcie, gpu = program.lane("pcie"), program.lane("gpu")
    program.add(Operation(gpu, 30))
    program.add(Operation(pcie, 20))
    late = program.add(Operation(pcie, 40))
    last = program.add(Operation(gpu, 10, [late]))
    engine = program_worlds.ENGINES[name](program, {})
    engine.submit()
    engine.run(last)
    assert engine.critical(last, 0) == [(pcie, 0, 20), (pcie, 20, 60), (gpu, 60, 70)]
    assert engine.critical(last, 50) == [(pcie, 50, 60), (gpu, 60, 70)]
