"""What the walk hands to an engine: the visits of a pass, what precedes their experts, and what the policy decided of them.

Knows the layout of `R` and `V` in `kernel.py`; times in ps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.durations import ExpertTimes
from moesim.engine.programs.program import JOIN, Operation, packed

__all__ = ["Copies", "PackedTemplates", "Stretch", "Template", "packed_templates", "visit_rows", "visits_of_pass"]


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
    services: IntArray
    """Where in `numbers` the time of each operation stands, template by template; that of a join too."""

    def repeated(self, services: IntArray) -> PackedTemplates:
        """Once for each of n steps, in which the operations take `services` [n, operations] ps; nothing is drawn."""
        steps, length = len(services), len(self.numbers) - 1
        numbers, index = np.tile(self.numbers[1:], (steps, 1)), np.tile(self.table.reshape(-1, k.A_WIDTH), (steps, 1, 1))
        numbers[:, self.services - 1] = services
        index[:, :, k.A_FIRST] += (np.arange(steps) * length)[:, None]
        first = np.cumsum(index[0, :, k.A_OPS]) - index[0, :, k.A_OPS]
        index[:, :, k.A_ALONE] = np.where(index[:, :, k.A_ALONE] < 0, -1, np.add.reduceat(services, first, axis=1))
        return self._replace(numbers=np.concatenate([self.numbers[:1], numbers.ravel()]), table=index.ravel())


class Stretch(NamedTuple):
    """Work that a lane did without a pause."""

    lane: int
    label: int
    start: int
    end: int
    nbytes: float
    """Bytes moved over the resource that it draws most from."""
    lane_before: int
    """Lane of what let it start; -1 if it could start at once."""


def packed_templates(templates: Sequence[Template], resources: Mapping[str, int], gpu: int) -> PackedTemplates:
    """Templates as the kernel reads them; `gpu`: the lane of the GPU."""
    numbers, floats, index, services = [0], [0.0], [0] * (not templates), []
    room = [(0, 0, 0)]
    for template in templates:
        operations, form = template.operations, packed(template.operations, resources, {})
        index += (len(numbers), len(form.numbers), len(floats), len(operations), form.items, template.known, template.stored)
        index += (_alone(template, gpu), sum(operation.lane != JOIN for operation in operations))
        at = len(numbers) + 1
        for operation in operations:
            services.append(at + 4)
            at += k.PACKED + len(operation.services) + len(operation.after) + len(operation.draws)
        numbers += form.numbers
        floats += form.floats
        room.append((len(operations), form.items, form.heirs))
    most = tuple(max(part) for part in zip(*room, strict=True))
    return PackedTemplates(_ints(numbers), np.array(floats), _ints(index), most, _ints(services))


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


class Copies(NamedTuple):
    """Copies of the experts of some visits, [V, E]."""

    kinds: IntArray
    """Of those that are uploaded or read in place."""
    resident: BoolArray | IntArray
    """Those in GPU memory that serve, or what the kernel calls them."""
    flying: IntArray | None = None
    """How the engine refers to those on their way there; None: there are none."""
    odd: bool = False
    """Whether `kinds` are not the stored ones."""


def visit_rows(counts: IntArray, times: ExpertTimes, copies: Copies, answers: Answers, data: int = 0) -> IntArray:
    """`R` of the kernel for some visits [V, E] from number `data` on."""
    size, experts = counts.size, counts.shape[1]
    rows = np.empty(k.R_HEADER + k.R_FIELDS * size, dtype=np.int64)
    rows[: k.R_HEADER] = size, data, copies.odd, answers.moves is not None, answers.load is not None
    order = np.arange(experts) if answers.order is None else answers.order
    loaded = 0 if answers.load is None else answers.load
    fields = {
        k.COUNTS: counts, k.DEVICE: answers.device, k.GPU: times.gpu_ps, k.CPU: times.cpu_ps, k.NDP: times.ndp_ps,
        k.COPY: times.copy_ps, k.KIND: copies.kinds, k.RESIDENT: copies.resident, k.ORDER: order, k.LOADED: loaded,
        k.FLYING: 0 if copies.flying is None else copies.flying,
    }  # fmt: skip
    body = rows[k.R_HEADER :].reshape(k.R_FIELDS, *counts.shape)
    for number, values in fields.items():
        body[number] = values
    return rows
