"""The pictures of moesim, one function each; every one takes a run, several runs or a table of a sweep and gives a figure.

Names only: the drawing is in the modules beside this one.
"""

from __future__ import annotations

from moesim.report.canvas import render, save
from moesim.report.colours import OKABE_ITO
from moesim.report.figures_accounts import waterfall
from moesim.report.figures_curves import hit_curve, sweep_curve, threshold_curve
from moesim.report.figures_experts import expert_map
from moesim.report.figures_machine import roofline, traffic
from moesim.report.figures_policies import comparison, pareto
from moesim.report.figures_rates import rate_latency
from moesim.report.figures_serving import queue
from moesim.report.figures_time import lane_use, layer_time, timeline

OF_RUNS = ("timeline", "lane_use", "layer_time", "roofline", "traffic", "expert_map", "hit_curve", "queue")
"""Figures that are drawn from one result."""

__all__ = [
    "OF_RUNS", "OKABE_ITO", "comparison", "expert_map", "hit_curve", "lane_use", "layer_time", "pareto", "queue",
    "rate_latency", "render", "roofline", "save", "sweep_curve", "threshold_curve", "timeline", "traffic",
    "waterfall",
]  # fmt: skip
