"""Owns the kinds of attention: what one layer of each weighs, keeps and computes, counted in numbers and FLOPs.

Knows nothing of bytes per number, nor of which layers of a model have which kind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from moesim.spec import Spec

__all__ = ["AnyAttention", "Attention", "GroupedQuery", "Latent", "Linear"]

Count = Annotated[int, Field(gt=0)]


class GroupedQuery(Spec):
    """Softmax attention whose query heads share key-value heads; `kv_heads == heads` is multi-head, 1 is multi-query.

    Source: Ainslie et al. 2023, arXiv:2305.13245. Biases and norms of queries and keys are left out.
    """

    kind: Literal["gqa"] = "gqa"
    heads: Count
    """Query heads."""
    kv_heads: Count
    """Key-value heads."""
    head_dim: Count
    """Width of one head."""
    v_dim: int = Field(0, ge=0)
    """Width of a head's value; 0 when as wide as the head (MiMo-V2 has narrower ones)."""
    q_rank: int = Field(0, ge=0)
    """Rank of the compressed queries; 0 when queries are not compressed (Step-3 has compressed ones)."""
    gated: bool = False
    """Whether the output is multiplied by a learnt gate as wide as it (Qwen3-Next)."""
    values_are_keys: bool = False
    """Whether one projection makes keys and values (Gemma-4); the cache keeps both, since only keys are rotated."""
    one_entry: bool = False
    """Whether a key is its value, too, and the cache keeps it once (DeepSeek-V4)."""
    output_rank: Annotated[int, Field(ge=0)] = 0
    """Width to which the output of each group of heads is projected first; 0 for one projection of all (DeepSeek-V4)."""
    output_groups: Count = 1
    """Groups of heads of that projection."""

    @field_validator("kv_heads")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads")
        if heads is not None and heads % value:
            raise ValueError(f"{value} key-value heads cannot be shared evenly by {heads} query heads; it must divide {heads}")
        return value

    @property
    def value_width(self) -> int:
        """Width of a head's value, resolved."""
        return self.v_dim or self.head_dim

    def qkv_parameters(self, hidden: int) -> int:
        """Weights of the projections to queries, keys and values (and to the gate)."""
        queries = self.heads * self.head_dim
        to_queries = self.q_rank * (hidden + queries) if self.q_rank else hidden * queries
        to_gate = hidden * self.heads * self.value_width if self.gated else 0
        to_values = 0 if self.values_are_keys or self.one_entry else self.value_width
        return to_queries + to_gate + hidden * self.kv_heads * (self.head_dim + to_values)

    def output_parameters(self, hidden: int) -> int:
        """Weights of the projection back to the hidden state."""
        if not self.output_rank:
            return self.heads * self.value_width * hidden
        return self.output_rank * (self.heads * self.value_width + self.output_groups * hidden)

    @property
    def cached(self) -> int:
        """Numbers kept per token: a key and a value per key-value head, or a key that is both."""
        return self.kv_heads * (self.head_dim + (0 if self.one_entry else self.value_width))

    @property
    def fresh(self) -> int:
        """Numbers per token that the core reads beside the queries in prefill."""
        return self.cached

    @property
    def state(self) -> int:
        """Numbers kept per sequence, whatever its length: none."""
        return 0

    @property
    def qkv_width(self) -> int:
        """Numbers per token that go into the core: queries, keys, values."""
        return self.heads * self.head_dim + self.cached

    @property
    def core_width(self) -> int:
        """Numbers per token that come out of the core."""
        return self.heads * self.value_width

    @property
    def decode_flops(self) -> int:
        """FLOP per token attended to: a multiply-add per number of the key, and of the value, in each head."""
        return 2 * self.heads * (self.head_dim + self.value_width)

    @property
    def prefill_flops(self) -> int:
        """FLOP per pair of a query and a key that it may see."""
        return self.decode_flops

    @property
    def expansion_flops(self) -> int:
        """FLOP per cached token that a later part of its prompt attends to, before its keys and values can be used: none."""
        return 0


