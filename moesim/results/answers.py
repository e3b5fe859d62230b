"""What a sweep says: the best setting, peaks and crossovers along each axis, differences of policies; in numbers and sentences.

Knows a table of points and its axes; not what the axes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from moesim.results.constraints import constraint_words, missed
from moesim.results.drivers import driven
from moesim.results.marks import is_bound, losses_of_rows
from moesim.results.search import find_crossovers, find_peak
from moesim.results.statistics import Interval, as_share, mean, paired_difference, t_interval
from moesim.results.words import sentences

__all__ = ["FORMAT", "Cell", "answered", "bound_policies", "cells", "paired", "pareto"]

FORMAT = "moesim answer 1"
ALL_PAIRS = 6
"""Up to so many policies are compared each with each; of more, the best of a setting with every other."""
MOST_ROWS = 2000
PARETO = ("throughput_tok_s", "cost_usd_per_Mtok", "energy_J")


@dataclass(frozen=True)
class Cell:
    """All replications of one setting with one policy."""

    settings: tuple[tuple[str, Any], ...]
    """(column, value), in the order of the columns."""
    policy: str
    samples: Mapping[tuple[int, int], float]
    """(seed, replicate) -> the metric, signed so that more is better."""
    bound: bool = False
    """Of a policy that no system can follow."""
    missed: tuple[str, ...] = ()
    """Constraints of the experiment that it does not keep, in words."""

    @property
    def mean(self) -> float:
        """Over the replications."""
        return mean(list(self.samples.values()))

    def beside(self, reference: Cell) -> tuple[list[float], list[float]]:
        """Own values and the other's, where both saw the same requests and routing."""
        common = [key for key in self.samples if key in reference.samples]
        return [self.samples[key] for key in common], [reference.samples[key] for key in common]


