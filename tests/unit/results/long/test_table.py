"""Tables of long runs are made when they are asked for, and hold what they hold at once."""

import pickle

import numpy as np
import pytest

import moesim
from moesim.results.long import table as long_table
from moesim.results.long.table import LongTable, by_rows, parts, whole
from moesim.results.result import Result

LONG = ("steps", "queue", "step_lanes")


def _served() -> Result:
    return moesim.run("serving/mixtral-4bit-poisson", **{"workload.requests": 5, "workload.output": 9})


@pytest.fixture(scope="module")
def plain() -> Result:
    return _served()


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Result:
    """The same run, as if 7 rows were many."""
    monkeypatch.setattr(long_table, "_MOST", 7)
    return _served()


def test_the_tables_of_a_long_run_are_those_of_a_short_one(plain: Result, long: Result) -> None:
    assert all(isinstance(long.columns[name], LongTable) for name in LONG)
    assert not any(isinstance(table, LongTable) for table in plain.columns.values())
    assert long.canonical_json() == plain.canonical_json()
    for name in LONG:
        assert long.frame(name).equals(plain.frame(name))
        assert list(long.columns[name]) == list(plain.columns[name])
        for column, values in plain.columns[name].items():
            assert np.array_equal(long.columns[name][column], values, equal_nan=values.dtype.kind == "f")


def test_a_long_table_goes_to_other_processes_as_plain_columns(plain: Result, long: Result) -> None:
    there = pickle.loads(pickle.dumps(long.columns["steps"]))
    assert type(there) is dict
    assert all(
        np.array_equal(there[name], values, equal_nan=name == "hit_rate")
        for name, values in whole(long.columns["steps"]).items()
    )


def test_no_part_has_more_rows_than_it_may(long: Result) -> None:
    sizes = [len(part["step"]) for part in parts(long.columns["steps"])]
    assert sum(sizes) == len(long.columns["steps"]["step"])
    assert max(sizes) == 7


def test_a_table_without_rows_has_its_columns() -> None:
    table = by_rows(0, lambda rows: {"step": np.arange(rows.start, rows.stop)})
    assert [list(part) for part in parts(table)] == [["step"]]


def test_a_column_that_a_long_table_lacks_is_a_key_error(long: Result) -> None:
    with pytest.raises(KeyError, match="nothing"):
        long.columns["steps"]["nothing"]
