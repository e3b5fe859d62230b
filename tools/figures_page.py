"""Draws the pictures of docs/figures.md: one of each figure, 3.33 inches wide.

python tools/figures_page.py           draws them into docs/figures
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import moesim
from moesim.report import figures
from moesim.report.canvas import house_style, printed, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "figures"
WORK = {"workload.output": 16}
SPEEDS = {"hardware.links.pcie.rate": [f"{rate} GB/s" for rate in (13, 26, 52)], "workload.output": [8]}
RATES = {"name": "rates", "scenario": "quickstart", "axes": SPEEDS, "replications": 3,
         "policies": ["lru", "cox_moe", "static_popularity"]}  # fmt: skip
HOT = {"name": "hot", "scenario": "cxl_expert/threshold", "axes": {"policy.hot": [step / 10 for step in range(1, 10)]},
       "replications": 3}  # fmt: skip
TRAFFIC = {"name": "traffic", "scenario": {"extends": "serving/mixtral-4bit-poisson",
           "workload": {"prompt": 512, "output": 24, "slo": {"ttft": "1 s", "tpot": "100 ms"}}},
           "axes": {"workload.arrivals.rate": [f"{rate}/s" for rate in (2, 8, 16, 32)]}, "bound": False}  # fmt: skip
STEPS = [("one expert after another", 0.208), ("side by side", 0.061), ("uploads overlap", 0.049), ("the CPU helps", 0.031)]


def pictures() -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Name -> how it is drawn."""
    result = moesim.run("quickstart", policy="cox_moe", timeline=True, **WORK)
    for name in ("lane_use", "layer_time", "roofline", "traffic", "expert_map", "hit_curve"):
        yield name, partial(result.plot, name)
    yield "timeline", lambda: result.plot_timeline(start=0.84, end=0.843)
    served = moesim.run("serving/mixtral-4bit-poisson")
    yield "queue", lambda: served.plot("queue")
    compared = moesim.compare("quickstart", ["lru", "cox_moe", "static_popularity", "on_demand", "belady"], **WORK)
    yield "comparison", lambda: figures.comparison(compared)
    yield "pareto", lambda: figures.pareto(compared)
    rates = moesim.sweep(RATES, jobs=1)
    yield "sweep_curve", lambda: figures.sweep_curve(rates.mean_columns, x="hardware.links.pcie.rate", log=True)
    traffic = moesim.sweep(TRAFFIC, jobs=1)
    yield "rate_latency", lambda: figures.rate_latency(traffic.mean_columns)
    hot = moesim.sweep(HOT, jobs=1)
    yield "threshold_curve", lambda: figures.threshold_curve(hot.mean_columns, x="policy.hot")
    yield "waterfall", lambda: figures.waterfall(STEPS)


def main() -> int:
    """Draws all of them."""
    for name, draw in pictures():
        with house_style(), printed("column"):
            sys.stderr.write(f"{save(draw(), FOLDER / f'{name}.svg')}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
