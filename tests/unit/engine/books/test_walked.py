"""Steps that were walked many at once, entered into the record as if each had been entered when it ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.contract import Series
from moesim.engine.books import walked
from moesim.engine.books.walked import Walked, WalkedSteps
from moesim.engine.kernel import kernel as k
from moesim.results.recorder import LayerSums, Recorder
from moesim.workload.table import Job

JOB = Job(np.zeros(2), np.array([3, 2]), np.array([3, 2]), layers=1)


def recorder() -> Recorder:
    return Recorder(LayerSums.zeros(1), JOB.requests, 1)


def named(busy: Any) -> dict[str, Any]:
    return dict(zip(("gpu", "up"), busy, strict=False))


def stretch(begin: int, ends: list[int], rows: list[list[tuple[int, int, int]]], laps: list[list[int]]) -> Walked:
    """Steps of (request, new tokens, tokens before) that end at `ends`, and have done so much on each lane by then."""
    flat = [row for step in rows for row in step]
    requests, new, before = (np.array(column) for column in zip(*flat, strict=True))
    sizes = np.array([len(step) for step in rows])
    yields = before + new >= JOB.prompt[requests]
    of = np.repeat(np.arange(len(rows)), sizes)
    series = Series(sizes, requests, new, before, yields, np.zeros(0, dtype=np.int64))
    done = np.zeros((len(rows), k.STEP_WIDTH), dtype=np.int64)
    done[:, k.STEP_END] = ends
    done[:, k.STEP_ACTIVATIONS], done[:, k.STEP_HITS], done[:, k.STEP_UPLOADS] = 10, np.arange(len(rows)), 4
    decodes = np.bincount(of, weights=before >= JOB.prompt[requests]) == sizes
    return Walked(series, of, np.bincount(of, weights=new).astype(int), decodes, begin, done, np.array(laps))


FIRST = stretch(5, [20, 30], [[(0, 3, 0), (1, 2, 0)], [(0, 1, 3), (1, 1, 2)]], [[12, 3], [20, 3]])
SECOND = stretch(40, [47], [[(0, 1, 4)]], [[26, 3]])


def test_a_step_begins_where_the_one_before_has_ended() -> None:
    assert FIRST.starts.tolist() == [5, 20]
    assert SECOND.starts.tolist() == [40]


def test_steps_become_passes_and_stamp_the_first_and_the_last_token_of_their_requests() -> None:
    record = recorder()
    steps = WalkedSteps(record, JOB, named)
    steps.add(FIRST)
    steps.add(SECOND)
    assert len(record.passes) == 0, "kept until they are asked for"
    steps.enter()
    rows = list(record.passes)
    assert [(row.index, row.phase, row.start, row.end, row.sequences, row.tokens) for row in rows] == [
        (0, "prefill", 5, 20, 2, 5), (1, "decode", 20, 30, 2, 2), (2, "decode", 40, 47, 1, 1),
    ]  # fmt: skip
    assert [(row.activations, row.hits, row.uploads) for row in rows] == [(10, 0, 4), (10, 1, 4), (10, 0, 4)]
    assert (record.first_token.tolist(), record.finish.tolist()) == ([20, 20], [47, 30])
    steps.enter()
    assert len(record.passes) == 3, "entered once"


def test_passes_that_were_entered_before_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walked, "_MOST", 2)
    record = recorder()
    steps = WalkedSteps(record, JOB, named)
    steps.add(SECOND)
    assert len(record.passes) == 0
    steps.add(FIRST)
    assert [row.index for row in record.passes] == [0, 1, 2], "three are more than two"
    steps.add(FIRST)
    steps.enter()
    assert [row.index for row in record.passes] == [0, 1, 2, 3, 4]
