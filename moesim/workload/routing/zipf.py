"""Owns routing of independent tokens by a law: every expert alike, or Zipf popularity.

Knows nothing of time or of neighbouring tokens; for those see `sticky`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake
from moesim.portable import power_law
from moesim.progress import Progress
from moesim.streams import Streams
from moesim.workload.draws.job import draw_job, draw_table
from moesim.workload.draws.laws import IndependentLaw
from moesim.workload.routing.law import Routed, Routing, normalised, own_counts
from moesim.workload.routing.profile import Profile
from moesim.workload.table import Job, RoutingTable, id_type

__all__ = ["Independent", "Uniform", "Zipf", "expected_counts", "rank_order", "zipf_curve"]


def zipf_curve(experts: int, exponent: float, tail: float = 0.0) -> FloatArray:
    """[E] popularity by rank: rank**-exponent * exp(-tail * rank / E), ranks from 1; sum 1.

    `tail` thins the cold end: no pure power law fits real counts, whose tails are thinner.
    """
    curve = power_law(experts, exponent, tail)
    return curve / float(curve.sum())


def rank_order(layers: int, experts: int, streams: Streams, *, permute: bool) -> IntArray:
    """[L, E] the expert at each popularity rank: an order of its own per layer, or by expert number.

    From the stream `popularity`, so that a profile drawn beforehand sees the same popular experts as the run.
    """
    order = np.broadcast_to(np.arange(experts), (layers, experts))
    permuted: IntArray = streams["popularity"].permuted(order, axis=1) if permute else order.copy()
    return permuted


def expected_counts(experts: int, exponent: float, tokens: int) -> IntArray:
    """[E] whole tokens by popularity rank whose running sums are the expected ones, rounded to the nearest whole.

    So the head and the tail keep their sums. Rounding every expert for itself (largest remainder) moves 3 of 1,024 tokens from
    the tail to the head at exponent 1.5 and 128 experts, since experts of the tail expect less than half a token each.
    """
    total = np.rint(np.cumsum(zipf_curve(experts, exponent)) * tokens).astype(np.int64)
    counts: IntArray = -np.sort(-np.diff(total, prepend=0))
    return counts


class Independent(Routing):
    """Every token draws its experts without regard to any other, from a popularity [L, E] that subclasses say."""

    def popularity(self, layers: int, model: Routed, streams: Streams, base: Path) -> FloatArray:
        """[L, E], any positive scale."""
        raise NotImplementedError

    def _law(self, layers: int, model: Routed, streams: Streams, base: Path) -> IndependentLaw:
        return IndependentLaw(self.popularity(layers, model, streams, base), model.top_k)

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        law = self._law(job.layers, model, streams, base)
        prefill, decode, prompts = draw_table(job, law, streams, "routing", progress)
        learnt = self.learn(profile, own_counts(profile, prefill, decode, job.output), model, streams, base)
        return RoutingTable(prefill, decode, model.experts, learnt, prompts=prompts)

    def prototype(self, job: Job, model: Routed, streams: Streams, base: Path) -> IntArray:
        drawn = draw_job(job, self._law(job.layers, model, streams, base), streams, "profile")
        counts: IntArray = drawn.prefill.sum(axis=0, dtype=np.int64)
        return counts


class Uniform(Independent):
    """Every expert is as likely as the next.

    T tokens touch E (1 - (1 - k/E)**T) experts on average, more than real routing does at equal T.
    """

    kind: Literal["uniform"] = "uniform"

    def popularity(self, layers: int, model: Routed, streams: Streams, base: Path) -> FloatArray:
        return np.ones((layers, model.experts))


class Zipf(Independent):
    """Expert popularity falls as a power of its rank within the layer.

    Valid: exponents of real models are 0.2 to 0.6 over mixed traffic and up to 0.9 in one domain; 1 and more overstates all
    but top-1 models. The exponent is that of the draw's weights; without replacement the counts come out flatter.
    """

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(ge=0, le=10)
    """s in popularity ~ rank**-s."""
    draw: Literal["sampled", "expected"] = "sampled"
    """`expected`: each prompt's counts are the expected ones of its tokens, in whole tokens (top-1 models, no decode)."""
    permute: bool = True
    """Ranks fall on experts at random, layer by layer; otherwise expert 0 is the most popular everywhere."""

    def popularity(self, layers: int, model: Routed, streams: Streams, base: Path) -> FloatArray:
        order = rank_order(layers, model.experts, streams, permute=self.permute)
        shares = np.empty(order.shape)
        np.put_along_axis(shares, order, np.broadcast_to(zipf_curve(model.experts, self.exponent), order.shape), axis=1)
        return shares

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        if self.draw == "sampled":
            return super().table(job, model, streams, base, profile, progress)
        path = "workload.routing.draw"
        if model.top_k != 1:
            message = f"'expected' is for top-1 models; this one is top-{model.top_k}. Use 'sampled'"
            raise InputError(Mistake(message, path=path))
        if job.passes:
            message = "'expected' has no decode passes; use output: 1 or a layer_batch, or 'sampled'"
            raise InputError(Mistake(message, path=path))
        order = rank_order(job.layers, model.experts, streams, permute=self.permute)
        counts = np.stack([expected_counts(model.experts, self.exponent, int(tokens)) for tokens in job.prompt])
        prefill = np.zeros((job.requests, *order.shape), dtype=np.uint32)
        ranked = np.broadcast_to(counts[:, None, :].astype(np.uint32), prefill.shape)
        np.put_along_axis(prefill, np.broadcast_to(order, prefill.shape), ranked, axis=2)
        decode = np.zeros((job.requests, 0, job.layers, 1), dtype=id_type(model.experts))
        learnt = self.learn(profile, prefill.sum(axis=0, dtype=np.int64), model, streams, base)
        return RoutingTable(prefill, decode, model.experts, normalised(learnt), prompts=partial(_shuffled, prefill, streams))


def _shuffled(prefill: NDArray[np.uint32], streams: Streams) -> NDArray[np.unsignedinteger[Any]]:
    """[R, P, L, 1] expert of every prompt token of top-1 `prefill` [R, L, E] counts, in an order that is drawn."""
    requests, layers, experts = prefill.shape
    tokens, rng = prefill.sum(axis=2), streams["routing"]
    ids = np.zeros((requests, int(tokens.max()), layers, 1), dtype=id_type(experts))
    for request, layer in np.ndindex(requests, layers):
        row = np.repeat(np.arange(experts), prefill[request, layer])
        ids[request, : len(row), layer, 0] = rng.permutation(row)
    return ids
