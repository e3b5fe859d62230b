"""What an experiment file may say, and in which words it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moesim.experiment.spec import Experiment, Limit, Range, Sobol, Zip


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Range(low=0, high=1, points=3, step=0.5), "'points' and 'step' say the same thing; give one of them"),
        (lambda: Range(low=0, high=1, points=1), "greater than or equal to 2"),
        (lambda: Zip(paths={}), "at least 1 item"),
        (lambda: Limit(), "give at_least, at_most or both"),
        (lambda: Sobol(points=6), "points: 6 is not a power of two, which a Sobol' design needs; 4 or 8"),
        (lambda: Sobol(points=0), "greater than or equal to 1"),
        (lambda: Experiment(scenario="s", name="a/b"), "'a/b' names files; write letters, digits, '-', '_' and '.'"),
        (lambda: Experiment(scenario="s", replications=0), "greater than or equal to 1"),
        (lambda: Experiment(scenario="s", level=1.0), "less than 1"),
        (lambda: Experiment(scenario="s", warm_up=-1), "greater than or equal to 0"),
        (lambda: Experiment(scenario="s", warm_up="some"), "'auto' or 'none'"),
        (lambda: Experiment(scenario="s", policies=()), "at least 1 item"),
        (lambda: Experiment(scenario="s", axis={}), "axis"),
    ],
)
def test_what_an_experiment_cannot_say(build: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build()
    assert message in str(caught.value)


def test_an_experiment_that_says_nothing_is_one_run_of_its_scenario() -> None:
    experiment = Experiment(scenario="s")
    assert (experiment.axes, experiment.policies, experiment.replications) == ({}, None, 1)
    assert (experiment.metric, experiment.goal, experiment.level) == ("throughput_tok_s", None, 0.95)
    assert (experiment.design.kind, experiment.warm_up, experiment.bound) == ("grid", "auto", True)


@pytest.mark.parametrize("points", [1, 2, 64])
def test_powers_of_two_are_designs(points: int) -> None:
    assert Sobol(points=points).points == points
