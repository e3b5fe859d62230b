"""What a fault costs a server, on levels and times that are written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.results.levels import Disruption, Levels, recovery, recovery_sentence
from moesim.results.long.spill import SpilledRows

SECOND = 10**12
LEVELS = [(0, 1, 0), (4, 2, 0), (10, 2, 3), (20, 2, 6), (30, 1, 0), (50, 0, 0)]
"""(s, running, waiting): 1.6 requests are there on average before second 10."""
SENT = np.array([0, 4, 9, 12, 31]) * SECOND
FINISH = np.array([5 * SECOND, 11 * SECOND, 22 * SECOND, -1, 50 * SECOND])
KEPT = np.array([True, True, False, False, True])


def cost(end: float, survivors: np.ndarray[Any, Any] | None = KEPT) -> dict[str, Any]:
    disruption = Disruption("cxl", None, 10 * SECOND, round(end * SECOND), 7)
    rows = SpilledRows(4)
    for time, *more in LEVELS:
        rows.append((time * SECOND, *more, 0))
    return recovery(disruption, Levels(rows, 1), SENT, FINISH, survivors)


def test_the_server_has_recovered_when_no_more_requests_are_there_than_before() -> None:
    row = cost(15.5)
    assert (row["begin_s"], row["end_s"]) == (10.0, 15.5)
    assert row["requests_before"] == pytest.approx(1.6)
    assert (row["requests_most"], row["recovered_s"]) == (8, 20)
    assert (row["requests"], row["missed"]) == (3, 2)
    assert (row["completed_before"], row["missed_before"]) == (1, 0)
    assert row["lost_experts"] == 7
    assert recovery_sentence(row) == (
        "disruption of 'cxl': 3 requests met it, 2 of them missed a limit; the server had recovered 20 s after its beginning"
    )


def test_a_queue_that_empties_because_traffic_ends_is_not_a_recovery() -> None:
    row = cost(31)
    assert row["recovered_s"] is None
    assert row["requests"] == 4
    assert "did not recover" in recovery_sentence(row)


def test_nobody_misses_limits_that_are_not_there() -> None:
    row = cost(15, None)
    assert (row["missed"], row["missed_before"]) == (None, None)
    assert "missed" not in recovery_sentence(row)
