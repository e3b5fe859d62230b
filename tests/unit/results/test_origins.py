"""Which values of a machine count as figures, by hand."""

from __future__ import annotations

import math

from moesim.results.origins import figures


def test_names_are_not_figures_and_a_list_of_figures_is_one() -> None:
    part = {
        "kind": "gpu",
        "memory": "hbm",
        "compute": 1e12,
        "rate": "64 GB/s",
        "captured": True,
        "price": None,
        "q": math.inf,
        "sizes": [1, 2, 4],
        "stages": [{"kind": "copy", "setup": "10 us"}],
    }
    assert list(figures(part, "gpu")) == [
        ("gpu.compute", 1e12),
        ("gpu.rate", "64 GB/s"),
        ("gpu.sizes", [1, 2, 4]),
        ("gpu.stages.0.setup", "10 us"),
    ]
