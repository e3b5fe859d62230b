"""What a fit says to a profile: the expert and GEMM blocks and fixed times of a measured GPU as YAML text.

Writes no file; where the text goes is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moesim.fit import dense, gpu, points
from moesim.fit.solve import Fit, shown

__all__ = ["PACKED", "gpu_profile"]

PACKED = {
    "fp8": (8.5, ("fp8_block", "fp8")),
    "int4": (4.6, ("int4_wo", "w4a16_mxfp4")),
}
"""Format of a profile -> most stored bits per weight, and measured formats: the one with most rows stands for it."""
_SHARES = ("streaming", "efficiency", "half", "q", "activations")


def gpu_profile(data: Path, system: str) -> str:
    """The blocks `experts`, `formats`, `gemm` and `fixed` of a measured GPU."""
    return "".join(f"{line}\n" for line in _lines(data, system))


def _lines(data: Path, system: str) -> Iterator[str]:
    plain, product = gpu.experts(data, system, "bfloat16").fit, dense.gemm(data, system, "bfloat16")
    yield from ("experts:", "  kind: roofline", *_block(plain, 2))
    packed = {name: table for name in PACKED if (table := _widest(data, system, name))}
    if packed:
        yield "formats:"
    for name, dtype in packed.items():
        yield from _format(data, system, name, dtype)
    yield from ("gemm:", "  kind: roofline", *product.to_profile(("streaming", "efficiency", "q"), indent=2).splitlines())
    yield "fixed:"
    yield f'  gemm: {{value: {shown(product["launch"], "s")}, basis: derived, source: "same fit as gemm ({system})"}}'
    yield f'  layer: {{value: {shown(plain["launch"], "s")}, basis: derived, source: "same fit as experts, one fused layer"}}'


def _block(fit: Fit, indent: int) -> list[str]:
    return fit.to_profile(_SHARES, indent=indent).splitlines()


def _widest(data: Path, system: str, name: str) -> str | None:
    there = [dtype for dtype in PACKED[name][1] if dtype in points.formats(data, system)]
    return max(there, key=lambda dtype: gpu.experts(data, system, dtype).fit.tested.points, default=None)


def _format(data: Path, system: str, name: str, dtype: str) -> Iterator[str]:
    fit, bits, facts = gpu.experts(data, system, dtype).fit, PACKED[name][0], gpu.GPUS[system]
    source = f"{points.BITS[dtype]:g} bits as stored ({dtype} rows) and room for other scales"
    yield from (f"  {name}:", f'    bits: {{value: {bits}, basis: derived, source: "{source}"}}')
    if gpu.peak(system, dtype) != facts.compute:
        peak = f"{gpu.peak(system, dtype) / 1e12:g} TFLOPS"
        yield f'    compute: {{value: {peak}, basis: datasheet, source: "dense 8-bit peak, twice that of BF16 (vendor)"}}'
    yield from ("    experts:", "      kind: roofline", *_block(fit, 6))
