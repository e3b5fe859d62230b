"""Steps timed several in one call are the steps timed one by one, and those of the reference, to the picosecond."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from served_models import MODEL

from moesim.engine import series
from moesim.results.result import Result
from moesim.runs.run import run
from moesim.scheduling.sequence import Sequence
from moesim.scheduling.server import Server

WORKLOAD: dict[str, Any] = {
    "kind": "online",
    "scheduler": {"kind": "continuous", "num_gpu_blocks_override": 600},
    "requests": 10,
    "arrivals": {"kind": "poisson", "rate": "800/s"},
    "prompt": {"kind": "uniform", "minimum": 1, "maximum": 90},
    "output": {"kind": "uniform", "minimum": 1, "maximum": 40},
    "routing": {"kind": "uniform"},
}
TIGHT = {"workload.scheduler.num_gpu_blocks_override": 16, "workload.scheduler.max_num_batched_tokens": 64}
OFFLINE = {"kind": "offline", "requests": 5, "prompt": 40, "output": 9, "routing": {"kind": "uniform"}}
CASES: dict[str, dict[str, Any]] = {
    "asynchronous": {},
    "synchronous": {"workload.scheduler.asynchronous": False},
    "few places": {"workload.scheduler.max_num_seqs": 3},
    "few blocks": {**TIGHT, "workload.scheduler.max_num_seqs": 4},
    "swapped blocks": {
        **TIGHT,
        "workload.scheduler.max_num_seqs": 4,
        "workload.scheduler.swap": {"tier": "ddr", "room": "1 MB"},
    },
    "no prefix cache": {"workload.scheduler.prefix_caching": False, "workload.scheduler.block_size": 2},
    "closed loop": {"workload.arrivals": {"kind": "closed", "users": 3, "think": "1 ms"}},
    "misses": {"policy": "on_demand"},
    "cache": {"policy": {"kind": "lru", "capacity": 4}},
    "windows": {"model.windows": [16, 0, 0]},
    "dense layer first": {"model.moe_layers": [1, 2], "model.dense_width": 4096},
    "no experts": {"model": {**MODEL, "experts": 0, "top_k": 0, "expert_width": 0, "dense_width": 4096}},
    "offline": {"workload": OFFLINE},
    "micro-batches": {"workload": OFFLINE, "policy": {"kind": "on_demand", "micro_batch": 2}},
    "cache offline": {"workload": OFFLINE, "policy": {"kind": "lru", "capacity": 4, "micro_batch": 3}},
    "random cache": {"policy": {"kind": "cache", "capacity": 5}},
}
LONG = {"workload.output": 40, "workload.requests": 16, "workload.arrivals.rate": "150/s"}
"""Requests that overlap with the next ones for many steps."""
MEASURED = ("moved_B", "work_FLOP", "read_B", "roof_B_s", "roof_FLOP_s")
"""Columns of sums whose last digit depends on the order of adding."""


def _run(case: str, **more: Any) -> Result:
    data = {"name": "series", "hardware": "rtx4090-desktop", "model": MODEL, "workload": WORKLOAD, "policy": "gpu_only"}
    return run(data, **{**CASES[case], **more})


def _same(result: Result, second: Result) -> None:
    for table, columns in result.columns.items():
        for column, values in columns.items():
            beside = second.columns[table][column]
            if column in MEASURED or (table == "operations" and column == "time_s"):
                assert values.tolist() == pytest.approx(beside.tolist(), rel=1e-12, nan_ok=True), (table, column)
            else:
                assert np.array_equal(values, beside, equal_nan=values.dtype.kind == "f"), (table, column)
    assert result.summary["events"] == second.summary["events"]
    assert result.summary["bottleneck"] == second.summary["bottleneck"]
    assert result.summary["bound_tok_s"] == pytest.approx(second.summary["bound_tok_s"], rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_steps_of_a_series_are_those_timed_one_by_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    walk = series.SeriesWalk.walk

    def counted(self: series.SeriesWalk, index: int) -> tuple[int, int]:
        steps, tokens = walk(self, index)
        walked.append(steps)
        return steps, tokens

    monkeypatch.setattr(series.SeriesWalk, "walk", counted)
    result = _run(case)
    assert max(walked) > 1
    assert sum(walked) == len(result.columns["steps"]["step"])
    monkeypatch.setattr(series.SeriesWalk, "walk", lambda self, index: (0, 0))
    _same(result, _run(case))


@pytest.mark.parametrize("wrong", [1, 3])
def test_requests_join_a_series_when_they_arrive_as_was_guessed(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    let_join, look_at = Server._let_join, series.SeriesWalk._look_at

    def counted(self: Server, joiner: Sequence, now: int, steps: int) -> None:
        joined.append(joiner.number)
        let_join(self, joiner, now, steps)

    def misled(self: series.SeriesWalk, steps: Any, lasted: Any) -> None:
        look_at(self, steps, lasted)
        self._pace = self._pace._replace(step=self._pace.step * wrong)

    monkeypatch.setattr(Server, "_let_join", counted)
    monkeypatch.setattr(series.SeriesWalk, "_look_at", misled)
    result = _run("asynchronous", **LONG)
    assert len(joined) >= 4 or wrong > 1
    monkeypatch.setattr(series.SeriesWalk, "walk", lambda self, index: (0, 0))
    _same(result, _run("asynchronous", **LONG))


@pytest.mark.parametrize("case", ["asynchronous", "misses", "cache", "micro-batches", "cache offline"])
def test_steps_of_a_series_are_those_of_the_reference(case: str) -> None:
    shorter = {"workload.requests": 5}
    _same(_run(case, **shorter), _run(case, **shorter, **{"simulation.engine": "reference"}))
