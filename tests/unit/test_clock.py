"""The clock holds 2^63 ps: what is longer is refused by name, alone and in sums, and nothing wraps."""

from __future__ import annotations

import numpy as np
import program_worlds
import pytest

from moesim.clock import LIMIT, SECOND, added, multiplied, to_ps, total
from moesim.engine.programs.lanes import serve
from moesim.engine.programs.program import Operation, Program
from moesim.errors import InputError

DAYS = r"106 days \(2\^63 ps\)"
HALF = LIMIT // 2


@pytest.mark.parametrize("seconds", [LIMIT / SECOND, 1e300, np.inf, -1.0, -1e-12])
def test_a_time_outside_the_clock_is_refused_by_the_name_of_its_operation(seconds: float) -> None:
    with pytest.raises(InputError, match=rf"hardware: a copy: .*{DAYS}"):
        to_ps([1.0, seconds], "a copy")


def test_a_time_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="the time of a copy is not a number"):
        to_ps(np.nan, "a copy")


def test_the_longest_time_is_held() -> None:
    assert LIMIT - 5000 < int(to_ps((LIMIT - 4096) / SECOND)) < LIMIT


@pytest.mark.parametrize("times", [[HALF, HALF], [HALF] * 4, [HALF] * 5, [LIMIT - 1, 1]])
def test_sums_beyond_the_clock_are_refused_however_often_they_wrap(times: list[int]) -> None:
    values = np.array(times, dtype=np.int64)
    with pytest.raises(InputError, match=DAYS):
        total("a pass", values)
    with pytest.raises(InputError, match=DAYS):
        added("a pass", *values)
    with pytest.raises(InputError, match=DAYS):
        serve(np.zeros_like(values), values)


def test_products_beyond_the_clock_are_refused() -> None:
    assert multiplied("launches", 3, np.array([2, 0])).tolist() == [6, 0]
    with pytest.raises(InputError, match=DAYS):
        multiplied("launches", HALF, np.array([2, 4]))


def test_jobs_that_are_ready_late_end_within_the_clock() -> None:
    with pytest.raises(InputError, match=DAYS):
        serve(np.array([LIMIT - 10]), np.array([20]))


@pytest.mark.parametrize("name", ["reference", "plain", "compiled"])
def test_no_engine_goes_beyond_the_end_of_the_clock(name: str) -> None:
    program = Program()
    lane = program.lane("pcie")
    first = program.add(Operation(lane, LIMIT - 1))
    second = program.add(Operation(lane, 1))
    engine = program_worlds.ENGINES[name](program, {})
    engine.submit()
    engine.run(first)
    assert engine.now == LIMIT - 1
    with pytest.raises(InputError, match=f"the run up to the end of an operation on pcie.*{DAYS}"):
        engine.run(second)
