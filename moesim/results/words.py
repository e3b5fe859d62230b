"""A sweep in words: its answer as sentences, and on one screen.

Knows the numbers of an answer; finds none of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moesim.results.marks import marked, note
from moesim.results.metrics import metric_words
from moesim.results.table import align

if TYPE_CHECKING:
    from moesim.results.sweeps import SweepResult

__all__ = ["number", "optimum_sentences", "sentences", "share_words", "sweep_text"]

_MOST = 12
"""Lines of each kind that a screen shows; the files hold all."""
_ROWS = 30
_WEIGHED = {"throughput_tok_s": "throughput", "cost_usd_per_Mtok": "cost", "energy_J": "energy"}
_NAMED = 0.05
"""Share of the variance from which on a sentence names an axis."""


def number(value: Any) -> str:
    """A value as sentences say it: `12,300`, `0.84`, `98.4`, or the text itself."""
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 9999.5 or float(value).is_integer() else f"{value:.4g}"


def _interval(middle: Any, low: Any, high: Any, unit: str = "") -> str:
    tail = f" {unit}" if unit else ""
    return (
        f"{number(middle)}{tail}" if low is None or low == high else f"{number(middle)} [{number(low)}, {number(high)}]{tail}"
    )


def _at(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {number(value)}" for name, value in settings.items())


def _plural(count: int, singular: str, more: str) -> str:
    return f"{count:,} {singular if count == 1 else more}"


def sentences(experiment: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """The answer, the most wanted first: best setting, peaks and crossovers around it, policies against each other."""
    best = answer["best"]
    if best is None:
        condition = f" that keeps {_limits(answer)}" if answer.get("constraints") else ""
        return [f"No point has a value of the metric{condition}, so there is no answer.", *_troubles(answer)]
    texts = [_best(experiment, answer)]
    for peak in answer["peaks"]:
        if peak["policy"] == best["policy"] and _around(peak["at"], best["settings"]):
            texts.append(_peak(experiment, peak))
    for cross in answer["crossovers"]:
        if _around(cross["at"], best["settings"]):
            texts.append(_crossover(experiment, cross))
    texts += [_driver(experiment, driver) for driver in answer["drivers"] if driver["policy"] == best["policy"]]
    pairs = [pair for pair in answer["pairs"] if _around(pair["at"], best["settings"])]
    pairs = [pair for pair in pairs if pair["a"] in (best["policy"], best["settings"].get(answer["contenders"]))]
    texts += [_pair(experiment, answer, pair) for pair in pairs[:_MOST]]
    return [*texts, *_bounds(experiment, answer), *_troubles(answer)]


def _bounds(experiment: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """What policies that no system can follow reach, beside the best that one can."""
    _, unit = metric_words(experiment["metric"])
    best = answer["best"]["mean"]
    texts = []
    for bound in answer["bounds"]:
        times = f", {bound['mean'] / best:.3g} times the best" if best > 0 else ""
        where = f" at {_at(bound['settings'])}" if bound["settings"] else ""
        value = _interval(bound["mean"], bound["low"], bound["high"], unit)
        texts.append(f"{bound['policy']}, a bound that no system can reach: {value}{times}{where}.")
    return texts


def _limits(answer: Mapping[str, Any]) -> str:
    return " and ".join(answer["constraints"])


def optimum_sentences(experiment: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """The best values of each policy, between which tested ones they lie, and who keeps the constraints nowhere."""
    name, unit = metric_words(experiment["metric"])
    keeping = f" that keeps {_limits(answer)}" if answer.get("constraints") else ""
    texts = []
    for optimum in answer["optimum"]:
        free = {key: value for key, value in optimum["settings"].items() if key not in optimum["between"]}
        places = [f"{key} = {number(optimum['settings'][key])} [{number(ends['low'])}, {number(ends['high'])}]"
                  for key, ends in optimum["between"].items()]  # fmt: skip
        where = ", ".join([*places, *([_at(free)] if free else [])])
        value = _interval(optimum["mean"], optimum["low"], optimum["high"], unit)
        texts.append(
            f"{_who(answer, optimum['policy'])}: the {answer['goal']} {name}{keeping}, {value}, at {where}; "
            f"{optimum['runs']} settings tried."
        )
    for group in answer["out_of_reach"]:
        where = f" at {_at(group['settings'])}" if group["settings"] else ""
        missed = f"; all miss {' and '.join(group['missed'])}" if group["missed"] else ""
        texts.append(f"{_who(answer, group['policy'])}{where}: none of {group['runs']} settings{keeping}{missed}.")
    return texts


def _who(answer: Mapping[str, Any], policy: str) -> str:
    """The name with the star of a policy that changes the model's output."""
    return marked(policy, lossy=policy in answer.get("lossy", ()))


