"""llama.cpp with experts in host memory: a fixed cut by layers, and a fixed rule by the number of tokens.

Knows capacities and one visit; nothing of popularity.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from moesim.contract import Deployment, Dispatch, Problem, Serial, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import cpu_missing, upload_missing
from moesim.policies.kit.placement import GpuKvPolicy, place, require_cpu

__all__ = ["LlamaCpp"]


class LlamaCpp(GpuKvPolicy):
    """The experts of the first N layers live in the host and run on the CPU; passes of 32 tokens and more upload them instead.

    Other layers are resident as a whole. Upload or CPU goes by the tokens of the pass alone: decode of fewer than 32 sequences
    never uploads. Only experts with tokens are copied. GPU and CPU never work at the same time. Prompts are read in pieces of
    `ubatch` tokens, each of which uploads anew (`whole_tensors`: experts without tokens, too).
    Source: ggml-org/llama.cpp (`--n-cpu-moe`, `--cpu-moe`, op off-load from a batch of 32; active experts only since pull
    request 15346); the fork ik_llama.cpp copies from 32 E / k tokens (`scaled`).
    Inferred: none of the rules. Left out: pageable copies from a memory-mapped file; 2-8 bit weights, unless the model is
    stored so.
    """

    kind: Literal["llama_cpp"] = "llama_cpp"
    cpu_layers: int | None = Field(None, ge=0)
    """N: MoE layers whose experts stay in the host (as many as there are: `--cpu-moe`); as few as fit if not given."""
    host_layers: tuple[int, ...] | None = None
    """The MoE layers (from 0) whose experts stay in the host, in place of the first N: what `-ot` patterns can say."""
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
        return self

    def deploy(self, problem: Problem) -> Deployment:
        """The last layers resident."""
        require_cpu(problem)
        if self.host_layers and max(self.host_layers) >= problem.layers:
            message = f"layer {max(self.host_layers)} is out of range; the model has MoE layers 0 to {problem.layers - 1}"
            raise InputError(Mistake(message, path="policy.host_layers"))
        cut = self.cut(problem, chunk=self.ubatch)
        resident = np.zeros((problem.layers, problem.experts), dtype=np.bool_)
        if self.host_layers is None:
            resident[self._first(problem, problem.gpu_free(cut)) :] = True
        else:
            resident[[layer for layer in range(problem.layers) if layer not in self.host_layers]] = True
        return place(problem, resident=resident, cut=cut.piped(Serial()))

    def _first(self, problem: Problem, free: float) -> int:
        """The first MoE layer whose experts are resident: as many of the last ones as `free` bytes hold, unless given."""
        if self.cpu_layers is not None:
            return min(self.cpu_layers, problem.layers)
        from_last = np.cumsum(problem.expert_bytes().sum(axis=1)[::-1])
        return problem.layers - int(np.searchsorted(from_last, free, side="right"))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All missing experts the same way; copies go by the numbers of the experts, so that neighbours can cross as one."""
        model = view.problem.model
        limit = self.upload_from * (model.experts / model.top_k if self.scaled else 1.0)
        if visit.tokens < limit:
            return cpu_missing(visit, view)
        return upload_missing(visit, view, whole_layer=self.whole_tensors)._replace(order=None)
