"""What a program means, by programs whose ends are summed by hand; the kernel, as plain Python, holds to the same."""

from __future__ import annotations

from typing import Any

import pytest
from program_worlds import ENGINES, Engine

from moesim.clock import LIMIT, SECOND
from moesim.engine.programs.program import DEMAND, JOIN, MIGRATION, PREFETCH, Operation, Program
from moesim.errors import InputError

both = pytest.mark.parametrize("name", ["reference", "plain"])


def engine_of(name: str, *operations: Operation, lanes: int = 4, pools: tuple[int, ...] = (), **capacity: float) -> Engine:
    """An engine that has taken in operations on lanes 0, 1, ...; `capacity` in bytes per ps."""
    program = Program()
    for lane in range(lanes):
        program.lane(f"lane {lane}")
    for operation in operations:
        program.add(operation)
    engine = ENGINES[name](program, {resource: rate * SECOND for resource, rate in capacity.items()})
    for number, free in enumerate(pools):
        engine.set_pool(number, free)
    engine.submit()
    return engine


def ends(name: str, *operations: Operation, **more: Any) -> list[int]:
    engine = engine_of(name, *operations, **more)
    for number in range(len(operations)):
        engine.run(number)
    return [engine.end(number) for number in range(len(operations))]


PROGRAMS: dict[str, tuple[list[Operation], list[int]]] = {
    "one behind the other on a lane": ([Operation(0, 3), Operation(0, 4), Operation(1, 5)], [3, 7, 5]),
    "behind what it waits for": (
        [Operation(0, 3), Operation(1, 5), Operation(2, 1, [0, 1]), Operation(3, 1, [0])],
        [3, 5, 6, 4],
    ),
    "a join takes no time and no lane": (
        [Operation(0, 3), Operation(1, 5), Operation(JOIN, 0, [0, 1]), Operation(JOIN, 0), Operation(0, 2, [2, 3])],
        [3, 5, 5, 0, 7],
    ),
    "no time at all": ([Operation(0, 0), Operation(0, 0, [0]), Operation(0, 4), Operation(1, 0, [2])], [0, 4, 4, 4]),
    "the one that was ready first": (
        [Operation(0, 10), Operation(1, 7), Operation(1, 2), Operation(0, 5, [1]), Operation(0, 4, [2])],
        [10, 7, 9, 15, 19],
    ),
    "the one numbered first, where order counts": (
        [
            Operation(0, 10),
            Operation(1, 5),
            Operation(2, 8),
            Operation(0, 4, [2], in_order=True),
            Operation(0, 5, [1], in_order=True),
        ],
        [10, 5, 8, 14, 19],
    ),
    "the more urgent one, whenever it came": (
        [
            Operation(0, 10),
            Operation(0, 3, priority=PREFETCH),
            Operation(1, 9),
            Operation(0, 2, [2], priority=DEMAND),
            Operation(0, 1, priority=MIGRATION),
        ],
        [10, 15, 9, 12, 16],
    ),
    "an urgent one goes ahead between two items": (
        [Operation(0, 4, priority=PREFETCH, count=3), Operation(1, 5), Operation(0, 2, [1])],
        [14, 5, 10],
    ),
    "items of their own times": ([Operation(0, 0, services=[3, 0, 5]), Operation(1, 1, [0])], [8, 9]),
    "items that are consumed as they land": (
        [Operation(0, 3, count=3), Operation(1, 0, services=[5, 1, 1], feed=0)],
        [9, 10],  # at 3 to 8, 8 to 9, 9 to 10
    ),
    "parts of an item": ([Operation(0, 3, count=4), Operation(1, 5, count=2, feed=0, ratio=2)], [12, 17]),  # at 6 and at 12
    "a feed and something else": (
        [Operation(0, 3, count=2), Operation(2, 7), Operation(1, 5, [1], count=2, feed=0)],
        [6, 7, 17],
    ),
    "a consumer that is behind holds nothing up": (
        [Operation(0, 1, count=3), Operation(1, 4, count=3, feed=0), Operation(0, 2)],
        [3, 13, 5],
    ),
}


@both
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(name: str, program: str) -> None:
    operations, expected = PROGRAMS[program]
    assert ends(name, *operations) == expected


@both
def test_a_slot_is_taken_before_an_item_and_given_back_behind_its_use(name: str) -> None:
    """One slot: copies begin at 0, 12 and 24, and are used from 2, 14 and 26 on for 10 each."""
    copies, uses = Operation(0, 2, count=3, takes=0), Operation(1, 10, count=3, feed=0, gives=0)
    assert ends(name, copies, uses, pools=(1,)) == [26, 36]
    assert ends(name, copies, uses, pools=(2,)) == [14, 32]  # the third copy waits for the first use alone, to 12
    assert ends(name, copies, uses, pools=(3,)) == [6, 32]


@both
def test_a_group_of_items_shares_a_slot(name: str) -> None:
    """Pairs of copies of 2, used item by item for 10: the second pair begins at 22, behind both uses of the first."""
    copies = Operation(0, 2, count=4, takes=0, group=2)
    uses = Operation(1, 10, count=4, feed=0, gives=0, group=2)
    assert ends(name, copies, uses, pools=(1,)) == [26, 44]


