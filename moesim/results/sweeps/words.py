"""The answer of a sweep as sentences.

Knows the numbers of an answer; finds none of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moesim.results.marks import marked
from moesim.results.metrics import metric_words
from moesim.results.sweeps.answer import (
    Answer,
    BoundReached,
    Crossover,
    Driver,
    Leader,
    Pair,
    Peak,
    SearchAnswer,
    settings_words,
    value_words,
)
from moesim.results.sweeps.description import Description
from moesim.units import format_count, format_share

__all__ = ["optimum_sentences", "sentences", "share_words", "who"]

_MOST = 12
"""Pairs that sentences name; the file holds all."""
_NAMED = 0.05
"""Share of the variance from which on a sentence names an axis."""


def _interval(middle: float, low: float | None, high: float | None, unit: str = "") -> str:
    tail = f" {unit}" if unit else ""
    return f"{value_words(middle)}{'' if low is None or low == high else f' {_ends(low, high)}'}{tail}"


def _ends(low: float | None, high: float | None) -> str:
    return f"[{value_words(low)}, {value_words(high)}]"


def sentences(experiment: Description, answer: Answer) -> list[str]:
    """The answer, the most wanted first: best setting, peaks and crossovers around it, policies against each other."""
    best = answer.best
    if best is None:
        condition = f" that keeps {_limits(answer)}" if answer.constraints else ""
        return [f"No point has a value of the metric{condition}, so there is no answer.", *_troubles(answer)]
    texts = [_best(experiment, answer, best)]
    for peak in answer.peaks:
        if peak.policy == best.policy and _around(peak.at, best.settings):
            texts.append(_peak(experiment, peak))
    for cross in answer.crossovers:
        if _around(cross.at, best.settings):
            texts.append(_crossover(experiment, cross))
    texts += [_driver(experiment, driver) for driver in answer.drivers if driver.policy == best.policy]
    pairs = [pair for pair in answer.pairs if _around(pair.at, best.settings)]
    pairs = [pair for pair in pairs if pair.a in (best.policy, best.settings.get(answer.contenders))]
    texts += [_pair(experiment, answer, pair) for pair in pairs[:_MOST]]
    return [*texts, *(_bound(experiment, bound, best.mean) for bound in answer.bounds), *_troubles(answer)]


def _bound(experiment: Description, bound: BoundReached, best: float) -> str:
    """What a policy that no system can follow reaches, beside the best that a system can."""
    times = f", {bound.mean / best:.3g} times the best" if best > 0 else ""
    where = f" at {settings_words(bound.settings)}" if bound.settings else ""
    value = _interval(bound.mean, bound.low, bound.high, metric_words(experiment.metric)[1])
    return f"{bound.policy}, a bound that no system can run: {value}{times}{where}."


def _limits(answer: Answer) -> str:
    return " and ".join(answer.constraints)


def optimum_sentences(experiment: Description, answer: SearchAnswer) -> list[str]:
    """The best values of each policy, between which tested ones they lie, and who keeps the constraints nowhere."""
    name, unit = metric_words(experiment.metric)
    keeping = f" that keeps {_limits(answer)}" if answer.constraints else ""
    texts = []
    for optimum in answer.optimum:
        free = {key: value for key, value in optimum.settings.items() if key not in optimum.between}
        places = [f"{key} = {value_words(optimum.settings[key])} {_ends(ends.low, ends.high)}"
                  for key, ends in optimum.between.items()]  # fmt: skip
        where = ", ".join([*places, *([settings_words(free)] if free else [])])
        value = _interval(optimum.mean, optimum.low, optimum.high, unit)
        texts.append(
            f"{who(answer, optimum.policy)}: the {answer.goal} {name}{keeping}, {value}, at {where}; "
            f"{format_count(optimum.runs, 'setting')} tried."
        )
    for group in answer.out_of_reach:
        where = f" at {settings_words(group.settings)}" if group.settings else ""
        missed = f"; all miss {' and '.join(group.missed)}" if group.missed else ""
        texts.append(f"{who(answer, group.policy)}{where}: none of {format_count(group.runs, 'setting')}{keeping}{missed}.")
    return texts


def who(answer: Answer, policy: str) -> str:
    """The name with the star of a policy that changes the model's output."""
    return marked(policy, lossy=policy in answer.lossy)


