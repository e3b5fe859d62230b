"""HTML in pieces: what is escaped, how attributes are written, how cells sort, which columns are numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moesim.report.html import Cell, Html, element, joined, shown, table, unbroken

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        (element("p"), "<p></p>"),
        (element("p", "a < b & c", Html("<br>")), "<p>a &lt; b &amp; c<br></p>"),
        (element("p", "x", class_="soft", data_k="1"), '<p class="soft" data-k="1">x</p>'),
        (element("p", aria_label='say "<>"'), '<p aria-label="say &quot;&lt;&gt;&quot;"></p>'),
        (element("p", element("b", "<")), "<p><b>&lt;</b></p>"),
        (joined(["<", Html("<i>"), ">"]), "&lt;<i>&gt;"),
        (joined([]), ""),
    ],
)
def test_text_is_escaped_and_html_is_not(html: str, text: str) -> None:
    assert html == text
    assert isinstance(html, Html)


@pytest.mark.parametrize(
    ("text", "kept_together"),
    [
        ("64 GB/s of 24 GB", "64~GB/s of 24~GB"),
        ("7.5 tok/s, 98 %", "7.5~tok/s, 98~%"),
        ("12 ms and 3 us, 5 s", "12~ms and 3~us, 5~s"),
        ("12 sets of 3 Gbytes", "12 sets of 3 Gbytes"),
        ("at 300 W for 5 J, 20 USD", "at 300~W for 5~J, 20~USD"),
    ],
)
def test_numbers_stay_with_their_units(text: str, kept_together: str) -> None:
    assert unbroken(text) == kept_together.replace("~", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, Cell(DASH, None)),
        (math.nan, Cell(DASH, None)),
        ("", Cell(DASH, None)),
        (Cell("5 GB", 5e9), Cell("5 GB", 5e9)),
        (True, Cell("yes", 1.0)),
        (False, Cell("no", 0.0)),
        (12_345, Cell("12,345", 12345.0)),
        (0.0314159, Cell("0.0314", 0.0314159)),
        ("lru", Cell("lru", "lru")),
        ((1, 2), Cell("(1, 2)", "(1, 2)")),
    ],
)
def test_values_have_a_text_and_a_key_to_sort_by(value: Any, cell: Cell) -> None:
    assert shown(value) == cell


def test_columns_of_numbers_are_flush_right_and_carry_their_key() -> None:
    page = table("Sizes", ["name", "size"], [["a<b", 5], ["c", None]])
    assert page.startswith('<div class="wide" tabindex="0" role="region" aria-label="Sizes"><table><caption>Sizes</caption>')
    assert '<th scope="col"><button type="button">name</button></th>' in page
    assert '<th scope="col" class="n"><button type="button">size</button></th>' in page
    assert '<tr><td class="s">a&lt;b</td><td class="n" data-k="5.0">5</td></tr>' in page
    assert f'<td class="n" data-k="">{DASH}</td>' in page


def test_a_column_with_one_text_is_a_column_of_texts() -> None:
    page = table("Mixed", ["x"], [[5], ["five"], ["a name of more than twenty-four letters"]])
    assert '<td class="s" data-k="5.0">5</td>' in page
    assert "<td>a name of more" in page  # long texts may break
    assert 'class="n"' not in page


@pytest.mark.parametrize(
    ("rows", "caption"),
    [(3, "All"), (4, "All (the first 3 of 4 rows; the file has them all)"), (0, "All")],
)
def test_rows_beyond_the_most_are_left_out_and_it_says_so(rows: int, caption: str) -> None:
    page = table("All", ["x"], [[number] for number in range(rows)], most=3)
    assert f"<caption>{caption}</caption>" in page
    assert page.count("<tr>") == 1 + min(rows, 3)
