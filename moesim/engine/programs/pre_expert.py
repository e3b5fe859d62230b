"""What precedes the experts of each MoE layer in a pass: attention of its decoder layer and of dense layers before it, router.

Built once per kind of layer and pass; knows no routing and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.arrays import IntArray
from moesim.clock import to_ps
from moesim.contract import Deployment, Problem
from moesim.contract.homes import Homes, Weights
from moesim.engine.kernel.visits import Template
from moesim.engine.passes import Pass, Work, core_work
from moesim.engine.programs.attention import Chains, Core, chain_operations, chains_of_pass, cores_of_step
from moesim.engine.programs.durations import queue_of, usage_of
from moesim.engine.programs.program import DEMAND, JOIN, Operation, label_of

__all__ = ["Copy", "Layer", "Structure", "structure_of_pass", "templates_of", "trailer_of"]


class Copy(NamedTuple):
    """Weights on their way to the GPU."""

    lane: str
    service: int
    nbytes: float
    usage: tuple[tuple[str, float], ...]
    """(resource, bytes) that it draws."""

    def operation(self, lane: Callable[[str], int], after: Sequence[int], priority: int = DEMAND) -> Operation:
        """The copy, once all of `after` have ended."""
        return Operation(
            lane(self.lane), self.service, after, priority, draws=dict(self.usage), label=label_of("upload weights")
        )


_NOWHERE = ("", 0)
_NOTHING = (0, _NOWHERE)


class Layer(NamedTuple):
    """A decoder layer before its routed experts."""

    kind: int
    """Number of its attention chains."""
    service: int
    """GPU time of what follows attention: router, dense part, or nothing."""
    copies: tuple[Copy, ...] = ()
    """Its weights, where they are not in GPU memory."""
    aside: tuple[str, int] = _NOWHERE
    """Device that computes its dense part or its shared experts where they lie, and its ps; none where the GPU does."""


Group = tuple[Layer, ...]
"""Decoder layers in turn."""


@dataclass(frozen=True)
class Structure:
    """What a pass consists of beside its experts; GPU times in ps."""

    cores: list[list[Core]]
    """The attention cores, those together that share a chain."""
    chains: list[Chains]
    """The distinct attention chains."""
    layers: list[Group]
    """For each MoE layer its decoder layer, behind the dense ones before it."""
    trailing: Group
    """Decoder layers behind the last MoE layer."""
    head: int
    """LM head; 0 where the step yields no output token."""
    head_copies: tuple[Copy, ...] = ()
    """The head's weights, where they are not in GPU memory."""
    rows: tuple[Copy, ...] = ()
    """The embeddings of the step's tokens, where they come from another tier."""
    work: Sequence[Work] = ()
    """What the attention core of each part of the step does."""


def structure_of_pass(problem: Problem, deployment: Deployment, step: Pass) -> Structure:
    """Of a step; attention by its parts, all else for all its tokens together."""
    if not problem.job.attention:
        return Structure([], [], [()] * problem.layers, (), 0)
    model, costs = problem.model, problem.costs
    work = [core_work(model, part) for part in step.parts]
    cores = cores_of_step(problem, deployment, step.parts, work)
    chains, kind = chains_of_pass(problem, deployment, cores)
    tokens = int(step.new_tokens.sum())
    homes, moe, bare = deployment.plan.homes, set(model.moe_layers), set(model.bare_layers)
    kinds = [(layer in moe, step.phase == "decode" and homes.away(layer)) for layer in range(model.layers)]
    parts = {of: _after_attention(problem, homes, *of, tokens) for of in dict.fromkeys(kinds)}
    layers: list[Group] = []
    group: list[Layer] = []
    weights = problem.crossing(deployment.plan, step.phase)
    for layer, k in enumerate(kind):
        service, aside = _NOTHING if layer in bare else parts[kinds[layer]]
        group.append(Layer(k, service, _copies(problem, weights[layer]), aside))
        if layer in moe:
            layers.append(tuple(group))
            group = []
    head = int(to_ps(float(costs.head(step.sampled)), "the LM head")) if step.sampled else 0
    head_copies = _copies(problem, ((homes.head, model.head_bytes),)) if homes.head is not None and head else ()
    looked_up = homes.head if model.tied_embedding else homes.embeddings
    row = model.embedding_bytes / model.vocab
    rows = _copies(problem, ((looked_up, tokens * row),)) if looked_up is not None else ()
    return Structure(cores, chains, layers, tuple(group), head, head_copies, rows, work)


def _after_attention(problem: Problem, homes: Homes, moe: bool, away: bool, tokens: int) -> tuple[int, tuple[str, int]]:
    """ps on the GPU of what follows attention in a decoder layer with or without experts, and the device and ps of what runs
    on the one that attends in layers `away`."""
    costs, there = problem.costs, homes.attends if away else None
    if moe:
        router = int(to_ps(float(costs.router(tokens)), "the router"))
        if not homes.shares_apart:
            return router, _NOWHERE
        shared = int(to_ps(float(costs.shared(tokens, there)), "the shared experts"))
        return (router + shared, _NOWHERE) if there is None else (router, (there, shared))
    if there is None or homes.dense is None:
        return int(to_ps(float(costs.dense(tokens)), "a dense layer")), _NOWHERE
    return 0, (there, int(to_ps(float(costs.dense(tokens, there)), "a dense layer")))


