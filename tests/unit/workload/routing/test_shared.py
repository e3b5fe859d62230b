"""Requests that share one routing: equal in lock step, a token apart where one is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.jobs import Offline
from moesim.workload.table import RoutingTable, distinct
from tests.routed_models import RoutedModel

MODEL = RoutedModel("mixtral-8x7b", 8, 2, 32)


def built(requests: int, ahead: int = 0, of: str = "sticky", **changes: Any) -> RoutingTable:
    routing = {"kind": "shared", "of": {"kind": of}, "ahead": ahead}
    jobs = {"requests": requests, "prompt": 16, "output": 9, "routing": routing, "profile": {"kind": "uniform"}, **changes}
    return Offline.model_validate(jobs).build(MODEL, Streams(3), Path())[1]


def test_all_requests_take_the_same_experts() -> None:
    table = built(4)
    assert (table.prefill == table.prefill[0]).all()
    assert (table.decode == table.decode[0]).all()
    assert table.prefill[0].sum() == 16 * 2 * 32


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_lock_step_touches_k_experts_at_any_batch(batch: int) -> None:
    table = built(batch)
    assert {int(d) for g in range(8) for d in distinct(table.decode_counts(np.arange(batch), g))} == {2}


def test_the_first_request_is_ahead_by_a_token() -> None:
    table, plain = built(3, ahead=1), built(3)
    assert (table.decode[0, :-1] == table.decode[1, 1:]).all()
    assert (table.decode[1] == table.decode[2]).all()
    assert (table.decode[1] == plain.decode[1]).all()


def test_two_independent_neighbours_touch_three_and_a_half() -> None:
    """Uniform tokens a token apart: 8 (1 - 0.75^2) = 3.5, whatever the batch."""
    table = built(8, ahead=1, of="uniform", output=201)
    mean_distinct = np.mean([distinct(table.decode_counts(np.arange(8), g)) for g in range(200)])
    assert mean_distinct == pytest.approx(3.5, abs=0.03)


def test_one_request_is_never_ahead_of_itself() -> None:
    assert (built(1, ahead=1).decode == built(1).decode).all()


def test_requests_of_one_routing_have_one_prompt() -> None:
    with pytest.raises(InputError, match="share their routing") as caught:
        built(2, prompt={"kind": "uniform", "minimum": 8, "maximum": 64})
    assert caught.value.mistakes[0].path == "workload.prompt"


def test_a_layer_batch_can_share_too() -> None:
    from moesim.workload.jobs import LayerBatch

    jobs = {"tokens": 7, "routing": {"kind": "shared", "of": {"kind": "uniform"}}, "profile": {"kind": "same"}}
    _, table = LayerBatch.model_validate(jobs).build(MODEL, Streams(3), Path())
    assert table.prefill.sum() == 14
    assert table.profile.sum() == pytest.approx(1.0)


def test_the_table_says_that_requests_share() -> None:
    assert "4 requests share one routing" in built(4).notes
