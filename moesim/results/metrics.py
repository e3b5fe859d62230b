"""The numbers that a run is judged by: what each is called, its unit, whether it is a share, and which end of it is better.

The one table of metrics: sentences, axes, goals of sweeps and figures read it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["LATENCY_WORDS", "METRICS", "Metric", "metric_words"]


class Metric(NamedTuple):
    """One number of a summary."""

    label: str
    """In a sentence."""
    unit: str
    """Behind the number; none for shares and counts."""
    axis: str
    """On an axis and in the head of a table."""
    better: Literal["highest", "lowest"] = "lowest"
    share: bool = False
    """Whether it lies between 0 and 1 and is shown as a percentage."""


METRICS = {
    "throughput_tok_s": Metric("throughput", "tok/s", "throughput (tokens/s)", "highest"),
    "total_tok_s": Metric("throughput with the prompts", "tok/s", "throughput with the prompts (tokens/s)", "highest"),
    "steady_tok_s": Metric("steady throughput", "tok/s", "steady throughput (tokens/s)", "highest"),
    "prefill_tok_s": Metric("prefill throughput", "tok/s", "prefill (prompt tokens/s)", "highest"),
    "decode_tok_s": Metric("decode throughput", "tok/s", "decode (tokens/s)", "highest"),
    "hit_rate": Metric("hit rate", "", "hit rate (share of activations)", "highest", share=True),
    "decode_hit_rate": Metric(
        "hit rate while decoding", "", "hit rate while decoding (share of activations)", "highest", share=True
    ),
    "share_of_bound": Metric("share of the bound", "", "share of bound", "highest", share=True),
    "slo.attainment": Metric(
        "share of requests within their limits", "", "requests within limits (share)", "highest", share=True
    ),
    "slo.goodput_req_s": Metric("goodput", "requests/s", "goodput (requests/s)", "highest"),
    "slo.goodput_tok_s": Metric("goodput", "tok/s", "goodput (tokens/s)", "highest"),
    "requests_completed": Metric("completed requests", "", "completed requests (number)", "highest"),
    "bound_tok_s": Metric("bound", "tok/s", "bound (tokens/s)"),
    "makespan_s": Metric("makespan", "s", "makespan (s)"),
    "energy_J": Metric("energy", "J", "energy (J)"),
    "cost_usd_per_Mtok": Metric("cost", "USD per million tokens", "cost (USD per million tokens)"),
    "machine_usd": Metric("price of the machine", "USD", "price of the machine (USD)"),
}
"""Field of a summary -> what is said of it, those of which more is better first."""
LATENCY_WORDS = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "latency of a request",
    "itl_s": "time between tokens",
    "queue_s": "time in the queue",
}
"""Distributions of times over requests: `p99` of one is the metric `ttft_s.p99`."""


def metric_words(name: str) -> tuple[str, str]:
    """What a metric is called in a sentence, and its unit."""
    if name in METRICS:
        return METRICS[name].label, METRICS[name].unit
    metric, _, quantile = name.partition(".")
    if metric in LATENCY_WORDS:
        return f"{quantile} {LATENCY_WORDS[metric]}".lstrip(), "s"
    return name, "s" if metric.endswith("_s") else ""
