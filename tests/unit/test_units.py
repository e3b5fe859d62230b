"""Quantities as files write them: decimal and binary prefixes, exact powers of ten, and what is refused with which words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from reporting import for_all

from moesim import units

WRITTEN = {
    ("48 GB", "size"): 48e9,
    ("48 GiB", "size"): 48 * 2**30,
    ("1_000 B", "size"): 1000.0,
    ("1 kB", "size"): 1e3,
    ("1 KiB", "size"): 1024.0,
    ("64 GB/s", "bandwidth"): 64e9,
    ("1.5 TiB/s", "bandwidth"): 1.5 * 2**40,
    ("100 ns", "duration"): 100e-9,
    ("2.39 ms", "duration"): 2.39e-3,
    ("7 µs", "duration"): 7e-6,
    ("90 min", "duration"): 5400.0,
    ("20 TFLOPS", "compute rate"): 20e12,
    ("20 TFLOP/s", "compute rate"): 20e12,
    ("1e3 GOPS", "compute rate"): 1e12,
    ("1.2 kW", "power"): 1200.0,
    ("48 pJ/B", "energy per byte"): 48e-12,
    ("5 USD/GB", "money per byte"): 5e-9,
    ("5 USD/GiB", "money per byte"): 5 / 2**30,
    ("75 %", "share"): 0.75,
    ("0.75", "share"): 0.75,
    ("30/min", "rate"): 0.5,
}


@for_all(WRITTEN)
def test_text_is_the_si_value_to_the_last_bit(written: tuple[str, str]) -> None:
    assert units.parse(*written) == WRITTEN[written]


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("64 Gb/s", "bandwidth", "is in bits; moesim takes bytes only: divide by 8"),
        ("64 Gbps", "bandwidth", "is in bits"),
        ("8 Gibit", "size", "is in bits"),
        ("64", "bandwidth", "'64' has no unit; a bandwidth is written like '64 GB/s'"),
        ("5", "energy per byte", "an energy per byte is written like '48 pJ/B'"),
        ("64 gb/s", "bandwidth", "'gb/s' is not a unit of bandwidth (in '64 gb/s'). Did you mean 'GB/s'?"),
        ("3 parsecs", "duration", "'parsecs' is not a unit of duration (in '3 parsecs'). Write it like '100 ns'."),
        ("fast", "bandwidth", "'fast' is not a bandwidth; write a number and a unit, such as '64 GB/s'"),
        ("1e999 GB", "size", "'1e999 GB' is too large for a size"),
        ("1 KB", "size", "'KB' is not a unit of size (in '1 KB'). Did you mean 'kB'?"),
    ],
)
def test_what_is_not_a_quantity_says_what_would_be_right(text: str, quantity: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        units.parse(text, quantity)


def refusal(kind: Any, value: Any, *, from_file: bool = False) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value, context={"units": "required"} if from_file else None)
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_bare_numbers_are_welcome_from_python_and_refused_from_files() -> None:
    assert TypeAdapter(units.Bandwidth).validate_python(64e9) == 64e9
    assert refusal(units.Bandwidth, 64, from_file=True) == "bare number 64; a bandwidth needs its unit, such as '64 GB/s'"
    assert TypeAdapter(units.Share).validate_python(0.5, context={"units": "required"}) == 0.5


def test_values_out_of_range_are_refused() -> None:
    assert refusal(units.Size, "0 B") == "'0 B' is out of range; a size must be above 0"
    assert refusal(units.Duration, "-1 s") == "'-1 s' is out of range; a duration must be at least 0"
    assert refusal(units.Share, "101 %") == "'101 %' is out of range; a share lies between 0 and 1 (or 0 % and 100 %)"
    assert TypeAdapter(units.Duration).validate_python("0 s") == 0.0


def test_truth_values_and_lists_are_not_numbers() -> None:
    assert refusal(units.Power, True) == "True is not a power; write it like '300 W'"
    assert refusal(units.Power, [300]) == "[300] is not a power; write it like '300 W'"


@for_all([units.Size, units.Bandwidth, units.Duration, units.Power, units.Money, units.Rate, units.Share], [0.1, 1 / 3, 7e-12])
def test_json_gives_back_the_same_float(kind: Any, value: float) -> None:
    adapter = TypeAdapter(kind)
    assert adapter.validate_json(adapter.dump_json(value), context={"units": "required"}) == value


def test_numbers_and_units_are_split_where_there_is_a_number() -> None:
    assert units.split("24.8 GB/s") == (24.8, "GB/s")
    assert units.split(".5e3 ns") == (500.0, "ns")
    assert units.split(0.84) == (0.84, "")
    assert [units.split(value) for value in ("gpu", True, None, float("inf"))] == [None] * 4
