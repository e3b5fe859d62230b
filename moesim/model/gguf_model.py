"""Owns what the tensors of a GGUF file say of a model: its shape, and the bytes of each part as they are stored.

Knows what of a model each tensor is; reads no file, and nothing of attention.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moesim.errors import InputError, Mistake
from moesim.model.architecture import Architecture
from moesim.model.gguf_attention import read_attention
from moesim.model.gguf_file import Gguf, Tensor, read_gguf
from moesim.model.gguf_header import ATTENTION, DENSE, EXPERTS, ROUTER, SHARED, Header
from moesim.model.precision import Precision, from_bits

__all__ = ["model_of", "read_model"]


def read_model(path: Path, shown: str = "") -> Architecture:
    """The model in the GGUF file at `path`, named like the file; each layer's experts in the bytes that they have there.

    A dense model of a known family reads as one with a single expert in each layer. Raises InputError: see `read_gguf`, and for
    blocks that moesim does not model.
    """
    shown = shown or str(path)
    name = re.sub(r"-00001-of-\d{5}\Z", "", path.stem)
    return model_of(read_gguf(path, shown), name, shown)


def model_of(gguf: Gguf, name: str, shown: str) -> Architecture:
    """The model of a header; `shown` is how messages and the model's `source` name the file."""
    reader = _Reader(gguf, shown)
    try:
        model = Architecture(**reader.shape(name))
        return model.with_precision(reader.precision(model))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise InputError(Mistake(f"describes a model that cannot be: {problems}", file=shown)) from None


class _Reader:
    """The model of one header."""

    def __init__(self, gguf: Gguf, shown: str) -> None:
        self._header = Header(gguf, shown)

    # The shape

    def shape(self, name: str) -> dict[str, Any]:
        """The fields of an Architecture, without the precision."""
        first = self._header.blocks[self._header.moe[0]]
        down = self._header.alike("ffn_down_exps", self._header.moe, 3)
        merged = "ffn_gate_up_exps" in first
        gated = merged or "ffn_gate_exps" in first
        dense = [index for index in self._header.holding("ffn_down") if index not in self._header.moe]
        bare = sorted(set(range(self._header.layers)) - set(self._header.moe) - set(dense))
        embedding = self._header.whole.get("token_embd.weight")
        if embedding is None:
            self._header.refuse("has no token_embd.weight, so it is not a whole model")
        return {
            "name": name,
            "source": self._header.shown,
            "hidden": self._header.integer("embedding_length"),
            "layers": self._header.layers,
            "moe_layers": tuple(self._header.moe),
            "bare_layers": tuple(bare),
            "experts": down[2],
            "top_k": 1 if self._header.dense else self._header.integer("expert_used_count"),
            "expert_width": down[0],
            "expert_hidden": 0 if down[1] == self._header.integer("embedding_length") else down[1],
            "matrices": 3 if gated else 2,
            "expert_bias": "ffn_down_exps.bias" in first,
            "shared_width": self._width("ffn_down_shexp", self._header.moe),
            "dense_width": self._width("ffn_down", dense),
            "vocab": embedding.shape[-1],
            "tied_embedding": "output.weight" not in self._header.whole,
            **read_attention(self._header),
        }

    def _width(self, name: str, blocks: list[int]) -> int:
        """The inner width of a block that all of `blocks` have, or none."""
        holders = [index for index in blocks if name in self._header.blocks[index]]
        if holders and holders != blocks:
            self._header.refuse(f"only {len(holders)} of {len(blocks)} layers have {name}; all or none is read")
        return self._header.alike(name, holders, 2)[0] if holders else 0

    # The bytes

    def precision(self, model: Architecture) -> Precision:
        """Bits per weight of each part that give back the bytes of its tensors; experts layer by layer."""
        feed_forward = model.n_moe * model.shared_flops + model.n_dense * model.dense_flops
        attention = self._bits("attention", ATTENTION, model.layers * (model.qkv_flops + model.output_flops))
        weights = self._bits("shared experts and dense layers", (*SHARED, *DENSE), feed_forward) if feed_forward else attention
        projections = 2.0 * model.hidden * model.experts * model.n_moe
        copies = 1 if model.tied_embedding else 2
        parts = Precision(
            weights=weights,
            attention=attention,
            router=None if self._header.dense else self._bits("routers", ROUTER, projections),
            embeddings=self._stored("embeddings", self._header.whole.values(), copies * model.head_flops),
        )
        return Precision(**{**parts.model_dump(), "experts": self._experts(model.with_precision(parts))})

    def _bits(self, part: str, names: Iterable[str], flops: float) -> str:
        doubled = "attn_k_b" in self._header.blocks[0]  # some conversions keep the matrix beside its two halves
        chosen = [name for name in names if not (doubled and name == "attn_kv_b")]
        return self._stored(part, (block[name] for block in self._header.blocks for name in chosen if name in block), flops)

    def _experts(self, model: Architecture) -> str | tuple[str, ...]:
        """The bits of the matrices of one expert in each MoE layer; biases count in the precision of other weights."""
        layers = []
        for index in self._header.moe:
            block = self._header.blocks[index]
            matrices = [block[name] for name in EXPERTS if name in block]
            biases = sum(tensor.nbytes for name, tensor in block.items() if name.endswith(".bias"))
            beyond = biases - model.experts * model.expert_bias_bytes
            part = f"experts of layer {index}"
            layers.append(self._stored(part, matrices, model.experts * model.expert_flops, beyond))
        return layers[0] if len(set(layers)) == 1 else tuple(layers)

    def _stored(self, part: str, tensors: Iterable[Tensor], flops: float, beyond: float = 0.0) -> str:
        """The precision at which a part that costs `flops` per token, a multiply-add per weight, takes its tensors' bytes.

        `beyond`: bytes that are added to them. Refused where the tensors hold another number of weights.
        """
        held, weights = list(tensors), round(flops / 2.0)
        numbers = sum(math.prod(tensor.shape) for tensor in held)
        if numbers != weights:
            self._header.refuse(f"its keys describe {weights:,} weights of {part}, and its tensors hold {numbers:,}")
        return from_bits(8.0 * (sum(tensor.nbytes for tensor in held) + beyond) / weights)
