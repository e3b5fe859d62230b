"""Several runs of one scenario, ranked: who is fastest, by how much, and whether that is more than chance.

Knows summaries only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from moesim.errors import InputError
from moesim.results.marks import bounds_apart
from moesim.results.statistics import as_share, mean, paired_difference

if TYPE_CHECKING:
    from moesim.results.result import Result

__all__ = ["by_policy", "compare"]

Summary = Mapping[str, Any]
_PERCENT = ("percent", "percent_low", "percent_high")


def compare(results: Iterable[Result | Summary], *, level: float = 0.95) -> dict[str, Any]:
    """`{"scenario", "results": [summaries, best first], "bounds": [...], "pairs": [...]}`.

    Ranked by mean throughput over the replications of a policy; runs without one come last. Policies that no system can follow
    (`is_bound` of a summary) stand under `bounds`, ranked as well, and in no pair. A pair is `{"a", "b", "ratio", "percent",
    "percent_low", "percent_high", "difference_tok_s", "verdict", "samples"}`: a is the higher-ranked policy, `ratio` its
    throughput over b's, `percent` the mean difference over pairs as a share of b's mean with its interval (null for a single
    pair), `samples` the number of pairs, and `verdict` says what a is against b (`faster`, `slower` or `tie`, see
    `statistics.paired_difference`) over the replications that both have, or null where there are none. Raises InputError for
    runs of several scenarios.
    """
    summaries = [dict(result) if isinstance(result, Mapping) else result.summary for result in results]
    scenarios = sorted({str(summary["scenario"]) for summary in summaries})
    if len(scenarios) > 1:
        raise InputError(f"only runs of one scenario can be compared; these are of {', '.join(scenarios)}")
    groups, bounds = bounds_apart(by_policy(summaries))
    return {
        "scenario": scenarios[0] if scenarios else None,
        "results": [summary for group in groups.values() for summary in group],
        "bounds": [summary for group in bounds.values() for summary in group],
        "pairs": [_pair(groups[a], groups[b], level) for a, b in combinations(groups, 2)],
    }


def by_policy(summaries: Iterable[Summary]) -> dict[str, list[Any]]:
    """Policy -> its summaries in order of seed and replicate; policies in order of mean throughput, best first."""
    groups: dict[str, list[Any]] = {}
    for summary in summaries:
        groups.setdefault(summary["policy"], []).append(summary)
    for group in groups.values():
        group.sort(key=_workload)
    # the name breaks ties, so that the order never depends on the order of the input
    ranked = sorted(groups, key=lambda name: (-(_throughput(groups[name]) or -1.0), name))
    return {name: groups[name] for name in ranked}


def _workload(summary: Summary) -> tuple[int, int]:
    """What two policies share in a pair: the same requests, the same routing."""
    return int(summary["seed"]), int(summary["replicate"])


def _throughput(group: Sequence[Summary]) -> float | None:
    values = [summary["throughput_tok_s"] for summary in group if summary["throughput_tok_s"] is not None]
    return mean(values) if values else None


def _pair(group_a: Sequence[Summary], group_b: Sequence[Summary], level: float) -> dict[str, Any]:
    right = {_workload(summary): summary["throughput_tok_s"] for summary in group_b}
    pairs = [
        (summary["throughput_tok_s"], right[_workload(summary)])
        for summary in group_a
        if summary["throughput_tok_s"] is not None and right.get(_workload(summary)) is not None
    ]
    row: dict[str, Any] = {"a": group_a[0]["policy"], "b": group_b[0]["policy"]}
    if not pairs:
        return {**row, **dict.fromkeys(("ratio", *_PERCENT, "difference_tok_s", "verdict")), "samples": 0}
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    difference = paired_difference(a, b, level)
    ends = (as_share(difference.interval, mean(b)) or (None, None, None))[:3]
    return {
        **row,
        "ratio": mean(a) / mean(b) if mean(b) > 0 else None,
        **{name: None if end is None else 100 * end for name, end in zip(_PERCENT, ends, strict=True)},
        "difference_tok_s": difference.interval.mean,
        "verdict": difference.verdict,
        "samples": len(pairs),
    }
