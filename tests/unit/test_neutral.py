"""Text of strangers does nothing where it is shown: to a terminal, in a page, in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.neutral import cell, cell_text, line, printable
from moesim.report.html import element
from moesim.results.columns import from_csv, to_csv


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text\n\twith – wide 字 letters 🙂", "plain text\n\twith – wide 字 letters 🙂"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x9b31m", "\\u009b31m"),
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("over\rwritten\x08", "over\\u000dwritten\\u0008"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_control_codes_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_that_is_printed_controls_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs")} - {"\n", "\t"}
    assert "\n" not in line(text)
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_formulas_are_text_in_a_table(first: str) -> None:
    stored = cell(f"{first}HYPERLINK(1)")
    assert stored == f"'{first}HYPERLINK(1)"


@pytest.mark.parametrize("number", ["-5", "+1e3", "-inf", "-0.5", "12"])
def test_numbers_stay_numbers(number: str) -> None:
    assert cell(number) == number


@given(st.text())
def test_a_cell_is_read_back(text: str) -> None:
    assert cell_text(cell(text)) == text


@given(st.lists(st.text("'=+-@1a\t,\"", max_size=4), min_size=1))
def test_tables_of_strange_texts_are_read_back(texts: list[str]) -> None:
    table = {"=name": np.array([*texts, "word"], dtype=object)}
    stored = to_csv(table)
    cells = [row[0] for row in csv.reader(io.StringIO(stored, newline=""))]
    assert not [text for text in cells if text.startswith(("=", "@", "\t")) or text in ("+a", "-a")]
    assert from_csv(stored)["=name"].tolist() == table["=name"].tolist()


def test_pages_hold_no_control_codes() -> None:
    shown = element("p", "\x1b[31m<b>\u202e", title="\x00\x9b")
    assert shown == '<p title="\\u0000\\u009b">\\u001b[31m&lt;b&gt;\\u202e</p>'
