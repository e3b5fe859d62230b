"""MoE-CXL: hottest experts in GPU memory, warm ones spread over CXL devices, the rest in DRAM, re-placed as use changes.

Knows the past of the run and the profiles of the devices; the future is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Decider, Deployment, Desk, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import in_gpu_memory, upload_missing
from moesim.policies.kit.history import hashed
from moesim.policies.kit.migration import Terms, exchanges
from moesim.policies.kit.placement import Groups, HomeOrder, SizedPolicy, host_order, place
from moesim.policies.kit.sizing import host_room
from moesim.policies.near_data.cxl_tiers import CxlUse, require_cxl
from moesim.policies.near_data.moe_cxl_chances import compiled
from moesim.policies.near_data.moe_cxl_decider import CxlDecider
from moesim.policies.near_data.moe_cxl_devices import Devices, Shard, Spread, johnson, steal
from moesim.policies.near_data.moe_cxl_history import SequenceHistory
from moesim.policies.near_data.moe_cxl_placement import algorithm_1, crowded, difference, route, spare_copies
from moesim.policies.near_data.moe_cxl_prefetch import Prefetcher, Rules
from moesim.portable import hazard, one_or_more
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["MoeCxl"]

_PREFETCH_SHARE = 0.125
"""Most of the GPU memory for experts that is kept for prefetched ones."""
_TIE = 1e-9
"""Weight of the hash that breaks ties of frequency."""


@dataclass
class _Memory:
    """What MoE-CXL remembers during a run."""

    devices: Devices
    frequency: FloatArray
    """[L, E] F: moving average of uses per period."""
    tie: FloatArray
    """[L, E] hash of (layer, expert), times a billionth."""
    slots: int
    """Experts in GPU memory, prefetched ones not counted."""
    prefetcher: Prefetcher
    period: FloatArray
    """[L, E] uses since the last period ended."""
    changes: IntArray
    """[n, 3] (layer, expert, tier) of the changes of home that are under way or wait, most gain first."""
    backup: int
    """Tier with a copy of every expert, -1 for none."""
    down: BoolArray
    """[T] tiers that had failed at the last look."""
    passes: int = 0
    last: float = 0.0
    """Simulated seconds at the last exchange of residents."""


class MoeCxl(SizedPolicy):
    """Algorithm 1, every period: F <- (1 - a) F + a * uses; fill GPU memory by F, then CXL, then CPU DRAM, then NVMe.

    Deploy: `algorithm_1` by F from the profile: GPU memory, then the CXL device with the least F * (latency + W / B_d) + queue,
    then the other host tiers, fastest first; what CXL devices have to spare holds further copies, sharded by hash. Run: every
    expert runs on the GPU; a missing one is uploaded from the copy with the least queueing delay (`route`), in the order that
    two machines in a row (copy engine, GPU) finish soonest. Fast time scale: see `Prefetcher`; predictions come from the
    sequence of activations and a hint, copies go into GPU memory or a faster CXL device. Slow time scale: every period, and as
    soon as a device fails or returns, `algorithm_1` is run again over all tiers, and its difference to today's placement is
    carried out on idle links as moves and swaps of pairs, most gain first, where gain * horizon > cost * (1 + hysteresis); the
    idlest device may take an expert, with the one that is used together with it, from the busiest. A device that fails has no
    room until it is back; its experts are read from their further or spare copies meanwhile.
    Source: MoE-CXL, sections 3 to 5: three tiers, EMA, sort and fill, choice by device profile, hash sharding, two time scales,
    hysteresis, stealing of placements, cost-benefit prefetch from history and a hint. Inferred: every formula and constant;
    F counts visits in which an expert had tokens (its share of the tokens breaks ties, then a hash), because a copy in GPU
    memory saves one upload per visit, not per token; frequencies have to differ by more than the noise of their average, too;
    storage that holds all experts keeps a copy of each, so that nothing is written back to it.
    Valid: a GPU reads CXL at min(PCIe, device), so CXL cannot beat pinned DRAM for uploads; it gains against NVMe or by
    capacity.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("depth", "ngram", "hint", "confidence", "idle_cost"), when={"prefetch": 0}),
        Unread(("horizon", "hysteresis", "doubt", "link_share", "steal"), when={"adapt_placement": False}),
    )

    kind: Literal["moe_cxl"] = "moe_cxl"
    alpha: Share = 0.2
    """a of the moving average (not published; 0.1 to 0.3 are usual)."""
    period: int = Field(32, ge=1)
    """Passes after which F is updated and placement reconsidered (not published; about one request)."""
    horizon: float = Field(50.0, gt=0)
    """Periods over which a move may pay itself back."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which a gain must exceed its cost."""
    doubt: float = Field(2.0, ge=0)
    """Standard deviations of their averages by which two frequencies must differ before their experts change places."""
    adapt_placement: bool = True
    """Whether placement is reconsidered; off, it stays as deployed."""
    link_share: Share = 0.1
    """Most of the time of GPU memory's link that exchanges of residents may take."""
    swap_slots: int = Field(4, ge=0)
    """Places that each host tier leaves free where all experts find room without them, for the first half of a swap; none are
    needed where storage keeps a copy of every expert."""
    start: Literal["profile", "random"] = "profile"
    """Where F begins: at the profile, or at equal values, which leaves the first placement to chance (an ablation)."""
    spread: Spread = "profile"
    """How experts are spread over CXL devices: by their cost with queues (Algorithm 1), hottest on the fastest, by a hash of
    (layer, expert, device) (published as the default of sharding) or one weighted by bandwidth, or in turn. Queues at
    devices that one PCIe link outruns never form, so that their term sends experts to slow devices for nothing."""
    shard: Shard = "hash"
    """Sharding of what costs leave open: of ties, and of further copies; by hash (published default) or weighted by
    bandwidth."""
    copies: int = Field(1, ge=0)
    """Further copies of an expert that CXL devices hold where they have room to spare; requests go to the one of least
    delay."""
    inclusive: bool = False
    """Whether experts in GPU memory keep the place in the host that their F gives them, instead of one that is left over."""
    steal: bool = True
    """Whether the idlest CXL device may take an expert and its partner per period from the busiest."""
    order: Literal["device", "tokens"] = "device"
    """Order of uploads: by copy times of the devices and GPU times, or most tokens first."""
    prefetch: int = Field(4, ge=0)
    """Slots of GPU memory for predicted experts, given back where residents would save more; 0 for no prefetch at all."""
    depth: int = Field(1, ge=1)
    """How many layers ahead."""
    ngram: int = Field(2, ge=1)
    """Layers of history that predict a later layer."""
    hint: Foresight | None = Foresight(recall=(0.87, 0.84))
    """Attention or semantic hint: a gate that reads the hidden state, with the least recall that such gates are published with
    (AdapMoE, HOBBIT); none leaves prediction to the sequence of activations."""
    confidence: Share = 0.0
    """Least chance of being used that an expert is prefetched at (not published; the cost test alone asks for much)."""
    idle_cost: Share = 0.5
    """Delay of a demand load by a wrong prefetch on an idle link, in copies: half of a running one is left on average."""
    cxl: CxlUse = "required"
    """`none` lets it run on a machine without CXL memory, with the tiers that there are."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "both"
    source: ClassVar[str] = "MoE-CXL, algorithm 1"

    @property
    def foresight(self) -> Foresight | None:
        """The hint, where anything is prefetched."""
        return self.hint if self.prefetch else None

    def deploy(self, problem: Problem) -> Deployment:
        """Algorithm 1 by the profile."""
        require_cxl(problem, self.cxl)
        cut, size, shape = self.cut(problem, movable=True), problem.model.expert_bytes, problem.popularity.shape
        frequency, tie = self._first(problem, cut.batch)
        reserve = size * min(self.prefetch, int(max(problem.gpu_free(cut), 0.0) * _PREFETCH_SHARE // size))
        slots = min(int(max(problem.gpu_free(cut) - reserve, 0.0) // size), frequency.size)
        backup = _backup(problem, cut)
        room = _with_swap_slots(problem, cut, 0.0 if backup else self.swap_slots * size)
        devices = Devices.of(problem, room, backup, self.spread, self.shard)
        free = devices.slots(size, np.zeros(len(problem.tiers), dtype=np.bool_))
        mapping = algorithm_1((frequency + tie).ravel(), slots, devices, free, inclusive=self.inclusive)
        deployment = place(
            problem,
            resident=mapping.resident.reshape(shape),
            homes=HomeOrder(classes=_classes(problem, mapping.home.reshape(shape)), scores=frequency + tie),
            cut=cut,
            movable=True,
            reserve=reserve,
        )
        home, spare = deployment.home.ravel(), devices.free(deployment.home.ravel(), size, np.zeros(len(free), dtype=np.bool_))
        copies = spare_copies((frequency + tie).ravel(), mapping.resident, home, devices, spare, self.copies)
        memory = _Memory(
            devices=devices,
            frequency=frequency,
            tie=tie,
            slots=slots,
            prefetcher=self._prefetcher(problem, devices, int(reserve // size)),
            period=np.zeros_like(frequency),
            changes=np.zeros((0, 3), dtype=np.int64),
            backup=-1 if backup is None else problem.tiers.index(backup),
            down=np.zeros(len(problem.tiers), dtype=np.bool_),
        )
        replicas = copies.reshape(-1, *shape) if copies.any() else None
        return replace(deployment, state=memory, backup=backup, replicas=replicas)

    def _prefetcher(self, problem: Problem, devices: Devices, slots: int) -> Prefetcher:
        hinted = self.hint is not None
        known, top_k, followers = problem.popularity, problem.model.top_k, problem.followers
        visits = problem.least_visits
        history = SequenceHistory(known, top_k, self.depth, self.ngram, hinted=hinted, followers=followers, visits=visits)
        return Prefetcher(
            rules=Rules(self.depth, self.confidence, self.idle_cost, self.alpha),
            devices=devices,
            history=history,
            slots=slots,
            borrowed=np.zeros(problem.popularity.shape, dtype=np.bool_),
            ended=[None] * problem.layers,
            learning=self.prefetch > 0,
            hinted=hinted,
            functions=compiled(visits),
        )

    def _first(self, problem: Problem, batch: int) -> tuple[FloatArray, FloatArray]:
        """[L, E] F before the first pass, and what breaks its ties."""
        tie, popularity = _TIE * hashed(problem.layers, problem.experts), problem.popularity
        if self.start == "random":
            popularity = np.full(popularity.shape, 1.0 / problem.experts)
            tie = _TIE * problem.rng.random(popularity.shape)
        chance = one_or_more(batch * hazard(np.minimum(problem.model.top_k * popularity, 1.0 - 1e-12)))
        return self.period * chance + popularity, tie

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All on the GPU, each missing expert from the copy that is there soonest."""
        memory: _Memory = view.state
        memory.prefetcher.meet(visit.layer, visit.phase, view.now)
        plain = upload_missing(visit, view)
        source, copy = None, visit.copy
        if self.copies and view.replicas is not None and view.replicas[:, visit.layer].any():
            delay = memory.devices.access + memory.devices.backlog(view.backlog)
            source = route(view.replicas[:, visit.layer], view.home[visit.layer], delay)
        if source is not None:
            plain, copy = plain._replace(source=source), np.where(source >= 0, memory.devices.access[source], copy)
        if self.order == "tokens":
            return plain
        uploaded = (visit.counts > 0) & ~in_gpu_memory(visit, view)
        if plain.order is None or np.count_nonzero(uploaded) < 2:
            return plain
        return plain._replace(order=johnson(copy, visit.gpu, uploaded, plain.order))

    def adapt(self, step: Step, view: View) -> Moves:
        """Prefetch after a layer, placement after a period or a fault."""
        memory: _Memory = view.state
        if step.layer < 0:
            return self._after_pass(step, view, memory)
        moves = memory.prefetcher.after_layer(step, view)
        if self._mends(view):
            mended = self._replace(view, memory, moves.evict, ended=False)
            moves = mended._replace(load=moves.load, load_source=moves.load_source)
        return moves

    def decider(self, desk: Desk, view: View) -> Decider | None:
        """The same on arrays, where chances are compiled and nothing is read from further copies."""
        memory: _Memory = view.state
        return CxlDecider.of(memory.prefetcher, desk, view, partial(self._mends, view), by_device=self.order == "device")

    def _mends(self, view: View) -> bool:
        """Whether a device has failed or come back, so that placement is reconsidered at once."""
        return self.adapt_placement and view.down is not None and bool((view.down != view.state.down).any())

    def _after_pass(self, step: Step, view: View, memory: _Memory) -> Moves:
        memory.period += (step.counts > 0) + step.counts / (step.counts.sum() + 1.0)
        memory.passes += 1
        late, ended = memory.prefetcher.end_pass(view), memory.passes % self.period == 0
        moves = Moves(evict=late if len(late) else None)
        if ended:
            memory.frequency = (1.0 - self.alpha) * memory.frequency + self.alpha * memory.period
            memory.period = np.zeros_like(memory.period)
            memory.prefetcher.history.fade(self.alpha)
        if not self.adapt_placement:
            return moves
        if ended or (_down(view) != memory.down).any():
            moves = self._replace(view, memory, moves.evict, ended=ended)
        here = view.home[memory.changes[:, 0], memory.changes[:, 1]]
        memory.changes = memory.changes[here != memory.changes[:, 2]]
        return moves._replace(migrate=memory.changes, replicate=self._nearer(view, memory))

    def _nearer(self, view: View, memory: _Memory) -> IntArray | None:
        """Copies that are prefetched into faster CXL devices, in the room that the changes of home leave."""
        if not self.copies or view.replicas is None:
            return None
        free = self._free(view, memory) - np.count_nonzero(view.replicas, axis=(1, 2))
        return memory.prefetcher.nearer(view, free - np.bincount(memory.changes[:, 2], minlength=len(free)))

    def _free(self, view: View, memory: _Memory) -> FloatArray:
        """[T] experts for which each tier has room beside the masters."""
        return memory.devices.free(view.home.ravel(), view.problem.model.expert_bytes, _down(view))

    def _replace(self, view: View, memory: _Memory, evict: IntArray | None, *, ended: bool) -> Moves:
        """Algorithm 1 over all tiers, and what leads from today's placement to its answer.

        After a period (`ended`) residents of GPU memory change, too.
        """
        devices, size, home, experts = memory.devices, view.problem.model.expert_bytes, view.home.ravel(), view.home.shape[1]
        down = memory.down = _down(view).copy()
        frequency = (memory.frequency + memory.tie).ravel()
        target = algorithm_1(frequency, memory.slots, devices, devices.slots(size, down), inclusive=self.inclusive).home
        held = ((view.resident | view.in_flight) & ~memory.prefetcher.borrowed).ravel()
        load = drop = np.zeros(0, dtype=np.int64)
        if ended:
            load, drop = self._exchange(view, memory, held, target)
            held[load], held[drop] = True, False
        read = np.where(held, 0.0, frequency)  # a master copy is not read while its expert is in GPU memory
        doubt, free = np.where(held, 0.0, self._doubt(memory)), self._free(view, memory)
        # the tiers behind GPU memory by what it really holds: an expert that it is still to get is read until then
        target = algorithm_1(frequency if self.inclusive else read, 0, devices, devices.slots(size, down)).home
        changes = difference(read, doubt, home, target, devices, free, Terms(self.horizon, self.hysteresis, len(home)))
        if self.steal and not changes:
            changes = steal(read, home, devices, free, ~held, self.hysteresis, self._partner(memory, experts))
        rows = np.array(changes, dtype=np.int64).reshape(-1, 2)
        memory.changes = np.column_stack([*np.divmod(rows[:, 0], experts), rows[:, 1]])
        if ended:
            memory.slots += memory.prefetcher.give_back((read * devices.access[home])[~held], self.hysteresis)
        leaving = np.column_stack(np.divmod(drop, experts))
        entering = np.column_stack(np.divmod(load[~view.in_flight.ravel()[load]], experts))
        return Moves(
            evict=leaving if evict is None else np.concatenate([evict, leaving]),
            load=entering,
            load_source=memory.prefetcher.sources(view, entering),
            migrate=memory.changes,
            retire=self._retired(view, read, rows[:, 1], free),
        )

    def _partner(self, memory: _Memory, experts: int) -> Callable[[int], int]:
        """Flat index of an expert -> that of the one activated most often with it, -1 for none."""

        def partner(expert: int) -> int:
            pair = memory.prefetcher.history.partner(*divmod(expert, experts)) if self.prefetch else None
            return -1 if pair is None else pair[0] * experts + pair[1]

        return partner

    def _retired(self, view: View, read: FloatArray, targets: IntArray, free: FloatArray) -> IntArray | None:
        """[n, 3] further copies that give way to the masters on their way to `targets` [n]."""
        if view.replicas is None or not view.replicas.any():
            return None
        replicas = view.replicas.reshape(len(view.replicas), -1)
        over = np.bincount(targets, minlength=len(free)) - (free - np.count_nonzero(replicas, axis=1))
        rows = np.array(crowded(replicas, read, over), dtype=np.int64).reshape(-1, 2)
        return np.column_stack([*np.divmod(rows[:, 0], view.home.shape[1]), rows[:, 1]])

    def _exchange(self, view: View, memory: _Memory, held: BoolArray, target: IntArray) -> tuple[IntArray, IntArray]:
        """(load, drop), flat: residents for hotter experts, as many as a share of the link's time carries.

        An expert that enters saves reads from its home of today, one that leaves is read from its `target` [N].
        """
        frequency, access, home = (memory.frequency + memory.tie).ravel(), memory.devices.access, view.home.ravel()
        limit = int(self.link_share * (view.now - memory.last) / max(float(access[home].mean()), 1e-12))
        memory.last = view.now
        saved = access[np.where(held, target, home)]
        evictable, room = held & view.resident.ravel(), int(np.count_nonzero(held)) + view.free_slots
        terms = Terms(self.horizon, self.hysteresis, limit)
        load, drop = exchanges(frequency, saved, held, evictable, min(memory.slots, room), terms)
        doubt, first = self._doubt(memory), len(load) - len(drop)
        sure = frequency[load[first:]] > frequency[drop] + doubt[load[first:]] + doubt[drop]
        load, drop = np.concatenate([load[:first], load[first:][sure]]), drop[sure]
        memory.prefetcher.borrowed.ravel()[load] = False  # a copy that is on its way as a prefetch now comes to stay
        return load, drop

    def _doubt(self, memory: _Memory) -> FloatArray:
        """[N] `doubt` standard deviations of F, were the uses in each pass independent draws."""
        share = np.clip(memory.frequency.ravel() / self.period, 0.0, 1.0)
        weight = self.alpha / (2.0 - self.alpha)
        return np.asarray(self.doubt * np.sqrt(weight * self.period * share * (1.0 - share)))


