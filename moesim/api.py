"""The public verbs in Python: what a notebook calls. Each says what it takes; the command line calls the same functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.contract import Policy
from moesim.explain.explain import Explanation
from moesim.explain.explain import explain as explain_loaded
from moesim.exports.again import export
from moesim.progress import bar
from moesim.results.compare import compare as rank
from moesim.runs.run import compare_loaded, loaded, run
from moesim.validation import CaseResult
from moesim.validation import reproduce as reproduce_cases

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare", "explain", "export", "reproduce", "run", "sweep"]


def compare(
    scenario: Any, policies: Iterable[str | Policy] = ("all",), *, seed: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """Runs several policies on the same requests and routing: `{"scenario", "results": [best first], "bounds", "pairs"}`.

    `policies` are names (`all` for every one known) or Policy objects; one that cannot run on this scenario stands under
    `refused` with the reason. Bounds that no system can reach are ranked under `bounds`. Raises InputError when none can.
    """
    given = list(policies)
    this = loaded(scenario, seed=seed, **overrides)
    results, refused = compare_loaded(this, given)
    return {**rank(results), "refused": refused}


def sweep(
    experiment: str | Path | Mapping[str, Any],
    *,
    policies: Sequence[str | Mapping[str, Any] | Policy] | None = None,
    replications: int | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Runs an experiment (a file, the name of a shipped one, or a mapping of the same form): one row per point.

    `policies` and `replications` take the place of the experiment's own; Policy objects are welcome, from a notebook too.
    `jobs` processes run the points (default: one for each core), or the Dask cluster at `dask`. With `out` each point is kept
    there as soon as it is done, and what lies there is not run again. The table's `attrs` hold `experiment` and `answer`;
    `moesim.results.sweeps.SweepResult.load(out)` gives the means with their intervals, too. InputError with every mistake.
    """
    from moesim.experiment.sweep import run_sweep

    with bar("sweeping", "point") as progress:
        result = run_sweep(
            experiment, policies=policies, replications=replications, jobs=jobs, dask=dask, out=out, progress=progress
        )
    assert result is not None, "all points of a sweep without parts are run"
    frame = result.frame()
    frame.attrs.update(experiment=result.experiment, answer=result.answer)
    return frame


def explain(scenario: Any, *, policy: Any = None, **overrides: Any) -> Explanation:
    """What fits where, rooflines and break-even points of a scenario, before anything runs."""
    return explain_loaded(loaded(scenario, policy=policy, **overrides))


def reproduce(ids: Iterable[str] = ()) -> list[CaseResult]:
    """Published numbers beside simulated ones, for the cases named or all of them."""
    return reproduce_cases(list(ids))
