"""Owns the fitted parameters of sticky routing, one preset per real model, with sources and residuals.

Knows nothing of how they are used (`sticky`) or found (`fit`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["PRESETS", "Preset", "nearest", "ranked"]


class Preset(NamedTuple):
    """Parameters of `Sticky` for one model, fitted to the targets of `moesim.workload.statistics.fit.TARGETS[name]`.

    Targets are met within 3 points (of shares) unless `misses` says otherwise; measured on 192 requests of 256 tokens,
    all layers, three seeds. Those of deepseek-v2-lite-tasks, gpt-oss-20b and llama-4-maverick were found on 21 statistics of
    `workload.statistics.likeness` instead, by Gauss-Newton steps: the first two on half of the requests of a record and every
    other pair of layers, gpt-oss-20b being moved by hand towards its targets afterwards. No preset has a `spread`: 0.1 brings
    the differences between layers halfway to those of the records, at the cost of 0.003 in the distance of these statistics.
    """

    name: str
    experts: int
    top_k: int
    exponent: float
    tail: float
    tilt: float
    thread: float
    reuse: float
    memory: float
    coupling: float
    misses: Mapping[str, float]
    """Target -> generated minus published, where they differ by more than 0.03 or come near it."""
    source: str
    kin: float = 0.0
    bond: float = 0.0
    decay: float = 1.0
    reach: int = 16
    spread: float = 0.0
    domains: int = 1
    """Domains of the load that it was fitted to."""
    mixed: bool = True
    """Whether that load is one of many kinds, so that models without a preset may borrow it."""


_ALL = (
    Preset(
        "mixtral-8x7b", 8, 2, 0.108, 0.543, 0.3, 0.98, 0.17, 0.19, 0.465,
        # the published figures come from different prompts: an overlap of 0.36 leaves little room for 0.39 hits of a cache of 2
        {"overlap": 0.031, "lru_2": -0.037, "lru_3": -0.025},
        "MMLU counts (ajtejankar/mixtral-vis-moe); overlap and cache hits of single prompts (jimmy01081122/platform)",
    ),
    Preset(
        "deepseek-v2-lite", 64, 6, 0.163, 0.306, 0.899, 0.88, 0.14, 0.154, 0.628,
        {},
        "general chat, 182,994 tokens (ngavhane/moe-beyond); co-occurrence recall of the ESFT trace",
    ),
    Preset(
        "deepseek-v2-lite-tasks", 64, 6, 0.424, -0.171, 1.61, 0.848, 0.111, 0.272, 0.847,
        {"recall": -0.02},
        "four tasks together, 33,279 tokens (deepseek-ai/ESFT), half of the requests",
        kin=0.909, bond=0.967, decay=1.303, reach=181, domains=4,
    ),
    Preset(
        "gpt-oss-20b", 32, 4, 0.0, 4.5, 1.908, 0.985, 0.2, 0.285, 0.79,
        {"random_32": 0.025, "recall": -0.09},
        "decode, 11 data sets (AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting), half of the requests",
        kin=0.3, bond=0.766, decay=1.077, reach=71, domains=11,
    ),
    Preset(
        "qwen3-30b-a3b", 128, 8, 0.085, 3.259, 1.33, 0.9, 0.25, 0.42, 0.3,
        {"lru_32": 0.025},
        "MMLU counts (sarelWeinberger/qwen-hebrew-finetuning); decode overlap and cache hits (gajsanders/moe-trace). "
        "Tilt and memory follow from the cache hits; thread and coupling are assumed. A single domain is more skewed",
    ),
    Preset(
        "deepseek-v3", 256, 8, 0.479, 0.743, 1.0, 0.9, 0.176, 0.1, 0.2,
        {},
        "serving counts of 12 runs (GeneratedRandomly/SGLang-reproduce), middle of the ranges. The overlap of 0.25 is assumed, "
        "so are tilt, thread, memory and coupling",
    ),
    Preset(
        "llama-4-maverick", 128, 1, 0.62, 2.433, 2.136, 0.891, 0.149, 0.274, 0.186,
        {},
        "decode on three MMLU subjects (andronius-yang/cse223b-proj): skew, reuse at three lags, one cache, recall, static "
        "hits on the same and on other subjects, and overlap of their hot sets. Thread, bond and reach are assumed",
        kin=0.445, bond=0.714, decay=2.18, reach=120, domains=3,
    ),
    Preset(
        "qwen3-next-80b-a3b", 512, 10, 0.0, 3.1, 1.315, 1.0, 0.424, 0.105, 0.295,
        {},
        "counts of Dolly and CodeAlpaca (doramirdor/mbolt); caches, reuse and static hits of its successor "
        "(ggml-org/llama.cpp#27861, jiro-prog/llamacpp-moe-expert-cache, davetha/r9700-lru-expert-cache). Thread, coupling, "
        "bond, decay and reach are assumed",
        kin=0.61, bond=0.297, decay=0.775, reach=64, domains=4,
    ),
    Preset(
        "qwen3-30b-a3b-thinking", 128, 8, 0.027, 4.261, 0.677, 0.9, 0.327, 0.41, 0.3,
        {},
        "decode with thinking on Dolly and CodeAlpaca: counts and cache hits (doramirdor/mbolt), overlap (kekzl/imp#1359). "
        "Thread, coupling and what concerns domains and ties are assumed",
        kin=0.8, bond=0.7, reach=64, domains=2, mixed=False,
    ),
    Preset(
        "deepseek-v4", 256, 6, 0.401, 2.333, 0.8, 0.85, 0.0, 0.1, 0.5,
        {},
        "counts of 12 sessions of coding agents, in layers that route by their input (Whamp/club-3090); hits of a small cache "
        "in another load (FlashML-org/FreeToken#174). Tilt, memory, and what concerns layers and domains are assumed",
        kin=0.5, bond=0.7, decay=1.3, reach=64, domains=2, mixed=False,
    ),
)  # fmt: skip
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
"""Name -> preset."""


def nearest(experts: int, top_k: int) -> Preset:
    """The preset of a mixed load that is nearest in the ratios of experts and of top-k; the first of equals."""
    return ranked(experts, top_k)[0]


def ranked(experts: int, top_k: int) -> list[Preset]:
    """Presets of mixed loads, the nearest in the ratios of experts and of top-k first; equals in their order."""
    mixed = (preset for preset in PRESETS.values() if preset.mixed)
    return sorted(mixed, key=lambda p: abs(math.log(p.experts / experts)) + abs(math.log(p.top_k / top_k)))
