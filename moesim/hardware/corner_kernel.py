"""Corners of rooflines, rounded by a p-norm, as numba compiles them; `experts.p_norm` says the same, to the same bits.

Runs as plain Python, too, slowly.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from moesim.hardware import portable_kernel
from moesim.hardware.portable_kernel import power, root

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "SOURCES"]

Array = NDArray[Any]


def norms(smaller: Array, larger: Array, exponents: Array) -> int:
    """Makes (`smaller`^q + `larger`^q)^(1/q) of `larger` [n]; numbers are not negative. `exponents` [2]: q and 1/q."""
    q, inverse = exponents[0], exponents[1]
    for place in range(len(larger)):
        large = larger[place]
        ratio = smaller[place] / large if large > 0.0 else 0.0
        x = 1.0 + power(ratio, q)
        if q == 1.5:
            larger[place] = large * root(x * x)
        elif q == 3.0:
            larger[place] = large * root(x)
        else:
            larger[place] = large * power(x, inverse)
    return len(larger)


SOURCES = (portable_kernel,)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (*portable_kernel.FUNCTIONS, norms)
"""What `moesim.jit` compiles."""
ENTRIES = (norms,)
"""What others call."""
BUFFERS = dict.fromkeys(("smaller", "larger", "exponents"), "float64[::1]")
"""Parameters of the entries that are arrays."""
