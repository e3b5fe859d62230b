"""What a server wrote down, as results read it: limits, swap space, gaps, and the change of popularity by arrival."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.results.levels import Disruption
from moesim.results.long.spill import SpilledRows
from moesim.results.recorder import LayerSums, Recorder
from moesim.runs.served import counted_gaps, served_by, stamp
from moesim.scheduling.server import Ledger


def rows(*numbers: list[int]) -> SpilledRows:
    table = SpilledRows(len(numbers[0]))
    table.extend(np.array(numbers))
    return table


def scheduler(**session: Any) -> Any:
    """Of three requests, whose second was refused."""
    ledger = Ledger(np.array([0, 10, 20]), refused={1: "too long"}, gaps=rows([3, 2], [4, 1]), levels=rows([0, 1, 0, 8]))
    for name, stamps in (
        ("queued", [6, -1, 20]), ("scheduled", [7, -1, 30]), ("first_token", [9, -1, 31]), ("finish", [12, -1, 35]),
        ("preemptions", [2, 0, 0]), ("cached", [32, 0, 16]),
    ):  # fmt: skip
        setattr(ledger, name, np.array(stamps))
    pool = SimpleNamespace(total=64, size=16)
    server = SimpleNamespace(session=SimpleNamespace(**{"pool": pool, "swap": None, **session}))
    return SimpleNamespace(ledger=ledger, priority=np.array([0, 1, 0]), server=server, tiers=())


def test_columns_of_requests_and_the_pool_are_taken_over() -> None:
    served = served_by(scheduler(), SimpleNamespace())
    assert [column.tolist() for column in (served.arrival, served.queued, served.scheduled)] == [
        [0, 10, 20], [6, -1, 20], [7, -1, 30],
    ]  # fmt: skip
    assert [column.tolist() for column in (served.priority, served.preemptions, served.cached)] == [
        [0, 1, 0], [2, 0, 0], [32, 0, 16],
    ]  # fmt: skip
    assert np.asarray(served.gaps).tolist() == [[3, 2], [4, 1]]
    assert (np.asarray(served.levels.rows).tolist(), served.levels.blocks) == ([[0, 1, 0, 8]], 64)
    assert (served.levels.tiers, served.levels.tier_rows) == ((), None)
    assert (served.refused, served.block_size, served.warm_up) == ({1: "too long"}, 16, 0)
    assert (served.slo, served.swap, served.disruptions) == (None, None, [])


def test_gaps_of_a_sample_are_those_of_its_windows() -> None:
    """Rows 1 and 2 lie in the first window, row 4 in the second; what lies between them does not count."""
    ledger = SimpleNamespace(gaps=rows([1, 1], [2, 1], [3, 1], [4, 1], [5, 9]))
    sampled: Any = SimpleNamespace(ledger=ledger, gap_marks=[(1, 3), (4, 5)])
    assert [part.tolist() for part in counted_gaps(sampled)] == [[[2, 1], [3, 1]], [[5, 9]]]


def test_limits_that_are_asked_for_are_named() -> None:
    slo = SimpleNamespace(ttft=2.0, tpot=None, e2e=30.0)
    served = served_by(scheduler(), SimpleNamespace(slo=slo, warm_up=3))
    assert (served.slo, served.warm_up) == ({"ttft": 2.0, "e2e": 30.0}, 3)


def test_a_swap_space_has_its_book() -> None:
    book = {"tier": "ddr", "total": 9, "most": 4, "sequences_out": 3, "sequences_in": 2, "blocks_out": 7, "blocks_in": 5,
            "without_room": 1}  # fmt: skip
    assert served_by(scheduler(swap=SimpleNamespace(**book, free=2)), SimpleNamespace()).swap == book


@pytest.mark.parametrize(
    ("progress", "disruption"),
    [
        ([0.0, 0.5, 1.0], Disruption("popularity", None, 10, 20, 0)),
        ([0.0, 0.0, 0.5], Disruption("popularity", None, 20, None, 0)),  # not done at the end
        ([1.0, 1.0, 1.0], Disruption("popularity", None, 0, 0, 0)),
        ([0.0, 0.0, 0.0], None),
    ],
)
def test_popularity_changes_from_the_first_request_that_it_concerns(progress: list[float], disruption: Any) -> None:
    drift = SimpleNamespace(progress=lambda count: np.array(progress[:count]))
    workload = SimpleNamespace(routing=SimpleNamespace(drift=drift))
    fault = Disruption("hbm", 0.5, 1, 2, 0)
    served = served_by(scheduler(), workload, disruptions=[fault])
    assert served.disruptions == [fault, *([disruption] if disruption else [])]


def test_a_change_for_requests_that_never_arrived_is_left_out() -> None:
    late = scheduler()
    late.ledger.arrival = np.array([5, -1, -1])
    drift = SimpleNamespace(progress=lambda count: np.array([0.0, 0.5, 1.0]))
    assert served_by(late, SimpleNamespace(routing=SimpleNamespace(drift=drift))).disruptions == []


def test_tokens_come_out_when_the_server_says_so() -> None:
    recorder = Recorder(LayerSums.zeros(1), 3)
    stamp(recorder, scheduler())
    assert (recorder.first_token.tolist(), recorder.finish.tolist()) == ([9, -1, 31], [12, -1, 35])
