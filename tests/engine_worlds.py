"""Small machines, models, jobs and policies for the tests of the engine."""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from moesim.contract import (
    NO_MOVES,
    Alternating,
    BatchPlan,
    Deferred,
    Deployment,
    Dispatch,
    Module,
    Moves,
    Overlap,
    Paged,
    PhasePlan,
    Pipeline,
    Policy,
    Precomputed,
    Problem,
    Serial,
    Step,
    View,
    Visit,
)
from moesim.contract.steps import Series, StepPlan
from moesim.engine import SimulationOptions, simulate
from moesim.engine.run import Outcome
from moesim.hardware import System
from moesim.model import Architecture
from moesim.runtime import Runtime
from moesim.scheduling.rounds import Rounds
from moesim.testing.compare import differences, record
from moesim.workload.table import Job, RoutingTable

TB = 1e12


@dataclass(frozen=True)
class Knobs:
    """Everything that makes one world; the defaults are the plainest machine, model, job and placement."""

    seed: int = 0
    # model
    layers: int = 2
    dense: int = 0
    experts: int = 4
    top_k: int = 1
    shared: bool = False
    window: int = 0
    # machine
    cpu: bool = False
    cxl: int = 0
    ndp: int = 0
    gpus: int = 0
    """Further GPUs: the first over a link to the one that attends, others over the host."""
    drive: bool = False
    """Storage behind a bounce buffer in DRAM."""
    serial_link: bool = True
    setup: float = 1e-6
    latency: float = 0.0
    chunk: float | None = None
    pcie: float = 20e9
    total: float | None = None
    both: float | None = None
    launch: float = 5e-6
    fused: bool = True
    sync: float = 0.0
    launches_gpu: bool = False
    # job
    requests: int = 2
    prompt: int = 5
    output: int = 3
    attention: bool = True
    cut: int = 0
    # placement
    batch: int = 2
    micro: int = 2
    expert_batch: int = 0
    staging: int = 8
    serial: bool = False
    kv: str = "hbm"
    places: str = "ggg"
    compression: float = 1.0
    swap: int = 0
    pieces: int = 1
    residents: float = 0.3
    off_gpu: float = 0.5
    ordered: bool = False
    streamed: bool = False
    # moves
    prefetch: float = 0.0
    evict: float = 0.0
    keep: float = 0.0
    migrate: float = 0.0
    replicate: float = 0.0


