"""Windows of a long run one behind the other, on a clock without a machine: who is there, who is cut off, what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.contract.steps import StepPlan
from moesim.plugins import find
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.windows import WindowedServing, WindowRows
from moesim.workload.table import Job
from tests.policy_problems import problem

SECOND = 10**12


@pytest.fixture
def serving() -> WindowedServing:
    return windowed()


def windowed(output: tuple[int, ...] = (3, 2, 9, 2), **limits: int) -> WindowedServing:
    """Two windows of 10 s, the second of which counts from 2 s on; request 0 runs already when the first begins."""
    rows = WindowRows(
        window=np.array([0, 0, 0, 1]),
        arrival=np.array([-5.0, 1.0, 9.5, 101.0]),
        produced=np.array([3, 0, 0, 0]),
        request=np.array([7, 8, 9, 40]),
        begin=np.array([0.0, 100.0]),
        counted=np.array([0.0, 102.0]),
        end=np.array([10.0, 110.0]),
    )
    job = Job(np.zeros(4), np.full(4, 4), np.array(output), layers=3, attention=True)
    work = problem(work=job)
    deployment = find("policies", "on_demand")().deploy(work)
    rules = Continuous.model_validate({"max_num_batched_tokens": 16, "max_num_seqs": 4, "asynchronous": False, **limits})
    return WindowedServing(rules, work, deployment, rows, replace(work, job=job))


def played(serving: WindowedServing, step_time: int = SECOND) -> list[tuple[float, list[int], list[int]]]:
    """(s, requests, dropped) of each step, all steps taking the same time."""
    now, steps = 0, []
    while (step := serving.compose(now)) is not None:
        if not isinstance(step, StepPlan):
            now = step
            continue
        steps.append((now / SECOND, step.requests.tolist(), step.dropped.tolist()))
        assert serving.until() > now
        now += step_time
        serving.ended(step, now)
        assert serving.follows() is None
    return steps


def test_a_window_begins_with_who_runs_and_is_cut_at_its_end(serving: WindowedServing) -> None:
    steps = played(serving)
    # request 0 runs from the beginning, 1 comes at 1 s, 2 at 9.5 s and is cut off before its second token
    assert steps[:3] == [(0.0, [0], []), (1.0, [0, 1], []), (2.0, [0, 1], [])]
    assert [requests for _, requests, _ in steps if 2 in requests] == [[2]]
    # the second window follows the first on the clock of the engine: its request comes 1 s after its beginning
    last = [step for step in steps if 3 in step[1]]
    assert [requests for _, requests, _ in last] == [[3], [3]]
    assert last[0][0] >= 11.0
    assert last[0][2] == [2], "who was cut off leaves with the next step"
    assert serving.left.tolist() == [-1, -1, serving.closed[0], -1]
    assert len(serving.began) == len(serving.closed) == 2
    assert serving.closed[0] == serving.began[1]


def test_the_ledger_is_that_of_all_windows(serving: WindowedServing) -> None:
    played(serving)
    ledger = serving.ledger
    assert ledger.arrival[[0, 1]].tolist() == [-5 * SECOND, SECOND]
    assert ledger.arrival[3] == serving.began[1] + SECOND
    assert ledger.finish[2] == -1
    assert (ledger.finish[[0, 1, 3]] > 0).all()
    assert ledger.refused == {}


def test_gaps_count_from_the_moment_from_which_their_window_does(serving: WindowedServing) -> None:
    played(serving)
    assert serving.counted_from(1) == serving.began[1] + 2 * SECOND
    (first, behind), (second, end) = serving.gap_marks
    assert (first, end) == (0, len(serving.ledger.gaps))
    assert behind <= second <= end


def test_a_series_has_the_numbers_that_requests_have_among_all_windows(serving: WindowedServing) -> None:
    now = 0
    while not isinstance(step := serving.compose(now), StepPlan) or 3 not in step.requests:
        now = step if isinstance(step, int) else now + SECOND
        if isinstance(step, StepPlan):
            serving.ended(step, now)
    series = serving.sure(8)
    assert set(series.requests.tolist()) == {3}
    assert series.dropped.tolist() == [2]
    serving.passed([now + SECOND * (place + 1) for place in range(len(series.sizes))])
    assert serving.server.ledger.finish[0] > 0


def test_a_request_that_is_refused_has_its_number_among_all_windows() -> None:
    serving = windowed((3, 2, 9, 9), max_model_len=12)
    played(serving)
    assert serving.ledger.refused.keys() == {2, 3}
    assert serving.left.tolist() == [-1] * 4, "who was refused was not there to be cut off"
