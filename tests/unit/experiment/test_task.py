"""A point as a job: what is kept of its run, and that whatever happens in it becomes a record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError, Mistake, PolicyError
from moesim.experiment import task
from moesim.experiment.task import Task, failed


def result_of_four_passes() -> Any:
    table = {
        "phase": np.array(["prefill", "decode", "decode", "decode"], dtype=object),
        "step_time_s": np.array([9.0, 4.0, 1.0, 1.0]), "tokens": np.array([100, 8, 8, 8]),
    }  # fmt: skip
    summary = {"scenario": "s", "policy": "lru", "throughput_tok_s": 5.0, "wall_s": 0.1, "bottleneck": {"lane": "gpu"}}
    return SimpleNamespace(summary=summary, columns={"steps": table}, notes=["a note"])


def run(monkeypatch: pytest.MonkeyPatch, outcome: Any, warm_up: int | str = 1) -> dict[str, Any]:
    """The record of a point whose run ends so."""

    def run_loaded(_scenario: Any, options: Any) -> Any:
        assert options.bound is False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(task, "built", lambda loaded, build: (loaded, build))
    monkeypatch.setattr(task, "run_loaded", run_loaded)
    scenario: Any = SimpleNamespace()
    return Task("0" * 32, scenario, Path(), "build", warm_up, bound=False).run()


def test_a_run_leaves_its_numbers_without_names_and_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(monkeypatch, result_of_four_passes())
    assert (record["status"], record["error"], record["notes"]) == ("done", None, ["a note"])
    assert record["summary"] == {"throughput_tok_s": 5.0, "bottleneck": {"lane": "gpu"}}


@pytest.mark.parametrize(("warm_up", "cut", "speed"), [(1, 1, 8.0), ("none", 0, 4.0), (9, 2, 8.0)])
def test_steady_throughput_is_that_of_decode_passes_behind_the_warm_up(
    warm_up: int | str, cut: int, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = run(monkeypatch, result_of_four_passes(), warm_up)["steady"]
    assert (steady["warm_up_steps"], steady["steps"], steady["steady_tok_s"]) == (cut, 3, speed)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError(Mistake("too small", "hardware"), "no room"), "refused", "hardware: too small; no room"),
        (PolicyError("broke the contract\nwith details"), "failed", "PolicyError: broke the contract"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
    ],
)
def test_whatever_happens_in_a_run_becomes_its_record(
    error: Exception, status: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(monkeypatch, error)
    assert (record["status"], record["error"]) == (status, text)
    assert ("traceback" in record) == (status == "failed")
    assert "summary" not in record


def test_a_point_that_no_worker_lived_to_finish_says_why_that_may_be() -> None:
    record = failed(RuntimeError("worker 3 died"))
    assert record == {
        "status": "failed", "error": "RuntimeError: no worker finished it; the system may have run out of memory",
        "traceback": "worker 3 died",
    }  # fmt: skip
