"""I8: lanes are Lindley's recursion and simpy's Resource, exactly; flows share max-min; queues serve by priority."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.engine.clock import SECOND, Clock, to_ps
from moesim.engine.flows import FlowNetwork, max_min
from moesim.engine.lanes import Lane, serve
from moesim.engine.queues import Job, Server
from moesim.results.recorder import LayerSums, Recorder

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None)
times = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=12)


def lindley(jobs: list[tuple[int, int]], free: int = 0) -> list[int]:
    finish = []
    for ready, service in jobs:
        free = max(free, ready) + service
        finish.append(free)
    return finish


def by_simpy(jobs: list[tuple[int, int]]) -> list[int]:
    env, finish = simpy.Environment(), [0] * len(jobs)
    resource = simpy.Resource(env)

    def one(index: int, ready: int, service: int):
        yield env.timeout(ready)
        with resource.request() as turn:
            yield turn
            yield env.timeout(service)
            finish[index] = env.now

    for index, (ready, service) in enumerate(jobs):
        env.process(one(index, ready, service))
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


@SOME
@given(st.lists(times, min_size=1, max_size=4))
def test_a_lane_remembers_when_it_is_free(bulks):
    lane, flat = Lane("gpu"), []
    for jobs in bulks:
        flat += jobs
        ready, service = np.array(jobs).T
        one_by_one = len(jobs) == 1
        last = lane.take_one(*jobs[0]) if one_by_one else lane.take(ready, service)[-1]
        assert last == lindley(flat)[-1]
    assert lane.busy == sum(service for _, service in flat)


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
            found = linprog(objective, rows + extra, limits + extra_limits, bounds=bounds)
            return found.x

        floor = [[-1.0 if j == i else 0.0 for j in range(n)] + [1.0] for i in free]
        level = best([0.0] * n + [-1.0], floor, [0.0] * len(free))[-1]
        for i in free:
            goal = [-1.0 if j == i else 0.0 for j in range(n + 1)]
            others = [[-1.0 if j == o else 0.0 for j in range(n + 1)] for o in free]
            if best(goal, others, [-(level * (1 - 1e-9))] * len(free))[i] <= level * (1 + 1e-6):
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
    assert max_min(demands, draws, capacity) == pytest.approx(slow_max_min(demands, draws, capacity), rel=1e-5)


@SOME
@given(networks)
def test_max_min_fills_nothing_beyond_its_capacity_and_wastes_nothing(seed):
    demands, draws, capacity = random_network(seed)
    speeds = max_min(demands, draws, capacity)
    load = {r: sum(dict(d).get(r, 0.0) * v for d, v in zip(draws, speeds, strict=True)) for r in capacity}
    assert all(load[r] <= capacity[r] * (1 + 1e-9) for r in capacity)
    for draw, speed in zip(draws, speeds, strict=True):
        assert speed == 1.0 or any(load[r] >= capacity[r] * (1 - 1e-9) for r, _ in draw)


def test_max_min_by_hand():
    # a: capacity 10 shared by three; the first needs 2 only, the others share what is left; b holds the third to 3
    speeds = max_min([2.0, 8.0, 8.0], [(("a", 2.0),), (("a", 8.0),), (("a", 8.0), ("b", 8.0))], {"a": 10.0, "b": 3.0})
    assert speeds == pytest.approx([1.0, 5 / 8, 3 / 8])


def flows(starts, capacity):
    """Runs flows (begin, duration, usage); returns them with their end times in `curve`."""
    clock = Clock()
    network, made = FlowNetwork(clock, capacity), []
    for begin, duration, usage in starts:
        clock.at(begin, lambda d=duration, u=usage: made.append(network.start(d, u, lambda: None)))
    clock.run()
    assert network.idle
    return made


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_equal_flows_on_one_resource_take_n_times_as_long(n):
    made = flows([(0, 1000, {"a": 50.0})] * n, {"a": 0.05 * SECOND})
    assert all(flow.curve[-1][0] - n * 1000 in (0, 1) for flow in made)


def test_a_lone_flow_is_exact_even_where_rounding_asks_for_more_than_there_is():
    flow = flows([(7, 64000, {"a": 4096.03})], {"a": 64e9})[0]
    assert flow.curve == [(7, 0), (64007, 64000)]
    assert flow.times_of(np.array([1, 500, 64000])).tolist() == [8, 507, 64007]


@SOME
@given(networks)
def test_rates_integrate_to_the_work_and_never_exceed_a_capacity(seed):
    rng = np.random.default_rng(seed)
    capacity = {"a": 2.0 * SECOND, "b": 3.0 * SECOND}
    starts = []
    for _ in range(rng.integers(1, 7)):
        duration = int(rng.integers(50, 900))
        usage = {r: duration * float(rng.uniform(0.1, 2.0)) for r in capacity if rng.random() < 0.8}
        starts.append((int(rng.integers(0, 800)), duration, usage))
    made = flows(sorted(starts, key=lambda s: s[0]), capacity)
    marks = sorted({t for flow in made for t, _ in flow.curve})
    for begin, end in pairwise(marks):
        for resource, limit in capacity.items():
            drawn = sum(rate_between(flow, begin, end) * dict(flow.draws).get(resource, 0.0) for flow in made)
            assert drawn <= limit / SECOND * (end - begin) * (1 + 1e-5) + 8  # ends are rounded up to whole ps
    for flow in made:
        assert flow.curve[-1][1] == flow.total
        items = np.arange(0, flow.total + 1, 7)
        landed = flow.times_of(items)
        assert (np.diff(landed) >= 0).all()
        assert flow.times_of(np.array([flow.total]))[0] == flow.curve[-1][0]
        assert (landed - items >= flow.curve[0][0]).all()  # never faster than alone


def rate_between(flow, begin: int, end: int) -> float:
    t, served = zip(*flow.curve, strict=True)
    return float(np.interp(end, t, served) - np.interp(begin, t, served))


# Queues


def server_run(jobs, drop=(), stop=()):
    """Submits (time, priority, services) to one server; returns finish times per job, the recorder and what was dropped.

    `drop`: (time, job, begin, end) items to take out; `stop`: (time, job, items) after which a stretch is to end.
    """
    clock, recorder = Clock(), Recorder(LayerSums.zeros(1), 1, keep_slices=True)
    server = Server("pcie", clock, FlowNetwork(clock, {"r": 1.0}), recorder)
    made, gone = [], []
    for index, (begin, priority, services) in enumerate(jobs):
        job = Job(str(index), np.array(services), {}, lambda _job: None, priority)
        made.append(job)
        clock.at(begin, lambda j=job: server.submit(j))
    for time, index, begin, end in drop:
        clock.at(time, lambda j=made[index], b=begin, e=end: gone.append(server.drop(j, b, e)))
    for time, index, items in stop:
        clock.at(time, lambda j=made[index], n=items: server.stop_after(j, n))
    clock.run()
    assert server.idle
    assert server.backlog() == 0
    return [job.finish.tolist() for job in made], recorder, gone


def slow_queue(jobs):
    """Item by item: at every boundary the most urgent job goes on; a job that was interrupted goes before its equals."""
    order = sorted(range(len(jobs)), key=lambda i: jobs[i][0])
    finish = [[] for _ in jobs]
    now, current, rank = 0, None, {i: n for n, i in enumerate(order)}
    while any(len(finish[i]) < len(jobs[i][2]) for i in order):
        ready = [i for i in order if jobs[i][0] <= now and len(finish[i]) < len(jobs[i][2])]
        if not ready:
            now = min(jobs[i][0] for i in order if len(finish[i]) < len(jobs[i][2]))
            continue
        begun = {i: bool(finish[i]) for i in ready}
        current = min(ready, key=lambda i: (jobs[i][1], not begun[i], rank[i]))
        now += jobs[current][2][len(finish[current])]
        finish[current].append(now)
    return finish


@SOME
@given(st.integers(0, 9999))
def test_a_server_is_the_slow_queue(seed):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 7))
    begins = np.sort(rng.choice(120, number, replace=False) * 3 + 1)  # arrivals never fall on a boundary: services are threes
    jobs = [(int(b), int(rng.integers(0, 4)), (rng.integers(1, 9, rng.integers(1, 5)) * 3).tolist()) for b in begins]
    jobs[0] = (0, *jobs[0][1:])
    finish, recorder, _ = server_run(jobs)
    assert finish == slow_queue(jobs)
    assert recorder.busy["pcie"] == sum(sum(services) for _, _, services in jobs)


def test_urgent_jobs_wait_for_the_running_item_only():
    finish, _, _ = server_run([(0, 2, [10, 10, 10]), (12, 1, [5]), (13, 0, [1])])
    assert finish == [[10, 20, 36], [26], [21]]


def test_a_job_that_arrives_at_a_boundary_goes_ahead_there():
    finish, _, _ = server_run([(0, 2, [10, 10]), (10, 1, [5])])
    assert finish == [[10, 25], [15]]


def test_equals_are_served_in_order_of_arrival_and_an_interrupted_job_keeps_its_place():
    finish, _, _ = server_run([(0, 2, [10, 10]), (1, 2, [4]), (2, 1, [3]), (3, 2, [1])])
    assert finish == [[10, 23], [27], [13], [28]]


def test_only_items_that_have_not_begun_can_be_dropped():
    jobs = [(0, 1, [10, 10]), (1, 1, [10]), (2, 0, [5])]
    finish, recorder, gone = server_run(jobs, drop=[(3, 1, 0, 1), (12, 0, 0, 1), (17, 0, 1, 2), (40, 0, 0, 1)])
    assert gone == [True, False, False, False]
    assert finish == [[10, 25], [], [15]]
    assert recorder.busy["pcie"] == 25


def test_items_of_a_running_job_can_be_dropped_before_their_turn():
    finish, recorder, gone = server_run([(0, 1, [10, 20, 30, 40])], drop=[(5, 0, 1, 2), (12, 0, 2, 3)])
    assert gone == [True, True]
    assert finish == [[10, 40]]
    assert recorder.busy["pcie"] == 40


@SOME
@given(st.integers(0, 9999))
def test_stretches_that_end_early_change_no_time(seed):
    rng = np.random.default_rng(seed)
    jobs = [
        (int(b), int(rng.integers(0, 3)), (rng.integers(1, 9, 4) * 3).tolist()) for b in np.sort(rng.integers(1, 60, 4)) * 3 + 1
    ]
    stops = [(int(rng.integers(0, 120)), int(rng.integers(0, 4)), int(rng.integers(1, 5))) for _ in range(5)]
    assert server_run(jobs, stop=stops)[0] == server_run(jobs)[0]


@SOME
@given(st.integers(0, 9999))
def test_a_job_with_items_dropped_is_the_job_without_them(seed):
    """Dropped before the server gets to them; a job in between makes the first one give way."""
    rng = np.random.default_rng(seed)
    services = (rng.integers(1, 9, 6) * 3).tolist()
    begin = int(rng.integers(2, 6))
    end = int(rng.integers(begin + 1, 7))
    other = (2, int(rng.integers(0, 3)), [6, 3])
    dropped, recorder, gone = server_run([(0, 1, services), other], drop=[(1, 0, begin, end)])
    assert gone == [True]
    plain, _, _ = server_run([(0, 1, services[:begin] + services[end:]), other])
    assert dropped == plain
    assert recorder.busy["pcie"] == sum(services) - sum(services[begin:end]) + 9


def test_a_running_job_tells_what_has_ended():
    clock, seen = Clock(), []
    server = Server("pcie", clock, FlowNetwork(clock, {}), Recorder(LayerSums.zeros(1), 1))
    job = Job("", np.array([10, 20, 30]), {}, lambda _job: None)
    server.submit(job)
    for time in (0, 9, 10, 31, 60, 70):
        clock.at(time, lambda: seen.append((server.ended(job), job.finish.tolist())))
    clock.run()
    assert [number for number, _ in seen] == [0, 0, 1, 2, 3, 3]
    assert seen[3][1][:2] == [10, 30]


def test_backlog_is_what_runs_and_waits():
    clock, seen = Clock(), []
    server = Server("pcie", clock, FlowNetwork(clock, {}), Recorder(LayerSums.zeros(1), 1))
    for services in ([10, 10], [7]):
        server.submit(Job("", np.array(services), {}, lambda _job: None))
    for time in (0, 4, 15, 22, 27):
        clock.at(time, lambda: seen.append(server.backlog()))
    clock.run()
    assert seen == [27, 23, 12, 5, 0]
