"""The settings of a sweep that no other beats in throughput, cost and energy at once.

Knows rows of a table and the names of three measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.results.statistics import mean
from moesim.results.sweeps.answer import FrontPoint
from moesim.results.sweeps.cells import bound_policies
from moesim.results.sweeps.description import Description

__all__ = ["not_weighed", "pareto"]

PARETO = ("throughput_tok_s", "cost_usd_per_Mtok", "energy_J")


def pareto(experiment: Description, rows: Sequence[Mapping[str, Any]]) -> tuple[FrontPoint, ...]:
    """Settings that no other one beats in throughput, cost and energy per token at once; the fastest first.

    Means over the replications, bounds left out. A measure that is unknown for any setting is not weighed: what is not known
    cannot put a setting on the front or keep it off.
    """
    names = experiment.settings
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in _weighable(rows):
        groups.setdefault((tuple((name, row[name]) for name in names), row["policy"]), []).append(row)
    used = [name for name in PARETO if name not in not_weighed(rows)]
    points = [
        FrontPoint(dict(setting), policy, **{_named(name): _measured(name, group) for name in used})
        for (setting, policy), group in groups.items()
    ]
    front = [point for point in points if not any(_beats(rival, point, used) for rival in points)]
    return tuple(sorted(front, key=lambda point: -point.throughput_tok_s))


def not_weighed(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Measures of the front that some setting lacks."""
    return tuple(name for name in PARETO if any(row.get(name) is None for row in _weighable(rows)))


def _weighable(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows that may stand on a front: done, with a throughput, of a policy that systems can follow."""
    bounds = bound_policies(rows)
    return [row for row in rows if row["status"] == "done" and row["policy"] not in bounds and row.get(PARETO[0])]


def _named(name: str) -> str:
    return "energy_J_per_tok" if name == "energy_J" else name


def _measured(name: str, group: Sequence[Mapping[str, Any]]) -> float:
    if name == "energy_J":
        return mean([float(row[name]) / (float(row["throughput_tok_s"]) * float(row["makespan_s"])) for row in group])
    return mean([float(row[name]) for row in group])


def _beats(a: FrontPoint, b: FrontPoint, used: Sequence[str]) -> bool:
    """Whether a is at least as good everywhere and better somewhere."""
    signed = [(1.0 if name == PARETO[0] else -1.0, _named(name)) for name in used]
    gains = [sign * (getattr(a, name) - getattr(b, name)) for sign, name in signed]
    return bool(min(gains) >= 0 and max(gains) > 0)
