"""vLLM: weights of experts in host memory, which the GPU reads over PCIe; batch and chunks.

Source: vllm/config/offload.py of vllm-project/vllm: `--cpu-offload-gb` GiB of the parameters that `--cpu-offload-params` names
lie in the host, the first ones of the model first, and are read in place. A cache of single experts (pull request 37190) is not
part of a release, and none takes a file of expert locations: the balancer (`--enable-eplb`) moves experts between several GPUs.
"""

from __future__ import annotations

import math
from typing import ClassVar

from moesim.exports.layers import HostLayers, first_layers, resident_of
from moesim.exports.placed import Exported, Placed

__all__ = ["GIB", "export", "offload", "offload_bytes"]

GIB = 2**30
_CHUNK = 2048
"""Least `--max-num-batched-tokens`: its default for chunked prefill of online serving."""


class VllmHostLayers(HostLayers):
    """The rules of vLLM's `--cpu-offload-gb` with `--cpu-offload-params experts`."""

    runtime: ClassVar[str] = "vllm-0.19"


def offload(placed: Placed, kind: type[HostLayers], chunk: int, whole: bool) -> tuple[tuple[int, ...], HostLayers]:
    """The first layers that stay in the host, and the rules that serve them."""

    def policy(host: tuple[int, ...]) -> HostLayers:
        cut = {"batch": placed.plan.batch, "kv": placed.problem.gpu_tier, "chunk": chunk}
        return kind.model_validate({"host_layers": host, "whole": whole, **cut})

    host = first_layers(placed, policy)
    return host, policy(host)


def offload_bytes(placed: Placed, host: tuple[int, ...]) -> float:
    """Bytes of the experts of these layers."""
    return float(placed.sizes[list(host)].sum()) if host else 0.0


def export(placed: Placed) -> Exported:
    """The first layers in the host."""
    chunk = max(_CHUNK, placed.chunk)
    host, policy = offload(placed, VllmHostLayers, chunk, whole=False)
    # parameters go to the host until so many bytes are there, so a limit rounded down is reached by the last of these layers
    gib = math.floor(100 * offload_bytes(placed, host) / GIB) / 100
    command = (
        "vllm serve MODEL",
        *([f"--cpu-offload-gb {gib:g}", "--cpu-offload-params experts"] if gib else []),
        f"--max-num-seqs {placed.plan.batch}",
        f"--max-num-batched-tokens {chunk}",
        f"--max-model-len {placed.longest}",
    )
    notes = (
        ["vLLM computes all experts on the GPU; those of the first layers lie in the host and are read over PCIe."]
        if gib
        else []
    )
    if placed.cache_in_host:
        notes.append("The run kept its KV cache in the host; vLLM keeps it in GPU memory.")
    return Exported(command=command, resident=resident_of(placed.problem, host), policy=policy, notes=tuple(notes))
