"""Explains the machine: rooflines and times of one expert, copies, break-even points, CXL beside PCIe, origins of values.

Knows costs and paths; not the job, its batch or its placement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moesim.contract import Costs, first_count
from moesim.explain.rows import Quantity, Row, Section
from moesim.hardware import Cpu, Memory, Path, PerToken
from moesim.policies.kit.closed_forms import break_even_tokens, transparent
from moesim.results.origins import figures
from moesim.scenario.tree import Origin
from moesim.units import format_count

__all__ = ["Engine", "break_even", "cxl", "engines", "origins", "rooflines", "times", "uploads"]

TOKENS = (1, 8, 64, 512)
"""Tokens per expert that times are given for."""
_MANY = 2.0**30
"""Tokens per expert at which the weights' bytes no longer matter."""
_FEW = 1e-9
"""Tokens per expert at which the FLOP do not matter yet."""


class Engine(NamedTuple):
    """A device that computes experts whose weights lie in a tier."""

    device: str
    tier: str
    time: Callable[[Any], Any]
    """Seconds for [..] tokens."""
    weights: float
    """Seconds for the weights alone."""
    slope: float
    """Seconds per token with many tokens."""

    @property
    def knee(self) -> float:
        """Tokens per expert at which FLOP take as long as the weights."""
        return self.weights / self.slope if self.slope else float("inf")


def engines(costs: Costs) -> list[Engine]:
    """Every device with every tier whose experts it can compute in place."""
    system = costs.system

    def place(device: str, tier: str, time: Callable[[Any], Any]) -> Engine:
        spec = system.devices[device]
        weights = 0.0 if isinstance(getattr(spec, "experts", None), PerToken) else float(time(_FEW))
        return Engine(device, tier, time, weights, float(time(_MANY)) / _MANY)

    places = [place(system.attending_gpu, system.gpu_tier, costs.gpu)]
    if costs.cpu_name is not None:
        places += [place(costs.cpu_name, tier, partial(costs.cpu, tier=tier)) for tier in system.host_tiers]
    return [*places, *(place(unit, tier, partial(costs.local, tier=tier)) for tier, unit in costs.local_of.items())]


def rooflines(costs: Costs) -> Section:
    """Weight stream, rate and knee of every device and tier."""
    return Section(
        "Roofline of one expert",
        tuple(row for engine in engines(costs) for row in _roofline(costs, engine)),
        "The knee is where FLOP take as long as the weights; below it an expert costs its bytes, however few tokens it has.",
    )


def _roofline(costs: Costs, engine: Engine) -> Iterator[Row]:
    model, where = costs.model, f"{engine.device}, weights in {engine.tier}"
    w, f = Quantity(model.expert_bytes, "B"), Quantity(model.expert_flops, "FLOP")
    stream = model.expert_bytes / engine.weights if engine.weights else float("inf")
    rate = model.expert_flops / engine.slope if engine.slope else float("inf")
    if engine.weights:
        inputs = {"W": w, "time": Quantity(engine.weights, "s")}
        yield Row(f"{where}: stream", stream, "B/s", "W / time of the weights alone", inputs)
    inputs = {"F": f, "time": Quantity(engine.slope, "s")}
    yield Row(f"{where}: rate", rate, "FLOP/s", "F / time per token with many tokens", inputs)
    if engine.weights:
        inputs = {"W": w, "F": f, "rate": Quantity(rate, "FLOP/s"), "stream": Quantity(stream, "B/s")}
        yield Row(f"{where}: knee", engine.knee, "tokens", "(W / stream) / (F / rate)", inputs)


def times(costs: Costs) -> Section:
    """Seconds of one expert on each device at a few tokens per expert."""
    rows = [
        Row(
            f"{e.device}, weights in {e.tier}, {format_count(c, 'token')}",
            float(e.time(c)),
            "s",
            _law(costs, e),
            _terms(costs, e),
        )
        for e in engines(costs)
        for c in TOKENS
    ]
    return Section("Time of one expert", tuple(rows), "c tokens through one expert, launches, hand-over and queues left out.")


