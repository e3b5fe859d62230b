"""What the walk hands to an engine: the visits of a pass, what precedes their experts, and what the policy decided of them.

Knows the layout of `R` and `V`; times in ps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.durations import ExpertTimes, Placement
from moesim.engine.programs.program import JOIN, Operation, packed
from moesim.errors import PolicyError

__all__ = [
    "AnsweredRows",
    "ByLayer",
    "Demand",
    "PackedTemplates",
    "RoutedRows",
    "Stretch",
    "Template",
    "packed_templates",
    "visit_rows",
    "visits_of_pass",
]


class Template(NamedTuple):
    """The operations that precede the experts of a MoE layer, numbered from 0; the same for many layers."""

    operations: Sequence[Operation]
    known: int
    """The one at whose end the layer's routing is known."""
    stored: int
    """The one at whose end the layer's new KV entries are stored, which the end of the layer waits for; -1 for none."""


class PackedTemplates(NamedTuple):
    """`TP`, `TPF` and `TM` of the kernel."""

    numbers: IntArray
    floats: FloatArray
    table: IntArray
    room: tuple[int, int, int]
    """Most operations, items and references of a template."""


class Stretch(NamedTuple):
    """Work that a lane did without a pause."""

    lane: int
    label: int
    start: int
    end: int
    nbytes: float
    """Bytes moved over the resource of one way that it draws most from."""
    lane_before: int
    """Lane of what let it start; -1 if it could start at once."""


def packed_templates(templates: Sequence[Template], resources: Mapping[str, int], gpu: int) -> PackedTemplates:
    """Templates as the kernel reads them; `gpu`: the lane of the GPU."""
    numbers, floats, index = [0], [0.0], [0] * (not templates)
    room = [(0, 0, 0)]
    for template in templates:
        operations, form = template.operations, packed(template.operations, resources, {})
        index += (len(numbers), len(form.numbers), len(floats), len(operations), form.items, template.known, template.stored)
        index += (_alone(template, gpu), sum(operation.lane != JOIN for operation in operations))
        numbers += form.numbers
        floats += form.floats
        room.append((len(operations), form.items, form.heirs))
    most = tuple(max(part) for part in zip(*room, strict=True))
    return PackedTemplates(_ints(numbers), np.array(floats), _ints(index), most)


