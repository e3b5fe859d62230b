"""What follows from rates and sizes without simulating: break-even points, ceilings, optimal shares, waiting times.

Plain arithmetic in SI units on scalars or arrays; knows no machine, no policy and no engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "attention_share",
    "break_even_tokens",
    "coalescing",
    "deferred_layer",
    "distinct_experts",
    "interleaved_seconds",
    "interleaved_share",
    "md1_wait",
    "mm1_wait",
    "shared_link_seconds",
    "streaming_rate",
    "transparent",
    "upload_bound",
]


def break_even_tokens(rate: float, upload: float, memory: float, bytes_per_flop: float = 1.0) -> float:
    """Tokens per expert from which uploading beats the CPU: M* = P (W / F) (1 / B_up - 1 / B_mem), at least 0.

    `rate` P in FLOP/s, `upload` and `memory` in B/s, `bytes_per_flop` W / F (1 for 16-bit weights).
    Source: additive roofline of the CPU, t = W / B_mem + c F / P, against W / B_up. Valid: GPU time and set-up negligible.
    """
    return max(rate * bytes_per_flop * (1.0 / upload - 1.0 / memory), 0.0)


def upload_bound(batch: float, upload: float, streamed: float) -> float:
    """Tokens/s of decode when nothing but uploads takes time: batch * B_up / bytes streamed per pass; inf for no bytes."""
    return batch * upload / streamed if streamed else float("inf")


def distinct_experts(experts: int, top_k: int, tokens: Any) -> Any:
    """Expected experts that T independent tokens touch, all experts alike: E (1 - (1 - k / E)^T).

    Valid: an upper bound for popularities that differ and for tokens that resemble each other.
    """
    if not experts:
        return np.zeros(np.shape(tokens))
    return experts * (1.0 - (1.0 - top_k / experts) ** np.asarray(tokens, dtype=np.float64))


def attention_share(weights: float, cache: float, upload: float, attention: float) -> float:
    """Share w of decode attention that the CPU takes so that it ends with the uploads, clamped to [0, 1].

    W / B_up + (1 - w) KV / B_up = w KV / B_cpu, with `weights` W and `cache` KV in bytes per pass, `upload` B_up and
    `attention` B_cpu in B/s. Source: MoE-Gen (arXiv:2503.09716), its omega. Valid: GPU time hidden behind the uploads.
    """
    if not cache:
        return 0.0
    share = (weights + cache) / upload / (cache / upload + cache / attention)
    return float(min(max(share, 0.0), 1.0))


def coalescing(micro_batches: float, touched_alone: float, touched_together: float) -> float:
    """How many times fewer weight reads when micro-batches pass the experts together: n * touched by one / touched by all.

    n where every micro-batch touches all experts. Source: CoX-MoE, MoE-Gen (module-based batching).
    """
    return micro_batches * touched_alone / touched_together if touched_together else 1.0


def streaming_rate(pcie: float, devices: float) -> float:
    """B/s at which a GPU reads memory behind the host: the lesser of PCIe and the devices together."""
    return min(pcie, devices)


def transparent(pcie: float, devices: float) -> bool:
    """Whether memory devices of `devices` B/s in sum feed a GPU as fast as DRAM would: iff devices >= PCIe."""
    return devices >= pcie


def deferred_layer(gpu: float, immediate: float, deferred: float) -> float:
    """Seconds per layer in steady state with expert deferral: max(GPU + immediate, immediate + deferred).

    `gpu`: attention and what else runs before the experts; without deferral a layer takes gpu + immediate + deferred.
    Source: KTransformers (SOSP 2025). Valid: shared experts and hand-over hidden.
    """
    return max(gpu + immediate, immediate + deferred)


def interleaved_share(dram: float, cxl: float) -> float:
    """Share of the pages on CXL that lets both finish together: B_cxl / (B_dram + B_cxl)."""
    return cxl / (dram + cxl)


def interleaved_seconds(nbytes: float, dram: float, cxl: float) -> float:
    """Seconds of a bandwidth-bound reader of pages spread so: bytes / (B_dram + B_cxl)."""
    return nbytes / (dram + cxl)


def mm1_wait(arrivals: float, service: float) -> float:
    """Mean seconds in the queue of a single FIFO server: Poisson arrivals (per second), exponential service (mean seconds).

    rho s / (1 - rho). Source: Kleinrock, Queueing Systems I (1975). Valid: rho = arrivals * service < 1.
    """
    load = arrivals * service
    return load * service / (1.0 - load) if load < 1 else float("inf")


def md1_wait(arrivals: float, service: float) -> float:
    """The same with constant service, half of it: rho s / (2 (1 - rho)), Pollaczek and Khinchine."""
    return mm1_wait(arrivals, service) / 2.0


def shared_link_seconds(flows: int, alone: float) -> float:
    """Seconds of each of n equal flows on one processor-sharing link: n times its time alone."""
    return flows * alone
