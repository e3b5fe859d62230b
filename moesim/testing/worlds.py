"""Owns small worlds for checking a policy: machines of every kind with a model, a job and a routing table.

Knows no policy. A world is plain data, so that it can be sent to another process.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Problem
from moesim.hardware import System
from moesim.model import Architecture
from moesim.runtime import Runtime
from moesim.streams import Streams
from moesim.workload.table import Job, RoutingTable

__all__ = ["World", "impossible_worlds", "machine", "popularity", "small_job", "small_model", "small_worlds"]

GB, MB = 1e9, 1e6


@dataclass(frozen=True, eq=False)
class World:
    """One machine, model, job and routing table. L MoE layers, E experts per layer, R requests, G decode passes."""

    name: str
    summary: str
    system: System
    model: Architecture
    job: Job
    routing: RoutingTable
    seed: int = 0

    def problem(self) -> Problem:
        """The placement problem, made anew: arrays of its own, and a generator that starts from the seed."""
        job = replace(self.job, arrival=self.job.arrival.copy(), prompt=self.job.prompt.copy(), output=self.job.output.copy())
        rng = Streams(self.seed)["policy"]
        return Problem(self.model, self.system, job, self.routing.profile.copy(), rng, runtime=RUNTIME)

    def rerouted(self, routing: RoutingTable) -> World:
        """The same world, in which tokens ask for other experts."""
        return replace(self, routing=routing)

    def relabelled(self, old: IntArray) -> World:
        """The same world under other names: expert i of layer l is the one that was called `old[l, i]` ([L, E])."""
        table, layer = self.routing, np.arange(len(old))[:, None]
        new = np.argsort(old, axis=1)
        decode = new[layer, table.decode].astype(table.decode.dtype)
        prefill = np.take_along_axis(table.prefill, old[None], axis=2)
        return self.rerouted(RoutingTable(prefill, decode, table.experts, np.take_along_axis(table.profile, old, axis=1)))

    @property
    def distinct(self) -> bool:
        """Whether no two experts of a layer get equally many tokens of the whole batch in any pass.

        Only then is a schedule a matter of the experts alone: ties can be broken by nothing but the label.
        """
        requests = np.arange(self.job.requests)
        if self.job.passes and (self.job.output != self.job.output[0]).any():
            return False
        counts = [self.routing.prefill_counts(requests), *self.routing.pass_counts(requests, 0, self.job.passes)]
        ordered = np.sort(np.stack(counts), axis=-1)
        return bool((ordered[..., 1:] > ordered[..., :-1]).all())


RUNTIME = Runtime.model_validate({"gpu": {"launches": {"graph": 5e-6, "direct": 5e-6}}, "cpu": {"hand_over": 1e-5}})
"""A program whose calls to the GPU cost 5 us each, and a hand-over to the CPU 10 us."""


def machine(
    hbm: float = 1 * GB,
    ddr: float = 8 * GB,
    cxl: Mapping[str, tuple[float, float]] | None = None,
    ndp: bool = False,
    cpu: bool = True,
    pcie: float = 25e9,
    far: Mapping[str, float] | None = None,
) -> System:
    """A GPU, `ddr` bytes of DRAM (0: none), CXL devices name -> (bytes, B/s) behind a link each, and what is `far`.

    `far`: bytes of an `ssd`, of DRAM of a `peer` behind a network, and of the memory `hbm1` of a second GPU, half as fast.
    `ndp` puts a near-data unit into every CXL device; without `cpu` nothing but the GPU and those units computes.
    """
    devices: dict[str, Any] = {"gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 200e12}}
    tiers: dict[str, Any] = {"hbm": {"kind": "hbm", "at": "gpu", "capacity": hbm, "read": 2e12}}
    links: dict[str, Any] = {}
    if cpu:
        kernels = {"amx": {"rate": 20e12, "bandwidth": 200e9}}
        devices["cpu"] = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": kernels}
    if ddr:
        tiers["ddr"] = {"kind": "ddr", "at": "host", "capacity": ddr, "read": 250e9, "latency": 1e-7}
        links["pcie"] = {"ends": ["host", "gpu"], "rate": pcie, "setup": 1e-5, "serial": True}
    for name, (capacity, rate) in (cxl or {}).items():
        tiers[name] = {"kind": "cxl", "at": name, "capacity": capacity, "read": rate, "latency": 2e-7}
        links[f"to_{name}"] = {"ends": ["host", name], "rate": 64e9}
        if ndp:
            devices[f"ndp_{name}"] = {"kind": "ndp", "inside": name, "bandwidth": 512e9, "compute": 2e12}
    far = far or {}
    if "ssd" in far:
        tiers["ssd"] = {"kind": "nvme", "at": "ssd", "capacity": far["ssd"], "read": 3e9, "latency": 1e-4}
        links["to_ssd"] = {"ends": ["host", "ssd"], "rate": 7e9}
    if "peer" in far:
        memory = {"kind": "remote", "capacity": far["peer"], "read": 250e9, "latency": 1e-7}
        tiers["peer"] = {**memory, "at": "peer", "stage": "ddr"}
        links["to_peer"] = {"ends": ["peer", "host"], "rate": 12e9, "setup": 2.5e-6}
    if "hbm1" in far:
        _add_gpu(devices, tiers, links, far["hbm1"])
    return System(name="bench", devices=devices, tiers=tiers, links=links)


def _add_gpu(devices: dict[str, Any], tiers: dict[str, Any], links: dict[str, Any], capacity: float) -> None:
    devices["gpu1"] = {"kind": "gpu", "at": "gpu1", "memory": "hbm1", "compute": 100e12}
    tiers["hbm1"] = {"kind": "hbm", "at": "gpu1", "capacity": capacity, "read": 1e12}
    links["nvlink"] = {"ends": ["gpu", "gpu1"], "rate": 100e9, "setup": 3e-6, "serial": True}


def small_model(
    experts: int = 8, layers: int = 3, top_k: int = 2, hidden: int = 1024, width: int = 1024, shared: int = 0, dense: int = 0
) -> Architecture:
    """A model whose experts weigh 6 * hidden * width bytes: 6.3 MB by default; `dense` layers without experts go first."""
    return Architecture.model_validate(
        {
            "name": "tiny",
            "hidden": hidden,
            "layers": layers + dense,
            "moe_layers": tuple(range(dense, layers + dense)),
            "experts": experts,
            "top_k": top_k,
            "expert_width": width,
            "shared_width": shared,
            "dense_width": 2 * width if dense else 0,
            "attention": {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 128},
            "vocab": 1000,
        }
    )


def popularity(experts: int, layers: int, exponent: float = 1.0, seed: int = 0) -> FloatArray:
    """[L, E] Zipf shares, permuted per layer."""
    ranked = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    rng = np.random.default_rng(seed)
    shares: FloatArray = np.stack([rng.permutation(ranked) for _ in range(layers)]) / ranked.sum()
    return shares


def small_job(prompt: list[int], output: list[int], layers: int, attention: bool = True) -> Job:
    """A job of requests that arrive together, with `prompt` and `output` tokens each."""
    return Job(np.zeros(len(prompt)), np.array(prompt), np.array(output), layers, attention)


def small_worlds() -> list[World]:
    """The worlds that every policy is tried on: each kind of machine, ragged and even jobs, with and without attention."""
    return list(_small_worlds())


@cache
def _small_worlds() -> tuple[World, ...]:
    pair = {"near": (100 * MB, 22e9), "far": (120 * MB, 9e9)}
    ragged = small_job([9, 30, 4, 17, 12, 25], [4, 1, 5, 3, 4, 2], 3)
    even = small_job([20] * 14, [3] * 14, 3)
    long = small_job([1900, 2400, 700, 1500, 2100, 300], [2, 2, 2, 1, 1, 2], 3)
    lone = small_job([16] * 14, [1] * 14, 1, attention=False)
    plain, wide = small_model(), small_model(shared=512, dense=1)
    single = small_model(layers=1)
    return (
        _world("gpu_cpu", "GPU and CPU, a third of the experts fits", machine(hbm=100 * MB), plain, ragged),
        _world("gpu_cpu_even", "GPU and CPU, most experts fit", machine(hbm=160 * MB), plain, even),
        _world("cxl", "DRAM too small, two unequal CXL devices", machine(110 * MB, 40 * MB, pair), wide, even),
        _world("near_data", "CXL devices that compute", machine(120 * MB, 60 * MB, pair, ndp=True), wide, ragged),
        _world("storage", "DRAM too small, the rest on an SSD", machine(90 * MB, 80 * MB, far={"ssd": GB}), plain, ragged),
        _world("network", "DRAM too small, the rest with a peer", machine(90 * MB, 80 * MB, far={"peer": GB}), plain, ragged),
        _world("two_gpus", "a second GPU, and the rest in DRAM", machine(90 * MB, far={"hbm1": 50 * MB}), wide, ragged),
        _world("lone_layer", "one MoE layer, every kind of device", machine(40 * MB, GB, pair, ndp=True), single, lone),
        _world(
            "gpu_host",
            "only the GPU computes, the batch is split",
            machine(95 * MB, cpu=False),
            plain,
            long,
        ),
        _world("gpu_alone", "a GPU that holds everything", machine(GB, 0.0, cpu=False), plain, even),
    )


def impossible_worlds() -> list[World]:
    """Worlds in which the model finds no place."""
    work, shape = small_job([8, 8], [3, 3], 3), small_model()
    return [
        _world("tiny_gpu", "GPU memory below the weights outside the experts", machine(hbm=10 * MB), shape, work),
        _world("tiny_host", "GPU and host together below the experts", machine(60 * MB, 30 * MB), shape, work),
    ]


def _world(name: str, summary: str, system: System, model: Architecture, job: Job) -> World:
    seed = zlib.crc32(name.encode())
    profile = np.random.default_rng([seed, 1]).gamma(0.7, size=(job.layers, model.experts)) + 0.02
    profile /= profile.sum(axis=1, keepdims=True)
    even = (job.output == job.output[0]).all() and job.requests * model.top_k >= model.experts * (model.experts - 1) // 2
    drawn = _distinct_ids if even else _random_ids
    rng = np.random.default_rng([seed, 2])
    owner = np.repeat(np.arange(job.requests), job.prompt)
    prefill = np.zeros((job.requests, job.layers, model.experts), dtype=np.uint32)
    decode = np.zeros((job.requests, job.passes, job.layers, model.top_k), dtype=np.uint8)
    for layer, shares in enumerate(profile):
        ids = drawn(shares, len(owner), model.top_k, rng)
        np.add.at(prefill[:, layer], (owner[:, None], ids), 1)
        for position in range(job.passes):
            decode[:, position, layer] = drawn(shares, job.requests, model.top_k, rng)
    return World(name, summary, system, model, job, RoutingTable(prefill, decode, model.experts, profile), seed)


def _random_ids(shares: FloatArray, tokens: int, top_k: int, rng: np.random.Generator) -> IntArray:
    """[tokens, k] experts drawn without replacement (an exponential race)."""
    return np.argsort(rng.exponential(size=(tokens, len(shares))) / shares, axis=1)[:, :top_k]


def _distinct_ids(shares: FloatArray, tokens: int, top_k: int, rng: np.random.Generator) -> IntArray:
    """[tokens, k] different experts for each token, such that no two experts get equally many tokens."""
    experts = len(shares)
    rank = np.argsort(np.argsort(np.log(shares) + rng.gumbel(size=experts)))
    counts = rank * (tokens * top_k // (experts * (experts - 1) // 2))
    counts[rank == experts - 1] += tokens * top_k - counts.sum()
    dealt = np.repeat(np.arange(experts), counts)  # dealt round like cards: no token gets an expert twice
    ids: IntArray = dealt.reshape(top_k, tokens).T
    return rng.permutation(ids)
