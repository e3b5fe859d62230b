"""Words that screens, pages and figures share: stars and bounds beside policies, bottlenecks, parts of a bill.

Knows summaries and the flat rows of a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moesim.units import format_share

__all__ = [
    "IDLE",
    "LOSSY",
    "MARKS",
    "STAR",
    "bounds_apart",
    "gap_note",
    "idle_notes",
    "is_bound",
    "lane_word",
    "losses",
    "losses_of_rows",
    "marked",
    "named_lane",
    "note",
    "part_words",
]

STAR = " *"
LOSSY = "* changes the model's output"
BOUND = " (bound)"
MARKS = ("is_bound", "lossy")
"""Columns of a sweep's tables that say `yes` or `no`."""
_SHARES = ("skipped", "replaced", "stale")


def is_bound(entry: Mapping[str, Any]) -> bool:
    """Whether a summary, or a row of a sweep (where truth is `yes`), is of a policy that no system can follow."""
    return entry.get("is_bound") in (True, "yes")


def bounds_apart(groups: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """(policies that systems can follow, bounds) of summaries by policy, each in the order given."""
    split: tuple[dict[str, list[Any]], dict[str, list[Any]]] = ({}, {})
    for name, group in groups.items():
        split[is_bound(group[0])][name] = group
    return split


def losses(summary: Mapping[str, Any]) -> list[str]:
    """What a run did to the model's output, largest share first; empty for a run that computes what the model asks for."""
    quality = summary.get("quality")
    return [] if quality is None else _changed_shares(quality)  # a summary that was put together elsewhere need not know


def _changed_shares(quality: Mapping[str, Any]) -> list[str]:
    shares = {name: quality.get(name) or 0.0 for name in _SHARES}
    shares |= {f"at {bits} bits": share for bits, share in quality.get("precision", {}).items() if bits != quality["native"]}
    return [
        f"{format_share(shares[name])} {name}" for name in sorted(shares, key=lambda name: -shares[name]) if shares[name] > 0
    ]


def losses_of_rows(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """As `losses`, the most of each kind that any row of a sweep shows; rows have `quality.skipped` and the like."""
    most: dict[str, float] = {}
    precision: dict[str, float] = {}
    for row in rows:
        for name in _SHARES:
            most[name] = max(most.get(name, 0.0), row.get(f"quality.{name}") or 0.0)
        for column, share in row.items():
            bits = column.removeprefix("quality.precision.")
            if bits != column and bits != str(row.get("quality.native")) and share:
                precision[bits] = max(precision.get(bits, 0.0), share)
    return _changed_shares({**most, "precision": precision, "native": ""})


def marked(policy: str, *, lossy: bool = False, bound: bool = False) -> str:
    """The name as tables and figures show it."""
    return f"{policy}{BOUND if bound else ''}{STAR if lossy else ''}"


def note(policy: str, losses: Iterable[str]) -> str:
    """The footnote of a star."""
    return f"* {policy} changes the model's output: {', '.join(losses)}"


IDLE = "computed nothing: this policy places no experts there; the price and the power of the machine count all GPUs"
"""What is said of GPUs that a policy does not use."""


def idle_notes(notes_of: Mapping[str, Iterable[str]]) -> list[str]:
    """Under a comparison: which policies (name -> notes of its run) leave a GPU idle."""
    idle = [policy for policy, notes in notes_of.items() if any(text.endswith(IDLE) for text in notes)]
    return [f"one GPU alone works under {', '.join(idle)}"] if idle else []


def gap_note(policy: str, gap: float | None) -> str:
    """How far from the best of its kind a searched plan may be; nothing for a policy that proves nothing."""
    if gap is None:
        return ""
    near = "" if gap < 5e-6 else f"within {100 * gap:.2g} % of "
    plan = f"{policy}: its plan is proven to be {near}the best of its kind, in the times that it plans with"
    return f"{plan}; where queues and draws differ from these, another policy may be faster"


def lane_word(holder: Mapping[str, Any]) -> str:
    """A bottleneck (`lane`, `words`, `share`) in words: `PCIe upload`; its lane where there are none."""
    return str(holder.get("words") or holder["lane"])


def named_lane(holder: Mapping[str, Any]) -> str:
    """`PCIe upload (pcie:forward)`."""
    word, lane = lane_word(holder), str(holder["lane"])
    return lane if word == lane else word if word.endswith(f"({lane})") else f"{word} ({lane})"


def part_words(line: Mapping[str, Any]) -> str:
    """A line of a bill in words: `rtx-4090`, `ddr5-dual-channel (128 GB)`."""
    name = str(line.get("name") or str(line["part"]).partition(".")[2])
    amount = str(line["amount"]).partition(" at ")[0]
    return f"{name} ({amount})" if amount else name
