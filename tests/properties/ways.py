"""Every way in which a policy may answer and a job may come, over random worlds of the engine: what the long run times thrice.

An example is plain data: the name of a way, the knobs of a world, and what else was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import engine_worlds as worlds
import strategies
from hypothesis import strategies as st

from moesim import jit, plugins
from moesim.contract import Policy, Problem
from moesim.contract.homes import Homes
from moesim.engine import SimulationOptions, simulate
from moesim.errors import InputError, PolicyError
from moesim.hardware.fault import Fault
from moesim.policies.caching.prefetch import Prefetch
from moesim.policies.kit.cached import Cache
from moesim.policies.kit.predictors import Gate, Perfect
from moesim.scheduling.rounds import Rounds
from moesim.workload.table import RoutingTable
from tests.properties.test_homes import HOMES, Away, AwayStreamed
from tests.properties.test_kernel_equals_reference import InParts
from tests.properties.test_lossy_dispatch import Lossy, LossyMoving, LossyStepwise
from tests.properties.test_pipelines import KNOBS, WAYS, Early, Late, Streamed
from tests.properties.test_steps import Ahead, Parted

Knobs, Example = worlds.Knobs, dict[str, Any]
NOTATIONS = ("reference", "plain", *(("compiled",) if find_spec("numba") else ()))
"""The SimPy reference, the kernel as plain Python, and as machine code, in which deciders stand for slots of policies."""
PREDICTORS = {"blurred": Gate(recall=(0.5, 0.4)), "good": Gate(recall=(0.9,)), "perfect": Perfect()}
FAULTS = (
    {"link": "pcie", "rate": 0.3},
    {"device": "gpu", "rate": 0.5},
    {"tier": "ddr", "rate": 0.4},
    {"tier": "cxl0", "fallback": "ddr"},
    {"tier": "drive", "fallback": "ddr"},
)


@contextmanager
def timed_by(notation: str) -> Iterator[str]:
    """The engine to ask for; all that may be compiled is, or is not, while the block runs."""
    with patch.object(jit, "repaid", lambda *_: notation == "compiled"):
        yield "reference" if notation == "reference" else "kernel"


class Way(NamedTuple):
    """Worlds, what else is drawn for each, and the policy that meets both."""

    knobs: st.SearchStrategy[Knobs]
    policy: Callable[[Knobs, Example], Policy]
    more: Mapping[str, st.SearchStrategy[Any]] = MappingProxyType({})
    mixes: bool = True
    """Whether steps may mix decodes with parts of prompts."""


def scripted(policy: type[worlds.Scripted]) -> Callable[[Knobs, Example], Policy]:
    return lambda k, more: policy(knobs=k, **more)


def away(policy: type[Away]) -> Callable[[Knobs, Example], Policy]:
    return lambda k, more: policy(knobs=k, **{**more, "homes": Homes(**more["homes"])})


def cached(k: Knobs, more: Example) -> Policy:
    return (InParts if more["parts"] else Cache)(eviction=more["rule"], capacity=more["capacity"])


def prefetching(k: Knobs, more: Example) -> Policy:
    parameters = {key: value for key, value in more.items() if key != "room"}
    return Prefetch(**{**parameters, "predictor": PREDICTORS[more["predictor"]]})


def system(k: Knobs, more: Example) -> Policy:
    return plugins.find("policies", more["kind"])()


SYSTEMS = st.sampled_from([
    "moe_infinity", "vllm_expert_cache", "promoe", "moe_cxl", "cxl_expert", "hybrimoe", "dali", "smoe", "llama_cpp_cache",
    "vllm_cpu_misses", "hobbit", "daop", "mixtral_offloading", "huang_buffering", "onnxruntime", "cox_moe", "fiddler",
    "ktransformers", "freetoken", "monde", "dynande", "trimoe",
])  # fmt: skip
ROOM = st.integers(1, 12)
"""Experts that GPU memory has room for."""
RULE = st.sampled_from(["lru", "lfu", "fifo", "lifo", "score", "random"])
BUFFERS = {
    "predictor": st.sampled_from(list(PREDICTORS)),
    "eviction": st.sampled_from(["lru", "lfu", "fifo"]),
    "depth": st.integers(1, 3),
    "buffers": st.sampled_from([None, 1, 3]),
    "room": ROOM,
}
EVERY, MOVING = strategies.knobs(), strategies.moving()
STREAMED, CHUNKED = strategies.knobs(**KNOBS), st.sampled_from(WAYS)
HOME = HOMES.map(asdict)
DEEP = strategies.knobs(layers=5, cpu=True, residents=0.0, gpus=0, swap=0, pieces=1, **KNOBS)
DEFERRED = st.just({"pipeline": "deferred"})
TURNS = st.builds(lambda turns: {"pipeline": "precomputed", "turns": turns}, st.integers(0, 3))
ALL: dict[str, Way] = {
    "whole passes": Way(EVERY, scripted(worlds.Scripted)),
    "visit by visit": Way(EVERY, scripted(worlds.Stepwise)),
    "moving": Way(MOVING, scripted(worlds.Restless)),
    "parted attention": Way(strategies.knobs(cpu=True, attention=True, requests=4), scripted(Parted)),
    "cached": Way(EVERY, cached, {"rule": RULE, "capacity": st.integers(0, 6), "parts": st.booleans()}),
    "prefetching": Way(strategies.knobs(layers=4, requests=3, output=5), prefetching, BUFFERS),
    "systems": Way(strategies.knobs(layers=4, requests=3, output=5), system, {"kind": SYSTEMS, "room": ROOM}),
    "streamed": Way(STREAMED, scripted(Streamed), {"how": CHUNKED}, mixes=False),
    "streamed steps": Way(STREAMED, scripted(Ahead), {"how": CHUNKED.filter(lambda how: how.get("pipeline") != "alternating")}),
    "deferred": Way(DEEP, scripted(Late), {"share": st.sampled_from([0.0, 0.5, 1.0]), "how": DEFERRED}, mixes=False),
    "precomputed": Way(DEEP, scripted(Early), {"first": st.integers(1, 3), "how": TURNS}, mixes=False),
    "lossy": Way(strategies.knobs(gpus=0), scripted(Lossy)),
    "lossy by visits": Way(strategies.knobs(gpus=0), scripted(LossyStepwise)),
    "lossy moving": Way(strategies.moving(gpus=0), scripted(LossyMoving)),
    "away": Way(strategies.knobs(attention=True), away(Away), {"homes": HOME}),
    "away streamed": Way(strategies.knobs(attention=True, **KNOBS), away(AwayStreamed), {"homes": HOME, "how": CHUNKED}),
}  # fmt: skip


def lacking(knobs: Example) -> set[str]:
    """Tiers that a world does not have, or cannot do without."""
    cxl = knobs["cxl"] and not knobs["ndp"] and knobs["kv"] != "cxl0"
    return {name for name, spare in (("cxl0", cxl), ("drive", knobs["drive"])) if not spare}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    name = draw(st.sampled_from(list(ALL)))
    way = ALL[name]
    knobs = asdict(draw(way.knobs))
    possible = [fault for fault in FAULTS if fault.get("tier") not in lacking(knobs)]
    fault = {**draw(st.sampled_from(possible)), "at": f"{draw(st.integers(0, 2000))} us"}
    until = {"until": f"{draw(st.integers(2001, 6000))} us"} if draw(st.booleans()) else {}
    return {
        "way": name,
        "knobs": knobs,
        "more": {key: draw(strategy) for key, strategy in way.more.items()},
        "mixing": way.mixes and knobs["attention"] and draw(st.booleans()),
        "fault": {**fault, **until} if draw(st.sampled_from([False, False, True])) else None,
    }


def outcome(example: Example, notation: str) -> dict[str, Any] | str:
    """The record of the run, or the message that refuses it."""
    k = Knobs(**example["knobs"])
    schedule = partial(worlds.Mixing, seed=k.seed) if example["mixing"] else Rounds
    faults = [Fault(**example["fault"])] if example["fault"] else []
    with timed_by(notation) as engine:
        options = SimulationOptions(engine=engine, schedule=schedule, faults=faults)
        try:
            run = simulate(*posed(k, example), options)
        except (InputError, PolicyError) as refusal:
            return f"{type(refusal).__name__}: {refusal}"
    return {**worlds.record(run), "faults": run.faults, "resident": run.recorder.breakdown.resident.tolist()}


def posed(k: Knobs, example: Example) -> tuple[Problem, Policy, RoutingTable]:
    """What an example asks to simulate, in GPU memory of its `room`, if it states any."""
    way, more = ALL[example["way"]], example["more"]
    problem, table = worlds.problem(k)
    if "room" in more:
        spare = problem.gpu_free(way.policy(k, more).deploy(problem).plan) - more["room"] * problem.model.expert_bytes
        problem, _ = worlds.problem(k, hbm=worlds.TB - spare)
    return problem, way.policy(k, more), table


__all__ = ["ALL", "NOTATIONS", "Example", "examples", "outcome", "timed_by"]
