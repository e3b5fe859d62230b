"""Finds published cases by id: built-ins in a literal table, imported when asked for.

Knows names only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.validation.case import Case

__all__ = ["CASES", "entries", "find", "ids"]

CASES: dict[str, str] = {
    "cxl-expert-table": "moesim.validation.cxl_expert.table:TABLE",
    "cxl-expert-threshold": "moesim.validation.cxl_expert.claims:THRESHOLD",
    "cxl-expert-quantisation": "moesim.validation.cxl_expert.claims:QUANTISATION",
    "amx-expert-gemm-8452y": "moesim.validation.components.cpu:CURVES",
    "amx-vs-avx512-crossover": "moesim.validation.components.cpu:CROSSOVER",
    "cpu-bandwidth-by-format-6454s": "moesim.validation.components.cpu:FORMATS",
    "pcie-gen4-copies": "moesim.validation.components.links:SIZES",
    "pcie-effective-by-host": "moesim.validation.components.links:HOSTS",
    "cxl-to-gpu-a10": "moesim.validation.components.cxl:GPU_READS",
    "cxl-type3-lia": "moesim.validation.components.cxl:TYPE_3",
    "mixtral-layer-rtxpro6000": "moesim.validation.components.gpu:MIXTRAL_LAYER",
    "moe-lightning-fig9": "moesim.validation.components.paging:CASE",
    "gpu-moe-kernels": "moesim.validation.components.gpu:KERNELS",
    "lru-hits-real-traces": "moesim.validation.components.caches:CASE",
    "expert-pool-replays": "moesim.validation.components.caches:POOLS",
    "expert-slot-replays": "moesim.validation.components.slots:CASE",
    "oracle-break-even": "moesim.validation.oracles.costs:BREAK_EVEN",
    "oracle-upload-bound": "moesim.validation.oracles.runs:UPLOAD_BOUND",
    "oracle-distinct-experts": "moesim.validation.oracles.runs:DISTINCT",
    "oracle-attention-share": "moesim.validation.oracles.costs:SHARE",
    "oracle-coalescing": "moesim.validation.oracles.runs:COALESCING",
    "oracle-cxl-transparent": "moesim.validation.oracles.costs:TRANSPARENT",
    "oracle-expert-deferral": "moesim.validation.oracles.runs:DEFERRAL",
    "oracle-interleaving": "moesim.validation.oracles.costs:INTERLEAVING",
    "oracle-queues": "moesim.validation.oracles.queues:QUEUES",
    "oracle-shared-link": "moesim.validation.oracles.queues:LINK",
    "mixtral-rtxpro6000-end-to-end": "moesim.validation.systems.resident_serving:CASE",
    "vllm-llama8b-pro6000": "moesim.validation.systems.vllm_serving:CASE",
    "ktransformers-dsv3-q4": "moesim.validation.systems.ktransformers:CASE",
    "moe-cxl-claims": "moesim.validation.moe_cxl.claims:CLAIMS",
    "moe-lightning-s1": "moesim.validation.systems.moe_lightning:CASE",
    "moe-gen-mixtral-8x7b": "moesim.validation.systems.moe_gen:CASE",
    "flexgen-opt30b": "moesim.validation.systems.flexgen:CASE",
    "lia-cxl-weights": "moesim.validation.systems.lia:CASE",
    "fiddler-env1": "moesim.validation.systems.fiddler:CASE",
    "dynande-order": "moesim.validation.systems.dynande:CASE",
    "ik-llama-offload": "moesim.validation.systems.ik_offload:CASE",
    "llama-cpp-hot-experts": "moesim.validation.systems.hot_experts:CASE",
    "cox-moe-table3": "moesim.validation.cox_moe.ablation:CASE",
    "cox-moe-ranges": "moesim.validation.cox_moe.grid:CASE",
    "runtime-ktransformers": "moesim.validation.runtimes.ktransformers:CASE",
    "runtime-llama-cpp": "moesim.validation.runtimes.llama_cpp:CASE",
    "runtime-llama-cpp-dense": "moesim.validation.runtimes.llama_cpp_dense:CASE",
    "runtime-llama-cpp-moe": "moesim.validation.runtimes.llama_cpp_moe:CASE",
    "runtime-vllm": "moesim.validation.runtimes.vllm:CASE",
    "runtime-offloading-l4": "moesim.validation.runtimes.offloading:L4",
    "offloading-plans": "moesim.validation.runtimes.plans:CASE",
    "runtime-eager": "moesim.validation.runtimes.eager:CASE",
    "runtime-opt-a6000": "moesim.validation.runtimes.a6000:CASE",
    "runtime-moe-gen": "moesim.validation.runtimes.moe_gen:CASE",
    "runtime-fiddler": "moesim.validation.runtimes.offloading:FIDDLER",
}
"""Id -> `module:attribute` of a `Case`."""


def ids() -> list[str]:
    """Every case there is."""
    return list(CASES)


def entries() -> list[dict[str, str]]:
    """`{"name", "summary", "source"}` of every case."""
    return [{"name": case.id, "summary": case.summary, "source": case.source} for case in find()]


def find(requested: Iterable[str] = ()) -> list[Case]:
    """The cases of these ids, each once, in the order given; all without any. InputError with every unknown id."""
    names = list(dict.fromkeys(requested)) or ids()
    unknown = [name for name in names if name not in CASES]
    if unknown:
        known = ", ".join(CASES)
        raise InputError(*(Mistake(f"unknown case '{name}'; known: {known}.{did_you_mean(name, CASES)}") for name in unknown))
    return [_load(name) for name in names]


def _load(name: str) -> Case:
    module, _, attribute = CASES[name].partition(":")
    case: Case = getattr(importlib.import_module(module), attribute)
    return case
