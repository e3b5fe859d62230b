"""The trace of real runs, read as the viewer would: every event well-formed, tracks in order, bytes those of the result."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim.errors import InputError
from moesim.results.recorder import COUNTER
from moesim.results.result import Result
from moesim.results.timeline import write_trace
from moesim.runs.run import RunOptions, loaded, run_loaded

SMALL = {"workload.requests": 2, "workload.prompt": 24, "workload.output": 5}
CASES = {
    "cache": ("quickstart", "lru", SMALL),
    "cpu beside the gpu": ("quickstart", "cox_moe", SMALL),
    "prefetch": ("moe_cxl/mixtral-8x7b", "moe_cxl", SMALL),
    "one layer": ("cxl_expert/honest", None, {}),
}
CAUSES = {"demand", "prefetch", "migration", "activation", "kv", "routing", "stall"}


@lru_cache(maxsize=len(CASES))
def run(case: str) -> Result:
    scenario, policy, changes = CASES[case]
    return moesim.run(scenario, policy=policy, timeline=True, **changes)


@lru_cache(maxsize=len(CASES))
def events(case: str, folder: Path) -> list[dict[str, Any]]:
    path = write_trace(run(case), folder / f"{case}.json.gz")
    document = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    return list(document["traceEvents"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.mark.parametrize("case", CASES)
def test_every_event_is_well_formed(case: str, folder: Path) -> None:
    for event in events(case, folder):
        assert event["pid"] == 1
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            assert event["args"]
            continue
        assert isinstance(event["name"], str)
        assert event["name"]
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["tid"], int)
            assert event["dur"] > 0
            assert set(event.get("args", {})) <= {"bytes", "cause"}
            assert event.get("args", {}).get("cause", "demand") in CAUSES
        else:
            assert event["ph"] == "C"
            assert event["args"]
            assert all(isinstance(value, (int, Decimal)) and value >= 0 for value in event["args"].values())


@pytest.mark.parametrize("case", CASES)
def test_tracks_are_named_ordered_and_hold_one_slice_at_a_time(case: str, folder: Path) -> None:
    rows: dict[int, list[tuple[Any, Any]]] = defaultdict(list)
    named = {event["tid"]: event["args"]["name"] for event in events(case, folder) if event["name"] == "thread_name"}
    order = {
        event["tid"]: event["args"]["sort_index"] for event in events(case, folder) if event["name"] == "thread_sort_index"
    }
    for event in events(case, folder):
        if event["ph"] == "X":
            rows[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert set(rows) == set(named) == set(order)
    assert len(set(named.values())) == len(named)
    shown = [named[tid] for tid in sorted(order, key=lambda tid: order[tid])]
    assert shown[:3] == ["pass", "layer", "gpu"]
    assert all(":" in name for name in shown[-2:])
    for spans in rows.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans)))


@pytest.mark.parametrize("case", CASES)
def test_byte_counters_end_at_what_the_result_says(case: str, folder: Path) -> None:
    ends: dict[str, dict[str, Any]] = {}
    for event in events(case, folder):
        if event["ph"] == "C" and event["name"].startswith("bytes over "):
            ends[event["name"].removeprefix("bytes over ")] = event["args"]
    moved = run(case).summary["bytes"]
    assert ends
    assert set(ends) >= {name for name in moved if name in ("pcie:forward", "pcie:reverse") and moved[name]}
    for link, by_cause in ends.items():
        assert float(sum(by_cause.values())) == pytest.approx(moved[link], rel=1e-9)


def test_slices_on_links_carry_the_bytes_of_each_cause(folder: Path) -> None:
    result = run("prefetch")
    sums: dict[str, float] = defaultdict(float)
    for item in result.slices:
        if item.cause not in ("", "stall"):
            sums[item.cause] += item.amount
    moved = {cause: amount for cause, amount in result.details["caused_B"].items() if amount}
    assert {"demand", "prefetch"} <= set(moved)
    assert dict(sums) == pytest.approx(moved)


@pytest.mark.parametrize("case", CASES)
def test_levels_meet_peaks_and_hit_rates(case: str, folder: Path) -> None:
    result = run(case)
    highest: dict[str, float] = {}
    rates = []
    for event in events(case, folder):
        if event["ph"] == "C" and event["name"].startswith("bytes in "):
            tier = event["name"].removeprefix("bytes in ")
            highest[tier] = max(highest.get(tier, 0.0), float(event["args"]["bytes"]))
        if event["ph"] == "C" and event["name"] == "hit rate":
            rates.append(float(event["args"]["share"]))
    assert highest == pytest.approx(result.details["peak_B"])
    expected = result.columns["steps"]["hit_rate"].tolist()
    assert rates == pytest.approx([rate for number, rate in enumerate(expected) if number == 0 or rate != expected[number - 1]])


def test_a_window_keeps_what_touches_it_and_the_levels_before_it() -> None:
    whole = run("cache")
    first, last = 0.4 * whole.summary["makespan_s"], 0.5 * whole.summary["makespan_s"]
    cut = run_loaded(loaded("quickstart", policy="lru", **SMALL), RunOptions(timeline=True, window=f"{first!r} s..{last!r} s"))
    edges = [round(first * 10**12), round(last * 10**12)]
    inside = [
        item for item in whole.slices if not item.track.startswith(COUNTER) and item.start < edges[1] and item.end > edges[0]
    ]
    assert [item for item in cut.slices if not item.track.startswith(COUNTER)] == inside
    assert 0 < len(inside) < len(whole.slices) / 2
    assert cut.summary == {**whole.summary, "wall_s": cut.summary["wall_s"]}
    levels = [item for item in cut.slices if item.track == f"{COUNTER}bytes in hbm"]
    known = [item for item in whole.slices if item.track == f"{COUNTER}bytes in hbm" and item.start <= edges[0]]
    assert (levels[0].start, levels[0].amount) == (edges[0], known[-1].amount)
    assert all(edges[0] <= item.start < edges[1] for item in levels)


@pytest.mark.parametrize("window", ["", "1 s", "2 s..1 s", "1..2", "1 s..2 s..3 s", "1 GB..2 GB"])
def test_a_window_that_makes_no_sense_is_refused(window: str) -> None:
    with pytest.raises(InputError, match=r"write it like|written like|unit"):
        run_loaded(loaded("quickstart"), RunOptions(window=window))
