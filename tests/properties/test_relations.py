"""I1 to I13 and metamorphic relations over random scenarios: a few examples each, and all that ever failed.

`python -m tests.properties --count 10000 --jobs 2` is the long run.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

import moesim
from moesim.errors import InputError
from moesim.results.result import Result
from tests.properties import relations
from tests.properties.__main__ import Job, counterexamples, search
from tests.properties.relations import KNOWN, RELATIONS, Relation, programs_are_timed_alike
from tests.properties.scenarios import Scenario, faster, run

SOME = settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
DAY = 86_400.0


def first_of(examples: st.SearchStrategy[Any]) -> str:
    return next(name for name, relation in RELATIONS.items() if relation.examples is examples)


@pytest.mark.parametrize("examples", list({id(r.examples): r.examples for r in RELATIONS.values()}.values()), ids=first_of)
def test_relations_hold_of_the_same_examples(examples: st.SearchStrategy[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one strategy look at the same run, unless they ask for another; one that refuses its twin leaves the others."""
    alike = [relation for relation in RELATIONS.values() if relation.examples is examples]
    runs: dict[str, Result] = {}

    def run_once(data: Scenario, **overrides: Any) -> Result:
        key = json.dumps([data, overrides])
        if key not in runs:
            runs[key] = run(data, **overrides)
        return runs[key]

    monkeypatch.setattr(relations, "run", run_once)

    @settings(SOME, max_examples=3 if alike[0].timed_thrice else 10)
    @given(examples)
    def hold(example: Any) -> None:
        runs.clear()
        held = 0
        for relation in alike:
            with contextlib.suppress(UnsatisfiedAssumption):
                relation.check(example)
                held += 1
        assume(held)

    hold()


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
