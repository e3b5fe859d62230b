"""The best fixed placement and dispatch by mixed-integer programming, for small cases.

Knows the profile and the machine's costs; nothing changes during a run. scipy's solver is loaded when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import BatchPlan, Deployment, Dispatch, Problem, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import in_order
from moesim.policies.kit.layer_costs import expected_counts
from moesim.policies.kit.orchestration import Phase, sequences
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, host_order, place
from moesim.policies.kit.sizing import host_room, too_large
from moesim.units import Share

__all__ = ["Optimum", "Option", "Programme", "Solution", "formulate", "solve"]


_INFEASIBLE = 2
"""Status of `scipy.optimize.milp`."""


class Option(NamedTuple):
    """Where an expert lives and who computes it."""

    tier: int
    """Tier index; -1 for GPU memory."""
    device: int
    """Device index."""


@dataclass(frozen=True)
class Programme:
    """Minimise the sum over phases p of weight[p] * sum over layers of the busiest lane.

    Short names: N experts of all L layers, J options, D lanes, P phases, T host tiers.
    """

    layer: IntArray
    """[N] layer of each expert."""
    sizes: FloatArray
    """[N] bytes."""
    tier: IntArray
    """[J] tier that an option takes room in, -1 for GPU memory."""
    room: FloatArray
    """[T + 1] bytes of each tier, those of GPU memory last."""
    cost: FloatArray
    """[P, N, J, D] seconds of each lane; inf where a device can't."""
    base: FloatArray
    """[P, D] seconds of each lane in every layer."""
    weight: FloatArray
    """[P]"""

    @property
    def size(self) -> int:
        """Binary variables."""
        return int(self.layer.size * (len(self.room) + self.cost.shape[0] * len(self.tier)))

    def seconds(self, options: IntArray) -> float:
        """The objective for `options` [P, N]."""
        total, layers = 0.0, int(self.layer.max()) + 1
        for phase, chosen in enumerate(options):
            lanes = np.zeros((layers, self.base.shape[1]))
            np.add.at(lanes, self.layer, self.cost[phase, np.arange(len(chosen)), chosen])
            total += float(self.weight[phase] * (lanes + self.base[phase]).max(axis=1).sum())
        return total


class _Rows:
    """Rows of the constraint matrix, and the columns that the variables have."""

    def __init__(self, programme: Programme) -> None:
        phases, number, options, _ = programme.cost.shape
        self.programme, tiers, layers = programme, len(programme.room), int(programme.layer.max()) + 1
        one_each = np.arange(number)[:, None]
        self.h: IntArray = one_each * tiers + np.arange(tiers)
        self.y: IntArray = self.h.size + np.arange(phases * number * options).reshape(phases, number, options)
        self.m: IntArray = self.h.size + self.y.size + np.arange(phases * layers).reshape(phases, layers)
        self.total = self.h.size + self.y.size + self.m.size
        self.scale = float(programme.cost[np.isfinite(programme.cost)].max(initial=0.0)) or 1.0
        """Seconds that make one unit of time, so that the solver meets numbers near 1."""
        self._entries: list[tuple[IntArray, IntArray, FloatArray]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, row: IntArray, column: IntArray, value: FloatArray, low: float, high: float, count: int) -> None:
        """`count` rows with entries at (`row`, `column`), between `low` and `high`."""
        self._entries.append((row.ravel() + len(self.low), column.ravel(), value.ravel()))
        self.low.extend([low] * count)
        self.high.extend([high] * count)

    def place(self) -> None:
        """Every expert lives somewhere, no tier holds more than it has, an option needs its tier."""
        programme, number = self.programme, len(self.programme.layer)
        row = np.broadcast_to(np.arange(number)[:, None], self.h.shape)
        self.add(row, self.h, np.ones(self.h.shape), 1.0, 1.0, number)
        for tier, room in enumerate(programme.room.tolist()):
            self.add(np.zeros(number, dtype=np.int64), self.h[:, tier], programme.sizes, 0.0, room, 1)
            mine = np.flatnonzero(programme.tier % len(programme.room) == tier)
            for of_phase in self.y:
                column = np.concatenate((of_phase[:, mine], self.h[:, tier : tier + 1]), axis=1)
                value = np.broadcast_to(np.append(np.ones(len(mine)), -1.0), column.shape)
                self.add(np.broadcast_to(np.arange(number)[:, None], column.shape), column, value, 0.0, 0.0, number)

    def bound_lanes(self) -> None:
        """A layer takes no less than any of its lanes."""
        programme, (_, layers) = self.programme, self.m.shape
        for phase, lane in np.ndindex(programme.base.shape):
            cost = programme.cost[phase, :, :, lane]
            cost = np.where(np.isfinite(cost), cost, 0.0) / self.scale
            row = np.concatenate((np.repeat(programme.layer, cost.shape[1]), np.arange(layers)))
            column = np.concatenate((self.y[phase].ravel(), self.m[phase]))
            value = np.concatenate((-cost.ravel(), np.ones(layers)))
            self.add(row, column, value, float(programme.base[phase, lane]) / self.scale, np.inf, layers)

    def matrix(self) -> Any:
        """Sparse, by rows."""
        from scipy.sparse import coo_array

        row, column, value = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        return coo_array((value, (row, column)), shape=(len(self.low), self.total)).tocsr()


