"""Everything that one run works with, built once: machine, books, movers, checks and the policy's view of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Decider, Policy, Problem, Step
from moesim.engine.books.operations import Operations
from moesim.engine.books.passes import Ledger
from moesim.engine.books.quality import QualityBook
from moesim.engine.books.sums import VisitBooks
from moesim.engine.books.work_done import WorkTally
from moesim.engine.faults import Faults, fallback_of
from moesim.engine.foresight_view import Oracle, Seer
from moesim.engine.kernel.visit_tables import VisitTables
from moesim.engine.kv_moves import KvMoves
from moesim.engine.machine import ARRIVALS, EngineKind, Machine, repaid, up_queue
from moesim.engine.movers import Movers
from moesim.engine.passes import Pass
from moesim.engine.programs.durations import Placement
from moesim.engine.programs.program import Operation, label_of
from moesim.engine.residency import Residency
from moesim.engine.shown import MachineView
from moesim.errors import InputError, Mistake, MoesimError, PolicyError
from moesim.hardware.fault import Fault
from moesim.results.recorder import LayerSums, Recorder

__all__ = ["Context", "EngineKind"]


def _check_links(problem: Problem) -> None:
    """One copy engine feeds the GPU: InputError for a machine with several."""
    paths = {tier: problem.costs.path(tier, problem.gpu_tier) for tier in problem.system.host_tiers}
    queues = {path.queue: tier for tier, path in paths.items() if path.queue is not None}
    if len(queues) > 1:
        ways = ", ".join(f"'{tier}' over {queue}" for queue, tier in sorted(queues.items()))
        message = f"tiers reach the GPU through different copy engines ({ways}); one engine for all uploads is simulated"
        raise InputError(Mistake(message, path="hardware.links"))


class Context:
    """The parts of one run and what they share."""

    def __init__(
        self,
        problem: Problem,
        policy: Policy,
        engine: EngineKind,
        timeline: bool,
        window: tuple[int, int] | None = None,
        faults: Sequence[Fault] = (),
        whole: Problem | None = None,
    ) -> None:
        """`whole`: the problem that the model is placed for, where the run is a part of it."""
        self.problem, self.policy = problem, policy
        _check_links(problem)
        self.deployment = policy.deploy(whole or problem)
        self.recorder = Recorder(LayerSums.zeros(problem.layers), problem.job.requests, problem.experts, keep_slices=timeline)
        self.recorder.window = window
        self.residency = Residency(whole or problem, self.deployment, fallback_of(problem, self.deployment, faults))
        self.machine = Machine(problem, self.recorder, engine, compiled=repaid(problem))
        self.placement = Placement(problem, self.residency.home, self.deployment)
        self.faults = Faults(self.machine, faults, self.residency, self.placement)
        self.movers = Movers(self.machine, self.residency, self.placement, self.deployment)
        arrays, lane = self.machine.arrays, self.machine.lane
        self.tables = VisitTables(problem, self.deployment, self.placement, policy.foresight, lane, arrays)
        self.books = VisitBooks(problem.layers, problem.experts, len(self.tables.helpers), len(problem.devices), arrays)
        self._version = -1
        self.quality = QualityBook(problem, self.residency, self.recorder)
        self.seer = Seer(problem, policy.foresight) if policy.foresight is not None else None
        self.oracle: Oracle | None = None
        """The run to come, for a clairvoyant policy; set before the first pass."""
        self.operations = Operations(problem, self.deployment, self.recorder)
        self.ledger = Ledger(problem, self.placement, self.tables, self.books, self.recorder, self.operations)
        self.kv_moves = KvMoves(self.machine, self.ledger)
        self.tally = WorkTally(problem)
        self.gpu, self.up = problem.system.attending_gpu, up_queue(problem)
        cached = policy.batched and self.deployment.ruled and not timeline
        self.whole_pass = (policy.memoryless or cached) and not self.machine.plain
        """No decision waits for the clock, so all layers of a pass run in one call; the reference asks at every visit."""
        self.decided = not (self.machine.plain or timeline or self.deployment.plan.swap)
        """The kernel walks from decision to decision by itself; not where others have a say, or look on."""
        self.view = self._view()

    @cached_property
    def decider(self) -> Decider | None:
        """Who decides on arrays, in the place of the policy."""
        decides = (
            self.decided and self.machine.arrays and not self.problem.system.further_gpus and _speaks_for(type(self.policy))
        )
        return self.policy.decider(self.movers.desk, self.view) if decides else None

    def _view(self) -> MachineView:
        def shown(array: Any) -> Any:
            view = array.view()
            view.flags.writeable = False
            return view

        books = self.residency
        state = self.deployment.state
        view = MachineView(self.problem, shown(books.resident), shown(books.in_flight), shown(books.home), state)
        view.machine, view.slot = self.machine, self.problem.model.expert_bytes
        view.copy_bytes = shown(books.copy_bytes)
        view.down = shown(books.down)
        view.replicas = shown(books.replicas)
        return view

    def foresee(self, passes: Sequence[Pass]) -> None:
        """Shows the whole run to a clairvoyant policy."""
        self.oracle = Oracle(passes)
        self.view.future = self.oracle.future

    def wait(self, until: int) -> None:
        """No request has work before `until` (ps); copies under way go on."""
        if until <= self.machine.now:
            raise MoesimError("a scheduler waits for a moment that has passed")
        idle = Operation(self.machine.lane(ARRIVALS), until - self.machine.now, label=label_of("waits for requests"))
        shares = self.machine.run([idle])
        self.ledger.critical(shares, "attention", None)
        self.recorder.close_phase(None)

    def look(self) -> None:
        """Brings the books of copies under way and the policy's view up to now."""
        self.movers.look()
        self.view.look(self.residency.free_bytes)

    def look_at_host(self, shown: bool = True) -> None:
        """Does what is left of `look` where the kernel has looked at copies; `shown`: whether the view is wanted."""
        self.movers.look_at_host()
        if shown:
            self.view.look(self.residency.free_bytes)

    def kinds_of(self, layers: IntArray, nbytes: FloatArray | None, source: IntArray | None) -> IntArray:
        """[V, E] kinds of the copies that visits of MoE layers `layers` [V] ask for.

        `nbytes` [V, E]: their bytes (None: the stored copies'); `source` [V, E]: their tiers (None, -1: the homes).
        """
        tiers = self.residency.home[layers]
        if source is not None:
            rows, experts = np.nonzero(source >= 0)
            if not self.residency.holds(source[rows, experts], layers[rows], experts).all():
                raise PolicyError("dispatch.source names a tier that has no copy of the expert")
            tiers = np.where(source >= 0, source, tiers)
        kinds = self.placement.kinds_of(tiers, self.residency.bytes[layers] if nbytes is None else nbytes)
        self.refresh()
        return kinds

    def refresh(self) -> None:
        """The engine's tables and books hold all kinds of copies that there are by now."""
        if self._version != self.placement.version:
            self._version = self.placement.version
            self.tables.refresh()
            self.books.for_kinds(len(self.placement.kinds()))

    def met(self) -> dict[str, tuple[int, int]]:
        """Device -> fewest and most tokens per expert that it computed, for devices whose cost says where it holds."""
        problem = self.problem
        weights, flops = problem.model.expert_bytes, problem.model.expert_flops
        ranges = {problem.devices[index]: pair for index, pair in self.books.met().items()}
        return {
            name: pair for name, pair in ranges.items() if problem.system.devices[name].valid_tokens(weights, flops) is not None
        }

    def adapt(self, step: Step, nbytes: FloatArray | None = None) -> None:
        """Asks the policy for moves and sets them off; `nbytes` [E] as in `Movers.apply`."""
        self.look()
        self.movers.apply(self.policy.adapt(step, self.view), step.layer, step.uploaded, nbytes)


def _speaks_for(policy: type) -> bool:
    """Whether the `decider` of a class knows its `dispatch` and `adapt`, which are not those of a subclass."""
    decider, *slots = (next(base for base in policy.__mro__ if name in vars(base)) for name in ("decider", "dispatch", "adapt"))
    return all(issubclass(decider, slot) for slot in slots)
