"""Tables of what has been used: rows summed by weights, one after another, with the same bits compiled and by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from reporting import for_all

from moesim import jit
from moesim.policies.kit.history import CoOccurrence, Rows


def both(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """Two objects with these numbers: by numpy, and compiled."""
    rows = []
    for repaid in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, repaid=repaid: repaid)
        rows.append(Rows(values.copy(), 1))
    return rows


@for_all(range(12))
def test_sums_and_additions_have_the_same_bits_compiled(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 3))
    plain, compiled = both(10.0 ** rng.uniform(-6, 3, shape), monkeypatch)
    for _ in range(20):
        table, size = int(rng.integers(shape[0])), int(rng.integers(1, shape[2] + 1))
        weights = rng.random(shape[1]) * (rng.random(shape[1]) < rng.random())  # often most of them are 0
        assert plain.weighted(table, weights, size).tobytes() == compiled.weighted(table, weights, size).tobytes()
        row = rng.random(shape[2])
        for rows in (plain, compiled):
            rows.add(table, weights, row)
        assert plain.values.tobytes() == compiled.values.tobytes()


def test_sums_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in both(np.array([[[9.0, 9.0, 9.0]] * 2, [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]]), monkeypatch):
        assert rows.weighted(1, np.array([1.0, 0.5])).tolist() == [5.0, 10.0, 20.0]
        assert rows.weighted(1, np.array([0.0, 0.0]), 2).tolist() == [0.0, 0.0]
        rows.add(1, np.array([0.0, 2.0]), np.array([1.0, 2.0, 3.0]))
        assert rows.values[1].tolist() == [[1.0, 2.0, 4.0], [10.0, 20.0, 38.0]]
        assert rows.values[0].tolist() == [[9.0, 9.0, 9.0]] * 2


def test_sums_stay_what_they_were_when_others_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in both(np.ones((1, 2, 3)), monkeypatch):
        first = rows.weighted(0, np.array([1.0, 1.0]))
        rows.weighted(0, np.array([5.0, 0.0]))
        assert first.tolist() == [2.0, 2.0, 2.0]


def test_rows_are_added_in_their_order() -> None:
    """1e8 + 1 is 1e8 in 32 bits, so that the order shows."""
    column = np.array([1e8, 1.0, -1e8, 1.0])
    assert Rows(column[None, :, None]).weighted(0, np.ones(4)).tolist() == [1.0]


@for_all(range(6))
def test_equal_rows_are_read_as_a_single_row_until_something_is_added(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    tables, number, width = (int(size) for size in rng.integers(2, 40, 3))
    values = np.repeat(rng.random((tables, 1, width)), number, axis=1)
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    single, whole = Rows(values.copy(), 1, uniform=True), Rows(values.copy(), 1)
    for turn in range(10):
        weights = rng.random(number)
        assert [single.weighted(table, weights).tobytes() for table in range(tables)] == [
            whole.weighted(table, weights).tobytes() for table in range(tables)
        ]
        if turn % 3 == 2:
            table, row = int(rng.integers(tables)), rng.random(width)
            for rows in (single, whole):
                rows.add(table, weights, row)


def test_tables_that_begin_from_counted_pairs_expect_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table compiled is that of numpy, where its rows have ceased to be equal."""
    rng = np.random.default_rng(3)
    popularity, pairs = np.full((3, 4), 0.25), rng.integers(0, 50, (2, 4, 4))
    shares = []
    for repaid in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, repaid=repaid: repaid)
        table = CoOccurrence(popularity, 2, visits=1)
        table.start(pairs)
        table.fade(0.3)
        shares.append(table.expected(1, np.array([0, 0, 3, 1])).tobytes())
    assert shares[0] == shares[1]
