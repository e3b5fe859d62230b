"""How good a predictor is: the share of the experts in use that it names, layer by layer, on recorded or generated routing.

Knows routing only; what a prediction is worth in time is for runs to say (`prefetch` in their results).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Foreseen, Foresight, Problem, Visit, blurred
from moesim.policies.kit.predictors import Predictor, best
from moesim.workload.table import RoutingTable

__all__ = ["decoded", "recall"]


def decoded(table: RoutingTable, requests: Iterable[int], passes: int | None = None) -> list[list[IntArray]]:
    """The decode passes of each of `requests` alone: one list of [L, E] counts for each (at most `passes` of them)."""
    number = table.decode.shape[1] if passes is None else min(passes, table.decode.shape[1])
    return [list(table.pass_counts(np.array([request]), 0, number)) for request in requests]


def recall(
    predictor: Predictor,
    problem: Problem,
    sequences: Sequence[Sequence[IntArray]],
    *,
    depth: int = 1,
    skip: int = 0,
) -> FloatArray:
    """[L] share of each layer's experts in use that are among as many best-scored ones, `depth` layers before.

    `sequences`: the passes of each sequence, [L, E] counts each, one after another as a system that serves one at a time meets
    them; the first `skip` sequences are learnt from and not scored. The first pass of a sequence counts as its prompt; the
    first `depth` layers are nan.
    """
    mind, right, used = predictor.start(problem), np.zeros(problem.layers), np.zeros(problem.layers)
    index, order = 0, (-problem.popularity).argsort(axis=1, kind="stable")
    for number, passes in enumerate(sequences):
        for position, counts in enumerate(passes):
            foreseen = _foreseen(predictor.foresight(depth), problem, counts)
            for layer in range(problem.layers):
                visit = _visit(index, "decode" if position else "prefill", layer, counts[layer], partial(foreseen, layer))
                mind.meet(visit)
                scores = mind.scores(visit, depth)
                if scores is None or number < skip:
                    continue
                target = layer + depth
                uses = counts[target] > 0
                number_used = int(np.count_nonzero(uses))
                right[target] += np.count_nonzero(uses[best(scores, order[target], number_used)])
                used[target] += number_used
            index += 1
    return np.asarray(np.divide(right, used, out=np.full(problem.layers, np.nan), where=used > 0))


def _foreseen(sight: Foresight | None, problem: Problem, counts: IntArray) -> Callable[[int, int], IntArray | None]:
    """(layer, depth) -> [E] tokens that are foreseen of the layer so far ahead, in a pass of `counts` [L, E], drawn at once."""

    @cache
    def drawn(depth: int) -> IntArray:
        assert sight is not None
        return blurred(counts[depth:], sight.at(depth), problem.popularity[depth:], problem.foresight)

    def ahead(layer: int, depth: int) -> IntArray | None:
        return None if sight is None or layer + depth >= problem.layers else drawn(depth)[layer]

    return ahead


def _visit(index: int, phase: str, layer: int, counts: IntArray, ahead: Foreseen) -> Visit:
    none = np.zeros(len(counts))
    tokens = int(counts.max())
    return Visit(index, phase, layer, tokens, counts, none, none, none, none, none > 0, ahead)
