"""Every registered policy keeps every promise of the conformance suite, with its defaults and with other parameters."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from moesim.plugins import BUILT_IN, find
from moesim.policies.base import Policy
from moesim.testing import PolicyCases
from moesim.testing.cases import CASES

TRIED: dict[str, list[dict[str, object]]] = {
    "on_demand": [{}],
    "static_popularity": [{}, {"rule": "global", "misses": "threshold"}],
    "lru": [{}],
    "cxl_expert": [{}, {"adaptive": True, "step": 0.1}],
    "cxl_expert_gpu_only": [{}],
    "cxl_expert_near_data": [{}],
    "cox_moe": [{}],
    "moe_cxl": [{}, {"period": 2, "hysteresis": 0.0}],
    "gpu_only": [{}],
    "random": [{}],
    "lfu": [{}],
    "fifo": [{}],
    "cache": [{}],
    "mixtral_offloading": [{}],
    "huang_buffering": [{}],
    "fiddler": [{}],
    "hybrimoe": [{}],
    "ktransformers": [{}],
    "llama_cpp": [{}],
    "deepspeed_moe": [{}],
    "monde": [{}],
    "dynande": [{}],
    "trimoe": [{}],
}
"""Policy -> parameters that it is tried with: add a line for a new policy, `[{}]` for its defaults."""

LABELS = "test_labels_mean_nothing"
KNOWN = {
    ("random", LABELS): "residents and homes are drawn by lot, one draw per label",
    ("cache", LABELS): "eviction: random draws its victims by lot, one draw per label",
    ("huang_buffering", LABELS): "last in, first out, and experts of one visit come in by id, as published",
    ("mixtral_offloading", LABELS): "starts with the highest expert ids, as published",
    ("ktransformers", LABELS): "strategy: uniform takes the lowest expert ids, as published",
}
"""(parameters, test) -> why the promise is not kept; strict, so that a mended policy takes its line away."""


class Tried(NamedTuple):
    """One policy with one choice of parameters."""

    name: str
    parameters: dict[str, object]

    @property
    def label(self) -> str:
        """What the test is called."""
        return "-".join([self.name, *(str(value) for value in self.parameters.values())])


ALL = [Tried(name, parameters) for name, choices in TRIED.items() for parameters in choices]


@pytest.fixture(scope="module", params=ALL, ids=lambda tried: tried.label)
def registered(request: pytest.FixtureRequest) -> Policy:
    """Made once for all of its tests, which come one after another and share its runs."""
    made: Policy = find("policies", request.param.name)(**request.param.parameters)
    return made


class TestRegistered(PolicyCases):
    """The suite as a plug-in author runs it."""

    @pytest.fixture
    def policy(self, registered: Policy) -> Policy:
        """Each in turn."""
        return registered

    @pytest.fixture(autouse=True)
    def known(self, request: pytest.FixtureRequest) -> None:
        """Marks what is known to be broken."""
        test = request.function.__name__
        reason = KNOWN.get((request.node.callspec.id, test))
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


def test_the_class_has_a_test_for_every_case_and_no_other() -> None:
    tests = {name.removeprefix("test_") for name in dir(PolicyCases) if name.startswith("test_")}
    assert tests == set(CASES)


def test_what_is_known_to_be_broken_names_policies_and_tests() -> None:
    assert {label for label, _ in KNOWN} <= {tried.label for tried in ALL}
    assert {test for _, test in KNOWN} <= set(dir(PolicyCases))


def test_every_registered_policy_is_tried() -> None:
    """A new policy needs a line in TRIED, a removed one loses it; plug-ins installed beside moesim test themselves."""
    assert set(TRIED) == set(BUILT_IN["policies"])
