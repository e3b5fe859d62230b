"""The document of the benchmarks as text: a table for each part, with the ratios that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from benchmarks.peers import INSTALLED_BY

__all__ = ["text_of"]

Row = dict[str, Any]


def text_of(document: Row) -> str:
    """All parts of the document."""
    head = f"moesim {document['commit'][:10]} on {document['machine']}, Python {document['python']}; CPU seconds, medians"
    return "\n\n".join([head, *("\n".join(_PARTS[part](document[part])) for part in _PARTS if part in document)])


def _visits(part: Row) -> Iterator[str]:
    """Layer visits beside naive SimPy."""
    rest = itemgetter("speedup", "speedup_reference", "makespan_difference")
    heads = ("decode", "machine", "batch", "naive/s", "moesim/s", "times", "reference", "differs by")
    yield from _table(
        "layer visits of a whole run, beside naive SimPy in the same process",
        heads,
        [
            (row["policy"], row["hardware"], row["batch"], *map(row["layer_visits_per_s"].get, ("naive", "kernel")), *rest(row))
            for row in part["cases"]
        ],
    )
    calls = [(name, row["dispatch_us"], row["adapt_us"]) for name, row in part["calls"].items()]
    yield from (
        "",
        *_table("microseconds of a policy's slots, those of dispatch by visit", ("policy", "dispatch", "adapt"), calls),
    )
    yield from ("", *_table("seconds to import", ("module", "s"), list(part["import_s"].items())))


def _jobs(part: Row) -> Iterator[str]:
    """Whole commands, beside the times of the first edition."""
    rows = []
    for name, row in part.items():
        for way, spent in row.items():
            first = spent.get("share_of_first_edition")
            shown = "" if first is None else f"{first:.0%}"
            visits = spent.get("visits_per_cpu_s", "")
            rows.append((name, way, spent["cpu_s"], spent["wall_s"], spent["peak_MB"], visits, shown))
    heads = ("job", "routing", "CPU s", "wall s", "MB", "visits/s", "of the first edition")
    yield from _table("whole commands as a user starts them", heads, rows)


def _growth(part: Row) -> Iterator[str]:
    """Slopes on log axes."""
    rows = [(policy, axis, *row["cpu_s"], row["slope"]) for policy, axes in part.items() for axis, row in axes.items()]
    yield from _table("CPU seconds as one thing grows", ("policy", "what grows", "x 1", "x 2", "x 4", "x 8", "slope"), rows)


def _serving(part: Row) -> Iterator[str]:
    """Output tokens per CPU second."""
    naive = part["naive"]["output_tokens_per_cpu_s"]
    rows = [
        (name, row["requests"], row["cpu_s"], row["output_tokens_per_cpu_s"])
        for name, row in part.items()
        if name not in ("naive", "peers")
    ]
    yield from _table("served requests: the loop with routing drawn before", ("case", "requests", "CPU s", "tokens/s"), rows)
    yield f"beside naive SimPy: {naive['kernel']:,} and {naive['naive']:,} tokens/s, {part['naive']['speedup']:,} times"
    for name, row in part["peers"].items():
        yield f"beside {name} {row['version']}, which knows no experts: {row['output_tokens_per_cpu_s']:,} tokens/s on w1"
    if not part["peers"]:
        yield f"no peer is installed; there is {', '.join(f'{name} ({package})' for name, package in INSTALLED_BY.items())}"


_PARTS: dict[str, Callable[[Row], Iterator[str]]] = {
    "visits": _visits,
    "serving": _serving,
    "jobs": _jobs,
    "growth": _growth,
}


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Texts to the left, numbers to the right."""
    cells = [tuple(heads), *(tuple(map(_shown, row)) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    left = [all(isinstance(row[column], str) for row in rows) for column in range(len(heads))]
    yield from (title, "-" * len(title))
    for row in cells:
        texts = (
            text.ljust(width) if lefts else text.rjust(width) for text, width, lefts in zip(row, widths, left, strict=True)
        )
        yield "  ".join(texts).rstrip()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
