"""What a serving program does on a GPU: kernels by kind of operation, and what launching one costs in its mode.

Knows how long an empty kernel of each kind takes (`FixedTimes` of a GPU) and the rows of captured graphs; no bytes, no FLOP.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import ArrayLike
from pydantic import Field, field_validator

from moesim.arrays import FloatArray
from moesim.hardware import Gpu, Roofline
from moesim.hardware.experts import PositiveShare
from moesim.hardware.gpu import ExpertFormat, FixedTimes
from moesim.runtime.packed import PackedProducts
from moesim.spec import Spec
from moesim.units import Bandwidth, Duration

__all__ = ["GpuCore", "GpuPrograms", "Kernels", "Launches", "Mode", "Operation", "Operations"]

Mode = Literal["graph", "direct", "compiled", "eager"]
"""A captured graph; a program that launches its own kernels; compiled regions without a graph; a framework op by op."""
Operation = Literal["projections", "core", "output", "router", "experts", "expert", "shared", "dense", "head"]
"""What a decoder layer is made of, and the head at its end; `expert` is one expert in a call of its own."""
Count = Annotated[float, Ge(0)]


class Launches(Spec):
    """Seconds for which the GPU waits for one kernel, by mode: the difference between steps, not the host's own time.

    Source: vLLM, SGLang, llama.cpp and exllamav3 with and without graphs (`hardware_profiles/runtimes/reference.yaml`).
    Valid: decoding; in long prompts the host runs ahead of the GPU and hides some of it.
    """

    graph: Duration = 0.0
    """Node of a captured graph."""
    direct: Duration = 0.0
    """Launch by a program of its own, without a framework."""
    compiled: Duration = 0.0
    """Launch from a compiled region."""
    eager: Duration = 0.0
    """Launch by a framework that runs operation by operation."""


class Kernels(Spec):
    """Kernels of one operation by kind; each takes the GPU's fixed time of its kind and one launch."""

    gemm: Count = 0.0
    """Products of matrices."""
    attention: Count = 0.0
    """Attention cores."""
    layer: Count = 0.0
    """Fused layers of experts."""
    small: Count = 0.0
    """Norms, rotations, activations, selections and the like."""
    launches: Count | None = None
    """Kernels launched, where one of a kind above is several: a fused layer is some six; by default their sum."""

    def seconds(self, fixed: FixedTimes, launch: float) -> float:
        """Fixed seconds of the operation with `launch` seconds for each kernel."""
        own = self.gemm * fixed.gemm + self.attention * fixed.attention + self.layer * fixed.layer + self.small * fixed.small
        count = self.gemm + self.attention + self.layer + self.small if self.launches is None else self.launches
        return own + count * launch


class Operations(Spec):
    """Kernels of each operation of a decoder layer, and of the head."""

    projections: Kernels = Kernels(gemm=1)
    """Norm, QKV product, rotation, store of keys and values."""
    core: Kernels = Kernels(attention=1)
    """Attention core."""
    output: Kernels = Kernels(gemm=1)
    """Output projection."""
    router: Kernels = Kernels(gemm=1)
    """Norm, router product, selection of experts."""
    experts: Kernels = Kernels(layer=1)
    """All resident experts of a layer in one fused call."""
    expert: Kernels = Kernels(gemm=1)
    """One expert in a call of its own: one that was uploaded, or each where the program fuses none."""
    shared: Kernels = Kernels(gemm=1)
    """Shared experts."""
    dense: Kernels = Kernels(gemm=1)
    """Feed-forward part of a layer without experts."""
    head: Kernels = Kernels(gemm=1)
    """Final norm, LM head, sampler."""


class GpuCore(Spec):
    """Attention core of the program where it is not the GPU's best."""

    streaming: PositiveShare | None = None
    """Share of the memory bandwidth while the KV cache streams; without it the GPU's own."""
    efficiency: PositiveShare | None = None
    """Share of the peak rate; without it the GPU's own."""
    latent: Bandwidth | None = None
    """The most B/s at which decoding reads latents (MLA): kernels that are not made for them do not reach the memory's rate."""
    absorbed: bool = False
    """Whether prompts attend to latents (MLA) as they are, at more FLOP per pair; else keys and values are expanded first."""
    scores: Count = 0.0
    """Bytes of GPU memory moved per score in prompts: 0 for flash-style kernels, some 14 to 32 where scores are written out,
    scaled, masked and normalised one kernel after another."""

    @property
    def shares(self) -> dict[str, float]:
        """What takes the place of the GPU's own shares."""
        return _given(streaming=self.streaming, efficiency=self.efficiency)


