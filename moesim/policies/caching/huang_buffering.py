"""Expert buffering after Huang et al.: idle experts leave first, else the last one that came in.

Knows the past of the run only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.policies.kit.cached import CachePolicy, Eviction

__all__ = ["HuangBuffering"]


class HuangBuffering(CachePolicy):
    """A buffer per layer; a miss takes the place of an idle expert, else of the last one that came in, as experts run by id.

    Source: Huang et al. 2023, arXiv:2303.06182 (expert buffering; `capacity: 10` is their study point). Inferred: idle experts
    leave last in, first out too; an expert that is in use leaves only after it has run. Dynamic gating is what programs here
    do; the baseline that pads every expert to a capacity is `runtime.gpu.capacity`. Left out: uploads of experts that compute
    nothing but padding, balancing over GPUs and what crosses between them, for there is one.
    Valid: LIFO pays where batches cycle through more experts than fit.
    """

    kind: Literal["huang_buffering"] = "huang_buffering"
    start: Literal["profile", "empty"] = "empty"
    """What the buffer holds at first: nothing (no profile is used), or the most popular experts of the profile."""

    source: ClassVar[str] = "Huang et al. 2023 (arXiv:2303.06182)"

    def rule(self) -> Eviction:
        """Last in, first out."""
        return "lifo"
