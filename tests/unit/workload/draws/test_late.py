"""Routing of sequences that run already: only what they have still to compute is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim.model import load_named
from moesim.streams import Streams
from moesim.workload.draws import on_demand
from moesim.workload.draws.late import begun, drawn_part
from moesim.workload.draws.on_demand import DecodeDraws, RequestDraws
from moesim.workload.routing.profile import Uniform as Unknown
from moesim.workload.routing.zipf import Uniform
from moesim.workload.table import Job

MODEL = load_named("deepseek-v2-lite")
JOB = Job(np.zeros(3), np.array([5, 40, 7]), np.array([4, 3, 2]), MODEL.n_moe)
BEGUN = np.array([0, 39, 0])


def test_what_came_before_is_not_drawn_and_the_rest_keeps_its_places() -> None:
    drawn = drawn_part(JOB, BEGUN)
    assert drawn.prompt.tolist() == [5, 1, 7]
    inner = Uniform().table(drawn, MODEL, Streams(0), Path(), Unknown())
    table = begun(inner, JOB, BEGUN)
    own, last = inner.prompts()[1, 0:1], table.prompts()[1, 39:40]  # type: ignore[misc]
    assert np.array_equal(own, last)
    assert np.array_equal(table.decode, inner.decode)
    assert np.array_equal(table.prefill_counts(np.array([0, 2])), inner.prefill_counts(np.array([0, 2])))
    # a sequence that lost its cache computes all of its prompt again
    counts = table.chunk_counts(np.array([1]), np.array([0]), np.array([40]), np.array([40]))
    assert counts.sum(axis=1).tolist() == [40 * MODEL.top_k] * MODEL.n_moe
    parts = [table.chunk_counts(np.array([1]), np.array([a]), np.array([b]), np.array([40])) for a, b in ((0, 16), (16, 40))]
    assert np.array_equal(sum(parts), counts)


def test_passes_that_every_step_asks_for_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be held, asked for in turn: dropping the least recently used would draw all of them at every step."""
    job = Job(np.zeros(12), np.full(12, 3), np.full(12, 9), MODEL.n_moe)
    monkeypatch.setattr(on_demand, "_HELD", 4 * 8 * MODEL.n_moe * MODEL.top_k)
    draws = RequestDraws(job, Uniform()._law(MODEL.n_moe, MODEL, Streams(0), Path()), Streams(0), "routing")
    drawn: list[int] = []
    draw = draws._draw
    monkeypatch.setattr(draws, "_draw", lambda request: (drawn.append(request), draw(request)))
    table = DecodeDraws(draws)
    for step in range(8):
        table[np.arange(12), np.full(12, step)]
    assert len(drawn) == len(set(drawn)) <= 12
