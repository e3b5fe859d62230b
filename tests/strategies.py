"""Hypothesis strategies for worlds of the engine."""

from __future__ import annotations

from typing import Any

import engine_worlds
from hypothesis import strategies as st


def pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def knobs(draw: st.DrawFn, **fixed: Any) -> Any:
    """Any world; `fixed` pins some of its knobs."""
    cxl = draw(st.integers(0, 2))
    cpu = draw(st.booleans())
    chosen = {
        "seed": draw(st.integers(0, 999)),
        "layers": draw(st.integers(1, 3)),
        "dense": draw(st.integers(0, 2)),
        "experts": draw(pick(2, 4, 7)),
        "top_k": draw(st.integers(1, 2)),
        "shared": draw(st.booleans()),
        "window": draw(pick(0, 3)),
        "cpu": cpu,
        "cxl": cxl,
        "ndp": draw(st.integers(0, cxl)),
        "gpus": draw(pick(0, 0, 1, 2)),
        "setup": draw(pick(1e-6, 0.0, 2e-5)),
        "latency": draw(pick(0.0, 1e-7)),
        "chunk": draw(pick(None, None, 20e3)),
        "pcie": draw(pick(20e9, 3e9, 7e9)),
        "total": draw(pick(None, 60e9, 8e9)),
        "both": draw(pick(None, 30e9, 5e9)),
        "launch": draw(pick(5e-6, 0.0)),
        "fused": draw(st.booleans()),
        "sync": draw(pick(0.0, 3e-6)),
        "requests": draw(st.integers(1, 4)),
        "prompt": draw(pick(5, 1, 40)),
        "output": draw(st.integers(1, 4)),
        "attention": draw(pick(True, True, True, False)),
        "batch": draw(st.integers(1, 4)),
        "micro": draw(st.integers(1, 4)),
        "expert_batch": draw(pick(0, 0, 1, 3)),
        "staging": draw(pick(8, 2, 1)),
        "serial": draw(st.booleans()),
        "kv": draw(pick("hbm", "ddr", *(f"cxl{i}" for i in range(cxl)))),
        "places": draw(pick("ggg", *(("gcg", "ccc", "cgg", "ggc", "gcc") if cpu else ()))),
        "compression": draw(pick(1.0, 4.0)),
        "residents": draw(pick(0.3, 0.0, 1.0)),
        "off_gpu": draw(pick(0.5, 0.0, 1.0)),
        "ordered": draw(st.booleans()),
        "streamed": draw(st.booleans()),
        "drive": draw(pick(False, False, True)),
    }
    world = {**chosen, **fixed}
    if world["kv"] == "hbm" and world["places"][1] == "c":  # a core off the GPU keeps its cache in host memory
        world["kv"] = "ddr"
    return engine_worlds.Knobs(**world)


@st.composite
def moving(draw: st.DrawFn, **fixed: Any) -> Any:
    """A world whose policy moves copies all the time."""
    moves = {
        "prefetch": draw(pick(0.3, 0.0, 0.8)),
        "evict": draw(pick(0.3, 0.0, 0.6)),
        "keep": draw(pick(0.5, 0.0)),
        "migrate": draw(pick(0.3, 0.0)),
        "replicate": draw(pick(0.0, 0.3)),
        "swap": draw(pick(0, 1, 3)),
        "pieces": draw(pick(1, 1, 3)),
        "layers": draw(st.integers(2, 3)),
        "output": draw(st.integers(2, 5)),
        "streamed": False,
    }
    return draw(knobs(**{**moves, **fixed}))
