"""Owns routing that behaves like real models': skewed, different from request to request, reused from token to token.

Knows the law; the numbers that fit a model are in `presets`.

    layer l: popularity by rank, a power law with a thinner tail, ranks on experts by a permutation of the layer's own; layers
             differ in skew and in reuse (spread)
    domain d: a subject, task or tenant. A share `kin` of the variance of a request's tilt is common to all requests of its
             domain, so a placement that was learnt on one domain fails on another
    request r: its popularity is the layer's times exp(tilt * normal), renormalised; the normals of a rank correlate from
             layer to layer (thread)
    token t: each of its k slots copies the slot of token t - 1 (reuse), takes up one of tokens t - 2 to t - reach (memory,
             less likely the farther back: lag ** -decay; both 0 in the first layer, most in the middle layers), takes the
             rank, or one at most 2 away, of the layer above (coupling), or draws from the request's popularity; a slot that
             would repeat an expert draws again
    slot j:  copies, remembers or does neither as slot j of the layer above did (bond), so pairs of experts in
             neighbouring layers last

Memory and thread are there because reuse of the last token alone cannot meet overlap, cache hits and batch coverage together:
in the traces overlap falls slowly with distance (gpt-oss-20b: 0.45, 0.39, 0.37, 0.36, 0.35, 0.34 at lags 1, 2, 4, 8, 16, 32).
Without domains a static placement does as well on a foreign load as on its own; without bonds copying in time tears apart what
coupling has tied, and the next layer is less predictable than in the traces.
Source: fitted to per-token traces of DeepSeek-V2-Lite (ESFT) and gpt-oss-20b, and to published statistics, see `fit`.
Valid: popularity drifts within a run where the shares of domains do (`drift`); tokens of a request are stationary.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.portable import exponential
from moesim.progress import Progress
from moesim.streams import Streams
from moesim.units import Share
from moesim.workload.draws.blocks import Process
from moesim.workload.draws.job import draw_job, draw_table
from moesim.workload.draws.laws import Kin, StickyLaw
from moesim.workload.routing.domains import Domains, Drift, Per, domain_tilts, drawn_domains, only, shares_of
from moesim.workload.routing.law import Routed, Routing, normalised, own_counts, prototypes
from moesim.workload.routing.presets import PRESETS, Preset, nearest, ranked
from moesim.workload.routing.profile import HeldOut, OtherTasks, Profile
from moesim.workload.routing.zipf import rank_order, zipf_curve
from moesim.workload.table import Job, RoutingTable

__all__ = ["Sticky", "reuse_by_layer"]

_BASIC = ("exponent", "tail", "tilt", "thread", "reuse", "memory", "coupling")
_MORE: dict[str, Any] = {"kin": 0.0, "bond": 0.0, "decay": 1.0, "reach": 16, "spread": 0.0, "domains": 1}
"""Parameters that are neutral unless they or a preset say otherwise."""
_LENDERS = 3
"""Presets among which a study of uncertainty takes one where the routing of a model is borrowed."""
_REUSE_SPREAD = 2.0
"""Layers differ in reuse and memory so much more than in skew. Source: counts and traces of seven models, where the skew
varies over layers by 6 to 14 % and a cache of a quarter of the experts hits 6 to 11 points more or less."""


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
    """Skewed routing with domains, reuse between tokens and ties between layers, by a preset or by its parameters.

    Without `preset` the model's name picks it; a model that has none gets the one nearest in experts and top-k, with a
    warning. Parameters that are given replace the preset's. With all seven from `exponent` to `coupling` and no `preset`, none
    is used: what is not given of `kin`, `bond`, `decay`, `reach`, `spread` and `domains` has no effect then.
    A profile of kind `tasks` learns on some of the domains, with other requests than the run's.
    """

    kind: Literal["sticky"] = "sticky"
    preset: str | None = None
    """Name of a fitted model, see `moesim.workload.routing.presets`."""
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
    """Mean over layers of the probability that a slot takes up an expert of 2 to `reach` tokens before."""
    coupling: Share | None = None
    """Probability that a slot that copies nothing follows the layer above."""
    kin: Share | None = None
    """Share of the variance of a request's tilt that all requests of its domain have in common."""
    bond: Share | None = None
    """Probability that a slot copies, remembers or does neither as the same slot of the layer above."""
    decay: float | None = Field(default=None, ge=0, le=10)
    """A token `lag` before is remembered in proportion to lag ** -decay."""
    reach: int | None = Field(default=None, ge=2, le=1024)
    """Tokens back that may be remembered."""
    spread: float | None = Field(default=None, ge=0, le=1)
    """Standard deviation over layers of the logarithm of their skew (exponent and tail), and half that of reuse and memory."""
    domains: Domains | None = None
    """Number of domains, which come equally often, or name: share of requests. Names stand for the same domain in every run of
    a seed; a share of 0 names one that only a profile knows."""
    drift: Drift | None = None
    """How the shares of the domains change while requests come; they stay if not given. A profile is learnt on the first."""
    per: Per = "request"
    """`request`: each draws its domain. `user`: all requests of a user of a closed loop stay in one."""

    def resolve(self, model: Routed) -> tuple[Preset, tuple[str, ...]]:
        """The parameters in force for `model`, and notes on where they come from."""
        own: dict[str, Any] = {name: getattr(self, name) for name in (*_BASIC, *_MORE) if getattr(self, name) is not None}
        own.pop("domains", None)
        notes: tuple[str, ...] = ()
        if self.preset is not None:
            if self.preset not in PRESETS:
                message = f"no preset '{self.preset}'; there are {', '.join(PRESETS)}.{did_you_mean(self.preset, PRESETS)}"
                raise InputError(Mistake(message, path="workload.routing.preset"))
            chosen = PRESETS[self.preset]
        elif all(name in own for name in _BASIC):
            chosen = nearest(model.experts, model.top_k)._replace(**_MORE)
        elif model.name.lower() in PRESETS:
            chosen = PRESETS[model.name.lower()]
        else:
            chosen = nearest(model.experts, model.top_k)
            if model.experts == 1:  # a dense model, whose blocks leave no choice
                return chosen._replace(**own), notes
            notes = (_borrowed(model, chosen),)
            warnings.warn(notes[0], stacklevel=1)  # one place, so that Python tells it once
        return chosen._replace(**own), notes

    def lenders(self, model: Routed) -> tuple[str, ...]:
        """Presets that `model` could as well borrow, the one in force first; none where it does not borrow."""
        stated = all(getattr(self, name) is not None for name in _BASIC)
        if self.preset is not None or stated or model.name.lower() in PRESETS or model.experts == 1:
            return ()
        return tuple(preset.name for preset in ranked(model.experts, model.top_k)[:_LENDERS])

    def process(self, layers: int, model: Routed, streams: Streams) -> Process:
        """The law of a job of `layers` layers."""
        preset, _ = self.resolve(model)
        coupling, bond = np.full(layers, preset.coupling), np.full(layers, preset.bond)
        coupling[0] = bond[0] = 0.0
        normals = preset.spread * streams["layers"].standard_normal((2, layers))
        skew, copies = exponential(normals[0]), exponential(_REUSE_SPREAD * normals[1])
        curve = np.stack([zipf_curve(model.experts, preset.exponent * f, preset.tail * f) for f in skew.tolist()])
        reuse, memory = (np.minimum(reuse_by_layer(layers, mean) * copies, 1.0) for mean in (preset.reuse, preset.memory))
        return Process(curve, preset.tilt, preset.thread, reuse, memory, coupling, bond, preset.decay, preset.reach)

    def _law(self, job: Job, model: Routed, streams: Streams, stream: str, tasks: tuple[str, ...] = ()) -> StickyLaw:
        """The law of `job`, whose requests are of the domains `tasks` alone where there are any."""
        named = rank_order(job.layers, model.experts, streams, permute=True)
        process = self.process(job.layers, model, streams)
        preset, _ = self.resolve(model)
        shares = shares_of(self.domains or preset.domains)
        if not preset.kin:
            if self.drift is not None:
                message = "this routing has no domains that could drift; set workload.routing.kin, or take a preset that has it"
                raise InputError(Mistake(message, path="workload.routing.drift"))
            if tasks:
                message = "this routing has no domains to learn on; set workload.routing.kin, or take a preset that has it"
                raise InputError(Mistake(message, path="workload.profile"))
            return StickyLaw(process, named, model.top_k)
        shares = only(shares, tasks) if tasks else shares
        own = stream == "routing"
        drift = self.drift if own else None
        shares = shares if drift is None else {**shares, **{name: shares.get(name, 0.0) for name in drift.domains}}
        domain = drawn_domains(job, shares, streams, stream, self.per if own else "request", drift)
        kin = Kin(preset.kin, domain_tilts(shares, process, streams), domain)
        return StickyLaw(process, named, model.top_k, kin)

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        _, notes = self.resolve(model)
        law = self._law(job, model, streams, "routing")
        prefill, decode, prompts = draw_table(job, law, streams, "routing", progress)
        learnt = self.learn(profile, own_counts(profile, prefill, decode, job.output), model, streams, base)
        topics = law.kin.domain if law.kin is not None else None
        return RoutingTable(prefill, decode, model.experts, learnt, notes, prompts, topics)

    def prototype(self, job: Job, model: Routed, streams: Streams, base: Path, tasks: tuple[str, ...] = ()) -> IntArray:
        drawn = draw_job(job, self._law(job, model, streams, "profile", tasks), streams, "profile")
        counts: IntArray = drawn.prefill.sum(axis=0, dtype=np.int64)
        return counts

    def learn(self, profile: Profile, own: IntArray, model: Routed, streams: Streams, base: Path) -> FloatArray:
        if not isinstance(profile, OtherTasks):
            return super().learn(profile, own, model, streams, base)
        job = prototypes(HeldOut(), len(own))
        return normalised(self.prototype(job, model, streams, base, profile.tasks))


def _borrowed(model: Routed, preset: Preset) -> str:
    return (
        f"no routing was fitted to '{model.name}' ({model.experts} experts, top-{model.top_k}); borrowing the preset "
        f"'{preset.name}' ({preset.experts} experts, top-{preset.top_k}). Name a preset or all of {', '.join(_BASIC)}"
    )