def _copies(problem: Problem, weights: Weights) -> tuple[Copy, ...]:
    """Copies of weights to the GPU."""
    copies = []
    for tier, nbytes in weights:
        path = problem.costs.path(tier, problem.gpu_tier)
        service = int(to_ps(float(problem.costs.copy(nbytes, tier, problem.gpu_tier)), f"a copy of weights from {tier}"))
        copies.append(Copy(queue_of(path), service, nbytes, tuple(usage_of(path.usage, nbytes).items())))
    return tuple(copies)


def templates_of(structure: Structure, lane: Callable[[str], int], gpu: str) -> tuple[list[Template], IntArray]:
    """The distinct programs that precede the experts of a MoE layer, and for every MoE layer [L] which one it is (-1: none)."""
    layers = list(structure.layers)
    if structure.rows:
        layers[0] = (layers[0][0]._replace(copies=(*structure.rows, *layers[0][0].copies)), *layers[0][1:])
    groups = list(dict.fromkeys(layers))
    templates = [_template(structure, group, lane, gpu) for group in groups if group]
    numbers = {group: number for number, group in enumerate(group for group in groups if group)}
    return templates, np.array([numbers.get(group, -1) for group in layers], dtype=np.int64)


def trailer_of(structure: Structure, lane: Callable[[str], int], gpu: str) -> list[Operation]:
    """The decoder layers behind the last MoE layer and the LM head; empty where attention is left out."""
    if not structure.chains:
        return []
    alone = _alone(structure, gpu)
    if alone is not None:
        last = alone + structure.head
        return [Operation(lane(gpu), last, label=label_of("layers without experts" if alone else "LM head"))] if last else []
    trailing = structure.trailing
    if trailing and structure.rows and not structure.layers:
        trailing = (trailing[0]._replace(copies=(*structure.rows, *trailing[0].copies)), *trailing[1:])
    operations, after, _ = _layers(structure, trailing, lane, gpu, last_is_moe=False)
    if structure.head:
        for copy in structure.head_copies:
            operations.append(copy.operation(lane, ()))
            after = [*after, len(operations) - 1]
        operations.append(Operation(lane(gpu), structure.head, after, label=label_of("LM head")))
    elif operations:
        operations.append(Operation(JOIN, 0, after))
    return operations


def _alone(structure: Structure, gpu: str) -> int | None:
    """ps of the decoder layers behind the last MoE layer where the GPU does all of it, one after another; None where not."""
    if structure.head_copies or (structure.rows and not structure.layers):
        return None
    whole = 0
    for kind, service, copies, aside in structure.trailing:
        if copies or aside[1]:
            return None
        for chain in structure.chains[kind]:
            if chain.sides() != chain.stages or any(stage.lane != gpu or stage.usage for stage in chain.stages):
                return None
            whole += sum(stage.total for stage in chain.stages)
        whole += service
    return whole


def _template(structure: Structure, group: Group, lane: Callable[[str], int], gpu: str) -> Template:
    operations, known, stores = _layers(structure, group, lane, gpu, last_is_moe=True)
    operations.append(Operation(JOIN, 0, known))
    if stores:
        operations.append(Operation(JOIN, 0, stores))
    return Template(operations, len(operations) - 1 - bool(stores), len(operations) - 1 if stores else -1)


def _layers(
    structure: Structure, group: Group, lane: Callable[[str], int], gpu: str, *, last_is_moe: bool
) -> tuple[list[Operation], list[int], list[int]]:
    """Decoder layers in turn: (operations, what ends the last, KV stores that the experts behind it need not wait for)."""
    operations: list[Operation] = []
    after: list[int] = []
    stores: list[int] = []
    for number, (kind, service, copies, aside) in enumerate(group):
        ends: list[int] = []
        stores = []
        weights = list(range(len(operations), len(operations) + len(copies)))
        operations += [copy.operation(lane, after) for copy in copies]
        for chain in structure.chains[kind]:
            more, last, stored = chain_operations(chain, lane, gpu, len(operations), after, weights)
            operations, ends, stores = operations + more, ends + last, stores + stored
        if aside[1]:
            operations.append(Operation(lane(aside[0]), aside[1], ends, label=label_of("dense part")))
            ends = [len(operations) - 1]
        feeds = last_is_moe and number == len(group) - 1
        operations.append(Operation(lane(gpu), service, ends, label=label_of("router" if feeds else "dense part")))
        after = [len(operations) - 1] if feeds else [len(operations) - 1, *stores]
    return operations, after, stores
