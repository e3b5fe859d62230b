"""llama.cpp with experts in host memory: a fixed cut by layers, and a fixed rule by the number of tokens.

Knows capacities and one visit; nothing of popularity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import BoolArray
from moesim.contract import BatchPlan, Deployment, Dispatch, Homes, Problem, Serial, View, Visit
from moesim.contract.homes import HERE
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import cpu_missing, upload_missing
from moesim.policies.kit.placement import GpuKvPolicy, place, require_cpu
from moesim.policies.kit.sizing import largest

__all__ = ["LlamaCpp"]


class LlamaCpp(GpuKvPolicy):
    """The experts of the first N layers live in the host and run on the CPU; passes of 32 tokens and more upload them instead.

    Other layers are resident as a whole; so are shared experts and the dense parts of all layers. With `gpu_layers`, and for
    models that do not fit otherwise (dense ones, above all), the first layers are left to the CPU as wholes: their attention
    with its weights and its cache, their shared experts and dense parts, too, where the products of prompts take uploaded
    weights as experts do. Upload or CPU goes by the tokens of the pass alone: decode of fewer than 32 sequences
    never uploads. Only experts with tokens are copied. GPU and CPU never work at the same time. Prompts are read in pieces of
    `ubatch` tokens, each of which uploads anew (`whole_tensors`: experts without tokens, too).
    Source: ggml-org/llama.cpp (`-ngl`, `--n-cpu-moe`, `--cpu-moe`, op off-load from a batch of 32; active experts only since
    pull request 15346); the fork ik_llama.cpp copies from 32 E / k tokens (`scaled`).
    Inferred: none of the rules. Left out: the input embedding, which the program keeps in the host, counts in GPU memory;
    routers stay on the GPU; two layers that both run on the CPU hand over all the same; uploads of attention weights to batches
    that decode; pageable copies from a memory-mapped file; 2-8 bit weights, unless the model is stored so.
    """

    kind: Literal["llama_cpp"] = "llama_cpp"
    cpu_layers: int | None = Field(None, ge=0)
    """N of `--n-cpu-moe`: decoder layers, from the first and those without experts counted, whose experts stay in the host (as
    many as there are: `--cpu-moe`); as few as fit if not given."""
    host_layers: tuple[int, ...] | None = None
    """The MoE layers (from 0) whose experts stay in the host, in place of the first N: what `-ot` patterns can say."""
    gpu_layers: int | None = Field(None, ge=0)
    """Decoder layers, the last ones, that are on the GPU as wholes (`-ngl`, which counts the output as one more); all if not
    given, or as many as fit where the model does not fit with its experts alone in the host."""
    upload_from: int = Field(32, ge=1)
    """Tokens in a pass from which missing experts are uploaded (published: 32)."""
    ubatch: int = Field(512, ge=1)
    """Tokens of a piece of the prompts (published: 512)."""
    scaled: bool = False
    """Whether that number is per expert: upload_from * E / k tokens, as in the fork."""
    whole_tensors: bool = False
    """Whether an upload takes all experts of a layer, used or not, as before pull request 15346 (the fork: before 698)."""

    memoryless: ClassVar[bool] = True
    runtime: ClassVar[str] = "llama-cpp"
    source: ClassVar[str] = "ggml-org/llama.cpp (--n-cpu-moe, --cpu-moe)"

    @model_validator(mode="after")
    def _host_layers_in_one_way(self) -> LlamaCpp:
        if self.host_layers is not None and self.cpu_layers is not None:
            raise ValueError("cpu_layers and host_layers say the same thing; leave one out")
        if self.gpu_layers is not None and self.host_layers is not None:
            raise ValueError("gpu_layers counts whole layers, host_layers lists those without experts; leave one out")
        return self

    def deploy(self, problem: Problem) -> Deployment:
        """The last layers resident."""
        require_cpu(problem)
        if self.host_layers and max(self.host_layers) >= problem.layers:
            message = f"layer {max(self.host_layers)} is out of range; the model has MoE layers 0 to {problem.layers - 1}"
            raise InputError(Mistake(message, path="policy.host_layers"))
        if (whole := self._whole(problem)) is not None:
            return whole
        cut = self.cut(problem, chunk=self.ubatch)
        resident = np.zeros((problem.layers, problem.experts), dtype=np.bool_)
        if self.host_layers is None:
            resident[self._first(problem, problem.gpu_free(cut)) :] = True
        else:
            resident[[layer for layer in range(problem.layers) if layer not in self.host_layers]] = True
        return place(problem, resident=resident, cut=cut.piped(Serial()))

    def _whole(self, problem: Problem) -> Deployment | None:
        """Whole layers on the GPU, the last ones, and the others on the CPU; None where every layer attends on the GPU."""
        layers = problem.model.layers
        if self.gpu_layers is None and (self._attends_on_gpu(problem) or not problem.job.attention):
            return None
        moe, sizes = np.array(problem.model.moe_layers[: problem.layers]), problem.expert_bytes().sum(axis=1)
        host, shared = problem.main_memory, problem.main_memory if problem.model.shared_bytes else None
        away = Homes(attention=host, dense=host, shared=shared, attends=problem.costs.cpu_name)

        def homes(count: int) -> Homes:
            return replace(away, kept_layers=count, kept_from=layers - count) if count < layers else HERE

        cut = self.cut(problem, chunk=self.ubatch, homes=homes(min(self.gpu_layers or 0, layers)))

        def plan(count: int) -> BatchPlan:
            return replace(cut, homes=homes(count))

        def resident(count: int) -> BoolArray:
            held: BoolArray = moe >= max(layers - count, self.cpu_layers or 0)
            return held

        def fits(count: int) -> bool:
            return problem.gpu_free(plan(count)) >= float(sizes[resident(count)].sum())

        count = largest(fits, layers) if self.gpu_layers is None else min(self.gpu_layers, layers)
        held = np.repeat(resident(count)[:, None], problem.experts, axis=1)
        return place(problem, resident=held, cut=plan(count).piped(Serial()))

    def _attends_on_gpu(self, problem: Problem) -> bool:
        """Whether the program, left to itself, keeps the attention of all layers on the GPU: where what is not experts fits.

        Of a dense model whole layers go to the CPU, unless the number of feed-forward parts that do is given.
        """
        stated = self.cpu_layers is not None or self.host_layers is not None
        if problem.model.experts == 1 and not stated:
            return _fits(problem, self.cut(problem, chunk=self.ubatch)) if self._cuts(problem) else False
        return self._cuts(problem)

    def _cuts(self, problem: Problem) -> bool:
        """Whether the job fits beside all weights outside the experts."""
        try:
            self.cut(problem, chunk=self.ubatch)
        except InputError:
            return False
        return True

    def _first(self, problem: Problem, free: float) -> int:
        """The first MoE layer whose experts are resident: as many of the last ones as `free` bytes hold, unless given."""
        if self.cpu_layers is not None:
            return int(np.searchsorted(problem.model.moe_layers[: problem.layers], self.cpu_layers))
        from_last = np.cumsum(problem.expert_bytes().sum(axis=1)[::-1])
        return problem.layers - int(np.searchsorted(from_last, free, side="right"))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All missing experts the same way; copies go by the numbers of the experts, so that neighbours can cross as one."""
        model = view.problem.model
        limit = self.upload_from * (model.experts / model.top_k if self.scaled else 1.0)
        if visit.tokens < limit:
            return cpu_missing(visit, view)
        return upload_missing(visit, view, whole_layer=self.whole_tensors)._replace(order=None)


def _fits(problem: Problem, cut: BatchPlan) -> bool:
    """Whether GPU memory holds all experts beside what `cut` takes."""
    return problem.gpu_free(cut) >= float(problem.expert_bytes().sum())
