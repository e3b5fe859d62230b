"""The notation of what takes time: numbers of lanes and operations, and the packed form that the kernel reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.engine.programs.program import DEMAND, JOIN, LABELS, MIGRATION, Operation, Program, label_of, packed, unpacked


def test_items_take_the_same_time_or_each_its_own() -> None:
    alike, apart = Operation(0, 5, count=3), Operation(0, 0, services=(5, 0, 7))
    assert (list(alike.items), alike.total) == ([5, 5, 5], 15)
    assert (list(apart.items), apart.total) == ([5, 0, 7], 12)
    assert Operation(JOIN, 0).total == 0


def test_lanes_and_operations_are_numbered_as_they_come() -> None:
    program = Program()
    assert [program.lane(name) for name in ("gpu", "pcie", "gpu", "cpu")] == [0, 1, 0, 2]
    assert [program.add(Operation(0, 1)) for _ in range(3)] == [0, 1, 2]
    program.forget([1])
    assert (len(program), set(program.operations)) == (3, {0, 2})
    assert program.add(Operation(0, 1)) == 3


def test_every_label_has_a_number_and_a_name_of_its_own() -> None:
    assert [label_of(label.name) for label in LABELS] == list(range(len(LABELS)))
    with pytest.raises(KeyError):
        label_of("nothing")


def test_a_packed_program_says_all_that_its_operations_say() -> None:
    operations = [
        Operation(0, 5, (), DEMAND, draws={"ddr": 3.0, "pcie": 2.5}, label=4),
        Operation(1, 7, (10,), MIGRATION, in_order=True, count=4, feed=10, ratio=2, takes=1, gives=2, group=3),
        Operation(JOIN, 0, (10, 11), services=(4, 6)),
    ]
    resources = {"pcie": 0, "ddr": 1}
    form = packed(operations[:1], resources, {}, 10)
    assert (form.numbers[0], form.floats, form.items, form.heirs) == (1, [3.0, 2.5], 0, 0)
    whole = packed(operations, resources, {}, 10)
    assert (whole.items, whole.heirs) == (2, 3)
    first, second, join = unpacked(whole.numbers, whole.floats, ["pcie", "ddr"], 10)
    assert replace(first, after=(), services=()) == operations[0]
    assert replace(second, after=(10,), services=()) == operations[1]
    assert (join.lane, join.after, list(join.items)) == (JOIN, [10, 11], [4, 6])


def test_earlier_operations_are_named_by_their_place_in_the_kernel_and_those_that_have_ended_are_left_out() -> None:
    form = packed([Operation(0, 1, (3, 5, 10), feed=5)], {}, {5: 7}, 10)
    # number 3 has ended; 5 lies at place 7, written -2 - 7; 10 is the first of this program, 0
    assert form.heirs == 2
    assert form.numbers[1 + 14 :] == [-9, 0]
    assert form.numbers[1 + 5] == -9
