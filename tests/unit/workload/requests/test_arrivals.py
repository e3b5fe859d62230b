"""Arrivals: laws keep their rates and shapes, recorded rows are read as they stand, and mistakes are named by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.requests.arrival_trace import TraceArrivals
from moesim.workload.requests.arrivals import AnyArrivals, timed

MANY = 40_000


def gaps(arrivals: dict[str, Any], requests: int = MANY, seed: int = 1) -> Any:
    law = TypeAdapter(AnyArrivals).validate_python(arrivals)
    return np.diff(timed(law, requests, Streams(seed)).arrival, prepend=0.0)


@pytest.mark.parametrize(
    ("law", "variation"),
    [
        ({"kind": "poisson"}, 1.0),
        ({"kind": "gamma", "burstiness": 0.25}, 2.0),
        ({"kind": "gamma", "burstiness": 4.0}, 0.5),
        ({"kind": "weibull", "shape": 0.5}, np.sqrt(5.0)),  # sqrt(G(1 + 2/k) / G(1 + 1/k)^2 - 1) = sqrt(24/4 - 1)
    ],
)
def test_gaps_have_the_mean_and_the_variation_of_their_law(law: dict[str, Any], variation: float) -> None:
    drawn = gaps({**law, "rate": "4/s"})
    assert drawn.mean() == pytest.approx(0.25, rel=4 * variation / np.sqrt(MANY))
    assert drawn.std() / drawn.mean() == pytest.approx(variation, rel=0.06)


def test_constant_gaps_begin_at_zero() -> None:
    assert np.cumsum(gaps({"kind": "constant", "rate": "4/s"}, 3)).tolist() == [0.0, 0.25, 0.5]


def test_rescaled_gaps_end_when_the_rate_says() -> None:
    assert gaps({"kind": "gamma", "burstiness": 0.5, "rate": "4/s", "rescaled": True}, 100).sum() == pytest.approx(25.0)


def test_bursts_have_both_rates() -> None:
    times = np.cumsum(gaps({"kind": "bursts", "rate": "1/s", "burst": "9/s", "every": "10 s", "lasting": "2 s"}))
    inside = times % 10.0 < 2.0
    assert inside.mean() == pytest.approx(18 / 26, abs=0.02)
    assert MANY / times[-1] == pytest.approx(2.6, rel=0.02)


@pytest.mark.parametrize(("start", "end"), [("1/s", "5/s"), ("5/s", "1/s"), ("3/s", "3/s")])
def test_a_ramp_goes_from_one_rate_to_the_other(start: str, end: str) -> None:
    times = np.cumsum(gaps({"kind": "ramp", "start": start, "end": end, "lasting": "1000 s"}))
    first, last = float(start[0]), float(end[0])
    for low, high, rate in (
        (0, 100, first + (last - first) * 0.05),
        (900, 1000, last - (last - first) * 0.05),
        (2000, 3000, last),
    ):
        count = np.count_nonzero((times >= low) & (times < high))
        assert count == pytest.approx(rate * (high - low), abs=4 * np.sqrt(rate * (high - low)))


def test_a_longer_job_begins_like_a_shorter_one_and_seeds_differ() -> None:
    law = {"kind": "poisson", "rate": "2/s"}
    assert gaps(law, 100)[:10].tolist() == gaps(law, 10).tolist()
    assert gaps(law, 10, seed=2).tolist() != gaps(law, 10).tolist()


def test_users_of_a_closed_loop_wait_for_each_other() -> None:
    law = TypeAdapter(AnyArrivals).validate_python({"kind": "closed", "users": 2, "think": "3 s"})
    times = timed(law, 5, Streams(0))
    assert np.nan_to_num(times.arrival, nan=-1).tolist() == [0, 0, -1, -1, -1]
    assert times.think is not None
    assert times.think.tolist() == [3.0] * 5


ROWS = "arrival_s,prompt_tokens,output_tokens\n0.5,10,1\n1.5,20,2\n1.5,30,3\n4.5,40,4\n"


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "trace.csv").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "requests", "arrival", "prompt"),
    [
        ({}, None, [0, 1, 1, 4], [10, 20, 30, 40]),
        ({}, 2, [0, 1], [10, 20]),
        ({"start": "1 s", "end": "4 s"}, None, [0, 0], [20, 30]),
        ({"rate": "3/s"}, None, [0, 0.25, 0.25, 1.0], [10, 20, 30, 40]),
    ],
)
def test_rows_are_read_from_a_window_at_a_rate(
    changes: dict[str, Any], requests: int | None, arrival: list[float], prompt: list[int], tmp_path: Path
) -> None:
    trace = TraceArrivals.model_validate({"path": "trace.csv", **changes}, context={"units": "required"})
    rows = trace.rows(requests, Streams(0), written(tmp_path, ROWS))
    assert rows.arrival.tolist() == arrival
    assert rows.prompt.tolist() == prompt
    assert rows.shared is None


def test_equal_times_are_spread_over_the_grid_of_the_clock(tmp_path: Path) -> None:
    rows = TraceArrivals(path="trace.csv", spread=1.0).rows(None, Streams(0), written(tmp_path, ROWS))
    assert (np.diff(rows.arrival) > 0).all()
    assert rows.arrival[-1] < 5.0


BAD = "arrival_s,prompt_tokens,output_tokens\n0,10,1\n1,0,2\n2,5,-1\n1.5,6,1\n3,nan,1\n-1,4,1\n4,8,2.5\n5,9\n6,7,3\n"


def test_bad_rows_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        TraceArrivals(path="trace.csv").rows(
            None, Streams(0), written(tmp_path, BAD.replace("nan", "11").replace("5,9\n", "5,9,1\n"))
        )
    mistakes = {(mistake.line, mistake.message.partition(" ")[0]) for mistake in caught.value.mistakes}
    assert mistakes == {(7, "arrival_s"), (3, "prompt_tokens"), (4, "output_tokens"), (5, "arrival_s")}
    with pytest.raises(InputError, match="output_tokens 1e\\+12 is not a number of tokens"):
        TraceArrivals(path="trace.csv").rows(None, Streams(0), written(tmp_path, f"{ROWS}9,5,1000000000000\n"))
    with pytest.raises(InputError, match="'nan' is not a number"):
        TraceArrivals(path="trace.csv").rows(None, Streams(0), written(tmp_path, BAD))


def test_bad_rows_are_left_out_and_counted_where_asked_for(tmp_path: Path) -> None:
    rows = TraceArrivals(path="trace.csv", bad_rows="drop").rows(None, Streams(0), written(tmp_path, BAD))
    assert rows.prompt.tolist() == [10, 6, 7]
    assert rows.notes == ("6 rows of trace.csv left out, as bad_rows asks",)


def test_prompts_that_begin_alike_are_chained(tmp_path: Path) -> None:
    header = "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_infinite_cache,prefix_row\n"
    text = header + "0,900,1,0,-1\n1,1500,1,512,0\n2,2000,1,1024,1\n3,600,1,0,-1\n4,1200,1,512,2\n"
    trace = written(tmp_path, text)
    rows = TraceArrivals(path="trace.csv").rows(None, Streams(0), trace)
    assert rows.shared == [(), ((512, 0),), ((1024, 1), (512, 0)), (), ((512, 2), (512, 1), (512, 0))]
    later = TraceArrivals(path="trace.csv", start=1.5).rows(None, Streams(0), trace)
    assert later.shared == [((1024, -3), (512, -2)), (), ((512, 0), (512, -3), (512, -2))]


@pytest.mark.parametrize(
    ("changes", "requests", "message"),
    [
        ({}, 5, "5 requests asked for; the window of trace.csv has 4"),
        ({"start": "9 s"}, None, "no request of trace.csv arrives in this window"),
    ],
)
def test_a_window_that_holds_too_little_is_refused(
    changes: dict[str, Any], requests: int | None, message: str, tmp_path: Path
) -> None:
    trace = TraceArrivals.model_validate({"path": "trace.csv", **changes}, context={"units": "required"})
    with pytest.raises(InputError, match=message):
        trace.rows(requests, Streams(0), written(tmp_path, ROWS))


def test_a_record_of_several_times_is_sorted_by_the_one_that_counts(tmp_path: Path) -> None:
    rows = "sent,arrival_s,prompt_tokens,output_tokens,priority\n2.5,3,8,1,0\n-1,3,9,2,4\n"
    (tmp_path / "run.csv").write_text(rows)
    taken = TraceArrivals(path="run.csv", time="sent").rows(None, Streams(0), tmp_path)
    assert taken.arrival.tolist() == [0.0, 3.5]
    assert taken.prompt.tolist() == [9, 8]
    assert taken.priority is not None
    assert taken.priority.tolist() == [4, 0]


def test_priorities_and_times_that_cannot_be_are_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text("arrival_s,prompt_tokens,output_tokens,priority\n0,8,1,0.5\n1,8,1,-2\n-3,8,1,1\n")
    with pytest.raises(InputError) as caught:
        TraceArrivals(path="run.csv").rows(None, Streams(0), tmp_path)
    assert [mistake.line for mistake in caught.value.mistakes] == [4, 2]
    dropped = TraceArrivals(path="run.csv", bad_rows="drop").rows(None, Streams(0), tmp_path)
    assert dropped.arrival.tolist() == [0.0]
    assert dropped.notes == ("2 rows of run.csv left out, as bad_rows asks",)
