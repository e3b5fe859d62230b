"""What precedes the experts of each MoE layer in a pass: attention of its decoder layer and of dense layers before it, router.

Solved once per kind of layer and pass; knows no routing and no events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.engine.attention import Chain, Solved, chains_of_pass, solve
from moesim.engine.clock import to_ps, within
from moesim.hardware.device import Phase
from moesim.policies.base import Deployment, IntArray
from moesim.policies.problem import Problem

__all__ = ["Prelude", "Structure", "preludes_of_pass", "structure_of_pass"]


@dataclass(frozen=True)
class Prelude:
    """The part of the walk before one MoE layer's routing is known. Times in ps."""

    duration: int = 0
    store_left: int = 0
    """ps after the end of the prelude at which the layer's new KV entries are stored; 0 if they are by then."""
    chains: tuple[tuple[Chain, int], ...] = ()
    """Attention chain of each decoder layer in turn, and the GPU time of what follows it (dense part or router)."""
    busy: Mapping[str, int] = field(default_factory=dict)
    critical: Mapping[str, int] = field(default_factory=dict)
    store_lane: str = ""
    extra: int = 0
    """GPU time of the LM head at its end."""
    feeds_experts: bool = True
    """An MoE layer's experts follow, beside which the last KV store may go on."""
    needs_events: bool = False
    """Its transfers contend, or its lanes serve in an order that depends on time."""


@dataclass(frozen=True)
class Structure:
    """What a pass consists of beside its experts; GPU times in ps."""

    chains: list[Chain]
    """The distinct attention chains."""
    layers: list[tuple[tuple[int, int], ...]]
    """For each MoE layer its decoder layer and the dense ones before it: (number of the chain, GPU time of what follows it)."""
    trailing: tuple[tuple[int, int], ...]
    """Decoder layers behind the last MoE layer."""
    head: int
    """LM head."""


def structure_of_pass(
    problem: Problem, deployment: Deployment, phase: Phase, new_tokens: IntArray, context: IntArray
) -> Structure:
    """Of a pass over sequences [S] with `new_tokens` that attend to `context` tokens each."""
    if not problem.job.attention:
        return Structure([], [()] * problem.layers, (), 0)
    model, costs = problem.model, problem.costs
    launch = int(to_ps(problem.system.devices[problem.system.gpu_name].launch, "a launch of the GPU"))
    chains, kind = chains_of_pass(problem, deployment, phase, new_tokens, context)
    tokens = int(new_tokens.sum())
    router = int(to_ps(float(costs.router(tokens)), "the router")) + launch
    dense = int(to_ps(float(costs.dense(tokens)), "a dense layer")) + launch if model.n_dense else 0
    after = dict.fromkeys(model.moe_layers, router) | dict.fromkeys(model.bare_layers, 0)
    moe = set(model.moe_layers)
    layers: list[tuple[tuple[int, int], ...]] = []
    group: list[tuple[int, int]] = []
    for layer, k in enumerate(kind.tolist()):
        group.append((k, after.get(layer, dense)))
        if layer in moe:
            layers.append(tuple(group))
            group = []
    head = int(to_ps(float(costs.head(len(new_tokens))), "the LM head")) + launch
    return Structure(chains, layers, tuple(group), head)


def preludes_of_pass(
    problem: Problem, deployment: Deployment, phase: Phase, new_tokens: IntArray, context: IntArray
) -> tuple[list[Prelude], Prelude]:
    """The prelude of every MoE layer [L] of a pass over sequences [S], and what follows the last: dense layers, LM head."""
    if not problem.job.attention:
        return [Prelude()] * problem.layers, Prelude(feeds_experts=False)
    found = structure_of_pass(problem, deployment, phase, new_tokens, context)
    capacity = problem.system.resources()
    solved = [solve(chain) for chain in found.chains]
    evented = [chain.contended(capacity) or not chain.lanes_in_order() for chain in found.chains]
    builder = _Builder(problem.system.gpu_name, found.chains, solved, evented)
    preludes = [builder.build(group, last_is_moe=True) for group in found.layers]
    return preludes, builder.build(found.trailing, last_is_moe=False, extra=found.head)


class _Builder:
    """Builds preludes from solved chains, each distinct run of layers once."""

    def __init__(self, gpu: str, chains: list[Chain], solved: list[Solved], evented: list[bool]) -> None:
        self._gpu, self._chains, self._solved, self._evented = gpu, chains, solved, evented
        self._made: dict[tuple[tuple[tuple[int, int], ...], bool], Prelude] = {}

    def build(self, group: tuple[tuple[int, int], ...], *, last_is_moe: bool, extra: int = 0) -> Prelude:
        """Prelude of the decoder layers `group` (kind of chain, GPU ps after it); `extra` GPU ps end it (LM head)."""
        key = (group, last_is_moe)
        if key not in self._made:
            self._made[key] = self._build(group, last_is_moe, extra)
        return self._made[key]

    def _build(self, group: tuple[tuple[int, int], ...], last_is_moe: bool, extra: int) -> Prelude:
        duration, store_left, lane = 0, 0, ""
        busy: dict[str, int] = {self._gpu: extra}
        critical: dict[str, int] = {self._gpu: extra}
        for number, (kind, after) in enumerate(group):
            one, chain = self._solved[kind], self._chains[kind]
            _add(busy, {**one.busy, self._gpu: one.busy.get(self._gpu, 0) + after})
            _add(critical, {**one.critical, self._gpu: one.critical.get(self._gpu, 0) + after})
            late = max(one.store_end - one.duration - after, 0)
            duration += one.duration + after
            if last_is_moe and number == len(group) - 1:
                store_left, lane = late, chain.kv_store.lane if chain.kv_store else ""
            elif late:
                assert chain.kv_store is not None
                duration += late
                _add(critical, {chain.kv_store.lane: late})
        within(duration + extra + store_left, "attention and dense layers")
        chains = tuple((self._chains[kind], after) for kind, after in group)
        needs_events = any(self._evented[kind] for kind, _ in group)
        return Prelude(duration + extra, store_left, chains, busy, critical, lane, extra, last_is_moe, needs_events)


def _add(sums: dict[str, int], more: Mapping[str, int]) -> None:
    for lane, time in more.items():
        sums[lane] = sums.get(lane, 0) + time
