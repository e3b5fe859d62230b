"""Simulators of served requests that others publish, on the requests of W1, where they are installed from PyPI.

NVIDIA Dynamo's mocker (`pip install ai-dynamo-runtime`): vLLM's scheduler in Rust over a fitted time of a step, no experts.
"""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

__all__ = ["INSTALLED_BY", "measure"]

INSTALLED_BY = {"dynamo mocker": "ai-dynamo-runtime"}
"""Peer -> the package that brings it."""


def measure(requests: int, output: int = 256) -> dict[str, dict[str, Any]]:
    """Peer -> its version and output tokens per CPU second of the loop, of those that are installed."""
    measured = {}
    for name, package in INSTALLED_BY.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        spent = _dynamo(requests, output)
        measured[name] = {
            "version": version,
            "cpu_s": round(spent, 3),
            "output_tokens_per_cpu_s": round(requests * output / spent),
        }
    return measured


def _dynamo(requests: int, output: int) -> float:
    """CPU seconds of the mocker for W1's requests: at most 128 sequences, 8,192 tokens a step, blocks of 16."""
    from dynamo._core import run_mocker_synthetic_trace_replay  # type: ignore[import-not-found]

    engine = {
        "backend": "vllm",
        "block_size": 16,
        "num_gpu_blocks": 20_000,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 8192,
    }
    begin = time.process_time()
    replay = run_mocker_synthetic_trace_replay(1024, output, requests, extra_engine_args={"engine": engine}, request_rate=2.0)
    spent = time.process_time() - begin
    assert replay.summary["completed_requests"] == requests, "the mocker did not serve all requests"
    assert replay.summary["total_output_tokens"] == requests * output, "the mocker served other answers"
    return spent
