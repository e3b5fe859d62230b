"""Owns routing that behaves like real models': skewed, different from request to request, reused from token to token.

Knows the law; the numbers that fit a model are in `presets`.

    layer l: popularity by rank, a power law with a thinner tail, ranks on experts by a permutation of the layer's own
    request r: its popularity is the layer's times exp(tilt * normal), renormalised; the normals of a rank correlate from
             layer to layer (thread)
    token t: each of its k slots copies the slot of token t - 1 (reuse), takes up one of tokens t - 2 to t - 16 (memory; both
             0 in the first layer, most in the middle layers), takes the rank, or one at most 2 away, of the layer above
             (coupling), or draws from the request's popularity; a slot that would repeat an expert draws again

Memory and thread are there because reuse of the last token alone cannot meet overlap, cache hits and batch coverage together:
in the traces overlap falls slowly with distance (gpt-oss-20b: 0.45, 0.39, 0.37, 0.36, 0.35, 0.34 at lags 1, 2, 4, 8, 16, 32).
Source: fitted to per-token traces of DeepSeek-V2-Lite (ESFT) and gpt-oss-20b, and to published statistics, see `fit`.
Valid: drift of popularity within a run is not modelled; tokens of a request are stationary.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.streams import Streams
from moesim.units import Share
from moesim.workload.blocks import Process
from moesim.workload.draws import draw_job, draw_prompts
from moesim.workload.laws import StickyLaw
from moesim.workload.presets import PRESETS, Preset, nearest
from moesim.workload.profile import Profile
from moesim.workload.routing import Routed, Routing, own_counts
from moesim.workload.table import Job, Progress, RoutingTable
from moesim.workload.zipf import rank_order, zipf_curve

__all__ = ["Sticky", "reuse_by_layer"]

_PARAMETERS = ("exponent", "tail", "tilt", "thread", "reuse", "memory", "coupling")


def reuse_by_layer(layers: int, mean: float) -> FloatArray:
    """[L] probability that a slot copies from the token before: 0 in the first layer, 1.3 times `mean` in the middle.

    A job of a single layer stands for a typical one and gets the mean.
    Source: shape of the adjacent-token overlap by layer in gpt-oss-20b, Qwen3-30B-A3B and DeepSeek-V2-Lite traces.
    """
    if layers == 1:
        return np.array([mean])
    depth = np.linspace(0.0, 1.0, layers)
    return np.minimum(mean * np.interp(depth, [0.0, 0.15, 0.5, 0.85, 1.0], [0.0, 0.95, 1.3, 1.0, 0.8]), 1.0)


class Sticky(Routing):
    """Skewed routing with reuse between tokens and coupling between layers, by a preset or by its seven parameters.

    Without `preset` the model's name picks it; a model that has none gets the one nearest in experts and top-k, with a
    warning, unless all seven parameters are given. Parameters that are given replace the preset's.
    """

    kind: Literal["sticky"] = "sticky"
    preset: str | None = None
    """Name of a fitted model, see `moesim.workload.presets`."""
    exponent: float | None = Field(default=None, ge=0, le=10)
    """Zipf exponent of a layer's popularity before tilting."""
    tail: float | None = Field(default=None, ge=-20, le=20)
    """Thins the cold end: popularity is also multiplied by exp(-tail * rank / E)."""
    tilt: float | None = Field(default=None, ge=0, le=10)
    """Standard deviation of the logarithm of a request's popularity against the layer's."""
    thread: Share | None = None
    """Correlation of a request's tilt from layer to layer, rank by rank: 1 means that its favourites keep their ranks."""
    reuse: Share | None = None
    """Mean over layers of the probability that a slot copies an expert of the token before."""
    memory: Share | None = None
    """Mean over layers of the probability that a slot takes up an expert of 2 to 16 tokens before."""
    coupling: Share | None = None
    """Probability that a slot that copies nothing follows the layer above."""

    def resolve(self, model: Routed) -> tuple[Preset, tuple[str, ...]]:
        """The parameters in force for `model`, and notes on where they come from."""
        given = {name: getattr(self, name) for name in _PARAMETERS if getattr(self, name) is not None}
        notes: tuple[str, ...] = ()
        if self.preset is not None:
            if self.preset not in PRESETS:
                told = f"no preset '{self.preset}'; there are {', '.join(PRESETS)}.{did_you_mean(self.preset, PRESETS)}"
                raise InputError(Mistake(told, path="workload.routing.preset"))
            chosen = PRESETS[self.preset]
        elif model.name.lower() in PRESETS:
            chosen = PRESETS[model.name.lower()]
        else:
            chosen = nearest(model.experts, model.top_k)
            if len(given) < len(_PARAMETERS):
                notes = (_borrowed(model, chosen),)
                warnings.warn(notes[0], stacklevel=1)  # one place, so that Python tells it once
        return chosen._replace(**given), notes

    def process(self, layers: int, model: Routed) -> Process:
        """The law of a job of `layers` layers."""
        preset, _ = self.resolve(model)
        coupling = np.full(layers, preset.coupling)
        coupling[0] = 0.0
        curve = zipf_curve(model.experts, preset.exponent, preset.tail)
        reuse, memory = reuse_by_layer(layers, preset.reuse), reuse_by_layer(layers, preset.memory)
        return Process(curve, preset.tilt, preset.thread, reuse, memory, coupling)

    def _law(self, layers: int, model: Routed, streams: Streams) -> StickyLaw:
        named = rank_order(layers, model.experts, streams, permute=True)
        return StickyLaw(self.process(layers, model), named, model.top_k)

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        _, notes = self.resolve(model)
        law = self._law(job.layers, model, streams)
        drawn = draw_job(job, law, streams, "routing", progress)
        learnt = self.learn(profile, own_counts(profile, *drawn, job.output), model, streams, base)
        return RoutingTable(*drawn, model.experts, learnt, notes, partial(draw_prompts, job, law, streams, "routing"))

    def prototype(self, job: Job, model: Routed, streams: Streams, base: Path) -> IntArray:
        drawn = draw_job(job, self._law(job.layers, model, streams), streams, "profile")
        counts: IntArray = drawn.prefill.sum(axis=0, dtype=np.int64)
        return counts


def _borrowed(model: Routed, preset: Preset) -> str:
    return (
        f"no routing was fitted to '{model.name}' ({model.experts} experts, top-{model.top_k}); borrowing the preset "
        f"'{preset.name}' ({preset.experts} experts, top-{preset.top_k}). Name a preset or all of {', '.join(_PARAMETERS)}"
    )
