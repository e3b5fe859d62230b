"""The page of one run.

Knows a saved result; draws with the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import InputError
from moesim.report import figures
from moesim.report.axis_words import axis_name
from moesim.report.html import Cell, Html, Page, Part, element, joined, table, unbroken
from moesim.report.inline_svg import figure
from moesim.report.page_origin import origin_parts
from moesim.results.marks import gap_note, is_bound, lane_word, losses, marked, named_lane, note, part_words
from moesim.results.result import Result
from moesim.results.serving import LATENCIES
from moesim.units import format_bytes, format_number, format_rate, format_seconds, format_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["collecting", "drawn", "run_figures", "run_page", "sentence", "tiles"]


_COLLECTED: ContextVar[dict[str, Figure] | None] = ContextVar("collected", default=None)


def run_page(place: Path) -> Page:
    """The page of the run in the directory `place`."""
    result = Result.load(place)
    summary = result.summary
    lossy = losses(summary)
    title = f"{marked(summary['policy'], lossy=bool(lossy))} runs {summary['model']} on {summary['hardware']}"
    head_notes = [note(summary["policy"], lossy)] if lossy else []
    head_notes += [f"{summary['policy']} is a bound, which no system can run"] if is_bound(summary) else []
    lacking = result.details.get("power_unknown"), result.details.get("price_unknown")
    head_notes += [f"Energy is not known without {', '.join(lacking[0])}"] if lacking[0] else []
    head_notes += [f"Cost is not known without {', '.join(lacking[1])}"] if lacking[1] else []
    head_notes += [*filter(None, [gap_note(summary["policy"], summary.get("proven_gap"))]), *result.notes]
    notes = element("ul", *(element("li", text) for text in head_notes), class_="notes") if head_notes else Html()
    trace = place / "trace.json.gz"
    seen = f"The timeline is in {trace.name}; https://ui.perfetto.dev opens it." if trace.is_file() else ""
    lead = joined([_asked(summary), tiles(summary), notes, element("p", seen, class_="soft") if seen else Html()])
    parts = [
        Part("figures", "Figures", run_figures(result)),
        Part("better", "What a better part would bring", _better(result)),
        Part("uncertainty", "How far it may be off", _uncertainty(result)),
        Part("tables", "Tables", _tables(result)),
        *origin_parts(result.provenance, f"moesim run {place / 'result.json'}"),
    ]
    return Page(title, [sentence(summary)], lead, parts)


def sentence(summary: Mapping[str, Any]) -> str:
    """Throughput and bottleneck in words."""
    speed, bound, holder = (summary.get(name) for name in ("throughput_tok_s", "bound_tok_s", "bottleneck"))
    if speed is None:
        return "The run produced no token."
    parts = [f"{format_number(speed)} tokens per second"]
    if bound:
        parts[0] += (
            f", {format_share(speed / bound)} of the {format_number(bound)} "
            "that no placement and no schedule could exceed on this machine"
        )
    if holder:
        parts.append(f"bottleneck: {named_lane(holder)}, {format_share(holder['share'])} of the critical path")
    if summary.get("hit_rate") is not None:
        parts.append(f"{format_share(summary['hit_rate'])} of the expert activations found the weights where they ran")
    return "; ".join(parts) + "."


def _asked(summary: Mapping[str, Any]) -> Html:
    done, rejected = int(summary["requests_completed"]), int(summary["requests_rejected"])
    text = (
        f"Scenario {summary['scenario']}: {done:,} requests done{f', {rejected:,} rejected' if rejected else ''}, "
        f"{int(summary['prompt_tokens']):,} prompt and {int(summary['output_tokens']):,} output tokens in "
        f"{format_seconds(summary['makespan_s'])} of simulated time (seed {summary['seed']}, replicate {summary['replicate']})."
    )
    return element("p", unbroken(text), class_="soft")


def tiles(summary: Mapping[str, Any]) -> Html:
    """The figures that a reader looks for first; those that the run does not have are left out."""
    tokens = summary.get("output_tokens")
    joules = summary.get("energy_J")
    without = ", without electricity" if joules is None else ""
    holder = summary.get("bottleneck")
    candidates = [
        ("throughput", _with(summary.get("throughput_tok_s"), format_number, " tok/s"), ""),
        ("while decoding", _with(summary.get("decode_tok_s"), format_number, " tok/s"), ""),
        ("of the bound", _with(summary.get("share_of_bound"), format_share), ""),
        (
            "to the first token",
            _with(summary["ttft_s"]["p50"], format_seconds),
            _with(summary["ttft_s"]["p99"], format_seconds, " p99"),
        ),
        (
            "per further token",
            _with(summary["tpot_s"]["p50"], format_seconds),
            _with(summary["tpot_s"]["p99"], format_seconds, " p99"),
        ),
        (
            "hit rate",
            _with(summary.get("hit_rate"), format_share),
            _with(summary.get("decode_hit_rate"), format_share, " while decoding"),
        ),
        (
            "bottleneck",
            lane_word(holder) if holder else "",
            format_share(holder["share"]) + " of the critical path" if holder else "",
        ),
        ("energy", _with(joules / tokens if joules is not None and tokens else None, format_number, " J"), "per output token"),
        ("cost", _with(summary.get("cost_usd_per_Mtok"), format_number, " USD"), "per million output tokens" + without),
        ("machine", _with(summary.get("machine_usd"), format_number, " USD"), "price of its parts"),
    ]
    boxes = [element("div", element("dt", name), element("dd", value, element("small", more) if more else Html()))
             for name, value, more in candidates if value]  # fmt: skip
    return element("dl", *boxes, class_="tiles")


def _with(value: Any, write: Callable[[Any], str], unit: str = "") -> str:
    return "" if value is None else write(value) + unit


def drawn(name: str, title: str, says: str, draw: Callable[[], Figure]) -> Html:
    """A figure, or nothing where the run has not what it is drawn from."""
    try:
        picture = draw()
    except InputError:
        return Html()
    collected = _COLLECTED.get()
    if collected is not None:
        collected[name] = picture
        return Html()
    return figure(picture, title, says, name=name)


@contextmanager
def collecting() -> Iterator[dict[str, Figure]]:
    """The figures, by name, that pages draw while the block runs; they are not put into the pages."""
    collected: dict[str, Figure] = {}
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def run_figures(result: Result, prefix: str = "") -> Html:
    """Everything that can be drawn of one run; `prefix` keeps ids apart where a page shows several runs."""
    summary = result.summary
    busy = sorted(((share or 0.0, lane) for lane, share in summary["utilisation"].items()), reverse=True)[:4]
    lanes = ", ".join(f"{lane} {format_share(share)}" for share, lane in busy)
    critical = sorted(result.details.get("critical_s", {}).items(), key=lambda item: -item[1])[:3]
    held = ", ".join(f"{lane} {format_share(time / summary['makespan_s'])}" for lane, time in critical if summary["makespan_s"])
    moved = sorted(result.details.get("caused_B", {}).items(), key=lambda item: -item[1])[:3]
    causes = ", ".join(f"{cause} {format_bytes(amount)}" for cause, amount in moved if amount) or "nothing"
    lying = result.columns.get("experts", {}).get("resident", ())
    resident = float(np.mean(lying)) if len(lying) else 0.0
    entries: list[tuple[str, str, Callable[[Result], Figure], str]] = [
        ("queue", "Requests over time.", figures.queue,
         "Sequences that run, requests that wait for a place, and the share of the KV blocks that is in use."),
        ("lane-use", "Lanes over time.", figures.lane_use,
         f"Share of each pass during which each lane was at work; over the whole run: {lanes}."),
        ("layer-time", "Where a layer's time goes.", figures.layer_time,
         f"Time of each MoE layer by the lane that held it up; of the whole run: {held}."),
        ("roofline", "Roofline.", figures.roofline,
         "Each kind of operation by its FLOP per byte and its rate, under the most that its device reaches. Points on the "
         "slope wait for bytes, points under the flat part for FLOP."),
        ("expert-map", "Experts.", figures.expert_map,
         f"Popularity, place and hits of every expert of every layer; at the end {format_share(resident)} lay in GPU memory."),
        ("hit-curve", "What a cache can serve.", figures.hit_curve,
         "The share of activations that the most popular experts of each layer would serve from GPU memory, against the share "
         "of experts kept there; the mark is this run, which also counts experts computed where they lie."),
        ("traffic", "Traffic.", figures.traffic, f"Bytes over every link and memory tier, and why they moved: {causes}."),
    ]  # fmt: skip
    return joined(drawn(prefix + name, title, says, partial(draw, result)) for name, title, draw, says in entries)


def _tables(result: Result) -> Html:
    summary = result.summary
    latency = [
        [text, *(_seconds(summary[name][key]) for key in ("mean", "p50", "p90", "p99"))]
        for name, text in LATENCIES.items()
        if summary.get(name) is not None and summary[name]["mean"] is not None
    ]
    parts = [table("Latency", ["latency", "mean", "p50", "p90", "p99"], latency)] if latency else []
    lanes = result.columns["lanes"]
    names_of = [str(name) for name in lanes["lane"]]
    rows = [
        [name, _share(lanes["utilisation"][i]), _share(lanes["critical_share"][i]), _amount(lanes["moved_B"][i]),
         _amount(lanes["peak_B"][i]), _count(lanes["expert_tokens"][i])]
        for i, name in enumerate(names_of)
    ]  # fmt: skip
    header = ["lane, link or tier", "at work", "on the critical path", "moved", "most held", "(token, expert) pairs computed"]
    parts.append(table("Lanes, links and tiers", header, rows))
    parts.append(_bill(result))
    parts.append(_operations(result))
    parts.append(_columns(result, "layers", "MoE layers: sums over all visits"))
    parts.append(_columns(result, "steps", "Passes"))
    parts.append(_columns(result, "requests", "Requests"))
    return joined(parts)


def _bill(result: Result) -> Html:
    """What each part of the machine costs; nothing where a price is not known."""
    lines, price = result.details.get("bill", ()), result.summary.get("machine_usd")
    if price is None or not lines:
        return Html()
    rows = [
        [part_words(line), str(line["part"]), Cell(f"{line['usd']:,.0f}", float(line["usd"]))] for line in lines if line["usd"]
    ]
    return table(f"Bill of materials: {price:,.0f} USD", ["part", "place", "USD"], rows)


def _operations(result: Result) -> Html:
    columns = result.columns.get("operations")
    if not columns or not len(columns["device"]):
        return Html()
    names = ("phase", "device", "operation", "work_FLOP", "read_B", "time_s")
    rows = [
        [phase, device, operation, Cell(format_rate(flop, "FLOP"), flop), _amount(nbytes), _seconds(time),
         Cell(format_rate(flop / time, "FLOP/s"), flop / time) if time else None,
         Cell(format_rate(nbytes / time), nbytes / time) if time else None]
        for phase, device, operation, flop, nbytes, time in zip(*(columns[name].tolist() for name in names), strict=True)
    ]  # fmt: skip
    header = ["phase", "device", "operation", "work", "read", "time", "rate", "stream"]
    return table("Operations, each alone on its device", header, rows)


def _columns(result: Result, name: str, caption: str) -> Html:
    """A table of the run as it is, folded away; its first 400 rows."""
    columns = result.columns.get(name)
    if not columns or not len(next(iter(columns.values()))):
        return Html()
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    inner = element(
        "div", table(f"{caption} ({name}.csv)", [key.replace("_", " ") for key in columns], rows, most=400), class_="scroll"
    )
    return element("details", element("summary", caption), inner)


def _uncertainty(result: Result) -> Html:
    """Quantiles of every metric over the machines that were drawn, and of the values that were drawn for them."""
    columns = result.columns.get("uncertainty")
    if not columns:
        return Html()
    values: list[list[Any]] = []
    metrics: list[list[Any]] = []
    for name, column in columns.items():
        known = np.asarray(column, dtype=np.float64)
        known = known[np.isfinite(known)]
        if name == "draw" or not len(known) or known.min() == known.max():
            continue
        cell = _amount if name.startswith("bytes.") else float
        of_machine = name.startswith(("hardware.", "runtime."))
        row = [name if of_machine else axis_name(name), *map(cell, np.quantile(known, (0.05, 0.5, 0.95)))]
        (values if of_machine else metrics).append(row)
    count = len(next(iter(columns.values())))
    says = element(
        "p", f"{count} machines were drawn from the spreads of the profile's values; nine of ten lie between the outer two."
    )
    tables = [("Metrics over the machines drawn", "metric", metrics), ("Values that were drawn", "value", values)]
    return joined([says, *(table(caption, [head, "5 %", "median", "95 %"], rows) for caption, head, rows in tables if rows)])


def _better(result: Result) -> Html:
    """The gain from each part of the machine by itself, and what then limits it."""
    columns = result.columns.get("better")
    if not columns:
        return Html()
    study = result.provenance["better"]
    gain = "throughput" if study["metric"] == "throughput_tok_s" else "speed of a whole request"
    rows = [
        [
            f"{part} {respect}",
            Cell(format_share(change, sign="+"), float(change)),
            float(speed),
            _seconds(first),
            _seconds(later),
            holder,
        ]
        for part, respect, change, speed, first, later, holder in zip(
            *(columns[name] for name in ("part", "respect", "gain", "throughput_tok_s", "ttft_s", "tpot_s", "bottleneck")),
            strict=True,
        )
    ]
    head = ["part", gain, "tokens per second", "first token", "per token", "then limited by"]
    says = f"The same requests on machines that have one part {study['factor']:g} times as good; the policy plans on each anew."
    return joined([element("p", says), table(f"One part {study['factor']:g} times as good", head, rows)])


def _seconds(value: float | None) -> Cell | None:
    return None if value is None or np.isnan(value) else Cell(format_seconds(value), float(value))


def _share(value: float) -> Cell | None:
    return None if np.isnan(value) else Cell(format_share(value), float(value))


def _amount(value: float) -> Cell | None:
    return None if np.isnan(value) else Cell(format_bytes(value), float(value))


def _count(value: float) -> Cell | None:
    return None if np.isnan(value) else Cell(f"{value:,.0f}", float(value))
