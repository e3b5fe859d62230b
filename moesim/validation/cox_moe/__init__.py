"""Published results of CoX-MoE: its ablation, its gains across a grid, and what its profile says of memory and placement."""

from __future__ import annotations
