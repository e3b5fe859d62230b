"""The policy that others in the tests of the conformance suite are made from, by breaking one promise each."""

from __future__ import annotations

import numpy as np

from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.placement import SizedPolicy, place, quota

__all__ = ["Plain"]


class Plain(SizedPolicy):
    """Popular experts stay, the rest is uploaded."""

    def deploy(self, problem: Problem) -> Deployment:
        return place(problem, resident=quota(problem.popularity), cut=self.cut(problem, movable=True), movable=True)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return Dispatch(np.full(len(visit.counts), view.problem.attending_index))

    def by_tokens(self, visit: Visit, view: View) -> Dispatch:
        """Uploads go by tokens, most first."""
        return Dispatch(np.full(len(visit.counts), view.problem.attending_index), np.argsort(-visit.counts, kind="stable"))
