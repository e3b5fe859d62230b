"""Finds a class by its name: built-ins from a literal table, installed plug-ins by entry point, `module:Class` by import.

Knows names only; nothing is imported before it is asked for, and no plug-in while the door is `closed`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from moesim.errors import InputError, Mistake, did_you_mean, excerpt

__all__ = ["BUILT_IN", "UNJUDGED", "closed", "find", "is_foreign", "knows", "names"]

UNJUDGED = "whose code is imported only with --plugins"
"""Words of the refusals of `find` while plug-ins are not imported: what they are about is not wrong, but not judged."""
_closed: ContextVar[bool] = ContextVar("closed", default=False)

BUILT_IN: dict[str, dict[str, str]] = {
    "policies": {
        "on_demand": "moesim.policies.baselines.on_demand:OnDemand",
        "static_popularity": "moesim.policies.baselines.static_popularity:StaticPopularity",
        "lru": "moesim.policies.caching.lru:LRU",
        "cxl_expert": "moesim.policies.near_data.cxl_expert:CxlExpert",
        "cxl_expert_gpu_only": "moesim.policies.near_data.cxl_expert_baselines:CxlExpertGpuOnly",
        "cxl_expert_near_data": "moesim.policies.near_data.cxl_expert_baselines:CxlExpertNearData",
        "cox_moe": "moesim.policies.in_place.cox_moe:CoxMoe",
        "moe_cxl": "moesim.policies.near_data.moe_cxl:MoeCxl",
        "gpu_only": "moesim.policies.baselines.gpu_only:GpuOnly",
        "random": "moesim.policies.baselines.random:Random",
        "lfu": "moesim.policies.caching.lfu:LFU",
        "fifo": "moesim.policies.caching.fifo:FIFO",
        "cache": "moesim.policies.kit.cached:Cache",
        "mixtral_offloading": "moesim.policies.caching.mixtral_offloading:MixtralOffloading",
        "huang_buffering": "moesim.policies.caching.huang_buffering:HuangBuffering",
        "fiddler": "moesim.policies.in_place.fiddler:Fiddler",
        "hybrimoe": "moesim.policies.in_place.hybrimoe:HybriMoe",
        "ktransformers": "moesim.policies.in_place.ktransformers:KTransformers",
        "llama_cpp": "moesim.policies.in_place.llama_cpp:LlamaCpp",
        "ik_llama": "moesim.policies.in_place.ik_llama:IkLlama",
        "llama_cpp_cache": "moesim.policies.in_place.llama_cpp_cache:LlamaCppCache",
        "vllm_cpu_misses": "moesim.policies.in_place.vllm_cpu_misses:VllmCpuMisses",
        "vllm_expert_cache": "moesim.policies.caching.vllm_expert_cache:VllmExpertCache",
        "sglang_managed": "moesim.policies.caching.sglang_managed:SglangManaged",
        "dali": "moesim.policies.in_place.dali:Dali",
        "onnxruntime": "moesim.policies.in_place.onnxruntime:OnnxRuntime",
        "smoe": "moesim.policies.in_place.smoe:Smoe",
        "freetoken": "moesim.policies.in_place.freetoken:FreeToken",
        "accelerate": "moesim.policies.baselines.accelerate:Accelerate",
        "vllm_offload": "moesim.policies.baselines.vllm_offload:VllmOffload",
        "deepspeed_moe": "moesim.policies.baselines.deepspeed_moe:DeepSpeedMoe",
        "monde": "moesim.policies.near_data.monde:Monde",
        "dynande": "moesim.policies.near_data.dynande:DynaNde",
        "trimoe": "moesim.policies.near_data.trimoe:TriMoe",
        "hobbit": "moesim.policies.caching.hobbit:Hobbit",
        "edgemoe": "moesim.policies.caching.edgemoe:EdgeMoe",
        "daop": "moesim.policies.in_place.daop:Daop",
        "context_cxl_ndp": "moesim.policies.near_data.context_cxl_ndp:ContextCxlNdp",
        "belady": "moesim.policies.bounds.belady:Belady",
        "belady_global": "moesim.policies.bounds.belady:BeladyGlobal",
        "best_static": "moesim.policies.bounds.belady:BestStatic",
        "oracle_prefetch": "moesim.policies.bounds.oracle_prefetch:OraclePrefetch",
        "oracle_dispatch": "moesim.policies.bounds.oracle_dispatch:OracleDispatch",
        "optimum": "moesim.policies.bounds.optimum:Optimum",
        "prefetch": "moesim.policies.caching.prefetch:Prefetch",
        "promoe": "moesim.policies.caching.promoe:ProMoe",
        "adapmoe": "moesim.policies.caching.adapmoe:AdapMoe",
        "pre_gated": "moesim.policies.caching.pre_gated:PreGated",
        "llama_cpp_stream": "moesim.policies.caching.llama_cpp_stream:LlamaCppStream",
        "flashmoe": "moesim.policies.caching.flashmoe:FlashMoe",
        "moe_infinity": "moesim.policies.caching.moe_infinity:MoeInfinity",
        "finemoe": "moesim.policies.caching.finemoe:FineMoe",
        "flexgen": "moesim.policies.streaming.flexgen:FlexGen",
        "moe_lightning": "moesim.policies.streaming.moe_lightning:MoeLightning",
        "zero_inference": "moesim.policies.streaming.zero_inference:ZeroInference",
        "zero_infinity": "moesim.policies.streaming.zero_inference:ZeroInfinity",
        "moesys": "moesim.policies.streaming.moesys:MoeSys",
        "lia": "moesim.policies.in_place.lia:Lia",
        "moe_gen": "moesim.policies.streaming.moe_gen:MoeGen",
        "moe_lens": "moesim.policies.streaming.moe_lens:MoeLens",
        "cxl_ndp": "moesim.policies.near_data.cxl_ndp:CxlNdp",
        "rmai": "moesim.policies.caching.rmai:Rmai",
    },
    "hardware": {
        "gpu": "moesim.hardware.gpu:Gpu",
        "cpu": "moesim.hardware.cpu:Cpu",
        "ndp": "moesim.hardware.ndp:NearDataUnit",
    },
    "workload": {
        "offline": "moesim.workload.jobs:Offline",
        "online": "moesim.scheduling.online:Online",
        "layer_batch": "moesim.workload.jobs:LayerBatch",
    },
    "schedulers": {
        "continuous": "moesim.scheduling.continuous:Continuous",
        "prefill_first": "moesim.scheduling.prefill_first:PrefillFirst",
        "slots": "moesim.scheduling.slots:Slots",
        "static": "moesim.scheduling.static:Static",
    },
    "routing": {
        "uniform": "moesim.workload.routing.zipf:Uniform",
        "zipf": "moesim.workload.routing.zipf:Zipf",
        "sticky": "moesim.workload.routing.sticky:Sticky",
        "trace": "moesim.workload.routing.trace:Trace",
        "popularity": "moesim.workload.routing.popularity:PopularityTable",
        "shared": "moesim.workload.routing.shared:Shared",
    },
}
"""Group -> kind -> `module:Class` of what ships with moesim."""

_MEANT = {
    ("workload", name): f" '{name}' is a law of arrivals: write 'kind: online' with 'arrivals: {{kind: {name}, ...}}'."
    for name in ("poisson", "constant", "gamma", "weibull", "bursts", "ramp", "closed")
} | {("workload", name): " Did you mean 'online', whose requests arrive over time?" for name in ("serving", "arrivals")}
"""What a name that is not known probably means, where one that looks alike would mislead."""

_ENTRY_GROUPS = {
    "policies": "moesim.policies",
    "hardware": "moesim.hardware",
    "workload": "moesim.workload",
    "schedulers": "moesim.schedulers",
}


@cache
def _installed(group: str) -> dict[str, str]:
    """Kind -> `module:Class` of installed plug-ins; a built-in name can't be taken over."""
    if group not in _ENTRY_GROUPS:
        return {}
    from importlib.metadata import entry_points  # reads a file of every package that is installed

    entries = entry_points(group=_ENTRY_GROUPS[group])
    return {entry.name: entry.value for entry in entries if entry.name not in BUILT_IN[group]}


