"""KTransformers (kt-kernel in its SGLang): which experts are on the GPU, by count and by a file of statistics; deferral.

Source: doc/en/kt-kernel/experts-sched-Tutorial.md of kvcache-ai/ktransformers and kt_ep_wrapper.py of kvcache-ai/sglang: the
strategy `frequency` puts the pairs with the highest counts of all layers on the GPU, `--kt-num-gpu-experts` times the number of
MoE layers of them, or with `--kt-gpu-experts-ratio` a share of all pairs, rounded down; `uniform` takes the lowest ids.
"""

from __future__ import annotations

import json

import numpy as np

from moesim.arrays import IntArray
from moesim.exports.placed import Exported, Placed
from moesim.policies.in_place.ktransformers import KTransformers
from moesim.policies.kit.streaming import lowest_ids

__all__ = ["PLACEMENT", "export"]

PLACEMENT = "expert-placement"
"""Name of the file of statistics, without its end."""
_METHODS = {"bf16": "BF16", "fp8": "FP8", "int8": "AMXINT8", "int4": "AMXINT4", "mxfp4": "MXFP4"}
_EXACT = 2**23
"""Counts above this are not exact in the float32 that the program sums in."""


def export(placed: Placed) -> Exported:
    """The very placement of the run: any set of (layer, expert) pairs can be said by statistics that rank it first."""
    own = placed.loaded.scenario.policy
    options = own.model_dump(include={"layerwise", "defer"}) if isinstance(own, KTransformers) else {}
    experts = tuple(tuple(np.flatnonzero(row).tolist()) for row in placed.resident)
    kv = placed.plan.kv if placed.cache_in_host else None
    policy = KTransformers(experts=experts, batch=placed.plan.batch, kv=kv, **options)
    policy.deploy(placed.problem)
    total, layers = int(placed.resident.sum()), len(placed.resident)
    by_id = bool((placed.resident == lowest_ids(placed.problem, placed.resident.sum(axis=1))).all())
    uniform = total % layers == 0 and by_id and len(set(placed.resident.sum(axis=1).tolist())) == 1
    words = [f"--kt-num-gpu-experts {total // layers}"] if total % layers == 0 else [_ratio(total, placed.resident.size)]
    words.append(f"--kt-expert-placement-strategy {'uniform' if uniform else 'frequency'}")
    files = {} if uniform else {f"{PLACEMENT}.json": _statistics(placed)}
    if files:
        words.append(f"--init-expert-location {PLACEMENT}.pt")
    command = (
        "python -m sglang.launch_server",
        "--model MODEL",
        "--kt-weight-path CPU_WEIGHTS",
        f"--kt-method {_method(placed)}",
        "--kt-cpuinfer CORES",
        *words,
        f"--kt-max-deferred-experts-per-token {policy.defer}",
        f"--kt-gpu-prefill-token-threshold {policy.layerwise}",
        f"--max-running-requests {placed.plan.batch}",
        f"--max-total-tokens {placed.longest * placed.plan.batch}",
    )
    return Exported(command=command, resident=placed.resident, policy=policy, files=files, notes=_notes(bool(files)))


def _notes(file: bool) -> tuple[str, ...]:
    if not file:
        return ()
    counts = f"torch.tensor(json.load(open('{PLACEMENT}.json'))['logical_count'])"
    convert = f"python -c \"import json, torch; torch.save({{'logical_count': {counts}}}, '{PLACEMENT}.pt')\""
    return (f"The program reads statistics as torch saves them; once, where it is installed: {convert}",)


def _ratio(total: int, pairs: int) -> str:
    """The share of all pairs that the program rounds down to `total`."""
    return f"--kt-gpu-experts-ratio {(total + 0.5) / pairs:.9g}"


def _statistics(placed: Placed) -> str:
    """`logical_count` [1, decoder layers, E]: the run's counts, lifted above all others where an expert is resident."""
    counts: IntArray = placed.uses // max(int(placed.uses.max()) // _EXACT + 1, 1)
    lifted = np.where(placed.resident, counts + int(counts.max()) + 1, counts)
    whole = np.zeros((placed.model.layers, placed.model.experts), dtype=np.int64)
    whole[list(placed.model.moe_layers)] = lifted
    return json.dumps({"logical_count": [whole.tolist()]}) + "\n"


def _method(placed: Placed) -> str:
    """The kernel for the format that experts are stored in."""
    formats = placed.model.precision.experts
    if placed.model.source.endswith(".gguf") or not isinstance(formats, str):
        return "LLAMAFILE"
    return _METHODS.get(formats, "METHOD")
