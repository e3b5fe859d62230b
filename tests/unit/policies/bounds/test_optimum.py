"""The mixed-integer optimum against exhaustive search, and the best dispatch of a visit against all dispatches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.errors import InputError
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.bounds.optimum import Optimum, Programme, formulate, solve
from moesim.policies.bounds.oracle_dispatch import OracleDispatch, _starts
from moesim.policies.bounds.oracle_schedule import Layer, Machine, least
from moesim.policies.kit.placement import quota
from moesim.testing import machine, small_job, small_model, small_worlds
from moesim.testing.watched import run_world
from moesim.testing.worlds import World

WORLDS = {world.name: world for world in small_worlds()}
GB, MB = 1e9, 1e6


def random_programme(seed: int) -> Programme:
    """Four or five experts of two layers, two host tiers with two options each, in one phase; four experts in two phases."""
    rng = np.random.default_rng(seed)
    number, phases, lanes = int(rng.integers(4, 6)), int(rng.integers(1, 3)), 3
    number = min(number, 6 - phases)
    tier = np.array([-1, 0, 0, 1, 1])
    cost = rng.random((phases, number, len(tier), lanes)) * (rng.random((phases, number, len(tier), lanes)) < 0.7)
    cost[rng.random(cost.shape[:3]) < 0.1] = np.inf
    cost[:, :, 1] = np.where(np.isfinite(cost[:, :, 1]), cost[:, :, 1], 1.0)  # what is in the first tier can be uploaded
    sizes = rng.integers(1, 4, number).astype(np.float64)
    room = np.array([sizes.sum(), rng.integers(1, 5), rng.integers(0, 5)], dtype=np.float64)
    layer = np.sort(rng.integers(0, 2, number))
    layer[-1] = 1
    return Programme(layer, sizes, tier, room, cost, rng.random((phases, lanes)) * 0.2, rng.random(phases) + 0.1)


def cheapest(programme: Programme) -> float:
    """By trying every option of every expert in every phase."""
    phases, number, options, _ = programme.cost.shape
    best = np.inf
    of_one = [choice for choice in product(range(options), repeat=phases) if len({int(programme.tier[j]) for j in choice}) == 1]
    for flat in product(of_one, repeat=number):
        chosen = np.array(flat).T  # [P, N]
        home = programme.tier[chosen[0]]
        held = np.bincount(home % len(programme.room), programme.sizes, minlength=len(programme.room))
        if (held <= programme.room + 1e-9).all():
            best = min(best, programme.seconds(chosen))
    return best


@cache
def cheapest_of(seed: int) -> float:
    return cheapest(random_programme(seed))


@pytest.mark.parametrize("seed", range(8))
def test_the_programme_finds_what_exhaustive_search_finds(seed):
    programme = random_programme(seed)
    solution = solve(programme)
    assert solution is not None
    assert programme.seconds(solution.options) == pytest.approx(cheapest_of(seed), rel=1e-7)
    assert solution.gap == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_says_how_far_from_the_optimum_it_may_be(seed):
    programme = random_programme(seed)
    solution = solve(programme, gap=0.5)
    assert solution is not None
    seconds = programme.seconds(solution.options)
    assert 0 <= solution.gap <= 0.5 + 1e-9
    assert seconds * (1 - solution.gap) <= cheapest_of(seed) * (1 + 1e-7)


def test_a_search_that_found_no_plan_does_not_say_that_nothing_fits(monkeypatch):
    import scipy.optimize

    stopped = SimpleNamespace(x=None, status=1, message="node limit reached")
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_args, **_keys: stopped)
    with pytest.raises(InputError, match="no plan was found in 7 nodes"):
        solve(random_programme(0), nodes=7)


def test_what_fits_nowhere_has_no_plan():
    programme = replace(random_programme(0), room=np.zeros(3))
    assert solve(programme) is None


@pytest.mark.parametrize("hbm", [38 * MB, 45 * MB])
def test_on_a_machine_the_plan_is_the_cheapest_of_all(hbm):
    """Two layers of two experts, every placement and dispatch weighed."""
    shape = small_model(experts=2, layers=2, top_k=1)
    work = small_job([12, 9], [5, 5], 2)
    problem = Problem(shape, machine(hbm=hbm), work, np.array([[0.7, 0.3], [0.2, 0.8]]), np.random.default_rng(0))
    policy = Optimum(gap=0.0)
    deployment = policy.deploy(problem)
    cut = policy.cut(problem)
    programme, options = formulate(problem, cut, problem.popularity, [("prefill", 1.0), ("decode", 4.0)])
    of_device = {(option.tier, option.device): number for number, option in enumerate(options)}
    tier = np.where(deployment.resident, -1, 0).ravel()
    assert 0 < deployment.resident.sum() < 4
    chosen = np.array(
        [
            [of_device[int(t), int(d)] for t, d in zip(tier, deployment.state.device[phase].ravel(), strict=True)]
            for phase in ("prefill", "decode")
        ]
    )
    assert programme.seconds(chosen) == pytest.approx(cheapest(programme), rel=1e-7)


def test_a_case_that_is_too_large_is_refused_with_its_size():
    with pytest.raises(InputError, match="3 layers of 8 experts make 192 binary variables, more than the 100"):
        Optimum(limit=100).deploy(WORLDS["gpu_cpu"].problem())


def test_a_plan_of_the_profile_is_at_least_as_good_as_static_popularity_by_its_own_measure():
    """The placement of `static_popularity` is one of those that the programme weighs."""
    problem = WORLDS["gpu_cpu"].problem()
    policy = Optimum(gap=0.0)
    cut = policy.cut(problem)
    programme, _ = formulate(problem, cut, problem.popularity, [("decode", 1.0)])
    resident = quota(problem.popularity)(problem.gpu_free(cut), np.full(problem.popularity.shape, problem.model.expert_bytes))
    solution = solve(programme)
    assert solution is not None
    for missing in (1, 2):  # all uploaded, all on the CPU
        assert programme.seconds(solution.options) <= programme.seconds(np.where(resident.ravel(), 0, missing)[None, :]) + 1e-12


# The best dispatch of a visit


def scene(world: World, seed: int, active: int) -> Layer:
    """A decode visit with `active` experts, residents drawn at random."""
    rng = np.random.default_rng(seed)
    problem = world.problem()
    deployment = OracleDispatch().deploy(problem)
    home = deployment.home.copy()
    for index in problem.ndp_index:  # some live beside a near-data unit
        home[rng.random(home.shape) < 0.3] = index
    resident = rng.random(home.shape) < 0.4
    counts = np.zeros(problem.experts, dtype=np.int64)
    counts[rng.permutation(problem.experts)[:active]] = rng.integers(1, 30, active)
    tiers = problem.tiers
    copy, cpu, ndp = (np.zeros(problem.experts) for _ in range(3))
    for expert in range(problem.experts):
        tier = tiers[home[0, expert]]
        copy[expert] = problem.costs.copy(problem.model.expert_bytes, tier, problem.gpu_tier)
        cpu[expert] = problem.costs.cpu(counts[expert], tier)
        ndp[expert] = problem.costs.local(counts[expert], tier)
    gpu = problem.costs.gpu(counts)
    visit = Visit(0, "decode", 0, int(counts.sum()) // problem.model.top_k + 1, counts, gpu, cpu, ndp, copy, resident[0])
    view = View(problem, resident, np.zeros_like(resident), home, Machine(problem, deployment))
    return Layer(view.state, visit, view)


@pytest.mark.parametrize("name", ["gpu_cpu", "near_data", "lone_layer", "gpu_host"])
@pytest.mark.parametrize("active", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_no_dispatch_of_a_visit_ends_sooner(name, active, seed):
    layer = scene(WORLDS[name], seed, active)
    chosen, floor = least(layer, _starts(layer), nodes=100_000)
    columns = [[c for c, time in enumerate(row) if np.isfinite(time)] for row in layer.times.tolist()]
    assert floor == layer.end(chosen)
    assert layer.end(chosen) == pytest.approx(min(layer.end(where) for where in product(*columns)), abs=2e-12)


def test_a_search_that_is_cut_short_says_so_and_is_at_least_as_good_as_its_start():
    layer = scene(WORLDS["near_data"], 1, 8)
    starts = _starts(layer)
    chosen, floor = least(layer, starts, nodes=3)
    optimum, proven = least(layer, starts, nodes=10_000_000)
    assert 0 < floor < layer.end(chosen)
    assert floor <= proven == layer.end(optimum)
    assert layer.end(chosen) <= min(layer.end(where) for where in starts)


class Weighed(OracleDispatch):
    """Writes down when each visit should end."""

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, state=(deployment.state, []))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        plain = replace(view, state=view.state[0])
        answer = super().dispatch(visit, plain)
        layer = Layer(plain.state, visit, plain)
        columns = [layer._machine.gpu, *(side.index for side in layer._machine.sides)]
        view.state[1].append(layer.end([columns.index(answer.device[expert]) for expert in layer.experts.tolist()]))
        return answer


@pytest.mark.parametrize("name", ["gpu_cpu", "gpu_cpu_even", "gpu_alone", "lone_layer"])
def test_the_engine_takes_as_long_as_the_choice_was_weighed_at(name):
    """To a picosecond per part, where no flow shares its bandwidth and no KV cache leaves over the way of the expert ids."""
    run = run_world(WORLDS[name], Weighed())
    assert run.outcome is not None, run.error
    layers, ends = run.outcome.recorder.layers, run.outcome.deployment.state[1]
    assert int(layers.visits.sum()) == len(ends)
    assert layers.experts.sum() == pytest.approx(1e12 * sum(ends), abs=20 * len(ends))


ONE_GPU = [world for world in small_worlds() if not world.problem().system.further_gpus]
"""Only static placements use further GPUs, so there the two have other residents."""


@pytest.mark.parametrize("world", ONE_GPU, ids=lambda world: world.name)
@pytest.mark.parametrize("rule", ["quota", "global"])
def test_with_the_same_residents_no_rule_is_faster(world, rule):
    best = run_world(world, OracleDispatch(rule=rule))
    assert best.outcome is not None, best.error
    for misses in ("upload", "cpu", "threshold"):
        if misses == "cpu" and world.problem().cpu_index < 0:
            continue
        static = run_world(world, StaticPopularity(rule=rule, misses=misses))
        assert static.outcome is not None
        assert (static.deployment.resident == best.deployment.resident).all()  # type: ignore[union-attr]
        assert best.outcome.recorder.makespan <= static.outcome.recorder.makespan, misses
