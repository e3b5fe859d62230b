"""The table of metrics: every row is a field of a summary, and sentences, axes and goals read it."""

from __future__ import annotations

from moesim.report.axis_words import axis_name
from moesim.results.metrics import METRICS, metric_words
from moesim.results.result import FIELDS

OF_TABLES = {"steady_tok_s"}
"""Metrics that tables of sweeps have beside the fields of a summary."""


def test_every_metric_is_a_field() -> None:
    assert {name.partition(".")[0] for name in METRICS} - OF_TABLES <= set(FIELDS)


def test_axes_and_sentences_say_what_the_table_says() -> None:
    for name, metric in METRICS.items():
        assert axis_name(name) == metric.axis
        assert metric_words(name) == (metric.label, metric.unit)
    assert metric_words("ttft_s.p99") == ("p99 time to first token", "s")


def test_shares_have_no_unit_and_more_of_them_is_better() -> None:
    shares = {name: metric for name, metric in METRICS.items() if metric.share}
    assert set(shares) == {"hit_rate", "decode_hit_rate", "share_of_bound", "slo.attainment"}
    assert all((metric.unit, metric.better) == ("", "highest") for metric in shares.values())
    assert METRICS["makespan_s"].better == METRICS["cost_usd_per_Mtok"].better == "lowest"