def names(group: str) -> list[str]:
    """Every name known in `group`, built-ins first."""
    return [*BUILT_IN[group], *sorted(_installed(group))]


def knows(group: str, name: str) -> bool:
    """Whether `name` is one of `names(group)`; what is installed is looked at only where it is not a built-in."""
    return name in BUILT_IN[group] or name in _installed(group)


def is_foreign(group: str, name: str) -> bool:
    """Whether a name means a class from outside: an installed plug-in or `module:Class`."""
    return name not in BUILT_IN[group] and (":" in name or name in _installed(group))


@contextmanager
def closed(shut: bool = True) -> Iterator[None]:
    """While the block runs, `find` imports moesim's own modules only, and refuses plug-ins in words that hold `UNJUDGED`."""
    before = _closed.set(shut)
    try:
        yield
    finally:
        _closed.reset(before)


def find(group: str, name: str, *, beside: Path | None = None) -> type[Any]:
    """The class called `name` in `group`: a built-in, a plug-in or `module:Class`, whose module is imported.

    `beside` is a folder whose modules may be named too (that of the scenario file). Raises InputError when there is no
    such class, with what is known and what was probably meant, and when its module cannot be imported, with file and line.
    """
    own = BUILT_IN[group].get(name)
    if own is not None:
        return _load(own, None)
    target = _installed(group).get(name) or (name if ":" in name else None)
    if target is None:
        known = names(group)
        hint = _MEANT.get((group, name)) or did_you_mean(name, known)
        raise InputError(Mistake(f"unknown {_singular(group)} '{excerpt(name)}'; known: {', '.join(known)}.{hint}"))
    if _closed.get():
        raise InputError(Mistake(f"'{excerpt(name)}' is a plug-in, {UNJUDGED}; it is not judged"))
    return _built(_load(target, beside), target)


