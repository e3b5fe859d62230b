"""Runs an experiment: finds what is missing, runs it, keeps each point, and gathers the table when all are there.

The one place where plan, pool and directory meet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from moesim.errors import InputError, Mistake
from moesim.experiment.plan import Plan, plan
from moesim.experiment.points import Row
from moesim.experiment.spec import Tpe
from moesim.experiment.store import Store
from moesim.experiment.task import Record, Task, failed
from moesim.progress import Progress
from moesim.results.marks import losses
from moesim.results.plain import canonical
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.result import POWER, SweepResult, flat
from moesim.runs.pools import outcomes
from moesim.scenario.tree import Tree

__all__ = ["Effort", "in_turn", "mine", "run_plan", "run_sweep", "shard"]

Result = TypeVar("Result", bound=SweepResult)


def run_sweep(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> SweepResult | None:
    """Plans and runs an experiment; `changes` replace keys at the top of it (`policies`, `replications`, ...).

    With `out` each point is kept there as soon as it is done, and what lies there is not run again. `part` (i, n) runs every
    n-th point only and gathers nothing unless all are there: None then. InputError before anything is run or written.
    """
    return run_plan(plan(source, **changes), out=out, jobs=jobs, dask=dask, part=part, progress=progress)


def run_plan(
    experiment_plan: Plan,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> SweepResult | None:
    """Runs the points of a plan that are missing, and gathers them, as `run_sweep`; InputError for a part without `out`."""
    if isinstance(experiment_plan.experiment.design, Tpe):
        text = "settings follow from what comes out of those before; run moesim optimize, or take another design for a sweep"
        raise InputError(Tree(experiment_plan.root).mistake(text, ("design", "kind")))
    if part is not None and out is None:
        raise InputError(Mistake("needs a directory that the parts share; name it with --out", file="--shard"))
    effort = Effort(out, experiment_plan.description, jobs=jobs, dask=dask)
    effort.complete(experiment_plan.tasks, part=part, progress=progress)
    if any(name not in effort.found for name in experiment_plan.tasks):
        return None
    return effort.keep(SweepResult.of(experiment_plan.description, effort.rows(experiment_plan.rows)))


class Effort:
    """Points that are run, and the directory that keeps them; InputError, with nothing written, where it may not."""

    def __init__(
        self, out: str | Path | None, description: Description, *, jobs: int | None = None, dask: str | None = None
    ) -> None:
        if jobs is not None and jobs < 1:
            raise InputError(Mistake(f"must be at least 1, got {jobs}", file="--jobs"))
        self.jobs, self.dask = jobs, dask
        self.store = Store(Path(out), description) if out is not None else None
        self.found: dict[str, Record] = dict(self.store.records) if self.store is not None else {}
        """Name -> record of every point that is done."""
        self._opened = False

    def complete(
        self, tasks: Mapping[str, Task], *, part: tuple[int, int] | None = None, progress: Progress | None = None
    ) -> None:
        """Runs what is missing of `tasks`, or of a part of them. Points that failed before are run again."""
        missing = [task for name, task in tasks.items() if self.found.get(name, {"status": "failed"})["status"] == "failed"]
        todo = mine(missing, in_turn(tasks.values()), part)
        with closing(outcomes(todo, jobs=self.jobs, dask=self.dask, failed=failed)) as done:
            for number, (task, record) in enumerate(done):
                self.found[task.name] = json.loads(canonical(record))  # as it would come back from disk
                self._open(bool(missing))
                if self.store is not None:
                    self.store.add(task.name, self.found[task.name])
                if progress is not None:
                    progress(number + 1, len(todo))
        self._open(bool(missing))

    def _open(self, missing: bool) -> None:
        """Makes the directory with the first point, not before: where no point can be run, nothing is written."""
        if self.store is not None and not self._opened:
            self.store.open()
            self._opened = True
            if missing:
                self.store.forget_outputs()

    def rows(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The rows of the table, with the numbers of their points. The order in which these were made leaves no trace."""
        return [_row(row, self.found[row.task]) for row in rows]

    def keep(self, result: Result) -> Result:
        """Writes table and answer beside the points, where there is a directory."""
        if self.store is not None:
            result.save(self.store.directory)
        return result


def in_turn(tasks: Iterable[Task]) -> list[str]:
    """The names of tasks in the order in which they are run: those that share requests and routing one after another."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(task.build, []).append(task.name)
    return [name for group in groups.values() for name in group]


def mine(missing: Iterable[Task], names: Sequence[str], part: tuple[int, int] | None) -> list[Task]:
    """Of the missing tasks those of part i of n, which has every n-th of `names`, in their order."""
    index, count = part or (1, 1)
    known = {task.name: task for task in missing}
    return [known[name] for name in names[index - 1 :: count] if name in known]


def shard(text: str) -> tuple[int, int]:
    """`2/8` as numbers; InputError for any other text."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise InputError(Mistake(f"'{text}' is not a part; write i/n with i from 1 to n, such as 2/8", file="--shard"))


def _row(row: Row, record: Mapping[str, Any]) -> dict[str, Any]:
    head = {"point": row.task, **row.settings, "policy": row.policy, "seed": row.seed, "replicate": row.replicate}
    head |= {"status": record["status"], "error": record["error"]}
    steady = {name: value for name, value in flat(record.get("steady", {})).items() if name != "steps"}
    numbers = {**steady, **flat(record.get("summary", {}))}
    if record["status"] == "done":
        numbers["lossy"] = "yes" if losses(record["summary"]) else "no"
        energy, time = (record["summary"].get(name) for name in ("energy_J", "makespan_s"))
        numbers |= {POWER: energy / time} if energy is not None and time else {}
    return {**head, **{name: value for name, value in numbers.items() if name not in head}}