@both
def test_an_operation_without_a_slot_lets_others_pass(name: str) -> None:
    """The second copy finds no slot until 12; a less urgent one goes meanwhile."""
    copies, uses = Operation(0, 2, count=2, takes=0), Operation(1, 10, count=2, feed=0, gives=0)
    assert ends(name, copies, uses, Operation(0, 5, priority=PREFETCH), pools=(1,)) == [14, 24, 7]


class TestBandwidth:
    """A link of 1 byte per ps."""

    @both
    def test_equals_share_and_the_rest_has_all(self, name: str) -> None:
        """Each has half until 20, by when the short one has ended; the long one has 20 left."""
        short, long = Operation(0, 10, draws={"link": 10.0}), Operation(1, 30, draws={"link": 30.0})
        assert ends(name, short, long, link=1.0) == [20, 40]

    @both
    def test_a_modest_one_is_not_slowed(self, name: str) -> None:
        """It draws a quarter; the other has three quarters until 10: 7.5 of 10 bytes, and 2.5 more."""
        modest, greedy = Operation(0, 10, draws={"link": 2.5}), Operation(1, 10, draws={"link": 10.0})
        assert ends(name, modest, greedy, link=1.0) == [10, 13]

    @both
    def test_one_that_comes_later_slows_what_is_under_way(self, name: str) -> None:
        """10 of 20 bytes by 10, 5 more by 20 at half the rate, when the other's 5 are over; the last 5 by 25."""
        first, wait, second = (
            Operation(0, 20, draws={"link": 20.0}),
            Operation(2, 10),
            Operation(1, 5, [1], draws={"link": 5.0}),
        )
        assert ends(name, first, wait, second, link=1.0) == [25, 10, 20]

    @both
    def test_what_asks_for_more_than_there_is_takes_its_own_time_alone(self, name: str) -> None:
        """Its service says how long it takes alone: rates above the link's count as the link's."""
        assert ends(name, Operation(0, 10, draws={"link": 50.0}), link=1.0) == [10]

    @both
    def test_a_resource_that_is_slowed(self, name: str) -> None:
        engine = engine_of(name, Operation(0, 10, draws={"link": 10.0}), Operation(0, 10, draws={"link": 2.0}), link=1.0)
        engine.slow("link", 0.25)
        engine.run(1)
        assert [engine.end(number) for number in (0, 1)] == [40, 50]  # the second needs a fifth of the link


@both
def test_a_slow_lane_takes_longer_for_what_it_is_given_from_then_on(name: str) -> None:
    engine = engine_of(name, Operation(0, 10))
    engine.slow_lane(0, 0.3)
    program = engine.program
    program.add(Operation(0, 10))
    program.add(Operation(0, 0, services=[1, 2]))
    program.add(Operation(1, 10))
    engine.submit()
    for number in range(4):
        engine.run(number)
    assert [engine.end(number) for number in range(4)] == [10, 44, 55, 10]  # 34, then 4 + 7, each rounded up


@both
def test_what_is_known_within_an_operation(name: str) -> None:
    """At 5: the first item has ended, the second is half done; the last waits."""
    engine = engine_of(name, Operation(0, 4, count=2), Operation(1, 5), Operation(0, 7), Operation(2, 1, [0]))
    assert [engine.idle(lane) for lane in range(4)] == [False, False, True, True]
    assert (engine.end(1), engine.ended(1), engine.items(0)) == (-1, False, 0)
    engine.run(1)
    assert (engine.now, engine.end(1), engine.ended(1), engine.items(0), engine.ended(0)) == (5, 5, True, 1, False)
    assert list(engine.busy()) == [5, 5, 0, 0]
    assert engine.backlog(0) == 3 + 7
    assert list(engine.backlogs()) == [10, 0, 0, 0]
    engine.run(3)
    assert engine.now == 9
    engine.run(2)
    assert list(engine.backlogs()) == []
    assert (engine.idle(0), engine.idle(17), engine.backlog(17)) == (True, True, 0)


@both
def test_a_path_begins_where_it_is_asked_to(name: str) -> None:
    """0 to 5 on lane 1, 5 to 8 on lane 0, 8 to 9 on lane 2; from 6 on, the rest of it."""
    engine = engine_of(name, Operation(0, 2), Operation(1, 5), Operation(0, 3, [1]), Operation(2, 1, [2, 0]))
    engine.run(3)
    assert [tuple(map(int, step)) for step in engine.critical(3, 0)] == [(1, 0, 5), (0, 5, 8), (2, 8, 9)]
    assert [tuple(map(int, step)) for step in engine.critical(3, 6)] == [(0, 6, 8), (2, 8, 9)]
    assert list(engine.critical(3, 9)) == []


@both
def test_a_clock_that_would_run_over_says_which_lane(name: str) -> None:
    with pytest.raises(InputError, match=r"up to the end of an operation on lane 1 is longer than the 106 days \(2\^63 ps\)"):
        ends(name, Operation(1, LIMIT - 1), Operation(1, 5))
