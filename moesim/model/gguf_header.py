"""Owns the keys and tensors of a GGUF file as its architecture names them, tensors by decoder layer.

Knows the names that llama.cpp gives to tensors; reads no file, and knows nothing of what they make of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from moesim.errors import InputError, Mistake, excerpt
from moesim.model.gguf_file import Gguf, Tensor

__all__ = ["ATTENTION", "DENSE", "EXPERTS", "ROUTER", "SHARED", "Header"]

EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps")
SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
DENSE = ("ffn_gate", "ffn_up", "ffn_down")
ATTENTION = (
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b",
    "attn_output", "attn_gate", "ssm_in", "ssm_ba", "ssm_alpha", "ssm_beta", "ssm_conv1d", "ssm_out",
    "indexer.attn_q_b", "indexer.attn_k", "indexer.proj",
)  # fmt: skip
ROUTER = ("ffn_gate_inp",)
_LEFT_OUT = re.compile(r".*norm.*|.*\.bias|attn_sinks.*|exp_probs_b.*|ffn_gate_inp_shexp\.weight|rope_freqs.*|.*\.scale|ssm_a")
"""Vectors, which moesim leaves out of every sum for any model."""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\Z")
_OUTSIDE = ("token_embd.weight", "output.weight")
_DENSE_FAMILIES = ("gemma3", "llama", "qwen2", "qwen3", "qwen35")
"""Architectures without experts, whose feed-forward block is read as the only expert of its layer."""
_AS_EXPERTS = dict(zip(DENSE, EXPERTS, strict=False))


class Header:
    """One header: its keys without the architecture in front, its tensors by block.

    `blocks`: a mapping of names to tensors for each decoder layer; `whole`: the tensors outside layers; `moe`: layers with
    experts.
    """

    def __init__(self, gguf: Gguf, shown: str) -> None:
        self._metadata, self.shown = gguf.metadata, shown
        self.family = str(gguf.metadata.get("general.architecture", ""))
        if not self.family:
            self.refuse("has no general.architecture, so it is not a model (an importance matrix, or a part of one?)")
        self.layers = self.integer("block_count") - self.integer("nextn_predict_layers", 0)
        if not 0 < self.layers <= len(gguf.tensors):
            self.refuse(f"claims {self.layers:,} layers, and has {len(gguf.tensors):,} tensors")
        self.blocks: list[dict[str, Tensor]] = [{} for _ in range(self.layers)]
        self.whole: dict[str, Tensor] = {}
        for tensor in gguf.tensors.values():
            self._sort(tensor)
        self.dense = self.family in _DENSE_FAMILIES and all("ffn_down" in block for block in self.blocks)
        if self.dense:
            self.blocks = [_as_experts(block) for block in self.blocks]
        self.moe = [index for index, block in enumerate(self.blocks) if "ffn_down_exps" in block]
        if not self.moe:
            self.refuse("has no tensors of experts (ffn_down_exps), and is not of a family that is known to be dense")

    def refuse(self, message: str) -> NoReturn:
        raise InputError(Mistake(message, file=self.shown))

    def _sort(self, tensor: Tensor) -> None:
        """Puts a tensor with its block; blocks past the last are of multi-token prediction, which is not part of a model."""
        block = _BLOCK.match(tensor.name)
        if block is None:
            if tensor.name in _OUTSIDE:
                self.whole[tensor.name] = tensor
            elif not _LEFT_OUT.match(tensor.name):
                self.refuse(f"has the tensor '{excerpt(tensor.name)}', which moesim does not model")
            return
        index, name = int(block[1]), block[2]
        if index >= self.layers:
            return
        known = (*EXPERTS, *SHARED, *DENSE, *ATTENTION, *ROUTER)
        if name.removesuffix(".weight") in known or name.removesuffix(".bias") in EXPERTS:
            self.blocks[index][name.removesuffix(".weight")] = tensor
        elif not _LEFT_OUT.match(name):
            self.refuse(f"has the tensor '{excerpt(tensor.name)}', which moesim does not model")

    def value(self, key: str) -> Any:
        """The value of a key of the architecture, None where it is not there."""
        return self._metadata.get(f"{self.family}.{key}")

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number of a key, or of a list of one for all layers; refused where it is missing without a default."""
        value = self.value(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            problem = "is missing" if value is None else f"is {excerpt(str(value))}; one whole number for all layers is read"
            self.refuse(f"{self.family}.{key} {problem}")
        return value

    def alike(self, name: str, blocks: Iterable[int], dimensions: int) -> tuple[int, ...]:
        """The shape that a tensor has in all of some blocks."""
        shapes = {block[name].shape for block in (self.blocks[index] for index in blocks) if name in block}
        if len(shapes) != 1 or len(next(iter(shapes))) != dimensions:
            text = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)) or "none"
            self.refuse(f"the shapes of {name} are {text}; one of {dimensions} dimensions is read for all layers")
        return next(iter(shapes))

    def holding(self, name: str) -> list[int]:
        """The layers that have a tensor."""
        return [index for index, block in enumerate(self.blocks) if name in block]


def _as_experts(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """A block whose feed-forward tensors are those of a single expert."""
    return {
        _AS_EXPERTS.get(name, name): tensor._replace(shape=(*tensor.shape, 1)) if name in DENSE else tensor
        for name, tensor in block.items()
    }
