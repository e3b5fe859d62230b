"""FlexGen's cost model as its repository fitted it to a T4 host: seconds of prefill and decode per layer, tokens per second.

A closed form for dense models of the OPT kind (ReLU, two matrices, f = 4 h); knows no machine of ours and no simulation.
Source: FMInference/FlexLLMGen (ICML 2023, arXiv:2303.06865); constants fitted there by gradient descent. Its GB is 2^30.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import NamedTuple

__all__ = ["OPT_30B", "T4_HOST", "Constants", "Dense", "Shares", "Split", "cpu_rate", "layer_seconds", "throughput"]

_GIB = float(1 << 30)
_TERA = 1e12


class Dense(NamedTuple):
    """A dense model: layers L, hidden width h, width f of the feed-forward block; 16 bit."""

    layers: int
    hidden: int
    width: int

    @property
    def layer_bytes(self) -> float:
        """w = 8 h^2 + 4 h f."""
        return 8.0 * self.hidden**2 + 4.0 * self.hidden * self.width


OPT_30B = Dense(48, 7168, 4 * 7168)


@dataclass(frozen=True)
class Constants:
    """Rates of a host in B/s and FLOP/s, and three numbers that say how small batches slow its CPU's attention."""

    to_gpu: float
    """r1."""
    to_host_cache: float
    """r2: cache entries on their way to the host."""
    to_host_hidden: float
    """r3: hidden states on their way to the host."""
    from_disk: float
    """r4."""
    to_disk_cache: float
    """r5."""
    to_disk_hidden: float
    """r6."""
    matmul_prefill: float
    matmul_decode: float
    attention_prefill: float
    attention_decode: float
    cpu: float
    """Attention on the CPU, FLOP/s (one per byte of the cache)."""
    both: float
    """c1."""
    batch: float
    """c2."""
    hidden: float
    """c3."""


T4_HOST = Constants(
    to_gpu=12.89 * _GIB,
    to_host_cache=0.97 * _GIB,
    to_host_hidden=4.82 * _GIB,
    from_disk=0.473 * _GIB,
    to_disk_cache=0.746 * _GIB,
    to_disk_hidden=2.015 * _GIB,
    matmul_prefill=21.24 * _TERA,
    matmul_decode=4.3 * _TERA,
    attention_prefill=9.97 * _TERA,
    attention_decode=0.079 * _TERA,
    cpu=0.0123 * _TERA,
    both=0.0168,
    batch=0.0328,
    hidden=0.0621,
)
"""The T4 host of the paper, as fitted in its repository."""


class Split(NamedTuple):
    """Where a class of tensors lies: shares of GPU memory, host memory and disk, which add up to 1."""

    gpu: float
    host: float
    disk: float = 0.0


class Shares(NamedTuple):
    """FlexGen's policy: three splits, sequences per GPU batch and GPU batches per block."""

    weights: Split
    cache: Split
    hidden: Split
    gpu_batch: int
    num_batches: int

    @property
    def block(self) -> int:
        """bls, sequences per block."""
        return self.gpu_batch * self.num_batches


def cpu_rate(host: Constants, gpu_batch: int, hidden: int) -> float:
    """FLOP/s of attention on the CPU: cpu max(0.1, 1 + c1 a b - c2 a - c3 b), a = log2(64 / gbs)+, b = log2(4096 / h)+."""
    a, b = max(0.0, log2(64 / gpu_batch)), max(0.0, log2(4096 / hidden))
    return host.cpu * max(0.1, 1.0 + host.both * a * b - host.batch * a - host.hidden * b)


def layer_seconds(model: Dense, host: Constants, shares: Shares, prompt: int, output: int) -> tuple[float, float]:
    """(T_pre, T_gen) of one layer and one block: prefill is the slowest stream, decode upload plus the slowest rest."""
    h, f, w, bls = model.hidden, model.width, model.layer_bytes, shares.block
    (_, wc, wd), (cg, cc, cd), (_, hc, hd) = shares.weights, shares.cache, shares.hidden
    s, context = prompt, prompt + output / 2
    up = (w * (wc + wd) + 2 * s * h * bls * (hc + hd)) / host.to_gpu
    down = 4 * (s + 1) * h * bls * (cc + cd) / host.to_host_cache + 2 * s * h * bls * (hc + hd) / host.to_host_hidden
    read = (w * wd + 2 * s * h * bls * hd) / host.from_disk
    write = 4 * bls * (s + 1) * h * cd / host.to_disk_cache + 2 * s * h * bls * hd / host.to_disk_hidden
    work = bls * (8 * s * h**2 + 4 * s * h * f) / host.matmul_prefill + 4 * bls * s**2 * h / host.attention_prefill
    prefill = max(up + read, down + write, work)
    up = (w * (wc + wd) + 2 * h * bls * (hc + hd)) / host.to_gpu
    down = 2 * h * bls * (hc + hd) / host.to_host_hidden
    read = (4 * bls * context * h * cd + 2 * h * bls * hd) / host.from_disk + w * wd / (0.95 * host.from_disk)
    write = (4 * bls * h * cd + 2 * h * bls * hd) / host.to_disk_hidden
    work = bls * (8 * h**2 + 4 * h * f) / host.matmul_decode + 4 * bls * context * h * cg / host.attention_decode
    work += 4 * bls * context * h * (cc + cd) / cpu_rate(host, shares.gpu_batch, h)
    return prefill, up + max(down, read, write, work)


def throughput(model: Dense, host: Constants, shares: Shares, prompt: int, output: int) -> float:
    """Tokens/s of one block: bls g / (L T_pre + L (g - 1) T_gen)."""
    prefill, decode = layer_seconds(model, host, shares, prompt, output)
    return shares.block * output / (model.layers * (prefill + (output - 1) * decode))