def _around(at: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return all(best.get(name) == value for name, value in at.items())


def _best(experiment: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    best, (name, unit) = answer["best"], metric_words(experiment["metric"])
    value = _interval(best["mean"], best["low"], best["high"], unit)
    who = f" by {_who(answer, best['policy'])}" if len(experiment["policies"]) > 1 or not best["settings"] else ""
    where = f" at {_at(best['settings'])}" if best["settings"] else ""
    name += f" that keeps {_limits(answer)}" if answer.get("constraints") else ""
    tied = len(best["tied"])
    alike = f"{_plural(tied, 'other setting is', 'other settings are')} statistically indistinguishable from it"
    rivals = f"; {alike}" if tied else ""
    return f"The {answer['goal']} {name}, {value}, is reached{who}{where}{rivals}."


def _peak(experiment: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    name, _ = metric_words(experiment["metric"])
    highest = experiment["goal"] == "highest"
    word, place = "Peak" if highest else "Least", f"{number(peak['value'])} [{number(peak['low'])}, {number(peak['high'])}]"
    who = f" ({peak['policy']})" if len(experiment["policies"]) > 1 else ""
    if peak["kind"] == "flat":
        return f"{peak['column']} makes no measurable difference to {name}{who}."
    if peak["kind"] == "edge":
        gain = _factor(peak, highest)
        end = "last" if peak["value"] == max(peak["tied"]) and peak["low"] != peak["value"] else "first"
        return f"Along {peak['column']}, {name} is {experiment['goal']} at the {end} value, {number(peak['value'])}{gain}{who}."
    if peak["kind"] == "plateau":
        span = f"{number(peak['tied'][0])} to {number(peak['tied'][-1])}"
        if peak["at_edge"]:
            return f"Along {peak['column']}, {name} is {experiment['goal']} from {span}, which tie{who}."
        return f"{word} of {name} along {peak['column']} at {place}: a plateau, {span} tie{who}."
    return f"{word} of {name} along {peak['column']} at {place}{who}."


def _crossover(experiment: Mapping[str, Any], cross: Mapping[str, Any]) -> str:
    """Who passes whom, and where; between whole numbers there is no place to name."""
    who, column = f"{cross['above']} passes {cross['below']}", cross["column"]
    low, high = number(cross["low"]), number(cross["high"])
    values = next(axis["values"] for axis in experiment["axes"] if axis["column"] == column)
    if all(isinstance(value, int) for value in values):
        return f"{who} between {column} = {low} and {high}."
    return f"{who} at {column} = {number(cross['value'])} [{low}, {high}]."


def _factor(peak: Mapping[str, Any], highest: bool) -> str:
    """How much better the best is than the worst along an axis."""
    high, low = (peak["mean"], peak["worst"]) if highest else (peak["worst"], peak["mean"])
    return f", {high / low:.3g} times {'the lowest' if highest else 'less than the highest'}" if low > 0 else ""


def _driver(experiment: Mapping[str, Any], driver: Mapping[str, Any]) -> str:
    """Which axes a sampled design found to matter, and which way."""
    name, _ = metric_words(experiment["metric"])
    who = f" ({driver['policy']})" if len(experiment["policies"]) > 1 else ""
    if not driver["axes"]:
        return f"What drives {name}{who} is not known: {driver['note']}."
    shares = [
        f"{axis['column']} {100 * axis['share']:.0f} %{_way(axis['direction'])}"
        for axis in driver["axes"]
        if axis["share"] >= _NAMED
    ]
    note = f"; {driver['note']}" if driver["note"] else ""
    return f"What drives {name}{who}, as shares of the variance of its ranks: {', '.join(shares) or 'no axis'}{note}."


def _way(direction: float | None) -> str:
    return "" if direction is None else " (rising)" if direction > 0 else " (falling)"


def _pair(experiment: Mapping[str, Any], answer: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """`At pcie = 16, A beats B by 7 +- 1 % (95 % interval, 5 replications)`, or that the two tie; and at how many settings."""
    where, basis = _at(pair["at"]), _basis(experiment, pair)
    place = f"At {where}, " if where else ""
    a, b = _who(answer, pair["a"]), _who(answer, pair["b"])
    if pair["verdict"] == "tie":
        return f"{place}{a} and {b} tie ({basis}){_elsewhere(answer, pair)}."
    if pair["percent"] is None:
        amount = f"{number(abs(pair['difference']))} {metric_words(experiment['metric'])[1]}".rstrip()
    else:
        amount = share_words(pair["percent"], pair["percent_low"], pair["percent_high"])
    return f"{place}{a} beats {b} by {amount} ({basis}){_elsewhere(answer, pair)}."


def _basis(experiment: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """What a verdict rests on."""
    if pair["samples"] == 1:
        return "one run each, so no interval"
    return f"{100 * experiment['level']:g} % interval, {pair['samples']} replications"


def _elsewhere(answer: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """At how many of the settings where the two were compared the verdict is the same; nothing where there is one setting."""
    alike_pairs = [candidate for candidate in answer["pairs"] if {candidate["a"], candidate["b"]} == {pair["a"], pair["b"]}]
    if len(alike_pairs) < 2:
        return ""
    ties = sum(candidate["verdict"] == "tie" for candidate in alike_pairs)
    better = sum(candidate["verdict"] != "tie" and candidate["a"] == pair["a"] for candidate in alike_pairs)
    counts = {"better at": better, "tied at": ties, "worse at": len(alike_pairs) - better - ties}
    text = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
    return f"; of {len(alike_pairs)} settings, {pair['a']} is {text}"


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


def _warm_up(answer: Mapping[str, Any]) -> list[str]:
    """What was left out of `steady_tok_s`, and whether that did."""
    warm = answer["warm_up"]
    if not warm["runs"]:
        return []
    how = {"auto": "MSER-5", "none": "nothing cut"}.get(warm["cut"], "as asked")
    text = f"warm-up ({how}): {number(warm['steps_mean'])} decode passes a run are left out of steady_tok_s, on average"
    rest = f"; {warm['unsettled']} of {_plural(warm['runs'], 'run', 'runs')} too short to settle" if warm["unsettled"] else ""
    return [text + rest]


def _troubles(answer: Mapping[str, Any]) -> list[str]:
    points, texts = answer["points"], []
    if points["refused"]:
        texts.append(f"{_plural(points['refused'], 'point', 'points')} of {points['asked']} cannot be run; the table says why.")
    if points["failed"]:
        texts.append(f"{_plural(points['failed'], 'point', 'points')} of {points['asked']} failed; the table gives the errors.")
    return texts


def sweep_text(result: SweepResult) -> str:
    """A sweep on one screen: the answer, the means, and what went wrong."""
    experiment, answer = result.experiment, result.answer
    title = f"{experiment['name']}: {experiment['summary'] or experiment['scenario']}"
    lines = [title, "=" * min(len(title), 100), *answer["sentences"], ""]
    if len(answer["pareto"]) > 1 and "optimum" in answer:
        lines += _front(answer)
    header, rows = _means(result)
    lines += align(header, rows[:_ROWS], left=len(header) - 4)
    if len(rows) > _ROWS:
        lines.append(f"... and {len(rows) - _ROWS} more rows; summary.csv has all")
    lines += [note(policy, ["at most " + words[0], *words[1:]]) for policy, words in answer.get("lossy", {}).items()]
    lines += _drivers_table(experiment, answer)
    lines += _warm_up(answer)
    return "\n".join([*lines, *_failures(answer["failures"])])


def _drivers_table(experiment: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """What the metric of each policy varies with, for a sampled design."""
    lines = []
    for driver in answer.get("drivers", ()):
        who = f" ({driver['policy']})" if len(answer["drivers"]) > 1 else ""
        if driver["axes"]:
            ways = ["" if axis["direction"] is None else f"{axis['direction']:+.2f}" for axis in driver["axes"]]
            rows = [
                [axis["column"], f"{100 * axis['share']:.1f} %", way] for axis, way in zip(driver["axes"], ways, strict=True)
            ]
            rows.append(["not explained by any one of them", f"{100 * max(0.0, 1 - driver['explained']):.1f} %", ""])
            head = [
                f"{metric_words(experiment['metric'])[0]}{who} varies with",
                "share of variance (by rank)",
                "rank correlation",
            ]
            lines += ["", *align(head, rows)]
        lines += [f"note{who}: {driver['note']}"] if driver["note"] else []
    return [*lines, ""] if lines else []


def _failures(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each reason once, with the first point that it stopped."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for failure in failures:
        groups.setdefault((failure["status"], failure["error"]), []).append(failure)
    lines = []
    for (status, error), group in groups.items():
        first = group[0]
        where = ", ".join(part for part in (_at(first["settings"]), first["policy"], f"replicate {first['replicate']}") if part)
        more = f" and {_plural(len(group) - 1, 'more point', 'more points')}" if len(group) > 1 else ""
        lines.append(f"{status} at {where}{more}: {error}")
    return [*lines[:_MOST], *([f"... and {len(lines) - _MOST} more reasons; table.csv has all"] if len(lines) > _MOST else [])]


def _front(answer: Mapping[str, Any]) -> list[str]:
    """Settings that none beats in throughput, cost and energy at once, as far as these are known."""
    front = answer["pareto"]
    weighed = [name for text, name in _WEIGHED.items() if text not in answer.get("not_weighed", ())]
    left = [name for text, name in _WEIGHED.items() if text in answer.get("not_weighed", ())]
    unknown = f" ({' and '.join(left)} not weighed: unknown for some of the settings)" if left else ""
    measures = [name for name in front[0] if name not in ("settings", "policy")]
    rows = [
        [_at(setting["settings"]), _who(answer, setting["policy"]), *(number(setting[name]) for name in measures)]
        for setting in front
    ]
    return [
        f"no setting beats these in all of {', '.join(weighed)}{unknown}:",
        *align(["at", "policy", *measures], rows, left=2),
        "",
    ]


def _means(result: SweepResult) -> tuple[list[str], list[list[str]]]:
    experiment, means = result.experiment, result.mean_columns
    metric = experiment["metric"]
    names = [name for axis in experiment["axes"] for name in axis["columns"]]
    policies = ["policy"] if len(experiment["policies"]) > 1 or not names else []
    limits = [limit["metric"] for limit in experiment.get("constraints", ()) if limit["metric"] in means]
    header = [*names, *policies, metric, f"{100 * experiment['level']:g} % interval", *limits, "samples", "bottleneck"]
    rows = []
    for index in range(len(means["samples"])):
        at = {name: means[name][index] for name in means}
        low, high = at.get(f"{metric}.low"), at.get(f"{metric}.high")
        known = low is not None and not math.isnan(low) and low != high
        spread = f"{number(low)} to {number(high)}" if known else ""
        name = marked(str(at["policy"]), lossy=at.get("lossy") == "yes", bound=at.get("is_bound") == "yes")
        own = [name] if policies else []
        limited = [number(at[name]) for name in limits]
        holder = str(at.get("bottleneck.words") or at["bottleneck.lane"])
        last = [number(at.get(metric)), spread, *limited, str(at["samples"]), holder]
        rows.append([*(number(at[column]) for column in names), *own, *last])
    return header, rows