def _law(costs: Costs, engine: Engine) -> str:
    device = costs.system.devices[engine.device]
    if isinstance(getattr(device, "experts", None), PerToken):
        return "c t"
    if isinstance(device, Cpu) and len(_kernels(device)) > 1:
        return f"the fastest of {', '.join(_kernels(device))}: ((W / stream)^q + (c F / rate)^q)^(1/q), each with its own q"
    return "((W / stream)^q + (c F / rate)^q)^(1/q)"


def _kernels(device: Cpu) -> list[str]:
    use: tuple[str, ...] = getattr(device.experts, "use", ())
    return list(use or device.kernels)


def _terms(costs: Costs, engine: Engine) -> dict[str, Quantity]:
    model, device = costs.model, costs.system.devices[engine.device]
    if not engine.weights:
        return {"t": Quantity(engine.slope, "s")}
    terms = {
        "W / stream": Quantity(engine.weights, "s"),
        "F / rate": Quantity(engine.slope, "s"),
        "W": Quantity(model.expert_bytes, "B"),
        "F": Quantity(model.expert_flops, "FLOP"),
    }
    law: Any = getattr(device, "experts", None)
    if isinstance(device, Cpu):
        law = device.kernels[_kernels(device)[0]] if len(_kernels(device)) == 1 else None
    return {**terms, "q": Quantity(law.q)} if hasattr(law, "q") else terms


def uploads(costs: Costs) -> Section:
    """Seconds to bring one expert into GPU memory from each tier, and what limits the copy."""
    system, model = costs.system, costs.model
    resources, rows = system.resources(), []
    for tier in system.host_tiers:
        path = costs.path(tier, system.gpu_tier)
        size = Quantity(model.expert_bytes, "B")
        inputs = {"set-up": Quantity(path.setup, "s"), "W": size, "rate": Quantity(path.rate, "B/s")}
        law = f"set-up + W / rate, rate given by {_narrowest(path, resources)}"
        if path.chunk:
            law = law.replace("set-up", "pieces x set-up", 1)
            inputs["pieces"] = Quantity(float(max(np.ceil(model.expert_bytes / path.chunk), 1.0)))
        rows.append(Row(f"from {tier}", float(costs.copy(model.expert_bytes, tier, system.gpu_tier)), "s", law, inputs))
    return Section("Upload of one expert", tuple(rows))


def _narrowest(path: Path, resources: Mapping[str, float]) -> str:
    return min(path.usage, key=lambda use: resources[use[0]] / use[1])[0]


def break_even(costs: Costs) -> Section:
    """Tokens per expert from which uploading beats computing in place."""
    in_host = [engine for engine in engines(costs)[1:] if not costs.system.is_gpu_memory(engine.tier)]
    rows = [row for engine in in_host for row in _break_even(costs, engine)]
    note = "From so many tokens per expert on, uploading it and running it on the GPU is sooner than running it where it lies."
    if not rows:
        note = "No device computes experts beside the GPU."
    return Section("Break-even: upload or compute in place", tuple(rows), note)


def _break_even(costs: Costs, engine: Engine) -> Iterator[Row]:
    model, gpu_tier = costs.model, costs.system.gpu_tier
    path = costs.path(engine.tier, gpu_tier)
    upload = float(costs.copy(model.expert_bytes, engine.tier, gpu_tier))
    exact = first_count(lambda c: upload + float(costs.gpu(c)) < float(engine.time(c)))
    law = f"least c with copy + gpu(c) < {engine.device}(c), by the cost models"
    name = f"{engine.device} from {engine.tier}"
    yield Row(f"{name}: exact", exact, "tokens", law, {"copy": Quantity(upload, "s")})
    if not engine.weights or not engine.slope:
        return
    stream, rate = model.expert_bytes / engine.weights, model.expert_flops / engine.slope
    closed = break_even_tokens(rate, path.rate, stream, model.expert_bytes / model.expert_flops)
    inputs = {
        "P": Quantity(rate, "FLOP/s"),
        "W": Quantity(model.expert_bytes, "B"),
        "F": Quantity(model.expert_flops, "FLOP"),
        "B_up": Quantity(path.rate, "B/s"),
        "B_mem": Quantity(stream, "B/s"),
    }
    law = "P (W / F) (1 / B_up - 1 / B_mem): bytes and FLOP of the device add up, GPU and set-up cost nothing"
    yield Row(f"{name}: closed form", closed, "tokens", law, inputs)


