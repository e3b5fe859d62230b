"""What every computing device has: a place, power and a price.

Knows no kind of device, and nothing of the machine around it beyond the bandwidth that `System` binds to it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge
from numpy.typing import ArrayLike
from pydantic import PrivateAttr

from moesim.arrays import FloatArray
from moesim.hardware.experts import PositiveShare, TokenRange
from moesim.spec import Spec
from moesim.units import Duration, Money, Power

__all__ = ["PHASES", "Attention", "Device", "Phase"]

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")


class Device(Spec):
    """Base of GPUs, CPUs and near-data units. All times are seconds without the fixed costs of calls and without queueing."""

    kind: str
    name: str = ""
    """How a bill calls the part; the file name of its profile if not given."""
    launch: Duration | None = None
    """Fixed seconds of any call, for a device that prices calls itself (prototypes, near-data units); else the runtime's. A
    device that states any of `launch`, `fused` and `sync` prices all its calls: what it leaves out costs nothing."""
    fused: bool | None = None
    """One call per visit of a layer if true, one per active expert otherwise: as the runtime does it, or for a device that
    prices calls itself true for a GPU and false for others."""
    sync: Duration | None = None
    """Fixed seconds per visit in which this device takes part beside the GPU, if it prices them itself; else the runtime's."""
    power_idle: Power | None = None
    """Watts while it waits; without it the machine's energy is not known."""
    power_active: Power | None = None
    """Watts while it works; without it the machine's energy is not known."""
    price: Money | None = None
    """USD, of a GPU with its memory; without it the cost of a token is not known."""

    _own: float | None = PrivateAttr(default=None)

    @property
    def prices_calls(self) -> bool:
        """Whether it states the fixed costs of its calls itself, and takes none of the runtime's."""
        return any(value is not None for value in (self.launch, self.fused, self.sync))

    @property
    def own_bandwidth(self) -> float | None:
        """B/s of the memory the device works from; None before it is part of a system."""
        return self._own

    def bound(self, bandwidth: float) -> Self:
        """A copy that works from a memory of `bandwidth` B/s."""
        copy = self.model_copy()
        copy._own = bandwidth
        return copy

    def expert_time(
        self, tokens: ArrayLike, weight_bytes: ArrayLike, flops_per_token: float, bandwidth: ArrayLike | None = None
    ) -> FloatArray:
        """Seconds [..] for `tokens` [..] through experts of `weight_bytes` [..] bytes; 0 where there are no tokens.

        `bandwidth` (B/s, scalar or [..]) caps the weight stream where the weights lie in another tier; None means own memory.
        """
        raise NotImplementedError

    def gemm_time(self, flops: ArrayLike, nbytes: ArrayLike) -> FloatArray:
        """Seconds [..] of dense work: `flops` [..] over `nbytes` [..] of operands in own memory."""
        raise NotImplementedError

    def core_time(self, flops: ArrayLike, kv_bytes: ArrayLike, phase: Phase, bandwidth: ArrayLike | None = None) -> FloatArray:
        """Seconds [..] of the attention core; `bandwidth` caps the reading of the KV cache where it lies in another tier."""
        raise NotImplementedError

    def valid_tokens(self, weight_bytes: float, flops_per_token: float) -> TokenRange | None:
        """Fewest and most tokens per expert at which the cost of such experts was measured; None where nothing is said."""
        return None

    def _memory(self) -> float:
        if self._own is None:
            raise ValueError(f"this {self.kind} is not part of a system yet, so the bandwidth of its memory is unknown")
        return self._own


class Attention(Spec):
    """Attention core on a GPU or near data: time = max(KV bytes / (bandwidth * streaming), FLOP / (peak * efficiency)).

    Source: prefill efficiency from a Mixtral-8x7B layer on an RTX PRO 6000 with 128, 2,048 and 16,384 tokens of context, its
    projections priced apart (`fit.dense.attention`: 0.789, within 4 % at three other contexts); decode reads the KV
    cache at the share of the bandwidth that other streaming kernels reach.
    Valid: flash-style kernels, contexts of 1 k tokens and more.
    """

    streaming: PositiveShare = 0.8
    """Share of the memory bandwidth reached while the KV cache streams."""
    efficiency: PositiveShare = 0.79
    """Share of the peak rate reached."""
    sequence: Duration = 0.0
    """Seconds that each decoding sequence takes beside its bytes: its blocks of threads are scheduled one by one."""
    mixed: Annotated[float, Ge(1)] = 1.0
    """Times longer that decoding sequences take in a step that holds prompts, too, whose kernel is not made for single rows."""