class Solution(NamedTuple):
    """What the solver found, and what it proved."""

    options: IntArray
    """[P, N] option of each expert in each phase."""
    gap: float
    """Share of the objective by which the optimum may be below it: (found - proven lower bound) / found."""


def solve(programme: Programme, gap: float = 0.0, nodes: int = 1_000_000) -> Solution | None:
    """The optimum (to a relative `gap`, or the best of `nodes` nodes), None if nothing fits; InputError if none was found.

    Binary h[n, t]: expert n lives in tier t; y[p, n, j]: its option in phase p; continuous m[p, l] >= every lane's seconds.
    Sum over t of h = 1; sum of y over the options of a tier = h; bytes within the room of each tier.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows = _Rows(programme)
    rows.place()
    rows.bound_lanes()
    objective, upper, binary = np.zeros(rows.total), np.ones(rows.total), np.ones(rows.total, dtype=np.int64)
    objective[rows.m] = programme.weight[:, None]
    upper[rows.y[~np.isfinite(programme.cost).all(axis=3)]] = 0.0
    upper[rows.m] = np.inf
    binary[rows.m] = 0
    constraints = LinearConstraint(rows.matrix(), rows.low, rows.high)
    solution = milp(
        objective,
        constraints=constraints,
        integrality=binary,
        bounds=Bounds(0.0, upper),
        options={"mip_rel_gap": gap, "node_limit": nodes},
    )
    if solution.x is not None:
        bound = max(float(solution.mip_dual_bound or 0.0), 0.0)
        apart = max(1.0 - bound / float(solution.fun), 0.0) if solution.fun > 0 else 0.0
        return Solution(np.asarray(solution.x[rows.y].argmax(axis=2), dtype=np.int64), apart)
    if solution.status == _INFEASIBLE:
        return None
    text = f"no plan was found in {nodes} nodes of the search tree ({solution.message}); raise the number of nodes"
    raise InputError(Mistake(text, path="policy.nodes"))


@dataclass(frozen=True)
class _Choice:
    """The state of the policy, never changed."""

    device: dict[str, IntArray]
    """Phase -> [L, E] device of each expert."""
    gap: float
    """As `Solution.gap`."""


class Optimum(SizedPolicy):
    """The placement and the fixed dispatch of each expert with the least expected layer time, by mixed-integer programming.

    Per expert: in GPU memory, or in a host tier and uploaded, run by the CPU, or by that tier's near-data unit; the placement
    holds for both phases, the dispatch for one. A layer's expected time is that of its busiest lane (GPU, uploads, CPU, each
    unit): the sum over experts of the probability of any tokens times the time at the expected tokens. Prefill counts once,
    decode as often as there are passes.
    Source: the placement integer programmes of MoE serving; solved by HiGHS (scipy.optimize.milp). Valid: optimal for expected
    loads under the profile and for a device per expert that does not change with the visit, attention where `core` has it.
    With few tokens a layer's busiest lane changes from visit to visit, so that a policy which leaves uploads alone may beat
    it by a few percent, as one that moves attention or sees the counts (`oracle_dispatch`) may. Small cases only.
    """

    kind: Literal["optimum"] = "optimum"
    gap: Share = 0.01
    """How far above the optimum the plan may be, as a share; 0 proves the optimum."""
    nodes: int = Field(20, ge=1)
    """Nodes of the search tree after which the best plan found so far is taken, whatever its distance."""
    limit: int = Field(5000, ge=1)
    """Most binary variables that are taken on; what is larger is refused."""

    memoryless: ClassVar[bool] = True
    unreachable: ClassVar[bool] = True
    source: ClassVar[str] = "bound; mixed-integer programme (HiGHS)"

    def deploy(self, problem: Problem) -> Deployment:
        """Solves the programme."""
        cut = self.cut(problem)
        order = np.argsort(-problem.popularity, axis=1, kind="stable")  # by popularity, so that labels mean nothing
        phases = _phases(problem, cut)
        programme, options = formulate(problem, cut, np.take_along_axis(problem.popularity, order, axis=1), phases)
        if programme.size > self.limit:
            message = f"{problem.layers} layers of {problem.experts} experts make {programme.size} binary variables"
            text = f"{message}, more than the {self.limit} that are taken on; take fewer layers or experts, or raise the limit"
            raise InputError(Mistake(text, path="policy.limit"))
        solution = solve(programme, self.gap, self.nodes)
        if solution is None:
            raise too_large(problem, cut, float(problem.model.expert_bytes))
        shape, place_of = (problem.layers, problem.experts), np.argsort(order, axis=1)
        tier = np.take_along_axis(programme.tier[solution.options[0]].reshape(shape), place_of, axis=1)
        devices = np.array([option.device for option in options])
        device: dict[str, IntArray] = {
            phase: np.take_along_axis(devices[chosen].reshape(shape), place_of, axis=1)
            for (phase, _), chosen in zip(phases, solution.options, strict=True)
        }
        hosts = [(tier == number, [[name]]) for number, name in enumerate(host_order(problem))]
        deployment = place(problem, resident=tier < 0, homes=HomeOrder(classes=[(tier < 0, []), *hosts]), cut=cut)
        return replace(deployment, state=_Choice(device, solution.gap))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Every expert where the plan has it."""
        choice: _Choice = view.state
        return Dispatch(choice.device[visit.phase][visit.layer], in_order(visit.counts, visit.resident))

    def proven_gap(self, state: _Choice) -> float:
        """As the solver proved it."""
        return state.gap


