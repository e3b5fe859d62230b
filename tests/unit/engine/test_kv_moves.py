"""KV blocks between tiers: which way they take, how urgent they are, who waits for whom, and when they are booked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moesim.contract import KvMove
from moesim.engine.kv_moves import KvMoves
from moesim.engine.programs.program import DEMAND, JOIN, MIGRATION, PREFETCH, Operation, Program
from tests.policy_problems import job, model, problem, system

MB = 1e6
OUT = KvMove(8 * MB, "hbm", "ddr")
BACK = KvMove(8 * MB, "ddr", "hbm")
SERVICE = round((8e6 / 25e9 + 1e-5) * 1e12)
"""ps of 8 MB at 25 GB/s, behind 10 us of set-up; what is read from DRAM comes 0.1 us later."""


class Bench:
    """Moves over an engine whose copies end when a test says so."""

    def __init__(self) -> None:
        self.program, self.done, self.ran = Program(), set[int](), list[list[Operation]]()
        self.books: list[tuple[float, str]] = []
        self.critical: list[Any] = []
        work = problem(system(), model(), job())
        recorder = SimpleNamespace(rounded=0, count_moves=self._count, close_phase=self.critical.append)
        engine = SimpleNamespace(
            submit=lambda: None, ended=self.done.__contains__, run=self.done.add, critical=lambda number, begin: [(0, begin, 9)]
        )
        self.machine: Any = SimpleNamespace(
            problem=work, recorder=recorder, engine=engine, program=self.program, lane=self.program.lane, now=4, run=self._run,
            forget=self.program.forget, mark=lambda: None, shares=lambda path: {"pcie:reverse": path[0][2] - path[0][1]},
        )  # fmt: skip
        ledger: Any = SimpleNamespace(critical=lambda shares, part, layer: self.critical.append((shares, part, layer)))
        self.moves = KvMoves(self.machine, ledger)

    def _run(self, operations: list[Operation]) -> dict[str, int]:
        self.ran.append(operations)
        return {"pcie:reverse": 7}

    def _count(self, usage: Any, nbytes: float, cause: str) -> None:
        self.books.append((nbytes, cause))

    @property
    def under_way(self) -> list[Operation]:
        return list(self.program.operations.values())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_step_runs_the_copies_that_it_waits_for_and_books_them_at_once(bench: Bench) -> None:
    bench.moves.begin([OUT, BACK._replace(items=4)])
    ((out, back, join),) = bench.ran
    assert (out.priority, back.priority, join.lane, list(join.after)) == (DEMAND, DEMAND, JOIN, [0, 1])
    assert (out.service, out.count, out.draws["pcie:reverse"]) == (SERVICE, 1, 8 * MB)
    assert back.service == (SERVICE + 100_000) / 4
    assert (back.count, back.draws["pcie:forward"]) == (4, 8 * MB)
    assert bench.books == [(8 * MB, "kv"), (8 * MB, "kv")]
    assert bench.critical == [({"pcie:reverse": 7}, "attention", None), None]
    assert bench.machine.recorder.rounded == 5, "one time for each part"
    assert not bench.moves.any


def test_copies_beside_the_step_are_less_urgent_and_least_where_no_request_waits(bench: Bench) -> None:
    bench.moves.begin([OUT._replace(awaited=False), BACK._replace(awaited=False, request=3)])
    assert [copy.priority for copy in bench.under_way] == [MIGRATION, PREFETCH]
    assert bench.ran == []
    assert bench.moves.any


def test_a_copy_waits_for_those_that_bring_blocks_to_where_it_reads(bench: Bench) -> None:
    bench.moves.begin([OUT._replace(awaited=False)])
    bench.moves.begin([BACK._replace(awaited=False, request=3), OUT._replace(awaited=False)])
    assert [list(copy.after) for copy in bench.under_way] == [[], [0], [1]]
    bench.moves.begin([BACK])
    assert list(bench.ran[0][0].after) == [], "what is awaited comes from where it has been for long"


def test_requests_go_on_when_all_of_their_blocks_have_come(bench: Bench) -> None:
    apart = BACK._replace(awaited=False)
    bench.moves.begin(
        [apart._replace(request=3), apart._replace(request=5), apart._replace(request=3), OUT._replace(awaited=False)]
    )
    assert bench.moves.landed() == []
    bench.done |= {0, 1, 3}
    assert bench.moves.landed() == [5], "request 3 waits for one more, and nobody waits for what went out"
    assert len(bench.books) == 3
    assert list(bench.program.operations) == [2]
    bench.done.add(2)
    assert bench.moves.landed() == [3]
    assert bench.moves.landed() == []
    assert not bench.moves.any


def test_a_pause_lasts_until_the_first_copy_that_a_request_waits_for_has_ended(bench: Bench) -> None:
    bench.moves.begin([OUT._replace(awaited=False), BACK._replace(awaited=False, request=3)])
    bench.moves.pause()
    assert bench.done == {1}
    assert bench.critical == [({"pcie:reverse": 5}, "attention", None), None], "from 4 to 9"
