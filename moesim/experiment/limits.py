"""Reads the constraints of an experiment: limits on columns of its table, in the units of the columns.

Knows names of columns and quantities; not what a run yields.
"""

from __future__ import annotations

from moesim.errors import Mistake, did_you_mean
from moesim.experiment.spec import Edge, Experiment
from moesim.results.metrics import metric_words
from moesim.results.result import FIELDS
from moesim.results.steady import Steady
from moesim.results.sweeps.description import Limit
from moesim.results.sweeps.result import POWER
from moesim.scenario.tree import Node
from moesim.units import parse, split

__all__ = ["constraints"]

_QUANTITIES = {"_s": "duration", "_usd": "money", "_W": "power"}
"""Ending of a column's first word -> what its values are."""
_RATES = ("tok/s", "requests/s")


def constraints(experiment: Experiment, root: Node) -> tuple[list[Limit], list[Mistake]]:
    """The constraints, in the units of their columns, and what is wrong with the others."""
    known = [*FIELDS, *Steady._fields, POWER]
    limits: list[Limit] = []
    mistakes: list[Mistake] = []
    for name, limit in experiment.constraints.items():
        place = (root.at(("constraints", name)) or root).place
        word = name.partition(".")[0]
        if word not in known:
            text = f"no run has a number '{name}'.{did_you_mean(name, known)}"
            mistakes.append(Mistake(text, f"constraints.{name}", *place))
            continue
        try:
            edges = {key: _value(getattr(limit, key), name) for key in ("at_least", "at_most")}
        except ValueError as error:
            mistakes.append(Mistake(str(error), f"constraints.{name}", *place))
        else:
            limits.append(Limit(name, **edges))
    return limits, mistakes


def _value(edge: Edge | None, name: str) -> float | None:
    """A limit in the unit of the column `name`; ValueError where it is not one. Rates are numbers, or have their unit."""
    unit, word = metric_words(name)[1], name.partition(".")[0]
    if unit in _RATES:
        return _rate(edge, unit)
    quantity = next((quantity for ending, quantity in _QUANTITIES.items() if word.endswith(ending)), None)
    if edge is None or (quantity is None and not isinstance(edge, str)):
        return edge
    return parse(str(edge), quantity or "share")


def _rate(edge: Edge | None, unit: str) -> float | None:
    """A limit on a rate, per second."""
    pair = None if edge is None else split(edge)
    if edge is not None and (pair is None or pair[1] not in ("", unit)):
        raise ValueError(f"'{edge}' is not in {unit}; write a number, or '15 {unit}'")
    return None if pair is None else pair[0]
