"""Rules on which whole runs seldom depend: ties, scores of moves, precisions of mixed models, points of tables."""

from __future__ import annotations

from typing import Any, Literal

import engine_worlds as worlds
import numpy as np
import program_worlds
import pytest
from pydantic import ValidationError

import moesim
from moesim.contract import Dispatch
from moesim.engine.program import Operation, Program
from moesim.hardware.experts import Table
from moesim.policies.belady import LayerBelady, soonest
from moesim.policies.migration import Terms, exchanges, under_way

engines = pytest.mark.parametrize("name", list(program_worlds.ENGINES))


def truth(*indices: int, of: int) -> Any:
    return np.isin(np.arange(of), indices)


# The critical path


def path_of(name: str, program: Program, end: int) -> list[str]:
    """Lanes of the critical path to the end of an operation, in order of time."""
    engine = program_worlds.ENGINES[name](program, {})
    engine.submit()
    engine.run(end)
    names = list(program.lanes)
    return [names[lane] for lane, _, _ in engine.critical(end, 0)]


@engines
@pytest.mark.parametrize("swapped", [False, True])
def test_of_operations_that_end_together_the_first_lane_is_on_the_critical_path(name: str, swapped: bool) -> None:
    program = Program()
    lanes = [program.lane(text) for text in ("gpu", "cpu", "link")]
    both = [program.add(Operation(lane, 100)) for lane in (lanes[1::-1] if swapped else lanes[:2])]
    assert path_of(name, program, program.add(Operation(lanes[2], 10, both))) == ["gpu", "link"]


@engines
def test_a_lane_that_was_busy_until_then_is_on_the_critical_path_before_what_was_waited_for(name: str) -> None:
    program = Program()
    gpu, cpu = program.lane("gpu"), program.lane("cpu")
    program.add(Operation(cpu, 100))
    other = program.add(Operation(gpu, 100))
    assert path_of(name, program, program.add(Operation(cpu, 10, [other]))) == ["cpu", "cpu"]


@engines
def test_the_last_of_the_operations_waited_for_is_on_the_critical_path(name: str) -> None:
    program = Program()
    gpu, cpu, link = (program.lane(text) for text in ("gpu", "cpu", "link"))
    both = [program.add(Operation(gpu, 100)), program.add(Operation(cpu, 101))]
    assert path_of(name, program, program.add(Operation(link, 10, both))) == ["cpu", "link"]


# Belady


def left_over(next_use: list[int], held: Any, new: Any, capacity: int) -> tuple[list[int], list[int]]:
    stays, leaves = soonest(np.array(next_use), held, new, capacity)
    return stays.tolist(), leaves.tolist()


def test_of_copies_used_again_at_the_same_time_the_one_that_is_there_stays() -> None:
    for held, new in ((0, 1), (1, 0)):
        assert left_over([5, 5], truth(held, of=2), truth(new, of=2), 1) == ([], [])


def test_of_held_copies_used_again_at_the_same_time_the_lower_index_stays() -> None:
    assert left_over([5, 5, 1], truth(0, 1, of=3), truth(2, of=3), 2) == ([2], [1])


def test_a_newcomer_used_one_visit_sooner_takes_the_place() -> None:
    assert left_over([5, 4], truth(0, of=2), truth(1, of=2), 1) == ([1], [0])
    assert left_over([4, 5], truth(0, of=2), truth(1, of=2), 1) == ([], [])


def test_of_experts_used_again_at_the_same_visit_the_one_with_the_lowest_score_leaves_first() -> None:
    cache = LayerBelady(np.array([2]), 1, 3)
    cache.warm(np.array([[2, 0, 1]]))
    cache.expect(0, np.array([7, 7, 7]))
    assert np.argsort(-cache.keys[0]).tolist() == [1, 2, 0]
    cache.expect(0, np.array([8, 7, 7]))
    assert np.argsort(-cache.keys[0])[0] == 0  # the visit counts before the score


# Migration


def moved(terms: Terms, frequency: list[float], *, slots: int = 1, cost: float = 1.0, saved: float = 1.0) -> Any:
    """Expert 0 is in GPU memory, the others are not."""
    held = truth(0, of=len(frequency))
    sizes = [np.full(len(frequency), value) for value in (saved, cost)]
    return tuple(a.tolist() for a in exchanges(np.array(frequency), sizes[0], held, held, slots, terms, sizes[1]))


@pytest.mark.parametrize(
    ("frequency", "horizon", "hysteresis", "cost", "moves"),
    [
        (3.01, 1.0, 0.0, 1.0, True),  # 3.01 - 2 > 1
        (3.0, 1.0, 0.0, 1.0, False),  # 3 - 2 = 1 earns the copy, and no more
        (3.0, 2.0, 0.0, 1.9, True),  # (3 - 2) x 2 > 1.9
        (3.0, 2.0, 0.0, 2.0, False),
        (3.0, 1.0, 0.2, 0.4, True),  # 3 - 1.2 x 2 = 0.6 > 1.2 x 0.4 = 0.48
        (3.0, 1.0, 0.2, 0.51, False),  # 0.6 < 1.2 x 0.51 = 0.612
        (3.0, 1.0, 0.4, 0.3, False),  # 3 - 1.4 x 2 = 0.2 < 0.42
    ],
)
def test_a_copy_moves_if_its_gain_over_the_horizon_exceeds_its_cost(
    frequency: float, horizon: float, hysteresis: float, cost: float, moves: bool
) -> None:
    """The one inside is used 2 times a period; a use saves 1 s."""
    found = moved(Terms(horizon, hysteresis, 9), [2.0, frequency], cost=cost)
    assert found == (([1], [0]) if moves else ([], []))


