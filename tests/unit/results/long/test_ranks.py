"""Percentiles and means of counted values in parts: the same bits as of all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.results.long import spill
from moesim.results.long.ranks import describe_rows
from moesim.results.long.spill import SpilledRows
from moesim.results.statistics import describe

UNIT = 10**12
counted = st.lists(
    st.tuples(st.one_of(st.integers(0, 9), st.integers(0, 2**53), st.sampled_from([4095, 4096, 2**24])), st.integers(1, 9)),
    min_size=1, max_size=40,
)  # fmt: skip


def table(rows: list[tuple[int, int]]) -> SpilledRows:
    numbers = SpilledRows(2)
    for row in rows:
        numbers.append(row)
    return numbers


@given(counted)
def test_counted_values_are_described_as_if_each_were_written_out(rows: list[tuple[int, int]]) -> None:
    values, counts = np.array(rows, dtype=np.int64).T
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spill, "PART", 7)
        assert describe_rows(table(rows), UNIT) == describe(np.repeat(values / UNIT, counts))


def test_nothing_has_neither_a_mean_nor_percentiles() -> None:
    assert describe_rows(SpilledRows(2), UNIT) == {"mean": None, "p50": None, "p90": None, "p99": None}
    assert describe_rows(table([(5, 0)]), UNIT)["mean"] is None, "it does not occur"
    assert describe_rows(table([(0, 3)]), UNIT) == {"mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0}
