"""Products of packed weights on a GPU: kernels that unpack weights in registers, for a few tokens, for many, and for experts.

Knows bytes, weights and what the GPU's vector units do; not which layer they belong to.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray
from moesim.hardware import Gpu
from moesim.hardware.experts import PositiveShare, activation_unit, p_norm, where_tokens
from moesim.spec import Spec
from moesim.units import Duration

__all__ = ["PackedProducts"]

Positive = Annotated[float, Gt(0)]


class PackedProducts(Spec):
    """Products of weights of fewer than 16 bits; v are the vector operations per second of the GPU.

    Up to `vector_tokens` tokens, a product of matrix and vectors: ((bytes / stream)^q + (FLOP / (vector_flops v))^q)^(1/q),
    where the stream is `streaming` of the memory's bandwidth, at most `vector_bytes` v. With more tokens, one of matrices:
    ((bytes / stream)^q + (weights / (unpack v) + FLOP / (matrix_flops v))^q)^(1/q), for every weight is unpacked once, however
    many tokens there are; q is that of the GPU's other products.
    Experts of a step of one token are products with a vector. In larger steps each of them, whatever its tokens, is a product
    of matrices at `expert_flops`, the activations of its tokens cross the GPU's memory, and each layer takes `grouping` more.
    Source: ggml-cuda of llama.cpp (mmvq.cuh: vectors up to 8 tokens; mmq.cu: matrices from then on, on every GPU with integer
    tensor cores, and no more 16-bit products of unpacked weights). Valid: NVIDIA from Turing on, 3 to 5 bits; `grouping` is
    paid where experts of the layer run on the CPU, too, which takes it no further than a few percent of their time.
    """

    vector_tokens: Annotated[int, Ge(0)] = 8
    """Most tokens of a product of matrix and vectors."""
    streaming: PositiveShare = 1.0
    """Share of the memory bandwidth that the weights stream at."""
    vector_bytes: Positive
    """The most weight bytes per vector operation that a product of matrix and vectors streams."""
    vector_flops: Positive
    """FLOP per vector operation of a product of matrix and vectors."""
    unpack: Positive
    """Weights per vector operation that a product of matrices unpacks."""
    matrix_flops: Positive
    """FLOP per vector operation of a product of matrices."""

    expert_flops: Positive
    """FLOP per vector operation of a product of matrices of an expert."""
    expert_activations: Annotated[float, Ge(0)] = 0.0
    """Numbers moved per token and expert in units of sqrt(hidden * width), as in a GPU's `experts`."""
    grouping: Duration = 0.0
    """Seconds of a layer with experts in a step of several tokens, which are grouped by expert and added up again."""

    def seconds(self, tokens: ArrayLike, nbytes: ArrayLike, flops: float, gpu: Gpu) -> FloatArray:
        """Seconds [..] of `tokens` [..] at `flops` each over `nbytes` [..] on a `gpu` with `vector`."""
        assert gpu.vector is not None
        assert gpu.own_bandwidth is not None
        matrix, work = np.asarray(tokens, dtype=np.float64) > self.vector_tokens, np.asarray(tokens, dtype=np.float64) * flops
        stream = gpu.own_bandwidth * self.streaming
        rate = np.where(matrix, stream, min(stream, self.vector_bytes * gpu.vector))
        once = np.where(matrix, flops / 2.0 / self.unpack, 0.0)
        busy = (once + work / np.where(matrix, self.matrix_flops, self.vector_flops)) / gpu.vector
        return p_norm(np.asarray(nbytes, dtype=np.float64) / rate, busy, gpu.gemm.q)

    def expert_seconds(self, tokens: ArrayLike, nbytes: ArrayLike, flops: float, gpu: Gpu) -> FloatArray:
        """Seconds [..] of an expert of `nbytes` [..] with `tokens` [..] of a larger step, at `flops` each, on a `gpu` with
        `vector`."""
        assert gpu.vector is not None
        assert gpu.own_bandwidth is not None
        number = np.asarray(tokens, dtype=np.float64)
        busy = (flops / 2.0 / self.unpack + number * flops / self.expert_flops) / gpu.vector
        product = p_norm(np.asarray(nbytes, dtype=np.float64) / (gpu.own_bandwidth * self.streaming), busy, gpu.gemm.q)
        moved = self.expert_activations * activation_unit(flops)
        return where_tokens(number, product + number * moved / gpu.own_bandwidth)
