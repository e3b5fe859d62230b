"""The three slots of a placement policy and what passes through them.

    deploy(problem) -> Deployment      once, before the run
    dispatch(visit, view) -> Dispatch  at every visit of an MoE layer, when its routing is known
    adapt(step, view) -> Moves         after a layer or after a pass, when the policy asks for it

Every slot works on arrays over experts; none knows the event engine. A policy object is frozen parameters; what it
learns during a run lives in `Deployment.state`, which the view hands back, so one object serves many runs at once.

Short names: L MoE layers, E experts per layer, k experts per token, R requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract.desk import Decider, Desk
from moesim.contract.foresight import Foreseen, Foresight, Future
from moesim.contract.plan import BatchPlan
from moesim.errors import PolicyError
from moesim.spec import Spec

if TYPE_CHECKING:
    from moesim.contract.problem import Problem

__all__ = [
    "NO_MOVES",
    "CacheRule",
    "Deployment",
    "Dispatch",
    "Moves",
    "Policy",
    "PoolRule",
    "Step",
    "Uses",
    "View",
    "Visit",
    "is_bound",
]


@dataclass(frozen=True)
class Deployment:
    """What lives where at the start, and how the job is cut: the answer of `deploy`."""

    home: IntArray
    """[L, E] index into `problem.tiers` of the tier that holds the expert's master copy: a GPU's, or one of the host."""
    resident: BoolArray
    """[L, E] experts with a copy in the memory of the GPU that attends at the start; must hold wherever `home` is that tier."""
    expert_bytes: FloatArray
    """[L, E] bytes of one stored copy (smaller than the model's where the copy is quantised)."""
    plan: BatchPlan
    """Batch, phases, tier of the KV cache, slots for copies that come and go."""
    activation_compression: float = 1.0
    """Activations sent to the CPU or to a near-data unit (and back) are this many times smaller."""
    dequantised: bool = False
    """Whether smaller copies than the model's are made 16-bit before they are used, and activations made smaller, by kernels of
    their own: each reads and writes a memory once. Without it the kernels that compute do that for nothing."""
    backup: str | None = None
    """Host tier that keeps a copy of every expert for good, wherever its home is: an expert goes home there without a move."""
    state: Any = None
    """What the policy remembers during the run; handed back as `view.state`."""
    replicas: BoolArray | None = None
    """[T, L, E] further copies in host tiers, beside the masters at `home`; None for none."""
    cache: CacheRule | None = None
    """Keeps what each visit uploads and lets other experts of its layer go; the engine asks it after every visit."""
    pool: PoolRule | None = None
    """The same where experts of all layers, in copies of equal size, share the room; such policies do not `adapt`."""
    order: IntArray | None = None
    """[R] requests in the order in which they join rounds and micro-batches; None goes by number."""
    pieces: int = 1
    """Equal pieces, one matrix each, say, in which an expert crosses into GPU memory: each pays the set-up, a more urgent copy
    goes ahead between two of them, and the GPU runs each part of the expert when its piece has landed."""

    @property
    def ruled(self) -> bool:
        """Whether a rule says who stays in GPU memory."""
        return self.cache is not None or self.pool is not None


class Uses(NamedTuple):
    """What visits of n different MoE layers did, for a cache that keeps each layer apart; arrays are [n, E] but for two."""

    layers: IntArray
    """[n] MoE layer of each visit."""
    clock: IntArray
    """[n] number of each visit, counted from 1 over the whole run."""
    counts: IntArray
    """Tokens routed to each expert."""
    uploaded: BoolArray
    """Experts that were uploaded for the visit and lie in staging."""
    resident: BoolArray
    """Experts that were in GPU memory before."""
    coming: int = 0
    """Copies for each of these layers that are on their way into GPU memory."""


class CacheRule(Protocol):
    """Who stays in GPU memory and who leaves, by the past alone."""

    clock: int
    """Visits so far."""
    ordered: bool
    """Visits come one by one in the order of the run; else those of different layers may come together."""

    def after(self, uses: Uses) -> tuple[BoolArray, BoolArray]:
        """([n, E] uploaded experts that stay, [n, E] residents that leave) after visits of different layers."""


class PoolRule(Protocol):
    """Who stays in GPU memory of the experts of all layers, by the past alone."""

    def walk(self, layers: IntArray, counts: IntArray, resident: BoolArray) -> tuple[BoolArray, IntArray]:
        """Visits of `layers` [V] with `counts` [V, E] tokens, one after another, in which whatever is missing is uploaded.

        Brings `resident` [L, E] up to date. Returns [V, E] the copies that each visit finds, and [V] how many more there are
        after it.
        """


class Dispatch(NamedTuple):
    """Who computes each expert of one visit.

    An expert given to the GPU that attends and neither resident nor in flight is uploaded from its home in the host first. An
    expert given to a CPU is computed in place from its home tier; one given to a near-data unit or to another GPU must live in
    the tier of that device.
    """

    device: IntArray
    """[E] index into `problem.devices`; ignored for experts without tokens."""
    order: IntArray | None = None
    """[E] permutation of the experts: the order of uploads and of every device's queue (default: by expert id)."""
    load: BoolArray | None = None
    """[E] experts to upload although they have no tokens (systems that stream whole layers)."""
    counts: IntArray | None = None
    """[E] tokens that each expert really computes, where that differs from what the router asked for: skipped or replaced
    experts. Their sum is at most that of `visit.counts`; the difference is reported as `quality`."""
    nbytes: FloatArray | None = None
    """[E] bytes of the copy that is uploaded or read in place, where a smaller one than the stored copy serves (lower
    precision). A copy in GPU memory serves if it has no fewer bytes, one on its way there in any case. GPU time is that of
    the model's precision."""
    stale: IntArray | None = None
    """[E] tokens whose result joins a later layer, or is computed from an earlier layer's input; reported as `quality`."""
    source: IntArray | None = None
    """[E] index of the host tier that an expert is uploaded from or read in place: one that has a copy (`view.replicas`, the
    backup), or -1 for the tier of its master copy."""
    moves: Moves | None = None
    """Background moves that set out behind this visit's own uploads, when the host knows the routing: where the prefetches
    of a predictor go that looks ahead while the layer runs. `keep` has no place in it."""


class Moves(NamedTuple):
    """What changes residence, decided by `adapt`. Every move contends with the layers for its links."""

    keep: IntArray | None = None
    """[n] experts of the layer just run that stay in GPU memory (they were uploaded for it, so this moves nothing)."""
    evict: IntArray | None = None
    """[n, 2] (layer, expert) copies dropped from GPU memory; applied before `keep` and `load`. Under `BatchPlan.swap` they are
    written home, but for those that were brought ahead of need in vain: the host has them still."""
    load: IntArray | None = None
    """[n, 2] (layer, expert) copies to bring into GPU memory behind all demand loads (prefetch), first one first."""
    migrate: IntArray | None = None
    """[n, 3] (layer, expert, tier) changes of home between host tiers, first one first, in place of those asked for
    before that have not begun. Each waits until its way is idle and its target has room; nothing moves to the backup."""
    replicate: IntArray | None = None
    """[n, 3] (layer, expert, tier) further copies to make in host tiers, behind those of `migrate` and as they are."""
    retire: IntArray | None = None
    """[n, 3] (layer, expert, tier) further copies to give up; applied before `migrate` and `replicate`."""
    load_source: IntArray | None = None
    """[n] host tier that each copy of `load` is read from, one that has a copy; -1, or None for all, for the home."""
    stay: IntArray | None = None
    """[n, 3] (layer, expert, tier) experts uploaded for the layer just run that stay in a host tier which they crossed: their
    home is there from the next pass on, without a copy. Those that find no room there do not stay."""
    load_bytes: FloatArray | None = None
    """[n] bytes of each copy of `load`, where a smaller one than the stored copy is brought (lower precision)."""


NO_MOVES = Moves()


@dataclass(slots=True, eq=False)
class Visit:
    """One MoE layer met by one group of tokens, its routing known: what a real system's dispatcher sees.

    All arrays are [E] and in seconds where they are times; they are computed for the whole pass at once, so reading
    them is free. Times exclude queueing. A policy that is `batched` gets all V visits of a pass in one: `layer` and `tokens`
    are [V] then, and the others [V, E].
    """

    index: int
    """Number of the pass."""
    phase: str
    """`prefill` or `decode`."""
    layer: Any
    """MoE layer, 0 to L-1."""
    tokens: Any
    """Tokens in the visit."""
    counts: IntArray
    """[E] tokens routed to each expert; their sum is k * tokens."""
    gpu: FloatArray
    """[E] time on the GPU that attends once the weights are there."""
    cpu: FloatArray
    """[E] time on the CPU, weights read from the expert's home tier (inf without a CPU or from GPU memory)."""
    local: FloatArray
    """[E] time on the device that works from the expert's home tier alone: a near-data unit, or a GPU that does not attend (inf
    where there is none)."""
    copy: FloatArray
    """[E] time of a lone copy from the expert's home to GPU memory: 0 where its home is there, inf where it is the memory of
    another GPU, which computes it."""
    resident: BoolArray
    """[E] copies in GPU memory."""
    foreseen: Foreseen | None = None
    """What the policy's `foresight` says of later layers; read it through `ahead`."""

    def ahead(self, depth: int) -> IntArray | None:
        """[E] tokens that the policy's `foresight` predicts for MoE layer `layer + depth` of the pass; None past the last.

        Of all visits of a pass [V, E], without a token past the last layer.
        """
        return _asked(self.foreseen, depth)


@dataclass(frozen=True, slots=True)
class Step:
    """What has just been done, for `adapt`."""

    index: int
    """Number of the pass."""
    phase: str
    layer: int
    """The MoE layer just run, or -1 after the last layer of a pass."""
    counts: IntArray
    """[E] counts of that layer, or [L, E] after a pass."""
    uploaded: IntArray
    """Experts of that layer that were uploaded for it and lie in staging (empty after a pass)."""
    foreseen: Foreseen | None = None
    """What the policy's `foresight` says of later layers; read it through `ahead`."""

    def ahead(self, depth: int) -> IntArray | None:
        """[E] as `Visit.ahead`: of MoE layer `layer + depth` of the pass that the layer just run belongs to."""
        return _asked(self.foreseen, depth)


def _asked(foreseen: Foreseen | None, depth: int) -> IntArray | None:
    if foreseen is None:
        raise PolicyError("a policy looks ahead only with a `foresight` that says how well it sees")
    return foreseen(depth)


@dataclass
class View:
    """The state of the machine as a real system could read it; the future is not in it. Arrays are read-only."""

    problem: Problem
    resident: BoolArray
    """[L, E] copies in GPU memory now."""
    in_flight: BoolArray
    """[L, E] copies on their way into GPU memory (queued or moving)."""
    home: IntArray
    """[L, E] tier index of the master copies."""
    state: Any = None
    now: float = 0.0
    """Simulated seconds."""
    free_slots: int = 0
    """Experts that still fit into GPU memory beside residents, copies in flight and staging."""
    free_bytes: float = 0.0
    """Bytes that still fit there, for copies smaller than the model's experts."""
    backlog: dict[str, float] = field(default_factory=dict)
    """Copy queue -> seconds of work that waits in it."""
    copy_bytes: FloatArray | None = None
    """[L, E] bytes of the copy in GPU memory or on its way there; meaningless for others."""
    future: Future | None = None
    """The run to come, for policies that are `clairvoyant`, or that `imitate` it, and for no other."""
    down: BoolArray | None = None
    """[T] tiers that have failed and not come back; None where nothing fails."""
    replicas: BoolArray | None = None
    """[T, L, E] further copies in host tiers, migrations that have landed in this pass included; None where there are none."""


class Policy(Spec):
    """A placement policy: frozen parameters and the three slots. `deploy` has to be written, the others have defaults.

    By default every GPU runs what lives in its memory, the one that attends uploads the rest, and nothing moves between layers.
    """

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "never"
    """When `adapt` is called: after every layer, after every pass, or both."""
    source: ClassVar[str] = ""
    """Paper and section."""
    symmetric: ClassVar[bool] = True
    """False for a policy that places experts by their number, so that renaming them changes its result."""
    symmetric_reason: ClassVar[str] = ""
    """Why it is not symmetric."""
    clairvoyant: ClassVar[bool] = False
    """True for bounds that know the whole run beforehand (`view.future`); no system can."""
    imitates: ClassVar[bool] = False
    """True for a system whose learned predictor is trained to imitate the future, which it is shown (`view.future`) in place of
    what training would have taught it, and errs by a stated skill. Not a bound."""
    unreachable: ClassVar[bool] = False
    """True for bounds that no system can run although the future is hidden from them: rankings leave them out, too."""
    batched: ClassVar[bool] = False
    """True if `dispatch` treats the last axis of its visit's arrays as the experts, whatever stands before it, and looks at
    nothing else that may change: the engine asks about whole passes then, where nothing else moves experts."""
    sure_phases: ClassVar[tuple[str, ...]] = ()
    """Phases in whose passes `dispatch` looks at nothing but residents and the visits of its pass, and nothing moves between
    layers, so that layers may overlap: every dispatch is asked for before the pass begins, and `adapt` after no layer of it."""
    runtime: ClassVar[str] = "reference"
    """The runtime profile of the system's own program, which a scenario's `runtime: own` takes."""
    lossy: ClassVar[bool] = False
    """True for a policy that with its defaults may change what the model computes; lists star its name."""

    @property
    def sees_future(self) -> bool:
        """Whether `view.future` is shown."""
        return self.clairvoyant or self.imitates

    @property
    def memoryless(self) -> bool:
        """True if `dispatch` looks at nothing but its visit and the first placement, and `adapt` is unused.

        The engine asks such a policy about all layers of a pass, or of many steps, and times them in one call.
        """
        return False

    @property
    def foresight(self) -> Foresight | None:
        """How well the policy's predictor sees the routing of later layers (`visit.ahead`); None without a predictor."""
        return None

    def deploy(self, problem: Problem) -> Deployment:
        """Called once. Raises InputError when the model cannot be placed."""
        raise NotImplementedError

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Called at every visit of an MoE layer, after its routing is known."""
        attending = view.problem.attending_index
        if not view.problem.system.further_gpus:
            return Dispatch(np.full(visit.counts.shape, attending))
        gpus = view.problem.gpu_at[view.home[visit.layer]]
        return Dispatch(np.where(visit.resident, attending, gpus))

    def adapt(self, step: Step, view: View) -> Moves:
        """Called when `adapts` says so, after the layer (or the last layer of the pass) has ended."""
        return NO_MOVES

    def decider(self, desk: Desk, view: View) -> Decider | None:
        """Called once after `deploy`, in compiled runs: who decides on arrays in the place of `dispatch`, and of `adapt` after
        layers, where nothing but stored copies from their homes moves. None where the policy does. A subclass that has its own
        `dispatch` or `adapt` is not asked for the decider of its base."""
        return None

    def proven_gap(self, state: Any) -> float | None:
        """Called once after the run, with `Deployment.state`, for policies that search a best plan.

        Share of its plan's objective by which the best plan may be below it, as far as the search has proven; 0 for a proven
        optimum, None for a policy that proves nothing.
        """
        return None


def is_bound(policy: Policy | type[Policy]) -> bool:
    """Whether rankings keep a policy apart, as a bound that no system can run."""
    return policy.clairvoyant or policy.unreachable
