"""Owns the indexer of sparse attention: what it weighs, keeps and computes to choose the tokens that a query attends to.

Knows nothing of bytes per number, nor of the attention that works on the chosen tokens.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moesim.spec import Spec

__all__ = ["Indexer"]

Count = Annotated[int, Field(gt=0)]


class Indexer(Spec):
    """Light heads that score every earlier token, so that attention proper sees only the best `tokens` of them.

    Its heads share one key per token, which has a cache of its own; scores are summed over heads.

    Source: DeepSeek sparse attention, DeepSeek-V3.2 technical report, section 2.1; GLM-5, whose layers may share a choice;
    MiniMax-M3, which chooses blocks of 128 tokens for each group of key-value heads.
    Valid: scores count in FLOP of the format of activations (FP8 kernels take half the time); choosing the best scores and the
    local blocks of MiniMax-M3, which are among those chosen, cost nothing.
    """

    heads: Count
    """Heads that score."""
    head_dim: Count
    """Width of one of them, and of the key that they share."""
    tokens: Count
    """Tokens that a query attends to at most."""
    query_rank: int = Field(0, ge=0)
    """Rank of the compressed queries of attention, from which those of the indexer are made; 0 when from the hidden state."""
    weighted: bool = True
    """Whether a projection of the hidden state weighs the heads' scores."""

    def parameters(self, hidden: int, compressed: bool = False) -> int:
        """Weights of the projections to queries, to the key and to the weights of heads.

        `compressed`: the key stands for several tokens (DeepSeek-V4) and is made of two overlapping ones, each with a gate.
        """
        queries = (self.query_rank or hidden) * self.heads * self.head_dim
        return queries + hidden * self.head_dim * (4 if compressed else 1) + (hidden * self.heads if self.weighted else 0)

    @property
    def score_flops(self) -> int:
        """FLOP per pair of a query and an earlier token: a multiply-add per number of the key in each head."""
        return 2 * self.heads * self.head_dim
