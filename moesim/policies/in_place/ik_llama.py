"""ik_llama.cpp: the rules of llama.cpp with another limit for uploads, and tokens that go without their weakest experts.

Knows capacities and one visit; gate weights only as a law.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.in_place.llama_cpp import LlamaCpp
from moesim.policies.kit.precision import GateWeights
from moesim.portable import exponential
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["IkLlama", "without"]


class IkLlama(LlamaCpp):
    """As llama.cpp, but uploads begin at 32 E / k tokens; `least` and `relative` (-ser) leave out a token's weakest experts.

    Of a token's k experts the `least` highest always run; a later one runs if its gate weight is above `relative` times that of
    the first, never if `relative` is 1. Fewer experts are read, in prompts and in decode alike, and what runs goes where
    llama.cpp's rule sends it.
    Source: ikawrakow/ik_llama.cpp: pull requests 239 (-ser Kmin,t), 520 (uploads), 698 (active experts only).
    Inferred: routing tables hold no gate weights, so how many a token goes without is drawn from the law of HOBBIT's weights,
    and which ones alike from all that were routed, as if ranks knew nothing of popularity.
    Valid: changes outputs (`quality`: skipped) where `least` is set; it is not by default.
    """

    kind: Literal["ik_llama"] = "ik_llama"  # type: ignore[assignment]
    scaled: bool = True
    """Whether uploads begin at upload_from * E / k tokens, as in the fork, or at `upload_from`."""
    least: int | None = Field(None, ge=1)
    """Kmin of -ser: experts of a token that always run; all k run if not given."""
    relative: Share = 1.0
    """t of -ser: share of the weight of a token's first expert above which a later one runs, too; 1 leaves all of those out."""
    weights: GateWeights = GateWeights()
    """Law of the gate weights."""

    unread: ClassVar[tuple[Unread, ...]] = (*LlamaCpp.unread, Unread(("relative", "weights"), when={"least": None}))
    lossy: ClassVar[bool] = True
    runtime: ClassVar[str] = "ik-llama"
    source: ClassVar[str] = "ikawrakow/ik_llama.cpp (-ser, --n-cpu-moe)"

    @property
    def memoryless(self) -> bool:  # type: ignore[override]
        """What a token goes without is drawn."""
        return self.least is None

    def deploy(self, problem: Problem) -> Deployment:
        """As llama.cpp."""
        return replace(super().deploy(problem), state=problem.rng)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """As llama.cpp, of what is left."""
        if self.least is None:
            return super().dispatch(visit, view)
        left = copy(visit)
        skipped, popularity = self._skipped(visit.tokens, view), view.problem.popularity[visit.layer]
        left.counts = without(visit.counts, skipped, popularity, view.state)
        return super().dispatch(left, view)._replace(counts=left.counts)

    def _skipped(self, tokens: int, view: View) -> int:
        """(token, expert) pairs of a visit that do not run."""
        top_k, rng = view.problem.model.top_k, view.state
        shares = exponential(self.weights.logits(tokens, top_k, rng))  # of the first expert's weight
        weak = shares[:, self.least or top_k :] <= self.relative
        return int(np.count_nonzero(weak))


def without(counts: IntArray, skipped: int, popularity: FloatArray, rng: np.random.Generator) -> IntArray:
    """[E] `counts` less `skipped` (token, expert) pairs, each as likely as any other, whatever the experts' ids."""
    experts = np.lexsort((popularity, counts))
    pairs = np.repeat(experts, counts[experts])
    left: IntArray = counts - np.bincount(rng.permutation(pairs)[:skipped], minlength=len(counts))
    return left
