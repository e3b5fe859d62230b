"""The walk through passes whose layers overlap: builds the program pass by pass, has it timed, and keeps the books.

Knows passes and lanes; what overlaps what is for `pipelines`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.engine.context import Context
from moesim.engine.kernel import kernel as k
from moesim.engine.passes import Pass
from moesim.engine.programs.pipelines import Carried, LayerMarks, Ops, PassBuilder, Style, style_of
from moesim.engine.programs.plan_visit import VisitWork, work_of_visits
from moesim.engine.programs.pre_expert import Structure
from moesim.engine.walk import PassWalk
from moesim.errors import PolicyError
from moesim.hardware.device import Phase
from moesim.units import format_bytes

__all__ = ["StreamWalk"]


class StreamWalk:
    """All passes of one run that overlap their layers; the program goes on from one to the next."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._carried = Carried()
        self._before: list[int] = []
        """Operations of the pass before, which the next one may wait for."""

    def takes(self, phase: str) -> bool:
        """Whether the passes of `phase` are for it."""
        if style_of(self.context, phase) is None:
            return False
        policy = self.context.policy
        if not policy.memoryless and phase not in policy.sure_phases:
            raise PolicyError(
                f"layers overlap only under a policy that is memoryless, or names '{phase}' in sure_phases: its dispatches are "
                "known before the pass"
            )
        if self.context.deployment.pieces > 1:
            raise PolicyError("where layers overlap, the pipeline says in which portions weights cross: leave pieces at 1")
        return True

    def _check_room(self, style: Style, streamed: BoolArray) -> None:
        """I3: the buffer that `Deployment.staging` stands for holds the experts `streamed` [L, E] of layers in a row."""
        sizes = np.where(streamed, self.context.residency.bytes, 0.0).sum(axis=1)
        layers = 1 if style.serial else min(style.ahead + 1, len(sizes))
        most = max(float(np.take(sizes, range(first, first + layers), mode="wrap").sum()) for first in range(len(sizes)))
        held = self.context.deployment.plan.staging * self.context.problem.model.expert_bytes
        if most > held * (1 + 1e-9):
            message = f"up to {format_bytes(most)} are streamed at a time, and deploy set {format_bytes(held)} of staging aside"
            raise PolicyError(f"{message} for {layers} layers in a row")

    def walk_pass(self, step: Pass, following: Phase | None, structure: Structure) -> IntArray:
        """Walks a pass that one of phase `following` follows; [L, G, E] tokens that the experts computed."""
        context, machine = self.context, self.context.machine
        style = style_of(context, step.phase)
        assert style is not None
        walk = PassWalk(context, step)
        if not context.policy.memoryless:
            context.look()
        work, stale = self._work(walk, style)
        machine.mark()
        begin, first = machine.now, len(machine.program)
        builder = PassBuilder(context, self._carried, step, style)
        wraps = following is not None and style.streamed and not style.serial and self._same(style, step.phase, following)
        last = builder.build(structure, work, walk.times, stale, wraps)
        machine.engine.submit()
        machine.engine.run(last)
        self._close(builder.marks, begin, last)
        if not wraps:
            self._carried = Carried()
        self._forget(range(first, len(machine.program)))
        return walk.computed

    def _forget(self, added: Sequence[int]) -> None:
        """Operations of the pass before last, and of this one all that the next one cannot wait for, leave the program."""
        machine = self.context.machine
        machine.forget([number for number in self._before if machine.engine.ended(number)])
        self._before = [number for number in self._before if number in machine.program.operations] + list(added)

    def _same(self, style: Style, phase: Phase, following: Phase) -> bool:
        """Whether the next pass streams as this one does, so that its first layers may come during the last ones of this."""
        problem, plan = self.context.problem, self.context.deployment.plan
        if phase != following and problem.crossing(plan, phase) != problem.crossing(plan, following):
            return False
        later = style_of(self.context, following)
        return later is not None and later.streamed and not later.serial and later.ahead == style.ahead > 0

    def _work(self, walk: PassWalk, style: Style) -> tuple[VisitWork, IntArray | None]:
        """The work of all visits of the pass, entered into the books; a layer is uploaded once for all its groups."""
        context, layers, groups = self.context, walk.layers, walk.groups
        dispatches = [walk.dispatch(row) for row in range(len(layers))]
        answers = walk.answers(slice(None), dispatches)
        if answers.nbytes is not None or answers.moves is not None or answers.source is not None:
            raise PolicyError("where layers overlap, dispatch chooses neither precision nor sources nor moves")
        counts = walk.computed.reshape(walk.counts.shape)
        times = walk.times if answers.counts is None else context.placement.times(counts, layers)
        walk.times = times
        on_gpu = answers.device == context.problem.attending_index
        resident = context.residency.resident[layers]
        held: IntArray = resident.astype(np.int64)
        if style.streamed:
            here = context.problem.gpu_at[context.residency.home[layers]] == context.problem.attending_index
            streamed = (~resident & on_gpu & here).reshape(-1, groups, resident.shape[1]).any(axis=1)
            self._check_room(style, streamed)
            load = np.zeros_like(resident)
            load[::groups] = streamed
            answers = answers._replace(load=load)
            for group in range(1, groups):
                held[group::groups][streamed] = k.BROUGHT
        needed = on_gpu & (counts > 0)
        up = (needed if answers.load is None else needed | answers.load) & (held == k.ABSENT)
        if style.shift and up.any():
            name = "deferred" if style.shift > 0 else "precomputed"
            raise PolicyError(f"the pipeline '{name}' uploads nothing: what is not in GPU memory runs where it lies")
        if style.shift < 0 and answers.stale is not None:
            self._check_early(walk, answers.device, (counts > 0) & (answers.stale > 0))
        measured = walk.measure(answers, counts, times, held)
        context.quality.visits(answers, walk.counts, counts, layers, resident)
        work = work_of_visits(context.tables, measured, counts, walk.tokens, answers, up, times)
        return work, answers.stale

    def _check_early(self, walk: PassWalk, device: IntArray, stale: BoolArray) -> None:
        """Of a visit's experts a device begins all a layer early, or none, as `stale` [V, E] says; in the first layer none."""
        if stale[: walk.groups].any():
            raise PolicyError("no layer stands before MoE layer 0 in which its experts could begin: call none of them stale")
        computed = walk.computed.reshape(stale.shape) > 0
        for index in np.unique(device[stale]).tolist():
            runs = computed & (device == index)
            if (runs & ~stale)[(runs & stale).any(axis=1)].any():
                name = self.context.problem.devices[index]
                raise PolicyError(f"the pipeline 'precomputed' begins all experts of a layer on '{name}' early, or none")

    def _close(self, marks: LayerMarks, begin: int, last: int) -> None:
        """Books the time of each layer, until its router and from there to its end, and which lanes were its bottleneck."""
        sums, ledger = self.context.recorder.layers, self.context.ledger
        names = list(self.context.machine.program.lanes)
        path = [(names[lane], start, end) for lane, start, end in self.context.machine.engine.critical(last, begin)][::-1]
        before = begin
        for layer, ends in enumerate(zip(marks.attention, marks.experts, strict=True)):
            for part, spent, numbers in zip(("attention", "experts"), (sums.attention, sums.experts), ends, strict=True):
                until = self._latest(numbers, before)
                spent[layer] += until - before
                ledger.critical(_shares(path, until), part, layer)
                before = until
        ledger.critical(_shares(path, self.context.machine.engine.end(last)), "", None)

    def _latest(self, numbers: Ops, least: int) -> int:
        return max([least, *(self.context.machine.engine.end(number) for number in numbers)])


def _shares(path: list[tuple[str, int, int]], end: int) -> dict[str, int]:
    """Lane -> ps of the path up to `end`, which is cut off it; `path` is in reverse order."""
    shares: dict[str, int] = {}
    while path and path[-1][1] < end:
        lane, start, stop = path.pop()
        shares[lane] = shares.get(lane, 0) + min(stop, end) - start
        if stop > end:
            path.append((lane, end, stop))
    return shares
