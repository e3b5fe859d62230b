"""Numbers as people read them: one rule for counts, values, shares and times, wherever they are shown."""

from __future__ import annotations

import math

import pytest

from moesim.units import format_count, format_number, format_seconds, format_share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (math.nan, "-"), (math.inf, "inf"), (0.0, "0"), (1024, "1,024"), (478_089.4, "478,089"), (100.4, "100"),
        (22.94, "22.9"), (9.7, "9.7"), (0.0314159, "0.0314"), (-2.5, "-2.5"), (999.6, "1,000"), (2.7e11, "270,000,000,000"),
        (3.2e-6, "3.2e-06"),
    ],
)  # fmt: skip
def test_whole_numbers_are_written_in_full_and_others_with_three_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (9999.6, "10,000"), (12_345.6, "12,346"), (0.84, "0.84")])
def test_more_digits_where_they_count(value: float, text: str) -> None:
    assert format_number(value, 4) == text


@pytest.mark.parametrize(
    ("share", "digits", "sign", "text"),
    [(None, 1, "", "-"), (math.nan, 1, "", "-"), (0.0, 1, "", "0.0 %"), (0.939, 1, "", "93.9 %"), (3e-4, 1, "", "< 0.1 %"),
     (0.521, 0, "", "52 %"), (0.0125, 2, "+", "+1.25 %"), (-0.5, 1, "+", "-50.0 %"), (1e-9, 2, "+", "+0.00 %")],
)  # fmt: skip
def test_shares_are_percents_and_never_look_like_nothing(share: float | None, digits: int, sign: str, text: str) -> None:
    assert format_share(share, digits, sign=sign) == text


def test_zeros_at_the_end_may_be_left_out() -> None:
    assert [format_share(share, 2, trim=True) for share in (0.1, 0.0125, 0.999, 0.0)] == ["10 %", "1.25 %", "99.9 %", "0 %"]


def test_columns_keep_zeros_at_the_end() -> None:
    values = [61.0, 6.5, 99.96, 0.03, 0.0, 61, 1234.5, None]
    assert [format_number(value, zeros=True) for value in values] == ["61.0", "6.50", "100", "0.0300", "0", "61", "1,234", "-"]


def test_times_and_counts() -> None:
    assert [format_seconds(value) for value in (None, 0.0, 1.5, 6.25e-3, 1e-7)] == ["-", "0 s", "1.5 s", "6.25 ms", "100 ns"]
    assert (format_count(1, "run"), format_count(1536, "run")) == ("1 run", "1,536 runs")
