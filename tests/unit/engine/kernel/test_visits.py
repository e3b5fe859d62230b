"""What the walk hands to an engine: programs before the experts, visits and rows, laid out as the kernel reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visits import (
    AnsweredRows,
    ByLayer,
    Demand,
    RoutedRows,
    Template,
    packed_templates,
    visit_rows,
    visits_of_pass,
)
from moesim.engine.programs.program import JOIN, Operation
from moesim.errors import PolicyError

GPU, UP = 0, 1
EXPERTS = 3


def alone(operations: list[Operation], known: int | None = None, stored: int = -1) -> int:
    template = Template(operations, len(operations) - 1 if known is None else known, stored)
    return int(packed_templates([template], {"link": 0}, GPU).table[k.A_ALONE])


def test_what_the_gpu_does_without_a_pause_is_one_time() -> None:
    chain = [Operation(GPU, 5), Operation(GPU, 2, [0]), Operation(JOIN, 0, [1])]
    assert alone(chain) == 7
    assert alone([Operation(GPU, 5), Operation(GPU, 3), Operation(JOIN, 0, [0, 1])]) == 8


@pytest.mark.parametrize(
    "operations",
    [
        [Operation(UP, 5), Operation(JOIN, 0, [0])],
        [Operation(GPU, 5, draws={"link": 1.0}), Operation(JOIN, 0, [0])],
        [Operation(GPU, 5, count=2), Operation(JOIN, 0, [0])],
        [Operation(GPU, 5), Operation(GPU, 2), Operation(JOIN, 0, [1])],
    ],
    ids=["another lane", "draws", "items", "not waited for"],
)
def test_what_others_take_part_in_is_not(operations: list[Operation]) -> None:
    assert alone(operations) == -1


def test_a_layer_that_stores_entries_or_knows_its_routing_earlier_is_not_alone() -> None:
    chain = [Operation(GPU, 5), Operation(GPU, 2, [0]), Operation(JOIN, 0, [1])]
    assert alone(chain, stored=1) == -1
    assert alone(chain, known=1) == -1


def test_templates_stand_one_behind_another_with_the_room_that_the_largest_needs() -> None:
    small = Template([Operation(GPU, 5), Operation(JOIN, 0, [0])], 1, -1)
    large = Template(
        [Operation(UP, 0, services=[1, 2, 3], draws={"link": 4.0}), Operation(GPU, 2, [0]), Operation(JOIN, 0, [0, 1])], 2, -1
    )
    packed = packed_templates([small, large], {"link": 0}, GPU)
    table = packed.table.reshape(2, -1)
    assert table[:, k.A_OPS].tolist() == [2, 3]
    assert table[:, k.A_ITEMS].tolist() == [0, 3]
    assert [packed.numbers[begin] for begin in table[:, k.A_FIRST]] == [2, 3], "each program begins with its size"
    assert packed.floats.tolist() == [0.0, 4.0]
    assert table[1, k.A_FLOATS] == 1
    assert packed.room == (3, 3, 3)
    assert table[:, k.A_MOMENTS].tolist() == [1, 2], "of operations on lanes"
    assert packed_templates([], {}, GPU).table.tolist() == [0]


def test_visits_are_numbered_layer_by_layer() -> None:
    visits = visits_of_pass(np.array([0, 0, 1]), np.array([7, 8, 7]), np.array([2, -1, 3])).reshape(3, -1)
    assert visits[:, [k.V_LAYER, k.V_TOKENS, k.V_TEMPLATE, k.V_AT]].tolist() == [[0, 7, 2, 0], [0, 8, -1, 1], [1, 7, 3, 2]]


# Rows


def placement(**system: Any) -> Any:
    problem = SimpleNamespace(
        system=SimpleNamespace(**{"further_gpus": (), "attending_gpu": "gpu"} | system), attending_index=GPU, local_index={}
    )
    return SimpleNamespace(problem=problem, stored=(np.array([[0, 1, 0], [1, 1, 0]]), np.array([[5, 6, 5], [6, 6, 5]])))


def times(visits: int) -> Any:
    base = np.arange(visits * EXPERTS).reshape(visits, EXPERTS)
    return SimpleNamespace(gpu_ps=100 + base, cpu_ps=200 + base, local_ps=300 + base, copy_ps=400 + base)


def field(rows: Any, number: int, visit: int, layer: int = 0) -> list[int]:
    """A field of a visit as the kernel finds it: where it begins, and how far on with each visit and each layer."""
    begin, by_visit, by_layer = rows[k.R_PLACES :][3 * number : 3 * number + 3]
    at = int(begin + by_visit * visit + by_layer * layer)
    return [int(value) for value in rows[at : at + EXPERTS]]


COUNTS = np.array([[3, 0, 1], [0, 2, 2]])
LAYERS = np.array([1, 0])
DEVICE = np.array([[0, 0, 1], [1, 0, 0]])


def demand(answers: Answers, **more: Any) -> Demand:
    return Demand(
        COUNTS, LAYERS, times(2), answers, more.pop("resident", np.array([[True, False, False], [False] * 3])), **more
    )


def test_every_field_of_a_visit_is_found_where_the_header_says() -> None:
    order = np.array([[2, 0, 1], [1, 2, 0]])
    rows = visit_rows(placement(), demand(Answers(DEVICE, order)), data=4)
    assert (rows[0], rows[k.R_ODD], rows[k.R_ASKS], rows[k.R_LOADED]) == (4, 0, 0, 0)
    assert [field(rows, k.COUNTS, visit) for visit in (0, 1)] == COUNTS.tolist()
    assert [field(rows, k.DEVICE, visit) for visit in (0, 1)] == DEVICE.tolist()
    assert [field(rows, k.ORDER, visit) for visit in (0, 1)] == order.tolist()
    assert field(rows, k.RESIDENT, 0) == [1, 0, 0]
    assert field(rows, k.GPU, 1) == [103, 104, 105]
    assert field(rows, k.CPU, 1) == [203, 204, 205]
    assert field(rows, k.NDP, 0) == [-1] * 3, "no near-data unit"
    assert field(rows, k.LOADED, 1) == field(rows, k.FLYING, 0) == [0] * 3
    assert (field(rows, k.KIND, 0, layer=1), field(rows, k.COPY, 1, layer=0)) == ([1, 1, 0], [5, 6, 5])


def test_what_all_visits_share_stands_there_once() -> None:
    rows = visit_rows(
        placement(), demand(Answers(np.zeros((2, EXPERTS), dtype=np.int64)), resident=ByLayer(np.array([[1, 0, 0], [0, 1, 1]])))
    )
    assert [field(rows, k.DEVICE, visit) for visit in (0, 1)] == [[GPU] * 3] * 2
    assert [field(rows, k.ORDER, visit) for visit in (0, 1)] == [[0, 1, 2]] * 2
    assert field(rows, k.RESIDENT, 0, layer=1) == [0, 1, 1]
    assert field(rows, k.CPU, 0) == [0] * 3, "nobody asks for them"


def test_copies_that_are_asked_for_have_kinds_of_their_own() -> None:
    load, kinds = np.array([[True, False, True], [False] * 3]), np.array([[7, 8, 9], [7, 7, 7]])
    rows = visit_rows(
        placement(), demand(Answers(DEVICE, load=load, moves=np.array([True, False])), kinds=kinds, flying=COUNTS)
    )
    assert (rows[k.R_ODD], rows[k.R_ASKS], rows[k.R_LOADED]) == (1, 1, 1)
    assert [field(rows, k.KIND, visit) for visit in (0, 1)] == kinds.tolist()
    assert field(rows, k.COPY, 1) == [403, 404, 405]
    assert field(rows, k.LOADED, 0) == [1, 0, 1]
    assert field(rows, k.FLYING, 1) == COUNTS[1].tolist()


@pytest.mark.parametrize("arrays", [True, False])
def test_visits_that_are_answered_one_by_one_have_the_rows_of_all_together(arrays: bool) -> None:
    where, resident = placement(), np.array([[True, False, False], [False, False, True]])
    answered = AnsweredRows(where, COUNTS, LAYERS, times(2), arrays)
    answers_in_turn = [
        (Answers(np.zeros((1, EXPERTS), dtype=np.int64)), None),
        (Answers(DEVICE[1:], np.array([[1, 2, 0]]), np.array([[True, False, True]])), np.array([0, 9, 0])),
        (Answers(DEVICE[:1]), None),
    ]
    for visit, (answers, flying) in zip((0, 1, 0), answers_in_turn, strict=True):
        rows = answered.of(answers, resident[visit], flying)
        assert isinstance(rows, list) is not arrays
        alike = visit_rows(where, Demand(COUNTS, LAYERS, times(2), Answers(np.repeat(answers.device, 2, axis=0)), resident))
        for number in (k.COUNTS, k.DEVICE, k.GPU):
            assert field(rows, number, visit) == field(alike, number, visit)
        assert field(rows, k.ORDER, visit) == ([0, 1, 2] if answers.order is None else answers.order[0].tolist())
        assert field(rows, k.LOADED, visit) == ([0, 0, 0] if answers.load is None else [1, 0, 1])
        assert field(rows, k.FLYING, visit) == ([0, 0, 0] if flying is None else [0, 9, 0])
        assert field(rows, k.RESIDENT, visit) == resident[visit].astype(int).tolist()
        assert rows[k.R_LOADED] == (answers.load is not None)


def test_an_expert_in_the_memory_of_another_gpu_does_not_come_to_the_one_that_attends() -> None:
    where, away = placement(further_gpus=("gpu1",)), times(2)
    away.copy_ps[0, 2] = -1
    here = np.zeros((2, EXPERTS), dtype=np.bool_)

    def rows(device: Any, resident: Any = here, **more: Any) -> Any:
        load = more.pop("load", None)
        return visit_rows(where, Demand(COUNTS, LAYERS, away, Answers(np.array(device), load=load), resident, **more))

    rows(DEVICE)  # it runs where it lives
    on_gpu = np.zeros_like(DEVICE)
    with pytest.raises(PolicyError, match="'gpu' an expert that lives in the memory of another GPU"):
        rows(on_gpu)
    with pytest.raises(PolicyError, match="lives in the memory of another GPU"):
        rows(DEVICE, load=np.array([[False, False, True], [False] * 3]))
    there = here.copy()
    there[0, 2] = True
    rows(on_gpu, there)
    rows(on_gpu, flying=there.astype(np.int64))


def test_rows_for_a_decider_have_the_times_of_other_devices_only_where_it_uses_them() -> None:
    answered = AnsweredRows(placement(), COUNTS, LAYERS, times(2), arrays=True)
    assert field(answered.bare(beside=False), k.CPU, 1) == [0] * 3
    rows = answered.bare(beside=True)
    assert field(rows, k.CPU, 1) == [203, 204, 205]
    assert (rows[k.R_ASKS], rows[k.R_LOADED]) == (0, 0)


@pytest.mark.parametrize("arrays", [True, False])
def test_rows_of_uploads_from_other_copies_have_their_kinds_and_times_at_every_visit(arrays: bool) -> None:
    routed = RoutedRows(placement(), COUNTS, LAYERS, times(2), arrays)
    for visit in (0, 1, 0):
        kinds, copy_ps = np.array([visit, 2, 0]), np.array([7, 8, 9 + visit])
        rows = routed.routed(Answers(np.zeros((1, EXPERTS), dtype=np.int64), source=kinds[None]), kinds, copy_ps)
        assert isinstance(rows, list) is not arrays
        assert field(rows, k.KIND, visit) == kinds.tolist()
        assert field(rows, k.COPY, visit) == copy_ps.tolist()
        assert field(rows, k.COUNTS, visit) == COUNTS[visit].tolist()
        assert rows[k.R_ODD] == 1
