"""What the columns of a sweep are called on axes and in tables: words and a unit, not paths.

Knows the names of columns and the words of a machine's parts.
"""

from __future__ import annotations

from moesim.results.metrics import LATENCY_WORDS, METRICS

__all__ = ["axis_name"]

_NAMES = {
    **{name: metric.axis for name, metric in METRICS.items()},
    "threshold_percentile": "threshold (percentile)",
    "workload.prompt": "prompt (tokens)",
    "workload.output": "output (tokens)",
    "workload.tokens": "batch (tokens)",
    "workload.requests": "requests (number)",
    "hardware": "machine",
    "bottleneck.share": "critical path of the bottleneck (share)",
}
_OF = {
    "bytes": ("traffic", "bytes"),
    "utilisation": ("time at work", "share"),
    "expert_tokens": ("work", "(token, expert) pairs"),
}
_GROUPS = frozenset({"hardware", "devices", "tiers", "links", "workload", "runtime"})
_SPELLED = {"pcie": "PCIe", "nvme": "NVMe", "cxl": "CXL", "gpu": "GPU", "cpu": "CPU", "ndp": "NDP", "ddr": "DDR", "hbm": "HBM",
            "kv": "KV", "slo": "SLO", "ttft": "TTFT", "tpot": "TPOT", "policy": "the policy"}  # fmt: skip


def axis_name(column: str) -> str:
    """`capacity of HBM (GB)` for `hardware.tiers.hbm.capacity (GB)`, `hot of the policy` for `policy.hot`."""
    if column in _NAMES:
        return _NAMES[column]
    path, bracket, unit = column.partition(" (")
    metric, _, quantile = path.partition(".")
    if metric in LATENCY_WORDS:
        return f"{quantile} {LATENCY_WORDS[metric]} (s)".lstrip()
    if metric in _OF and quantile:
        return f"{_OF[metric][0]} of {quantile} ({_OF[metric][1]})"
    steps = [step for step in path.split(".") if step not in _GROUPS] or [path]
    words = " of ".join(_spelled(step) for step in reversed(steps))
    return f"{words}{bracket}{unit}"


def _spelled(step: str) -> str:
    return " ".join(_SPELLED.get(piece, piece) for piece in step.split("_") if piece != "link") or step
