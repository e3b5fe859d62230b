"""Owns how an expert is computed by the libraries that are there: numpy, and torch with oneDNN where it is installed.

Knows products of matrices; not how long they take. An expert is its three products (gate, up, down) and the product of gate
and up; the activation function, which a good kernel hides in them, is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Library", "libraries", "numpy_products", "numpy_rows", "torch_products"]

Expert = tuple[Any, Any, Any]
"""Gate and up [width, hidden], down [hidden, width], as the library stores them."""


class Library(NamedTuple):
    """One way to compute experts on the processor."""

    name: str
    """The kernel's name in a profile."""
    weight: float
    """Bytes of one weight."""
    make: Callable[[int, int], Expert]
    """Weights of an expert: hidden, width."""
    inputs: Callable[[int, int], Any]
    """Hidden states: tokens, hidden."""
    run: Callable[[Any, Expert], Any]
    """An expert on hidden states."""
    tokens: tuple[int, ...]
    """Token counts that it is measured at."""
    says: str
    """What it is, for the source of its values."""


PRODUCTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROWS = (1, 2, 3, 4, 6, 8)


def libraries() -> list[Library]:
    """Those that this Python can load."""
    available = [numpy_rows(), numpy_products()]
    if importlib.util.find_spec("torch") is not None:
        with contextlib.suppress(ImportError, OSError):  # there, but not for this machine
            available += torch_products(importlib.import_module("torch"))
    return available


def _filled(rows: int, columns: int) -> Any:
    return np.full((rows, columns), 0.01, dtype=np.float32)


def numpy_products() -> Library:
    """All tokens in one product; from 2 tokens, because numpy takes another routine for one."""

    def run(x: Any, expert: Expert) -> Any:
        gate, up, down = expert
        inner = x @ gate.T
        inner *= x @ up.T
        return inner @ down.T

    return Library("numpy_fp32", 4.0, _expert, _filled, run, PRODUCTS[1:], "numpy, float32, one product for all tokens")


def numpy_rows() -> Library:
    """Token by token: matrix times vector, which libraries do not repack weights for, so it wins at few tokens."""

    def run(x: Any, expert: Expert) -> Any:
        gate, up, down = expert
        return [down @ ((gate @ row) * (up @ row)) for row in x]

    return Library("numpy_rows_fp32", 4.0, _expert, _filled, run, ROWS, "numpy, float32, token by token")


def _expert(hidden: int, width: int) -> Expert:
    return _filled(width, hidden), _filled(width, hidden), _filled(hidden, width)


def torch_products(torch: Any) -> list[Library]:
    """float32, bfloat16 and 8-bit integers, as far as this build of torch can do them."""
    version = torch.__version__
    candidates = [
        _torch(torch, "torch_fp32", torch.float32, 4.0, f"torch {version}, float32"),
        _torch(torch, "torch_bf16", torch.bfloat16, 2.0, f"torch {version}, bfloat16"),
    ]
    if hasattr(torch, "_int_mm"):
        candidates.append(_torch_int8(torch, f"torch {version}, 8-bit integers, activations too"))
    return [library for library in candidates if _works(library)]


def _torch(torch: Any, name: str, dtype: Any, weight: float, says: str) -> Library:
    linear = torch.nn.functional.linear

    def filled(rows: int, columns: int) -> Any:
        return torch.full((rows, columns), 0.01, dtype=dtype)

    def run(x: Any, expert: Expert) -> Any:
        with torch.inference_mode():
            gate, up, down = expert
            return linear(linear(x, gate).mul_(linear(x, up)), down)

    def make(hidden: int, width: int) -> Expert:
        return filled(width, hidden), filled(width, hidden), filled(hidden, width)

    return Library(name, weight, make, filled, run, PRODUCTS, says)


def _torch_int8(torch: Any, says: str) -> Library:
    def filled(rows: int, columns: int) -> Any:
        return torch.ones((rows, columns), dtype=torch.int8)

    def run(x: Any, expert: Expert) -> Any:
        with torch.inference_mode():
            gate, up, down = expert
            inner = torch._int_mm(x, gate.t()).mul_(torch._int_mm(x, up.t()))
            return torch._int_mm(inner.to(torch.int8), down.t())

    def make(hidden: int, width: int) -> Expert:
        return filled(width, hidden), filled(width, hidden), filled(hidden, width)

    return Library("torch_int8", 1.0, make, filled, run, PRODUCTS, says)


def _works(library: Library) -> bool:
    try:
        library.run(library.inputs(2, 64), library.make(64, 32))
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return False
    return True
