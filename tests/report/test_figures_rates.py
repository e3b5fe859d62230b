"""Latency and goodput over the rate of arrivals, from tables that are written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.report import figures
from moesim.report.figures_rates import rate_of

TABLE: dict[str, Any] = {
    "workload.arrivals.rate (/s)": [4.0, 1.0, 2.0, 1.0],
    "policy": ["lru", "lru", "lru", "fiddler"],
    "ttft_s.p50": [3.0, 0.1, 0.2, 0.3],
    "ttft_s.p99": [9.0, 0.2, 0.4, 0.5],
    "slo.ttft_s": [1.0] * 4,
    "slo.goodput_req_s": [0.5, 1.0, 1.9, 0.9],
}


def test_lines_rise_with_the_rate_and_goodput_stands_beside_what_arrives() -> None:
    upper, lower = figures.rate_latency(TABLE).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in upper.lines}
    assert drawn["lru, p99"] == ([1, 2, 4], [0.2, 0.4, 9])
    assert drawn["fiddler, p50"] == ([1], [0.3])
    assert drawn["limit"][1] == [1, 1]
    assert [list(line.get_ydata()) for line in lower.lines] == [[1, 1.9, 0.5], [0.9], [0, 4]]


def test_without_limits_goodput_is_missing() -> None:
    bare = {name: values for name, values in TABLE.items() if not name.startswith("slo")}
    assert len(figures.rate_latency(bare).axes) == 1


def test_other_tables_are_refused() -> None:
    assert rate_of({**TABLE, "workload.arrivals.rate (/s)": [1.0] * 4}) is None
    with pytest.raises(InputError, match=r"not one of a sweep over workload\.arrivals\.rate"):
        figures.rate_latency({"policy": ["lru"], "ttft_s.p99": [1.0]})
    several = {**TABLE, "policy": list("abcd")}
    assert len(figures.rate_latency(several).axes) == 2
    five = {name: [*values, values[0]] for name, values in several.items()} | {"policy": list("abcde")}
    with pytest.raises(InputError, match="5 values of policy are more than the 4 lines"):
        figures.rate_latency(five)
