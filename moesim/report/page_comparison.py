"""The page of a comparison: policies ranked on the same requests, and the fastest of them in detail.

Knows `comparison.json` and the results beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim import strict_json
from moesim.errors import InputError, Mistake
from moesim.report import figures
from moesim.report.canvas import number, percent
from moesim.report.figures_policies import Row, front, rows_of
from moesim.report.html import Cell, Html, element, joined, table
from moesim.report.page import Page, Part
from moesim.report.page_origin import origin_parts
from moesim.report.page_run import drawn, run_figures
from moesim.results.compare import by_policy
from moesim.results.result import Result
from moesim.units import format_seconds

__all__ = ["comparison_page", "ranked_figures"]


def comparison_page(place: Path) -> Page:
    """The page of the comparison in the directory `place`."""
    try:
        document = strict_json.read_object(place / "comparison.json")
        groups, pairs = by_policy(document["results"]), document["pairs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(Mistake(f"is no comparison: {error}", file=str(place / "comparison.json"))) from None
    if not groups:
        raise InputError(Mistake("compares nothing", file=str(place / "comparison.json")))
    _, rows = rows_of(document)
    best = next(iter(groups.values()))[0]
    title = f"{document['scenario']}: {best['model']} on {best['hardware']}"
    runs = max(map(len, groups.values()))
    met = f"{len(groups)} policies met the same requests and the same routing" + (
        f", {runs} replications each" if runs > 1 else ""
    )
    fastest = place / str(best["policy"]).replace(":", "-")
    detail = Result.load(fastest) if (fastest / "result.json").is_file() else None
    refused = document.get("refused") or {}
    parts = [
        Part("ranking", "Ranking", joined([ranked_figures(document, rows), _ranking(groups)])),
        Part("refused", "Could not run", table("Policies that cannot run here", ["policy", "because"], list(refused.items()))
             if refused else Html()),
        Part("differences", "Differences", _pairs(pairs)),
        Part("fastest", f"The fastest: {best['policy']}", run_figures(detail) if detail else Html()),
    ]  # fmt: skip
    provenance = dict(document.get("provenance") or (detail.provenance if detail else {}))
    if provenance:
        policies = {"policies": provenance["policies"]} if "policies" in provenance else {}
        provenance["scenario"] = {**provenance.get("scenario", {}), **policies}
        scenario = fastest / "result.json" if detail else "SCENARIO"
        parts += origin_parts(provenance, f"moesim compare {scenario} --policies {','.join(groups)}")
    return Page(title, [_sentence(rows, pairs, best), f"{met}."], Html(), parts)


def _sentence(rows: Sequence[Row], pairs: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str:
    first, rest = rows[0], [row for row in rows[1:] if row.speed]
    said = f"{first.name} is fastest with {number(first.speed or 0.0)} tokens per second"
    ties = [pair["b"] for pair in pairs if pair["a"] == first.name and pair["verdict"] == "tie"]
    if ties:
        said = f"{first.name} and {', '.join(ties)} cannot be told apart, at {number(first.speed or 0.0)} tokens per second"
    elif rest:
        more = 100 * ((first.speed or 0.0) / (rest[0].speed or 1.0) - 1)
        said += f", {number(more)} % more than {rest[0].name} ({number(rest[0].speed or 0.0)})"
    if first.bound:
        said += f"; it reaches {percent((first.speed or 0.0) / first.bound)} of what any placement and schedule could"
    holder = best.get("bottleneck")
    return said + (f", held back by {holder['lane']} for {percent(holder['share'])} of the time." if holder else ".")


def ranked_figures(runs: Any, rows: Sequence[Row]) -> Html:
    """Throughput by policy, and what it costs."""
    top = ", ".join(f"{row.name} {number(row.speed)}" for row in rows[:3] if row.speed)
    says = f"Mean throughput of each policy in tokens per second, the best first: {top}" + (
        " and further ones." if len(rows) > 3 else "."
    )
    priced = [row for row in rows if row.cost is not None and row.speed]
    best = [priced[i].name for i in front([(row.cost or 0.0, row.speed or 0.0) for row in priced])]
    told = f"On the front by cost: {', '.join(best)}." if best else "Throughput against energy."
    return joined([
        drawn("throughput", "Throughput by policy.", says, lambda: figures.comparison(runs)),
        drawn("pareto", "What speed costs.", told, lambda: figures.pareto(runs)) if len(rows) > 1 else Html(),
    ])  # fmt: skip


def _ranking(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
    fastest = rows_of([summary for group in groups.values() for summary in group])[1]
    rows = [_row(place, row, groups[row.name], fastest[0].speed) for place, row in enumerate(fastest, 1)]
    header = ["rank", "policy", "tok/s", "95 % interval", "of best", "of bound", "first token p50", "per token p50", "hit rate",
              "J/token", "USD/Mtok", "held back by", "for"]  # fmt: skip
    filled = [i for i in range(len(header)) if any(row[i] is not None for row in rows)]
    return table("Policies, the fastest first", [header[i] for i in filled], [[row[i] for i in filled] for row in rows])


def _row(place: int, row: Row, group: Sequence[Mapping[str, Any]], best: float | None) -> list[Any]:
    first = group[0]
    holder = first["bottleneck"] or {"lane": None, "share": None}
    spread = (
        None if row.low is None or row.high is None else Cell(f"{number(row.low)} to {number(row.high)}", row.high - row.low)
    )
    return [
        place, row.name, row.speed, spread, _share(row.speed / best if row.speed and best else None),
        _share(row.speed / row.bound if row.speed and row.bound else None),
        *(_time(first[name]["p50"]) for name in ("ttft_s", "tpot_s")),
        _share(first["hit_rate"]), row.energy, row.cost, holder["lane"], _share(holder["share"]),
    ]  # fmt: skip


def _share(value: float | None) -> Cell | None:
    return None if value is None else Cell(percent(value), float(value))


def _time(value: float | None) -> Cell | None:
    return None if value is None else Cell(format_seconds(value), float(value))


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        [pair["a"], pair["b"], pair["ratio"], pair["difference_tok_s"], pair["verdict"]] for pair in pairs if pair["verdict"]
    ]
    if not rows:
        return Html()
    inner = table("Each policy against each slower one", ["policy", "against", "times as fast", "tok/s more", "verdict"], rows)
    return element("details", element("summary", f"All {len(rows):,} pairs"), element("div", inner, class_="scroll"))
