"""The machine as the kernel's visit builder reads it: devices, lanes, what copies draw, and times by number of tokens.

Built from cost models once a run, and again where homes change; knows no clock and no routing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import IntArray, distinct
from moesim.clock import to_ps
from moesim.contract import Deployment, Foresight, Problem, Serial
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.durations import Placement, queue_of
from moesim.hardware import Path

__all__ = ["Helper", "VisitTables", "crossing"]

_LARGE = 1 << 12
"""Tokens of a visit from which on the shared experts are priced for the numbers that come, not for all up to there."""


class Helper:
    """A device that computes experts beside the GPU that attends, and the ways its activations take."""

    def __init__(self, problem: Problem, index: int) -> None:
        self.index, self.name = index, problem.devices[index]
        calls, memory = problem.costs.calls(self.name), problem.memory_of(self.name)
        self.out, self.back = problem.costs.path(problem.gpu_tier, memory), problem.costs.path(memory, problem.gpu_tier)
        self.sync, self.launch, self.fused = (
            int(to_ps(calls.hand_over, f"a hand-over to {self.name}")),
            int(to_ps(calls.apart, f"a call to {self.name}")),
            calls.fused,
        )
        self.before = int(to_ps(calls.before, f"a call to {problem.system.attending_gpu}"))
        """ps by which each call to the GPU holds it up: its thread launches those first."""
        self.local = index in problem.local_index.values()
        """It works from a tier of its own, which nothing else reads meanwhile."""
        self.gpu = self.name in problem.system.further_gpus
        """It is a GPU, to which the GPU that attends sends activations without the host."""

    @property
    def side(self) -> int:
        """What the kernel calls its kind."""
        return k.GPU_SIDE if self.gpu else k.LOCAL_SIDE if self.local else k.CPU_SIDE


class _Draws:
    """Appends what copies draw from resources to `ints` and `floats`, and notes where."""

    def __init__(self, resources: Mapping[str, int], ints: list[int], floats: list[float]) -> None:
        self._resources, self._ints, self._floats = resources, ints, floats

    def __call__(self, at: int, usage: Iterable[tuple[str, float]], unit: float) -> None:
        """At `at` of `ints`: where the numbers of resources begin, how many there are, and where their bytes begin."""
        pairs = [(self._resources[resource], factor * unit) for resource, factor in usage if factor * unit > 0]
        self._ints[at : at + 3] = len(self._ints), len(pairs), len(self._floats)
        self._ints.extend(resource for resource, _ in pairs)
        self._floats.extend(nbytes for _, nbytes in pairs)


class VisitTables:
    """`T`, `TF` and `X` of the kernel."""

    def __init__(
        self,
        problem: Problem,
        deployment: Deployment,
        placement: Placement,
        foresight: Foresight | None,
        lane: Callable[[str], int],
        arrays: bool,
    ) -> None:
        self._serial = 0
        self._problem, self._deployment, self._placement, self._lane, self._arrays = (
            problem,
            deployment,
            placement,
            lane,
            arrays,
        )
        self._resources = {name: number for number, name in enumerate(problem.system.resources())}
        self._gpu = problem.costs.calls(problem.system.attending_gpu)
        self._together, self._apart = (int(to_ps(s, f"a call to {problem.system.attending_gpu}")) for s in self._gpu[2:4])
        self._prediction = int(to_ps(foresight.seconds, "a prediction")) if foresight else 0
        self.token_bytes = problem.model.expert_token_bytes / deployment.activation_compression
        self.down = problem.costs.path(problem.gpu_tier, problem.main_memory) if problem.system.host_tiers else None
        """The way on which the host reads routing back."""
        self.id_bytes = 4.0 * problem.model.top_k
        """Expert ids of one token, 32 bits each."""
        self.helpers = [Helper(problem, i) for i in range(len(problem.devices)) if i != problem.attending_index]
        self.T: Any = []
        self.TF: Any = []
        self.X: Any = []
        self._tokens = -1
        self.refresh()

    def refresh(self) -> None:
        """After the kinds of copies have changed."""
        problem, kinds = self._problem, self._placement.kinds()
        width = k.S_READS + 3 * len(kinds)
        at_sides = k.T_HEADER
        at_kinds = at_sides + len(self.helpers) * width
        ints, floats = [0] * (at_kinds + len(kinds) * k.KIND_WIDTH), [0.0]
        draws = _Draws(self._resources, ints, floats)
        for s, helper in enumerate(self.helpers):
            at = at_sides + s * width
            ints[at + k.S_DEVICE], ints[at + k.S_LANE] = helper.index, self._lane(helper.name)
            ints[at + k.S_OUT], ints[at + k.S_BACK] = self._lane(queue_of(helper.out)), self._lane(queue_of(helper.back))
            ints[at + k.S_SYNC], ints[at + k.S_LAUNCH], ints[at + k.S_FUSED] = helper.sync, helper.launch, int(helper.fused)
            ints[at + k.S_BEFORE], ints[at + k.S_NEAR] = helper.before, helper.side
            draws(at + k.S_OUT_DRAWS, helper.out.usage, self.token_bytes)
            draws(at + k.S_BACK_DRAWS, helper.back.usage, self.token_bytes)
            for number, (tier, nbytes) in enumerate(kinds):
                apart = helper.local or problem.system.is_gpu_memory(tier)
                reads = () if apart else problem.costs.reach(helper.name, tier).usage
                draws(at + k.S_READS + 3 * number, reads, nbytes)
        for number, (tier, nbytes) in enumerate(kinds):
            at, path = at_kinds + number * k.KIND_WIDTH, problem.costs.path(tier, problem.gpu_tier)
            away = tier != problem.gpu_tier
            pieces = self._placement.pieces
            ints[at + k.K_CHUNKS] = int(problem.costs.chunks(nbytes, tier, problem.gpu_tier, pieces)) if away else pieces
            draws(at + k.K_DRAWS, path.usage if away else (), nbytes)
            ints[at + k.K_JOINED] = int(to_ps(problem.costs.joined(nbytes, tier, pieces), "a set-up that a copy saves"))
        if self.down is not None:
            draws(k.T_IDS, self.down.usage, self.id_bytes)
        self._head(ints, len(kinds), at_sides, at_kinds)
        self.T, self.TF = self._fixed(ints), np.array(floats) if self._arrays else floats

    def _head(self, ints: list[int], kinds: int, at_sides: int, at_kinds: int) -> None:
        """The header of `T`."""
        problem = self._problem
        up = queue_of(problem.costs.path(problem.main_memory, problem.gpu_tier))
        header = {
            k.T_GPU: problem.attending_index, k.T_GPU_LANE: self._lane(problem.system.attending_gpu), k.T_UP: self._lane(up),
            k.T_DOWN: -1 if self.down is None else self._lane(queue_of(self.down)), k.T_APART: self._apart,
            k.T_TOGETHER: self._together if self._gpu.fused else -1, k.T_PREDICTION: self._prediction,
            k.T_SERIAL: self._serial, k.T_STAGING: self._deployment.plan.staging,
            k.T_PIECES: self._placement.pieces, k.T_SIDES: len(self.helpers), k.T_KINDS: kinds, k.T_AT_SIDES: at_sides,
            k.T_AT_KINDS: at_kinds, k.T_EXPERTS: problem.experts, k.T_LAYERS: problem.layers, k.T_DEVICES: len(problem.devices),
        }  # fmt: skip
        for field, value in header.items():
            ints[field] = value

    def for_phase(self, phase: str) -> None:
        """How the layers of the next pass go, by the plan of its phase."""
        self._serial = self.serial(phase)
        self.T[k.T_SERIAL] = self._serial

    def serial(self, phase: str) -> int:
        """Whether nothing overlaps in the layers of a phase."""
        return int(isinstance(self._deployment.plan.of(phase).pipeline, Serial))

    def for_tokens(self, tokens: IntArray) -> None:
        """Times for visits of `tokens` [V] tokens."""
        if (most := int(tokens.max())) > self._tokens:
            self._tokens = max(64, most + most // 4)  # a batch that grows makes new tables a few times only
            self._tabulate()
        if most >= _LARGE and self._problem.model.shared_bytes:
            at = self.X[k.X_SHARED]
            for large in distinct(tokens[tokens >= _LARGE]):
                self.X[at + large] = int(self.shared(large[None])[0])

    def _tabulate(self) -> None:
        """`X` by tokens, but for the shared experts of large visits, which cost more to price than to look up."""
        tokens = np.arange(self._tokens + 1)
        shared = np.zeros_like(tokens)
        shared[:_LARGE] = self.shared(tokens[:_LARGE])
        parts = [shared, crossing(self.down, tokens * self.id_bytes) if self.down is not None else np.zeros_like(tokens)]
        needs = k.X_HEADER + 2 * len(self.helpers)
        sides = needs + self._problem.experts
        parts_at = sides + 2 * len(self.helpers)
        for helper in self.helpers:
            packing = to_ps(tokens * self._requantised(helper.name), f"activations made smaller for {helper.name}")
            parts += [crossing(way, tokens * self.token_bytes) + packing for way in (helper.out, helper.back)]
        offsets = [parts_at + number * len(tokens) for number in range(len(parts))]
        head = [*offsets[:2], needs, sides, k.X_HEADER, *offsets[2:], *[0] * (parts_at - needs)]
        whole = np.concatenate([np.array(head, dtype=np.int64), *parts])
        self.X = whole if self._arrays else whole.tolist()

    def _requantised(self, helper: str) -> float:
        """Seconds per token and way in which activations are made smaller and whole again."""
        times = self._deployment.activation_compression if self._deployment.dequantised else 1.0
        return self._problem.costs.requantise(times, helper)

    @property
    def shares_apart(self) -> bool:
        """Whether shared experts run before visits, which do not count them."""
        return self._deployment.plan.homes.shares_apart

    def shared(self, tokens: IntArray) -> IntArray:
        """[V] ps of the shared experts of visits of `tokens` [V] tokens."""
        if not self._problem.model.shared_bytes or self.shares_apart:
            return np.zeros(len(tokens), dtype=np.int64)
        return to_ps(self._problem.costs.shared(tokens), "the shared experts")

    def _fixed(self, numbers: list[int]) -> Any:
        return np.array(numbers, dtype=np.int64) if self._arrays else numbers


def crossing(path: Path, nbytes: NDArray[np.floating[Any]]) -> IntArray:
    """ps of activation copies of `nbytes` [V]; 0 where there is nothing to send."""
    return to_ps(path.seconds(nbytes), f"a copy of activations from {path.source} to {path.target}")
