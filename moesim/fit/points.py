"""Reads tables of measured points: fused MoE layers, GEMMs, memory curves.

Knows their columns, nothing of models; the files are not part of this package.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moesim import files
from moesim.arrays import FloatArray

__all__ = ["BITS", "MOE_SOURCE", "Gemms", "Layer", "distinct_experts", "formats", "frameworks", "gemm_formats", "gemms",
           "layers", "memory_curves"]  # fmt: skip

MOE_SOURCE = "aiconfigurator-core 0.12.0 MoE tables"
BITS = {"bfloat16": 16.0, "fp8": 8.0, "fp8_block": 8.0, "int4_wo": 4.125, "w4a16_mxfp4": 4.25, "nvfp4": 4.5}
"""Format -> stored bits per weight, scales included."""
_Row = dict[str, str]


class Layer(NamedTuple):
    """One measured call of a fused MoE layer."""

    distribution: str
    model: str
    experts: int
    top_k: int
    hidden: int
    width: int
    tokens: int
    seconds: float


class Gemms(NamedTuple):
    """Measured products [m, k] x [k, n]; all arrays [rows], sorted by m, n, k."""

    m: FloatArray
    n: FloatArray
    k: FloatArray
    seconds: FloatArray


@cache
def _rows(path: Path) -> tuple[_Row, ...]:
    return tuple(csv.DictReader(line for _, line in files.read_lines(path)))


def _moe(data: Path, system: str) -> list[_Row]:
    return [row for row in _rows(data / "kernels/moe_layer_measured.csv.gz") if row["system"] == system]


def formats(data: Path, system: str) -> list[str]:
    """Formats in which MoE layers of `system` were measured, widest first."""
    return sorted({row["moe_dtype"] for row in _moe(data, system)}, key=lambda name: (-BITS[name], name))


def frameworks(data: Path, system: str, dtype: str) -> list[str]:
    """Frameworks whose kernels were measured on `system` in a format."""
    return sorted({row["fw"] for row in _moe(data, system) if row["moe_dtype"] == dtype})


def layers(data: Path, system: str, dtype: str, framework: str | None = None) -> list[Layer]:
    """MoE layers of `system` in a format, the fastest measured kernel (of `framework`, or of any) for each case.

    Without `framework`, those that were not measured with every distribution are left out: the fastest would be another
    kernel for skewed loads than for balanced ones, and skew would seem to cost what the kernel does.
    Sorted by distribution, model, shape and tokens, which is the order that splits refer to.
    """
    rows = [row for row in _moe(data, system) if row["moe_dtype"] == dtype]
    use = {framework} if framework is not None else _complete(rows)
    best: dict[tuple[str, str, int, int, int, int, int], float] = {}
    for row in rows:
        if row["fw"] in use:
            sizes = [int(row[key]) for key in ("num_experts", "topk", "hidden_size", "inter_size", "num_tokens")]
            key = (row["distribution"], row["model"], *sizes)
            best[key] = min(best.get(key, float("inf")), float(row["latency_ms"]) * 1e-3)  # type: ignore[index,arg-type]
    return [Layer(*key, seconds) for key, seconds in sorted(best.items())]


def _complete(rows: Sequence[_Row]) -> set[str]:
    """Frameworks that were measured with as many distributions as any."""
    met: dict[str, set[str]] = {}
    for row in rows:
        met.setdefault(row["fw"], set()).add(row["distribution"])
    most = max((len(formats) for formats in met.values()), default=0)
    return {name for name, formats in met.items() if len(formats) == most}


def gemm_formats(data: Path, system: str) -> list[str]:
    """Formats in which GEMMs of `system` were measured."""
    return sorted({row["dtype"] for row in _rows(data / "kernels/gemm_measured.csv.gz") if row["system"] == system})


def gemms(data: Path, system: str, dtype: str) -> Gemms:
    """GEMMs of `system` in a format."""
    table = _rows(data / "kernels/gemm_measured.csv.gz")
    rows = [row for row in table if row["system"] == system and row["dtype"] == dtype]
    return Gemms(*_columns(sorted([*(float(row[key]) for key in "mnk"), float(row["latency_ms"]) * 1e-3] for row in rows)))


def distinct_experts(data: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(tokens, distinct experts, seconds), each [rows]: a Qwen3-30B-A3B layer on an RTX PRO 6000, vLLM 0.19, BF16."""
    rows = _rows(data / "kernels/moe_time_qwen3-30b-a3b_rtxpro6000.csv")
    tokens, experts, seconds = _columns(
        [[float(row["tokens"]), float(row["activated_experts"]), float(row["time_us"]) * 1e-6] for row in rows]
    )
    return tokens, experts, seconds


def memory_curves(data: Path) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Share of reads in per cent -> (B/s, seconds), each [rows]: loaded latency of a CXL expander."""
    by_share: dict[int, list[list[float]]] = {}
    for row in _rows(data / "memory/cxl_micron_model_curves.csv"):
        pair = [float(row["bandwidth_gbps"]) * 1e9, float(row["latency_ns_at_2.1ghz"]) * 1e-9]
        by_share.setdefault(int(row["read_pct"]), []).append(pair)
    return {share: (pairs[0], pairs[1]) for share, rows in by_share.items() if (pairs := _columns(rows))}


def _columns(rows: Sequence[Sequence[float]]) -> list[FloatArray]:
    return list(np.array(rows, dtype=np.float64).T)
