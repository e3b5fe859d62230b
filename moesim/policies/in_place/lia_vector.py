"""LIA's choice of a processor for each of six sub-layers: every one of the 2^6 vectors priced by an additive roofline.

Knows what sub-layers cost; places nothing. In a vector 1 is the CPU and 0 the GPU.
Source: LIA, ISCA 2025, DOI 10.1145/3695053.3731092, equations of section 5 (p = 1 is the CPU; the text swaps it once).
"""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Homes
from moesim.contract.homes import HERE
from moesim.policies.kit.layer_costs import LayerCosts

__all__ = ["SUB_LAYERS", "VECTORS", "SubLayers", "best", "expressible", "price", "seconds"]

Phase = Literal["prefill", "decode"]

SUB_LAYERS = ("qkv", "scores", "values", "output", "fc1", "fc2")
VECTORS: IntArray = np.array(list(product((0, 1), repeat=6)))
"""[64, 6] all vectors, in the order of counting."""


class SubLayers(NamedTuple):
    """Seconds of each sub-layer; column 0 is the GPU, column 1 the CPU."""

    compute: FloatArray
    """[6, 2] T_comp."""
    operand: FloatArray
    """[6, 2] copies of operands that lie in the host and are used on the GPU."""
    entering: FloatArray
    """[6] input activations over the link, if the sub-layer before it ran elsewhere."""
    residual: FloatArray
    """[6] the residual over the link, if it was left elsewhere (output projection: by QKV; FC2: by the output projection)."""
    store: float
    """New KV entries over the link, if QKV ran on the GPU."""


def price(costs: LayerCosts, phase: Phase, batch: int, kv: str, pinned: float = 0.0, homes: Homes = HERE) -> SubLayers:
    """What the sub-layers of one layer cost for `batch` sequences with the cache in `kv`.

    FC1 is the gate and up projection of all experts, FC2 the down projection: two thirds and one third of SwiGLU experts. Of
    the expert bytes a share `pinned` needs no copy. Weights outside the experts lie where they are used, or in `homes`.
    """
    problem = costs.problem
    model, gpu, cpu = problem.model, problem.system.attending_gpu, problem.costs.cpu_name
    t = float(costs.tokens(phase, batch))
    first = (model.matrices - 1) / model.matrices
    compute, operand = np.zeros((6, 2)), np.zeros((6, 2))
    for column, device in enumerate((gpu, cpu)):
        if device is None:
            compute[:, column] = np.inf
            continue
        core = float(costs.core(device, phase, batch, kv))
        experts = float(costs.experts(t) if device == gpu else costs.experts_on_cpu(t))
        attention = (0.0, 0.0)
        if problem.job.attention:
            attention = (float(problem.costs.projections(device, t)), float(problem.costs.output(device, t)))
        compute[:, column] = attention[0], core / 2, core / 2, attention[1], 0.0, 0.0
        compute[4:, column] = first * experts, (1.0 - first) * experts
    if phase == "decode":
        operand[1:3, 0] = float(costs.copy_in(costs.cache_read(batch), kv)) / 2
    if homes.attention is not None:
        operand[[0, 3], 0] = costs.copy_in(np.array([model.qkv_bytes, model.output_bytes]), homes.attention)
    upload = float(costs.upload(problem.experts)) * (1.0 - pinned)
    operand[4:, 0] = first * upload, (1.0 - first) * upload
    width = model.token_bytes / model.hidden * model.expert_width * model.top_k  # FC1 hands on every routed pair
    sizes = (model.token_bytes, model.qkv_activation_bytes, model.core_activation_bytes, model.core_activation_bytes)
    entering = np.array([float(costs.copy_in(t * size, problem.main_memory)) for size in (*sizes, model.token_bytes, width)])
    residual = np.zeros(6)
    residual[[3, 5]] = float(costs.copy_in(t * model.token_bytes, problem.main_memory))
    return SubLayers(compute, operand, entering, residual, float(costs.copy_out(costs.cache_written(t), kv)))


def seconds(parts: SubLayers, vectors: IntArray = VECTORS) -> FloatArray:
    """[n] T(p) = sum of T_load + T_comp + T_store for `vectors` [n, 6]; the layer before ended where this one ends."""
    number = np.arange(6)
    total: FloatArray = (parts.compute[number, vectors] + parts.operand[number, vectors]).sum(axis=1)
    moved = vectors != np.roll(vectors, 1, axis=1)
    total = total + (moved * parts.entering).sum(axis=1)
    total = total + (vectors[:, 3] != vectors[:, 5]) * parts.residual[3] + (vectors[:, 5] != vectors[:, 3]) * parts.residual[5]
    stored: FloatArray = total + (vectors[:, 0] == 0) * parts.store
    return stored


def expressible(vectors: IntArray = VECTORS) -> BoolArray:
    """[n] vectors that the engine can run: the attention core as a whole on one device, experts as a whole on one."""
    fits: BoolArray = (vectors[:, 1] == vectors[:, 2]) & (vectors[:, 4] == vectors[:, 5])
    return fits


def best(parts: SubLayers, allowed: BoolArray | None = None) -> tuple[IntArray, float]:
    """The vector [6] of the least time and that time; of equals the one with the GPU earlier. `allowed` [64] restricts it."""
    times = seconds(parts) if allowed is None else np.where(allowed, seconds(parts), np.inf)
    chosen = int(np.argmin(times))
    return VECTORS[chosen], float(times[chosen])
