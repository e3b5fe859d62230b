"""Small placement problems for the tests of policies."""

from __future__ import annotations

import numpy as np

from moesim.contract import Deployment, Future, Policy, Problem, Step, View, Visit
from moesim.hardware import System
from moesim.model import Architecture
from moesim.testing.worlds import RUNTIME, popularity
from moesim.testing.worlds import machine as system
from moesim.testing.worlds import small_model as model
from moesim.workload.table import Job

GB, MB = 1e9, 1e6


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
    return Problem(model=shape, system=machine, job=work, popularity=profile, rng=np.random.default_rng(0), runtime=RUNTIME)


def view_of(p: Problem, deployment) -> View:
    return View(
        problem=p,
        resident=deployment.resident.copy(),
        in_flight=np.zeros_like(deployment.resident),
        home=deployment.home.copy(),
        state=deployment.state,
        copy_bytes=deployment.expert_bytes.copy(),
        future=Future([np.ones(deployment.resident.shape, dtype=np.int64)]),
    )


def visit_of(p: Problem, deployment, layer: int, counts, phase: str = "decode") -> Visit:
    """The visit as the engine shows it: times from the homes and sizes of the deployment."""
    counts = np.asarray(counts, dtype=np.int64)
    sizes, home = deployment.expert_bytes[layer], deployment.home[layer]
    cpu, ndp, copy = (np.empty(len(counts)) for _ in range(3))
    for index, tier in enumerate(p.tiers):
        there = home == index
        cpu[there] = p.costs.cpu(counts[there], tier, sizes[there])
        ndp[there] = p.costs.local(counts[there], tier, sizes[there])
        copy[there] = p.costs.copy(sizes[there], tier, p.gpu_tier, deployment.pieces)
    gpu = p.costs.gpu(counts, sizes)
    tokens = int(counts.sum()) // p.model.top_k
    here = deployment.resident[layer].copy()
    return Visit(0, phase, layer, tokens, counts, gpu, cpu, ndp, copy, here, lambda _depth: None)  # predicts nothing


def step_of(layer: int, counts, uploaded=(), phase: str = "decode") -> Step:
    return Step(0, phase, layer, np.asarray(counts, dtype=np.int64), np.asarray(uploaded, dtype=np.int64))


def first_placement(policy: Policy, p: Problem) -> tuple[Deployment, View]:
    """The first placement of a policy, and the view of it."""
    deployment = policy.deploy(p)
    return deployment, view_of(p, deployment)


def timed_visit(view: View, counts, *, layer: int = 0, phase: str = "decode", ahead=(), **seconds) -> Visit:
    """A visit of known times: seconds of `gpu` (1), `cpu` (2), `copy` (3) and `local` (inf), alike or [E].

    `ahead`: tokens [E] that are predicted of the next layers, nearest first.
    """
    counts = np.asarray(counts, dtype=np.int64)
    times = {"gpu": 1.0, "cpu": 2.0, "copy": 3.0, "local": np.inf, **seconds}
    by_expert = {name: np.broadcast_to(np.asarray(value, dtype=np.float64), counts.shape) for name, value in times.items()}
    predictions = [np.asarray(later, dtype=np.int64) for later in ahead]
    return Visit(
        index=0,
        phase=phase,
        layer=layer,
        tokens=int(counts.sum()) // view.problem.model.top_k,
        counts=counts,
        resident=view.resident[layer].copy(),
        foreseen=lambda depth: predictions[depth - 1] if depth <= len(predictions) else None,
        **by_expert,
    )


def with_residents(view: View, *layers) -> View:
    """The same view, with these experts of each layer in GPU memory."""
    view.resident = np.zeros_like(view.resident)
    for layer, experts in enumerate(layers):
        view.resident[layer, list(experts)] = True
    return view
