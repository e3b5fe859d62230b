"""Owns the conformance suite as a class to inherit from in pytest. The only importer of pytest.

Knows the cases by name; what they ask for is in `cases`.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from moesim.contract import Policy
from moesim.testing.bench import Bench, NotApplicable
from moesim.testing.cases import CASES
from moesim.testing.elsewhere import OtherProcess
from moesim.testing.worlds import World

try:
    import pytest
except ImportError as error:
    raise ImportError("moesim.testing.PolicyCases runs under pytest: pip install pytest (check_policy does without)") from error

__all__ = ["PolicyCases"]


@cache
def _other_process() -> OtherProcess:
    """One for all tests of a session."""
    process = OtherProcess()
    atexit.register(process.close)
    return process


class PolicyCases:
    """Every promise that a policy makes, as a test. Subclass it and say which policy:

    `class TestMine(PolicyCases): policy = MyPolicy(margin=2.0)`, or a fixture `policy` that returns one (which may have
    parameters). `worlds` takes the place of the shipped ones.
    """

    worlds: ClassVar[Sequence[World] | None] = None
    _last: ClassVar[Bench | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        policy = cls.__dict__.get("policy")
        if isinstance(policy, Policy) or (isinstance(policy, type) and issubclass(policy, Policy)):
            cls.policy = _constant(policy)  # type: ignore[method-assign]

    @pytest.fixture
    def policy(self) -> Policy:
        """The policy to be tested."""
        raise NotImplementedError(f"{type(self).__name__} must say which policy it tests: an attribute or a fixture `policy`")

    @pytest.fixture
    def bench(self, policy: Policy) -> Bench:
        """Its runs, kept from test to test as long as the object is the same."""
        last = PolicyCases._last
        if last is None or last.policy is not policy:
            PolicyCases._last = last = Bench(policy, self.worlds, _other_process())
        return last

    def test_runs_or_refuses(self, bench: Bench) -> None:
        """It runs, or refuses with InputError."""
        _case("runs_or_refuses", bench)

    def test_capacity(self, bench: Bench) -> None:
        """Nothing ever holds more than it has."""
        _case("capacity", bench)

    def test_shapes(self, bench: Bench) -> None:
        """Answers have the documented shapes and types."""
        _case("shapes", bench)

    def test_legal_devices(self, bench: Bench) -> None:
        """Experts go where their weights can be read."""
        _case("legal_devices", bench)

    def test_conservation(self, bench: Bench) -> None:
        """Every routed pair is computed once."""
        _case("conservation", bench)

    def test_deterministic(self, bench: Bench) -> None:
        """Two runs are the same."""
        _case("deterministic", bench)

    def test_deterministic_elsewhere(self, bench: Bench) -> None:
        """Another process under another hash seed gives the same."""
        _case("deterministic_elsewhere", bench)

    def test_labels_mean_nothing(self, bench: Bench) -> None:
        """Other labels, the same placement and makespan."""
        _case("labels_mean_nothing", bench)

    def test_no_peeking(self, bench: Bench) -> None:
        """The future is not known."""
        _case("no_peeking", bench)

    def test_read_only(self, bench: Bench) -> None:
        """What is shown is not written to."""
        _case("read_only", bench)

    def test_no_state_leaks(self, bench: Bench) -> None:
        """Runs do not touch each other."""
        _case("no_state_leaks", bench)

    def test_memoryless_is_honest(self, bench: Bench) -> None:
        """`memoryless` means it."""
        _case("memoryless_is_honest", bench)

    def test_engines_agree(self, bench: Bench) -> None:
        """The event engine gives the same."""
        _case("engines_agree", bench)

    def test_decision_cost(self, bench: Bench, record_property: Any) -> None:
        """Reports the cost of a decision as the property `decision_s`."""
        _case("decision_cost", bench)
        record_property("decision_s", bench.decision_seconds())


def _case(name: str, bench: Bench) -> None:
    try:
        CASES[name](bench)
    except NotApplicable as why:
        pytest.skip(str(why))


def _constant(policy: Policy | type[Policy]) -> Any:
    """A fixture that gives always the same object."""
    instance = policy() if isinstance(policy, type) else policy

    def constant(self: PolicyCases) -> Policy:
        return instance

    return pytest.fixture(constant, name="policy")
