"""One point of an experiment as a job: a run, and the record that is kept of it.

Knows a scenario and its result; not what the point is for.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.results.result import Result
from moesim.results.steady import steady
from moesim.runs.run import RunOptions, run_loaded
from moesim.runs.worker import built
from moesim.scenario.scenario import LoadedScenario
from moesim.scenario.schema import Scenario

__all__ = ["Record", "Task", "failed"]

Record = dict[str, Any]
"""`status` (`done`, `refused` where the scenario cannot be run, `failed`), `error`, and for a run that is done its numbers."""
_LEFT_OUT = ("scenario", "policy", "wall_s")
"""Of a summary: names that the experiment gives, and what differs from run to run."""


@dataclass(frozen=True)
class Task:
    """One run. Equal contents have equal names, whatever experiment asks for them."""

    name: str
    """32 hex digits of the SHA-256 of everything that its numbers depend on."""
    scenario: Scenario
    base: Path
    build: str
    """Equal for tasks that share requests and routing."""
    warm_up: int | str
    bound: bool

    @property
    def kinds(self) -> Sequence[type[Any]]:
        """Classes that may come from a session or from beside the scenario."""
        return [type(self.scenario.policy), type(getattr(self.scenario.workload, "routing", None))]

    def run(self) -> Record:
        """The record of the run; whatever happens in it must not stop the others."""
        try:
            return {"status": "done", "error": None, **self._numbers()}
        except InputError as error:
            return {"status": "refused", "error": "; ".join(str(mistake) for mistake in error.mistakes)}
        except Exception as error:
            lines = str(error).splitlines()
            text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            return {"status": "failed", "error": text, "traceback": traceback.format_exc()}

    def _numbers(self) -> Record:
        result = run_loaded(built(LoadedScenario(self.scenario, {}, self.base), self.build), RunOptions(bound=self.bound))
        summary = {key: value for key, value in result.summary.items() if key not in _LEFT_OUT}
        return {"summary": summary, "steady": _steady(result, self.warm_up), "notes": result.notes}


def _steady(result: Result, warm_up: int | str) -> dict[str, Any]:
    """Throughput of the decode passes behind the warm-up."""
    table = result.columns["steps"]
    decode = table["phase"] == "decode"
    return steady(table["step_time_s"][decode], table["tokens"][decode], warm_up)._asdict()


def failed(error: BaseException) -> Record:
    """The record of a point that no worker lived to finish."""
    text = f"{type(error).__name__}: no worker finished it; the system may have run out of memory"
    return {"status": "failed", "error": text, "traceback": str(error)}