def _around(at: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return all(best.get(name) == value for name, value in at.items())


def _best(experiment: Description, answer: Answer, best: Leader) -> str:
    name, unit = metric_words(experiment.metric)
    value = _interval(best.mean, best.low, best.high, unit)
    name_of_best = f" by {who(answer, best.policy)}" if len(experiment.policies) > 1 or not best.settings else ""
    where = f" at {settings_words(best.settings)}" if best.settings else ""
    name += f" that keeps {_limits(answer)}" if answer.constraints else ""
    tied = len(best.tied)
    alike = f"{format_count(tied, 'other setting')} {'is' if tied == 1 else 'are'} statistically indistinguishable from it"
    rivals = f"; {alike}" if tied else ""
    return f"The {answer.goal} {name}, {value}, is reached{name_of_best}{where}{rivals}."


def _peak(experiment: Description, peak: Peak) -> str:
    name, _ = metric_words(experiment.metric)
    highest = experiment.goal == "highest"
    word, place = (
        "Peak" if highest else "Least",
        f"{value_words(peak.value)} {_ends(peak.low, peak.high)}",
    )
    who = f" ({peak.policy})" if len(experiment.policies) > 1 else ""
    if peak.kind == "flat":
        return f"{peak.column} makes no measurable difference to {name}{who}."
    if peak.kind == "edge":
        gain = _factor(peak, highest)
        end = "last" if peak.value == max(peak.tied) and peak.low != peak.value else "first"
        return f"Along {peak.column}, {name} is {experiment.goal} at the {end} value, {value_words(peak.value)}{gain}{who}."
    if peak.kind == "plateau":
        span = f"{value_words(peak.tied[0])} to {value_words(peak.tied[-1])}"
        if peak.at_edge:
            return f"Along {peak.column}, {name} is {experiment.goal} from {span}, which tie{who}."
        return f"{word} of {name} along {peak.column} at {place}: a plateau, {span} tie{who}."
    return f"{word} of {name} along {peak.column} at {place}{who}."


def _crossover(experiment: Description, cross: Crossover) -> str:
    """Who passes whom, and where; between whole numbers there is no place to name."""
    who, column = f"{cross.above} passes {cross.below}", cross.column
    low, high = value_words(cross.low), value_words(cross.high)
    values = next(axis.values for axis in experiment.axes if axis.column == column)
    if all(isinstance(value, int) for value in values):
        return f"{who} between {column} = {low} and {high}."
    return f"{who} at {column} = {value_words(cross.value)} [{low}, {high}]."


def _factor(peak: Peak, highest: bool) -> str:
    """How much better the best is than the worst along an axis."""
    high, low = (peak.mean, peak.worst) if highest else (peak.worst, peak.mean)
    return f", {high / low:.3g} times {'the lowest' if highest else 'less than the highest'}" if low > 0 else ""


def _driver(experiment: Description, driver: Driver) -> str:
    """Which axes a sampled design found to matter, and which way."""
    name, _ = metric_words(experiment.metric)
    who = f" ({driver.policy})" if len(experiment.policies) > 1 else ""
    if not driver.axes:
        return f"What drives {name}{who} is not known: {driver.note}."
    shares = [
        f"{axis.column} {format_share(axis.share, 0)}{_way(axis.direction)}" for axis in driver.axes if axis.share >= _NAMED
    ]
    note = f"; {driver.note}" if driver.note else ""
    return f"What drives {name}{who}, as shares of the variance of its ranks: {', '.join(shares) or 'no axis'}{note}."


def _way(direction: float | None) -> str:
    return "" if direction is None else " (rising)" if direction > 0 else " (falling)"


def _pair(experiment: Description, answer: Answer, pair: Pair) -> str:
    """`At pcie = 16, A beats B by 7 +- 1 % (95 % interval, 5 replications)`, or that the two tie; and at how many settings."""
    where, basis = settings_words(pair.at), _basis(experiment, pair)
    place = f"At {where}, " if where else ""
    a, b = who(answer, pair.a), who(answer, pair.b)
    if pair.verdict == "tie":
        return f"{place}{a} and {b} tie ({basis}){_elsewhere(answer, pair)}."
    if pair.percent is None:
        amount = f"{value_words(abs(pair.difference))} {metric_words(experiment.metric)[1]}".rstrip()
    else:
        amount = share_words(pair.percent, pair.percent_low, pair.percent_high)
    return f"{place}{a} beats {b} by {amount} ({basis}){_elsewhere(answer, pair)}."


def _basis(experiment: Description, pair: Pair) -> str:
    """What a verdict rests on."""
    if pair.samples == 1:
        return "one run each, so no interval"
    return f"{format_share(experiment.level, trim=True)} interval, {pair.samples} replications"


def _elsewhere(answer: Answer, pair: Pair) -> str:
    """At how many of the settings where the two were compared the verdict is the same; nothing where there is one setting."""
    alike_pairs = [candidate for candidate in answer.pairs if {candidate.a, candidate.b} == {pair.a, pair.b}]
    if len(alike_pairs) < 2:
        return ""
    ties = sum(candidate.verdict == "tie" for candidate in alike_pairs)
    better = sum(candidate.verdict != "tie" and candidate.a == pair.a for candidate in alike_pairs)
    counts = {"better at": better, "tied at": ties, "worse at": len(alike_pairs) - better - ties}
    text = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
    return f"; of {len(alike_pairs)} settings, {pair.a} is {text}"


def share_words(percent: float, low: float | None, high: float | None) -> str:
    """`7.1 +- 0.9 %`; the last digit shown is one that the interval leaves standing, and rounding never makes it reach zero."""
    if low is None or high is None:
        return f"{abs(percent):.3g} %"
    half = (high - low) / 2
    if half <= 1e-6 * abs(percent):
        return f"{abs(percent):.4g} +- 0 %"
    digits = min(max(0, 1 - math.floor(math.log10(half))), 4)
    digits = 0 if half >= 10 else digits
    while half < abs(percent) and f"{half:.{digits}f}" == f"{abs(percent):.{digits}f}" and digits < 6:
        digits += 1
    return f"{abs(percent):.{digits}f} +- {half:.{digits}f} %"


def _troubles(answer: Answer) -> list[str]:
    points, texts = answer.points, []
    if points.refused:
        texts.append(f"{format_count(points.refused, 'point')} of {points.planned} cannot be run; the table says why.")
    if points.failed:
        texts.append(f"{format_count(points.failed, 'point')} of {points.planned} failed; the table gives the errors.")
    return texts