class GpuPrograms(Spec):
    """How a program uses a GPU: which mode it launches in, how many kernels, whether the experts of a layer are one call.

    Source: see the profiles. Valid: one stream of kernels; what overlaps between streams is left out.
    """

    mode: Mode = "graph"
    """How the kernels of a layer are launched."""
    calls: Mode = "direct"
    """How calls are launched that are known only when the router has spoken: one expert each."""
    launches: Launches = Launches()
    """What a launch costs in each mode."""
    fused: bool = True
    """One call for all resident experts of a layer if true, one per active expert otherwise."""
    expert_tokens: int | None = Field(default=32768, ge=1)
    """Tokens that a call to experts takes at most, and longer steps in turn, which bounds its intermediates (their time is as
    without turns). None: no limit. A fused call counts the tokens of the step, one of a single expert those of that expert.
    Source of the default: vLLM, envs.py, VLLM_FUSED_MOE_CHUNK_SIZE."""
    kernels: Operations = Operations()
    """Kernels by operation."""
    latent: dict[Operation, Kernels] = Field(default_factory=dict)
    """Kernels of operations that take more of them in models with latent attention (MLA)."""
    streaming: PositiveShare | None = None
    """Share of the memory bandwidth that its products and experts reach; without it what the GPU was measured to."""
    efficiency: PositiveShare | None = None
    """Share of the peak that its products and experts reach with many tokens; without it what the GPU was measured to."""
    packed: PackedProducts | None = None
    """Its own kernels for products of packed weights; without them dense ones cost what products of 16-bit weights of as many
    bytes do, and experts what the GPU was measured to."""
    unpack: Count = 0.0
    """Bytes of GPU memory moved per packed weight (fewer than 16 bits) where a kernel of its own unpacks a matrix before each
    product; 0 where the product unpacks, or nothing is packed."""
    capacity: float | None = Field(default=None, gt=0)
    """Capacity factor of a program that pads: every expert of a layer, with tokens or without, computes factor * k * T / E
    tokens, T those of the step, more only where more are routed to it (programs that drop them change outputs, which is left
    out). None: experts compute their own tokens (dynamic gating). Source: Huang et al., arXiv:2303.06182 (static gating)."""
    attention: GpuCore = GpuCore()
    """Attention core of the program."""
    graph_tokens: int | None = Field(default=None, ge=0)
    """Tokens of the largest step that a captured graph holds; larger ones launch projections, attention and dense parts in mode
    `beyond`. None: no limit."""
    graph_sizes: tuple[Annotated[int, Ge(1)], ...] = ()
    """Tokens of the captured graphs, rising: a step runs the smallest that holds it, and its dense products have as many rows.
    Empty for a graph of each size. Routed experts are left out: rows of padding are alike and go to the same few."""
    beyond: Mode = "compiled"
    """How the kernels of larger steps are launched."""
    module: Duration = 0.0
    """Seconds of the host per expert of a layer, used or not: hooks of a framework that goes through all of them."""
    prompt: Duration = 0.0
    """Seconds of the host per decoder layer of a step that holds prompts, in which the GPU waits: where a captured graph
    decodes, and prompts run operation by operation in a slow framework."""
    step: Duration = 0.0
    """Seconds of the host per step, in which the GPU waits: scheduling, sampling, output."""
    request: Duration = 0.0
    """The same for each sequence of the step."""

    def seconds(self, operation: Operation, fixed: FixedTimes, *, captured: bool = True) -> float:
        """Fixed seconds of a call of `operation` on a GPU whose empty kernels take `fixed`, in a step that is `captured`."""
        mode = self.calls if operation == "expert" else self.mode if captured else self.beyond
        kernels: Kernels = getattr(self.kernels, operation)
        return kernels.seconds(fixed, getattr(self.launches, mode))

    def rows(self, tokens: ArrayLike) -> FloatArray:
        """[..] rows of the dense products of a step with `tokens` [..]: those of the captured graph that holds it, if any."""
        exact = np.asarray(tokens, dtype=np.float64)
        largest = min(self.graph_sizes[-1:] + (() if self.graph_tokens is None else (self.graph_tokens,)), default=0)
        if not self.graph_sizes or self.mode != "graph":
            return exact
        sizes = np.array(self.graph_sizes, dtype=np.float64)
        padded = sizes[np.minimum(np.searchsorted(sizes, exact), len(sizes) - 1)]
        return np.where((exact > 0) & (exact <= largest), padded, exact)

    def serving_latents(self) -> Self:
        """The same for a model with latent attention."""
        if not self.latent:
            return self
        update: dict[str, Kernels] = {str(name): kernels for name, kernels in self.latent.items()}
        kernels = self.kernels.model_copy(update=update)
        return self.model_copy(update={"kernels": kernels})

    @field_validator("graph_sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError("the sizes must rise")
        return sizes

    def over(self, gpu: Gpu) -> Gpu:
        """`gpu` as this program uses it."""
        changes: dict[str, object] = {}
        if shares := _given(streaming=self.streaming, efficiency=self.efficiency):
            changes["gemm"] = gpu.gemm.model_copy(update=shares)
            if isinstance(gpu.experts, Roofline):
                changes["experts"] = gpu.experts.model_copy(update=shares)
            changes["formats"] = {name: _shared(packed, shares) for name, packed in gpu.formats.items()}
        if core := self.attention.shares:
            changes["attention"] = gpu.attention.model_copy(update=core)
        return gpu.model_copy(update=changes) if changes else gpu

    def captured(self, operation: Operation, fixed: FixedTimes) -> float:
        """Seconds that the mode costs above a captured graph in one call of `operation`; 0 for calls made at run time."""
        if operation == "expert":
            return 0.0
        kernels: Kernels = getattr(self.kernels, operation)
        return self.seconds(operation, fixed) - kernels.seconds(fixed, self.launches.graph)


def _given(**shares: float | None) -> dict[str, float]:
    return {name: share for name, share in shares.items() if share is not None}


def _shared(packed: ExpertFormat, shares: dict[str, float]) -> ExpertFormat:
    if not isinstance(packed.experts, Roofline):
        return packed
    return packed.model_copy(update={"experts": packed.experts.model_copy(update=shares)})
