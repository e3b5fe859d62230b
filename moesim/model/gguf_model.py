"""Owns what the tensors of a GGUF file say of a model: its shape, and the bytes of each part as they are stored.

Knows the names that llama.cpp gives to tensors and keys; reads no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from moesim.errors import InputError, Mistake, excerpt
from moesim.model.architecture import Architecture
from moesim.model.attention import GroupedQuery, Latent
from moesim.model.gguf_file import Gguf, Tensor, read_gguf
from moesim.model.precision import Precision, from_bits

__all__ = ["model_of", "read_model"]

_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps")
_SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
_QUERIES_KEYS_VALUES = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b",
                        "attn_k_b", "attn_v_b")  # fmt: skip
_ATTENTION = (*_QUERIES_KEYS_VALUES, "attn_output")
_ROUTER = ("ffn_gate_inp",)
_LEFT_OUT = re.compile(r".*norm.*|.*\.bias|attn_sinks.*|exp_probs_b.*|ffn_gate_inp_shexp\.weight|rope_freqs.*|.*\.scale")
"""Vectors, which moesim leaves out of every sum for any model."""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\Z")
_OUTSIDE = ("token_embd.weight", "output.weight")
_WINDOW_EVERY = {"gpt-oss": 2, "llama4": 4}
"""Architecture -> of so many layers the last sees everything. Source: `set_swa_pattern` in llama.cpp; files do not say it."""
_CHUNK = {"llama4": 8192}
"""Architecture -> tokens of a chunk of chunked attention. Source: `n_swa` of llama4 in llama.cpp."""


def read_model(path: Path, shown: str = "") -> Architecture:
    """The model in the GGUF file at `path`, named like the file; each layer's experts in the bytes that they have there.

    Raises InputError: see `read_gguf`, and for a model without experts or with blocks that moesim does not model.
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
    """One header: its keys without the architecture in front, its tensors by block."""

    def __init__(self, gguf: Gguf, shown: str) -> None:
        self._metadata, self._shown = gguf.metadata, shown
        self._family = str(gguf.metadata.get("general.architecture", ""))
        if not self._family:
            self._refuse("has no general.architecture, so it is not a model (an importance matrix, or a part of one?)")
        self._layers = self._integer("block_count") - self._integer("nextn_predict_layers", 0)
        if not 0 < self._layers <= len(gguf.tensors):
            self._refuse(f"claims {self._layers:,} layers, and has {len(gguf.tensors):,} tensors")
        self._blocks: list[dict[str, Tensor]] = [{} for _ in range(self._layers)]
        self._whole: dict[str, Tensor] = {}
        for tensor in gguf.tensors.values():
            self._sort(tensor)
        self._moe = [index for index, block in enumerate(self._blocks) if "ffn_down_exps" in block]
        if not self._moe:
            self._refuse("is a dense model: it has no tensors of experts (ffn_down_exps), and moesim simulates MoE models")

    def _refuse(self, message: str) -> NoReturn:
        raise InputError(Mistake(message, file=self._shown))

    def _sort(self, tensor: Tensor) -> None:
        """Puts a tensor with its block; blocks past the last are of multi-token prediction, which is not part of a model."""
        block = _BLOCK.match(tensor.name)
        if block is None:
            if tensor.name in _OUTSIDE:
                self._whole[tensor.name] = tensor
            elif not _LEFT_OUT.match(tensor.name):
                self._refuse(f"has the tensor '{excerpt(tensor.name)}', which moesim does not model")
            return
        index, name = int(block[1]), block[2]
        if index >= self._layers:
            return
        known = (*_EXPERTS, *_SHARED, *_DENSE, *_ATTENTION, *_ROUTER)
        if name.removesuffix(".weight") in known or name.removesuffix(".bias") in _EXPERTS:
            self._blocks[index][name.removesuffix(".weight")] = tensor
        elif not _LEFT_OUT.match(name):
            self._refuse(f"has the tensor '{excerpt(tensor.name)}', which moesim does not model")

    def _value(self, key: str) -> Any:
        return self._metadata.get(f"{self._family}.{key}")

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            problem = "is missing" if value is None else f"is {excerpt(str(value))}; one whole number for all layers is read"
            self._refuse(f"{self._family}.{key} {problem}")
        return value

    # The shape

    def shape(self, name: str) -> dict[str, Any]:
        """The fields of an Architecture, without the precision."""
        first = self._blocks[self._moe[0]]
        down = self._alike("ffn_down_exps", self._moe, 3)
        merged = "ffn_gate_up_exps" in first
        gated = merged or "ffn_gate_exps" in first
        dense = [index for index, block in enumerate(self._blocks) if "ffn_down" in block and index not in self._moe]
        bare = sorted(set(range(self._layers)) - set(self._moe) - set(dense))
        embedding = self._whole.get("token_embd.weight")
        if embedding is None:
            self._refuse("has no token_embd.weight, so it is not a whole model")
        return {
            "name": name,
            "source": self._shown,
            "hidden": self._integer("embedding_length"),
            "layers": self._layers,
            "moe_layers": tuple(self._moe),
            "bare_layers": tuple(bare),
            "experts": down[2],
            "top_k": self._integer("expert_used_count"),
            "expert_width": down[0],
            "expert_hidden": 0 if down[1] == self._integer("embedding_length") else down[1],
            "matrices": 3 if gated else 2,
            "expert_bias": "ffn_down_exps.bias" in first,
            "shared_width": self._width("ffn_down_shexp", self._moe),
            "dense_width": self._width("ffn_down", dense),
            "attention": self._attention(),
            "vocab": embedding.shape[-1],
            "tied_embedding": "output.weight" not in self._whole,
            **self._windows(),
        }

    def _alike(self, name: str, blocks: Iterable[int], dimensions: int) -> tuple[int, ...]:
        """The shape that a tensor has in all of some blocks."""
        shapes = {block[name].shape for block in (self._blocks[index] for index in blocks) if name in block}
        if len(shapes) != 1 or len(next(iter(shapes))) != dimensions:
            text = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)) or "none"
            self._refuse(f"the shapes of {name} are {text}; one of {dimensions} dimensions is read for all layers")
        return next(iter(shapes))

    def _width(self, name: str, blocks: list[int]) -> int:
        """The inner width of a block that all of `blocks` have, or none."""
        holders = [index for index in blocks if name in self._blocks[index]]
        if holders and holders != blocks:
            self._refuse(f"only {len(holders)} of {len(blocks)} layers have {name}; all or none is read")
        return self._alike(name, holders, 2)[0] if holders else 0

    def _attention(self) -> GroupedQuery | Latent:
        heads = self._integer("attention.head_count")
        if self._value("attention.kv_lora_rank"):
            whole = self._integer("attention.key_length_mla", self._integer("attention.key_length"))
            rotary = self._integer("rope.dimension_count")
            return Latent(
                heads=heads,
                q_rank=self._integer("attention.q_lora_rank", 0),
                kv_rank=self._integer("attention.kv_lora_rank"),
                nope_dim=whole - rotary,
                rope_dim=rotary,
                v_dim=self._integer("attention.value_length_mla", self._integer("attention.value_length")),
            )
        keys = self._integer("attention.key_length", self._integer("embedding_length") // max(heads, 1))
        values = self._integer("attention.value_length", keys)
        return GroupedQuery(
            heads=heads,
            kv_heads=self._integer("attention.head_count_kv", heads),
            head_dim=keys,
            v_dim=0 if values == keys else values,
            q_rank=0,
        )

    def _windows(self) -> dict[str, Any]:
        if self._family in _CHUNK:
            return {"windows": self._periodic(_CHUNK[self._family]), "chunked": True}
        window = self._integer("attention.sliding_window", 0)
        if not window or window >= self._integer("context_length", window + 1):
            return {}
        pattern = self._value("attention.sliding_window_pattern")
        if isinstance(pattern, list) and len(pattern) >= self._layers:
            return {"windows": tuple(window if sliding else 0 for sliding in pattern[: self._layers])}
        if self._family not in _WINDOW_EVERY:
            self._refuse(f"has a window of {window} tokens, but not which layers see no further; give the model's config.json")
        return {"windows": self._periodic(window)}

    def _periodic(self, window: int) -> tuple[int, ...]:
        period = _WINDOW_EVERY[self._family]
        return tuple(0 if index % period == period - 1 else window for index in range(self._layers))

    # The bytes

    def precision(self, model: Architecture) -> Precision:
        """Bits per weight of each part that give back the bytes of its tensors; experts layer by layer."""
        feed_forward = model.n_moe * model.shared_flops + model.n_dense * model.dense_flops
        attention = self._bits("attention", _ATTENTION, model.layers * (model.qkv_flops + model.output_flops))
        weights = (
            self._bits("shared experts and dense layers", (*_SHARED, *_DENSE), feed_forward) if feed_forward else attention
        )
        projections = 2.0 * model.hidden * model.experts * model.n_moe
        copies = 1 if model.tied_embedding else 2
        parts = Precision(
            weights=weights,
            attention=attention,
            router=self._bits("routers", _ROUTER, projections),
            embeddings=self._stored("embeddings", self._whole.values(), copies * model.head_flops),
        )
        return Precision(**{**parts.model_dump(), "experts": self._experts(model.with_precision(parts))})

    def _bits(self, part: str, names: Iterable[str], flops: float) -> str:
        doubled = "attn_k_b" in self._blocks[0]  # some conversions keep the matrix beside its two halves
        chosen = [name for name in names if not (doubled and name == "attn_kv_b")]
        return self._stored(part, (block[name] for block in self._blocks for name in chosen if name in block), flops)

    def _experts(self, model: Architecture) -> str | tuple[str, ...]:
        """The bits of the matrices of one expert in each MoE layer; biases count in the precision of other weights."""
        layers = []
        for index in self._moe:
            block = self._blocks[index]
            matrices = [block[name] for name in _EXPERTS if name in block]
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
            self._refuse(f"its keys describe {weights:,} weights of {part}, and its tensors hold {numbers:,}")
        return from_bits(8.0 * (sum(tensor.nbytes for tensor in held) + beyond) / weights)