def cxl(costs: Costs) -> Section:
    """Whether CXL memory can feed the GPU as fast as PCIe takes it."""
    system = costs.system
    leaves = [name for name, tier in system.tiers.items() if isinstance(tier, Memory) and tier.kind == "cxl"]
    if not leaves:
        return Section("CXL memory behind PCIe", (), "This machine has no CXL memory.")
    resources = system.resources()
    paths = {name: system.path(name, system.gpu_tier) for name in leaves}
    link = _last_link(paths[leaves[0]])
    pcie = resources[link]
    ends = (f"{link.partition(':')[0]}:", f"{system.gpu_tier}:")
    own = {
        name: {resource: used for resource, used in path.usage if not resource.startswith(ends)} for name, path in paths.items()
    }
    alone = {name: min(resources[resource] / used for resource, used in usage.items()) for name, usage in own.items()}
    together = _together(alone, own, resources)
    law = "the least rate on its way to the GPU's own link"
    rows = [Row(f"{name} alone", rate, "B/s", law) for name, rate in alone.items()]
    inputs = {"sum": Quantity(together, "B/s"), "PCIe": Quantity(pcie, "B/s")}
    rows.append(Row("all devices together", together, "B/s", "sum of the devices, less where they share a link"))
    rows.append(Row("transparent to GPU streaming", "yes" if transparent(pcie, together) else "no", "", "sum >= PCIe", inputs))
    slow = [name for name, rate in alone.items() if rate < pcie]
    note = f"Alone, {', '.join(slow)} cannot fill the GPU's link: interleave, or keep what is streamed elsewhere."
    return Section("CXL memory behind PCIe", tuple(rows), note if slow else "")


def _last_link(path: Path) -> str:
    """The link nearest to the GPU, as a resource: where copies queue, else the last on the way."""
    if path.queue is not None:
        return path.queue
    name = path.links[-1]
    return next(resource for resource, _ in path.usage if resource in (f"{name}:forward", f"{name}:reverse"))


def _together(alone: Mapping[str, float], own: Mapping[str, Mapping[str, float]], resources: Mapping[str, float]) -> float:
    """B/s of all devices at once: what they share (a switch, a socket link) scales them down, narrowest group first."""
    rates = dict(alone)
    users = {resource: [name for name in own if resource in own[name]] for usage in own.values() for resource in usage}
    for resource, names in sorted(users.items(), key=lambda item: len(item[1])):
        demand = sum(rates[name] * own[name][resource] for name in names)
        if demand > resources[resource]:
            rates.update({name: rates[name] * resources[resource] / demand for name in names})
    return sum(rates.values())


def origins(data: Mapping[str, Any], provenance: Mapping[str, Origin]) -> Section:
    """How many values of the machine and the runtime of a scenario's `data` were measured, assumed, ..., and which."""
    values = [path for part in ("hardware", "runtime") for path, _ in figures(data[part], part)]
    known = {path: provenance.get(path) or provenance.get(f"{path}.0") for path in values}  # a list has the source of its first
    bases = {path: origin.basis or "with a source, basis not said" for path, origin in known.items() if origin is not None}
    groups: dict[str, list[str]] = {}
    for path in values:
        groups.setdefault(bases.get(path, "nothing said"), []).append(path.removeprefix("hardware."))
    order = ["measured", "datasheet", "derived", "assumed"]
    names = sorted(groups, key=lambda name: (order.index(name) if name in order else len(order), name))
    rows = [Row(name, float(len(groups[name])), "values", ", ".join(groups[name])) for name in names]
    note = f"{len(values)} values; the files give the source of each."
    return Section("Where the machine's and the runtime's values come from", tuple(rows), note)