def _phases(problem: Problem, cut: BatchPlan) -> list[tuple[Phase, float]]:
    """Phases of the job and their passes."""
    passes = float(problem.job.output.max() - 1)
    return [("prefill", 1.0), ("decode", passes)] if passes else [("prefill", 1.0)]


def formulate(
    problem: Problem, cut: BatchPlan, shares: FloatArray, phases: Sequence[tuple[Phase, float]]
) -> tuple[Programme, list[Option]]:
    """The programme of a problem with popularity `shares` [L, E], and what its options mean; room is counted in experts.

    Tiers are numbered as in `host_order`; lanes are the GPU, uploads, the CPU and each near-data unit.
    """
    hosts, size = host_order(problem), float(problem.model.expert_bytes)
    units = {tier: problem.ndp_index[problem.tiers.index(tier)] for tier in hosts if tier in problem.costs.ndp_of}
    options = [Option(-1, problem.attending_index)]
    for number, tier in enumerate(hosts):
        options.append(Option(number, problem.attending_index))
        options += [Option(number, problem.cpu_index)] if problem.cpu_index >= 0 else []
        options += [Option(number, units[tier])] if tier in units else []
    room = [max(bytes_left, 0.0) // size for bytes_left in host_room(problem, cut).values()]
    costs, base = zip(*(_lanes(problem, cut, shares, phase, hosts, options) for phase, _ in phases), strict=True)
    pairs = shares.size
    programme = Programme(
        np.repeat(np.arange(problem.layers), problem.experts),
        np.ones(pairs),
        np.array([option.tier for option in options]),
        np.array([*room, max(problem.gpu_free(cut), 0.0) // size]),
        np.stack(costs),
        np.stack(base),
        np.array([weight for _, weight in phases]),
    )
    return programme, options


def _lanes(
    problem: Problem, cut: BatchPlan, shares: FloatArray, phase: Phase, hosts: Sequence[str], options: Sequence[Option]
) -> tuple[FloatArray, FloatArray]:
    """[N, J, D] expected seconds of each lane by each option, and [D] seconds of each lane in any case."""
    costs = problem.costs
    tokens = sequences(problem, phase, cut.batch)[0]
    chance, counts = (part.ravel() for part in expected_counts(tokens, problem.model.top_k * shares))
    lanes = [problem.attending_index, -1, *(index for index in range(len(problem.devices)) if index != problem.attending_index)]
    lane_seconds = np.zeros((len(chance), len(options), len(lanes)))
    for column, (number, device) in enumerate(options):
        if device == problem.attending_index:
            seconds = costs.gpu(counts)
            if number >= 0:
                copy = float(costs.copy(problem.model.expert_bytes, hosts[number], problem.gpu_tier))
                lane_seconds[:, column, 1] = chance * copy
        else:
            alone = costs.cpu if device == problem.cpu_index else costs.local
            seconds = alone(counts, hosts[number])
        lane_seconds[:, column, lanes.index(device)] = chance * (seconds + costs.calls(problem.devices[device]).per_call)
    base = np.zeros(len(lanes))
    base[0] = float(costs.shared(tokens))
    return lane_seconds, base
