"""The law of GPU kernels: its derivative by hand against differences."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.fit import gpu
from moesim.fit.points import Layer

RATE, OWN = 300e12, 2e12
VALUES = {"streaming": 0.8, "efficiency": 0.5, "half": 12.0, "q": 1.7, "activations": 7.0, "launch": 2e-5}


def rows() -> gpu._Rows:
    """Two shapes, few and many tokens, even and skewed."""
    layers = [
        Layer(distribution, f"{experts} experts", experts, top_k, hidden, width, tokens, 1e-3)
        for experts, top_k, hidden, width in ((8, 2, 4096, 14336), (64, 6, 2048, 1408))
        for tokens in (1, 40, 3000)
        for distribution in ("balanced", "power_law_1.2")
    ]
    return gpu._Rows(layers, 16.0)


def predicted(layers: gpu._Rows, **changes: float) -> np.ndarray:
    values = VALUES | changes
    roof = gpu.roofline(values)
    seconds = roof.seconds(layers.tokens, layers.weights, layers.flops, roof.stream(OWN), RATE, OWN)
    return np.log(values["launch"] + layers.sums(seconds))


@pytest.mark.parametrize("parameter", gpu.PARAMETERS, ids=lambda parameter: parameter.name)
def test_slopes_are_those_of_small_differences(parameter) -> None:
    layers, name, step = rows(), parameter.name, 1e-5
    above, below = (predicted(layers, **{name: VALUES[name] * np.exp(sign * step)}) for sign in (1, -1))
    column = gpu._slopes(VALUES, layers, RATE, OWN)[:, gpu.PARAMETERS.index(parameter)]
    assert column == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)
    assert np.abs(column).max() > 1e-3
