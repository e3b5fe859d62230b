"""So what: the placement of a finished run as what its user types for a real serving program.

One module for each program; none runs one. Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from moesim.errors import InputError, Mistake, did_you_mean

__all__ = ["TOOLS", "writer_of"]

TOOLS = {
    "llama-cpp": "moesim.exports.llama_cpp",
    "ktransformers": "moesim.exports.ktransformers",
    "vllm": "moesim.exports.vllm",
    "sglang": "moesim.exports.sglang",
}
"""Name of a program -> module with its `export(placed) -> Exported`."""


def writer_of(tool: str) -> Any:
    """The function that makes the words of `tool`. Raises InputError where there is none."""
    if tool not in TOOLS:
        raise InputError(Mistake(f"unknown program '{tool}'; known: {', '.join(TOOLS)}.{did_you_mean(tool, TOOLS)}"))
    return importlib.import_module(TOOLS[tool]).export
