"""The walk through the layers of one pass: asks the policy, and hands its decisions to the engine, one by one or all at once.

Knows the order of things in a pass; times nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Dispatch, Foreseen, Moves, Step, Uses, Visit
from moesim.engine.cached import cached_residents, check_cached
from moesim.engine.context import Context
from moesim.engine.dispatches import Answers, batched, stacked
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visit_tables import VisitTables
from moesim.engine.kernel.visits import AnsweredRows, Demand, RoutedRows, visit_rows, visits_of_pass
from moesim.engine.passes import Pass
from moesim.engine.programs.durations import ExpertTimes
from moesim.engine.programs.pre_expert import Structure, templates_of, trailer_of
from moesim.engine.shown import ShownVisit
from moesim.errors import PolicyError

__all__ = ["PassWalk", "refuse"]

_EMPTY = np.zeros(0, dtype=np.int64)
_NO_ROWS = np.zeros(k.R_HEADER, dtype=np.int64)


class PassWalk:
    """The visits of one pass: V = L * G of them, layer by layer, group by group."""

    def __init__(self, context: Context, step: Pass) -> None:
        self.context, self.step = context, step
        layers, self.groups, experts = step.counts.shape
        self.layers: IntArray = np.repeat(np.arange(layers), self.groups)
        self.counts = step.counts.reshape(layers * self.groups, experts)
        self._computed = self.counts
        self.tokens = np.tile(step.group_tokens, layers)
        self.times = context.placement.times(self.counts, self.layers)
        self._serving: BoolArray = np.zeros((0, 0), dtype=np.bool_)
        """[V, E] copies in GPU memory that serve the visits handed over last."""
        self._nbytes: FloatArray | None = None
        self._special: Moves
        """[E] bytes of the copies that the visit at hand asks for, where they are not the stored ones, and the last moves that
        were set off with a visit."""
        self._seen: tuple[Answers, BoolArray] | None = None
        """The answers to the visit asked for last, and [E] the experts that the GPU computes in it."""

    @property
    def computed(self) -> IntArray:
        """[L, G, E] tokens that the experts computed: what was routed to them, unless the policy skipped or replaced some."""
        return self._computed.reshape(self.step.counts.shape)

    def run(self, structure: Structure) -> None:
        """Walks all visits, and what follows the last layer with experts: all layers of a model without any."""
        context, machine = self.context, self.context.machine
        if len(self.layers):
            self._visits(structure)
        trailer = trailer_of(structure, machine.lane, context.gpu)
        if trailer:
            context.ledger.critical(machine.run(trailer), "attention", None)

    def _visits(self, structure: Structure) -> None:
        context, machine = self.context, self.context.machine
        templates, of_layer = templates_of(structure, machine.lane, context.gpu)
        first = np.arange(len(self.layers)) % self.groups == 0
        visits = visits_of_pass(self.layers, self.tokens, np.where(first, of_layer[self.layers], -1))
        context.refresh()
        context.tables.for_tokens(self.tokens)
        context.tables.for_phase(self.step.phase)
        machine.engine.begin_pass(context.tables, context.books, templates, visits)
        if context.whole_pass:
            self._whole()
        elif context.decided:
            self._by_decisions()
        else:
            self._one_by_one()

    def _whole(self) -> None:
        """All visits of a policy whose decisions wait for no clock, in one call of the engine."""
        context = self.context
        resident = (
            cached_residents(context, self.layers, self.counts, [slice(g, None, self.groups) for g in range(self.groups)])
            if context.deployment.ruled
            else context.residency.resident[self.layers]
        )
        answers = self._answers_of_pass(resident)
        rows = self._rows(slice(None), answers, None, resident=resident)
        if not context.recorder.keep_slices:
            self._check(context.machine.engine.walk(rows, k.BEFORE, len(self.layers)))
            return
        for row in range(len(self.layers)):
            context.machine.show()
            begin = context.machine.now
            self._check(context.machine.engine.walk(rows, k.DONE_VISIT, len(self.layers)))
            context.recorder.slice("layer", f"layer {self.layers[row]}", begin, context.machine.now)

    def _answers_of_pass(self, resident: BoolArray) -> Answers:
        """The answers to all visits, with the copies `resident` [V, E] in GPU memory."""
        context, times = self.context, self.times
        if not context.policy.batched:
            dispatches = [self.dispatch(row) for row in range(len(self.layers))]
            if any(dispatch.moves is not None for dispatch in dispatches):
                raise PolicyError("a policy that says it is memoryless set off moves")
            return self.answers(slice(None), dispatches)
        visits = Visit(
            self.step.index, self.step.phase, self.layers, self.tokens, self.counts.copy(), times.gpu.copy(), times.cpu.copy(),
            times.local.copy(), times.copy.copy(), resident.copy(),
        )  # fmt: skip
        answers = batched(context.policy.dispatch(visits, context.view), self.counts)
        if context.deployment.ruled:
            check_cached(context, answers, self.counts)
        return answers

    def _by_decisions(self) -> None:
        """One visit after another, as `_one_by_one` says, in the kernel, which stops where the policy is asked."""
        context, movers = self.context, self.context.movers
        K, ruled, adapts, decider = movers.copies.K, context.deployment.ruled, self._adapts, context.decider
        self._answered = AnsweredRows(context.placement, self.counts, self.layers, self.times, context.machine.arrays)
        K[[k.K_TURN, k.K_ROWS]] = k.TO_ROUTED, len(self.layers)
        K[k.K_FOLLOWS] = k.A_RULE if ruled else k.A_LOOK if adapts else k.NOTHING_FOLLOWS
        rows, row, bare = _NO_ROWS, -1, _NO_ROWS
        if decider is not None:
            rows = bare = self._answered.bare(decider.beside)
            decider.begin(self._all_visits())
        while (status := movers.walk_on(rows)) != k.FINISHED:
            row += status == k.ASKED
            if status == k.KNOWN_TO_HOST:
                movers.apply(self._special, int(self.layers[row]), _EMPTY)
                continue
            if status not in (k.ASKED, k.VISITED):
                movers.refuse(status)
                self._check(status)
            if status == k.ASKED or not ruled:
                context.look_at_host(decider is None or decider.looks)
            if decider is not None and (decider.dispatch if status == k.ASKED else decider.adapt)(row):
                if status == k.ASKED:
                    rows, K[k.K_ANSWER], K[k.K_PATCHED], self._nbytes = bare, k.IN_LISTS, 1, None
            elif status == k.ASKED:
                rows = self._asked(row)
            else:
                self._visited(row, ruled, adapts)

    def _all_visits(self) -> Visit:
        """All visits of the pass in one."""
        seer, step = self.context.seer, self.step
        return ShownVisit(
            (step.index, step.phase), slice(None), (self.layers, self.tokens), self.counts, self.times,
            self.context.residency.resident, None if seer is None else seer.of_all(step),
        )  # fmt: skip

    def _asked(self, row: int) -> Any:
        """`R` with the policy's answer to a visit whose routing is known."""
        context, movers, layer = self.context, self.context.movers, int(self.layers[row])
        dispatch = self.dispatch(row)
        answers = self.answers(slice(row, row + 1), [dispatch])
        self._nbytes = None if answers.nbytes is None else answers.nbytes[0]
        K, routed, moves = movers.copies.K, self._routed(answers), self._moves(row, dispatch)
        K[k.K_ANSWER] = k.IN_ROWS if movers.order(moves) else k.WITH_MOVES
        K[k.K_PATCHED] = routed or not self._unusual(answers)
        self._special = NO_MOVES if moves is None else moves
        if routed:
            kinds = context.kinds_of(self.layers[row : row + 1], None, answers.source)
            return self._from_copies.routed(answers, kinds[0], context.placement.copy_ps_of(kinds[0]))
        if self._unusual(answers):
            numbers = self._rows(slice(row, row + 1), answers, movers.flying(layer), data=row)
            return numbers if context.machine.arrays else numbers.tolist()
        if answers.stale is not None or context.residency.mixed:
            self._judge(row, answers)
        return self._answered.answered(answers)

    def _visited(self, row: int, ruled: bool, adapts: bool) -> None:
        """What stays of what a visit has uploaded, and what the policy does next."""
        context, movers, layer = self.context, self.context.movers, int(self.layers[row])
        uploaded = movers.desk.uploaded > 0
        if ruled:
            self._keep(row, uploaded)
        if not adapts:
            return
        if ruled:
            context.look()
        step = self._step(row, uploaded)
        moves = context.policy.adapt(step, context.view)
        if not movers.order(moves, sized=self._nbytes is not None):
            movers.apply(moves, layer, step.uploaded, self._nbytes)

    def _unusual(self, answers: Answers) -> bool:
        """Whether an answer says more than what `AnsweredRows` lays out."""
        special = answers.counts is not None or answers.nbytes is not None or answers.source is not None
        return special or bool(self.context.problem.system.further_gpus)

    def _routed(self, answers: Answers) -> bool:
        """Whether an answer says beside the usual where stored copies are uploaded from, and nothing else."""
        context = self.context
        plain = not (context.residency.mixed or context.deployment.dequantised or context.problem.system.further_gpus)
        return plain and answers.routed_on(context.problem.attending_index)

    @cached_property
    def _from_copies(self) -> RoutedRows:
        """`R` for such answers."""
        return RoutedRows(self.context.placement, self.counts, self.layers, self.times, self.context.machine.arrays)

    @property
    def _adapts(self) -> bool:
        return self.context.policy.adapts in ("layer", "both") and self.context.deployment.pool is None

    def _one_by_one(self) -> None:
        """One visit after another: dispatch at the time at which the routing is known."""
        context, machine, engine = self.context, self.context.machine, self.context.machine.engine
        ruled = context.deployment.ruled
        adapts = self._adapts
        self._answered = AnsweredRows(context.placement, self.counts, self.layers, self.times, machine.arrays)
        for row, layer in enumerate(self.layers.tolist()):
            begin = machine.now
            if context.deployment.plan.swap:
                self._swapped(layer)
            machine.show()
            engine.walk(_NO_ROWS, k.ROUTED, row + 1)
            context.look()
            dispatch = self.dispatch(row)
            answers = self.answers(slice(row, row + 1), [dispatch])
            if context.movers.meets(layer):
                context.movers.met(layer, self._on_gpu(row, answers))
            flying = context.movers.flying(layer)
            rows = self._rows_of(row, answers, flying)
            moves = self._moves(row, dispatch)
            if moves is not None or flying is not None:
                self._check(engine.walk(rows, k.COMPUTING, row + 1))
                self._while_computing(row, answers, moves, flying)
            self._check(engine.walk(rows, k.DONE_VISIT, row + 1))
            if context.recorder.keep_slices:
                context.recorder.slice("layer", f"layer {layer}", begin, machine.now)
            if adapts or ruled:
                uploaded = self._uploaded(row, answers, flying)
                if ruled:
                    self._keep(row, uploaded)
                if adapts:
                    self._adapt(row, answers, uploaded)

    def _rows_of(self, row: int, answers: Answers, flying: IntArray | None) -> Any:
        """What the engine has to know of one visit."""
        if self._unusual(answers):
            return self._rows(slice(row, row + 1), answers, flying, data=row)
        self._judge(row, answers)
        return self._answered.of(answers, self._serving[0], flying)

    def _judge(self, row: int, answers: Answers) -> None:
        """Books by which copies a visit is served, those in GPU memory before others."""
        rows = slice(row, row + 1)
        self._serving = self.context.residency.resident[self.layers[rows]]
        self.context.quality.visits(answers, self.counts[rows], self.counts[rows], self.layers[rows], self._serving)

    def _while_computing(self, row: int, answers: Answers, moves: Moves | None, flying: IntArray | None) -> None:
        """What the host sets off once it knows the routing: it hastens copies on their way, and starts moves."""
        context, layer = self.context, int(self.layers[row])
        context.machine.engine.run_until_known()
        if flying is not None:
            order = np.arange(len(flying)) if answers.order is None else answers.order[0]
            context.movers.promote(layer, order, self._needed(row, answers))
        if moves is not None:
            context.movers.apply(moves, layer, _EMPTY)

    def _uploaded(self, row: int, answers: Answers, flying: IntArray | None) -> BoolArray:
        """[E] experts that were uploaded for a visit and lie in staging."""
        uploaded: BoolArray = self._needed(row, answers) & ~self._serving[0]
        return uploaded if flying is None else uploaded & (flying == 0)

    def _keep(self, row: int, uploaded: BoolArray) -> None:
        """What the rule of the cache does after a visit."""
        layer, visited, deployment = int(self.layers[row]), self.layers[row : row + 1], self.context.deployment
        resident = self.context.residency.resident
        stay, leave = np.zeros_like(resident), np.zeros_like(resident)
        if deployment.cache is not None:
            deployment.cache.clock += 1
            clock = np.array([deployment.cache.clock])
            uses = Uses(visited, clock, self.counts[row][None], uploaded[None], resident[visited])
            stay[visited], leave[visited] = deployment.cache.after(uses)
        elif deployment.pool is not None:
            after = resident.copy()
            deployment.pool.walk(visited, self.counts[row][None], after)
            stay, leave = after & ~resident, resident & ~after
        self.context.movers.apply(Moves(np.flatnonzero(stay[layer]), np.argwhere(leave)), layer, np.flatnonzero(uploaded))

    def _adapt(self, row: int, answers: Answers, uploaded: BoolArray) -> None:
        self.context.adapt(self._step(row, uploaded), None if answers.nbytes is None else answers.nbytes[0])

    def _step(self, row: int, uploaded: BoolArray) -> Step:
        """What a policy is shown behind a visit."""
        step, layer = self.step, int(self.layers[row])
        return Step(step.index, step.phase, layer, self.counts[row].copy(), uploaded.nonzero()[0], self._foreseen(row))

    def _needed(self, row: int, answers: Answers) -> BoolArray:
        """[E] copies that a visit which was asked for alone needs in GPU memory."""
        needed = self._on_gpu(row, answers)
        return needed if answers.load is None else needed | answers.load[0]

    def _on_gpu(self, row: int, answers: Answers) -> BoolArray:
        """[E] experts that the GPU computes in a visit, which is asked for some times."""
        if self._seen is None or self._seen[0] is not answers:
            on_gpu = (answers.device[0] == self.context.problem.attending_index) & (self._computed[row] > 0)
            self._seen = answers, on_gpu
        return self._seen[1]

    def _swapped(self, layer: int) -> None:
        """A layer begins when every copy that the layers before sent home has a slot of its own; others hold their places."""
        context, begin = self.context, self.context.machine.now
        lane = context.movers.wait_for_slots()
        if lane:
            waited = context.machine.now - begin
            context.ledger.critical({lane: waited}, "experts", layer)
            context.recorder.layers.experts[layer] += waited

    def answers(self, rows: slice, dispatches: list[Dispatch]) -> Answers:
        """The answers for some of the visits, checked, and what they do to the counts."""
        answers = stacked(dispatches, self.counts[rows], self.layers[rows], self.context.residency.bytes)
        if answers.counts is not None:
            if self._computed is self.counts:
                self._computed = self.counts.copy()
            self._computed[rows] = answers.counts
        return answers

    def _rows(
        self, rows: slice, answers: Answers, flying: IntArray | None, data: int = 0, resident: BoolArray | None = None
    ) -> IntArray:
        """What the engine has to know of some of the visits; `resident` [V, E] if that is not as the books have it now."""
        context, layers, counts = self.context, self.layers[rows], self._computed[rows]
        kinds = None
        if answers.nbytes is not None or answers.source is not None:
            kinds = context.kinds_of(layers, answers.nbytes, answers.source)
        if kinds is not None or answers.counts is not None:
            times = context.placement.times(counts, layers, kinds)
        else:
            times = self.times if rows == slice(None) else self.times.rows(rows)
        here = context.residency.resident[layers] if resident is None else resident
        self._serving = context.residency.serving(here, layers, answers.nbytes)
        context.quality.visits(answers, self.counts[rows], counts, layers, self._serving)
        demand = Demand(counts, layers, times, answers, self._serving, kinds, flying)
        return visit_rows(context.placement, demand, data)

    def measure(self, answers: Answers, counts: IntArray, times: ExpertTimes, held: IntArray) -> IntArray:
        """What devices have to do in all visits, entered into the books: `W` of the kernel.

        `held` [V, E]: copies in GPU memory, as the kernel says it.
        """
        context = self.context
        context.refresh()
        context.tables.for_tokens(self.tokens)
        rows = visit_rows(context.placement, Demand(counts, self.layers, times, answers, held))
        visits = visits_of_pass(self.layers, self.tokens, np.full(len(self.layers), -1))
        status, measured = context.machine.engine.measure(context.tables, context.books, visits, rows)
        self._check(status)
        return measured

    def _check(self, status: int) -> None:
        refuse(status, self.context.tables)

    def dispatch(self, row: int) -> Dispatch:
        """Asks the policy about one visit; it gets copies, for the arrays hold later layers too."""
        times, step, layer = self.times, self.step, int(self.layers[row])
        if self.context.oracle is not None:
            self.context.oracle.move(step, layer, row % self.groups)
        visit = ShownVisit(
            (step.index, step.phase), row, (layer, int(self.tokens[row])), self.counts[row].copy(), times,
            self.context.residency.resident[layer].copy(), self._foreseen(row),
        )  # fmt: skip
        return self.context.policy.dispatch(visit, self.context.view)

    def _foreseen(self, row: int) -> Foreseen | None:
        seer = self.context.seer
        return None if seer is None else seer.of(self.step, int(self.layers[row]), row % self.groups)

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


def refuse(status: int, tables: VisitTables) -> None:
    """PolicyError for a dispatch that the machine cannot carry out, as the engine's `status` says."""
    if status >= 0:
        return
    if status == k.NO_SLOT:
        raise PolicyError("dispatch asked for uploads, but deploy set no staging slot aside for them to land in")
    if status <= k.BAD_READER:
        raise PolicyError(
            f"dispatch gave '{tables.helpers[k.BAD_READER - status].name}' an expert whose weights it cannot read"
        )
    raise PolicyError("dispatch gave active experts to a device that does not exist")
