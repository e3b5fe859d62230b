"""Placement of systems that stream whole layers: how many experts stay, how large the buffer is, how large the batch.

Knows capacities; knows no popularity and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, IntArray
from moesim.contract import (
    BatchPlan,
    Deployment,
    Dispatch,
    Homes,
    Overlap,
    PhasePlan,
    Pipeline,
    Policy,
    Problem,
    View,
    Visit,
    ahead_of,
)
from moesim.contract.homes import HERE
from moesim.errors import InputError, Mistake
from moesim.policies.kit.placement import Groups, HomeOrder, place
from moesim.policies.kit.sizing import host_room, largest, micro_batches, too_large

__all__ = [
    "StreamedPolicy",
    "buffer_slots",
    "cache_window",
    "deploy_streamed",
    "homes_to_try",
    "host_for_cache",
    "largest_batch",
    "lowest_ids",
    "most_residents",
    "prefill_batch",
    "spread",
    "stream_in_order",
]

PREFILL_SHARE = 0.1
"""Share of GPU memory that the intermediates of one prefill pass may take before the batch is prefilled in several."""


def spread(problem: Problem, count: int) -> IntArray:
    """[L] `count` residents over the layers, as evenly as whole experts allow: n_l = floor((l + 1) c / L) - floor(l c / L)."""
    edges = np.arange(problem.layers + 1) * count // problem.layers
    per_layer: IntArray = np.diff(edges)
    return per_layer


def lowest_ids(problem: Problem, per_layer: IntArray) -> BoolArray:
    """[L, E] experts 0 .. n_l - 1 of each layer, for `per_layer` [L] n_l."""
    held: BoolArray = np.arange(problem.experts) < np.asarray(per_layer)[:, None]
    return held


def buffer_slots(problem: Problem, residents: Any, ahead: int) -> IntArray:
    """[..] expert slots of a buffer for the layer that runs and `ahead` more, when `residents` [..] experts stay in all.

    The layer with fewest residents decides; a buffer never holds more than there is to stream.
    """
    n = np.asarray(residents, dtype=np.int64)
    streamed = problem.experts - n // problem.layers
    slots: IntArray = np.minimum((ahead + 1) * streamed, problem.layers * problem.experts - n)
    return slots


def most_residents(problem: Problem, free: float, ahead: int) -> int:
    """The most residents that `free` bytes of GPU memory take beside the buffer for the others; -1 if not even the buffer."""
    counts = np.arange(problem.layers * problem.experts + 1)
    needed = (counts + buffer_slots(problem, counts, ahead)) * problem.model.expert_bytes
    fitting = np.flatnonzero(needed <= free)
    return int(fitting[-1]) if len(fitting) else -1


def prefill_batch(problem: Problem, share: float = PREFILL_SHARE) -> int:
    """Sequences whose hidden states (in, out, and gathered for the experts) take `share` of GPU memory, longest first; >= 1."""
    tokens = np.cumsum(problem.longest_prompts)
    limit = share * problem.usable(problem.gpu_tier) / (3.0 * problem.model.token_bytes)
    return max(int(np.searchsorted(tokens, limit, side="right")), 1)


def _whole(sequences: int, micro: int | None) -> int:
    """Of so many sequences those that make up whole micro-batches; all where not even one does."""
    return sequences - sequences % micro if micro and sequences > micro else sequences


def cache_window(problem: Problem, sequences: int, layers: int = 1) -> float:
    """Bytes of the KV cache of the `sequences` longest requests at full length in `layers` average layers.

    What GPU memory needs while a cache from the host is attended to there; the engine does not charge it.
    """
    if not problem.job.attention:
        return 0.0
    return problem.kv_bytes(sequences) * layers / problem.model.layers


def homes_to_try(problem: Problem, tiers: Sequence[str] = ()) -> list[Homes]:
    """Where weights outside the experts may live, best first: in GPU memory, else in the first of `tiers` with room for all.

    Without `tiers`, or where none has the room, in the host tier that a cache would take. A lone layer keeps them on the GPU.
    """
    if not problem.job.attention or not problem.system.host_tiers:
        return [HERE]
    roomy = [tier for tier in tiers if problem.usable(tier) >= float(problem.model.non_expert_bytes)]
    return [HERE, Homes.everything((*roomy, host_for_cache(problem))[0])]


def host_for_cache(problem: Problem) -> str:
    """The host tier with most room that is not storage, for a KV cache outside GPU memory; InputError without a host tier."""
    tiers = problem.system.tiers
    hosts = sorted(problem.system.host_tiers, key=lambda tier: (tiers[tier].kind == "nvme", -problem.usable(tier)))
    if not hosts:
        raise InputError(Mistake("this policy streams experts from host memory; the machine has none"))
    return hosts[0]


class HostUse(NamedTuple):
    """What of the host a policy fills with experts, beside the KV cache."""

    share: float = 1.0
    """Of each tier at most."""
    tiers: Collection[str] | None = None
    """All of them if not given."""
    masters: bool = False
    """Whether every expert has a copy there; else those that GPU memory has no room for."""
    aside: Callable[[int], float] | None = None
    """Bytes by the batch that the policy keeps for other things there; none if not given."""


def largest_batch(
    problem: Problem,
    cut_of: Callable[[int], BatchPlan],
    limit: int,
    ahead: int,
    host: HostUse,
    reserve: float | Callable[[int], float] = 0.0,
) -> int:
    """The largest batch up to `limit` for which `cut_of(batch)` fits with a buffer for `ahead` + 1 layers; 0 if none does.

    `reserve` bytes of GPU memory (a number, or by the batch) stay free. Other experts lie in the host as `host` says.
    """
    size, pairs = problem.model.expert_bytes, problem.layers * problem.experts

    def fits(count: int) -> bool:
        cut = cut_of(count)
        spare = reserve(count) if callable(reserve) else reserve
        residents = most_residents(problem, problem.gpu_free(cut) + cut.staging * size - spare, ahead)
        if residents < 0:
            return False
        room = host_room(problem, cut)
        if min(room.values(), default=0.0) < 0:
            return False
        tiers = room if host.tiers is None else room.keys() & host.tiers
        left = [room[tier] - (1.0 - host.share) * problem.usable(tier) for tier in tiers]
        slots = sum(max(int(nbytes // size), 0) for nbytes in left) - (int(-(-host.aside(count) // size)) if host.aside else 0)
        return slots + (0 if host.masters else residents) >= pairs

    return largest(fits, limit)


def deploy_streamed(
    problem: Problem,
    cut: BatchPlan,
    *,
    residents: int | None = None,
    held: BoolArray | None = None,
    groups: Groups | None = None,
    classes: Sequence[tuple[BoolArray, Groups]] | None = None,
    reserve: float = 0.0,
    **more: Any,
) -> Deployment:
    """Residents by lowest id (or `held` [L, E]), a buffer for the layers on their way, homes in the host.

    `residents` in all, as many as fit if not given; `groups` and `classes` of homes as in `place`; `reserve` bytes of GPU
    memory stay free; `more` goes to the deployment. Raises InputError where it has no place.
    """
    size, ahead = problem.model.expert_bytes, most_ahead(cut)
    free = problem.gpu_free(cut) + cut.staging * size - reserve
    most = most_residents(problem, free, ahead)
    if most < 0:
        slots = int(buffer_slots(problem, 0, ahead))
        raise too_large(problem, replace(cut, staging=slots), size, reserve=reserve)
    count = most if residents is None else residents
    if held is None:
        held = lowest_ids(problem, spread(problem, count))
    slots = int(buffer_slots(problem, problem.layers * int(held.sum(axis=1).min()), ahead))
    slots = min(slots, problem.layers * problem.experts - int(held.sum()))
    cut = replace(cut, staging=slots)
    scores = np.broadcast_to(-np.arange(problem.experts, dtype=np.float64), held.shape)
    deployment = place(problem, resident=held, homes=HomeOrder(groups, classes, scores), cut=cut, reserve=reserve)
    return replace(deployment, **more)


def most_ahead(cut: BatchPlan) -> int:
    """Layers streamed ahead in the phase that streams more."""
    return max(ahead_of(cut.prefill.pipeline), ahead_of(cut.decode.pipeline))


def stream_in_order(visit: Visit, view: View) -> Dispatch:
    """Everything on the GPU: residents first, the others in the order in which they are streamed, by id."""
    order = np.argsort(~view.resident[visit.layer], kind="stable")
    return Dispatch(np.full(len(visit.counts), view.problem.attending_index), order)


def _with_homes(cut_of: Callable[[int], BatchPlan], homes: Homes) -> Callable[[int], BatchPlan]:
    return lambda batch: replace(cut_of(batch), homes=homes)


class DecodeCut(NamedTuple):
    """How a streamed policy decodes; None is the default."""

    core: str | None = None
    """Device of the attention core; the GPU."""
    micro: int | None = None
    """Sequences of a micro-batch; as many as keep their intermediates small."""
    pipeline: Pipeline | None = None
    """How layers overlap; as in prefill."""
    rereads: bool = False
    """Whether each micro-batch passes the experts by itself, in prefill, too."""


class StreamedPolicy(Policy):
    """Parameters of policies that stream whole layers in the order of the model, whatever the router says."""

    batch: int | None = Field(None, ge=1)
    """Sequences decoded together; as many as the policy's own rule finds room for if not given."""
    prefill_batch: int | None = Field(None, ge=1)
    """Sequences prefilled together, each time with all weights streamed anew; as many whole micro-batches as keep the hidden
    states in a tenth of GPU memory if not given (inferred). A block with hidden states in the host streams them once: that is
    at most 1 % sooner, for a portion of so many tokens computes longer than the next sweep takes."""

    memoryless: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False
    symmetric_reason: ClassVar[str] = "streams a layer's experts in the order of their ids, routing unknown"

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Everything on the GPU."""
        return stream_in_order(visit, view)

    def cut_into(
        self,
        problem: Problem,
        batch: int,
        kv: str,
        decode: DecodeCut | None = None,
        *,
        ahead: int = 1,
        homes: Homes = HERE,
    ) -> BatchPlan:
        """`batch` sequences, prefilled on the GPU in portions and decoded as `decode` says; layers stream `ahead`.

        The buffer is not in it: `deploy_streamed` adds it.
        """
        core, micro, pipeline, rereads = decode or DecodeCut()
        gpu = problem.system.attending_gpu
        first, later = micro_batches(problem, batch)
        pre = min(self.prefill_batch or _whole(prefill_batch(problem), micro), batch)
        small = micro or later
        portion = 0 if pre == batch else pre
        prefill = PhasePlan(min(first, pre), gpu, gpu, gpu, pipeline=Overlap(ahead), sequences=portion)
        later_steps = PhasePlan(min(small, batch), gpu, core or gpu, gpu, pipeline=pipeline or Overlap(ahead))
        together = min(small, batch) if rereads else 0
        return BatchPlan(batch, prefill, later_steps, kv, 0, expert_batch=together, homes=homes)

    def fitted(
        self,
        problem: Problem,
        batch_plan: Callable[[int], BatchPlan],
        ahead: int,
        host: HostUse,
        reserve: float | Callable[[int], float] = 0.0,
    ) -> BatchPlan:
        """`batch_plan(batch)` for the batch given or the largest that fits, as in `largest_batch`; InputError if none does.

        Where GPU memory has no room for the weights outside the experts, they stream, too.
        """
        requests = problem.job.requests
        limit = min(self.batch or requests, requests)
        count = largest_batch(problem, batch_plan, limit, ahead, host, reserve)
        for homes in homes_to_try(problem)[1:] if count == 0 and not batch_plan(1).homes.elsewhere else ():
            make = _with_homes(batch_plan, homes)
            if count := largest_batch(problem, make, limit, ahead, host, reserve):
                batch_plan = make
        if count == 0 or (self.batch is not None and count < min(self.batch, requests)):
            cut = batch_plan(min(self.batch or 1, requests))
            slots = int(buffer_slots(problem, 0, ahead))
            raise too_large(
                problem,
                replace(cut, staging=slots),
                problem.model.expert_bytes,
                reserve=reserve(cut.batch) if callable(reserve) else reserve,
                host=host.share,
                masters=host.masters,
            )
        return batch_plan(count)
