"""Constraints of an experiment: the largest rate under a service level, searched at every setting without numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.experiment.optimum import optimize
from moesim.experiment.plan import plan
from moesim.results.sweeps.constraints import constraint_words, missed
from moesim.results.sweeps.description import Limit

MODEL: dict[str, Any] = {
    "name": "tiny", "hidden": 512, "layers": 2, "experts": 8, "top_k": 2, "expert_width": 1024, "vocab": 32000,
    "attention": {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 64},
}  # fmt: skip
SCENARIO: dict[str, Any] = {
    "hardware": "rtx4090-desktop",
    "model": MODEL,
    "policy": "on_demand",
    "workload": {
        "kind": "online", "requests": 16, "arrivals": {"kind": "poisson", "rate": "1/s"}, "prompt": 64, "output": 8,
        "routing": {"kind": "uniform"}, "scheduler": {"kind": "continuous", "max_num_seqs": 2, "max_num_batched_tokens": 64},
        "slo": {"ttft": "60 ms"},
    },
}  # fmt: skip
RATE = "workload.arrivals.rate (/s)"
LARGEST: dict[str, Any] = {
    "axes": {
        "workload.arrivals.rate": ["4/s", "1000/s"],
    },
    "metric": "workload.arrivals.rate",
    "constraints": {"slo.attainment": {"at_least": "95 %"}},
    "bound": False,
}


def experiment(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(json.dumps({"name": "base", **SCENARIO}))
    data = {**LARGEST, **changes}
    path = folder / "largest.yaml"
    path.write_text(json.dumps({**data, "scenario": {"extends": "base.yaml"}}))
    return path


def test_the_largest_rate_that_keeps_the_limit_is_found_between_two_rates(tmp_path: Path) -> None:
    axes = {"workload.arrivals.rate": ["4/s", "1000/s"], "workload.scheduler.max_num_seqs": {"kind": "list", "values": [2, 4],
            "labels": ["two", "four"]}}  # fmt: skip
    optimum = optimize(experiment(tmp_path, axes=axes), rounds=3, jobs=1)
    rates, attainment = optimum.columns[RATE], optimum.columns["slo.attainment"]
    optima = optimum.answer.optimum
    assert sorted(best.settings["workload.scheduler.max_num_seqs"] for best in optima) == ["four", "two"]
    for best in optima:
        ends = best.between[RATE]
        own = optimum.columns["workload.scheduler.max_num_seqs"] == best.settings["workload.scheduler.max_num_seqs"]
        assert best.mean == max(rates[own & (attainment >= 0.95)])
        assert ends.high == min(rates[own & (attainment < 0.95)])
        assert ends.low <= best.mean < ends.high
        assert best.runs == 2 + 3
    assert optima[0].mean >= optima[1].mean
    assert "that keeps share of requests within their limits at least 95 %" in optimum.answer.sentences[0]


def test_what_no_setting_keeps_is_said(tmp_path: Path) -> None:
    axes = {"workload.arrivals.rate": ["4/s", "8/s"]}
    optimum = optimize(experiment(tmp_path, axes=axes, constraints={"ttft_s.p99": {"at_most": "1 us"}}), rounds=2, jobs=1)
    assert optimum.answer.optimum == ()
    (group,) = optimum.answer.out_of_reach
    assert (group.missed, group.runs) == (("p99 time to first token at most 1 us",), 2)
    assert optimum.answer.best is None
    assert "none of 2 settings that keeps p99 time to first token at most 1 us" in optimum.answer.sentences[0]


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"ttft_s.p99": {"at_most": 2}}, "has no unit; a duration is written like"),
        ({"tftt_s": {"at_most": "2 s"}}, "no run has a number 'tftt_s'"),
        ({"machine_usd": {"at_most": "2 s"}}, "'s' is not a unit of money"),
        ({"throughput_tok_s": {"at_least": "2 s"}}, "'2 s' is not in tok/s; write a number, or '15 tok/s'"),
        ({"slo.attainment": {}}, "give at_least, at_most or both"),
    ],
)
def test_mistakes_in_constraints_are_named(tmp_path: Path, constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(experiment(tmp_path, constraints=constraints))
    assert message in str(caught.value)


@pytest.mark.parametrize("limit", [15, "15 tok/s"])
def test_a_throughput_is_asked_for_in_tokens_per_second(tmp_path: Path, limit: Any) -> None:
    (limited,) = plan(experiment(tmp_path, constraints={"throughput_tok_s": {"at_least": limit}})).description.constraints
    assert limited == Limit("throughput_tok_s", at_least=15.0, at_most=None)
    assert constraint_words(limited) == "throughput at least 15 tok/s"


def test_a_number_that_is_not_known_keeps_no_limit() -> None:
    limit = Limit("machine_usd", at_least=None, at_most=5.0)
    rows = [{"status": "done", "machine_usd": value} for value in (4.0, 5.5)]
    assert missed([limit], rows) == ()
    assert missed([limit], [*rows, {"status": "done", "machine_usd": None}]) == ("price of the machine at most 5 USD",)
    assert missed([limit], [*rows, {"status": "done", "machine_usd": 9.0}]) == ("price of the machine at most 5 USD",)
    assert constraint_words(Limit("m", at_least=1, at_most=2.5)) == "m at least 1 and at most 2.5"
