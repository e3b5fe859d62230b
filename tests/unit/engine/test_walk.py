"""The walk through the visits of a pass: what it needs of a visit, which moves it lets through, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Dispatch, Moves
from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.walk import PassWalk, refuse
from moesim.errors import PolicyError

GPU, CPU = 0, 1
COUNTS = np.array([[[3, 0, 2, 1]], [[1, 4, 0, 1]]])
"""[L, G, E] two layers, one group."""


class Bench:
    """A walk of two visits over books that a test looks at; nothing takes time."""

    def __init__(self, **changes: Any) -> None:
        self.resident = np.array([[True, False, False, False], [False, False, True, False]])
        self.applied: list[tuple[Moves, int, list[int]]] = []
        self.promoted: list[tuple[int, list[int], list[bool]]] = []
        self.waits: list[str] = []
        self.critical: list[Any] = []
        movers = SimpleNamespace(
            apply=lambda moves, layer, uploaded: self.applied.append((moves, layer, uploaded.tolist())),
            promote=lambda layer, order, needed: self.promoted.append((layer, order.tolist(), needed.tolist())),
            wait_for_slots=self._wait,
        )
        self.machine = SimpleNamespace(now=100, engine=SimpleNamespace(run_until_known=lambda: None))
        self.sums = SimpleNamespace(experts=np.zeros(2, dtype=np.int64))
        context: Any = SimpleNamespace(
            placement=SimpleNamespace(times=lambda counts, layers: None), problem=SimpleNamespace(attending_index=GPU),
            residency=SimpleNamespace(resident=self.resident, bytes=np.full((2, 4), 6.0)), movers=movers, machine=self.machine,
            deployment=SimpleNamespace(cache=changes.get("cache"), pool=changes.get("pool")),
            ledger=SimpleNamespace(critical=lambda *row: self.critical.append(row)),
            recorder=SimpleNamespace(layers=self.sums),
        )  # fmt: skip
        step: Any = SimpleNamespace(counts=COUNTS, group_tokens=np.array([3]))
        self.walk = PassWalk(context, step)
        self.walk._serving = self.resident[:1]

    def _wait(self) -> str:
        if not self.waits:
            return ""
        self.machine.now += 30
        return self.waits.pop()


def answers(*devices: int, load: Any = None, order: Any = None) -> Answers:
    return Answers(
        np.array([devices]), None if order is None else np.array([order]), None if load is None else np.array([load]) > 0
    )


def test_a_pass_is_walked_layer_by_layer() -> None:
    walk = Bench().walk
    assert (walk.layers.tolist(), walk.tokens.tolist()) == ([0, 1], [3, 3])
    assert walk.computed.tolist() == COUNTS.tolist()


def test_a_layer_needs_what_the_gpu_computes_and_what_is_loaded_beside() -> None:
    walk = Bench().walk
    assert walk._needed(0, answers(GPU, GPU, CPU, GPU)).tolist() == [True, False, False, True], "expert 1 has no tokens"
    assert walk._needed(0, answers(GPU, GPU, CPU, CPU, load=[0, 1, 1, 0])).tolist() == [True, True, True, False]


def test_what_was_not_there_and_not_on_its_way_has_been_uploaded() -> None:
    walk, all_on_gpu = Bench().walk, answers(GPU, GPU, GPU, GPU)
    assert walk._uploaded(0, all_on_gpu, None).tolist() == [False, False, True, True]
    assert walk._uploaded(0, all_on_gpu, np.array([0, 0, 5, 0])).tolist() == [False, False, False, True]


def test_copies_on_their_way_that_a_visit_needs_are_hastened_in_its_order() -> None:
    bench = Bench()
    flying = np.array([0, 7, 7, 7])
    bench.walk._while_computing(0, answers(GPU, GPU, GPU, GPU), None, flying)
    bench.walk._while_computing(0, answers(GPU, GPU, GPU, GPU, order=[3, 1, 2, 0]), None, flying)
    bench.walk._while_computing(0, answers(GPU, GPU, GPU, CPU), None, flying)
    assert bench.promoted == [
        (0, [0, 1, 2, 3], [True, False, True, True]), (0, [3, 1, 2, 0], [True, False, True, True]),
        (0, [0, 1, 2, 3], [True, False, True, False]),
    ]  # fmt: skip
    assert bench.applied == []


def test_moves_of_a_dispatch_are_set_off_while_its_visit_runs() -> None:
    bench, moves = Bench(), Moves(load=np.array([[1, 1]]))
    bench.walk._while_computing(1, answers(GPU, GPU, GPU, GPU), moves, None)
    assert bench.applied == [(moves, 1, [])]
    assert bench.promoted == []


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ({"keep": np.array([1])}, "dispatch.moves keeps nothing: what a visit uploads is there only when it has run"),
        ({"evict": np.array([[1, 0], [0, 2]])}, "dispatch.moves evicts an expert of MoE layer 0, which runs"),
    ],
)
def test_moves_that_take_from_the_visit_itself_are_refused(moves: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Bench().walk._moves(0, Dispatch(np.zeros(4, dtype=np.int64), moves=Moves(**moves)))


@pytest.mark.parametrize("evict", [None, [], [[0, 1]], [[1, 0], [1, 1]]])
def test_experts_without_tokens_and_those_of_other_layers_may_be_evicted(evict: Any) -> None:
    pairs = None if evict is None else np.array(evict, dtype=np.int64).reshape(-1, 2)
    moves = Moves(evict=pairs)
    assert Bench().walk._moves(0, Dispatch(np.zeros(4, dtype=np.int64), moves=moves)) is moves
    assert Bench().walk._moves(0, Dispatch(np.zeros(4, dtype=np.int64))) is None


def test_a_policy_may_let_fewer_tokens_be_computed() -> None:
    bench = Bench()
    given_up = Dispatch(np.zeros(4, dtype=np.int64), counts=np.array([1, 2, 0, 1]))
    bench.walk.answers(slice(1, 2), [given_up])
    assert bench.walk.computed[:, 0].tolist() == [[3, 0, 2, 1], [1, 2, 0, 1]]
    assert bench.walk.counts[1].tolist() == [1, 4, 0, 1], "what was routed stays as it is"
    bench.walk.answers(slice(0, 1), [Dispatch(np.zeros(4, dtype=np.int64), counts=np.array([0, 0, 2, 1]))])
    assert bench.walk.computed[:, 0].tolist() == [[0, 0, 2, 1], [1, 2, 0, 1]]


# Caches


class Rule:
    """Keeps every upload and lets expert 0 go, and remembers what it was asked."""

    clock = 4

    def __init__(self) -> None:
        self.uses: list[Any] = []

    def after(self, uses: Any) -> tuple[Any, Any]:
        self.uses.append(uses)
        leave = np.zeros_like(uses.uploaded)
        leave[:, 0] = uses.resident[:, 0]
        return uses.uploaded, leave


def test_the_rule_of_a_cache_is_asked_about_one_visit_and_its_answer_carried_out() -> None:
    rule = Rule()
    bench = Bench(cache=rule)
    bench.walk._keep(0, np.array([False, False, True, True]))
    (uses,), ((moves, layer, uploaded),) = rule.uses, bench.applied
    assert (uses.layers.tolist(), uses.clock.tolist(), rule.clock) == ([0], [5], 5)
    assert (uses.counts.tolist(), uses.resident.tolist()) == ([[3, 0, 2, 1]], [[True, False, False, False]])
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([2, 3], [[0, 0]])
    assert (layer, uploaded) == (0, [2, 3])


def test_a_pool_may_let_experts_of_any_layer_go() -> None:
    def rule(layers: Any, counts: Any, resident: Any) -> None:
        assert (layers.tolist(), counts.tolist()) == ([0], [[3, 0, 2, 1]])
        resident[0, 3], resident[1, 2] = True, False

    bench = Bench(pool=SimpleNamespace(walk=rule))
    bench.walk._keep(0, np.array([False, False, True, True]))
    ((moves, _, _),) = bench.applied
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([3], [[1, 2]])
    assert bench.resident.sum() == 2, "the books change by moves alone"


# Slots


def test_a_layer_that_waits_for_slots_books_the_wait_as_time_of_its_experts() -> None:
    bench = Bench()
    bench.walk._swapped(1)
    assert (bench.critical, bench.sums.experts.tolist()) == ([], [0, 0])
    bench.waits.append("pcie:reverse")
    bench.walk._swapped(1)
    assert bench.critical == [({"pcie:reverse": 30}, "experts", 1)]
    assert bench.sums.experts.tolist() == [0, 30]


# Refusals


def test_what_the_machine_cannot_carry_out_is_refused_by_its_name() -> None:
    tables: Any = SimpleNamespace(helpers=[SimpleNamespace(name="cpu"), SimpleNamespace(name="ndp0")])
    for status in (0, 3):
        refuse(status, tables)
    for status, message in (
        (k.NO_SLOT, "deploy set no staging slot aside for them to land in"),
        (k.BAD_READER, "'cpu' an expert whose weights it cannot read"),
        (k.BAD_READER - 1, "'ndp0' an expert whose weights it cannot read"),
        (k.BAD_DEVICE, "active experts to a device that does not exist"),
    ):
        with pytest.raises(PolicyError, match=message):
            refuse(status, tables)
