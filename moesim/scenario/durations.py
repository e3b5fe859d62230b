"""Operations that the clock cannot hold, as far as machine and model alone tell: one token, one expert, one copy.

Knows what a run does at least; what a policy makes of a machine, and how long a whole run takes, only the run itself finds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moesim.clock import LIMIT, SECOND, to_ps
from moesim.contract.costs import Costs, costs_of
from moesim.errors import InputError, Mistake
from moesim.hardware import Gpu, NearDataUnit
from moesim.hardware import Path as Way
from moesim.scenario.tree import Path, Tree
from moesim.units import format_bytes

__all__ = ["mistakes"]

Operation = tuple[Path, float, str]
"""Where in the scenario, s, and what takes them."""
_MOST_CHUNKS = 1_000_000
"""Chunks of one expert: each is an operation, and a run copies thousands of experts."""


def mistakes(parts: Mapping[str, Any], tree: Tree) -> list[Mistake]:
    """One mistake for each part of the machine that takes longer for an operation of the model than the clock holds."""
    system, model, runtime = parts.get("hardware"), parts.get("model"), parts.get("runtime")
    if system is None or model is None or runtime is None:
        return []
    try:
        costs = costs_of(model, runtime.over(system), runtime)
    except InputError:  # reported where the parts are compared
        return []
    messages: dict[Path, str] = {}
    with np.errstate(all="ignore"):  # what overflows is what we look for
        for where, seconds, operation in (*_fixed(costs), *_computed(costs.bare), *_copied(costs)):
            try:
                to_ps(seconds, operation)
            except InputError as error:
                messages.setdefault(where, f"{error.mistakes[0].message}{_remedy(seconds)}")
        messages.update(_chunked(costs))
    return [tree.mistake(message, where) for where, message in messages.items()]


def _remedy(seconds: float) -> str:
    factor = seconds * SECOND / LIMIT
    return f"; make it at least {factor * 1.1:.2g} times as fast" if 1 <= factor < np.inf else "; make it faster"


def _fixed(costs: Costs) -> Iterator[Operation]:
    """What every call and every hand-over costs."""
    gpu, cpu = costs.runtime.gpu, costs.runtime.cpu
    for mode, seconds in gpu.launches:
        yield ("runtime", "gpu", "launches", mode), seconds, "a launch of a kernel"
    yield ("runtime", "gpu", "step"), gpu.step, "the host's part of a step"
    yield ("runtime", "gpu", "request"), gpu.request, "the host's part of a request in a step"
    yield ("runtime", "cpu", "launch"), cpu.launch, "a call to the CPU"
    yield ("runtime", "cpu", "hand_over"), cpu.hand_over, "a hand-over to the CPU"
    for name, device in costs.system.devices.items():
        yield ("hardware", "devices", name, "launch"), device.launch or 0.0, f"a call to {name}"
        yield ("hardware", "devices", name, "sync"), device.sync or 0.0, f"a hand-over to {name}"
    for name, device in costs.system.devices.items():
        for kind, seconds in device.fixed if isinstance(device, Gpu) else ():
            yield ("hardware", "devices", name, "fixed", kind), seconds, "a kernel with nothing to do"


def _computed(costs: Costs) -> Iterator[Operation]:
    """One token through one expert on every device that computes experts, and through the other layers on the GPU."""
    system, gpu = costs.system, costs.system.attending_gpu
    where: Path = ("hardware", "devices", gpu)
    yield where, float(costs.gpu(1)), f"one token of an expert on {gpu}"
    for name, seconds in (
        ("the router", costs.router(1)),
        ("the shared experts", costs.shared(1)),
        ("a dense layer", costs.dense(1)),
        ("the LM head", costs.head(1)),
        ("the QKV projection", costs.projections(gpu, 1)),
        ("the output projection", costs.output(gpu, 1)),
    ):
        yield where, float(seconds), f"one token of {name} on {gpu}"
    for name in system.further_gpus:
        yield ("hardware", "devices", name), float(costs.local(1, system.gpu_memory[name])), f"one token of an expert on {name}"
    for tier in system.host_tiers:
        if costs.cpu_name is not None:
            reach, where = costs.reach(costs.cpu_name, tier), ("hardware", "devices", costs.cpu_name)
            where = _narrowest(costs, reach) if costs.model.expert_bytes / reach.rate * SECOND >= LIMIT else where
            yield where, float(costs.cpu(1, tier)), f"one token of an expert in {tier} on {costs.cpu_name}"
        unit = costs.ndp_of.get(tier)
        if unit is not None and isinstance(system.devices[unit], NearDataUnit):
            yield ("hardware", "devices", unit), float(costs.local(1, tier)), f"one token of an expert on {unit}"


def _copied(costs: Costs) -> Iterator[Operation]:
    """An expert into GPU memory and back home."""
    size, gpu = costs.model.expert_bytes, costs.system.gpu_tier
    for tier in costs.system.host_tiers:
        for source, target in ((tier, gpu), (gpu, tier)):
            operation = f"a copy of an expert ({format_bytes(size)}) from {source} to {target}"
            yield _narrowest(costs, costs.path(source, target)), float(costs.copy(size, source, target)), operation


def _narrowest(costs: Costs, path: Way) -> Path:
    """The value that holds a way through the machine up most: the longest fixed cost, or the least rate on the way."""
    system, rates, source = costs.system, costs.system.resources(), path.source
    if max(path.setup, path.floor) > costs.model.expert_bytes / path.rate:
        fixed: dict[Path, float] = {("tiers", source, "latency"): getattr(system.tiers[source], "latency", 0.0)}
        for name in path.links:
            fixed |= {("links", name, key): getattr(system.links[name], key) for key in ("setup", "floor")}
        return ("hardware", *max(fixed, key=lambda key: fixed[key]))
    owner, _, side = min(path.usage, key=lambda used: rates[used[0]] / used[1])[0].partition(":")
    part, kind = (system.links[owner], "links") if owner in system.links else (system.tiers[owner], "tiers")
    whole = "rate" if kind == "links" else "read"
    return ("hardware", kind, owner, side if getattr(part, side, None) is not None else whole)


def _chunked(costs: Costs) -> Iterator[tuple[Path, str]]:
    """Links whose chunk is so small that no run ends."""
    size, system = costs.model.expert_bytes, costs.system
    for name, link in system.links.items():
        if link.chunk is not None and size / link.chunk > _MOST_CHUNKS:
            text = f"an expert ({format_bytes(size)}) crosses in {size / link.chunk:,.3g} chunks; at most {_MOST_CHUNKS:,} run"
            yield ("hardware", "links", name, "chunk"), text
