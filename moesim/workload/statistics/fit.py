"""Owns the fit of the presets: published targets in, parameters and residuals out (`python -m moesim.workload.statistics.fit`).

Knows the law and its measures; no file of data is read, targets are typed in with their sources.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.streams import Streams
from moesim.workload.draws.job import draw_job
from moesim.workload.draws.laws import Kin, StickyLaw
from moesim.workload.routing.domains import domain_tilts, drawn_domains, shares_of
from moesim.workload.routing.presets import PRESETS, Preset
from moesim.workload.routing.profile import Uniform
from moesim.workload.routing.sticky import Sticky
from moesim.workload.routing.zipf import rank_order
from moesim.workload.statistics import measures
from moesim.workload.table import Job

__all__ = ["TARGETS", "Case", "fit", "like", "main", "measure", "residuals"]

_BASIC = ("exponent", "tail", "tilt", "thread", "reuse", "memory", "coupling")
_LIMITS = {
    "exponent": (0.0, 4.0, 0.1),
    "tail": (-4.0, 12.0, 0.3),
    "tilt": (0.0, 4.0, 0.1),
    "thread": (0.0, 1.0, -0.1),
    "reuse": (0.0, 0.6, 0.03),
    "memory": (0.0, 0.6, 0.03),
    "coupling": (0.0, 0.9, 0.05),
    "kin": (0.0, 1.0, -0.1),
    "bond": (0.0, 1.0, -0.1),
    "decay": (0.0, 4.0, 0.3),
}
"""Lowest and highest value of what is fitted, and the width of a difference."""
_FIXED = ("reach", "spread", "domains")


class Case(NamedTuple):
    """What one preset is fitted to.

    Names of targets: `top_25` share of the most popular 25 % of experts over mixed requests; `within_25` the same counted in
    each request; `max_within` hottest expert of a request over the mean; `overlap` with the token before; `lru_C` hits
    of a per-layer LRU cache of C experts that requests pass one after another; `random_T`, `consecutive_T` distinct
    experts of T tokens as a share of all; `recall` of the next layer's experts by co-occurrence; `static_C` hits of the C most
    popular experts of the first half of the domains in requests of the others.
    """

    layers: int
    targets: dict[str, float]
    free: tuple[str, ...] = _BASIC
    tokens: int = 256
    """Per request."""


TARGETS: dict[str, Case] = {
    # MMLU counts; single-prompt traces of jimmy01081122/platform for reuse and caches (middle of the ranges over prompts)
    "mixtral-8x7b": Case(
        32,
        {
            "top_25": 0.307,
            "max_within": 1.5,
            "overlap": 0.36,
            "lru_2": 0.39,
            "lru_3": 0.505,
            "lru_4": 0.61,
            "lru_6": 0.825,
            "recall": 0.42,
        },
    ),
    # moe-beyond, general chat: 182,994 tokens
    "deepseek-v2-lite": Case(
        26,
        {
            "top_25": 0.327,
            "top_50": 0.585,
            "within_25": 0.50,
            "overlap": 0.265,
            "lru_16": 0.451,
            "lru_32": 0.707,
            "random_32": 60.42 / 64,
            "consecutive_32": 50.97 / 64,
            "recall": 0.35,
        },
    ),
    # ESFT, four tasks together: 33,279 tokens; recall as learnt on every other sequence, so on all tasks
    "deepseek-v2-lite-tasks": Case(
        26,
        {
            "top_25": 0.426,
            "top_50": 0.691,
            "within_25": 0.555,
            "overlap": 0.278,
            "lru_16": 0.499,
            "lru_32": 0.754,
            "random_32": 57.64 / 64,
            "consecutive_32": 48.40 / 64,
            "recall": 0.48,
        },
    ),
    # ExpertFingerprinting, decode, 11 data sets
    "gpt-oss-20b": Case(
        24,
        {
            "top_25": 0.495,
            "top_50": 0.793,
            "within_25": 0.687,
            "overlap": 0.446,
            "lru_8": 0.633,
            "lru_16": 0.893,
            "random_32": 26.94 / 32,
            "consecutive_32": 20.31 / 32,
            "recall": 0.556,
        },
    ),
    # MMLU counts of qwen-hebrew-finetuning; decode traces of gajsanders/moe-trace
    "qwen3-30b-a3b": Case(
        48,
        {"top_25": 0.543, "top_50": 0.828, "overlap": 0.43, "lru_8": 0.42, "lru_16": 0.65, "lru_32": 0.81, "lru_64": 0.92},
        free=("exponent", "tail", "tilt", "reuse", "memory"),
    ),
    # serving counts of SGLang-reproduce, 12 runs, middle of their ranges; the overlap is assumed
    "deepseek-v3": Case(
        58,
        {"top_10": 0.315, "top_25": 0.525, "top_50": 0.76, "overlap": 0.25},
        free=("exponent", "tail", "reuse"),
    ),
    # cse223b-proj, MMLU subjects, middle of the ranges; its cache hits are of cold caches of unknown query lengths
    "llama-4-maverick": Case(
        24,
        {"top_10": 0.57, "top_25": 0.78, "top_50": 0.93, "overlap": 0.33},
        free=("exponent", "tail", "reuse"),
    ),
    # counts of doramirdor/mbolt, 25 thousand decoded tokens of Qwen3-Next (Dolly and CodeAlpaca); what time and domains do to
    # routing is published of its successor Qwen3.8-Flash-Next alone: LRU and static hits (ggml-org/llama.cpp#27861), experts of
    # 2 tokens (jiro-prog/llamacpp-moe-expert-cache), of 5 (davetha/r9700-lru-expert-cache)
    "qwen3-next-80b-a3b": Case(
        48,
        {
            "top_10": 0.322,
            "top_25": 0.587,
            "top_50": 0.847,
            "overlap": 0.46,
            "lru_64": 0.67,
            "lru_128": 0.81,
            "consecutive_5": 31.4 / 512,
            "static_32": 0.10,
        },
        free=("exponent", "tail", "tilt", "reuse", "memory", "kin"),
    ),
    # counts of doramirdor/mbolt, 76 thousand decoded tokens of Qwen3-30B-A3B that thinks (Dolly and CodeAlpaca) and their LRU
    # hits; overlap (kekzl/imp#1359)
    "qwen3-30b-a3b-thinking": Case(
        48,
        {"top_10": 0.361, "top_25": 0.65, "top_50": 0.888, "overlap": 0.45, "lru_32": 0.78},
        free=("exponent", "tail", "tilt", "reuse", "memory"),
    ),
    # counts of the layers that route by their input in 12 sessions of coding agents (Whamp/club-3090); hits of an LRU cache of
    # 11.5 experts in another load (FlashML-org/FreeToken#174, 0.08 to 0.18)
    "deepseek-v4": Case(
        40,
        {"top_10": 0.442, "top_25": 0.668, "top_50": 0.871, "lru_12": 0.13},
        free=("exponent", "tail", "reuse"),
    ),
}
"""Preset -> what it is fitted to."""


class _Model(NamedTuple):
    name: str
    experts: int
    top_k: int
    n_moe: int


def generate(preset: Preset, layers: int, requests: int, tokens: int, seed: int) -> list[measures.Ids]:
    """Sequences of `tokens` tokens of each request under the parameters of `preset`."""
    job = Job(np.zeros(requests), np.ones(requests, dtype=np.int64), np.full(requests, tokens + 1), layers)
    law = Sticky(**{name: getattr(preset, name) for name in (*_LIMITS, *_FIXED)})
    table = law.table(job, _Model(preset.name, preset.experts, preset.top_k, layers), Streams(seed), Path(), Uniform())
    return list(table.decode)


def like(preset: Preset, lengths: IntArray, domain: IntArray, layers: int, seed: int) -> list[measures.Ids]:
    """Sequences of `lengths` [S] tokens under the parameters of `preset`, each of its domain in `domain` [S] (0, 1, ...)."""
    job = Job(np.zeros(len(lengths)), np.ones(len(lengths), dtype=np.int64), lengths + 1, layers)
    model, streams = _Model(preset.name, preset.experts, preset.top_k, layers), Streams(seed)
    process = Sticky(preset=preset.name).process(layers, model, streams)
    kin = Kin(preset.kin, domain_tilts(shares_of(int(domain.max()) + 1), process, streams), domain)
    law = StickyLaw(process, rank_order(layers, preset.experts, streams, permute=True), preset.top_k, kin)
    decode = draw_job(job, law, streams, "routing").decode
    return [ids[:length] for ids, length in zip(decode, lengths, strict=True)]


def measure(preset: Preset, case: Case, *, requests: int = 192, cached: int = 32, seed: int = 1) -> dict[str, float]:
    """The measures that `case` names, of generated requests; LRU caches see four requests each, `cached` in all."""
    sequences = generate(preset, case.layers, requests, case.tokens, seed)
    counts = measures.popularity(sequences, preset.experts)
    hits = np.zeros(0)
    result = {}
    for name in case.targets:
        kind, _, number = name.partition("_")
        match kind:
            case "top":
                result[name] = float(measures.top_share(counts, int(number) / 100).mean())
            case "within":
                result[name] = measures.within_request_share(sequences, preset.experts)
            case "max":
                own = [measures.popularity([sequence], preset.experts) for sequence in sequences]
                result[name] = float(np.mean([c.max(axis=1) / c.mean(axis=1) for c in own]))
            case "overlap":
                result[name] = float(measures.overlap(sequences).mean())
            case "lru":
                hits = hits if hits.size else measures.lru_hits(sequences[:cached], preset.experts, streams=max(cached // 4, 1))
                result[name] = float(hits[int(number)])
            case "random" | "consecutive":
                generator, run = np.random.default_rng(seed), kind == "consecutive"
                size = measures.coverage(sequences, int(number), 60, generator, consecutive=run)
                result[name] = size / preset.experts
            case "static":
                result[name] = _foreign_hits(sequences, preset, int(number), seed)
            case "recall":
                half = requests * 7 // 10
                result[name] = measures.next_layer_recall(sequences[:half], sequences[half:], preset.experts)[0]
    return result


def _foreign_hits(sequences: list[measures.Ids], preset: Preset, capacity: int, seed: int) -> float:
    """Hits of a static placement that was learnt on the first half of the domains, in requests of the others."""
    count = len(sequences)
    job = Job(np.zeros(count), np.ones(count, dtype=np.int64), np.ones(count, dtype=np.int64), 1)
    first = drawn_domains(job, shares_of(preset.domains), Streams(seed), "routing", "request") < preset.domains / 2
    learn, score = (
        measures.popularity([sequences[number] for number in np.flatnonzero(part)], preset.experts) for part in (first, ~first)
    )
    return float(measures.static_hits(learn, score, capacity).mean())


def residuals(preset: Preset, case: Case, *, requests: int = 192, cached: int = 32, seed: int = 1) -> dict[str, float]:
    """Generated minus published, for each target (as shares; `max_within` in units of the mean)."""
    measured = measure(preset, case, requests=requests, cached=cached, seed=seed)
    return {name: measured[name] - target for name, target in case.targets.items()}


def fit(start: Preset, case: Case, *, layers: int = 12, requests: int = 48, cached: int = 16) -> Preset:
    """The parameters that bring all targets nearest in least squares, from those of `start`; fewer layers for speed.

    The presets are not the bare answer of this fit. Three were moved by hand afterwards, where few layers and requests
    had misled it: mixtral-8x7b (reuse from 0.192, tilt from 0.289), gpt-oss-20b (exponent from 0.042, tail from 3.725,
    memory from 0.237), qwen3-30b-a3b (reuse from 0.294, memory from 0.348, tilt from 1.308). Fitting again starts from
    the presets as they stand and ends near them, not on them.
    """
    from scipy.optimize import least_squares

    small = case._replace(layers=min(layers, case.layers))
    low, high, steps = np.array([_LIMITS[name] for name in case.free]).T  # draws are not smooth: differences over wide steps

    def at(x: FloatArray) -> Preset:
        values: dict[str, Any] = {name: float(value) for name, value in zip(case.free, x, strict=True)}
        return start._replace(**values)

    # recall alone cannot be met without harming the rest: it guides, the others decide
    weight = np.array([0.25 if name == "recall" else 0.3 if name == "max_within" else 1.0 for name in small.targets])

    def difference(x: FloatArray) -> FloatArray:
        misses: FloatArray = weight * np.array(list(residuals(at(x), small, requests=requests, cached=cached).values()))
        return misses

    x = np.array([getattr(start, name) for name in case.free])

    def slopes(x: FloatArray) -> FloatArray:
        here = difference(x)
        inwards = np.where((x + steps > high) | (x + steps < low), -steps, steps)
        return np.stack([(difference(x + step) - here) / step.sum() for step in np.diag(inwards)], axis=1)

    solution = least_squares(
        difference, x, jac=slopes, bounds=(low, high), x_scale=np.abs(steps), xtol=3e-3, ftol=3e-3, max_nfev=10
    )
    return at(solution.x)


def main(names: list[str]) -> None:
    """Fit the named presets (all without names) and print parameters and residuals."""
    for name in names or list(TARGETS):
        best = fit(PRESETS[name], TARGETS[name])
        values = {parameter: round(getattr(best, parameter), 3) for parameter in _LIMITS}
        misses = {target: round(value, 3) for target, value in residuals(best, TARGETS[name]).items()}
        sys.stdout.write(f"{name} {values}\n    residuals: {misses}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
