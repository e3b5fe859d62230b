"""What a notebook holds: a comparison as an object, and how runs and comparisons look at the end of a cell.

Knows summaries; runs and draws nothing.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moesim.errors import MoesimError, did_you_mean
from moesim.results.compare import compare
from moesim.results.marks import is_bound, lane_word, losses, marked
from moesim.units import format_number, format_share

if TYPE_CHECKING:
    import pandas as pd

    from moesim.results.result import Result

__all__ = ["Comparison", "comparison_html", "run_html"]

_RUN = (
    ("throughput_tok_s", "throughput", "tok/s"),
    ("prefill_tok_s", "prefill", "tok/s"),
    ("decode_tok_s", "decode", "tok/s"),
    ("bound_tok_s", "bound", "tok/s"),
    ("hit_rate", "hit rate", "%"),
    ("cost_usd_per_Mtok", "cost", "USD per million output tokens"),
    ("machine_usd", "machine", "USD"),
)


def _value(value: float, unit: str) -> str:
    return format_share(value) if unit == "%" else f"{format_number(value, 4)} {unit}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def run_html(result: Result) -> str:
    """A run: what came out, and what bounds it."""
    summary = result.summary
    rows = [[name, _value(summary[field], unit)] for field, name, unit in _RUN if summary.get(field) is not None]
    holder = summary.get("bottleneck")
    if holder:
        rows.append(["bottleneck", f"{lane_word(holder)}, {format_share(holder['share'])} of the critical path"])
    title = f"{summary['scenario']}: {marked(summary['policy'], lossy=bool(losses(summary)))} runs {summary['model']} on "
    return _table(["", ""], rows, title + str(summary["hardware"]))


def comparison_html(comparison: Mapping[str, Any]) -> str:
    """Policies, the fastest first, and bounds behind them."""
    rows = []
    for summary in (*comparison["results"], *comparison.get("bounds", ())):
        holder = summary["bottleneck"]
        name = marked(summary["policy"], lossy=bool(losses(summary)), bound=is_bound(summary))
        share, hits = summary["share_of_bound"], summary["hit_rate"]
        rows.append([name, format_number(summary["throughput_tok_s"], 4), format_share(share),
                     format_share(hits), format_number(summary["cost_usd_per_Mtok"], 4),
                     lane_word(holder) if holder else "-"])  # fmt: skip
    head = ["policy", "tok/s", "of bound", "hit rate", "USD/Mtok", "bottleneck"]
    return _table(head, rows, str(comparison["scenario"]))


class Comparison(dict[str, Any]):
    """`{"scenario", "results": [summaries, best first], "bounds", "pairs", "refused"}`, and the runs behind it."""

    def __init__(self, runs: Sequence[Result], refused: Mapping[str, str]) -> None:
        super().__init__({**compare(runs), "refused": dict(refused)})
        self.runs: dict[str, Result] = {str(run.summary["policy"]): run for run in runs}
        """Policy -> its run."""

    @property
    def best(self) -> Result:
        """The fastest run of a policy that a system can follow; MoesimError where there is none."""
        if not self["results"]:
            raise MoesimError("only bounds were compared, which no system can run")
        return self.runs[str(self["results"][0]["policy"])]

    def run(self, policy: str) -> Result:
        """The run of a policy."""
        if policy not in self.runs:
            raise MoesimError(
                f"'{policy}' was not compared; there are {', '.join(self.runs)}.{did_you_mean(policy, self.runs)}"
            )
        return self.runs[policy]

    def frame(self) -> pd.DataFrame:
        """A row for each policy, the fastest first, bounds behind all others; nested fields by dotted names."""
        import pandas as pd

        return pd.json_normalize([*self["results"], *self["bounds"]])

    def __str__(self) -> str:
        from moesim.results.table import comparison_table

        return comparison_table(self)

    def _repr_html_(self) -> str:
        return comparison_html(self)
