"""The trace file: well-formed, exact, no two slices at once on a track, every byte there."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.results.recorder import Slice
from moesim.results.result import Result
from moesim.results.timeline import rank, subtracks, trace, write_trace

TRACKS = ("gpu", "cpu", "pcie:forward", "ndp10", "ndp2")
slices = st.lists(
    st.builds(
        lambda track, start, length, amount: Slice(track, "work", start, start + length, amount, "demand"),
        st.sampled_from(TRACKS), st.integers(0, 40), st.integers(1, 20), st.integers(0, 9).map(float),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


def read(packed: bytes) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(packed), parse_float=Decimal)["traceEvents"]


def names(events: list[dict[str, Any]]) -> dict[int, str]:
    return {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}


@settings(deadline=None)
@given(slices)
def test_i5_no_two_slices_share_a_track_and_a_moment(given_slices: list[Slice]) -> None:
    events = read(trace(given_slices, "p"))
    by_track = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            by_track[event["tid"]].append((Decimal(event["ts"]), Decimal(event["ts"]) + Decimal(event["dur"])))
    assert set(by_track) == set(names(events))
    for spans in by_track.values():
        spans.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


@settings(deadline=None)
@given(slices)
def test_every_slice_and_every_byte_is_there(given_slices: list[Slice]) -> None:
    events = read(trace(given_slices, "p"))
    track_of = {thread: name.split(" #")[0] for thread, name in names(events).items()}
    seen = sorted(
        (track_of[event["tid"]], Decimal(event["ts"]) * 10**6, Decimal(event["dur"]) * 10**6, event["args"].get("bytes", 0))
        for event in events if event["ph"] == "X"
    )  # fmt: skip
    assert seen == sorted((item.track, item.start, item.end - item.start, item.amount) for item in given_slices)


def test_no_more_rows_than_slices_at_once() -> None:
    drawn = [Slice("pcie:forward", str(start), start, start + 10) for start in (0, 5, 10, 15, 20)]
    assert {track: [item.name for item in row] for track, row in subtracks(drawn).items()} == {
        "pcie:forward": ["0", "10", "20"], "pcie:forward #2": ["5", "15"]}  # fmt: skip


def test_tracks_are_named_and_in_order() -> None:
    events = read(trace([Slice(track, "work", 0, 1) for track in TRACKS], "moesim p"))
    assert events[0]["args"] == {"name": "moesim p"}
    assert list(names(events).values()) == ["gpu", "cpu", "ndp2", "ndp10", "pcie:forward"]
    assert [event["args"]["sort_index"] for event in events if event["name"] == "thread_sort_index"] == [1, 2, 3, 4, 5]
    assert rank("pcie:forward") > rank("nic")


def test_times_are_exact_to_the_picosecond_after_days() -> None:
    start = 10**12 * 86_400 * 30 + 1
    (event,) = (event for event in read(trace([Slice("gpu", 'a "name"', start, start + 3)], "p")) if event["ph"] == "X")
    assert (event["ts"], event["dur"], event["name"]) == (Decimal("2592000000000.000001"), Decimal("0.000003"), 'a "name"')
    assert "args" not in event


def counters(events: list[dict[str, Any]]) -> list[tuple[str, Any, dict[str, Any]]]:
    return [(event["name"], event["ts"], event["args"]) for event in events if event["ph"] == "C"]


def test_levels_hold_until_the_next() -> None:
    drawn = [Slice("counter:bytes in hbm", "", 2 * 10**6, 2 * 10**6, 7.0), Slice("counter:bytes in hbm", "", 0, 0, 4.0)]
    events = read(trace([*drawn, Slice("counter:hit rate", "", 3 * 10**6, 3 * 10**6, 0.5)], "p"))
    half = ("hit rate", 3, {"share": Decimal("0.5")})
    assert counters(events) == [("bytes in hbm", 0, {"bytes": 4}), ("bytes in hbm", 2, {"bytes": 7}), half]
    assert not names(events)


def test_links_count_their_bytes_by_cause_as_transfers_end() -> None:
    drawn = [
        Slice("pcie:forward", "b", 5 * 10**6, 9 * 10**6, 2.0, "prefetch"),
        Slice("pcie:forward", "a", 10**6, 5 * 10**6, 3.0, "demand"),
        Slice("cpu", "reads", 0, 10**6, 8.0),
    ]
    assert counters(read(trace(drawn, "p"))) == [
        ("bytes over pcie:forward", 1, {"demand": 0, "prefetch": 0}),
        ("bytes over pcie:forward", 5, {"demand": 3, "prefetch": 0}),
        ("bytes over pcie:forward", 9, {"demand": 3, "prefetch": 2}),
    ]


def test_equal_slices_give_equal_bytes_without_a_date() -> None:
    drawn = [Slice("gpu", "work", 0, 5), Slice("cpu", "work", 0, 5)]
    packed = trace(drawn, "p")
    assert packed == trace(drawn, "p")
    assert packed[4:8] == bytes(4)


def test_a_run_without_a_timeline_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run it with a trace"):
        write_trace(Result({"policy": "p"}, {}), tmp_path / "trace.json.gz")
    assert list(tmp_path.iterdir()) == []


def test_the_process_is_named_after_the_policy(tmp_path: Path) -> None:
    path = write_trace(Result({"policy": "lru"}, {}, slices=[Slice("gpu", "work", 0, 5)]), tmp_path / "trace.json.gz")
    assert read(path.read_bytes())[0]["args"]["name"] == "moesim lru"
