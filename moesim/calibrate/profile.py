"""Owns how measurements become a machine: tiers from memory nodes, a CPU from its curves, the GPU as it was found.

Knows the fields of hardware specs; not how anything was measured or how a file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.calibrate.bandwidth import Sweep
from moesim.calibrate.document import Value, quantity
from moesim.calibrate.experts import Curve
from moesim.calibrate.latency import Latency
from moesim.calibrate.machine import Machine, Node
from moesim.calibrate.trust import Trust
from moesim.fit.solve import Residuals, alternate

__all__ = ["LoadFit", "Memory", "Processor", "load_fit", "machine_profile"]

_EPS = 0.15
_SIXTEEN = 2.0


class Memory(NamedTuple):
    """One node as it was measured; a note where something could not be."""

    node: Node
    sweep: Sweep | None
    latency: Latency | None
    note: str = ""


class Processor(NamedTuple):
    """The CPU as it was measured."""

    curves: Sequence[Curve]
    call: float
    """Seconds of a call that computes next to nothing."""
    kv_rate: float
    """B/s of a key-value cache."""


class LoadFit(NamedTuple):
    """Loaded latency L0 (1 + k u / (1 - u + eps)) with eps kept, and how well it holds."""

    k: float
    reach: float
    """The largest share of the read bandwidth that was in use."""
    fitted: Residuals
    tested: Residuals
    trust: Trust


def load_fit(idle: float, shares: Sequence[float], latencies: Sequence[float]) -> LoadFit | None:
    """k from every second point, by least squares of the latency's rise; None without two points."""
    if len(shares) < 2:
        return None
    u, seconds = np.minimum(np.array(shares), 1.0), np.array(latencies)
    form = u / (1.0 - u + _EPS)
    chosen = alternate(len(u))
    rise = seconds / idle - 1.0
    k = max(0.0, float((form * rise)[chosen].sum() / max(float((form**2)[chosen].sum()), 1e-12)))
    predicted: FloatArray = idle * (1.0 + k * form)
    fitted, tested = (Residuals.of(predicted[half], seconds[half]) for half in (chosen, ~chosen))
    return LoadFit(round(k, 3), float(u.max()), fitted, tested, Trust.of(predicted, seconds))


def machine_profile(
    name: str,
    machine: Machine,
    memories: Sequence[Memory],
    processor: Processor,
    gpu: Mapping[str, Mapping[str, Any]],
    source: str,
) -> dict[str, Any]:
    """The whole file: one CPU of the home node, a tier for each memory node, one GPU behind one link."""
    tiers: dict[str, Any] = {"hbm": {**_kind_first(gpu["memory"]), "at": "gpu"}}
    for memory in memories:
        if memory.sweep is not None:
            tiers[_tier_name(memory.node, machine)] = _tier(memory, machine, source)
    return {
        "kind": "system",
        "name": name,
        "description": f"{machine.cpu}, {len(machine.home.cpus)} cores of node {machine.home.number}; measured by calibrate.",
        "devices": {
            "gpu": {**_kind_first(gpu["gpu"]), "at": "gpu", "memory": "hbm"},
            "cpu": _cpu(processor, source),
        },
        "tiers": tiers,
        "links": {"pcie": {**_kind_first(gpu["link"]), "ends": ["host", "gpu"]}},
    }


def _kind_first(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": part["kind"], **part} if "kind" in part else dict(part)


def _tier_name(node: Node, machine: Machine) -> str:
    if node.number == machine.home.number:
        return "ddr"
    return f"remote{node.number}" if node.cpus else f"cxl{node.number}"


def _tier(memory: Memory, machine: Machine, source: str) -> dict[str, Any]:
    """A node as the home node's processors see it; the link to it is in its numbers, so it stands at the host itself."""
    sweep, node = memory.sweep, memory.node
    assert sweep is not None
    home = node.number == machine.home.number
    threads = max(rate.threads for rate in sweep.rates)
    warm = "" if sweep.cold else f"; the buffer of {sweep.buffer / 1e6:.0f} MB is too small to keep caches out"
    way = f"node {node.number} from node {machine.home.number}, up to {threads} threads"
    seen = f"{source}: {way}, fastest of several turns{warm}"
    tier: dict[str, Any] = {
        "kind": "ddr" if home else "remote" if node.cpus else "cxl",
        "at": "host",
        "capacity": Value(quantity(node.capacity, "B"), "measured", f"{source}: as the kernel tells it"),
        "usable": Value(0.9, "assumed", "the operating system and its file cache keep some; range 0.8-0.97"),
        "read": Value(quantity(sweep.read, "B/s"), "measured", f"{seen}; reads"),
        "write": Value(quantity(sweep.write, "B/s"), "measured", f"{seen}; writes"),
        "total": Value(quantity(sweep.total, "B/s"), "measured", f"{seen}; a copy's reads and writes, or reads"),
    }
    if memory.latency is None:
        text = f"not measured ({memory.note or 'no way to chase pointers here'}); DDR5 80-120 ns, CXL 140-410"
        return {**tier, "latency": Value("100 ns" if home else "250 ns", "assumed", text)}
    text = f"{source}: dependent loads of the C library in a buffer beyond the caches, address translation included"
    tier["latency"] = Value(quantity(memory.latency.idle, "ns"), "measured", text)
    loads = memory.latency.loads
    fit = load_fit(memory.latency.idle, [load.bandwidth / sweep.read for load in loads], [load.latency for load in loads])
    if fit is not None:
        text = f"{source}: such loads beside streams of up to {fit.reach:.0%} of the bandwidth, eps kept at {_EPS}"
        tier["k"] = fit.trust.shape(fit.k, text)
        tier["eps"] = Value(_EPS, "assumed", "server DDR5 0.12-0.16")
    return tier


def _cpu(processor: Processor, source: str) -> dict[str, Any]:
    kernels = {curve.library.name: _kernel(curve, source) for curve in processor.curves}
    curves = [curve for curve in processor.curves if curve.trust.holds] or list(processor.curves)
    narrow = [curve for curve in curves if curve.library.weight == _SIXTEEN]
    used = narrow or [curve for curve in curves if curve.library.weight > _SIXTEEN] or curves
    rate = max(curve.kernel.rate for curve in used)
    return {
        "kind": "cpu",
        "at": "host",
        "memory": "ddr",
        "kernels": kernels,
        "experts": {"kind": "kernels", "use": [curve.library.name for curve in used]},
        "attention": {
            "bandwidth": Value(quantity(processor.kv_rate, "B/s"), "measured", f"{source}: decode attention, float32 cache"),
            "rate": Value(quantity(rate, "FLOP/s"), "derived", "rate of experts with many tokens, assumed to be reached"),
        },
    }


def _kernel(curve: Curve, source: str) -> dict[str, Any]:
    own = curve.library
    wide = "" if own.weight <= _SIXTEEN else "; 16-bit weights taken to stream and multiply as fast, which was not measured"
    text = (
        f"{source}: {own.says}, expert without its activation function; fit, test points {curve.tested.median:.1%} median, "
        f"{curve.tested.p90:.1%} p90{wide}"
    )
    kernel, trust = curve.kernel, curve.trust
    assert kernel.bandwidth is not None
    return {
        "bandwidth": trust.rate(kernel.bandwidth, "B/s", text),
        "rate": trust.rate(kernel.rate, "FLOP/s", text),
        "q": trust.shape(kernel.q, text),
        "valid_tokens": Value(list(curve.tokens), "measured", "range of the points"),
    }
