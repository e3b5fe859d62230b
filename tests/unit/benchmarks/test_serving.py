"""The benchmark of serving compares like with like and counts whole requests; nothing here looks at a clock."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))  # benchmarks lie beside the package, not in it

from benchmarks import naive_serving, peers, serving
from benchmarks.tables import text_of


def test_naive_serving_by_hand() -> None:
    requests = [naive_serving.Request(0, 2), naive_serving.Request(5, 1)]
    steps = [naive_serving.StepTimes([(3, [2, 4])], 1), naive_serving.StepTimes([(1, [2])], 2)]
    # the first step lasts from 0 to 10; the second request, which came at 5, joins the next one, from 10 to 15
    assert naive_serving.serve(requests, steps)[0] == [15, 15]


def test_moesim_and_naive_simpy_end_each_request_at_the_same_moment() -> None:
    row = serving.beside_naive(2, output=12)  # asserts it
    assert row["naive_events"] > 300 * row["steps"]


def test_counters_are_of_whole_requests_and_add_up_over_replicas() -> None:
    alone, twice = serving.measure(2, output=9), serving.measure(2, output=9, replicas=2)
    assert alone["output_tokens"] == 2 * 9
    assert alone["layer_visits"] == 32 * alone["steps"]
    assert twice["output_tokens"] == 2 * alone["output_tokens"]
    assert 9 * 2 <= twice["steps"] <= 2 * 2 * 10


def test_a_peer_is_named_with_its_version_and_its_absence_is_said(monkeypatch) -> None:
    naive = {"output_tokens_per_cpu_s": {"kernel": 9, "naive": 3}, "speedup": 3.0}
    row = {"requests": 5, "cpu_s": 1.0, "output_tokens_per_cpu_s": 1280}
    document = {"commit": "0" * 40, "machine": "m", "python": "3.11"}
    monkeypatch.setitem(peers.INSTALLED_BY, "dynamo mocker", "no-such-package")
    assert peers.measure(5) == {}
    assert text_of({**document, "serving": {"naive": naive, "w1": row, "peers": {}}}).endswith(
        "dynamo mocker (no-such-package)"
    )
    there = {"dynamo mocker": {"version": "1.6", "output_tokens_per_cpu_s": 2000}}
    text = text_of({**document, "serving": {"naive": naive, "w1": row, "peers": there}})
    assert text.splitlines()[-1] == "beside dynamo mocker 1.6, which knows no experts: 2,000 tokens/s on w1"


def test_a_peer_serves_every_request() -> None:
    pytest.importorskip("dynamo._core", reason="ai-dynamo-runtime is not installed")
    assert peers.measure(20, output=9)["dynamo mocker"]["output_tokens_per_cpu_s"] > 0  # asserts that all were served
