"""Constraints of an experiment file in the units of their columns, and what is wrong with the others."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.experiment.limits import constraints
from moesim.experiment.spec import Experiment
from moesim.results.sweeps.description import Limit
from moesim.scenario import strict_yaml


def read(text: str) -> tuple[list[Limit], list[str]]:
    root = strict_yaml.parse(f"scenario: s\nconstraints:\n  {text}\n", "f.yaml").root
    limits, mistakes = constraints(Experiment(**root.plain()), root)
    return limits, [str(mistake) for mistake in mistakes]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("ttft_s.p99: {at_most: 250 ms}", ("ttft_s.p99", None, 0.25)),
        ("makespan_s: {at_most: 2 min}", ("makespan_s", None, 120.0)),
        ("machine_usd: {at_most: 20 kUSD}", ("machine_usd", None, 20_000.0)),
        ("power_W: {at_most: 1.5 kW}", ("power_W", None, 1500.0)),
        ("slo.attainment: {at_least: 99 %}", ("slo.attainment", 0.99, None)),
        ("hit_rate: {at_least: 0.5}", ("hit_rate", 0.5, None)),
        ("throughput_tok_s: {at_least: 15, at_most: 20 tok/s}", ("throughput_tok_s", 15.0, 20.0)),
        ("slo.goodput_req_s: {at_least: 3 requests/s}", ("slo.goodput_req_s", 3.0, None)),
        ("requests_completed: {at_least: 7}", ("requests_completed", 7.0, None)),
        ("steady_tok_s: {at_least: 7}", ("steady_tok_s", 7.0, None)),
    ],
)
def test_a_limit_has_the_unit_of_its_column(text: str, limit: tuple[Any, ...]) -> None:
    assert read(text) == ([Limit(*limit)], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thruput_tok_s: {at_least: 1}", "no run has a number 'thruput_tok_s'. Did you mean 'throughput_tok_s'?"),
        ("zzz: {at_least: 1}", "no run has a number 'zzz'."),
        ("throughput_tok_s: {at_least: 15 GB}", "'15 GB' is not in tok/s; write a number, or '15 tok/s'"),
        ("slo.goodput_req_s: {at_least: fast}", "'fast' is not in requests/s; write a number, or '15 requests/s'"),
        ("ttft_s.p99: {at_most: 2}", "'2.0' has no unit; a duration is written like '100 ns'"),
        ("machine_usd: {at_most: 5 EUR}", "'EUR' is not a unit of money (in '5 EUR'). Write it like '1600 USD'."),
        ("hit_rate: {at_least: most}", "'most' is not a share; write a number and a unit, such as '75 %'"),
    ],
)
def test_what_is_not_a_limit_is_reported_at_its_place(text: str, message: str) -> None:
    name = text.partition(":")[0]
    column = 3 + len(name) + 2
    assert read(text) == ([], [f"f.yaml:3:{column}: constraints.{name}: {message}"])


def test_good_limits_are_kept_beside_mistakes_and_all_of_these_are_named() -> None:
    limits, mistakes = read("a: {at_most: 1}\n  makespan_s: {at_most: 1 s}\n  b: {at_most: 1}")
    assert limits == [Limit("makespan_s", None, 1.0)]
    assert [mistake.partition(": ")[0] for mistake in mistakes] == ["f.yaml:3:6", "f.yaml:5:6"]
