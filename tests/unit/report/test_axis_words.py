"""What columns of a sweep are called on axes: words and a unit in place of a path."""

from __future__ import annotations

import pytest

from moesim.report.axis_words import axis_name


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("hardware.tiers.hbm.capacity (GB)", "capacity of HBM (GB)"),
        ("hardware.links.pcie.rate (GB/s)", "rate of PCIe (GB/s)"),
        ("hardware.links.nvme_link.rate", "rate of NVMe"),
        ("policy.hot", "hot of the policy"),
        ("policy.hint.recall (%)", "recall of hint of the policy (%)"),
        ("workload.prompt", "prompt (tokens)"),
        ("hardware", "machine"),
        ("hardware (GB)", "hardware (GB)"),  # a path of groups alone stays
        ("link", "link"),
        ("seed", "seed"),
        ("ttft_s.p99", "p99 time to first token (s)"),
        ("queue_s", "time in the queue (s)"),
        ("bytes.pcie:forward", "traffic of pcie:forward (bytes)"),
        ("utilisation.gpu", "time at work of gpu (share)"),
        ("expert_tokens.cpu", "work of cpu ((token, expert) pairs)"),
        ("bytes", "bytes"),
        ("hit_rate", "hit rate (share of activations)"),
        ("bottleneck.share", "critical path of the bottleneck (share)"),
        ("threshold_percentile", "threshold (percentile)"),
        ("slo.limits.ttft", "TTFT of limits of SLO"),
    ],
)
def test_a_column_is_called_by_its_words_and_unit(column: str, name: str) -> None:
    assert axis_name(column) == name
