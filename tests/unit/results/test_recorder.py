"""What a run writes down: sums of moves, phases of the critical path, levels and slices within a window."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.recorder import COUNTER, LayerSums, Recorder, Slice


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(LayerSums.zeros(2), 3, experts=4, keep_slices=True)


def test_a_new_record_knows_how_many_requests_layers_and_experts_there_are(recorder: Recorder) -> None:
    assert recorder.first_token.tolist() == recorder.finish.tolist() == [-1, -1, -1]
    assert recorder.breakdown.tokens.shape == (2, 4)
    sums = recorder.layers
    assert [sums.visits.tolist(), sums.time.tolist(), sums.uploads.tolist()] == [[0, 0]] * 3
    sums.visits[0] = 7
    assert sums.time[0] == 0  # no two sums share an array


def test_moves_add_up_by_resource_and_by_cause(recorder: Recorder) -> None:
    recorder.count_moves({"pcie:forward": 10.0, "ddr:read": 12.0}, 10.0, "demand", number=3)
    recorder.count_moves({"ddr:read": 5.0}, 5.0, "prefetch")
    recorder.count_moves({"ddr:read": 1.0}, 1.0, "demand", number=0)
    assert recorder.moved == {"pcie:forward": 30.0, "ddr:read": 41.0}
    assert recorder.caused == {"demand": 30.0, "prefetch": 5.0}


def test_each_phase_gets_what_became_critical_since_the_last_one_ended(recorder: Recorder) -> None:
    recorder.critical = {"gpu": 10}
    recorder.close_phase("prefill")
    recorder.critical = {"gpu": 12, "pcie": 5}
    recorder.close_phase("decode")
    recorder.critical = {"gpu": 112, "pcie": 5}
    recorder.close_phase(None)  # waiting for requests
    recorder.critical = {"gpu": 115, "pcie": 9}
    recorder.close_phase("decode")
    assert recorder.critical_by_phase == {"prefill": {"gpu": 10}, "decode": {"gpu": 2 + 3, "pcie": 5 + 4}}


def test_lanes_that_never_worked_are_dropped(recorder: Recorder) -> None:
    recorder.busy, recorder.critical = {"gpu": 3, "ndp": 0}, {"gpu": 3, "cpu": 0}
    recorder.drop_idle_lanes()
    assert (recorder.busy, recorder.critical) == ({"gpu": 3}, {"gpu": 3})


@pytest.mark.parametrize(
    ("start", "end", "stays"),
    [
        (0, 100, True),  # over the whole window
        (0, 10, False),  # ends where the window begins
        (0, 11, True),
        (20, 30, False),  # begins where it ends
        (19, 30, True),
        (12, 12, False),  # empty
    ],
)
def test_slices_that_touch_the_window_are_kept_whole(recorder: Recorder, start: int, end: int, stays: bool) -> None:
    recorder.window = (10, 20)
    recorder.slice("gpu", "attention", start, end, 5.0, "demand")
    assert recorder.slices == ([Slice("gpu", "attention", start, end, 5.0, "demand")] if stays else [])


def levels(recorder: Recorder, *steps: tuple[int, float]) -> list[tuple[int, float]]:
    for time, amount in steps:
        recorder.level("hbm", time, amount)
    return [(entry.start, entry.amount) for entry in recorder.slices]


def test_a_level_is_noted_where_it_changes(recorder: Recorder) -> None:
    assert levels(recorder, (0, 1.0), (5, 1.0), (9, 2.0), (9, 3.0), (12, 3.0)) == [(0, 1.0), (9, 3.0)]
    assert {entry.track for entry in recorder.slices} == {f"{COUNTER}hbm"}


def test_before_the_window_the_last_level_counts_and_behind_it_none(recorder: Recorder) -> None:
    recorder.window = (10, 20)
    assert levels(recorder, (0, 1.0), (4, 2.0), (12, 3.0), (20, 4.0)) == [(10, 2.0), (12, 3.0)]


def test_each_resource_has_levels_of_its_own(recorder: Recorder) -> None:
    for resource, amount in (("hbm", 1.0), ("ddr", 1.0), ("hbm", 2.0)):
        recorder.level(resource, 0, amount)
    assert [(entry.track, entry.amount) for entry in recorder.slices] == [(f"{COUNTER}hbm", 2.0), (f"{COUNTER}ddr", 1.0)]


def test_without_a_timeline_nothing_is_kept() -> None:
    recorder: Any = Recorder(LayerSums.zeros(1), 1)
    recorder.slice("gpu", "attention", 0, 5)
    recorder.level("hbm", 0, 1.0)
    assert recorder.slices == []
