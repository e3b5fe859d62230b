"""Limits on settings: when a mean keeps them, how far it passes them, how sentences say them."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.sweeps.constraints import constraint_words, excess, missed
from moesim.results.sweeps.description import Limit
from tests.descriptions import row


def limit(metric: str = "makespan_s", at_least: float | None = None, at_most: float | None = None) -> Limit:
    return Limit(metric, at_least, at_most)


def taking(*seconds: Any) -> list[dict[str, Any]]:
    return [row("lru", 1.0, replicate, makespan_s=value) for replicate, value in enumerate(seconds)]


@pytest.mark.parametrize(
    ("constraint", "seconds", "keeps", "over"),
    [
        (limit(at_most=2.0), (1.0, 3.0), True, 0.0),  # the mean is 2: at the limit
        (limit(at_most=2.0), (2.0, 4.0), False, 0.5),
        (limit(at_most=2.0), (1.0,), True, -0.5),
        (limit(at_least=10.0), (8.0,), False, 0.2),
        (limit(at_least=10.0), (15.0,), True, -0.5),
        (limit(at_least=1.0, at_most=2.0), (3.0,), False, 0.5),  # 2 above the lower end does not make up for it
        (limit(at_least=1.0, at_most=2.0), (0.25,), False, 0.75),
        (limit(at_most=0.0), (0.25,), False, 0.25),  # of a limit of zero, as it is
        (limit(at_least=-4.0), (-6.0,), False, 0.5),  # shares of the size of a limit
        (limit(at_most=2.0), (1.0, None), False, 1.0),  # a number that one replication lacks is not known
        (limit(at_most=2.0), ("1.0",), False, 1.0),
        (limit(at_most=2.0), (), False, 1.0),
        (limit("ttft_s.p50", at_most=2.0), (1.0,), False, 1.0),
    ],
)
def test_a_mean_keeps_a_limit_or_passes_it_by_a_share(
    constraint: Limit, seconds: tuple[Any, ...], keeps: bool, over: float
) -> None:
    rows = taking(*seconds)
    assert missed([constraint], rows) == (() if keeps else (constraint_words(constraint),))
    assert excess(constraint, rows) == pytest.approx(over)


def test_points_that_did_not_run_do_not_count() -> None:
    rows = [*taking(1.0), {**taking(None)[0], "status": "failed"}]
    assert missed([limit(at_most=2.0)], rows) == ()
    assert excess(limit(at_most=2.0), rows) == -0.5


def test_every_limit_that_is_missed_is_named_in_their_order() -> None:
    limits = [limit(at_most=1.0), limit(at_least=0.5), limit("hit_rate", at_least=0.9)]
    assert missed(limits, taking(4.0)) == ("makespan at most 1 s", "hit rate at least 90 %")
    assert missed([], taking(4.0)) == ()


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (limit("ttft_s.p99", at_most=2.0), "p99 time to first token at most 2 s"),
        (limit("tpot_s.mean", at_most=0.05), "mean time per output token at most 50 ms"),
        (limit("hit_rate", at_least=0.125), "hit rate at least 12.5 %"),
        (limit("throughput_tok_s", 10.0, 12_345.6), "throughput at least 10 tok/s and at most 12,346 tok/s"),
        (limit("cost_usd_per_Mtok", at_most=0.5), "cost at most 0.5 USD per million tokens"),
        (limit("requests_completed", at_least=7), "completed requests at least 7"),
        (limit("details.anything", at_least=7), "details.anything at least 7"),
    ],
)
def test_a_limit_is_said_with_the_unit_of_its_metric(constraint: Limit, words: str) -> None:
    assert constraint_words(constraint) == words
