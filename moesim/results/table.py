"""Results as text for the terminal: one run, or several ranked. At most 120 columns, plain ASCII.

Knows summaries and alignment; computes nothing but shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from moesim.results.compare import by_policy
from moesim.results.marks import gap_note, is_bound, lane_word, losses, marked, named_lane, note, part_words
from moesim.results.serving import LATENCIES, LIMITS
from moesim.results.statistics import mean, t_interval
from moesim.units import format_bytes, format_count, format_number, format_seconds, format_share

if TYPE_CHECKING:
    from moesim.results.result import Result

__all__ = ["WIDTH", "align", "comparison_table", "run_table"]

WIDTH = 120
"""Columns that a table may fill."""
_NAME = 32
_BAR = 24
_FACT = 16
"""Columns of the name of a fact."""


def align(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a table: the first `left` columns flush left, numbers flush right, two spaces between.

    Names in the first columns are cut until the table fits `WIDTH`.
    """
    for limit in range(_NAME, 7, -1):
        shown = [[_cut(cell, limit) if index < left else cell for index, cell in enumerate(row)] for row in (header, *rows)]
        widths = [max(len(row[index]) for row in shown) for index in range(len(header))]
        if sum(widths) + 2 * (len(widths) - 1) <= WIDTH:
            break
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()[:WIDTH]
        for row in shown
    ]


def _cut(text: str, width: int = _NAME) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _number(value: float | None) -> str:
    return format_number(value, zeros=True)


def _bar(share: float) -> str:
    filled = round(min(max(share, 0.0), 1.0) * _BAR)
    return "#" * filled + "." * (_BAR - filled)


