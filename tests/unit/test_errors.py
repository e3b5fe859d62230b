"""How mistakes are put into words: their place, all of them at once, what was meant, and what a terminal may be shown."""

from __future__ import annotations

import pickle

import pytest

from moesim.errors import CapacityError, InputError, Mistake, MoesimError, PolicyError, did_you_mean, excerpt

FULL = Mistake("is too small", "workload.output", "mine.yaml", 3, 11)


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (FULL, "mine.yaml:3:11: workload.output: is too small"),
        (Mistake("is too small", "workload.output"), "workload.output: is too small"),
        (Mistake("is empty", file="mine.yaml"), "mine.yaml: is empty"),
        (Mistake("no such file", "model", "mine.yaml"), "mine.yaml: model: no such file"),
    ],
)
def test_a_mistake_says_where_it_stands_as_far_as_that_is_known(mistake: Mistake, text: str) -> None:
    assert str(mistake) == text


def test_an_error_of_input_has_a_line_for_each_mistake_in_order() -> None:
    error = InputError(FULL, "plain words")
    assert str(error) == "mine.yaml:3:11: workload.output: is too small\nplain words"
    assert error.mistakes == (FULL, Mistake("plain words"))


@pytest.mark.parametrize("error", [InputError(FULL, "words"), CapacityError("5 B too many"), PolicyError("no answer")])
def test_errors_survive_the_way_to_another_process(error: MoesimError) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert isinstance(twin, MoesimError)


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert did_you_mean("quickstrat", ["quickstart", "drift"]) == " Did you mean 'quickstart'?"
    assert did_you_mean("zebra", ["quickstart", "drift"]) == ""
    assert did_you_mean("anything", []) == ""


def test_what_is_quoted_stays_on_one_line_and_obeys_nothing() -> None:
    assert excerpt("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert excerpt("x" * 61) == "x" * 57 + "..."
    assert excerpt("x" * 60) == "x" * 60
    assert excerpt("größer") == "größer"