def model(k: Knobs) -> Architecture:
    layers = k.layers + k.dense
    return Architecture(
        name="tiny",
        hidden=64,
        layers=layers,
        moe_layers=tuple(range(k.dense, layers)),
        experts=k.experts,
        top_k=min(k.top_k, k.experts),
        expert_width=96,
        shared_width=32 if k.shared else 0,
        dense_width=128 if k.dense else 0,
        windows=tuple(k.window if i % 2 else 0 for i in range(layers)) if k.window else (),
        attention={"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16},
        vocab=500,
    )


def system(k: Knobs, hbm: float = TB, ddr: float = TB) -> System:
    """GPUs, DRAM and up to two CXL tiers with or without near-data units; rates are such that lanes take similar times."""
    devices: dict[str, Any] = {"gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 5e12}}
    if k.cpu:
        kernels = {"amx": {"rate": 2e11, "bandwidth": 8e9}}
        core = {"bandwidth": 5e9, "rate": 1e11}
        devices["cpu"] = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": kernels, "attention": core}
    tiers: dict[str, Any] = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": hbm, "read": 100e9},
        "ddr": {"kind": "ddr", "at": "host", "capacity": ddr, "read": 40e9, "latency": k.latency, "total": k.total},
    }
    links: dict[str, Any] = {
        "pcie": {
            "ends": ["host", "gpu"],
            "rate": k.pcie,
            "reverse": k.pcie * 0.9,
            "both": k.both,
            "setup": k.setup,
            "serial": k.serial_link,
            "chunk": k.chunk,
        }
    }
    for i in range(k.cxl):
        tiers[f"cxl{i}"] = {"kind": "cxl", "at": f"x{i}", "capacity": TB, "read": 7e9 + 5e9 * i, "latency": 2 * k.latency}
        links[f"to_cxl{i}"] = {"ends": ["host", f"x{i}"], "rate": 15e9}
        if i < k.ndp:
            unit = {"kind": "ndp", "inside": f"cxl{i}", "bandwidth": 30e9, "compute": 1e12, "sync": k.sync}
            devices[f"ndp{i}"] = unit
    if k.drive:
        tiers["drive"] = {"kind": "nvme", "at": "slot", "capacity": TB, "read": 4e9, "latency": 20e-6, "stage": "ddr"}
        links["to_drive"] = {"ends": ["host", "slot"], "rate": 8e9}
    for i in range(k.gpus):
        own = {"kind": "gpu", "at": f"gpu{i + 1}", "memory": f"hbm{i + 1}", "compute": 3e12 / (i + 1)}
        devices[f"gpu{i + 1}"] = own | ({"launch": 2 * k.launch, "fused": not k.fused} if i else {})
        tiers[f"hbm{i + 1}"] = {"kind": "hbm", "at": f"gpu{i + 1}", "capacity": TB, "read": 80e9 / (i + 1)}
        links[f"pcie{i + 1}"] = {"ends": ["host", f"gpu{i + 1}"], "rate": k.pcie, "setup": k.setup, "serial": k.serial_link}
        if not i:
            links["nvlink"] = {"ends": ["gpu", "gpu1"], "rate": 2 * k.pcie, "setup": k.setup / 2, "serial": k.serial_link}
    return System(name="bench", devices=devices, tiers=tiers, links=links)


def runtime(k: Knobs) -> Runtime:
    """Every call to the GPU costs a launch, whatever it is for; those to the CPU cost nothing."""
    launches = {"graph": k.launch, "direct": k.launch}
    cpu = {"hand_over": k.sync, "one_thread": k.launches_gpu}
    return Runtime.model_validate({"gpu": {"launches": launches, "fused": k.fused}, "cpu": cpu})


def job(k: Knobs) -> Job:
    rng = np.random.default_rng([k.seed, 1])
    return Job(
        arrival=np.zeros(k.requests),
        prompt=rng.integers(1, k.prompt + 1, k.requests),
        output=rng.integers(1, k.output + 1, k.requests) if k.attention else np.ones(k.requests, dtype=np.int64),
        attention=k.attention,
        layers=k.layers,
        chunk=k.cut,
    )


def routing(k: Knobs, work: Job, shape: Architecture) -> RoutingTable:
    rng = np.random.default_rng([k.seed, 2])
    experts, top_k = shape.experts, shape.top_k
    prefill = np.zeros((work.requests, work.layers, experts), dtype=np.uint32)
    prompts = np.zeros((work.requests, int(work.prompt.max()), work.layers, top_k), dtype=np.uint8)
    for r, layer in np.ndindex(work.requests, work.layers):
        for t in range(int(work.prompt[r])):
            prompts[r, t, layer] = rng.choice(experts, top_k, replace=False)
            prefill[r, layer, prompts[r, t, layer]] += 1
    keys = rng.random((work.requests, max(work.passes, 0), work.layers, experts))
    decode = np.argsort(keys, axis=-1)[..., :top_k].astype(np.uint8)
    return RoutingTable(prefill, decode, experts, np.full((work.layers, experts), 1.0 / experts), prompts=lambda: prompts)


def problem(k: Knobs, **capacity: float) -> tuple[Problem, RoutingTable]:
    """A problem that draws from the beginning; what is fixed about a world, and its costs, all its problems share."""
    posed, table = _posed(k, tuple(capacity.items()))
    fresh = copy(posed)
    object.__setattr__(fresh, "rng", np.random.default_rng(k.seed))
    object.__setattr__(fresh, "foresight", np.random.default_rng(0))
    return fresh, table


@lru_cache(maxsize=8)
def _posed(k: Knobs, capacity: tuple[tuple[str, float], ...]) -> tuple[Problem, RoutingTable]:
    shape, work = model(k), job(k)
    table = routing(k, work, shape)
    posed = Problem(shape, system(k, **dict(capacity)), work, table.profile, np.random.default_rng(0), runtime=runtime(k))
    assert posed.costs  # found once
    return posed, table


class Scripted(Policy):
    """Places and dispatches at random, but the same way for the same (seed, phase, layer): memoryless."""

    kind: Literal["scripted"] = "scripted"
    knobs: Any = None
    memoryless: ClassVar[bool] = True

    def deploy(self, problem: Problem) -> Deployment:
        k: Knobs = self.knobs
        rng = np.random.default_rng([k.seed, 3])
        shape = (problem.layers, problem.experts)
        hosts = np.array(far_tiers(problem))
        devices = [{"g": "gpu", "c": "cpu"}[letter] for letter in k.places]
        plan = PhasePlan(k.micro, *devices, Serial() if k.serial else Overlap())
        sizes = np.full(shape, problem.model.expert_bytes)
        if k.cxl:
            sizes[:, ::2] = problem.model.expert_bytes / 2
        return Deployment(
            home=rng.choice(hosts, shape),
            resident=rng.random(shape) < k.residents,
            expert_bytes=sizes,
            plan=BatchPlan(k.batch, plan, plan, k.kv, k.staging, k.swap, k.expert_batch),
            activation_compression=k.compression,
            pieces=k.pieces,
            state=[],
        )

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        k: Knobs = self.knobs
        rng = np.random.default_rng([k.seed, 4, visit.layer, len(visit.phase)])
        return random_dispatch(k, rng, visit, view)


class Stepwise(Scripted):
    """The same dispatches, asked for visit by visit."""

    kind: Literal["stepwise"] = "stepwise"  # type: ignore[assignment]
    memoryless: ClassVar[bool] = False


def streaming(deployment: Deployment, how: dict[str, Any]) -> Deployment:
    """`made`, whose layers overlap as `how` says: a pipeline of decode by name, `ahead` layers streamed in both phases."""
    ahead, share = how.get("ahead", 0), how.get("cpu_share", 0.0)
    known: dict[str, Pipeline] = {
        "overlap": Overlap(ahead), "serial": Serial(ahead), "paged": Paged(max(ahead, 1)), "deferred": Deferred(),
        "precomputed": Precomputed(how.get("turns", 0)),
        "alternating": Alternating(max(ahead, 1)), "module": Module(ahead, share),
    }  # fmt: skip
    prefill = replace(deployment.plan.prefill, pipeline=Overlap(ahead))
    decode = replace(deployment.plan.decode, pipeline=known[how.get("pipeline", "overlap")])
    return replace(deployment, plan=replace(deployment.plan, prefill=prefill, decode=decode))


class Seen(NamedTuple):
    """One visit as a policy met it; arrays are [E]."""

    tokens: int
    counts: Any
    device: Any
    here: Any
    home: Any
    layer: int


class Restless(Scripted):
    """Random legal dispatches and moves: prefetches, evictions, keeps and migrations after every layer and pass."""

    kind: Literal["restless"] = "restless"  # type: ignore[assignment]
    memoryless: ClassVar[bool] = False
    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "both"

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        k: Knobs = self.knobs
        rng = np.random.default_rng([k.seed, 5, visit.layer, visit.index])
        answer = random_dispatch(k, rng, visit, view)
        if k.replicate:
            on_gpu = answer.device == view.problem.attending_index
            answer = answer._replace(source=np.where(on_gpu, random_source(rng, visit, view), -1))
        here = view.resident[visit.layer] | view.in_flight[visit.layer]
        shown = (visit.counts, answer.device, here, view.home[visit.layer])
        view.state.append(Seen(visit.tokens, *(array.copy() for array in shown), visit.layer))
        return answer

    def adapt(self, step: Step, view: View) -> Moves:
        k: Knobs = self.knobs
        rng = np.random.default_rng([k.seed, 6, step.layer + 1, step.index])
        shape = view.resident.shape
        keep = step.uploaded[rng.random(len(step.uploaded)) < k.keep] if step.layer >= 0 else None
        evict = np.argwhere((view.resident | view.in_flight) & (rng.random(shape) < k.evict))
        hosts, p = far_tiers(view.problem), view.problem
        in_host = p.gpu_at[view.home] == p.attending_index
        load = rng.permutation(np.argwhere((rng.random(shape) < k.prefetch) & in_host))
        pairs = np.argwhere(rng.random(shape) < k.migrate)
        migrate = np.column_stack((pairs, rng.choice(hosts, len(pairs)))) if len(pairs) else None
        if keep is None and not len(evict) and not len(load) and migrate is None and not k.replicate:
            return NO_MOVES
        return Moves(keep, evict, load, migrate, *random_replicas(k, rng, view))


def far_tiers(problem: Problem) -> list[int]:
    """Tiers that are not the memory of the GPU that attends."""
    return [tier for tier, name in enumerate(problem.tiers) if name != problem.gpu_tier]


def random_replicas(k: Knobs, rng: np.random.Generator, view: View) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(replicate, retire), each [n, 3]."""
    if not k.replicate:
        return None, None
    hosts = far_tiers(view.problem)
    pairs = np.argwhere(rng.random(view.home.shape) < k.replicate)
    there = np.argwhere(view.replicas & (rng.random(view.replicas.shape) < 0.2))
    return np.column_stack((pairs, rng.choice(hosts, len(pairs)))), there[:, [1, 2, 0]]


def random_source(rng: np.random.Generator, visit: Visit, view: View) -> np.ndarray:
    """[E] any tier that has a copy of an expert that the GPU uploads; the home of others."""
    layer, chance = visit.layer, rng.random(view.replicas[:, visit.layer].shape)
    chance[~view.replicas[:, layer]] = -1.0
    for memory in view.problem.system.gpu_memory.values():
        chance[view.problem.tiers.index(memory)] = -1.0  # another GPU's copies stay there
    chosen = np.where(chance.max(axis=0) > 0.4, chance.argmax(axis=0), -1)
    return np.where(chosen == view.problem.gpu_tier_index, -1, chosen)


def random_dispatch(k: Knobs, rng: np.random.Generator, visit: Visit, view: View) -> Dispatch:
    """Every expert on the GPU or on a device that can read it where it lies."""
    p = view.problem
    experts = len(visit.counts)
    device = np.full(experts, p.attending_index)
    away = ~view.resident[visit.layer] & ~view.in_flight[visit.layer]
    there = away & (p.gpu_at[view.home[visit.layer]] != p.attending_index)
    for expert in range(experts):
        home = int(view.home[visit.layer, expert])
        legal = [p.attending_index]
        if p.cpu_index >= 0 and not p.system.is_gpu_memory(p.tiers[home]):
            legal.append(p.cpu_index)
        unit = p.local_index.get(home)
        if unit is not None:
            legal.append(unit)
        if there[expert]:
            device[expert] = unit
        elif rng.random() < k.off_gpu:
            device[expert] = legal[int(rng.integers(len(legal)))]
    order = rng.permutation(experts) if k.ordered else None
    load = away & ~there & (rng.random(experts) < 0.5) if k.streamed else None
    return Dispatch(device, order, load)


class Mixing:
    """A scheduler that mixes decodes and parts of prompts at random, lets requests arrive by the clock and takes some back."""

    def __init__(self, problem: Problem, deployment: Deployment, seed: int = 0, takes_back: float = 0.1) -> None:
        self.job, self.seats, self.takes_back = problem.job, deployment.plan.batch, takes_back
        self.rng = np.random.default_rng([seed, 7])
        self.room = problem.kv_bytes(deployment.plan.batch)
        self.arrival = np.cumsum(self.rng.integers(0, 400_000_000, self.job.requests))
        self.queue = list(range(self.job.requests))
        self.running: list[int] = []
        self.there = np.zeros(self.job.requests, dtype=np.int64)
        """Tokens of each request in the cache."""
        self.known = self.job.prompt.copy()
        """Tokens of each request that there are: its prompt, and what has been generated."""
        self.ends: list[int] = []

    def compose(self, now: int) -> StepPlan | int | None:
        dropped = []
        while len(self.running) > 1 and self.rng.random() < self.takes_back:
            dropped.append(self.running.pop())
            self.there[dropped[-1]] = 0
            self.queue.insert(0, dropped[-1])
        while self.queue and len(self.running) < self.seats and self.arrival[self.queue[0]] <= now and not dropped:
            self.running.append(self.queue.pop(0))
        if not self.running:
            return int(self.arrival[self.queue[0]]) if self.queue else None
        stepping = np.array([r for r in self.running if self.rng.random() < 0.8] or self.running[:1])
        new = np.minimum(self.rng.integers(1, 5, len(stepping)), self.known[stepping] - self.there[stepping])
        before = self.there[stepping].copy()
        yields = before + new == self.known[stepping]
        self.step = StepPlan(stepping, new, before, yields, np.array(dropped, dtype=np.int64))
        return self.step

    def sure(self, most: int, pace: Any = None) -> Series:
        return Series.of([self.step])

    def until(self) -> None:
        return None

    def passed(self, ends: list[int]) -> None:
        self.ended(self.step, ends[0])

    def ended(self, step: StepPlan, end: int) -> None:
        self.ends.append(end)
        self.there[step.requests] += step.new_tokens
        self.known[step.requests[step.yields]] += 1
        done = self.known == self.job.prompt + self.job.output
        self.running = [r for r in self.running if not done[r]]

    def follows(self) -> None:
        return None

    def foreseen(self) -> None:
        return None

    def kv_room(self) -> float:
        return self.room


def run(
    k: Knobs,
    policy: type[Scripted] = Scripted,
    engine: Any = "auto",
    timeline: bool = False,
    schedule: Any = Rounds,
    **capacity: float,
) -> Outcome:
    p, table = problem(k, **capacity)
    return simulate(p, policy(knobs=k), table, SimulationOptions(engine=engine, timeline=timeline, schedule=schedule))


RICH = Knobs(
    seed=7, layers=3, dense=1, experts=7, top_k=2, shared=True, cpu=True, cxl=2, ndp=1, total=8e9, both=5e9, requests=4,
    output=4, batch=3, micro=2, staging=2, kv="ddr", places="gcg", prefetch=0.4, evict=0.3, keep=0.5, migrate=0.3, ordered=True,
)  # fmt: skip


def digest(k: Knobs) -> str:
    """Hash of everything that a run with a timeline leaves."""
    outcome = run(k, Restless, timeline=True)
    return hashlib.sha256(repr((record(outcome), outcome.recorder.slices, outcome.recorder.events)).encode()).hexdigest()


__all__ = [
    "RICH",
    "Knobs",
    "Mixing",
    "Restless",
    "Scripted",
    "Seen",
    "Stepwise",
    "differences",
    "digest",
    "job",
    "model",
    "problem",
    "record",
    "replace",
    "routing",
    "run",
    "simulate",
    "streaming",
    "system",
]
