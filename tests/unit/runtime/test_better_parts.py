"""Whatever serves, a machine with a better part and the same placement is not slower."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.runs.run import RunOptions, loaded, run_loaded

_UNIFORM: dict[str, Any] = {"kind": "uniform"}
_SCENARIO: dict[str, Any] = {
    "name": "parts",
    "hardware": "rtx4090-epyc9274f",
    "model": "olmoe-1b-7b",
    "policy": {"kind": "ktransformers", "per_layer": 20, "layerwise": 64},
    "workload": {"kind": "offline", "requests": 2, "prompt": 48, "output": 3, "routing": _UNIFORM, "profile": _UNIFORM},
}
_BETTER: dict[str, dict[str, Any]] = {
    "GPU": {"hardware.devices.gpu.compute": "400 TFLOPS"},
    "GPU memory": {"hardware.tiers.hbm.read": "2 TB/s", "hardware.tiers.hbm.write": "2 TB/s"},
    "PCIe": {"hardware.links.pcie.rate": "60 GB/s", "hardware.links.pcie.reverse": "60 GB/s"},
    "DRAM": {"hardware.tiers.ddr.read": "700 GB/s", "hardware.tiers.ddr.write": "700 GB/s"},
    "cores": {"hardware.devices.cpu.cores": 30},
}


def _seconds(runtime: str, **better: Any) -> float:
    result = run_loaded(loaded({**_SCENARIO, "runtime": runtime}, **better), RunOptions(bound=False))
    return float(result.summary["makespan_s"])


@pytest.mark.parametrize("runtime", ["reference", "llama-cpp", "ktransformers", "fiddler"])
def test_no_program_is_slower_on_a_better_part(runtime: str) -> None:
    before = _seconds(runtime)
    slower = {part: seconds / before for part, sets in _BETTER.items() if (seconds := _seconds(runtime, **sets)) > before}
    assert not slower
