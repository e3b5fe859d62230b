"""The long runs, cut short: their checks hold for a thousand visits, too."""

from __future__ import annotations

from tests.long.__main__ import visits


def test_books_of_bytes_are_exact() -> None:
    assert visits(1_000).startswith("1,008 visits")
