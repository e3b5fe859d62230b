"""Owns measured speeds of vLLM with everything resident: Qwen3-30B-A3B on an A100, one stream.

Knows the profile of vLLM, in which nothing was fitted on these numbers.
"""

from __future__ import annotations

from typing import Any

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["CASE"]

TPOT = {128: 9.6e-3, 1024: 9.8e-3, 8192: 10.6e-3}
"""Context -> s per token."""
TTFT = {128: 35.7e-3, 1024: 70.3e-3}
"""Prompt -> s to the first token."""
_A100: dict[str, Any] = {"profile": "a100-xeon8452y", "devices": {"gpu": {"profile": "a100-80gb-sxm"}}}
SETTING = Setting(_A100, "qwen3-30b-a3b", "gpu_only", "vllm-0.19", {"kind": "sticky"})


def _findings() -> Findings:
    rows = [Row(f"context {n:,}: per token, ms", 1e3 * t, 1e3 * single(SETTING, n, 9).tpot, 0.10) for n, t in TPOT.items()]
    rows.append(Row("prompt 128: to the first token, ms", 1e3 * TTFT[128], 1e3 * single(SETTING, 128, 9).ttft, 0.10))
    first = ", ".join(
        f"{1e3 * single(SETTING, n, 9).ttft:.1f} ms after {n:,} tokens ({1e3 * t:g})" for n, t in TTFT.items() if n > 128
    )
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: {value(SETTING, 'gpu', 'step')} of host a step and {value(SETTING, 'gpu', 'request')} "
        f"a request, {value(SETTING, 'gpu', 'launches', 'graph')} a node of the graph, fixed times of kernels by kind from the "
        "tables of the A100.",
        f"Not met: to the first token {first}: products of 8 to 64 tokens per expert cost more in the table of the A100.",
    )
    return Findings(tuple(rows), (), notes)


CASE = Case(
    id="runtime-vllm",
    kind="system",
    summary="vLLM, Qwen3-30B-A3B in BF16 on one A100 80 GB, one stream: time per token by context.",
    source="tenstorrent/tt-inference-server issue 340",
    runner=_findings,
)
