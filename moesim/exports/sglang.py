"""SGLang: the counts of the run as a file of expert locations, and weights in host memory that are copied for each layer.

Source: python/sglang/srt/eplb/expert_location.py of sgl-project/sglang: `--init-expert-location FILE.json` with `logical_count`
[1, layers, E] starts from the locations that its balancer (EPLB) makes of the counts, `--ep-num-redundant-experts` copies more;
`--cpu-offload-gb` leaves the first modules' parameters in the host. With one GPU the file changes nothing.
"""

from __future__ import annotations

import json
import math
from typing import ClassVar

import numpy as np

from moesim.exports.layers import HostLayers, resident_of
from moesim.exports.placed import Exported, Placed
from moesim.exports.vllm import GIB, offload, offload_bytes

__all__ = ["COUNTS", "export"]

COUNTS = "expert-counts.json"
_CHUNK = 8192
"""Default of `--chunked-prefill-size` on GPUs with at least 80 GB; 2,048 on smaller ones."""


class SglangHostLayers(HostLayers):
    """The rules of SGLang's `--cpu-offload-gb`."""

    runtime: ClassVar[str] = "sglang"


def export(placed: Placed) -> Exported:
    """The first layers in the host; the counts for a balancer over several GPUs."""
    chunk = max(2048, min(placed.chunk, _CHUNK))
    host, policy = offload(placed, SglangHostLayers, chunk, whole=True)
    gib = math.ceil(offload_bytes(placed, host) / GIB)  # whole ones; parameters go to the host until so many bytes are there
    counts = np.zeros((placed.model.layers, placed.model.experts), dtype=np.int64)
    counts[list(placed.model.moe_layers)] = placed.uses
    command = (
        "python -m sglang.launch_server",
        "--model-path MODEL",
        *([f"--cpu-offload-gb {gib}"] if gib else []),
        f"--init-expert-location {COUNTS}",
        f"--max-running-requests {placed.plan.batch}",
        f"--chunked-prefill-size {chunk}",
        f"--max-total-tokens {placed.longest * placed.plan.batch}",
    )
    notes = [
        f"{COUNTS} holds the run's tokens per expert; with --ep-size and --ep-num-redundant-experts the balancer spreads them "
        "over several GPUs, which moesim does not simulate."
    ]
    if gib:
        notes.append(
            "SGLang copies the weights of a layer in the host whole before the layer runs. It counts attention of the first "
            "layers, too, and takes whole GiB, so that the last of these layers may be in the host in part."
        )
    if placed.cache_in_host:
        notes.append("The run kept its KV cache in the host; SGLang keeps it in GPU memory.")
    return Exported(
        command=command,
        resident=resident_of(placed.problem, host),
        policy=policy,
        files={COUNTS: json.dumps({"logical_count": [counts.tolist()]}) + "\n"},
        notes=tuple(notes),
    )
