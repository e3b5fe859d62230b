"""What the walk hands to an engine: the visits of a pass, what precedes their experts, and what the policy decided of them.

Knows the layout of `R` and `V` in `kernel.py`; times in ps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.durations import ExpertTimes
from moesim.engine.programs.program import Operation

__all__ = ["Stretch", "Template", "visit_rows", "visits_of_pass"]


class Template(NamedTuple):
    """The operations that precede the experts of a MoE layer, numbered from 0; the same for many layers."""

    operations: Sequence[Operation]
    known: int
    """The one at whose end the layer's routing is known."""
    stored: int
    """The one at whose end the layer's new KV entries are stored, which the end of the layer waits for; -1 for none."""


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


def visits_of_pass(layers: IntArray, tokens: IntArray, templates: IntArray) -> IntArray:
    """`V` of the kernel: of all visits of a pass [V], layer by layer and group by group, their layer, tokens and template."""
    return np.stack([layers, tokens, templates], axis=1).astype(np.int64).ravel()


def visit_rows(
    counts: IntArray,
    device: IntArray,
    times: ExpertTimes,
    kinds: IntArray,
    resident: BoolArray,
    flying: IntArray | None,
    answers: Answers,
    data: int,
    odd: bool,
) -> IntArray:
    """`R` of the kernel for some visits [V, E] from number `data` on.

    `kinds`: of the copies that are uploaded or read in place, `odd` if these are not the stored ones; `resident`: copies in GPU
    memory that serve; `flying`: how the engine refers to copies on their way there (None: there are none).
    """
    size, experts = counts.size, counts.shape[1]
    rows = np.empty(k.R_HEADER + k.R_FIELDS * size, dtype=np.int64)
    rows[: k.R_HEADER] = size, data, odd, answers.moves is not None, answers.load is not None
    order = np.arange(experts) if answers.order is None else answers.order
    loaded = 0 if answers.load is None else answers.load
    fields = {
        k.COUNTS: counts, k.DEVICE: device, k.GPU: times.gpu_ps, k.CPU: times.cpu_ps, k.NDP: times.ndp_ps,
        k.COPY: times.copy_ps, k.KIND: kinds, k.RESIDENT: resident, k.ORDER: order, k.LOADED: loaded,
        k.FLYING: 0 if flying is None else flying,
    }  # fmt: skip
    for number, values in fields.items():
        rows[k.R_HEADER + number * size : k.R_HEADER + (number + 1) * size].reshape(counts.shape)[:] = values
    return rows
