"""What windows of a sampled run counted, and what the functional model says of the same windows, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.runs import estimates as module
from moesim.runs.estimates import Counted, counted, estimates, modelled
from moesim.scheduling.fluid import Fluid, Snapshot
from moesim.scheduling.windows import WindowRows

SECOND = 10**12
ROWS = WindowRows(
    window=np.array([0, 0, 1, 1]),
    arrival=np.array([1.0, 4.0, 18.0, 23.0]),
    produced=np.array([2, 0, 0, 0]),
    request=np.array([0, 1, 5, 7]),
    begin=np.array([2.0, 20.0]),
    counted=np.array([3.0, 22.0]),
    end=np.array([8.0, 28.0]),
)


def windows(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Windows of 5 and 6 s that count from 3 and 22 s on; request 0 runs already, request 2 waited 2 s before its window."""
    stamps = {"arrival": [1, 4, 18, 23], "first_token": [-1, 5, 21, 25], "finish": [7, -1, 26, -1]}
    scheduler: Any = SimpleNamespace(
        ledger=SimpleNamespace(**{name: np.array(times) * SECOND for name, times in stamps.items()}),
        counted_from=lambda window: (3, 22)[window] * SECOND,
        closed=[8 * SECOND, 28 * SECOND],
    )
    rows = [np.array([[SECOND, 2], [SECOND // 2, 4]]), np.array([[2 * SECOND, 3]])]
    monkeypatch.setattr(module, "counted_gaps", lambda scheduler: rows)
    return counted(scheduler, ROWS)


def test_windows_count_what_comes_out_after_they_begin_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = windows(monkeypatch)
    assert seen.first.tolist() == [False, True, False, True], "request 0 had its first token before, request 2 too early"
    assert seen.finish.tolist() == [True, False, True, False]
    assert np.array_equal(seen.ttft, [np.nan, 1.0, np.nan, 2.0], equal_nan=True)
    assert seen.waited.tolist() == [1.0, 0.0, 2.0, 0.0]
    assert (seen.gap_time.tolist(), seen.gaps.tolist(), seen.seconds.tolist()) == ([4.0, 6.0], [6.0, 3.0], [5.0, 6.0])
    assert seen.tokens.tolist() == [7.0, 4.0]


def test_the_model_is_read_at_the_moments_of_the_windows_and_over_the_whole_run() -> None:
    snapshots = [Snapshot([], [], spent, tokens) for spent, tokens in ((1.0, 2.0), (4.0, 9.0), (5.0, 12.0), (11.0, 20.0))]
    first = np.array([2.0, 4.5, 0.0, 0.0, 0.0, 19.0, 0.0, 24.0])
    fluid = Fluid(first, np.full(8, 30.0), snapshots, 60.0, 150.0)
    job: Any = SimpleNamespace(arrival=np.zeros(8))
    model = modelled(fluid, ROWS, job, (np.array([0, 2]), np.array([1, 3])))
    assert model.ttft.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert (model.spent.tolist(), model.tokens.tolist(), model.seconds.tolist()) == ([3.0, 6.0], [7.0, 8.0], [5.0, 6.0])
    assert (model.whole_gap, model.whole_rate) == (pytest.approx(0.4), pytest.approx(5.0))
    assert model.whole_ttft == pytest.approx(first.mean())


def agreeing(waited: float = 0.0) -> dict[str, Any]:
    """Twenty windows that agree with the model: 2 s to the first token, 0.5 s between tokens, 4 tokens a second."""
    number = 20
    requests = np.arange(2 * number)
    seen = Counted(
        first=np.ones(2 * number, dtype=np.bool_), finish=np.ones(2 * number, dtype=np.bool_), ttft=np.full(2 * number, 2.0),
        waited=np.full(2 * number, waited), window=requests // 2, gap_time=np.full(number, 9.0), gaps=np.full(number, 18.0),
        seconds=np.full(number, 5.0),
    )  # fmt: skip
    model = module.Modelled(
        np.full(2 * number, 2.0), np.full(number, 9.0), np.full(number, 18.0), np.full(number, 4.5), 2.0, 0.5, 4.0
    )
    return estimates(seen, model, further=10.0)


def test_windows_that_agree_with_the_model_say_what_it_says_of_the_whole_run() -> None:
    intervals = agreeing()
    assert (intervals["ttft_s"].mean, intervals["itl_s"].mean) == (pytest.approx(2.0), pytest.approx(0.5))
    assert intervals["throughput_tok_s"].mean == pytest.approx(4.0)
    assert intervals["e2e_s"].mean == pytest.approx(2.0 + 10 * 0.5)


def test_what_requests_waited_before_their_window_is_uncertain_in_full() -> None:
    plain, wide = agreeing(), agreeing(waited=0.75)
    assert (wide["ttft_s"].low, wide["ttft_s"].high) == (
        pytest.approx(plain["ttft_s"].low - 0.75), pytest.approx(plain["ttft_s"].high + 0.75),
    )  # fmt: skip
    assert wide["ttft_s"].mean == plain["ttft_s"].mean
    assert wide["e2e_s"].half_width == pytest.approx(wide["ttft_s"].half_width + 10 * wide["itl_s"].half_width)