def test_without_a_cost_a_copy_has_to_earn_what_one_use_saves() -> None:
    held, saved = truth(0, of=2), np.array([0.5, 0.5])
    for frequency, moves in ((3.01, True), (2.99, False)):
        loads, drops = exchanges(np.array([2.0, frequency]), saved, held, held, 1, Terms(1.0, 0.0, 9))
        assert (loads.tolist(), drops.tolist()) == (([1], [0]) if moves else ([], []))


def test_free_slots_cost_nobody_a_place_and_the_hottest_go_first() -> None:
    terms = Terms(1.0, 0.0, 9)
    assert moved(terms, [6.0, 5.0, 9.0, 7.0], slots=3) == ([2, 3], [])  # into the free ones
    assert moved(terms, [2.0, 5.0, 9.0, 7.0], slots=3) == ([2, 3, 1], [0])
    assert moved(terms, [2.0, 5.0, 9.0, 7.0], slots=2) == ([2, 3], [0])
    assert moved(terms._replace(limit=1), [2.0, 5.0, 9.0, 7.0], slots=3) == ([2], [])


def test_each_way_takes_the_hottest_expert_that_is_to_move() -> None:
    home, moving = np.array([[0, 0, 0, 1]]), np.array([[1, 1, 0, 0]])
    asked = under_way(moving, home, np.array([[1.0, 3.0, 9.0, 2.0]]))
    assert asked is not None
    assert asked.tolist() == [[0, 1, 1], [0, 3, 0]]
    assert moving.tolist() == [[1, 1, -1, 0]]  # what has arrived is struck out
    assert under_way(np.array([[0, 0, 0, 1]]), home, np.ones((1, 4))) is None


# Precision


def two_layers(policy: Any, *formats: str) -> dict[str, Any]:
    """The shares of the precisions that experts were computed at, with two layers stored in `formats`."""
    attention = {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 64}
    model = {"name": "mixed", "hidden": 512, "layers": 2, "experts": 4, "top_k": 2, "expert_width": 512, "vocab": 64,
             "attention": attention, "precision": {"experts": list(formats)}}  # fmt: skip
    work = {"kind": "offline", "requests": 1, "prompt": 8, "output": 2, "routing": {"kind": "uniform"}}
    quality: dict[str, Any] = moesim.run(
        {"name": "m", "hardware": "rtx4090-desktop", "model": model, "workload": work, "policy": policy}
    ).summary["quality"]
    return quality


def test_a_model_of_mixed_layers_is_computed_at_its_own_mean_precision() -> None:
    assert two_layers("on_demand", "bf16", "int4") == {
        "native": "10", "precision": {"10": 1.0}, "skipped": 0.0, "replaced": 0.0, "stale": 0.0
    }  # fmt: skip
    assert two_layers("on_demand", "int4", "int4")["precision"] == {"4": 1.0}


def test_copies_below_the_precision_of_a_mixed_model_count_as_their_own() -> None:
    """EdgeMoE stores 2, 4 and 8 bits a weight, of the mean expert of 10: no share of any layer is at 10 bits."""
    quality = two_layers("edgemoe", "bf16", "int4")
    assert quality["native"] == "10"
    assert set(quality["precision"]) <= {"8", "4", "2"}
    assert sum(quality["precision"].values()) == pytest.approx(1.0)


# Expert ids


class OnCpu(worlds.Scripted):
    """All experts on the CPU, in layers that overlap or not."""

    kind: Literal["on_cpu"] = "on_cpu"  # type: ignore[assignment]
    ahead: int = 0

    def deploy(self, problem: Any) -> Any:
        return worlds.streaming(super().deploy(problem), {"ahead": self.ahead})

    def dispatch(self, visit: Any, view: Any) -> Dispatch:
        return Dispatch(np.full(len(visit.counts), view.problem.cpu_index))


@pytest.mark.parametrize("ahead", [0, 1])
def test_ids_of_experts_are_read_back_with_32_bits_each(ahead: int) -> None:
    """At 18 GB/s, alone on its link, behind a set-up of 1 us; per layer of one pass, 3 ids of each of the prompt's tokens."""
    knobs = worlds.Knobs(cpu=True, top_k=3, attention=False, requests=1, prompt=40, residents=0.0, staging=40)
    problem, table = worlds.problem(knobs)
    recorder = worlds.simulate(problem, OnCpu(knobs=knobs, ahead=ahead), table, timeline=True).recorder
    ids = [slice_ for slice_ in recorder.slices if slice_.name == "expert ids"]
    nbytes = 3 * 4.0 * int(problem.job.prompt[0])
    assert [slice_.amount for slice_ in ids] == pytest.approx([nbytes] * 2)
    assert [slice_.end - slice_.start for slice_ in ids] == pytest.approx([1e6 + nbytes / 18e9 * 1e12] * 2, abs=1)
    assert recorder.caused["routing"] == pytest.approx(2 * nbytes)


# Tables


@pytest.mark.parametrize("times", [["1 us"], ["1 us", "2 us", "3 us"]])
def test_a_table_needs_one_time_for_each_point(times: list[str]) -> None:
    with pytest.raises(ValidationError, match=f"{len(times)} times for 2 points"):
        Table.model_validate({"weights": "1 MB", "tokens": [1, 8], "time": times})


@pytest.mark.parametrize("tokens", [[8, 1], [8, 8]])
def test_the_points_of_a_table_rise(tokens: list[int]) -> None:
    with pytest.raises(ValidationError, match="must rise"):
        Table.model_validate({"weights": "1 MB", "tokens": tokens, "time": ["1 us", "2 us"]})