def _singular(group: str) -> str:
    return {"policies": "policy", "schedulers": "scheduler"}.get(group, group)


def _load(target: str, beside: Path | None) -> type[Any]:
    module_name, _, attribute = target.partition(":")
    module = _imported(target, module_name, beside)
    try:
        loaded = getattr(module, attribute)
    except AttributeError:
        raise InputError(Mistake(f"cannot import '{target}': module '{module_name}' has no '{attribute}'")) from None
    if not isinstance(loaded, type):
        raise InputError(Mistake(f"'{target}' is not a class"))
    return loaded


def _built(spec: type[Any], target: str) -> type[Any]:
    """The class with what checks its fields, which moesim's own make when they need it: bad types come out."""
    build = getattr(spec, "model_rebuild", None)
    try:
        if build is not None:
            build()
    except Exception as error:
        raise InputError(Mistake(f"cannot import '{target}': {_class_place(spec)}{_reason(error)}")) from None
    return spec


def _class_place(spec: type[Any]) -> str:
    """`FILE:LINE: ` of a class; nothing for those that no `class` statement made."""
    try:
        return _shown(str(inspect.getsourcefile(spec)), inspect.getsourcelines(spec)[1])
    except (OSError, TypeError):
        return ""


def _imported(target: str, name: str, beside: Path | None) -> types.ModuleType:
    added = str(beside.resolve()) if beside is not None else None
    if added is not None and added not in sys.path:
        sys.path.insert(0, added)
    else:
        added = None
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module from outside may raise anything, SystemExit too
        if isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name):
            where = f" (looked beside the scenario, in {beside}, and on the Python path)" if beside else ""
            raise InputError(Mistake(f"cannot import '{target}': no module named '{error.name}'{where}")) from None
        raise InputError(Mistake(f"cannot import '{target}': {_place(error, beside)}{_reason(error)}")) from None
    finally:
        if added is not None:
            sys.path.remove(added)


def _reason(error: BaseException) -> str:
    """What was raised, in a line; an attribute without a type in words of policies, not of the library that reads classes."""
    if getattr(error, "code", None) == "model-field-missing-annotation" and (named := re.search(r"[`'](\w+)", str(error))):
        name = named[1]
        return (
            f"'{name}' needs a type: '{name}: bool = ...' is a parameter, which files may set; "
            f"'{name}: ClassVar[bool] = ...' is what the class says of itself, such as memoryless or adapts"
        )
    return " ".join(f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}".split())


def _place(error: BaseException, beside: Path | None) -> str:
    """`FILE:LINE: ` of the code that raised: the last line of a file in `beside`, else the last of any."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    known = [place for place in places if not place[0].startswith("<") and place[0] != __file__]
    near = [place for place in known if beside is not None and Path(place[0]).is_relative_to(beside.resolve())]
    if not known:
        return ""
    return _shown(*(near or known)[-1])


def _shown(file: str, line: int | None) -> str:
    """`FILE:LINE: `, from the working directory on."""
    here = Path.cwd()
    return f"{Path(file).relative_to(here) if Path(file).is_relative_to(here) else file}:{line}: "
