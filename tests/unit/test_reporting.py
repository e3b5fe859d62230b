"""A test of many items fails once and names every item that does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from reporting import for_all


def test_every_item_that_fails_is_named() -> None:
    @for_all([1, 2, 3, 4], [Path("a/even.yaml")])
    def check(number: int, _: Path) -> None:
        assert number % 2 == 0, f"{number} is odd"

    with pytest.raises(AssertionError) as failure:
        check()
    first, *lines = str(failure.value).splitlines()
    assert first == "2 of 4 fail"
    assert [line for line in lines if ", even: " in line] == ["1, even: 1 is odd", "3, even: 3 is odd"]
    assert "1 is odd" in str(failure.value.__cause__)


def test_errors_of_any_kind_are_failures() -> None:
    @for_all(["", "x"])
    def check(text: str) -> None:
        text[0].upper()

    with pytest.raises(AssertionError, match="1 of 2 fail"):
        check()


@for_all("ab")
def test_fixtures_are_taken_by_name(letter: str, tmp_path: Path) -> None:
    assert not (tmp_path / letter).exists()
    (tmp_path / letter).touch()


def test_items_may_be_left_out_and_all_of_them_skip_the_test() -> None:
    @for_all([1, 2])
    def even(number: int) -> None:
        if number == 1:
            pytest.skip("left out")

    @for_all([1, 2])
    def none(number: int) -> None:
        pytest.skip(f"number {number} is left out")

    even()
    with pytest.raises(pytest.skip.Exception, match="number 1 is left out"):
        none()


def test_nothing_to_check_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="nothing to check"):
        for_all([])(lambda _: None)()
