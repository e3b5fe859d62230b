"""The pictures of moesim, one function each; every one takes a run, several runs or a table of a sweep and gives a figure.

Names only: the drawing is in the modules beside this one.
"""

from __future__ import annotations

from moesim.report.canvas import OKABE_ITO, render, save
from moesim.report.figures_accounts import waterfall
from moesim.report.figures_curves import hit_curve, sweep_curve, threshold_curve
from moesim.report.figures_experts import expert_map
from moesim.report.figures_machine import roofline, traffic
from moesim.report.figures_policies import comparison, pareto
from moesim.report.figures_serving import queue
from moesim.report.figures_time import lane_use, layer_time, timeline

__all__ = [
    "OKABE_ITO", "comparison", "expert_map", "hit_curve", "lane_use", "layer_time", "pareto", "queue", "render", "roofline",
    "save", "sweep_curve", "threshold_curve", "timeline", "traffic", "waterfall",
]  # fmt: skip
