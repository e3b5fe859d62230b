"""I1 to I13 and metamorphic relations over random scenarios: a few examples each, and all that ever failed.

`python -m tests.properties --count 10000 --jobs 2` is the long run.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moesim
from moesim.errors import InputError
from tests.properties.__main__ import Job, counterexamples, search
from tests.properties.relations import KNOWN, RELATIONS, Relation, programs_are_timed_alike
from tests.properties.scenarios import faster, run

SOME = settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
DAY = 86_400.0


@pytest.mark.parametrize("name", RELATIONS)
def test_it_holds(name: str) -> None:
    relation = RELATIONS[name]

    @SOME
    @given(relation.examples)
    def holds(example: Any) -> None:
        relation.check(example)

    holds()


def test_what_once_failed_holds_or_is_refused() -> None:
    for name, example in counterexamples():
        with contextlib.suppress(InputError):
            RELATIONS[name].check(example)


def test_the_long_run_keeps_what_fails_in_its_smallest_form(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(number: int) -> None:
        programs_are_timed_alike(number)
        assert number < 100

    monkeypatch.setitem(RELATIONS, "small", Relation(small, st.integers(0, 10**6)))
    ended = search(Job("small", 200, 7, tmp_path))
    assert ended.failure is not None
    assert counterexamples(tmp_path) == [("small", 100)]
    assert search(Job("programs_are_timed_alike", 5, 7, tmp_path)).failure is None


@settings(SOME, max_examples=6)
@given(KNOWN, st.floats(1.0, 3.5))
def test_a_run_of_days_is_right_or_refused(data: Any, exponent: float) -> None:
    once = run(data).summary
    expected = 10**exponent * DAY
    slow = {**data, **{part: faster(data[part], once["makespan_s"] / expected) for part in ("hardware", "runtime")}}
    rounding = 20e-12 * once["layer_visits"] / once["makespan_s"]
    for engine in ("kernel", "reference"):
        try:
            days = moesim.run(slow, **{"simulation.engine": engine}).summary["makespan_s"] / DAY
        except InputError as error:
            refusal = str(error)
            assert "106 days (2^63 ps)" in refusal
            assert expected / DAY > 20  # what is refused is at least of the size of the clock
        else:
            assert days == pytest.approx(expected / DAY, rel=1e-6 + rounding)
            assert days < 106.76
