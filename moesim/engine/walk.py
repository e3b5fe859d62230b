"""The walk through the layers of one pass. For every visit it takes the closed form where nothing contends, else events.

Both give the same picoseconds where both apply; which one was taken changes the number of events and nothing else.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from moesim.engine import closed_form
from moesim.engine.answers import Answers, stacked
from moesim.engine.attention import Chain
from moesim.engine.clock import added, total, within
from moesim.engine.context import Context
from moesim.engine.eventful import AttentionWalk, ExpertWalk
from moesim.engine.prelude import Prelude
from moesim.engine.queues import ACTIVATION, Job
from moesim.engine.rounds import Pass
from moesim.engine.visits import VisitWork
from moesim.errors import PolicyError
from moesim.policies.base import BoolArray, Dispatch, IntArray, Moves, Step, Visit
from moesim.policies.foresight import Foreseen

__all__ = ["Events", "PassWalk", "walk_prelude"]

Events = Generator[Any, Any, Any]


def walk_prelude(context: Context, prelude: Prelude, layer: int | None = None) -> Events:
    """Attention and what follows it, up to the moment at which the routing of MoE layer `layer` is known.

    Returns the event of the layer's KV store if it was walked by events and has one, else None.
    """
    machine = context.machine
    if not context.by_events and not prelude.needs_events and machine.quiet:
        end = machine.clock.after(prelude.duration, "attention") if prelude.duration else None
        context.ledger.add(context.recorder.busy, prelude.busy)
        context.ledger.critical(prelude.critical, "attention", layer)
        if end is not None:
            yield end
        return None
    if context.closed_only:
        raise PolicyError("attention can't be timed in closed form (transfers contend or share a lane): use engine auto")
    begin, stored = machine.now, None
    for number, (chain, after) in enumerate(prelude.chains):
        walk = AttentionWalk(machine, chain)
        walk.start()
        yield walk.done
        yield from _on_gpu(context, after, "router or dense part")
        if number == len(prelude.chains) - 1 and prelude.feeds_experts:
            stored = walk.stored if chain.kv_store else None
        elif chain.kv_store:
            yield walk.stored
    yield from _on_gpu(context, prelude.extra, "LM head")
    context.ledger.critical(_stretched(prelude.critical, machine.now - begin), "attention", layer)
    return stored


def _on_gpu(context: Context, service: int, name: str) -> Events:
    if service > 0:
        yield context.machine.on_gpu(service, name, lambda: None)


def _stretched(critical: Any, total: int) -> dict[str, int]:
    """Critical shares scaled to a total that contention made longer; the largest lane takes the rounding."""
    alone = sum(critical.values())
    if alone in (total, 0):
        return dict(critical)
    scaled = {lane: time * total // alone for lane, time in critical.items()}
    largest = max(scaled, key=lambda lane: scaled[lane])
    scaled[largest] += total - sum(scaled.values())
    return scaled


class PassWalk:
    """The visits of one pass: V = L * G of them, layer by layer, group by group."""

    def __init__(self, context: Context, one: Pass, preludes: list[Prelude]) -> None:
        self.context, self.one, self.preludes = context, one, preludes
        layers, self.groups, experts = one.counts.shape
        self.layers: IntArray = np.repeat(np.arange(layers), self.groups)
        self.counts = one.counts.reshape(-1, experts)
        self._computed = self.counts
        self.tokens = np.tile(one.group_tokens, layers)
        self.times = context.placement.times(self.counts, self.layers)
        self.first: BoolArray = np.arange(len(self.layers)) % self.groups == 0
        self.store = np.array([preludes[layer].store_left for layer in self.layers.tolist()]) * self.first
        """[V] ps for which KV entries are still being stored when the visit's experts begin."""

    @property
    def computed(self) -> IntArray:
        """[L, G, E] tokens that the experts computed: what was routed to them, unless the policy skipped or replaced some."""
        return self._computed.reshape(self.one.counts.shape)

    def visits(self) -> Events:
        """Walks them all."""
        return self._whole() if self.context.whole_pass else self._one_by_one()

    def _whole(self) -> Events:
        """All visits of a memoryless policy timed at once; events only for those that contend."""
        context = self.context
        dispatches = [self.dispatch(row) for row in range(len(self.layers))]
        if any(one.moves is not None for one in dispatches):
            raise PolicyError("a policy that says it is memoryless set off moves")
        work = self._work(slice(None), self.answers(slice(None), dispatches), None)
        needs_events = np.array([self.preludes[layer].needs_events for layer in self.layers.tolist()])
        evented = (needs_events & self.first) | self._needs_events(work, slice(None))
        before = np.array([self.preludes[layer].duration for layer in self.layers.tolist()]) * self.first
        self._reached(before)
        after = self._book_closed(work, np.flatnonzero(~evented))
        np.add.at(context.recorder.layers.attention, self.layers[~evented], before[~evented])
        np.add.at(context.recorder.layers.experts, self.layers[~evented], after[~evented])
        for row in np.flatnonzero(~evented & self.first).tolist():
            prelude = self.preludes[int(self.layers[row])]
            context.ledger.add(context.recorder.busy, prelude.busy)
            context.ledger.critical(prelude.critical, "attention", int(self.layers[row]))
        yield from self._spans(added("a layer", before, after), evented, work)

    def _spans(self, durations: IntArray, evented: BoolArray, work: VisitWork) -> Events:
        """One timeout for each run of visits that need no events."""
        clock = self.context.machine.clock
        begin = 0
        for row in [*np.flatnonzero(evented).tolist(), len(durations)]:
            if row > begin:
                yield clock.after(int(total("the layers of a pass", durations[begin:row])), "the layers of a pass")
            if row < len(durations):
                stored = yield from self._attention(row)
                yield from self._experts_by_events(row, work.row(row), stored)
            begin = row + 1

    def _one_by_one(self) -> Events:
        """One visit after another: dispatch at the time at which the routing is known."""
        context = self.context
        adapts = context.policy.adapts in ("layer", "both")
        for row in range(len(self.layers)):
            begin = context.machine.now
            yield from self._swapped(row)
            stored = yield from self._attention(row)
            some = slice(row, row + 1)
            context.look()
            in_flight = context.residency.in_flight[self.layers[some]]
            dispatch = self.dispatch(row)
            answers = self.answers(some, [dispatch])
            context.movers.met(int(self.layers[row]), (self._computed[row] > 0) & (dispatch.device == context.bench.gpu_index))
            work = self._work(some, answers, in_flight if in_flight.any() else None)
            quiet = stored is None and not context.by_events and context.machine.quiet
            if quiet and dispatch.moves is None and not self._needs_events(work, some)[0]:
                duration = int(self._book_closed(work, np.array([row]))[0])
                context.recorder.layers.experts[self.layers[row]] += duration
                yield context.machine.clock.after(duration, f"MoE layer {self.layers[row]}")
            else:
                yield from self._experts_by_events(row, work, stored, self._moves(row, dispatch))
            context.recorder.slice("layer", f"layer {self.layers[row]}", begin, context.machine.now)
            if adapts:
                layer, counts, uploaded = int(self.layers[row]), self.counts[row].copy(), np.flatnonzero(work.up[0])
                step = Step(self.one.index, self.one.phase, layer, counts, uploaded, self._foreseen(row))
                context.adapt(step, None if answers.nbytes is None else answers.nbytes[0])

    def _swapped(self, row: int) -> Events:
        """A layer begins when every copy that the layers before sent home has a slot of its own; others hold their places."""
        context, begin, layer = self.context, self.context.machine.now, int(self.layers[row])
        lane = yield from context.movers.wait_for_slots()
        if lane:
            context.ledger.critical({lane: context.machine.now - begin}, "experts", layer)
            context.recorder.layers.experts[layer] += context.machine.now - begin

    def _attention(self, row: int) -> Events:
        """The prelude of a visit's layer, if it is the layer's first group; returns the event of a KV store by events."""
        if not self.first[row]:
            return None
        layer, begin = int(self.layers[row]), self.context.machine.now
        stored = yield from walk_prelude(self.context, self.preludes[layer], layer)
        self.context.recorder.layers.attention[layer] += self.context.machine.now - begin
        return stored

    def answers(self, some: slice, dispatches: list[Dispatch]) -> Answers:
        """The answers for some of the visits, checked, and what they do to the counts."""
        answers = stacked(dispatches, self.counts[some], self.context.residency.bytes[self.layers[some]])
        if answers.counts is not None:
            if self._computed is self.counts:
                self._computed = self.counts.copy()
            self._computed[some] = answers.counts
        return answers

    def _work(self, some: slice, answers: Answers, in_flight: BoolArray | None) -> VisitWork:
        """The work of some of the visits, entered into the books."""
        context, layers, counts = self.context, self.layers[some], self._computed[some]
        kinds = None if answers.nbytes is None else context.placement.kinds_of(layers, answers.nbytes)
        if kinds is not None or answers.counts is not None:
            times = context.placement.times(counts, layers, kinds)
        else:
            times = self.times if some == slice(None) else self.times.rows(some)
        resident = context.residency.serving(layers, answers.nbytes)
        device, order, load, *_, moves = answers
        work = context.bench.work(counts, device, times, resident, in_flight, self.tokens[some], order, load, kinds, moves)
        work.check(self.store[some])
        context.ledger.visits(work, counts, layers)
        context.quality.visits(answers, self.counts[some], counts, layers)
        return work

    def dispatch(self, row: int) -> Dispatch:
        """Asks the policy about one visit; it gets copies, for the arrays hold later layers too."""
        times, one, layer = self.times, self.one, int(self.layers[row])
        if self.context.oracle is not None:
            self.context.oracle.move(one, layer, row % self.groups)
        visit = Visit(
            one.index,
            one.phase,
            layer,
            int(self.tokens[row]),
            self.counts[row].copy(),
            times.gpu[row].copy(),
            times.cpu[row].copy(),
            times.ndp[row].copy(),
            times.copy[row].copy(),
            self._foreseen(row),
        )
        return self.context.policy.dispatch(visit, self.context.view)

    def _foreseen(self, row: int) -> Foreseen | None:
        seer = self.context.seer
        return None if seer is None else seer.of(self.one, int(self.layers[row]), row % self.groups)

    def _moves(self, row: int, dispatch: Dispatch) -> Moves | None:
        """The background moves of a visit; they leave alone what the visit itself needs."""
        moves, layer = dispatch.moves, int(self.layers[row])
        if moves is None:
            return None
        if moves.keep is not None:
            raise PolicyError("dispatch.moves keeps nothing: what a visit uploads is there only when it has run")
        if moves.evict is not None and len(moves.evict):
            here = moves.evict[moves.evict[:, 0] == layer, 1]
            if (self._computed[row][here] > 0).any():
                raise PolicyError(f"dispatch.moves evicts an expert of MoE layer {layer}, which runs")
        return moves

    def _needs_events(self, work: VisitWork, some: slice) -> BoolArray:
        """[V] visits that the closed form can't time: contention, waiting for prefetches, chunked copies."""
        context = self.context
        contended = context.check.visits(work, context.placement, self.layers[some], self.store[some], context.serial)
        if work.waits.size > 1:
            contended = contended | work.waits.any(axis=1)
        return contended | (work.uploads > 0) if context.chunked and not context.serial else contended

    def _book_closed(self, work: VisitWork, rows: IntArray) -> IntArray:
        """[V] durations of the expert parts; books lanes and critical path of the visits `rows`, which count as done."""
        context = self.context
        store = self.store if len(work.uploads) == len(self.store) else self.store[rows]
        chosen = rows if len(work.uploads) == len(self.store) else np.array([0])
        if context.serial:
            timed = closed_form.serial(work, context.gpu, context.up, store)
        else:
            timed = closed_form.overlapped(work, context.gpu, context.up, store, context.deployment.staging)
        late = np.maximum(store - timed.end, 0)
        self._reached(added("the experts of a layer", timed.end, late))
        context.ledger.closed(work, timed.critical, chosen, self.layers[rows], context.gpu, context.up)
        if late.any():
            lane = next(prelude.store_lane for prelude in self.preludes if prelude.store_lane)
            for row, time in zip(rows.tolist(), late[chosen].tolist(), strict=True):
                context.ledger.critical({lane: time}, "experts", int(self.layers[row]))
        return np.asarray(timed.end + late)

    def _reached(self, durations: IntArray) -> None:
        """Refuses visits of `durations` [V] that end beyond the clock, before they are booked."""
        time = int(total("the layers of a pass", durations))
        within(self.context.machine.now + time, f"the run up to the end of pass {self.one.index}")

    def _experts_by_events(self, row: int, work: VisitWork, stored: Any, moves: Moves | None = None) -> Events:
        context, layer = self.context, int(self.layers[row])
        if context.closed_only:
            raise PolicyError(
                f"MoE layer {layer} can't be timed in closed form (contention, prefetches, chunks): use engine auto"
            )
        begin = context.machine.now
        if stored is None and self.store[row]:
            stored = self._rest_of_store(layer)
        staging = context.deployment.staging
        walk = ExpertWalk(context.machine, context.movers, context.placement, work, layer, staging, moves)
        if context.serial:
            walk.start_serial()
        else:
            walk.start_overlapped()
        yield walk.done
        context.ledger.critical(walk.critical, "experts", layer)
        if stored is not None:
            before = context.machine.now
            yield stored
            context.ledger.critical({self.preludes[layer].store_lane: context.machine.now - before}, "experts", layer)
        context.recorder.layers.experts[layer] += context.machine.now - begin

    def _rest_of_store(self, layer: int) -> Any:
        """Queues what is left of a KV store whose attention was not walked by events; its end as an event."""
        machine, prelude = self.context.machine, self.preludes[layer]
        left, done = prelude.store_left, machine.event()
        chain: Chain = prelude.chains[-1][0]
        assert chain.kv_store is not None
        usage = {r: b * left / chain.kv_store.total for r, b in chain.kv_store.usage.items()}
        self.context.ledger.add(self.context.recorder.busy, {prelude.store_lane: -left})  # the queue books it now
        machine.submit(
            prelude.store_lane, Job("store KV", np.array([left]), usage, lambda _job: done.succeed(), ACTIVATION, "kv")
        )
        return done