def run_table(result: Result) -> str:
    """All of one run on one screen: workload, throughput, bottleneck, cost, latency, lanes, bytes."""
    summary = result.summary
    name = marked(summary["policy"], lossy=bool(losses(summary)))
    title = f"{summary['scenario']}: {name} runs {summary['model']} on {summary['hardware']}"
    blocks = [
        [_cut(title, WIDTH), "=" * min(len(title), WIDTH), *_headline(summary), *_spending(result)],
        _latency(summary),
        _lanes(result),
        _experts(summary),
        _bytes(result),
        _footnotes(summary),
        _notes(result),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _fact(name: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{name:<{_FACT}}", subsequent_indent=" " * _FACT)


def _headline(summary: Mapping[str, Any]) -> list[str]:
    completed, rejected = summary["requests_completed"], summary["requests_rejected"]
    requests = completed + rejected
    output = f" and {_number(summary['output_tokens'])} output" if summary["output_tokens"] else ""
    tokens = f"{_number(summary['prompt_tokens'])} prompt{output} tokens"
    seed = f"(seed {summary['seed']}, replicate {summary['replicate']})"
    lines = _fact("workload", f"{format_count(requests, 'request')}: {tokens} {seed}")
    if rejected:
        lines += _fact("", f"{_number(completed)} completed, {_number(rejected)} rejected; tokens of the completed ones")
    cost = "" if summary["wall_s"] is None else f", computed in {format_seconds(summary['wall_s'])}"
    counts = f"{format_count(summary['layer_visits'], 'layer visit')}, {format_count(summary['events'], 'event')}"
    lines += _fact("simulated time", f"{format_seconds(summary['makespan_s'])} ({counts}{cost})")
    total = f" ({_number(summary['total_tok_s'])} tok/s with the prompts)" if summary["output_tokens"] else ""
    lines += _fact("throughput", f"{_number(summary['throughput_tok_s'])} tok/s{total}")
    for phase in ("prefill", "decode"):
        lines += _phase(summary, phase)
    if summary["bound_tok_s"] is not None:
        lines += _fact("bound", f"{_number(summary['bound_tok_s'])} tok/s, which no placement or schedule can beat; "
                       f"this run reaches {format_share(summary['share_of_bound'])} of it")  # fmt: skip
    if summary["bottleneck"] is not None:
        holder = summary["bottleneck"]
        lines += _fact("bottleneck", f"{named_lane(holder)}, {format_share(holder['share'])} of the critical path")
    if summary["hit_rate"] is not None:
        decode = summary.get("decode_hit_rate")
        of_decode = "" if decode is None else f", {format_share(decode)} while decoding"
        text = f"{format_share(summary['hit_rate'])} of expert activations found the weights where they ran{of_decode}"
        lines += _fact("hit rate", text)
    return lines + _prefetch(summary) + _slo(summary)


def _phase(summary: Mapping[str, Any], phase: str) -> list[str]:
    """Throughput of the passes of one phase, and what bounds them."""
    speed, holder = summary.get(f"{phase}_tok_s"), (summary["bottleneck"] or {}).get(phase)
    if not speed:
        return []
    bounded = f", bottleneck: {lane_word(holder)}, {format_share(holder['share'])} of its critical path" if holder else ""
    return _fact(phase, f"{_number(speed)} tok/s{bounded}")


def _prefetch(summary: Mapping[str, Any]) -> list[str]:
    prefetch = summary["prefetch"]
    if prefetch is None:
        return []
    used, in_time, brought = (format_share(prefetch[name]) for name in ("used", "in_time", "coverage"))
    text = f"{_number(prefetch['copies'])} copies, {used} of them used, {in_time} of those in time; they brought {brought}"
    return _fact("prefetch", f"{text} of what was missing")


def _slo(summary: Mapping[str, Any]) -> list[str]:
    """Service levels and preemptions of a run whose requests arrive over time."""
    lines, slo = [], summary.get("slo")
    if slo is not None:
        limits = [
            f"{name.upper()} {format_seconds(slo[f'{name}_s'])} ({format_share(slo[f'{name}_attainment'])})"
            for name in LIMITS
            if f"{name}_s" in slo
        ]
        text = f"{format_share(slo['attainment'])} of the requests keep {', '.join(limits)}"
        lines += _fact("SLO", f"{text}; goodput {_number(slo['goodput_req_s'])} requests/s")
    if summary.get("preemptions"):
        lines += _fact("preempted", f"{_number(summary['preemptions'])} times a sequence lost its KV blocks")
    return lines


def _footnotes(summary: Mapping[str, Any]) -> list[str]:
    """What the star behind the policy's name stands for, and how good a plan is proven to be."""
    losses_shown, name = losses(summary), summary["policy"]
    gap = gap_note(name, summary.get("proven_gap"))
    apart = f"{name} is a bound, which no system can run" if is_bound(summary) else ""
    return [line for text in (note(name, losses_shown) if losses_shown else "", apart, gap) for line in wrap(text, WIDTH)]


def _spending(result: Result) -> list[str]:
    """Energy and cost, or which parts of the machine do not say what they need for it."""
    summary, lines = result.summary, []
    if summary["energy_J"] is not None:
        tokens = summary["output_tokens"]
        per_token = f", {_number(summary['energy_J'] / tokens)} J per output token" if tokens else ""
        lines += _fact("energy", f"{_number(summary['energy_J'])} J{per_token}")
    elif result.details.get("power_unknown"):
        lines += _fact("energy", f"not known without {', '.join(result.details['power_unknown'])}")
    if summary["cost_usd_per_Mtok"] is not None:
        without = "" if summary["energy_J"] is not None else ", without electricity"
        lines += _fact("cost", f"{_number(summary['cost_usd_per_Mtok'])} USD per million output tokens{without}")
    elif result.details.get("price_unknown"):
        lines += _fact("cost", f"not known without {', '.join(result.details['price_unknown'])}")
    return lines + _bill(result)


def _bill(result: Result) -> list[str]:
    """What the machine costs, part by part."""
    price, lines = result.summary.get("machine_usd"), result.details.get("bill", [])
    if price is None:
        return []
    parts = ", ".join(f"{part_words(line)} {_number(line['usd'])}" for line in lines if line["usd"])
    return _fact("machine", f"{price:,.0f} USD: {parts}")


def _latency(summary: Mapping[str, Any]) -> list[str]:
    rows = [
        [text, *(format_seconds(summary[name][key]) for key in ("mean", "p50", "p90", "p99"))]
        for name, text in LATENCIES.items()
        if summary.get(name) is not None and summary[name]["mean"] is not None
    ]
    return align(["latency", "mean", "p50", "p90", "p99"], rows) if rows else []


def _lanes(result: Result) -> list[str]:
    """Lanes that worked or are on the critical path, the worst first: `#` is the share of the time that the lane was busy."""
    makespan = result.summary["makespan_s"]
    busy, critical = result.summary["utilisation"], result.details.get("critical_s", {})
    shares = {lane: critical.get(lane, 0.0) / makespan for lane in {*busy, *critical}} if makespan else {}
    ranked = sorted(shares, key=lambda lane: (-shares[lane], -(busy.get(lane) or 0.0), lane))
    words = result.details.get("lane_words", {})
    rows = [
        [lane, words.get(lane, ""), _bar(busy.get(lane) or 0.0), format_share(busy.get(lane)), format_share(shares[lane])]
        for lane in ranked
        if shares[lane] > 0 or busy.get(lane)
    ]
    return align(["lane", "work", "", "busy", "critical path"], rows, left=3) if rows else []


def _experts(summary: Mapping[str, Any]) -> list[str]:
    counts = summary["expert_tokens"]
    total = sum(counts.values())
    if not total:
        return []
    ranked = sorted(counts, key=lambda device: (-counts[device], device))
    rows = [[name, _bar(counts[name] / total), format_share(counts[name] / total), _number(counts[name])] for name in ranked]
    return align(["experts run on", "", "share", "(token, expert) pairs"], rows, left=2)


def _bytes(result: Result) -> list[str]:
    moved = result.summary["bytes"]
    ranked = sorted((name for name in moved if moved[name] > 0), key=lambda name: (-moved[name], name))
    makespan = result.summary["makespan_s"]
    rows = [[name, format_bytes(moved[name]), f"{format_bytes(moved[name] / makespan)}/s"] for name in ranked if makespan]
    lines = align(["moved over", "bytes", "on average"], rows) if rows else []
    caused = result.details.get("caused_B", {})
    reasons = ", ".join(f"{cause} {format_bytes(amount)}" for cause, amount in
                        sorted(caused.items(), key=lambda item: (-item[1], item[0])) if amount > 0)  # fmt: skip
    return [*lines, *(_fact("caused by", reasons) if reasons else [])]


def _notes(result: Result) -> list[str]:
    return [line for note in result.notes for line in wrap(note, WIDTH, initial_indent="note: ", subsequent_indent="      ")]


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """A ranked table of what `compare` returned; replications of a policy share one line."""
    groups, bounds = by_policy(comparison["results"]), by_policy(comparison.get("bounds", ()))
    if not groups and not bounds:
        return "nothing to compare"
    everyone = {**groups, **bounds}
    best = _mean(next(iter(groups.values())), "throughput_tok_s") if groups else None
    several = any(len(group) > 1 for group in everyone.values())
    header = ["", "policy", "tok/s", *(["+-95 %"] if several else []), "of best", "of bound", "TTFT p50", "TPOT p50",
              "hit rate", "USD/Mtok", "bottleneck"]  # fmt: skip
    rows = [_rank(str(index), name, group, best, several) for index, (name, group) in enumerate(groups.items(), 1)]
    rows += [_rank("", name, group, best, several) for name, group in bounds.items()]
    lines = align(header, rows, left=2)
    rule, ranked = "-" * max(map(len, lines)), len(groups) + 1
    apart = ["", "bounds, which no system can run", rule, *lines[ranked:]] if bounds else []
    first = next(iter(everyone.values()))[0]
    title = f"{comparison['scenario']}: {first['model']} on {first['hardware']}"
    runs = f", {max(map(len, everyone.values()))} replications, same requests and routing for each policy" if several else ""
    below = _below(everyone, comparison["pairs"], " " * lines[0].index("policy"))
    return "\n".join([_cut(title + runs, WIDTH), "", lines[0], rule, *lines[1:ranked], *apart, *below])


def _below(groups: Mapping[str, Sequence[Mapping[str, Any]]], pairs: Sequence[Mapping[str, Any]], indent: str) -> list[str]:
    """Ties, stars and proven gaps under a comparison."""
    sentences = [f"{pair['a']} and {pair['b']} tie" for pair in pairs if pair["verdict"] == "tie"]
    sentences += [note(name, losses(group[0])) for name, group in groups.items() if losses(group[0])]
    sentences += filter(None, (gap_note(name, group[0].get("proven_gap")) for name, group in groups.items()))
    return [*([""] if sentences else []), *(_cut(f"{indent}{line}", WIDTH) for line in sentences)]


def _rank(index: str, name: str, group: Sequence[Mapping[str, Any]], best: float | None, several: bool) -> list[str]:
    speed = _mean(group, "throughput_tok_s")
    values = [summary["throughput_tok_s"] for summary in group if summary["throughput_tok_s"] is not None]
    spread = [_number(t_interval(values).half_width) if values else "-"] if several else []
    holder = group[0]["bottleneck"]
    return [
        index,
        marked(name, lossy=bool(losses(group[0]))),
        _number(speed),
        *spread,
        format_share(speed / best if speed is not None and best else None),
        format_share(_mean(group, "share_of_bound")),
        format_seconds(_mean(group, "ttft_s", "p50")),
        format_seconds(_mean(group, "tpot_s", "p50")),
        format_share(_mean(group, "hit_rate")),
        _number(_mean(group, "cost_usd_per_Mtok")),
        _cut(f"{lane_word(holder)} {format_share(holder['share'], 0)}", 24) if holder else "-",
    ]


def _mean(group: Sequence[Mapping[str, Any]], name: str, part: str | None = None) -> float | None:
    values = [summary[name] if part is None else summary[name][part] for summary in group]
    known = [value for value in values if value is not None]
    return mean(known) if known else None
