"""CoX-MoE: a search decides which device runs what, and which experts stay, are uploaded, or run on the CPU.

Knows the profile and the machine's costs; nothing changes during a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import BatchPlan, Deployment, Dispatch, Problem, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.in_place.planner_constants import believed
from moesim.policies.kit.dispatch import in_order
from moesim.policies.kit.orchestration import Candidates, Devices, Orchestration, Pins, search
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, host_order, place, portions
from moesim.policies.kit.sizing import Sizing, gpu_account, host_room, no_plan, slots_in_host, too_large
from moesim.spec import GIVEN, Unread
from moesim.workload.routing.law import normalised
from moesim.workload.routing.strata import prototypes

__all__ = ["CoxMoe"]

Place = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class _Groups:
    """The fixed groups; the state of the policy, never changed."""

    device: dict[str, IntArray]
    """Phase -> [L, E] device of each expert."""
    plan: Orchestration


class CoxMoe(SizedPolicy):
    """Co-execution of CPU and GPU after an exhaustive search, with attention in micro-batches and coalesced experts.

    Searched for the whole job, per phase: devices (p0, p1, p2) of QKV projection, attention core and output projection, the
    attention micro-batch, and group sizes N_R + N_M + N_C = E (in GPU memory, uploaded every pass, run on the CPU); N_R and the
    tier of the KV cache are common to both phases. Cost of a layer: sum of T_load + T_comp + T_store over the micro-batches
    plus OP3 = max(uploads, GPU experts, CPU experts), see `orchestration`. Experts fill the groups by popularity, most used
    first. Expert-aware stratification counts them: of each topic of the batch (`stratified`) a share of the prototypes is
    prefilled before the run, which is not charged. Where requests arrive over time there is no batch to draw from, and the
    popularity is the workload's profile.
    Source: CoX-MoE, DAC 2026, arXiv:2605.17889. Published: BF16, groups static, whole batch coalesced, two upload buffers.
    Inferred: the number of prototypes; topics as strata, in place of clusters of embeddings; members of N_M and N_C (by
    popularity); micro-batch candidates (powers of two and the batch); the planner uses the costs of the simulated machine
    unless `planner: published`, and takes all host experts to lie in the best host tier.
    Valid: one residency for both phases; a cache outside GPU memory means decode attention on the CPU.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("prototypes",), unless={"members": "stratified"}),
        Unread(("micro_batch",), when={"micro_batch_prefill": GIVEN, "micro_batch_decode": GIVEN}),
    )

    kind: Literal["cox_moe"] = "cox_moe"
    residents: int | None = Field(None, ge=0)
    """N_R, experts per layer in GPU memory; searched for if not given, as are the next two."""
    uploads: int | None = Field(None, ge=0)
    """N_M, experts per layer uploaded in each pass, in both phases."""
    on_cpu: int | None = Field(None, ge=0)
    """N_C, experts per layer run on the CPU, in both phases."""
    micro_batch_prefill: int | None = Field(None, ge=1)
    """Sequences per attention micro-batch in prefill; `micro_batch` sets both phases."""
    micro_batch_decode: int | None = Field(None, ge=1)
    """The same in decode."""
    prefill_devices: tuple[Place, Place, Place] | None = None
    """Devices of QKV projection, attention core, output projection in prefill."""
    decode_devices: tuple[Place, Place, Place] | None = None
    """The same in decode."""
    members: Literal["stratified", "profile", "index", "random"] = "stratified"
    """How experts are put in order before they fill the groups: as prototypes of the batch use them (CoX-MoE), by the
    workload's profile, or, to show what that gains, by id or at random."""
    prototypes: int = Field(32, ge=1)
    """Requests that are prefilled to count experts."""
    coalesced: bool = True
    """Whether all tokens pass the experts together; otherwise one decode micro-batch at a time."""
    planner: Literal["machine", "published"] = "machine"
    """What the search takes the machine for: what is simulated, or the constants that the authors quote (see
    `planner_constants`), by which the CPU gets more than it can do."""
    staging: int | None = Field(2, ge=1)
    """Expert slots that uploads land in (published: 2)."""

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    runtime: ClassVar[str] = "cox-moe"
    source: ClassVar[str] = "CoX-MoE (DAC 2026, arXiv:2605.17889)"

    def deploy(self, problem: Problem) -> Deployment:
        """Searches, then places the residents it asks for."""
        popularity = self._stratified(problem)
        order = self._order(problem, popularity)
        candidates = self._candidates(problem)
        shares = np.take_along_axis(popularity, order, axis=1)
        pins = Pins(self.residents, self.uploads, self.on_cpu)
        machine = believed(problem) if self.planner == "published" else problem
        plan = search(machine, candidates, shares, pins, (host_order(problem) or [problem.gpu_tier])[0])
        if plan is None:
            raise self._infeasible(problem, candidates)
        place_in_order = np.argsort(order, axis=1)  # [L, E] rank of each expert
        device = {
            phase: np.where(place_in_order < count, problem.attending_index, problem.cpu_index)
            for phase, count in plan.on_gpu.items()
        }
        together = 0 if self.coalesced else plan.decode.micro_batch
        cut = BatchPlan(candidates.batch, plan.prefill, plan.decode, plan.kv, candidates.staging, expert_batch=together)
        homes = HomeOrder(scores=-place_in_order.astype(np.float64))
        deployment = place(problem, resident=place_in_order < plan.resident, homes=homes, cut=cut)
        return replace(deployment, state=_Groups(device, plan))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Every expert where its group runs."""
        groups: _Groups = view.state
        return Dispatch(groups.device[visit.phase][visit.layer], in_order(visit.counts, visit.resident))

    def _stratified(self, problem: Problem) -> FloatArray:
        """[L, E] popularity by the prompts of prototypes, of each topic in proportion; else the workload's profile."""
        if self.members != "stratified" or problem.prompted is None:
            return problem.popularity
        topics = problem.topics if problem.topics is not None else np.zeros(problem.job.requests, dtype=np.int64)
        return normalised(problem.prompted(prototypes(topics, self.prototypes, problem.rng)))

    def _order(self, problem: Problem, popularity: FloatArray) -> IntArray:
        """[L, E] expert ids in the order in which they fill the groups."""
        if self.members in ("stratified", "profile"):
            return np.argsort(-popularity, axis=1, kind="stable")
        scores: FloatArray = np.tile(np.arange(problem.experts, dtype=np.float64), (problem.layers, 1))
        if self.members == "random":
            scores = problem.rng.random(scores.shape)
        return np.argsort(scores, axis=1, kind="stable")

    def _candidates(self, problem: Problem) -> Candidates:
        """The search space that the parameters leave."""
        cut = portions(problem, Sizing(batch=self.batch, kv=self.kv, staging=self.staging, spare=0.0))
        micro = _halvings(cut.batch) if problem.job.attention else (cut.batch,)
        options = self._devices(problem)

        def pinned(value: int | None) -> tuple[int, ...]:
            stated = value or self.micro_batch
            return micro if stated is None else (min(stated, cut.batch),)

        kv = (self.kv,) if self.kv else _caches(problem, cut)
        return Candidates(
            batch=cut.batch,
            host=problem.main_memory if problem.system.host_tiers else problem.gpu_tier,
            kv=kv,
            prefill=_kept(problem, options, self.prefill_devices, None),
            decode=_kept(problem, options, self.decode_devices, self.core),
            micro_prefill=pinned(self.micro_batch_prefill),
            micro_decode=pinned(self.micro_batch_decode),
            staging=cut.staging,
            least=tuple(_homeless(problem, replace(cut, kv=tier)) for tier in kv),
        )

    def _devices(self, problem: Problem) -> list[Devices]:
        names = [problem.system.attending_gpu]
        if problem.costs.cpu_name and problem.job.attention:
            names.append(problem.costs.cpu_name)
        return list(product(names, names, names))

    def _infeasible(self, problem: Problem, candidates: Candidates) -> InputError:
        pinnable = ("residents", "uploads", "on_cpu", "prefill_devices", "decode_devices")
        pins = {name: getattr(self, name) for name in pinnable if getattr(self, name) is not None}
        smallest = portions(problem, Sizing(candidates.batch, micro_batch=1, staging=candidates.staging, spare=0.0))
        if pins:
            layer = problem.layers * problem.model.expert_bytes
            most = max(int(problem.gpu_free(smallest) // layer), 0)
            account = gpu_account(problem, smallest, {"residents as given": (self.residents or 0) * layer})
            why = (
                f"of the {problem.experts} experts of a layer that residents, uploads and on_cpu share, GPU memory takes "
                f"{most} as residents, and the host all but {min(candidates.least)}; {account}"
            )
            return no_plan(pins, why)
        return too_large(problem, smallest, problem.model.expert_bytes)


def _caches(problem: Problem, cut: BatchPlan) -> tuple[str, ...]:
    """Tiers that hold the KV cache of a batch: GPU memory, and on machines whose CPU may attend every host tier, best first."""
    hosts = host_order(problem) if problem.cpu_index >= 0 and problem.job.attention else []
    fitting = [tier for tier in hosts if host_room(problem, replace(cut, kv=tier))[tier] >= 0]
    return (problem.gpu_tier, *fitting)


def _homeless(problem: Problem, cut: BatchPlan) -> int:
    """Experts per layer that find no room in the host beside this cut's KV cache, so that they have to be resident."""
    slots = slots_in_host(problem, cut, float(problem.model.expert_bytes))
    return max(-((slots - problem.layers * problem.experts) // problem.layers), 0)


def _halvings(batch: int) -> tuple[int, ...]:
    """The batch and all powers of two below it, largest first."""
    return (batch, *(1 << n for n in reversed(range(batch.bit_length())) if 1 << n < batch))


def _kept(
    problem: Problem, options: list[Devices], pin: tuple[Place, Place, Place] | None, core: str | None
) -> tuple[Devices, ...]:
    """The options that a pinned triple, or a pinned device of the core, leaves."""
    if pin is not None:
        if "cpu" in pin and problem.costs.cpu_name is None:
            raise InputError(Mistake("'cpu' needs a machine with a CPU", path="policy"))
        names = {"gpu": problem.system.attending_gpu, "cpu": str(problem.costs.cpu_name)}
        options = [(names[pin[0]], names[pin[1]], names[pin[2]])]
    return tuple(option for option in options if core is None or option[1] == core)
