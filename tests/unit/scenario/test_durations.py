"""A machine that takes longer for one operation of the model than the clock holds is refused before it runs, at the value."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.scenario import load

CASES = {
    "hardware.links.pcie.setup": "1e8 s",
    "hardware.links.pcie.floor": "1e8 s",
    "hardware.links.pcie.rate": "0.01 B/s",
    "hardware.links.pcie.both": "0.01 B/s",
    "hardware.tiers.ddr.read": "0.01 B/s",
    "hardware.tiers.ddr.write": "0.01 B/s",
    "hardware.tiers.ddr.latency": "1e8 s",
    "hardware.devices.gpu.launch": "1e8 s",
    "hardware.devices.cpu.sync": "1e8 s",
    "hardware.devices.gpu.fixed.layer": "1e8 s",
    "runtime.gpu.launches.graph": "1e8 s",
    "runtime.gpu.step": "1e8 s",
    "runtime.cpu.launch": "1e8 s",
    "runtime.cpu.hand_over": "1e8 s",
}


@pytest.mark.parametrize(("key", "value"), CASES.items())
def test_the_mistake_stands_at_the_value(key: str, value: str) -> None:
    (mistake,) = mistakes({key: value})
    assert mistake.file == f"--set {key}"
    assert "106 days (2^63 ps)" in mistake.message
    assert "times as fast" in mistake.message


def test_times_without_end_are_refused() -> None:
    (mistake,) = mistakes({"hardware.links.pcie.rate": "1e-320 B/s"})
    assert "without end" in mistake.message


def test_a_slow_device_is_refused_once() -> None:
    (mistake,) = mistakes({"hardware.devices.gpu.compute": "1 FLOPS"})
    assert mistake.path == "hardware.devices.gpu"
    assert "one token of an expert on gpu" in mistake.message


def test_every_part_that_is_too_slow_is_reported_at_once() -> None:
    places = {
        mistake.file for mistake in mistakes({"hardware.links.pcie.setup": "1e8 s", "hardware.devices.gpu.launch": "1e8 s"})
    }
    assert places == {"--set hardware.links.pcie.setup", "--set hardware.devices.gpu.launch"}


def test_chunks_without_number_are_refused() -> None:
    (mistake,) = mistakes({"hardware.links.pcie.chunk": "1 B"})
    assert (mistake.file, "9.44e+06 chunks" in mistake.message) == ("--set hardware.links.pcie.chunk", True)


def mistakes(sets: dict[str, Any]) -> Any:
    with pytest.raises(InputError) as caught:
        load("quickstart", sets=sets)
    return caught.value.mistakes
