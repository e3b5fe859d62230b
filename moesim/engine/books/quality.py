"""What a policy did to the output of the model: activations by precision, skipped, replaced, stale.

Counts only; what it means for accuracy is not for a simulator to say.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.dispatches import Answers
from moesim.engine.residency import Residency
from moesim.results.recorder import Recorder

__all__ = ["QualityBook"]


class QualityBook:
    """Running sums of one run; `close` writes the last of them into the recorder."""

    def __init__(self, problem: Problem, residency: Residency, recorder: Recorder) -> None:
        self._gpu = problem.attending_index
        self._residency, self._recorder = residency, recorder
        self._stored: FloatArray = residency.bytes
        weights = problem.model.expert_flops / 2.0  # one multiplication and one addition for each weight and token
        native = recorder.quality.native = problem.model.expert_bytes * 8.0 / weights
        own = problem.expert_bytes()
        mixed = bool((own != own[:1]).any()) and bool((own == self._stored).all())
        self._per_bit: FloatArray = own[:, :1] / native if mixed else np.full((problem.layers, 1), weights / 8.0)
        """[L, 1] bytes of an expert for each bit per weight; of the mean, where the model's layers differ in format."""
        self._booked: IntArray = np.zeros((problem.layers, problem.experts), dtype=np.int64)
        """[L, E] tokens whose precision is in the books already."""
        self.smallest = float(residency.bytes.min()) if residency.bytes.size else problem.model.expert_bytes
        """Bytes of the smallest copy that any expert was computed from."""

    def visits(self, answers: Answers, routed: IntArray, computed: IntArray, layers: IntArray, serving: BoolArray) -> None:
        """Adds visits with `routed` and `computed` [V, E] tokens of MoE layers `layers` [V], before their moves; `serving`
        [V, E]: copies in GPU memory that are used."""
        quality = self._recorder.quality
        if answers.counts is not None:
            quality.skipped += int(routed.sum() - computed.sum())
            quality.replaced += int(np.maximum(computed - routed, 0).sum())
        if answers.stale is not None:
            quality.stale += int(answers.stale.sum())
        if answers.nbytes is None and not self._residency.mixed:
            return
        np.add.at(self._booked, layers, computed)
        used = self._stored[layers] if answers.nbytes is None else answers.nbytes
        held = serving | self._residency.in_flight[layers]
        here = held & (answers.device == self._gpu)
        self._book(np.where(here, self._residency.copy_bytes[layers], used), computed, layers)

    def close(self) -> None:
        """Books what was computed from stored copies: all the rest."""
        computed = self._recorder.breakdown.tokens
        self._book(self._stored, computed - self._booked, np.arange(len(computed)))
        self._recorder.quality.routed = int(computed.sum()) + self._recorder.quality.skipped

    def _book(self, nbytes: FloatArray, tokens: IntArray, layers: IntArray) -> None:
        active = tokens > 0
        bits = (nbytes / self._per_bit[layers])[active]
        into = self._recorder.quality.precision
        values, inverse = np.unique(bits, return_inverse=True)
        for value, number in zip(values.tolist(), np.bincount(inverse, tokens[active]).tolist(), strict=True):
            into[value] = into.get(value, 0) + int(number)
        if active.any():
            self.smallest = min(self.smallest, float(nbytes[active].min()))
