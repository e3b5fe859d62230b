"""A run that leaves the range in which a cost was measured says so."""

import moesim

RUN = {"workload.requests": 2, "workload.prompt": 32, "workload.output": 4}
VALID = "hardware.devices.gpu.experts.valid_tokens"


def notes(**changes):
    return [note for note in moesim.run("quickstart", **RUN, **changes).notes if "extrapolated" in note]


def test_a_run_within_the_range_says_nothing():
    assert notes(**{VALID: [1, 4096]}) == []


def test_a_run_that_leaves_the_range_names_device_and_tokens():
    (note,) = notes(**{VALID: [2, 3]})
    assert note.startswith("gpu ran experts with 1 to ")
    assert "measured at 2 to 3 tokens per expert" in note


def test_the_same_is_said_by_events():
    assert notes(**{VALID: [2, 3], "simulation.engine": "reference"}) == notes(**{VALID: [2, 3]})
