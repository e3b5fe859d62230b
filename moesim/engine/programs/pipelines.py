"""Pipelines in which layers overlap: a pass becomes a program of uploads, attention, experts and what they wait for.

Layers stream ahead of their turn (`overlap` and `serial` with `ahead`, `paged`, `alternating`, `module`), or experts join late
(`deferred`) or begin early (`precomputed`). Knows costs and plans; times nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.clock import to_ps
from moesim.contract import Alternating, Deferred, Module, Overlap, Paged, Precomputed, Serial
from moesim.engine.context import Context
from moesim.engine.passes import Pass
from moesim.engine.programs.attention import Chain, Chains, Stage
from moesim.engine.programs.durations import ExpertTimes, queue_of, usage_of
from moesim.engine.programs.plan_visit import HelperWork, VisitWork
from moesim.engine.programs.pre_expert import Copy, Structure
from moesim.engine.programs.program import BULK, EARLY, FIRST, JOIN, Operation, label_of
from moesim.errors import PolicyError

__all__ = ["Carried", "LayerMarks", "PassBuilder", "Style", "style_of"]

_SHARED_PIECES = 8
"""Least portions in which a layer is uploaded where other copies use the link too: one of them waits for a portion at most."""

Ops = tuple[int, ...]
_NONE: Ops = ()


@dataclass(frozen=True)
class Style:
    """How the layers of a pass overlap."""

    ahead: int
    """Layers whose weights are on their way while one runs; 0 with one buffer for the layer that runs."""
    streamed: bool
    """Weights come whether the router asks for them or not."""
    barrier: bool
    """A layer begins when the one before has ended for all sequences, not micro-batch by micro-batch."""
    serial: bool = False
    """Nothing runs while weights are uploaded, and no experts before all micro-batches have attended."""
    shift: int = 0
    """1: the results of stale experts join the layer behind theirs; -1: stale experts begin in the layer before theirs."""
    turns: int = 0
    """First MoE layers in which the GPU's experts wait for those of other devices."""


def style_of(context: Context, phase: str) -> Style | None:
    """How the passes of `phase` overlap; None if each layer is walked by itself."""
    match context.deployment.plan.of(phase).pipeline:
        case Deferred():
            return Style(0, streamed=False, barrier=True, shift=1)
        case Precomputed(turns):
            return Style(0, streamed=False, barrier=True, shift=-1, turns=turns)
        case Module(ahead):
            return Style(ahead, streamed=True, barrier=True)
        case Paged(ahead) | Alternating(ahead):
            return Style(max(ahead, 1), streamed=True, barrier=False)
        case Overlap(ahead):
            return Style(ahead, streamed=True, barrier=True) if ahead else None
        case Serial(ahead):
            return Style(ahead, streamed=True, barrier=True, serial=True) if ahead else None


@dataclass
class LayerMarks:
    """Operations that end a layer's parts: [L] each."""

    attention: list[Ops] = field(default_factory=list)
    experts: list[Ops] = field(default_factory=list)


@dataclass
class Carried:
    """What one pass leaves to the next; numbers of operations."""

    uploads: dict[int, Ops] = field(default_factory=dict)
    """MoE layer -> its portions that are on their way or there."""
    weights: dict[int, list[Ops]] = field(default_factory=dict)
    """MoE layer -> copies of the other weights of its decoder layers, one after another."""
    streamed: dict[int, BoolArray] = field(default_factory=dict)
    """MoE layer -> [E] experts in them."""
    released: Ops = ()
    """What the last layer's buffer waits for, portion by portion."""
    cores: Ops = ()
    """The last attention cores: a window of two micro-batches of KV cache in GPU memory."""
    last: Ops = ()
    """The end of the pass."""


