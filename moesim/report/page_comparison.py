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
from moesim.report.figures_policies import Row, front, rows_of
from moesim.report.html import Cell, Html, Page, Part, element, joined, table
from moesim.report.page_origin import origin_parts
from moesim.report.page_run import drawn, run_figures
from moesim.results.compare import by_policy
from moesim.results.marks import gap_note, lane_word, losses, note
from moesim.results.result import Result
from moesim.results.sweeps.words import share_words
from moesim.units import format_count, format_number, format_seconds, format_share

__all__ = ["comparison_page", "ranked_figures"]


def comparison_page(place: Path) -> Page:
    """The page of the comparison in the directory `place`; InputError where its file is none, or compares nothing."""
    try:
        document = strict_json.read_object(place / "comparison.json")
        groups, bounds, pairs = by_policy(document["results"]), by_policy(document.get("bounds", ())), document["pairs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(Mistake(f"is not a comparison: {error}", file=str(place / "comparison.json"))) from None
    everyone = {**groups, **bounds}
    if not everyone:
        raise InputError(Mistake("compares nothing", file=str(place / "comparison.json")))
    _, rows = rows_of(document)
    best = next(iter(everyone.values()))[0]
    title = f"{document['scenario']}: {best['model']} on {best['hardware']}"
    runs = max(map(len, everyone.values()))
    met = f"{len(everyone)} policies met the same requests and the same routing" + (
        f", {runs} replications each" if runs > 1 else ""
    )
    fastest = place / str(best["policy"]).replace(":", "-")
    detail = Result.load(fastest) if (fastest / "result.json").is_file() else None
    refused = document.get("refused") or {}
    lead = "The fastest" if groups else "The best bound"
    parts = [
        Part("ranking", "Ranking", joined([ranked_figures(document, rows), _ranking(everyone, rows)])),
        Part("refused", "Could not run", table("Policies that cannot run here", ["policy", "because"], list(refused.items()))
             if refused else Html()),
        Part("differences", "Differences", _pairs(pairs)),
        Part("fastest", f"{lead}: {rows[0].label}", run_figures(detail) if detail else Html()),
    ]  # fmt: skip
    provenance = dict(document.get("provenance") or (detail.provenance if detail else {}))
    if provenance:
        policies = {"policies": provenance["policies"]} if "policies" in provenance else {}
        provenance["scenario"] = {**provenance.get("scenario", {}), **policies}
        scenario = fastest / "result.json" if detail else "SCENARIO"
        parts += origin_parts(provenance, f"moesim compare {scenario} --policies {','.join(everyone)}")
    return Page(title, [_sentence(rows, pairs, best), f"{met}."], Html(), parts)


def _sentence(rows: Sequence[Row], pairs: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str:
    first, rest = rows[0], [row for row in rows[1:] if row.speed and not row.is_bound]
    if first.is_bound:
        speed = format_number(first.speed or 0.0)
        return f"Only bounds were run, which no system can run; {first.name} is at {speed} tokens per second."
    sentence = _lead(first, rest, pairs)
    if first.bound:
        sentence += f"; it reaches {format_share((first.speed or 0.0) / first.bound)} of what any placement and schedule could"
    holder = best.get("bottleneck")
    return sentence + (
        f", bottleneck: {lane_word(holder)}, {format_share(holder['share'])} of the critical path." if holder else "."
    )


def _lead(first: Row, rest: Sequence[Row], pairs: Sequence[Mapping[str, Any]]) -> str:
    """Who is fastest, and by how much."""
    speed = format_number(first.speed or 0.0)
    ties = [pair["b"] for pair in pairs if pair["a"] == first.name and pair["verdict"] == "tie"]
    if ties:
        return f"{first.label} and {', '.join(ties)} tie at {speed} tokens per second"
    sentence = f"{first.label} is fastest with {speed} tokens per second"
    second = (first.name, rest[0].name) if rest else None
    pair = next((pair for pair in pairs if (pair["a"], pair["b"]) == second), None)
    if pair is None or pair["percent"] is None:
        return sentence
    more = share_words(pair["percent"], pair["percent_low"], pair["percent_high"])
    return f"{sentence}, {more} more than {rest[0].label} ({format_number(rest[0].speed or 0.0)})"


def ranked_figures(runs: Any, rows: Sequence[Row]) -> Html:
    """Throughput by policy, and what it costs."""
    real = [row for row in rows if not row.is_bound] or list(rows)
    top = ", ".join(f"{row.label} {format_number(row.speed)}" for row in real[:3] if row.speed)
    says = f"Mean throughput of each policy in tokens per second, the best first: {top}" + (
        " and further ones." if len(real) > 3 else "."
    )
    says += " Hatched: bounds, which no system can run." if len(real) < len(rows) else ""
    priced = [row for row in real if row.cost is not None and row.speed]
    best = [priced[i].label for i in front([(row.cost or 0.0, row.speed or 0.0) for row in priced])]
    message = f"Pareto front (throughput, cost): {', '.join(best)}." if best else "Throughput against energy."
    return joined([
        drawn("throughput", "Throughput by policy.", says, lambda: figures.comparison(runs)),
        drawn("pareto", "Pareto front.", message, lambda: figures.pareto(runs)) if len(rows) > 1 else Html(),
    ])  # fmt: skip


def _ranking(groups: Mapping[str, Sequence[Mapping[str, Any]]], ranked: Sequence[Row]) -> Html:
    """A table of the policies, one of the bounds, and what the stars and the bounds' proofs say."""
    real, bounds = ([row for row in ranked if row.is_bound is bound] for bound in (False, True))
    best = real[0].speed if real else None
    header = ["rank", "policy", "tok/s", "95 % interval", "of best", "of bound", "first token p50", "per token p50", "hit rate",
              "J/token", "USD/Mtok", "bottleneck", "share"]  # fmt: skip
    tables = []
    for title, block in (("Policies, the fastest first", real), ("Bounds, which no system can run", bounds)):
        rows = [_row(None if row.is_bound else place, row, groups[row.name], best) for place, row in enumerate(block, 1)]
        filled = [i for i in range(len(header)) if any(row[i] is not None for row in rows)]
        if rows:
            tables.append(table(title, [header[i] for i in filled], [[row[i] for i in filled] for row in rows]))
    notes = [note(name, losses(group[0])) for name, group in groups.items() if losses(group[0])]
    notes += filter(None, (gap_note(name, group[0].get("proven_gap")) for name, group in groups.items()))
    return joined([*tables, *(element("p", text, class_="soft") for text in notes)])


def _row(place: int | None, row: Row, group: Sequence[Mapping[str, Any]], best: float | None) -> list[Any]:
    first = group[0]
    holder = first["bottleneck"]
    spread = (
        None
        if row.low is None or row.high is None
        else Cell(f"{format_number(row.low)} to {format_number(row.high)}", row.high - row.low)
    )
    return [
        place, row.label, row.speed, spread, _share(row.speed / best if row.speed and best else None),
        _share(row.speed / row.bound if row.speed and row.bound else None),
        *(_time(first[name]["p50"]) for name in ("ttft_s", "tpot_s")),
        _share(first["hit_rate"]), row.energy, row.cost, lane_word(holder) if holder else None,
        _share(holder["share"]) if holder else None,
    ]  # fmt: skip


def _share(value: float | None) -> Cell | None:
    return None if value is None else Cell(format_share(value), float(value))


def _time(value: float | None) -> Cell | None:
    return None if value is None else Cell(format_seconds(value), float(value))


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Html:
    names = ("a", "b", "ratio", "percent", "percent_low", "percent_high", "difference_tok_s", "samples", "verdict")
    rows = [[pair.get(name) for name in names] for pair in pairs if pair["verdict"]]
    if not rows:
        return Html()
    header = ["policy", "against", "times as fast", "% more", "at least", "at most", "tok/s more", "replications", "verdict"]
    inner = table("Each policy against each slower one", header, rows)
    return element(
        "details",
        element("summary", f"All {format_count(len(rows), 'pair')}" if len(rows) > 1 else "The pair"),
        element("div", inner, class_="scroll"),
    )
