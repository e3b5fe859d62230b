"""Rows, sections and their two forms: text of a hundred columns, JSON without infinities."""

from __future__ import annotations

import json

import pytest

from moesim.errors import InputError, MoesimError
from moesim.explain.rows import Explanation, Quantity, Row, Section, shown, to_json, to_text

WHY = {"W": Quantity(9437184, "B"), "rate": Quantity(26.5e9, "B/s")}
SECTION = Section(
    "Copies",
    (
        Row("from ddr", 3.73e-4, "s", "W / rate", WHY),
        Row("from nvme", 2.78e-3, "s", "W / rate", WHY),
        Row("from tape", float("inf"), "s"),
    ),
    "A note.",
)
WHOLE = Explanation("a", "box", "model", "lru", (SECTION,))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (9437184.0, "B", "9.44 MB"),
        (26.5e9, "B/s", "26.5 GB/s"),
        (3.73e-4, "s", "373 us"),
        (5.5e12, "FLOP/s", "5.5 TFLOP/s"),
        (29.1234, "per layer", "29.1 per layer"),
        (28482.6, "tok/s", "28,483 tok/s"),
        (1917.0, "", "1,917"),
        (float("inf"), "tokens", "never"),
        ("yes", "", "yes"),
    ],
)
def test_values_are_shown_in_units_that_people_use(value: float | str, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_text_writes_a_shared_formula_once() -> None:
    text = to_text(WHOLE)
    assert text.count("= W / rate; W = 9.44 MB, rate = 26.5 GB/s") == 1
    assert text.index("from nvme") < text.index("= W / rate")


def test_text_keeps_to_its_width() -> None:
    long = Section("Long", (Row("a name " * 12, 1.0, "", "a formula of many words " * 20),), "a note " * 40)
    assert max(map(len, to_text(Explanation("a" * 60, "b" * 30, "c", "d", (SECTION, long))).splitlines())) <= 100


def test_json_is_plain_and_has_null_for_never() -> None:
    data = json.loads(json.dumps(to_json(WHOLE), allow_nan=False))
    rows = data["sections"][0]["rows"]
    assert [row["value"] for row in rows] == [3.73e-4, 2.78e-3, None]
    assert rows[0]["inputs"]["rate"] == {"value": 26.5e9, "unit": "B/s"}
    assert (data["policy"], data["sections"][0]["note"]) == ("lru", "A note.")


def test_rows_and_sections_are_found_by_name_or_suggested() -> None:
    assert WHOLE.section("Copies").row("from nvme").value == 2.78e-3
    with pytest.raises(MoesimError, match="Did you mean 'from ddr'"):
        SECTION.row("from dd")
    with pytest.raises(MoesimError, match="no section 'Copie'"):
        WHOLE.section("Copie")


def test_sections_are_chosen_by_words_of_their_titles_in_any_case() -> None:
    whole = Explanation("a", "box", "model", "lru", (SECTION, Section("Roofline of one expert", ()), Section("The model", ())))
    assert [section.title for section in whole.only(["MODEL", "cop"]).sections] == ["Copies", "The model"]
    with pytest.raises(InputError) as caught:
        whole.only(["model", "loss", "price"])
    titles = "there are: Copies; Roofline of one expert; The model"
    assert [(mistake.file, mistake.message) for mistake in caught.value.mistakes] == [
        ("--section", f"no section has '{word}' in its title; {titles}") for word in ("loss", "price")
    ]
