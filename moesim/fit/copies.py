"""Fits of copies between host and GPU by size: pinned and pageable.

Knows published points; a link takes over what is found for pinned memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray
from moesim.fit import published
from moesim.fit.solve import Fit, Parameter, Residuals, Values, least_squares, named

__all__ = ["CACHED", "pageable", "pageable_seconds", "pinned", "pinned_seconds"]

CACHED = 64 * 2.0**20
"""Bytes of a pageable source that the host's cache holds: assumed, anything from 16 MiB to 352 MB fits the points."""


def pinned_seconds(values: Values, nbytes: ArrayLike) -> FloatArray:
    """max(floor, setup + bytes / rate) [..]: below the floor a copy costs what issuing it and waiting for it costs."""
    return np.maximum(values["floor"], values["setup"] + np.asarray(nbytes, dtype=np.float64) / values["rate"])


def pageable_seconds(values: Values, nbytes: ArrayLike) -> FloatArray:
    """setup + bytes / rate [..], where `rate` is another for sources that the host's cache holds.

    The driver copies through a pinned buffer: the processor reads the source, from its cache if it can.
    """
    size = np.asarray(nbytes, dtype=np.float64)
    return values["setup"] + size / np.where(size <= CACHED, values["rate_cached"], values["rate"])


def pinned() -> Fit:
    """Pinned copies over PCIe 4 x16: fitted on 64 KiB, 1 MiB, 16 MiB and 1.41 GB, the other three sizes are the test.

    4 KiB took longer than 64 KiB, so no law that grows with the size meets both; the floor is that of the larger one. The
    reverse direction was not measured by size on this host; both at once reach 25.2 GB/s each.
    """
    parameters = (
        Parameter("floor", "s", (3e-5,), 1e-6, 1e-3),
        Parameter("setup", "s", (1.5e-5,), 1e-7, 1e-3),
        Parameter("rate", "B/s", (28e9,), 1e9, 100e9),
    )
    sizes = [65536, 1048576, 16777216, 1410000000]
    split = "fitted on 64 KiB, 1 MiB, 16 MiB and 1.41 GB; 4 KiB, 4 MiB and 352 MB are the test"
    return _fit("pinned", "max(floor, setup + bytes / rate)", published.PINNED, sizes, parameters, split)


def pageable() -> Fit:
    """Pageable copies over PCIe 4 x16: fitted on 1 MiB, 16 MiB and 1.41 GB, tested on 352 MB."""
    parameters = (
        Parameter("setup", "s", (5e-5,), 1e-7, 1e-3),
        Parameter("rate_cached", "B/s", (20e9,), 1e9, 100e9),
        Parameter("rate", "B/s", (20e9,), 1e9, 100e9),
    )
    split = "fitted on 1 MiB, 16 MiB and 1.41 GB; 352 MB is the test"
    law = "setup + bytes / rate, another rate for what the host's cache holds"
    return _fit("pageable", law, published.PAGEABLE, [1048576, 16777216, 1410000000], parameters, split)


def _fit(
    memory: str, law: str, points: Mapping[int, float], sizes: list[int], parameters: tuple[Parameter, ...], split: str
) -> Fit:
    nbytes, seconds = np.array(list(points), dtype=np.float64), np.array(list(points.values()))
    chosen = named(list(points), sizes)
    model = pinned_seconds if memory == "pinned" else pageable_seconds
    values = least_squares(lambda values: model(values, nbytes), seconds, chosen, parameters, robust=None, even=True)
    predicted = model(values, nbytes)
    fitted, tested = Residuals.of(predicted[chosen], seconds[chosen]), Residuals.of(predicted[~chosen], seconds[~chosen])
    valid = {"bytes": (float(nbytes.min()), float(nbytes.max()))}
    units = {parameter.name: parameter.unit for parameter in parameters}
    subject = f"host to GPU, {memory}, PCIe 4 x16"
    return Fit(
        component="copies",
        subject=subject,
        law=law,
        parameters=values,
        units=units,
        source=published.PLATFORM,
        split=split,
        fitted=fitted,
        tested=tested,
        valid=valid,
    )