class PassBuilder:
    """Adds one pass to the program."""

    def __init__(self, context: Context, carried: Carried, step: Pass, style: Style) -> None:
        self.context, self.carried, self.one, self.style = context, carried, step, style
        self.layers, self.groups, _ = step.counts.shape
        self.gpu, self.up = context.gpu, context.up
        self.marks = LayerMarks()
        self._before: Ops = ()
        """Late results of the layer before, which this one waits for."""
        self._coming: list[int] = []
        """Those of this layer, so far."""
        self._early: dict[int, Ops] = {}
        """Visit -> ends of what other devices began for it in the layer before."""
        self._tail: list[Ops] | None = None
        """Copies of the weights behind the last MoE layer, once they are in the program."""
        self._stores: list[int] = []
        """New KV entries on their way to another tier: only the end of the layer waits for them, or of the pass."""

    def build(self, structure: Structure, work: VisitWork, times: ExpertTimes, stale: IntArray | None, wraps: bool) -> int:
        """Adds the operations of the pass, of V = L * G visits; the one that ends it.

        `wraps`: another streamed pass follows, whose first layers are uploaded during the last ones of this.
        """
        self._structure, self._work, self._times, self._stale = structure, work, times, stale
        stages = (stage for kind in structure.chains for chain in kind for stage in chain.sides())
        self._alone = all(stage.lane != self.up for stage in stages) and not work.helpers
        """Whether the link carries weights of experts alone."""
        ends: list[Ops] = [self.carried.last]
        reach = min(self.style.ahead, self.layers)
        if structure.rows:
            ends = [(*self.carried.last, *self._copies(structure.rows, self.carried.last))]
        for layer in range(reach) if not self.style.serial else ():
            if layer not in self.carried.uploads:  # a pass that follows no streamed one
                self._upload(layer, (), ())
            elif (self.carried.streamed[layer] != self._streamed(layer)).any():
                raise PolicyError(f"the experts streamed for MoE layer {layer} change from one pass to the next")
        for layer in range(self.layers):
            ends = self._layer(layer, ends, reach, wraps)
        after = _all(ends)
        weights = self._tail if self._tail is not None else self._tail_weights(after)
        for block, there in zip(structure.trailing, weights, strict=False):
            ends = self._attention(structure.chains[block.kind], [(*after, *there)])
            after = self._gpu(block.service, _all(ends), "dense part")
        after = (*after, *self._stores, *weights[-1])
        last = self._gpu(structure.head, after, "LM head")
        self.carried.last = last if len(last) == 1 else (self._join(last),)
        return self.carried.last[0]

    def _layer(self, layer: int, ends: list[Ops], reach: int, wraps: bool) -> list[Ops]:
        """Attention, router and experts of one MoE layer, and uploads for the layer `reach` further on; its ends by group."""
        before = _all(ends)
        if self.style.serial and self.style.streamed:
            self._upload(layer, before, before)
            ends = [(*before, *self.carried.uploads[layer], *_all(self.carried.weights[layer]))]
        elif self.style.streamed:
            if reach == 0:
                self._upload(layer, self.carried.released, before)
            elif layer + reach < self.layers or wraps:
                if layer + reach == self.layers:
                    self._tail = self._tail_weights(before)
                self._upload((layer + reach) % self.layers, self.carried.released, before)
        ready = self._before_experts(layer, ends)
        self.marks.attention.append(_all(ready))
        ends = self._experts(layer, ready)
        self.marks.experts.append(_all(ends))
        return ends

    def _before_experts(self, layer: int, ends: list[Ops]) -> list[Ops]:
        """Dense layers before the MoE layer, its attention and router; ends by group of sequences."""
        group, chains = self._structure.layers[layer], self._structure.chains
        if not group:
            return ends * self.groups if len(ends) == 1 else ends
        weights = self.carried.weights.pop(layer, None)
        if weights is None:  # nothing is streamed ahead
            weights = [self._copies(block.copies, _all(ends)) for block in group]
        for block, there in zip(group[:-1], weights, strict=False):
            starts = [(*end, *there) for end in ends]
            ends = [self._gpu(block.service, _all(self._attention(chains[block.kind], starts)), "dense part")]
        router = group[-1].service
        parts = self._attention(chains[group[-1].kind], [(*end, *weights[-1]) for end in ends])
        if len(parts) == self.groups > 1 and not self.style.serial:
            services = to_ps(self.context.problem.costs.router(self.one.group_tokens), "the router").tolist()
            return [self._gpu(s, part, "router") for s, part in zip(services, parts, strict=True)]
        return [self._gpu(router, _all(parts), "router")] * self.groups

    def _attention(self, chains: Chains, ends: list[Ops]) -> list[Ops]:
        """Every micro-batch through its chain; `ends` of the layer before are by micro-batch if the style has no barrier."""
        batches = [(chain, item) for chain in chains for item in range(len(chain.stages[0].service))]
        own = not self.style.barrier and len(ends) == len(batches)
        starts = ends if own else [_all(ends)] * len(batches)
        return [self._micro_batch(chain, item, start) for (chain, item), start in zip(batches, starts, strict=True)]

    def _micro_batch(self, chain: Chain, item: int, start: Ops) -> Ops:
        read: Ops = ()
        if chain.kv_read is not None:
            window = self.carried.cores[:1]
            read = self._stage(chain.kv_read, item, window if window and not self.style.serial else (*window, *start))
        after, aside = start, _NONE
        for index, stage in enumerate(chain.stages):
            if index == chain.core:
                after = (*after, *read)
            if index == chain.core + 1:
                after = (*after, *aside)
            feeds = not self.style.barrier and index < chain.core and stage.lane == self.gpu != chain.stages[chain.core].lane
            after = self._stage(stage, item, after, EARLY if feeds else FIRST)
            if index == 0:
                aside = after
                for step in chain.aside:
                    aside = self._stage(step, item, aside)
                aside = aside if chain.aside else _NONE
                if chain.kv_store is not None:
                    self._stores += self._stage(chain.kv_store, item, after)
            if index == chain.core:
                self.carried.cores = (*self.carried.cores, *after)[-2:]
        if chain.core + 1 == len(chain.stages):
            after = (*after, *aside)
        return after

    def _stage(self, stage: Stage, item: int, after: Ops, rank: int = FIRST) -> Ops:
        service = int(stage.service[item])
        share = service / stage.total if stage.total else 0.0
        usage = {resource: nbytes * share for resource, nbytes in stage.usage.items()} if stage.usage else None
        return (self._add(stage.lane, service, after, stage.name, usage, rank),)

    def _add(
        self,
        lane: str,
        service: int,
        after: Sequence[int],
        name: str,
        usage: Mapping[str, float] | None = None,
        priority: int = FIRST,
    ) -> int:
        program = self.context.machine.program
        return program.add(
            Operation(program.lane(lane), service, after, priority, in_order=True, draws=usage or {}, label=label_of(name))
        )

    def _join(self, after: Ops) -> int:
        return self.context.machine.program.add(Operation(JOIN, 0, after))

    def _gpu(self, service: int, after: Ops, name: str) -> Ops:
        return (self._add(self.gpu, service, after, name),) if service else after

    def _copies(self, copies: Sequence[Copy], after: Ops) -> Ops:
        """Copies of weights other than routed experts."""
        rank = FIRST if self.style.serial else BULK
        lane, program = self.context.machine.lane, self.context.machine.program
        return tuple(program.add(replace(copy.operation(lane, after, rank), in_order=True)) for copy in copies)

    def _tail_weights(self, after: Ops) -> list[Ops]:
        """Weights of the layers behind the last MoE layer, and of the head."""
        layers = [self._copies(layer.copies, after) for layer in self._structure.trailing]
        return [*layers, self._copies(self._structure.head_copies, after)]

    def _upload(self, layer: int, released: Ops, before: Ops) -> None:
        """The layer's other weights, then its experts that are not resident, in portions; portion p waits for place in the
        buffer, the other weights for `before`.
        """
        self.carried.weights[layer] = [self._copies(block.copies, before) for block in self._structure.layers[layer]]
        row = layer * self.groups
        columns = np.flatnonzero(self._work.copy[row])
        experts = columns if self._work.order is None else self._work.order[row, columns]
        self.carried.streamed[layer] = self._streamed(layer)
        usage, _ = self.context.placement.upload(layer, experts)
        uploads: list[int] = []
        rank = FIRST if self.style.serial else BULK
        for number, (service, share) in enumerate(self._pieces(self._work.copy[row, columns])):
            drawn = {resource: nbytes * share for resource, nbytes in usage.items()}
            waits = released if self.style.serial or len(released) <= 1 else (released[min(number, len(released) - 1)],)
            uploads.append(self._add(self.up, service, waits, "upload experts", drawn, rank))
        self.carried.uploads[layer] = tuple(uploads)

    def _streamed(self, layer: int) -> BoolArray:
        """[E] experts uploaded for the layer."""
        streamed: BoolArray = self._work.up[layer * self.groups]
        return streamed

    def _pieces(self, copies: IntArray) -> list[tuple[int, float]]:
        """(ps, share) of each portion of a layer whose experts take `copies` [n] ps.

        One portion where the link carries nothing else; else so many that what goes ahead of them waits for one only. They are
        whole experts where each is computed as it lands, pages of equal size where all have to be there first.
        """
        if not len(copies):
            return []
        chains, whole = self._structure.chains, int(copies.sum())
        if self._alone and self.groups == 1 and self.style.ahead:
            return [(whole, 1.0)]
        count = max(_SHARED_PIECES, sum(len(chain.stages[0].service) for chain in chains[0]) if chains else 1)
        if self.groups == 1:
            parts = np.array_split(copies, min(len(copies), count))
            return [(int(part.sum()), len(part) / len(copies)) for part in parts]
        edges = [whole * number // count for number in range(count + 1)]
        return [(end - begin, 1.0 / count) for begin, end in pairwise(edges)]

    def _experts(self, layer: int, ready: list[Ops]) -> list[Ops]:
        """Experts of every group, first the resident ones; the buffer is free when the last group has used it."""
        uploads = self.carried.uploads.pop(layer, ())
        ends: list[Ops] = []
        if self.groups == 1 and uploads:
            ends.append(self._as_they_land(layer, ready[0], uploads))
        else:
            used: list[Ops] = []
            for group in range(self.groups):
                row = layer * self.groups + group
                service = int(self._work.gpu_first[row] + self._work.gpu_after[row].sum())
                self._begin_early(row + self.groups, ready[group])
                sides = self._sides(row, ready[group]) if layer < self.style.turns else _NONE
                used.append(self._gpu(service, (*(sides or ready[group]), *uploads), "experts"))
                ends.append((*used[-1], *(sides or self._sides(row, ready[group]))))
            self.carried.released = _all(used)[-1:]
        before, self._before = self._before, tuple(self._coming)
        self._coming.clear()
        ends[-1] = (*ends[-1], *before, *(self._before if layer + 1 == self.layers else ()))
        if not self.style.barrier:
            return ends
        stores, self._stores = self._stores, []
        return [(*_all(ends), *stores)]

    def _as_they_land(self, layer: int, ready: Ops, uploads: Ops) -> Ops:
        """Resident experts, then each portion when it has landed."""
        after = self._gpu(int(self._work.gpu_first[layer]), ready, "resident experts")
        columns = np.flatnonzero(self._work.copy[layer])
        released: list[int] = []
        for number, part in zip(uploads, np.array_split(columns, len(uploads)), strict=True):
            after = (self._add(self.gpu, int(self._work.gpu_after[layer, part].sum()), (*after, number), "experts"),)
            released += after
        self.carried.released = tuple(released)
        return (*after, *self._sides(layer, ready))

    def _sides(self, row: int, ready: Ops) -> Ops:
        """What other devices compute in a visit, with reading back the routing and activations out and back; its ends."""
        known = ready
        ends = self._early.pop(row, _NONE)
        for part in self._work.helpers:
            if not part.tokens[row] or self._is_early(part, row):
                continue
            if known == ready and self._work.ids[row] and not part.helper.gpu:
                known = self._read_back(row, ready)
            late = self._late(part, row)
            waits = self._seconds_of(part, row, late)
            layer, read_by = row // self.groups, self.context.placement.read_by
            out = self._crossing(part, row, ready if part.helper.gpu else known, out=True)
            drawn = read_by(part.helper.index, part.runs[row] & ~late, layer)
            now = self._add(part.helper.name, int(part.work[row]) - waits, out, "experts", drawn)
            ends += self._crossing(part, row, (now,), out=False)
            if waits:  # their results leave with those of the next layer
                drawn = read_by(part.helper.index, part.runs[row] & late, layer)
                self._coming.append(self._add(part.helper.name, waits, (now,), "deferred experts", drawn))
        return ends

    def _begin_early(self, row: int, ready: Ops) -> None:
        """What other devices do for a visit of the next layer as soon as the host knows its predicted routing."""
        for part in self._work.helpers:
            if row >= len(part.tokens) or not self._is_early(part, row):
                continue
            known = self._read_back(row, ready) if self._work.ids[row] and not part.helper.gpu else ready
            drawn = self.context.placement.read_by(part.helper.index, part.runs[row], row // self.groups)
            out = self._crossing(part, row, known, out=True)
            work = self._add(part.helper.name, int(part.work[row]), out, "experts ahead", drawn)
            self._early[row] = (*self._early.get(row, _NONE), *self._crossing(part, row, (work,), out=False))

    def _is_early(self, part: HelperWork, row: int) -> bool:
        """Whether a side computes its experts of a visit in the layer before."""
        return self.style.shift < 0 and bool(self._stale_on(part, row).any())

    def _late(self, part: HelperWork, row: int) -> BoolArray:
        """[E] a side's experts whose results may join the next layer."""
        return self._stale_on(part, row) if self.style.shift > 0 else np.zeros_like(part.runs[row])

    def _stale_on(self, part: HelperWork, row: int) -> BoolArray:
        """[E] a side's experts that the dispatch calls stale."""
        if self._stale is None:
            return np.zeros_like(part.runs[row])
        stale: BoolArray = part.runs[row] & (self._stale[row] > 0)
        return stale

    def _seconds_of(self, part: HelperWork, row: int, late: BoolArray) -> int:
        """ps of the experts `late` [E] on a side."""
        alone = (self._times.local_ps if part.helper.local else self._times.cpu_ps)[row]
        calls = 0 if part.helper.fused else int(late.sum())
        return int(alone[late].sum()) + calls * part.helper.launch

    def _crossing(self, part: HelperWork, row: int, after: Ops, *, out: bool) -> Ops:
        path, service = (part.helper.out, part.out) if out else (part.helper.back, part.back)
        if not service[row]:
            return after
        drawn = usage_of(path.usage, float(part.nbytes[row]))
        return (self._add(queue_of(path), int(service[row]), after, "activations", drawn),)

    def _read_back(self, row: int, ready: Ops) -> Ops:
        """The host reads the routing of a visit."""
        tables, tokens = self.context.tables, float(self.one.group_tokens[row % self.groups])
        assert tables.down is not None
        drawn = usage_of(tables.down.usage, tokens * tables.id_bytes)
        return (self._add(queue_of(tables.down), int(self._work.ids[row]), ready, "expert ids", drawn),)


def _all(ends: Sequence[Ops]) -> Ops:
    """All of them, each once."""
    return tuple(dict.fromkeys(number for part in ends for number in part))
