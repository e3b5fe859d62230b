"""Lines of other tools' files: each kind of mistake once, with its first line and the numbers of some more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.workload.foreign.lines import Entries, Lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.txt"


def reported(lines: Lines, count: int = 1) -> list[tuple[int, int, str]]:
    """What `checked` reports."""
    with pytest.raises(InputError) as caught:
        lines.checked(count, "rows")
    assert {mistake.file for mistake in caught.value.mistakes} == {str(lines.path)}
    return [(mistake.line, mistake.column, mistake.message) for mistake in caught.value.mistakes]


def test_empty_lines_say_nothing(path: Path) -> None:
    path.write_text("a\n\n  \t\n b \n")
    assert list(Lines(path).lines()) == [(1, "a"), (4, " b ")]


def test_objects_and_what_is_none(path: Path) -> None:
    path.write_text('{"a": 1}\n[1]\n{"a": NaN}\n"x"\n{"b": 2}\n{')
    lines = Lines(path)
    assert list(lines.objects()) == [(1, {"a": 1}), (5, {"b": 2})]
    messages = reported(lines)
    assert [line for line, _, _ in messages] == [2, 3, 6]
    assert messages[0][2] == "not a JSON object; one for each line is needed; likewise on line 4"
    assert messages[1][2].startswith("NaN")
    assert messages[2][2].startswith("not JSON")


def test_rows_by_the_names_of_the_header(path: Path) -> None:
    path.write_text('a, b ,c\n1,2\n\n"x, y",3,4,5\n')
    lines = Lines(path)
    assert list(lines.table(("b", "a"))) == [(2, {"a": "1", "b": "2"}), (4, {"a": "x, y", "b": "3", "c": "4"})]
    lines.checked(2, "rows")


@pytest.mark.parametrize(("text", "among"), [("a,c\n", 2), ("", 1)])
def test_columns_that_are_missing(path: Path, text: str, among: int) -> None:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        list(Lines(path).table(("b", "d")))
    assert caught.value.mistakes[0].message == f"no column b, d among the {among if text else 0} that its first line names"


@pytest.mark.parametrize(
    ("value", "least", "number"),
    [(7, 0, 7), (" 7 ", 0, 7), ("-3", -5, -3), (0, 0, 0), ("007", 1, 7), (10**17, 0, 10**17)],
)
def test_whole_numbers(path: Path, value: Any, least: int, number: int) -> None:
    lines = Lines(path)
    assert lines.count(value, "n", 1, least) == number
    lines.checked(1, "rows")


@pytest.mark.parametrize(
    ("value", "least", "shown"),
    [
        (7.0, 0, "float"), ("7.0", 0, "7.0"), (None, 0, "NoneType"), ("", 0, "missing"), (True, 0, "True"), (-1, 0, "-1"),
        (0, 1, "0"), ([7], 0, "list"), (10**18, 0, "1000000000000000000"), ("seven\n", 0, "seven"), ("1_000", 0, "1_000"),
    ],
)  # fmt: skip
def test_what_is_not_a_whole_number_counts_as_the_least(path: Path, value: Any, least: int, shown: str) -> None:
    lines = Lines(path)
    assert lines.count(value, "n", 3, least) == least
    assert reported(lines) == [(3, 1, f"n is {shown}; a whole number of at least {least} is needed")]


def test_each_kind_once_in_the_order_of_its_first_line(path: Path) -> None:
    lines = Lines(path)
    for line in (9, 2, 11):
        lines.wrong("late", line)
    lines.wrong("5 is odd", 4, "odd", 7)
    lines.wrong("7 is odd", 5, "odd")
    for line in range(20, 27):
        lines.wrong("many", line)
    assert reported(lines) == [
        (4, 7, "5 is odd; likewise on line 5"),
        (9, 1, "late; likewise on 2 more lines (2, 11)"),
        (20, 1, "many; likewise on 6 more lines (21, 22, 23, 24, ...)"),
    ]


def test_nothing_in_a_file_is_a_mistake_only_without_another(path: Path) -> None:
    assert reported(Lines(path), 0) == [(0, 0, "holds no rows")]
    lines = Lines(path)
    lines.wrong("bad", 1)
    assert reported(lines, 0) == [(1, 1, "bad")]


def test_a_file_of_another_kind_is_not_read_to_its_end(path: Path) -> None:
    lines = Lines(path)
    for line in range(1, 10_000):
        lines.wrong("bad", line)
    with pytest.raises(InputError) as caught:
        lines.wrong("worse", 10_000)
    assert [mistake.message for mistake in caught.value.mistakes] == [
        "bad; likewise on 9,998 more lines (2, 3, 4, 5, ...)",
        "worse",
        "line 10,000 is the last that was read, after 10,000 mistakes",
    ]


def test_entries_of_lists_are_numbered_from_0_on_one_line(path: Path) -> None:
    entries = Entries(path)
    for number in (0, 3, 5):
        entries.count("x", "n", number)
    [(line, column, message)] = reported(entries)
    assert (line, column) == (1, 1)
    assert message == "entry 0: n is x; a whole number of at least 0 is needed; likewise on 2 more entries (3, 5)"
