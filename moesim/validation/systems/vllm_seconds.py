"""Who ran, who waited and how many KV blocks were in use, second by second, measured beside simulated.

Knows columns of requests and of the logger; no scenario.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.results.result import Result
from moesim.validation.case import Exhibit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEVELS", "Seconds", "blocks_of_stamps", "exhibit", "levels_at"]

LEVELS = ("running", "waiting", "kv_blocks")
"""What is compared."""


class Seconds(NamedTuple):
    """[T] seconds, and by level what was measured and what was simulated, [T] each."""

    time: FloatArray
    measured: dict[str, FloatArray]
    simulated: dict[str, FloatArray]

    def off(self, level: str) -> float:
        """Mean distance of the simulated level from the measured one, as a share of the highest measured."""
        distance = np.abs(self.simulated[level] - self.measured[level])
        return float(distance.mean() / self.measured[level].max())

    def csv(self) -> str:
        """A row for each second."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["time_s", *(f"{level}_{kind}" for level in LEVELS for kind in ("measured", "simulated"))])
        for place, time in enumerate(self.time.tolist()):
            pairs = (side[level][place] for level in LEVELS for side in (self.measured, self.simulated))
            writer.writerow([f"{time:g}", *(f"{value:.0f}" for value in pairs)])
        return text.getvalue()


def levels_at(result: Result, time: FloatArray) -> dict[str, FloatArray]:
    """The levels of a simulated run at each of `time` [T] seconds."""
    queue = result.columns["queue"]
    row = np.maximum(np.searchsorted(queue["time_s"], time, side="right") - 1, 0)
    return {level: queue[level][row].astype(np.float64) for level in LEVELS}


def blocks_of_stamps(rows: dict[str, FloatArray], time: FloatArray, size: int = 16) -> FloatArray:
    """[T] KV blocks of `size` tokens that the requests of a record held at each of `time` [T] seconds.

    `rows`: [R] `prompt_tokens`, `output_tokens` and stamps `scheduled_s`, `first_token_s`, `last_token_s`. A prompt holds its
    blocks from its scheduling on, outputs come evenly between the first and the last token. Valid: no shared prefixes; a
    prompt in chunks takes its blocks a few steps later than assumed here.
    """
    start, first, last = (rows[name][:, None] for name in ("scheduled_s", "first_token_s", "last_token_s"))
    share = np.clip((time - first) / np.maximum(last - first, 1e-9), 0.0, 1.0)
    tokens = rows["prompt_tokens"][:, None] + share * rows["output_tokens"][:, None]
    there = (start <= time) & (time < last)
    blocks: FloatArray = np.where(there, np.ceil(tokens / size), 0.0).sum(axis=0)
    return blocks


def exhibit(seconds: Seconds) -> Exhibit:
    """The table by seconds, and its picture."""
    text = "\n".join(f"{level}: off by {100 * seconds.off(level):.1f} % of its peak on average" for level in LEVELS)
    return Exhibit("seconds", text, seconds.csv(), _drawing(seconds))


def _drawing(seconds: Seconds) -> Callable[[], Figure]:
    def draw() -> Figure:
        from moesim.report.figures_serving import beside

        return beside(seconds.time, seconds.measured, seconds.simulated, title="a measured serving run and its simulation")

    return draw
