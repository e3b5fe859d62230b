"""From a scenario to a result: what the run adds to the record of the engine."""

from __future__ import annotations

from typing import Any

import pytest

import moesim
from moesim.errors import MoesimError
from moesim.runs import run as scenario_run


def test_a_run_without_a_bound_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> float:
        raise MoesimError("the linear programme of the bound has no solution")

    monkeypatch.setattr(scenario_run, "bound_seconds", fails)
    result = moesim.run("quickstart", **{"workload.requests": 1, "workload.prompt": 4, "workload.output": 2})
    assert (result.summary["bound_tok_s"], result.summary["share_of_bound"]) == (None, None)
    assert "this run has no bound: the linear programme of the bound has no solution" in result.notes
    assert "tok/s, which no placement" not in str(result)
