"""Experiments as `experiment.json` describes them, for tests of what is made of their rows."""

from __future__ import annotations

from typing import Any

from moesim.results.sweeps.description import DescribedAxis, Description

__all__ = ["axis", "description", "row"]


def axis(column: str, *values: Any, name: str = "", scale: str = "linear") -> DescribedAxis:
    """An axis of one column."""
    return DescribedAxis(name=name or column, columns=(column,), column=column, unit="", scale=scale, values=values)


def description(*axes: DescribedAxis, **changes: Any) -> Description:
    """A grid over `axes` of two policies, whose highest throughput is looked for."""
    fields: dict[str, Any] = {
        "name": "small", "summary": "", "source": "", "expect": "", "scenario": "quickstart", "metric": "throughput_tok_s",
        "goal": "highest", "constraints": (), "level": 0.95, "axes": axes, "design": {"kind": "grid"},
        "policies": ("lru", "static"), "replications": 2, "warm_up": "auto", "points": 0, "data": {}, "version": "0",
        "physics": "", "provenance": {},
    }  # fmt: skip
    return Description(**{**fields, **changes})


def row(policy: str, speed: float | None = None, replicate: int = 0, **fields: Any) -> dict[str, Any]:
    """A point that was run, as a table holds it: `speed` is its throughput, tokens per second; `fields` are axes, too."""
    return {
        "point": f"{policy}-{replicate}", "policy": policy, "seed": 0, "replicate": replicate, "status": "done", "error": None,
        "throughput_tok_s": speed, **fields,
    }  # fmt: skip
