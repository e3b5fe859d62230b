"""Owns replays of recorded routing through slots per layer: uploads capped per step, and two rules for who leaves.

Knows the records where they lie and the caches of policies; the records are not shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Uses
from moesim.policies.caching.vllm_expert_cache import LayerLfru
from moesim.policies.kit.cache import LayerCache, LayerLru
from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import NO_DATA, data_folder

__all__ = ["CASE", "capped_hits", "slot_hits"]

CAPPED = {8: 28.0, 12: 39.6, 16: 47.9, 20: 54.3, 24: 60.1, 28: 64.7}
"""Slots of a layer -> % of hits: Gemma-4-26B-A4B under llama.cpp's cache, 2 uploads per layer and step, drafts of 2 tokens."""
_INSERTS, _POSITIONS = 2, 3
"""Uploads per layer and step; positions of a step: a token and its two drafts."""
_FASTER = 1.052
"""Speed of LFRU over LRU with 8 slots a layer (Nemotron-Cascade-2-30B-A3B, one sequence)."""
_SLOTS, _EXPERTS = 8, 128


def capped_hits(ids: IntArray, slots: int, inserts: int, positions: int) -> float:
    """Share of the experts of each step that are in a layer's `slots`, from `ids` [T, L, k], `positions` tokens a step.

    After a step at most `inserts` of its misses come in, each for the expert used longest ago that the step does not use.
    """
    hits = requests = 0
    for layer in np.moveaxis(ids, 1, 0):
        held: dict[int, None] = {}  # in the order of last use
        for begin in range(0, len(layer), positions):
            used = list(dict.fromkeys(layer[begin : begin + positions].ravel().tolist()))
            missing = [expert for expert in used if expert not in held]
            hits, requests = hits + len(used) - len(missing), requests + len(used)
            for expert in used:
                if expert in held:
                    held[expert] = held.pop(expert)
            for newcomer in missing[:inserts]:
                idle = [expert for expert in held if expert not in used]
                if len(held) >= slots and not idle:
                    break
                if len(held) >= slots:
                    del held[idle[0]]
                held[newcomer] = None
    return hits / requests


def slot_hits(ids: IntArray, cache: LayerCache, experts: int) -> float:
    """Share of the requests of `ids` [T, L, k] that a policy's `cache` serves, which begins empty."""
    layers = ids.shape[1]
    resident = np.zeros((layers, experts), dtype=np.bool_)
    cache.warm(np.zeros((layers, experts)))
    hits = 0
    for token in ids:
        counts = np.zeros((layers, experts), dtype=np.int64)
        np.put_along_axis(counts, token, 1, axis=1)
        hits += int((resident & (counts > 0)).sum())
        cache.clock += 1
        clock = np.full(layers, cache.clock)
        stay, leave = cache.after(Uses(np.arange(layers), clock, counts, (counts > 0) & ~resident, resident.copy(), 0))
        resident = (resident & ~leave) | stay
    return hits / ids.size


def _decoded(path: Path) -> Any:
    """[T, L, k] experts of the decoded tokens of a record."""
    with np.load(path) as record:
        return record["experts"][record["phase"] == 1].astype(np.int64)


def _findings() -> Findings:
    data = data_folder("routing", "more")
    names = ("gemma-4-26b-a4b_bigmoe_k6", "qwen3-30b-a3b_bigmoe_k6")
    paths = [data / "routing" / "more" / f"{name}.npz" for name in names] if data is not None else []
    if not paths or not all(path.is_file() for path in paths):
        return Findings((), skipped=NO_DATA)
    gemma, qwen = (_decoded(path) for path in paths)
    rows = [
        Row(
            f"Gemma-4, {slots} slots, 2 uploads a step: hits, %", p, 100 * capped_hits(gemma, slots, _INSERTS, _POSITIONS), 0.15
        )
        for slots, p in CAPPED.items()
    ]
    layers = qwen.shape[1]
    sizes = np.full(layers, _SLOTS)
    lru, lfru = (slot_hits(qwen, rule(sizes, layers, _EXPERTS), _EXPERTS) for rule in (LayerLru, LayerLfru))
    wide = slot_hits(qwen, LayerLru(2 * sizes, layers, _EXPERTS), _EXPERTS)
    rows.append(Row("LFRU over LRU, 8 slots: speed where copies take all the time", _FASTER, (1 - lru) / (1 - lfru), 0.02))
    pair = [100 * capped_hits(gemma, slots, _INSERTS, _POSITIONS - 1) for slots in (8, 28)]
    notes = (
        "Other prompts than the published ones, of 128 decoded tokens each, and 6 of 128 experts a token where models take 8. "
        f"If a step has two positions, not three, 8 and 28 slots hit {pair[0]:.1f} and {pair[1]:.1f} %.",
        f"Qwen3-30B-A3B, 8 slots: LRU {100 * lru:.1f} %, LFRU {100 * lfru:.1f} %; LRU with 16 slots has {100 * wide:.1f} %, "
        "so that LFRU with half of the slots does not reach it, as was claimed of another model.",
    )
    return Findings(tuple(rows), arithmetic=notes)


CASE = Case(
    id="expert-slot-replays",
    kind="component",
    summary="Slots per layer on recorded decoding: llama.cpp's cache with capped uploads, and vLLM's rule beside LRU.",
    source="ggml-org/llama.cpp pull request 27861; vllm-project/vllm pull request 37190; routing of Helldez/BigMoeOnEdge",
    runner=_findings,
)
