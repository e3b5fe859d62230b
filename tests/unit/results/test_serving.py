"""Results of served requests by hand, from stamps and levels that no server wrote: columns, tables, limits, Little's law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.errors import MoesimError
from moesim.results.levels import Levels, queue_table, tier_table
from moesim.results.long.spill import SpilledRows
from moesim.results.serving import Sample, Served, check, request_columns, serving_details, summary_fields


def rows(*numbers: list[int]) -> SpilledRows:
    table = SpilledRows(len(numbers[0]))
    for row in numbers:
        table.append(row)
    return table


S = 10**12
"""Picoseconds of a second."""
LEVELS = [[0, 1, 0, 2], [S, 1, 1, 2], [2 * S, 2, 0, 5], [4 * S, 1, 0, 3], [6 * S, 0, 0, 0], [7 * S, 1, 0, 4], [9 * S, 0, 0, 0]]
REFUSAL = "it is too long"
SERVED = Served(
    # request 0 runs from 0 to 4 s, 1 waits from 1 to 2 s and runs to 6 s, 2 is refused, 3 comes at 7 and runs to 9 s
    arrival=np.array([0, 1, 2, 7]) * S,
    queued=np.array([0, 1, 2, 7]) * S,
    scheduled=np.array([0 * S, 2 * S, -1, 7 * S]),
    priority=np.array([1, 0, 1, 1]),
    preemptions=np.array([0, 2, 0, 1]),
    cached=np.array([0, 32, 0, 16]),
    refused={2: REFUSAL},
    gaps=rows([S, 3], [2 * S, 1]),
    levels=Levels(rows(*LEVELS), 10),
    block_size=16,
    slo={"ttft": 1.0, "tpot": 0.5},
)
FINISH = np.array([4 * S, 6 * S, -1, 9 * S])
REQUESTS = {
    "arrival_s": np.array([0.0, 1.0, 2.0, 7.0]),
    "queue_s": np.array([0.0, 1.0, np.nan, 0.0]),
    "ttft_s": np.array([1.0, 1.5, np.nan, 0.5]),
    "tpot_s": np.array([0.5, 0.25, np.nan, np.nan]),
    "e2e_s": np.array([4.0, 5.0, np.nan, 2.0]),
    "finish_s": np.array([4.0, 6.0, np.nan, 9.0]),
    "output_tokens": np.array([7, 9, 5, 1]),
}


def test_a_request_that_was_refused_was_taken_in_and_never_scheduled() -> None:
    columns = request_columns(SERVED, slice(0, 4))
    assert columns["queued_s"].tolist() == [0.0, 1.0, 2.0, 7.0]
    assert np.array_equal(columns["scheduled_s"], [0.0, 2.0, np.nan, 7.0], equal_nan=True)
    assert np.array_equal(columns["queue_s"], [0.0, 1.0, np.nan, 0.0], equal_nan=True)
    assert (columns["priority"].tolist(), columns["preemptions"].tolist()) == ([1, 0, 1, 1], [0, 2, 0, 1])
    assert columns["cached_tokens"].tolist() == [0, 32, 0, 16]
    assert "window" not in columns


def test_the_queue_s_table_has_a_row_for_every_level() -> None:
    table = queue_table(SERVED.levels)
    rows = {name: np.asarray(table[name]).tolist() for name in ("time_s", "running", "waiting", "kv_blocks", "kv_share")}
    assert rows == {
        "time_s": [0.0, 1.0, 2.0, 4.0, 6.0, 7.0, 9.0], "running": [1, 1, 2, 1, 0, 1, 0], "waiting": [0, 1, 0, 0, 0, 0, 0],
        "kv_blocks": [2, 2, 5, 3, 0, 4, 0], "kv_share": [0.2, 0.2, 0.5, 0.3, 0.0, 0.4, 0.0],
    }  # fmt: skip
    assert np.asarray(queue_table(None)["time_s"]).tolist() == []


def test_limits_are_kept_up_to_themselves_and_by_requests_that_ended_alone() -> None:
    summary = summary_fields(SERVED, REQUESTS, 9.0)
    # TTFT: 1.0 and 0.5 s of four requests; per further token: 0.5, 0.25, and the one of a single token; both: requests 0 and 3
    assert summary["slo"] == {
        "ttft_s": 1.0, "tpot_s": 0.5, "ttft_attainment": 0.5, "tpot_attainment": 0.75, "attainment": 0.5,
        "goodput_req_s": pytest.approx(2 / 9), "goodput_tok_s": pytest.approx(8 / 9),
    }  # fmt: skip
    assert summary_fields(SERVED, REQUESTS, 0.5)["slo"]["goodput_req_s"] == pytest.approx(4.0), "half a second is enough"
    assert summary["preemptions"] == 3
    assert (summary["queue_s"]["mean"], summary["queue_s"]["p50"]) == (pytest.approx(1 / 3), 0.0)
    assert summary["itl_s"]["mean"] == pytest.approx((3 * 1 + 2) / 4)


def test_a_warm_up_moves_the_beginning_to_the_first_request_that_counts() -> None:
    late = replace(SERVED, warm_up=1)
    slo = summary_fields(late, REQUESTS, 9.0)["slo"]
    assert (slo["attainment"], slo["ttft_attainment"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert slo["goodput_req_s"] == pytest.approx(1 / 8)
    assert summary_fields(late, REQUESTS, 1.0)["slo"]["goodput_req_s"] is None, "no time to be good in"
    assert summary_fields(late, REQUESTS, 9.0)["queue_s"]["mean"] == pytest.approx(0.5)


def test_without_limits_or_arrivals_there_is_nothing_to_keep() -> None:
    assert summary_fields(replace(SERVED, slo=None), REQUESTS, 9.0)["slo"] is None
    assert summary_fields(None, REQUESTS, 9.0) == {"queue_s": None, "itl_s": None, "slo": None, "preemptions": None}


def test_means_over_time_weigh_every_level_by_how_long_it_lasted() -> None:
    details = serving_details(SERVED, REQUESTS)
    # running: 1 for 2 s, 2 for 2 s, 1 for 2 s, none for 1 s, 1 for 2 s; waiting: 1 for 1 s; blocks 2 2 5 5 3 3 0 4 4
    assert details["mean"] == {
        "running": pytest.approx(10 / 9), "waiting": pytest.approx(1 / 9), "kv_blocks": pytest.approx(28 / 9),
    }  # fmt: skip
    assert details["most"] == {"running": 2, "waiting": 1, "kv_blocks": 5}
    assert (details["kv_blocks"], details["block_tokens"], details["cached_tokens"]) == (10, 16, 48)
    assert (details["refused"], details["warm_up"], details["faults"], details["sample"]) == ({"2": REFUSAL}, 0, [], None)
    assert (details["kv_tiers"], details["swap"]) == ([], None)


def test_tiers_say_what_they_hold_and_what_was_found_there_since_the_row_before() -> None:
    held = rows([0, 3, 1, 0, 0], [2 * S, 5, 0, 16, 0], [4 * S, 4, 2, 16, 48])
    levels = replace(SERVED.levels, tiers=[("hbm", 10), ("ddr", 20)], tier_rows=held)
    table = tier_table(levels)
    assert table["time_s"].tolist() == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
    assert table["tier"].tolist() == ["hbm", "ddr"] * 3
    assert (table["kv_blocks"].tolist(), table["hit_tokens"].tolist()) == ([3, 1, 5, 0, 4, 2], [0, 0, 16, 0, 0, 48])
    assert serving_details(replace(SERVED, levels=levels), REQUESTS)["kv_tiers"] == [
        {"tier": "hbm", "kv_blocks": 10, "most": 5, "hit_tokens": 16},
        {"tier": "ddr", "kv_blocks": 20, "most": 2, "hit_tokens": 48},
    ]
    assert tier_table(None)["tier"].tolist() == []


def test_each_of_three_tiers_has_its_own_blocks_and_tokens() -> None:
    levels = Levels(rows([0, 0, 0, 0]), 9, [("hbm", 9), ("ddr", 8), ("ssd", 7)], rows([S, 3, 1, 2, 16, 32, 48]))
    table = tier_table(levels)
    assert table["tier"].tolist() == ["hbm", "ddr", "ssd"]
    assert (table["kv_blocks"].tolist(), table["hit_tokens"].tolist()) == ([3, 1, 2], [16, 32, 48])


def test_requests_in_the_server_over_time_are_the_times_that_requests_spent_there() -> None:
    check(SERVED, FINISH)
    levels = [list(row) for row in LEVELS]
    levels[2][1] += 1  # a sequence too many runs from 2 to 4 s
    with pytest.raises(MoesimError, match=f"Little's law fails: {13 * S} ps of requests in the server, {11 * S} ps spent"):
        check(replace(SERVED, levels=Levels(rows(*levels), 10)), FINISH)


@pytest.mark.parametrize(
    ("finish", "refused", "lost"),
    [([4, 6, -1, -1], {2: REFUSAL}, 3), ([4, 6, 8, 9], {2: REFUSAL}, 2), ([4, 6, -1, 9], {}, 2)],
)
def test_every_request_is_completed_or_refused_and_not_both(finish: list[int], refused: dict[int, str], lost: int) -> None:
    stamps = np.where(np.array(finish) < 0, -1, np.array(finish) * S)
    with pytest.raises(MoesimError, match=f"I12: request {lost} was neither completed nor refused, or both"):
        check(replace(SERVED, refused=refused), stamps)


def sampled(**changes: Any) -> Served:
    """Two windows, the second of which cut request 3 off at 8 s; first tokens of 1 and 3 and the end of 0 count."""
    parts = {
        "window": np.array([0, 0, 0, 1]), "left": np.array([-1, -1, -1, 8 * S]), "first_counts": np.array([0, 1, 0, 1]) > 0,
        "finish_counts": np.array([1, 0, 0, 0]) > 0, "ttft_before": np.full(4, np.nan), "seconds": 5.0, "tokens": 20,
        "details": {"windows": 2},
    }  # fmt: skip
    return replace(SERVED, sample=Sample(**{**parts, **changes}))


def test_of_a_sampled_run_what_comes_out_while_a_window_counts_is_counted() -> None:
    columns = request_columns(sampled(), slice(0, 4))
    assert (columns["window"].tolist(), columns["finish_counts"].tolist()) == ([0, 0, 0, 1], [True, False, False, False])
    summary = summary_fields(sampled(), REQUESTS, 9.0)
    assert summary["queue_s"]["mean"] == pytest.approx(0.5)
    assert (summary["slo"]["attainment"], summary["slo"]["goodput_req_s"]) == (1.0, pytest.approx(1 / 5))
    assert serving_details(sampled(), REQUESTS)["sample"] == {"windows": 2}
    assert sampled().sample is not None
    assert sampled().sample.tokens_of(9 * S) == 36


def test_a_request_that_a_window_cut_off_was_there_until_then() -> None:
    cut = np.array([4 * S, 6 * S, -1, -1])
    levels = Levels(rows(*LEVELS[:-1], [8 * S, 0, 0, 0]), 10)
    check(replace(sampled(), levels=levels), cut)
    with pytest.raises(MoesimError, match="Little's law"):
        check(sampled(), cut)
