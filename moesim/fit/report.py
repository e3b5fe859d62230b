"""All fits of a folder of measured tables, and their table of residuals.

Knows which fits there are; fits nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moesim.fit import copies, cpu, dense, gpu, memory, points, published, serving
from moesim.fit.solve import Fit, shown

__all__ = ["fits", "gpus", "lines"]


def fits(data: Path, *, frameworks: bool = False) -> Iterator[Fit]:
    """Every fit: GPUs from the tables in `data`, CPUs, copies and memory; with `frameworks` each framework's kernels too."""
    yield from gpus(data, frameworks=frameworks)
    yield from (gpu.qwen_layer(data), gpu.eager_experts(), dense.attention(data))
    yield from (serving.attention_of_decodes(data), serving.small_kernels(data))
    yield from (cpu.curve(name) for name in published.CPU_CURVES)
    yield from (cpu.layer(name) for name in published.CPU_LAYER)
    yield from (cpu.packed(), copies.pinned(), copies.pageable())
    yield from (memory.loaded(name) for name in published.MESS)
    yield from (memory.cxl_loaded(data, reads) for reads in (98, 70, 46))
    yield memory.cxl_rates(data)


def gpus(data: Path, *, frameworks: bool = False) -> Iterator[Fit]:
    """Fused MoE layers and GEMMs of every GPU in every format."""
    for system in gpu.GPUS:
        for dtype in points.formats(data, system):
            yield gpu.experts(data, system, dtype).fit
            for framework in points.frameworks(data, system, dtype) if frameworks else ():
                yield gpu.experts(data, system, dtype, framework).fit
        for dtype in points.gemm_formats(data, system):
            yield dense.gemm(data, system, dtype)


def lines(fit: Fit) -> Iterator[str]:
    """A fit as text: subject, parameters, residuals of both halves and of the groups, notes."""
    yield f"{fit.component}: {fit.subject}"
    yield f"    {fit.law}"
    yield "    " + ", ".join(f"{name} {shown(value, fit.units[name])}" for name, value in fit.parameters.items())
    yield f"    split: {fit.split}"
    yield f"    fit  {fit.fitted}    test {fit.tested}    (median / nine of ten / worst)"
    for name, residuals in fit.groups.items():
        yield f"        {name}: {residuals}"
    for name, (low, high) in fit.valid.items():
        yield f"    valid: {name} {low:g} to {high:g}"
    yield from (f"    note: {note}" for note in fit.notes)
    yield f"    source: {fit.source}"
