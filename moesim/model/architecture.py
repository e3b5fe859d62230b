"""Owns what follows from the shape of a model: what it weighs, and what is computed and moved per token, layer and sequence.

Knows nothing of hardware: everything here is bytes and FLOPs, never seconds.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import numpy as np
from pydantic import ValidationInfo, field_validator

from moesim.arrays import FloatArray
from moesim.model.attention import Latent
from moesim.model.attention_work import AttentionWork
from moesim.model.mixtures import mixture
from moesim.model.precision import Precision

__all__ = ["Architecture"]


class Architecture(AttentionWork):
    """The shape of a model; its properties are floats in bytes, FLOP or numbers of parameters.

    A multiply-add counts 2 FLOP. Norms, attention biases and router biases (together below 0.1 % of any named model) are left
    out of every sum, as are softmax, activation functions and rotary embedding. Where layers differ in attention
    (`linear_layers`), a figure "of one layer" is the mean over the decoder layers, so that `layers` times it is the model's.
    """

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_by_name(cls, value: Any, info: ValidationInfo) -> Any:
        """A name for the whole model, as it is written (`Q4_K_M`, `fp8`), stands for what the model's parts have by it."""
        if not isinstance(value, str):
            return value
        needed = {name for name, field in cls.model_fields.items() if field.is_required()}
        if not needed <= set(info.data):
            return Precision()  # what else is wrong is said there
        return mixture(value, cls(**{**info.data, "precision": Precision()}))

    @field_validator("precision")
    @classmethod
    def _precision_of_each_layer(cls, value: Precision, info: ValidationInfo) -> Precision:
        layers = len(info.data.get("moe_layers", ()))
        if layers and not isinstance(value.experts, str) and len(value.experts) != layers:
            raise ValueError(f"{len(value.experts)} formats of experts for {layers} MoE layers; write one for all, or one each")
        return value

    def with_precision(self, precision: Precision | None = None, **parts: str | tuple[str, ...]) -> Self:
        """The same model in another precision: a whole one, or some parts of the present one (`experts="int4"`)."""
        base = self.precision if precision is None else precision
        changed = Precision(**{**base.model_dump(), **parts})
        return self.model_copy(update={"precision": changed})

    def absorbed(self) -> Self:
        """The same model whose prompts attend to latents as they are; itself without latent attention (MLA)."""
        if not isinstance(self.attention, Latent) or self.attention.absorbed:
            return self
        return self.model_copy(update={"attention": self.attention.model_copy(update={"absorbed": True})})

    # Layers

    @property
    def n_moe(self) -> int:
        """MoE layers (L)."""
        return len(self.moe_layers)

    @property
    def n_dense(self) -> int:
        """Decoder layers with a feed-forward block that is not made of experts."""
        return self.layers - self.n_moe - len(self.bare_layers)

    # Experts

    @property
    def expert_parameters(self) -> float:
        """Parameters of one routed expert of one layer, biases included."""
        return self._expert_matrices + self._expert_biases

    @property
    def expert_state(self) -> int:
        """Width of the state that routed experts work on."""
        return self.expert_hidden or self.hidden

    @property
    def _expert_matrices(self) -> float:
        return float(self.matrices * self.expert_state * self.expert_width)

    @property
    def _expert_biases(self) -> float:
        return float((self.matrices - 1) * self.expert_width + self.expert_state) if self.expert_bias else 0.0

    @property
    def expert_bias_bytes(self) -> float:
        """Bytes of the biases of one routed expert of one layer."""
        return self._expert_biases * self._weight

    def expert_bytes_in(self, precision: str) -> float:
        """Bytes of one routed expert of one layer, its matrices in `precision` and its biases as other weights."""
        return self._expert_matrices * Precision.bytes_of(precision) + self.expert_bias_bytes

    @property
    def expert_bytes_by_layer(self) -> FloatArray:
        """[n_moe] bytes of one routed expert of each MoE layer."""
        formats = self.precision.experts
        if isinstance(formats, str):
            return np.full(self.n_moe, self.expert_bytes_in(formats))
        return np.array([self.expert_bytes_in(name) for name in formats])

    @cached_property
    def expert_bytes(self) -> float:
        """Bytes of one routed expert of one layer: the unit that a placement moves. The mean where layers differ."""
        formats = self.precision.experts
        return self.expert_bytes_in(formats) if isinstance(formats, str) else float(self.expert_bytes_by_layer.mean())

    @property
    def expert_flops(self) -> float:
        """FLOP of one token through one expert."""
        return 2.0 * self._expert_matrices

    @property
    def all_expert_bytes(self) -> float:
        """Bytes of all routed experts of all layers."""
        return self.n_moe * self.experts * self.expert_bytes

    # Everything else with weights

    @property
    def _weight(self) -> float:
        return Precision.bytes_of(self.precision.weights)

    @property
    def _attention_weight(self) -> float:
        return Precision.bytes_of(self.precision.attention_name)

    @cached_property
    def qkv_bytes(self) -> float:
        """Bytes of the QKV projection of one layer, with those of indexers and compressed entries."""
        return self._qkv_parameters * self._attention_weight

    @cached_property
    def _qkv_parameters(self) -> float:
        """Weights that take the hidden state of one layer to what its attention core works on."""
        own = self._mean(lambda kind: kind.qkv_parameters(self.hidden))
        return own + self.compressor_parameters + self.indexer_parameters

    @property
    def qkv_flops(self) -> float:
        """FLOP of the QKV projection of one token in one layer."""
        return 2.0 * self._qkv_parameters

    @cached_property
    def output_bytes(self) -> float:
        """Bytes of the output projection of one layer."""
        return self._mean(lambda kind: kind.output_parameters(self.hidden)) * self._attention_weight

    @cached_property
    def output_flops(self) -> float:
        """FLOP of the output projection of one token in one layer."""
        return 2.0 * self._mean(lambda kind: kind.output_parameters(self.hidden))

    @property
    def _latent(self) -> float:
        """Weights of the projections down to the state of the experts and up from it, in one MoE layer."""
        return 2.0 * self.hidden * self.expert_hidden

    @cached_property
    def router_bytes(self) -> float:
        """Bytes of the router of one MoE layer, and of the projections to a narrower state of the experts."""
        return self.hidden * self.experts * Precision.bytes_of(self.precision.router_name) + self._latent * self._weight

    @property
    def router_flops(self) -> float:
        """FLOP of the router (and of these projections) for one token in one MoE layer."""
        return 2.0 * (self.hidden * self.experts + self._latent)

    @cached_property
    def shared_bytes(self) -> float:
        """Bytes of all shared experts of one MoE layer."""
        return self.matrices * self.hidden * self.shared_width * self._weight

    @property
    def shared_flops(self) -> float:
        """FLOP of all shared experts for one token in one MoE layer."""
        return 2.0 * self.matrices * self.hidden * self.shared_width

    @property
    def dense_bytes(self) -> float:
        """Bytes of the feed-forward block of one layer without experts."""
        return self.matrices * self.hidden * self.dense_width * self._weight

    @property
    def dense_flops(self) -> float:
        """FLOP of the feed-forward block for one token in one layer without experts."""
        return 2.0 * self.matrices * self.hidden * self.dense_width

    @property
    def embedding_bytes(self) -> float:
        """Bytes of the input embedding."""
        return self.vocab * self.hidden * Precision.bytes_of(self.precision.embedding_name)

    @property
    def head_bytes(self) -> float:
        """Bytes of the LM head that one pass reads; the very bytes of the input embedding when it is tied."""
        return self.embedding_bytes

    @property
    def head_flops(self) -> float:
        """FLOP of the LM head for one token."""
        return 2.0 * self.vocab * self.hidden

    @cached_property
    def non_expert_bytes(self) -> float:
        """Bytes of everything but routed experts: attention, router, shared experts, dense layers, embeddings."""
        per_moe_layer = self.router_bytes + self.shared_bytes
        embeddings = self.embedding_bytes * (1 if self.tied_embedding else 2)
        attention = self.layers * (self.qkv_bytes + self.output_bytes)
        return attention + self.n_moe * per_moe_layer + self.n_dense * self.dense_bytes + embeddings

    @property
    def non_expert_parameters(self) -> float:
        """Parameters of everything but routed experts."""
        per_moe_layer = self.router_flops + self.shared_flops
        embeddings = self.head_flops * (1 if self.tied_embedding else 2)
        attention = self.layers * (self.qkv_flops + self.output_flops)
        return (attention + self.n_moe * per_moe_layer + self.n_dense * self.dense_flops + embeddings) / 2.0

    @property
    def total_parameters(self) -> float:
        """All parameters."""
        return self.non_expert_parameters + self.n_moe * self.experts * self.expert_parameters

    @property
    def active_parameters(self) -> float:
        """Parameters that take part in one token, both embeddings counted (vendors often leave one out)."""
        return self.non_expert_parameters + self.n_moe * self.top_k * self.expert_parameters

    # Activations

    @property
    def token_bytes(self) -> float:
        """Bytes of the hidden state of one token."""
        return self.hidden * self._activation

    @property
    def expert_token_bytes(self) -> float:
        """Bytes of what one routed expert takes in for one token, and of what it gives back."""
        return self.expert_state * self._activation

    @cached_property
    def qkv_activation_bytes(self) -> float:
        """Bytes per token and layer from the device of the QKV projection to that of the attention core, in decode."""
        return self._mean(lambda kind: kind.qkv_width) * self._activation

    @cached_property
    def core_activation_bytes(self) -> float:
        """Bytes per token and layer from the device of the attention core to that of the output projection, in decode."""
        return self._mean(lambda kind: kind.core_width) * self._activation
