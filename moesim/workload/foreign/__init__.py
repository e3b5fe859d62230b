"""Reads what other tools write about requests and routing, and writes it as the files that workloads read.

Requests become a CSV with `arrival_s, prompt_tokens, output_tokens`, routing of tokens a record (see
`moesim.workload.routing.record`), counts of experts a popularity table (see `moesim.workload.csvfile`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.workload.foreign.benches import burstgpt, llmservingsim, vllm_bench
from moesim.workload.foreign.counts import eplb, moe_infinity, sglang_counts
from moesim.workload.foreign.imported import Imported, Shape
from moesim.workload.foreign.recorders import esft, moe_sim, sglang_tokens
from moesim.workload.foreign.requests import azure, dynamo, mooncake
from moesim.workload.foreign.routing import sglang, vllm
from moesim.writing import file_target, write

__all__ = ["REQUESTS", "ROUTING", "Imported", "import_trace"]

REQUESTS: dict[str, Callable[[Path], tuple[bytes, Imported]]] = {
    "azure": azure,
    "mooncake": mooncake,
    "dynamo": dynamo,
    "burstgpt": burstgpt,
    "llmservingsim": llmservingsim,
    "vllm-bench": vllm_bench,
}
ROUTING: dict[str, Callable[[Path, Shape | None], tuple[bytes, Imported]]] = {
    "vllm": vllm,
    "sglang": sglang,
    "sglang-tokens": sglang_tokens,
    "moe-sim": moe_sim,
    "esft": esft,
    "sglang-counts": sglang_counts,
    "eplb": eplb,
    "moe-infinity": moe_infinity,
}
"""Name -> reader; each says what it reads in its first line."""


def import_trace(format: str, path: Path, out: Path, model: Shape | None = None) -> Imported:
    """Reads `path` in one of the formats and writes `out`, whole or not at all. InputError with every kind of mistake."""
    file_target(out)
    data, imported = _read(format, path, model)
    write(out, data)
    return imported


def _read(format: str, path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    if format in ROUTING:
        return ROUTING[format](path, model)
    if format not in REQUESTS:
        known = [*REQUESTS, *ROUTING]
        raise InputError(Mistake(f"unknown format '{format}'; known: {', '.join(known)}.{did_you_mean(format, known)}"))
    if model is not None:
        message = f"the format '{format}' holds requests, whatever model serves them; leave --model out"
        raise InputError(Mistake(message, file="--model"))
    return REQUESTS[format](path)
