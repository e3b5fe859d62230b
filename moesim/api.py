"""The public verbs in Python: what a notebook calls. Each says what it takes; the command line calls the same functions."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.contract import Policy
from moesim.explain.explain import Explanation
from moesim.explain.explain import explain as explain_loaded
from moesim.exports.again import export
from moesim.progress import bar
from moesim.results.notebook import Comparison
from moesim.results.sweeps.result import SearchResult, SweepResult
from moesim.runs.run import compare_loaded, loaded, run
from moesim.validation import CaseResult
from moesim.validation import reproduce as reproduce_cases

if TYPE_CHECKING:
    from moesim.scenario.catalogue import Entry

__all__ = ["check", "compare", "explain", "export", "list", "optimize", "report", "reproduce", "run", "sweep"]


def compare(
    scenario: Any, policies: Iterable[str | Policy] = ("all",), *, seed: int | None = None, **overrides: Any
) -> Comparison:
    """Runs several policies on the same requests and routing: a mapping of `results` (best first), `bounds` and `pairs`.

    `policies` are names (`all` for every one known) or Policy objects; one that cannot run on this scenario stands under
    `refused` with the reason. Bounds that no system can run are ranked under `bounds`. Raises InputError when none can.
    """
    names_given = builtins.list(policies)
    results, refused = compare_loaded(loaded(scenario, seed=seed, **overrides), names_given)
    return Comparison(results, refused)


def sweep(
    experiment: str | Path | Mapping[str, Any],
    *,
    policies: Sequence[str | Mapping[str, Any] | Policy] | None = None,
    replications: int | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
) -> SweepResult:
    """Runs an experiment (a file, the name of a shipped one, or a mapping of the same form): its table, means and answer.

    `policies` and `replications` take the place of the experiment's own; Policy objects are welcome, from a notebook too.
    `jobs` processes run the points (default: one for each core), or the Dask cluster at `dask`. With `out` each point is kept
    there as soon as it is done, and what lies there is not run again. InputError with every mistake.
    """
    from moesim.experiment.sweep import run_sweep

    with bar("sweeping", "points") as progress:
        result = run_sweep(
            experiment, policies=policies, replications=replications, jobs=jobs, dask=dask, out=out, progress=progress
        )
    assert result is not None, "all points of a sweep without parts are run"
    return result


def optimize(
    experiment: str | Path | Mapping[str, Any],
    *,
    rounds: int = 4,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
) -> SearchResult:
    """Searches the best values of an experiment's axes; `answer.optimum` has them. Arguments as of `sweep`."""
    from moesim.experiment.optimum import optimize as search

    with bar("searching", "points") as progress:
        return search(experiment, rounds=rounds, jobs=jobs, dask=dask, out=out, progress=progress)


def explain(scenario: Any, *, policy: Any = None, **overrides: Any) -> Explanation:
    """What fits where, rooflines and break-even points of a scenario, before anything runs."""
    return explain_loaded(loaded(scenario, policy=policy, **overrides))


def report(
    directory: str | Path, out: str | Path | None = None, *, figures: str | Path | None = None, width: float | str = "column"
) -> builtins.list[Path]:
    """Writes the page of a saved run, comparison or sweep to `out` (default: `report.html` in it); returns the files written.

    With `figures` no page, but each figure of it as PDF, SVG and PNG in that folder, as wide as `width` (`column`, `page`, or
    inches). InputError for a directory that none of them has left.
    """
    if figures is not None:
        from moesim.report.papers import save_figures

        return save_figures(directory, figures, width=width)
    from moesim.report.page import write_page

    return [write_page(directory, out)]


def check(*files: str | Path) -> dict[str, Any]:
    """Every mistake in scenario, experiment and profile files: `{"files": [{"file", "errors": [{"line", "column", ...}]}]}`."""
    from moesim.experiment.plan import judge
    from moesim.scenario import check as check_files

    return check_files(files, experiment=judge)


def list(kind: str) -> builtins.list[Entry]:
    """Everything that can be named: `kind` is policies, machines, parts, runtimes, models, scenarios,
    experiments or cases. Entries have a `name`, a `summary` and a `source`."""
    from moesim.cli import entries

    return entries(kind)


def reproduce(ids: Iterable[str] = ()) -> builtins.list[CaseResult]:
    """Published numbers beside simulated ones, for the cases named or all of them."""
    return reproduce_cases(builtins.list(ids))
