"""Short draws that one process asks for again are not drawn again, and nobody can write to what is remembered."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.streams import Streams
from moesim.workload.draws import job as draws
from moesim.workload.draws.laws import IndependentLaw
from moesim.workload.table import Job


@pytest.fixture
def counted(monkeypatch):
    """Calls of numpy's walk, none of which has been made before."""
    calls: list[Job] = []
    monkeypatch.setattr(draws, "_latest", {})
    monkeypatch.setattr(draws, "walk", lambda job, *rest, walk=draws.walk: calls.append(job) or walk(job, *rest))
    monkeypatch.setattr(draws.jit, "repaid", lambda *_: False)
    return calls


def law() -> IndependentLaw:
    return IndependentLaw(np.full((2, 8), 1 / 8), 2)


def job(prompt: int) -> Job:
    return Job(np.zeros(2), np.array([prompt, 4]), np.array([3, 2]), 2)


def test_the_same_draw_is_made_once_and_another_seed_or_job_draws_anew(counted):
    first, again = (draws.draw_job(job(5), law(), Streams(1), "routing") for _ in range(2))
    assert len(counted) == 1
    assert all(a is b for a, b in zip(first, again, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        first.decode[0, 0] = 1
    draws.draw_job(job(5), law(), Streams(2), "routing")
    draws.draw_job(job(6), law(), Streams(1), "routing")
    assert len(counted) == 3


def test_nothing_is_remembered_without_a_cache_nor_what_is_large_nor_more_than_the_latest(counted, monkeypatch):
    monkeypatch.setenv("MOESIM_NO_CACHE", "1")
    draws.draw_job(job(5), law(), Streams(1), "routing")
    assert not draws._latest
    monkeypatch.delenv("MOESIM_NO_CACHE")
    for seed in range(draws._REMEMBERED + 3):
        draws.draw_job(job(5), law(), Streams(seed), "routing")
    assert len(draws._latest) == draws._REMEMBERED
    monkeypatch.setattr(draws, "_LARGEST", 0)
    before = list(draws._latest)
    draws.draw_job(job(7), law(), Streams(1), "routing")
    assert list(draws._latest) == before
