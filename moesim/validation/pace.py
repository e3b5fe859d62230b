"""Owns the speed of a published batch from a few passes: one prefill pass or a part of it, and decode at the middle context.

Knows scenarios and policies by name; no particular case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moesim.runs.run import RunOptions, loaded, run_loaded

__all__ = ["BLIND", "Pace", "decode_step", "pace", "prefill", "through_point"]

BLIND: dict[str, Any] = {"workload.profile": {"kind": "uniform"}}
"""Spares the draws of a profile: the policies here place by id or not at all."""


class Pace(NamedTuple):
    """Seconds of a batch."""

    prefill: float
    step: float
    """One decode pass at the middle of the output."""

    def total(self, output: int) -> float:
        """The whole batch, `output` tokens each."""
        return self.prefill + (output - 1) * self.step


def prefill(scenario: str, policy: Mapping[str, Any], sequences: int, prompt: int, sets: Mapping[str, Any]) -> float:
    """Seconds until `sequences` prompts of `prompt` tokens have their first token."""
    lengths = {"workload.requests": sequences, "workload.prompt": prompt, "workload.output": 1}
    loaded_scenario = loaded(scenario, policy=dict(policy), **{**BLIND, **lengths, **sets})
    return float(run_loaded(loaded_scenario, RunOptions(bound=False)).summary["makespan_s"])


def decode_step(
    scenario: str, policy: Mapping[str, Any], sequences: int, context: int, sets: Mapping[str, Any], passes: int = 3
) -> float:
    """Seconds of a decode pass of `sequences` sequences that attend to `context` tokens, the last of `passes` after prefill."""
    lengths = {"workload.requests": sequences, "workload.prompt": context - passes, "workload.output": passes + 1}
    loaded_scenario = loaded(scenario, policy=dict(policy), **{**BLIND, **lengths, **sets})
    steps = run_loaded(loaded_scenario, RunOptions(bound=False)).frame("steps")
    return float(steps.loc[steps["phase"] == "decode", "step_time_s"].iloc[-1])


def pace(
    scenario: str,
    policy: Mapping[str, Any],
    *,
    sequences: int,
    prompt: int,
    output: int,
    portion: int | None = None,
    sets: Mapping[str, Any] | None = None,
) -> Pace:
    """The pace of `sequences` sequences; prefill is simulated for `portion` of them and taken as many times.

    Valid: prefill in equal portions one after another, decode that changes evenly with the context.
    """
    simulated = min(portion or sequences, sequences)
    first = prefill(scenario, policy, simulated, prompt, sets or {}) * sequences / simulated
    return Pace(first, decode_step(scenario, policy, sequences, prompt + output // 2, sets or {}, passes=2))


def through_point(seconds: Callable[[float], float], target: float, guess: float, second_guess: float) -> float:
    """The constant c at which `seconds`(c) is `target`, by secants in 1 / c from two guesses; to 0.02 %.

    Valid: times that are nearly linear in 1 / c (rates and shares of rates).
    """
    a, b = 1.0 / second_guess, 1.0 / guess
    at_b = seconds(guess)
    at_a = at_b if _there(at_b, target) else seconds(second_guess)
    for _ in range(20):
        if _there(at_b, target):
            return 1.0 / b
        a, b, at_a = b, b + (target - at_b) * (b - a) / (at_b - at_a), at_b
        at_b = seconds(1.0 / b)
    raise ValueError(f"no constant found for {target} s; the last, {1.0 / b}, gives {at_b} s")


def _there(seconds: float, target: float) -> bool:
    return abs(seconds / target - 1.0) < 2e-4