class Latent(Spec):
    """Multi-head latent attention (MLA): the cache keeps one compressed latent and one rotary key per token.

    Prefill expands the latent to full keys and values. Decode multiplies the expansion into queries and outputs instead
    (absorption) and reads `kv_rank + rope_dim` numbers per token attended to; the projections cost the same FLOPs in both
    forms. Here the key half of the expansion belongs to the QKV projection and the value half to the output projection,
    so that the core itself has no weights.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C. Norms of the latents are left out.
    """

    kind: Literal["mla"] = "mla"
    heads: Count
    """Heads."""
    q_rank: int = Field(0, ge=0)
    """Rank of the compressed queries; 0 when queries are not compressed (DeepSeek-V2-Lite)."""
    kv_rank: Count
    """Rank of the compressed keys and values."""
    nope_dim: Count
    """Width of the part of a head without position."""
    rope_dim: int = Field(ge=0)
    """Width of the rotary part of a head; the rotary key is shared by all heads. 0 without positions."""
    v_dim: Count
    """Width of a head's value."""
    gated: bool = False
    """Whether the output is multiplied by a learnt gate as wide as the values of all heads (Kimi-K3)."""
    absorbed: bool = False
    """Whether prompts attend in the absorbed form, too; a runtime says so (`gpu.attention.absorbed`)."""

    def qkv_parameters(self, hidden: int) -> int:
        """Weights of the projections to queries and latent (and to the gate), and of the expansion to keys."""
        queries = self.heads * (self.nope_dim + self.rope_dim)
        to_queries = self.q_rank * (hidden + queries) if self.q_rank else hidden * queries
        to_gate = hidden * self.heads * self.v_dim if self.gated else 0
        return to_queries + to_gate + hidden * (self.kv_rank + self.rope_dim) + self.kv_rank * self.heads * self.nope_dim

    def output_parameters(self, hidden: int) -> int:
        """Weights of the expansion to values and of the projection back to the hidden state."""
        return self.heads * self.v_dim * (self.kv_rank + hidden)

    @property
    def cached(self) -> int:
        """Numbers kept per token: latent and rotary key."""
        return self.kv_rank + self.rope_dim

    @property
    def fresh(self) -> int:
        """Numbers per token that the core reads beside the queries in prefill: expanded keys and values, or latents."""
        return self.cached if self.absorbed else self.heads * (self.nope_dim + self.v_dim) + self.rope_dim

    @property
    def state(self) -> int:
        """Numbers kept per sequence, whatever its length: none."""
        return 0

    @property
    def qkv_width(self) -> int:
        """Numbers per token that go into the absorbed core: in each head a query as wide as the cache, and the latent."""
        return (self.heads + 1) * self.cached

    @property
    def core_width(self) -> int:
        """Numbers per token that come out of the absorbed core: one latent per head."""
        return self.heads * self.kv_rank

    @property
    def decode_flops(self) -> int:
        """FLOP per token attended to, absorbed: scores over `kv_rank + rope_dim` and sums over `kv_rank` in each head."""
        return 2 * self.heads * (2 * self.kv_rank + self.rope_dim)

    @property
    def prefill_flops(self) -> int:
        """FLOP per pair of a query and a key that it may see, expanded unless `absorbed`."""
        expanded = 2 * self.heads * (self.nope_dim + self.rope_dim + self.v_dim)
        return self.decode_flops if self.absorbed else expanded

    @property
    def expansion_flops(self) -> int:
        """FLOP per cached token that a later part of its prompt attends to: its latent becomes keys and values once more."""
        return 0 if self.absorbed else 2 * self.kv_rank * self.heads * (self.nope_dim + self.v_dim)


class Linear(Spec):
    """Linear attention: a state of `key_dim x value_dim` per head instead of a cache.

    Lightning attention, the gated delta rule, Kimi's delta attention, and state-space layers: Mamba-2 is linear attention whose
    keys and queries (B and C) are shared by the heads of a group, and a Mamba-1 layer has a single head as wide as its inner
    state. A short convolution (LFM2) has a head per channel with a state of one number.

    Source: Lightning Attention-2, arXiv:2401.04658; MiniMax-01, arXiv:2501.08313; gated delta networks, arXiv:2412.06464; Kimi
    Linear, arXiv:2510.26692; Mamba-2, arXiv:2405.21060; Mamba, arXiv:2312.00752.
    Valid: one update and one read of the state per token; the delta rule's extra correction (a further read), the few tokens
    that short convolutions keep, and norms are left out.
    """

    kind: Literal["linear"] = "linear"
    heads: Count
    """Value heads, each with a state."""
    key_heads: Count
    """Heads of queries and keys, shared by value heads where there are fewer."""
    key_dim: Count
    """Width of one query or key."""
    value_dim: Count
    """Width of one value."""
    gated: bool = True
    """Whether the output is multiplied by a learnt gate as wide as the values."""
    block: Count = 256
    """Tokens that prefill treats as one block: causal pairs inside it, the state between blocks."""
    extra: int = Field(0, ge=0)
    """Further weights of one layer: low-rank gates, decay, step sizes, short convolutions."""

    @field_validator("key_heads")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads")
        if heads is not None and heads % value:
            raise ValueError(f"{value} key heads cannot be shared evenly by {heads} value heads; it must divide {heads}")
        return value

    def qkv_parameters(self, hidden: int) -> int:
        """Weights of the projections to queries, keys and values (and to the gate)."""
        values = self.heads * self.value_dim * (2 if self.gated else 1)
        return hidden * (2 * self.key_heads * self.key_dim + values) + self.extra

    def output_parameters(self, hidden: int) -> int:
        """Weights of the projection back to the hidden state."""
        return self.heads * self.value_dim * hidden

    @property
    def cached(self) -> int:
        """Numbers kept per token: none."""
        return 0

    @property
    def fresh(self) -> int:
        """Numbers per token that the core reads beside the queries in prefill."""
        return self.key_heads * self.key_dim + self.heads * self.value_dim

    @property
    def state(self) -> int:
        """Numbers kept per sequence, whatever its length."""
        return self.heads * self.key_dim * self.value_dim

    @property
    def qkv_width(self) -> int:
        """Numbers per token that go into the core: queries, keys, values."""
        return 2 * self.key_heads * self.key_dim + self.heads * self.value_dim

    @property
    def core_width(self) -> int:
        """Numbers per token that come out of the core."""
        return self.heads * self.value_dim

    @property
    def decode_flops(self) -> int:
        """FLOP per new token: one multiply-add per number of the state to update it, one to read it."""
        return 4 * self.state

    @property
    def prefill_flops(self) -> int:
        """FLOP per prompt token: the state as in decode, and on average half a block of pairs in each head."""
        return self.decode_flops + self.heads * self.block * (self.key_dim + self.value_dim)

    @property
    def expansion_flops(self) -> int:
        """FLOP per cached token that a later part of its prompt attends to: nothing is cached."""
        return 0


Attention = Annotated[GroupedQuery | Latent, Field(discriminator="kind")]
"""What a file may give as the attention of the layers with a cache."""
AnyAttention = GroupedQuery | Latent | Linear
"""Any of them, including the kind that a model has beside its main one."""
