"""CXL-Expert's learned thresholds: a small online search for the factor with which passes end soonest.

Knows how long passes took; nothing of experts, lanes or tiers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.arrays import FloatArray

__all__ = ["Learner"]

_FIRST, _LAST = 2.0, 1.05
"""Ratio by which the factor is tried higher or lower at first, and the least that it shrinks to."""


@dataclass
class _Trial:
    """The search for passes of one size."""

    best: float = 1.0
    """The factor of the best mean so far."""
    seconds: float = float("inf")
    """That mean, seconds per pass."""
    ratio: float = _FIRST
    """What is tried next is `best` times this."""
    total: float = 0.0
    passes: int = 0


@dataclass
class Learner:
    """Hill climbing on the factor of the thresholds: `every` passes are a trial, and the better of two factors goes on.

    A trial that is better sets out again in the same direction, one that is not turns back with half the stride. One search
    for each power of two of the tokens in a pass, as the rule has. Source: CXL-Expert, section 5.2 names learned thresholds and
    gives no method; this one is inferred. Valid: passes of one size that take alike, but for the thresholds.
    """

    factor: FloatArray
    """Factor of the thresholds by the binary digits of the tokens of a visit, changed in place."""
    every: int
    """Passes of a trial."""
    trials: dict[int, _Trial] = field(default_factory=dict)

    def ended(self, tokens: int, seconds: float) -> None:
        """A pass of `tokens` tokens took `seconds`."""
        size = tokens.bit_length()
        trial = self.trials.setdefault(size, _Trial())
        trial.total += seconds
        trial.passes += 1
        if trial.passes < self.every:
            return
        mean, tried = trial.total / trial.passes, float(self.factor[size])
        trial.total, trial.passes = 0.0, 0
        if mean < trial.seconds:
            trial.best, trial.seconds = tried, mean
        else:
            turned = 1.0 / trial.ratio
            trial.ratio = max(turned**0.5, _LAST) if turned > 1.0 else min(turned**0.5, 1.0 / _LAST)
            trial.seconds += 0.02 * (mean - trial.seconds)  # what was best long ago is forgotten
        self.factor[size] = trial.best * trial.ratio
