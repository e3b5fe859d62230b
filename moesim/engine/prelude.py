"""What precedes the experts of each MoE layer in a pass: attention of its decoder layer and of dense layers before it, router.

Built once per kind of layer and pass; knows no routing and no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Deployment, Problem
from moesim.engine.attention import Chains, chain_operations, chains_of_pass
from moesim.engine.clock import to_ps
from moesim.engine.passes import Pass
from moesim.engine.program import JOIN, Operation, label_of
from moesim.engine.visits import Template

__all__ = ["Structure", "structure_of_pass", "templates_of", "trailer_of"]

Group = tuple[tuple[int, int], ...]
"""Decoder layers in turn: (number of the chain, GPU time of what follows it)."""


@dataclass(frozen=True)
class Structure:
    """What a pass consists of beside its experts; GPU times in ps."""

    chains: list[Chains]
    """The distinct attention chains."""
    layers: list[Group]
    """For each MoE layer its decoder layer and the dense ones before it: (number of the chain, GPU time of what follows it)."""
    trailing: Group
    """Decoder layers behind the last MoE layer."""
    head: int
    """LM head; 0 where the step yields no output token."""


def structure_of_pass(problem: Problem, deployment: Deployment, step: Pass) -> Structure:
    """Of a step; attention by its parts, all else for all its tokens together."""
    if not problem.job.attention:
        return Structure([], [()] * problem.layers, (), 0)
    model, costs = problem.model, problem.costs
    chains, kind = chains_of_pass(problem, deployment, step)
    tokens = int(step.new_tokens.sum())
    router = int(to_ps(float(costs.router(tokens)), "the router"))
    dense = int(to_ps(float(costs.dense(tokens)), "a dense layer")) if model.n_dense else 0
    after = dict.fromkeys(model.moe_layers, router) | dict.fromkeys(model.bare_layers, 0)
    moe = set(model.moe_layers)
    layers: list[Group] = []
    group: list[tuple[int, int]] = []
    for layer, k in enumerate(kind.tolist()):
        group.append((k, after.get(layer, dense)))
        if layer in moe:
            layers.append(tuple(group))
            group = []
    head = int(to_ps(float(costs.head(step.sampled)), "the LM head")) if step.sampled else 0
    return Structure(chains, layers, tuple(group), head)


def templates_of(structure: Structure, lane: Callable[[str], int], gpu: str) -> tuple[list[Template], IntArray]:
    """The distinct programs that precede the experts of a MoE layer, and for every MoE layer [L] which one it is (-1: none)."""
    groups = list(dict.fromkeys(structure.layers))
    templates = [_template(structure, group, lane, gpu) for group in groups if group]
    numbers = {group: number for number, group in enumerate(group for group in groups if group)}
    return templates, np.array([numbers.get(group, -1) for group in structure.layers], dtype=np.int64)


def trailer_of(structure: Structure, lane: Callable[[str], int], gpu: str) -> list[Operation]:
    """The decoder layers behind the last MoE layer and the LM head; empty where attention is left out."""
    if not structure.chains:
        return []
    operations, after, _ = _layers(structure, structure.trailing, lane, gpu, last_is_moe=False)
    if structure.head:
        operations.append(Operation(lane(gpu), structure.head, after, label=label_of("LM head")))
    elif operations:
        operations.append(Operation(JOIN, 0, after))
    return operations


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
    for number, (kind, service) in enumerate(group):
        ends: list[int] = []
        stores = []
        for chain in structure.chains[kind]:
            more, last, stored = chain_operations(chain, lane, gpu, len(operations), after)
            operations, ends, stores = operations + more, ends + last, stores + stored
        feeds = last_is_moe and number == len(group) - 1
        operations.append(Operation(lane(gpu), service, ends, label=label_of("router" if feeds else "dense part")))
        after = [len(operations) - 1] if feeds else [len(operations) - 1, *stores]
    return operations, after, stores
