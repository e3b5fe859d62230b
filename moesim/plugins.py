"""Finds a class by its name: built-ins from a literal table, installed plug-ins by entry point, `module:Class` by import.

Knows names only; nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from moesim.errors import InputError, Mistake, did_you_mean, excerpt

__all__ = ["BUILT_IN", "find", "names"]

BUILT_IN: dict[str, dict[str, str]] = {
    "policies": {
        "on_demand": "moesim.policies.on_demand:OnDemand",
        "static_popularity": "moesim.policies.static_popularity:StaticPopularity",
        "lru": "moesim.policies.lru:LRU",
        "cxl_expert": "moesim.policies.cxl_expert:CxlExpert",
        "cxl_expert_gpu_only": "moesim.policies.cxl_expert:CxlExpertGpuOnly",
        "cxl_expert_near_data": "moesim.policies.cxl_expert:CxlExpertNearData",
        "cox_moe": "moesim.policies.cox_moe:CoxMoe",
        "moe_cxl": "moesim.policies.moe_cxl:MoeCxl",
        "gpu_only": "moesim.policies.gpu_only:GpuOnly",
        "random": "moesim.policies.random:Random",
        "lfu": "moesim.policies.lfu:LFU",
        "fifo": "moesim.policies.fifo:FIFO",
        "cache": "moesim.policies.cached:Cache",
        "mixtral_offloading": "moesim.policies.mixtral_offloading:MixtralOffloading",
        "huang_buffering": "moesim.policies.huang_buffering:HuangBuffering",
        "fiddler": "moesim.policies.fiddler:Fiddler",
        "hybrimoe": "moesim.policies.hybrimoe:HybriMoe",
        "ktransformers": "moesim.policies.ktransformers:KTransformers",
        "llama_cpp": "moesim.policies.llama_cpp:LlamaCpp",
        "deepspeed_moe": "moesim.policies.deepspeed_moe:DeepSpeedMoe",
        "monde": "moesim.policies.monde:Monde",
        "dynande": "moesim.policies.dynande:DynaNde",
        "trimoe": "moesim.policies.trimoe:TriMoe",
        "hobbit": "moesim.policies.hobbit:Hobbit",
        "edgemoe": "moesim.policies.edgemoe:EdgeMoe",
        "daop": "moesim.policies.daop:Daop",
        "context_cxl_ndp": "moesim.policies.context_cxl_ndp:ContextCxlNdp",
        "belady": "moesim.policies.belady:Belady",
        "belady_global": "moesim.policies.belady:BeladyGlobal",
        "best_static": "moesim.policies.belady:BestStatic",
        "oracle_prefetch": "moesim.policies.oracle_prefetch:OraclePrefetch",
        "oracle_dispatch": "moesim.policies.oracle_dispatch:OracleDispatch",
        "optimum": "moesim.policies.optimum:Optimum",
        "prefetch": "moesim.policies.prefetch:Prefetch",
        "promoe": "moesim.policies.promoe:ProMoe",
        "adapmoe": "moesim.policies.adapmoe:AdapMoe",
        "pre_gated": "moesim.policies.pre_gated:PreGated",
        "moe_infinity": "moesim.policies.moe_infinity:MoeInfinity",
        "finemoe": "moesim.policies.finemoe:FineMoe",
        "flexgen": "moesim.policies.flexgen:FlexGen",
        "moe_lightning": "moesim.policies.moe_lightning:MoeLightning",
        "zero_inference": "moesim.policies.zero_inference:ZeroInference",
        "zero_infinity": "moesim.policies.zero_inference:ZeroInfinity",
        "moesys": "moesim.policies.moesys:MoeSys",
        "lia": "moesim.policies.lia:Lia",
        "moe_gen": "moesim.policies.moe_gen:MoeGen",
        "moe_lens": "moesim.policies.moe_lens:MoeLens",
        "cxl_ndp": "moesim.policies.cxl_ndp:CxlNdp",
        "rmai": "moesim.policies.rmai:Rmai",
    },
    "hardware": {
        "gpu": "moesim.hardware.gpu:Gpu",
        "cpu": "moesim.hardware.cpu:Cpu",
        "ndp": "moesim.hardware.ndp:NearDataUnit",
    },
    "workload": {
        "offline": "moesim.workload.jobs:Offline",
        "layer_batch": "moesim.workload.jobs:LayerBatch",
    },
    "routing": {
        "uniform": "moesim.workload.zipf:Uniform",
        "zipf": "moesim.workload.zipf:Zipf",
        "sticky": "moesim.workload.sticky:Sticky",
        "trace": "moesim.workload.trace:Trace",
        "popularity": "moesim.workload.popularity:PopularityTable",
        "shared": "moesim.workload.shared:Shared",
    },
}
"""Group -> kind -> `module:Class` of what ships with moesim."""

_ABSENT = {("workload", "online"): " Arrivals over time are not simulated yet: all requests of 'offline' arrive at time 0."}
"""What is asked for and is not there, where a name that looks alike would mislead."""

_ENTRY_GROUPS = {"policies": "moesim.policies", "hardware": "moesim.hardware", "workload": "moesim.workload"}


@cache
def _installed(group: str) -> dict[str, str]:
    """Kind -> `module:Class` of installed plug-ins; a built-in name can't be taken over."""
    found = entry_points(group=_ENTRY_GROUPS[group]) if group in _ENTRY_GROUPS else ()
    return {entry.name: entry.value for entry in found if entry.name not in BUILT_IN[group]}


def names(group: str) -> list[str]:
    """Every name known in `group`, built-ins first."""
    return [*BUILT_IN[group], *sorted(_installed(group))]


def find(group: str, name: str, *, beside: Path | None = None) -> type[Any]:
    """The class called `name` in `group`: a built-in, a plug-in or `module:Class`.

    `beside` is a folder whose modules may be named too (that of the scenario file). Raises InputError when there is no
    such class, with what is known and what was probably meant.
    """
    target = BUILT_IN[group].get(name) or _installed(group).get(name) or (name if ":" in name else None)
    if target is None:
        known = names(group)
        hint = _ABSENT.get((group, name)) or did_you_mean(name, known)
        raise InputError(Mistake(f"unknown {_singular(group)} '{excerpt(name)}'; known: {', '.join(known)}.{hint}"))
    return _load(target, beside)


def _singular(group: str) -> str:
    return {"policies": "policy"}.get(group, group)


def _load(target: str, beside: Path | None) -> type[Any]:
    module_name, _, attribute = target.partition(":")
    added = str(beside.resolve()) if beside is not None and ":" in target else None
    if added is not None and added not in sys.path:
        sys.path.insert(0, added)
    else:
        added = None
    try:
        loaded = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        where = f" (looked beside the scenario, in {beside}, and on the Python path)" if beside else ""
        raise InputError(Mistake(f"cannot import '{target}': no module named '{error.name}'{where}")) from None
    except AttributeError:
        raise InputError(Mistake(f"cannot import '{target}': module '{module_name}' has no '{attribute}'")) from None
    finally:
        if added is not None:
            sys.path.remove(added)
    if not isinstance(loaded, type):
        raise InputError(Mistake(f"'{target}' is not a class"))
    return loaded
