"""Explains the serving program: the floor of a decode step, what its calls cost by kind of operation, what a graph saves.

Knows the runtime's costs and the model's operations; not the job, its batch or its placement.
"""

from __future__ import annotations

from collections.abc import Iterator

from moesim.contract import Costs
from moesim.explain.rows import Quantity, Row, Section
from moesim.model import Architecture
from moesim.runtime.gpu import Operation

__all__ = ["fixed_costs"]

_WORDS: dict[Operation, str] = {
    "projections": "norm, QKV projection, rotation",
    "core": "attention core",
    "output": "output projection",
    "router": "norm, router",
    "experts": "experts of a layer, fused",
    "expert": "experts of a layer, one call each",
    "shared": "shared experts",
    "dense": "dense feed-forward",
    "head": "LM head, sampler",
}


def fixed_costs(costs: Costs) -> Section:
    """A step that decodes one token with everything in GPU memory: bytes over bandwidth, and the fixed costs by kind."""
    runtime, gpu = costs.runtime, costs.system.gpu
    floor = list(_floor(costs))
    rows = []
    total, saved = 0.0, 0.0
    for operation, number in _calls(costs).items():
        per_call = runtime.gpu.seconds(operation, gpu.fixed)
        total += number * per_call
        saved += number * runtime.gpu.captured(operation, gpu.fixed)
        inputs = {"n": Quantity(number), "each": Quantity(per_call, "s")}
        rows.append(Row(_WORDS[operation], number * per_call, "s", "n x each", inputs))
    if runtime.gpu.step or runtime.gpu.request:
        rows.append(Row("host, between two steps", runtime.gpu.step + runtime.gpu.request, "s", "per step, with one sequence"))
        total += runtime.gpu.step + runtime.gpu.request
    rows.append(Row("fixed costs of a decode step", total, "s", "sum of the above"))
    if runtime.gpu.mode == "graph":
        mode = runtime.gpu.model_copy(update={"mode": "eager"})
        without = sum(number * mode.captured(name, gpu.fixed) for name, number in _calls(costs).items())
        rows.append(Row("what the captured graph saves", without, "s", "the same kernels launched eagerly, less these"))
    else:
        rows.append(Row("what a captured graph would save", saved, "s", "these kernels, less the same in a graph"))
    note = (
        f"Runtime {runtime.name or 'without a name'}: one token, weights and cache in GPU memory; the floor holds for any "
        "program, the fixed costs are what its calls add."
    )
    return Section("Floor and fixed costs of a decode step", (*floor, *rows, *_hand_over(costs)), note)


def _floor(costs: Costs) -> Iterator[Row]:
    model, system = costs.model, costs.system
    embedding = 0.0 if model.tied_embedding else model.embedding_bytes
    nbytes = model.non_expert_bytes - embedding + model.n_moe * model.top_k * model.expert_bytes
    rate = system.reach(system.attending_gpu, system.gpu_tier).rate
    inputs = {"bytes": Quantity(nbytes, "B"), "B": Quantity(rate, "B/s")}
    yield Row("floor: weights of one token", nbytes / rate, "s", "bytes / B, the memory's own bandwidth", inputs)


def _calls(costs: Costs) -> dict[Operation, float]:
    """Calls of each operation in a step of one token."""
    model: Architecture = costs.model
    layers, moe = float(model.layers), float(model.n_moe)
    calls: dict[Operation, float] = {"projections": layers, "core": layers, "output": layers, "router": moe}
    calls |= {"experts": moe} if costs.runtime.gpu.fused else {"expert": moe * model.top_k}
    calls |= {"shared": moe} if model.shared_bytes else {}
    calls |= {"dense": float(model.n_dense)} if model.n_dense else {}
    return {**calls, "head": 1.0}


def _hand_over(costs: Costs) -> Iterator[Row]:
    for name in costs.system.device_names:
        calls = costs.calls(name)
        if name != costs.system.attending_gpu and (calls.hand_over or calls.apart):
            yield Row(f"{name}: hand-over", calls.hand_over, "s", "per layer visit in which it takes part")
            yield Row(f"{name}: call", calls.apart, "s", "per layer visit" if calls.fused else "per active expert")