def _ints(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _alone(template: Template, gpu: int) -> int:
    """ps of a template that the GPU does without a pause, drawing nothing; -1 for any other.

    That is where all operations are the GPU's and the last one waits, by way of others, for all before it.
    """
    operations = template.operations
    plain, needed = template.stored < 0 and template.known == len(operations) - 1, {len(operations) - 1}
    for number in range(len(operations) - 1, -1, -1):
        operation = operations[number]
        plain = plain and number in needed and operation.lane in (gpu, JOIN) and operation.count == 1 and not operation.draws
        needed.update(operation.after)
    return sum(operation.total for operation in operations) if plain else -1


def visits_of_pass(layers: IntArray, tokens: IntArray, templates: IntArray) -> IntArray:
    """`V` of the kernel: of all visits of a pass [V], layer by layer and group by group, their layer, tokens and template."""
    return np.stack([layers, tokens, templates, np.arange(len(layers))], axis=1).astype(np.int64).ravel()


class ByLayer(NamedTuple):
    """Numbers that are the same in all visits of a layer."""

    values: NDArray[Any]
    """[L, E]"""


Field = NDArray[Any] | ByLayer | int
"""Numbers by expert: [V, E]; the same in all visits [E], or of all experts."""


class Demand(NamedTuple):
    """What some visits are to do, [V, E]."""

    counts: IntArray
    layers: IntArray
    """[V]"""
    times: ExpertTimes
    answers: Answers
    resident: BoolArray | IntArray | ByLayer
    """Copies in GPU memory that serve, or what the kernel calls them."""
    kinds: IntArray | None = None
    """Of the copies asked for; None: the stored ones."""
    flying: IntArray | None = None
    """How the engine refers to copies on their way to GPU memory; None: there are none."""


def visit_rows(placement: Placement, demand: Demand, data: int = 0) -> IntArray:
    """`R` of the kernel for visits from number `data` on."""
    counts, layers, times, answers, resident, kinds, flying = demand
    problem = placement.problem
    if problem.system.further_gpus:
        _check_homes(problem, demand)
    beside = bool((answers.device != problem.attending_index).any())
    fields: dict[int, Field] = {
        k.COUNTS: counts, k.DEVICE: answers.device if beside else problem.attending_index, k.GPU: times.gpu_ps,
        k.RESIDENT: resident, k.ORDER: np.arange(counts.shape[1]) if answers.order is None else answers.order,
    }  # fmt: skip
    if beside:
        fields |= {k.CPU: times.cpu_ps, k.NDP: times.local_ps if problem.local_index else -1}
    if answers.load is not None:
        fields[k.LOADED] = answers.load
    if flying is not None:
        fields[k.FLYING] = flying
    stored, copy_ps = placement.stored
    if kinds is not None or len(layers) < len(stored):
        fields |= {k.KIND: stored[layers] if kinds is None else kinds, k.COPY: times.copy_ps}
    else:
        fields |= {k.KIND: ByLayer(stored), k.COPY: ByLayer(copy_ps)}
    return _laid_out(counts.shape[1], fields, (data, kinds is not None, answers.moves is not None, answers.load is not None))


class AnsweredRows:
    """`R` for visits of a pass that are answered one by one: what is known of all stands in it once, an answer takes the place
    of the one before."""

    def __init__(self, placement: Placement, counts: IntArray, layers: IntArray, times: ExpertTimes, arrays: bool) -> None:
        """`arrays`: whether the engine reads arrays, not lists."""
        self._placement, self._pass, self._arrays = placement, (counts, layers, times), arrays
        self._experts, self._gpu = counts.shape[1], placement.problem.attending_index
        self._nothing: IntArray = np.zeros(self._experts, dtype=np.int64)
        self._ids: IntArray = np.arange(self._experts)
        self._beside = self._loaded = self._flown = False
        self.R: Any = None

    def of(self, answers: Answers, resident: BoolArray, flying: IntArray | None) -> Any:
        """`R` with the answer to one visit, which asks for stored copies, and the copies `resident` [E] that serve it."""
        self.answered(answers)
        self._put(k.RESIDENT, resident)
        if flying is not None or self._flown:
            self._put(k.FLYING, self._nothing if flying is None else flying)
        self._flown = flying is not None
        return self.R

    def bare(self, beside: bool) -> Any:
        """`R` for the kernel to complete, of visits that the GPU does alone, or with other devices `beside` it."""
        self._lay_out(beside)
        self.R[k.R_LOADED] = 0
        return self.R

    def answered(self, answers: Answers) -> Any:
        """`R` with the answer alone; which copies serve the visit is for the kernel to add."""
        device, order, load = answers.device[0], answers.order, answers.load
        if self.R is None or (not self._beside and (device != self._gpu).any()):
            self._lay_out(bool((device != self._gpu).any()))
        self.R[k.R_ASKS], self.R[k.R_LOADED] = int(answers.moves is not None), int(load is not None)
        self._put(k.DEVICE, device)
        self._put(k.ORDER, self._ids if order is None else order[0])
        if load is not None or self._loaded:
            self._put(k.LOADED, self._nothing if load is None else load[0])
        self._loaded = load is not None
        return self.R

    def _lay_out(self, beside: bool) -> None:
        counts, layers, times = self._pass
        nothing, self._beside = self._nothing, beside
        answers = Answers(nothing if not beside else nothing - 1, nothing, self._nothing > 0)
        rows = visit_rows(self._placement, Demand(counts, layers, times, answers, nothing, flying=nothing))
        self._at = rows[k.R_PLACES : k.R_HEADER : 3].tolist()
        self.R = rows if self._arrays else rows.tolist()

    def _put(self, field: int, values: NDArray[Any]) -> None:
        at = self._at[field]
        self.R[at : at + self._experts] = values if self._arrays else values.tolist()


class RoutedRows(AnsweredRows):
    """The same where the GPU that attends does all, and uploads cross from other copies than the masters."""

    def routed(self, answers: Answers, kinds: IntArray, copy_ps: IntArray) -> Any:
        """`R` with an answer whose experts are uploaded as copies of `kinds` [E], in `copy_ps` [E]."""
        self.answered(answers)
        self._put(k.KIND, kinds)
        self._put(k.COPY, copy_ps)
        return self.R

    def _lay_out(self, beside: bool) -> None:
        super()._lay_out(beside)
        end, apart = len(self.R), np.zeros(2 * self._experts, dtype=np.int64)
        self.R = np.concatenate([self.R, apart]) if self._arrays else [*self.R, *apart.tolist()]
        self.R[k.R_ODD] = 1
        for field, at in ((k.KIND, end), (k.COPY, end + self._experts)):
            place = k.R_PLACES + 3 * field
            self._at[field] = self.R[place] = at
            self.R[place + 1] = self.R[place + 2] = 0


def _check_homes(problem: Problem, demand: Demand) -> None:
    """PolicyError for an expert that the GPU which attends would have to take from the memory of another GPU."""
    counts, layers, times, answers, resident = demand[:5]
    here = (resident.values[layers] if isinstance(resident, ByLayer) else resident) > 0
    here = here if demand.flying is None else here | (demand.flying > 0)
    needed = (answers.device == problem.attending_index) & (counts > 0)
    needed = needed if answers.load is None else needed | answers.load
    if (needed & ~here & (times.copy_ps < 0)).any():
        raise PolicyError(f"dispatch gave '{problem.system.attending_gpu}' an expert that lives in the memory of another GPU, "
                          "which computes it there")  # fmt: skip


def _laid_out(experts: int, fields: Mapping[int, Field], head_numbers: tuple[int, bool, bool, bool]) -> IntArray:
    """`R`: `head_numbers`, where each field is, and the fields; those that are not named are 0."""
    head, parts = np.empty(k.R_HEADER, dtype=np.int64), [np.zeros(experts, dtype=np.int64)]
    head[: k.R_PLACES] = head_numbers
    places = head[k.R_PLACES :].reshape(k.R_FIELDS, 3)
    places[:] = k.R_HEADER, 0, 0
    place = k.R_HEADER + experts
    for number, field in fields.items():
        part = field.values if isinstance(field, ByLayer) else np.full(experts, field) if isinstance(field, int) else field
        by_layer = experts if isinstance(field, ByLayer) else 0
        places[number] = place, experts if part.ndim == 2 and not by_layer else 0, by_layer
        place += part.size
        parts.append(part.ravel())
    return np.concatenate([head, *parts], dtype=np.int64, casting="unsafe")
