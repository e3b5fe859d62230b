"""Small placement problems for the tests of policies; loaded by path, because tests are no package."""

from __future__ import annotations

import numpy as np

from moesim.hardware import System
from moesim.model import Architecture
from moesim.policies.base import Step, View, Visit
from moesim.policies.problem import Problem
from moesim.workload.table import Job

GB, MB = 1e9, 1e6


def model(experts: int = 8, layers: int = 3, top_k: int = 2, hidden: int = 1024, width: int = 1024) -> Architecture:
    """An expert weighs 3 * hidden * width * 2 bytes: 6.3 MB by default."""
    return Architecture(
        name="tiny",
        hidden=hidden,
        layers=layers,
        experts=experts,
        top_k=top_k,
        expert_width=width,
        attention={"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 128},
        vocab=1000,
    )


def system(
    hbm: float = 1 * GB,
    ddr: float = 8 * GB,
    cxl: dict[str, tuple[float, float]] | None = None,
    ndp: bool = False,
    cpu: bool = True,
    nvme: float = 0.0,
    pcie: float = 25e9,
) -> System:
    """GPU and DRAM, and CXL devices name -> (capacity, B/s), each behind a link of its own."""
    devices: dict[str, object] = {"gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 200e12}}
    if cpu:
        kernels = {"amx": {"rate": 20e12, "bandwidth": 200e9}}
        devices["cpu"] = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": kernels, "sync": 10e-6}
    tiers: dict[str, object] = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": hbm, "read": 2e12},
        "ddr": {"kind": "ddr", "at": "host", "capacity": ddr, "read": 250e9, "latency": 1e-7},
    }
    links: dict[str, object] = {"pcie": {"ends": ["host", "gpu"], "rate": pcie, "setup": 1e-5, "serial": True}}
    for name, (capacity, rate) in (cxl or {}).items():
        tiers[name] = {"kind": "cxl", "at": name, "capacity": capacity, "read": rate, "latency": 2e-7}
        links[f"to_{name}"] = {"ends": ["host", name], "rate": 64e9}
        if ndp:
            devices[f"ndp_{name}"] = {"kind": "ndp", "inside": name, "bandwidth": 512e9, "compute": 2e12}
    if nvme:
        tiers["ssd"] = {"kind": "nvme", "at": "ssd", "capacity": nvme, "read": 3e9, "latency": 1e-4}
        links["to_ssd"] = {"ends": ["host", "ssd"], "rate": 7e9}
    return System(name="bench", devices=devices, tiers=tiers, links=links)


def popularity(experts: int, layers: int, exponent: float = 1.0, seed: int = 0) -> np.ndarray:
    """[L, E] Zipf shares, permuted per layer."""
    ranked = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(ranked) for _ in range(layers)]) / ranked.sum()


def job(requests: int = 4, prompt: int = 64, output: int = 16, layers: int = 3, attention: bool = True) -> Job:
    return Job(
        arrival=np.zeros(requests),
        prompt=np.full(requests, prompt),
        output=np.full(requests, output),
        attention=attention,
        layers=layers,
    )


def problem(machine: System | None = None, shape: Architecture | None = None, work: Job | None = None, profile=None) -> Problem:
    shape = shape or model()
    machine = machine or system()
    work = work or job(layers=shape.layers)
    profile = popularity(shape.experts, work.layers) if profile is None else profile
    return Problem(model=shape, system=machine, job=work, popularity=profile, rng=np.random.default_rng(0))


def view_of(p: Problem, deployment) -> View:
    return View(
        problem=p,
        resident=deployment.resident.copy(),
        in_flight=np.zeros_like(deployment.resident),
        home=deployment.home.copy(),
        state=deployment.state,
    )


def visit_of(p: Problem, deployment, layer: int, counts, phase: str = "decode") -> Visit:
    """The visit as the engine shows it: times from the homes and sizes of the deployment."""
    counts = np.asarray(counts, dtype=np.int64)
    sizes, home = deployment.expert_bytes[layer], deployment.home[layer]
    cpu, ndp, copy = (np.empty(len(counts)) for _ in range(3))
    for index, tier in enumerate(p.tiers):
        there = home == index
        cpu[there] = p.costs.cpu(counts[there], tier, sizes[there])
        ndp[there] = p.costs.ndp(counts[there], tier, sizes[there])
        copy[there] = p.costs.copy(sizes[there], tier, p.gpu_tier)
    gpu = p.costs.gpu(counts, sizes)
    return Visit(0, phase, layer, int(counts.sum()) // p.model.top_k, counts, gpu, cpu, ndp, copy)


def step_of(layer: int, counts, uploaded=(), phase: str = "decode") -> Step:
    return Step(0, phase, layer, np.asarray(counts, dtype=np.int64), np.asarray(uploaded, dtype=np.int64))