def _backup(problem: Problem, cut: BatchPlan) -> str | None:
    """Storage that holds all experts, and so keeps a copy of each that has been read from it."""
    need, room = problem.layers * problem.experts * problem.model.expert_bytes, host_room(problem, cut)
    storage = [tier for tier in host_order(problem) if problem.system.tiers[tier].kind == "nvme" and room[tier] >= need]
    return storage[-1] if storage else None


def _with_swap_slots(problem: Problem, cut: BatchPlan, spare: float) -> dict[str, float]:
    """Host tier -> bytes for experts, less `spare` each where they hold all experts even so."""
    room, size = host_room(problem, cut), problem.model.expert_bytes
    less = {tier: max(nbytes - spare, 0.0) for tier, nbytes in room.items()}
    held = sum(int(nbytes // size) for nbytes in less.values())
    return less if held >= problem.layers * problem.experts else room


def _classes(problem: Problem, home: IntArray) -> list[tuple[BoolArray, Groups]]:
    """Every expert in the tier that `home` [L, E] says, those without one (-1) wherever there is room."""
    order = host_order(problem)
    rest = [[tier] for tier in order]
    named: list[tuple[BoolArray, Groups]] = [(home == problem.tiers.index(tier), [[tier], *rest]) for tier in order]
    return [*named, (home < 0, rest)]


def _down(view: View) -> BoolArray:
    """[T] tiers that have failed."""
    return np.zeros(len(view.problem.tiers), dtype=np.bool_) if view.down is None else view.down