def cells(experiment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The points with a value of the metric, by setting and policy, in the order of the design."""
    names = [name for axis in experiment["axes"] for name in axis["columns"]]
    sign = 1.0 if experiment["goal"] == "highest" else -1.0
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    bounds, limits = bound_policies(rows), experiment.get("constraints", [])
    for row in rows:
        if row["status"] == "done" and isinstance(row.get(experiment["metric"]), (int, float)):
            groups.setdefault((tuple((name, row[name]) for name in names), row["policy"]), []).append(row)
    return [
        Cell(
            settings,
            policy,
            {(row["seed"], row["replicate"]): sign * float(row[experiment["metric"]]) for row in group},
            policy in bounds,
            missed(limits, group),
        )
        for (settings, policy), group in groups.items()
    ]


def bound_policies(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Policies that no system can follow, which stand apart; none of them where there are no others to stand apart from."""
    bounds = {str(row["policy"]) for row in rows if is_bound(row)}
    return bounds if any(row["status"] == "done" and row["policy"] not in bounds for row in rows) else set()


def answered(experiment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole answer, as `answer.json` holds it; its sentences come first."""
    all_cells = cells(experiment, rows)
    known = [cell for cell in all_cells if not cell.bound]
    within_limits = [cell for cell in known if not cell.missed]
    level = float(experiment["level"])
    sign = 1.0 if experiment["goal"] == "highest" else -1.0
    grid = experiment["design"]["kind"] == "grid"
    contenders, rivals = _rivals(experiment, known)
    answer: dict[str, Any] = {
        "format": FORMAT,
        **{key: experiment[key] for key in ("metric", "goal", "level")},
        "experiment": experiment["name"],
        "points": {"asked": len(rows), **{kind: _count(rows, kind) for kind in ("done", "refused", "failed")}},
        "sentences": [],
        "constraints": [constraint_words(limit) for limit in experiment.get("constraints", [])],
        "best": _best(within_limits, level, sign),
        "bounds": _bounds(all_cells, level, sign),
        "lossy": _lossy(rows),
        "peaks": list(_peaks(experiment, known, level, sign)) if grid else [],
        "contenders": contenders,
        "crossovers": list(_crossovers(experiment, rivals, level)) if grid else [],
        "pairs": list(_pairs(rivals, level, sign))[:MOST_ROWS],
        "drivers": _drivers(experiment, known, sign),
        "pareto": pareto(experiment, rows),
        "not_weighed": not_weighed(rows),
        "warm_up": _warm_up(experiment, rows),
        "failures": [_failure(experiment, row) for row in rows if row["status"] != "done"],
    }
    answer["sentences"] = sentences(experiment, answer)
    return answer


def _count(rows: Sequence[Mapping[str, Any]], status: str) -> int:
    return sum(row["status"] == status for row in rows)


def _failure(experiment: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: row[name] for axis in experiment["axes"] for name in axis["columns"]}
    return {
        "point": row["point"],
        "settings": settings,
        **{key: row[key] for key in ("policy", "replicate", "status", "error")},
    }


def _rivals(experiment: Mapping[str, Any], known: Sequence[Cell]) -> tuple[str, list[Cell]]:
    """What is compared: the policies, or with one policy alone the values of the only axis without numbers, in their place."""
    words = [axis["column"] for axis in experiment["axes"] if axis["scale"] == "categories"]
    if len(experiment["policies"]) > 1 or len(words) != 1:
        return "policy", list(known)
    return words[0], [
        Cell(tuple(pair for pair in cell.settings if pair[0] != words[0]), str(dict(cell.settings)[words[0]]), cell.samples)
        for cell in known
    ]


def _ends(interval: Interval, sign: float) -> tuple[float, float | None, float | None]:
    """Mean, low and high of an interval of the signed metric, with the metric's own sign."""
    middle, low, high, _ = interval
    if low is None or high is None:
        return sign * middle, None, None
    return sign * middle, min(sign * low, sign * high), max(sign * low, sign * high)


def _best(known: Sequence[Cell], level: float, sign: float) -> dict[str, Any] | None:
    if not known:
        return None
    best = max(known, key=lambda cell: cell.mean)  # the first of equals
    middle, low, high = _ends(t_interval(list(best.samples.values()), level), sign)
    tied = [cell for cell in known if cell is not best and _verdict(best, cell, level) == "tie"]
    return {
        "settings": dict(best.settings), "policy": best.policy, "mean": middle, "low": low, "high": high,
        "samples": len(best.samples), "tied": [{"settings": dict(cell.settings), "policy": cell.policy} for cell in tied],
    }  # fmt: skip


def _bounds(all_cells: Sequence[Cell], level: float, sign: float) -> list[dict[str, Any]]:
    """The best setting of each bound that no system can reach, the best of them first."""
    groups: dict[str, list[Cell]] = {}
    for cell in all_cells:
        if cell.bound:
            groups.setdefault(cell.policy, []).append(cell)
    best = [max(group, key=lambda cell: cell.mean) for group in groups.values()]
    rows = []
    for cell in sorted(best, key=lambda cell: -cell.mean):
        middle, low, high = _ends(t_interval(list(cell.samples.values()), level), sign)
        rows.append({"settings": dict(cell.settings), "policy": cell.policy, "mean": middle, "low": low, "high": high,
                     "samples": len(cell.samples)})  # fmt: skip
    return rows


def _lossy(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Policy -> what it does to the model's output at most, for those that do anything."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["policy"]), []).append(row)
    losses_of = {policy: losses_of_rows(group) for policy, group in groups.items()}
    return {policy: words for policy, words in losses_of.items() if words}


def _verdict(a: Cell, b: Cell, level: float) -> str:
    """What is said of a against b; null pairs tell nothing and count as no tie."""
    left, right = a.beside(b)
    return paired_difference(left, right, level).verdict if left else "unknown"


Slice = tuple[Mapping[str, Any], dict[str, dict[float, Cell]]]


def _slices(known: Sequence[Cell], axis: Mapping[str, Any]) -> Iterator[Slice]:
    """For each setting of the other axes: policy -> value of this axis -> cell."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, dict[float, Cell]]] = {}
    for cell in known:
        fixed = tuple((name, value) for name, value in cell.settings if name not in axis["columns"])
        value = dict(cell.settings)[axis["column"]]
        groups.setdefault(fixed, {}).setdefault(cell.policy, {})[value] = cell
    for fixed, policies in groups.items():
        yield dict(fixed), policies


def _numeric(experiment: Mapping[str, Any], fewest: int) -> list[Mapping[str, Any]]:
    return [axis for axis in experiment["axes"] if axis["scale"] != "categories" and len(axis["values"]) >= fewest]


def paired(curve: Mapping[float, Cell]) -> dict[float, list[float]]:
    """Value -> outcomes of the replications that all values have, paired by position."""
    common = [key for key in next(iter(curve.values())).samples if all(key in cell.samples for cell in curve.values())]
    return {value: [cell.samples[key] for key in common] for value, cell in curve.items()} if common else {}


def _peaks(experiment: Mapping[str, Any], known: Sequence[Cell], level: float, sign: float) -> Iterator[dict[str, Any]]:
    for axis in _numeric(experiment, 3):
        for fixed, policies in _slices(known, axis):
            for policy, curve in policies.items():
                samples = paired(curve)
                if len(samples) < 3:
                    continue
                peak = find_peak(samples, level)
                middle, low, high = _ends(peak.best, sign)
                yield {
                    "axis": axis["name"], "column": axis["column"], "policy": policy, "at": fixed, "value": peak.value,
                    "low": peak.low, "high": peak.high, "kind": peak.kind, "tied": list(peak.tied), "at_edge": peak.at_edge,
                    "mean": middle,
                    "mean_low": low, "mean_high": high, "samples": peak.best.samples,
                    "worst": sign * min(mean(values) for values in samples.values()),
                }  # fmt: skip


def _crossovers(experiment: Mapping[str, Any], known: Sequence[Cell], level: float) -> Iterator[dict[str, Any]]:
    """Among the policies that lead somewhere along an axis: where one passes another."""
    for axis in _numeric(experiment, 2):
        for fixed, policies in _slices(known, axis):
            values = sorted({value for curve in policies.values() for value in curve})
            for a, b in combinations(dict.fromkeys(_leader(policies, value) for value in values), 2):
                common = [value for value in policies[a] if value in policies[b]]
                left, right = (paired({value: policies[p][value] for value in common}) for p in (a, b))
                for crossing in find_crossovers(left, right, level):
                    before, behind = (a, b) if crossing.before == "a" else (b, a)
                    yield {
                        "axis": axis["name"], "column": axis["column"], "a": a, "b": b, "at": fixed, "value": crossing.value,
                        "low": crossing.low, "high": crossing.high, "below": before, "above": behind,
                    }  # fmt: skip


def _drivers(experiment: Mapping[str, Any], known: Sequence[Cell], sign: float) -> list[dict[str, Any]]:
    """What the metric varies with, where settings were drawn from all axes at once; a grid has its peaks instead."""
    if experiment["design"]["kind"] not in ("latin_hypercube", "sobol") or not experiment["axes"]:
        return []
    return driven(experiment["axes"], ((cell.policy, dict(cell.settings), sign * cell.mean) for cell in known))


def _leader(policies: Mapping[str, Mapping[float, Cell]], value: float) -> str:
    """The policy with the best mean at a value of the axis; the first of equals."""
    there = {policy: curve[value].mean for policy, curve in policies.items() if value in curve}
    return max(there, key=lambda policy: there[policy])


def _pairs(known: Sequence[Cell], level: float, sign: float) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
    for cell in known:
        groups.setdefault(cell.settings, []).append(cell)
    for settings, group in groups.items():
        ranked = sorted(group, key=lambda cell: -cell.mean)  # stable: equals stay in the order of the policies
        pairs = list(combinations(ranked, 2)) if len(ranked) <= ALL_PAIRS else [(ranked[0], cell) for cell in ranked[1:]]
        for a, b in pairs:
            left, right = a.beside(b)
            if left:
                yield {"at": dict(settings), "a": a.policy, "b": b.policy, **_pair(left, right, level, sign)}


def _pair(left: Sequence[float], right: Sequence[float], level: float, sign: float) -> dict[str, Any]:
    """`a` against `b`, of which a has the better mean; shares are of the mean of b, with the verdict's interval."""
    difference = paired_difference(left, right, level)
    middle, low, high = _ends(difference.interval, sign)
    own, reference = sign * mean(left), sign * mean(right)
    shares = (as_share(Interval(middle, low, high, len(left)), reference) or (None, None, None))[:3]
    percent = [None if end is None else 100 * end for end in shares]
    return {
        "ratio": own / reference if reference > 0 else None,
        "percent": percent[0], "percent_low": percent[1], "percent_high": percent[2],
        "difference": middle, "difference_low": low, "difference_high": high,
        "verdict": "tie" if difference.verdict == "tie" else "better", "samples": len(left),
    }  # fmt: skip


def pareto(experiment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings that no other one beats in throughput, cost and energy per token at once; the fastest first.

    Means over the replications, bounds left out. A measure that is unknown for any setting is not weighed: what is not known
    cannot put a setting on the front or keep it off.
    """
    names = [name for axis in experiment["axes"] for name in axis["columns"]]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in _weighable(rows):
        groups.setdefault((tuple((name, row[name]) for name in names), row["policy"]), []).append(row)
    used = [name for name in PARETO if name not in not_weighed(rows)]
    settings = [
        {"settings": dict(setting), "policy": policy, **{_named(name): _measured(name, group) for name in used}}
        for (setting, policy), group in groups.items()
    ]
    front = [setting for setting in settings if not any(_beats(rival, setting, used) for rival in settings)]
    return sorted(front, key=lambda setting: -float(setting[PARETO[0]]))


def not_weighed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Measures of the front that some setting lacks."""
    return [name for name in PARETO if any(row.get(name) is None for row in _weighable(rows))]


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


def _beats(a: Mapping[str, Any], b: Mapping[str, Any], used: Sequence[str]) -> bool:
    """Whether a is at least as good everywhere and better somewhere."""
    signed = [(1.0 if name == PARETO[0] else -1.0, _named(name)) for name in used]
    gains = [sign * (float(a[name]) - float(b[name])) for sign, name in signed]
    return min(gains) >= 0 and max(gains) > 0


def _warm_up(experiment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cuts = [float(row["warm_up_steps"]) for row in rows if row.get("warm_up_steps") is not None]
    return {
        "cut": experiment["warm_up"],
        "runs": len(cuts),
        "steps_mean": mean(cuts) if cuts else None,
        "unsettled": sum(row.get("settled") == "no" for row in rows),
    }
