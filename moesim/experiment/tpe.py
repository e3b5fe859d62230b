"""Proposes settings from what came out of those before, numbers, words and policies alike, by Optuna's Parzen estimator.

Knows axes and the cells of a table; nothing of scenarios. Optuna is an extra, loaded when a search begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from moesim.errors import InputError, Mistake
from moesim.experiment.axes import Dimension, Setting
from moesim.experiment.design import first_look, joined
from moesim.experiment.plan import Plan
from moesim.experiment.points import Choice
from moesim.experiment.spec import Tpe
from moesim.experiment.sweep import Effort
from moesim.progress import Progress
from moesim.results.sweeps.cells import cells
from moesim.results.sweeps.constraints import excess

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

__all__ = ["installed", "propose"]

_TOGETHER = 4
"""Settings that are proposed before the first of them is known: the same ones at any number of processes."""
_POLICY, _EXCESS = "policy", "excess"


def installed() -> bool:
    """Whether Optuna is there."""
    return find_spec("optuna") is not None


def propose(experiment_plan: Plan, effort: Effort, design: Tpe, progress: Progress | None = None) -> list[str]:
    """Runs the settings that the search proposes, those of the first look first; what was wrong with those left out."""
    planner, looks = experiment_plan.planner, first_look(experiment_plan.axes)
    least = len(looks) * len(planner.policies)
    if design.points < least:
        text = f"{design.points} settings are fewer than the {least} of the first look: each value of an axis by itself"
        raise InputError(Mistake(text, "design.points"))
    search, left_out = _Search(experiment_plan, design), []
    search.enqueue(looks)
    tried = 0
    while tried < design.points:
        trials = [search.ask() for _ in range(min(_TOGETHER, design.points - tried))]
        for _, values, shown, choice in trials:
            if (tuple(shown.items()), search.label(choice)) not in search.known:
                planner.add([(values, shown)], [choice])
                search.known.add((tuple(shown.items()), search.label(choice)))
                left_out += planner.impossible()
        effort.complete(planner.tasks, progress=progress)
        search.tell(trials, effort.rows(planner.rows))
        tried += len(trials)
    return list(dict.fromkeys(left_out))


_Proposal = tuple["Trial", Setting, dict[str, Any], Choice]


class _Search:
    """A study of Optuna over the axes of an experiment and its policies."""

    def __init__(self, experiment_plan: Plan, design: Tpe) -> None:
        import optuna

        self._plan, self._axes = experiment_plan, experiment_plan.axes
        self._policies = experiment_plan.planner.policies
        self._failed = optuna.trial.TrialState.FAIL
        self.known = {(tuple(row.settings.items()), row.policy) for row in experiment_plan.rows}
        """Settings as tables show them, and policies, that are points already."""
        self._parameters = _parameters(self._axes, len(self._policies))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arguments that may change: the versions that are tested take them
            limits = (lambda trial: trial.user_attrs[_EXCESS]) if experiment_plan.description.constraints else None
            sampler = optuna.samplers.TPESampler(
                seed=design.seed, multivariate=True, constant_liar=True, constraints_func=limits
            )
            self._study: Study = optuna.create_study(direction="maximize", sampler=sampler)

    def label(self, choice: Choice) -> str:
        """What tables call a policy."""
        return choice.label or self._plan.rows[0].policy

    def enqueue(self, looks: Sequence[Sequence[float]]) -> None:
        """Settings, as shares of the way, that are tried first, with every policy."""
        for policy in range(len(self._policies)):
            for shares in looks:
                steps = {axis.name: _parameter(axis, share) for axis, share in zip(self._axes, shares, strict=True)}
                self._study.enqueue_trial(steps | ({_POLICY: policy} if len(self._policies) > 1 else {}))

    def ask(self) -> _Proposal:
        """The next setting."""
        trial = self._study.ask(self._parameters)
        parts = [_setting(axis, trial.params[axis.name]) for axis in self._axes]
        return trial, *joined(parts), self._policies[trial.params.get(_POLICY, 0)]

    def tell(self, trials: Sequence[_Proposal], rows: Sequence[dict[str, Any]]) -> None:
        """What came out of them."""
        description = self._plan.description
        known = {(cell.settings, cell.policy): cell.mean for cell in cells(description, rows)}
        for trial, _, shown, choice in trials:
            key = tuple(shown.items()), self.label(choice)
            own = [row for row in rows if row["policy"] == key[1] and all(row[name] == value for name, value in key[0])]
            trial.set_user_attr(_EXCESS, [excess(limit, own) for limit in description.constraints])
            if key in known:
                self._study.tell(trial, known[key])
            else:
                self._study.tell(trial, state=self._failed)


def _parameters(axes: Sequence[Dimension], policies: int) -> dict[str, BaseDistribution]:
    """Axis -> what may be proposed: a share of the way of a range, the number of a step where these rise, else any step."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parameters: dict[str, BaseDistribution] = {}
    for axis in axes:
        if axis.spread is not None:
            parameters[axis.name] = FloatDistribution(0.0, 1.0)
        elif axis.columns[0].scale != "categories" and len(axis.columns) == 1:
            parameters[axis.name] = IntDistribution(0, axis.size - 1)
        else:
            parameters[axis.name] = CategoricalDistribution(range(axis.size))
    if policies > 1:
        parameters[_POLICY] = CategoricalDistribution(range(policies))
    return parameters


def _parameter(axis: Dimension, share: float) -> float | int:
    return share if axis.spread is not None else min(int(share * axis.size), axis.size - 1)


def _setting(axis: Dimension, value: Any) -> tuple[Setting, dict[str, Any]]:
    return axis.drawn(value) if axis.spread is not None else axis.step(value)
