"""Owns Zipf counts of a batch that are exact to half a token at every rank: what a paper without random draws computes with.

Knows no machine and no policy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesim.streams import Streams
from moesim.workload.profile import Profile
from moesim.workload.routing import Routed, Routing
from moesim.workload.table import IntArray, Job, Progress, RoutingTable, id_type
from moesim.workload.zipf import zipf_curve

__all__ = ["ExpectedZipf", "expected_counts"]


def expected_counts(experts: int, exponent: float, tokens: int) -> IntArray:
    """[E] whole tokens by popularity rank whose running sums are the expected ones, rounded.

    Rounding every expert for itself (largest remainder) moves 3 of 1,024 tokens from the tail to the head at Zipf 1.5, since
    experts of the tail expect less than half a token each; here head and tail keep their sums.
    """
    total = np.rint(np.cumsum(zipf_curve(experts, exponent)) * tokens).astype(np.int64)
    counts: IntArray = np.diff(total, prepend=0)
    return -np.sort(-counts)


class ExpectedZipf(Routing):
    """The expected counts of independent Zipf draws, expert 0 the most popular; for batches of top-1 models.

    `kind: moesim.validation.expected:ExpectedZipf` in a scenario. Valid: accounts of one batch; real counts scatter.
    """

    exponent: float
    """s in popularity ~ rank**-s."""

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        counts = np.stack([expected_counts(model.experts, self.exponent, int(tokens)) for tokens in job.prompt])
        prefill = np.repeat(counts[:, None, :], job.layers, axis=1).astype(np.uint32)
        decode = np.zeros((job.requests, 0, job.layers, 1), dtype=id_type(model.experts))
        own: IntArray = prefill.sum(axis=0, dtype=np.int64)
        return RoutingTable(prefill, decode, model.experts, self.learn(profile, own, model, streams, base))
