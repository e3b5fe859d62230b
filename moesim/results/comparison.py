"""What `moesim.compare` answers: policies ranked on the same requests, as a mapping, a table and a page of a notebook.

Knows summaries; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moesim.errors import MoesimError, did_you_mean
from moesim.results.compare import compare
from moesim.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison"]


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
            raise MoesimError("only bounds were compared, which no system can reach")
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

        from moesim.results.sweeps import flat

        return pd.DataFrame([flat(summary) for summary in (*self["results"], *self["bounds"])])

    def __str__(self) -> str:
        from moesim.results.table import comparison_table

        return comparison_table(self)

    def _repr_html_(self) -> str:
        from moesim.results.notebook import comparison_html

        return comparison_html(self)
