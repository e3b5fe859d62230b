"""What a server wrote down, as results read it: limits, swap space, gaps, and the change of popularity by arrival."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.results.recorder import LayerSums, Recorder
from moesim.results.serving import Disruption
from moesim.runs.served import served_by, stamp


def scheduler(**session: Any) -> Any:
    """Of three requests, whose second was refused; the ledger holds numbers row behind row."""
    ledger = SimpleNamespace(
        arrival=np.array([5, 10, 20]), queued=np.array([6, -1, 20]), scheduled=np.array([7, -1, 30]), refused={1: "too long"},
        gaps=[3, 2, 4, 1], levels=[0, 1, 0, 8], tiers=[], first_token=np.array([9, -1, 31]), finish=np.array([12, -1, 35]),
    )  # fmt: skip
    pool = SimpleNamespace(total=64, size=16)
    sequences = [SimpleNamespace(priority=priority, preemptions=lost, hits=hits) for priority, lost, hits in
                 ((0, 2, 32), (1, 0, 0), (0, 0, 16))]  # fmt: skip
    server = SimpleNamespace(session=SimpleNamespace(**{"pool": pool, "swap": None, **session}))
    return SimpleNamespace(ledger=ledger, sequences=sequences, server=server, tiers=())


def test_columns_of_requests_and_the_pool_are_taken_over() -> None:
    served = served_by(scheduler(), SimpleNamespace())
    assert [column.tolist() for column in (served.arrival, served.queued, served.scheduled)] == [
        [5, 10, 20], [6, -1, 20], [7, -1, 30],
    ]  # fmt: skip
    assert [column.tolist() for column in (served.priority, served.preemptions, served.cached)] == [
        [0, 1, 0], [2, 0, 0], [32, 0, 16],
    ]  # fmt: skip
    assert served.gaps.tolist() == [[3, 2], [4, 1]]
    assert (served.refused, served.blocks, served.block_size, served.warm_up) == ({1: "too long"}, 64, 16, 0)
    assert (served.slo, served.swap, served.disruptions) == (None, None, [])


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
        ([1.0, 1.0, 1.0], Disruption("popularity", None, 5, 5, 0)),
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
