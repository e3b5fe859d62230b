"""Owns what a calibration prints: what was measured, and how well the fitted models match it.

Knows measurements and alignment; computes nothing but errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moesim.calibrate.accelerator import Fitted
from moesim.calibrate.cuda import GpuPoints
from moesim.calibrate.experts import Curve, Point
from moesim.calibrate.machine import Machine
from moesim.calibrate.profile import Memory, load_fit
from moesim.fit.solve import Residuals
from moesim.results.table import align
from moesim.units import format_bytes, format_rate, format_seconds

__all__ = ["curve_lines", "gpu_lines", "machine_lines", "memory_lines", "point_lines", "warning_lines"]


def machine_lines(machine: Machine, versions: str) -> list[str]:
    """What the machine is."""
    nodes = ", ".join(
        f"node {node.number}: {len(node.cpus)} cores, {format_bytes(node.capacity)}"
        + (" (no cores: an expander)" if not node.cpus else "")
        for node in machine.nodes
    )
    pages = f"; transparent huge pages: {machine.huge_pages}" if machine.huge_pages else ""
    return [f"{machine.cpu}; {nodes}; last-level cache {format_bytes(machine.cache)}{pages}; {versions}"]


def memory_lines(memories: Sequence[Memory]) -> list[str]:
    """Bandwidth by threads, latency by load, and how the model of loaded latency holds."""
    rows, lines = [], []
    for memory in memories:
        for rate in memory.sweep.rates if memory.sweep is not None else ():
            figures = map(format_rate, (rate.read, rate.write, rate.copy))
            rows.append([f"node {memory.node.number}", str(rate.threads), *figures])
        if memory.latency is not None and memory.sweep is not None:
            lines += ["", *_latency(memory)]
        if memory.note:
            lines.append(f"node {memory.node.number}: {memory.note}")
    return [*align(["memory", "threads", "read", "write", "copy (both ways)"], rows), *lines]


def _latency(memory: Memory) -> list[str]:
    assert memory.latency is not None
    assert memory.sweep is not None
    idle, loads = memory.latency.idle, memory.latency.loads
    shares = [load.bandwidth / memory.sweep.read for load in loads]
    fit = load_fit(idle, shares, [load.latency for load in loads])
    rows = [["idle", "", format_seconds(idle), "", ""]]
    for index, (share, load) in enumerate(zip(shares, loads, strict=True)):
        u = min(share, 1.0)
        model = idle * (1.0 + (fit.k if fit else 0.0) * u / (1.0 - u + 0.15))
        half = "fit" if index % 2 == 0 else "test"
        rows.append([f"beside {format_rate(load.bandwidth)}", f"{share:.0%}", format_seconds(load.latency),
                     f"{model / load.latency - 1:+.0%}" if fit else "", half if fit else ""])  # fmt: skip
    return align([f"latency of node {memory.node.number}", "of reads", "measured", "model", ""], rows)


def curve_lines(curves: Sequence[Curve]) -> list[str]:
    """Each kernel's constants, and its errors by shape on both halves of the split."""
    rows = []
    for curve in curves:
        kernel = curve.kernel
        constants = f"{format_rate(kernel.bandwidth or 0)}, {format_rate(kernel.rate, 'FLOP/s')}, q {kernel.q:.3g}"
        rows.append([curve.library.name, constants, _held(curve.fitted), _held(curve.tested)])
        for model in dict.fromkeys(point.shape.model for point in curve.points):
            halves = [[p for p in curve.points if p.shape.model == model and p.fitted is half] for half in (True, False)]
            rows.append([f"  {model}", "", *(_held(_residuals(curve, points)) for points in halves)])
    head = ["experts on the CPU", "bandwidth, rate, corner", "fitted: median, worst", "test: median, worst"]
    return align(head, rows, left=2)


def _residuals(curve: Curve, points: Sequence[Point]) -> Residuals:
    return Residuals.of(curve.predicted(points) if points else [], np.array([point.seconds for point in points]))


def _held(residuals: Residuals) -> str:
    if not residuals.points:
        return "-"
    return f"{residuals.median:.0%}, {residuals.worst:.0%} (n = {residuals.points})"


def warning_lines(memories: Sequence[Memory], curves: Sequence[Curve], gpu: Mapping[str, Fitted]) -> list[str]:
    """A line for each fit that does not count as measured; kernels of such a fit are not used where there are others."""
    lines = []
    for memory in memories:
        if memory.latency is not None and memory.sweep is not None:
            shares = [load.bandwidth / memory.sweep.read for load in memory.latency.loads]
            fit = load_fit(memory.latency.idle, shares, [load.latency for load in memory.latency.loads])
            lines += fit.trust.warning(f"the loaded latency of node {memory.node.number}") if fit else []
    for curve in curves:
        lines += curve.trust.warning(f"experts on the CPU by {curve.library.name}")
    if curves and not any(curve.trust.holds for curve in curves):
        lines.append("warning: no kernel of the CPU counts as measured, so the CPU runs experts by assumed ones")
    for gpu_fit in gpu.values():
        lines += gpu_fit.trust.warning(f"{gpu_fit.name} on the GPU")
    return lines


def point_lines(curves: Sequence[Curve]) -> list[str]:
    """Every measured point with its prediction, for the comments of a profile."""
    rows = []
    for curve in curves:
        for point, predicted in zip(curve.points, curve.predicted(curve.points).tolist(), strict=True):
            shape = f"{point.shape.model} {point.shape.hidden} x {point.shape.width}"
            rows.append([point.kernel, shape, str(point.tokens), format_seconds(point.seconds), format_seconds(predicted),
                         f"{predicted / point.seconds - 1:+.0%}", "fit" if point.fitted else "test"])  # fmt: skip
    return align(["kernel", "expert", "tokens", "measured", "fitted", "error", "used for"], rows, left=2)


def call_line(seconds: float) -> str:
    """What a call to the CPU costs, which is the runtime's and not in the profile."""
    return f"a call of an expert too small to matter takes {format_seconds(seconds)} (runtime.cpu.launch)"


def gpu_lines(points: GpuPoints, fits: dict[str, Fitted]) -> list[str]:
    """The GPU's rates and its fits."""
    pageable = [copy for copy in points.copies if not copy.pinned]
    best = {way: max((c.nbytes / c.seconds for c in pageable if c.to_gpu is way), default=0.0) for way in (True, False)}
    lines = [
        f"{points.name}: memory {format_rate(points.read)}, products {format_rate(points.peak, 'FLOP/s')}, decode attention "
        f"{format_rate(points.kv_rate)} of cache, launch {format_seconds(points.launch)}, "
        f"hand-over to the host and back {format_seconds(points.round_trip)}",
        f"pageable copies at best {format_rate(best[True])} to the GPU, {format_rate(best[False])} to the host; "
        f"both directions pinned {format_rate(points.both)} in sum",
    ]
    rows = [[fit.name, _constants(fit), _held(fit.fitted), _held(fit.tested)] for fit in fits.values()]
    return [*lines, *align(["GPU", "constants", "fitted: median, worst", "test: median, worst"], rows, left=2)]


def _constants(fit: Fitted) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in fit.values.items())
