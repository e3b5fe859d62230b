"""Products of packed weights on a GPU: kernels that unpack weights in registers, for a few tokens and for many.

Knows bytes, weights and what the GPU's vector units do; not which layer they belong to.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray
from moesim.hardware import Gpu
from moesim.hardware.experts import PositiveShare, p_norm
from moesim.spec import Spec

__all__ = ["PackedProducts"]

Positive = Annotated[float, Gt(0)]


class PackedProducts(Spec):
    """Products of weights of fewer than 16 bits; v are the vector operations per second of the GPU. Experts keep a cost of
    their own, but stream no faster than these do with one token, for they run by the same kernel.

    Up to `vector_tokens` tokens, a product of matrix and vectors: ((bytes / stream)^q + (FLOP / (vector_flops v))^q)^(1/q),
    where the stream is `streaming` of the memory's bandwidth, at most `vector_bytes` v. With more tokens, one of matrices:
    ((bytes / stream)^q + (weights / (unpack v) + FLOP / (matrix_flops v))^q)^(1/q), for every weight is unpacked once, however
    many tokens there are; q is that of the GPU's other products.
    Source: ggml-cuda of llama.cpp (mmvq.cuh: vectors up to 8 tokens; mmq.cu: matrices from then on, on every GPU with integer
    tensor cores, and no more 16-bit products of unpacked weights). Valid: NVIDIA from Turing on, 3 to 5 bits.
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

    def most_streaming(self, gpu: Gpu) -> float:
        """The most of the memory's bandwidth that products of vectors stream at on a `gpu`: those of experts, too."""
        if gpu.vector is None or gpu.own_bandwidth is None:
            return 1.0
        return min(self.vector_bytes * gpu.vector / gpu.own_bandwidth, 1.0)

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
