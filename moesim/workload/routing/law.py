"""Owns what all routing laws share: the slot they fill, the profile learnt beforehand.

Knows no particular law, and of a model only how many layers, experts and choices it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake
from moesim.progress import Progress
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.workload.csvfile import read_popularity
from moesim.workload.requests.lengths import Lengths, draw_lengths
from moesim.workload.routing import profile as profiles
from moesim.workload.table import Job, RoutingTable

__all__ = ["Routed", "Routing", "normalised", "own_counts", "prototypes"]


class Routed(Protocol):
    """What routing needs to know of a model."""

    @property
    def name(self) -> str: ...
    @property
    def experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def n_moe(self) -> int: ...


class Routing(Spec):
    """A law or a record of which experts tokens ask for. Subclasses fill `table`; most also `prototype`."""

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: profiles.Profile, progress: Progress | None = None
    ) -> RoutingTable:
        """The routing of every token of `job`. `base`: folder that paths of the scenario are relative to."""
        raise NotImplementedError

    def job(
        self,
        requests: int | None,
        prompt: Lengths | None,
        output: Lengths | None,
        model: Routed,
        streams: Streams,
        base: Path,
        profile: profiles.Profile,
    ) -> Job:
        """R requests, all there at time 0, with their lengths; a record may know them itself, a law is given them."""
        if requests is None or prompt is None or output is None:
            sizes = {"requests": requests, "prompt": prompt, "output": output}
            message = "needs a value; only a trace has its own"
            raise InputError(*(Mistake(message, path=f"workload.{name}") for name, value in sizes.items() if value is None))
        prompts = draw_lengths(prompt, requests, streams, "prompt", base)
        return Job(np.zeros(requests), prompts, draw_lengths(output, requests, streams, "output", base), model.n_moe)

    def prototype(self, job: Job, model: Routed, streams: Streams, base: Path) -> IntArray:
        """[L, E] tokens per expert of `job` drawn with the stream `profile`: other draws of the same law."""
        raise InputError(Mistake(f"a profile of kind 'held_out' cannot be drawn for routing '{type(self).__name__}'"))

    def learn(self, profile: profiles.Profile, own: IntArray, model: Routed, streams: Streams, base: Path) -> FloatArray:
        """[L, E] popularity that `profile` asks for, each layer's sum 1.

        `own`: [L, E] tokens per expert of the run itself, which only the profile `same` looks at.
        """
        layers, experts = own.shape
        match profile:
            case profiles.Same():
                return normalised(own)
            case profiles.Uniform():
                return np.full((layers, experts), 1.0 / experts)
            case profiles.Table():
                return normalised(read_popularity(base / profile.path, layers, experts))
            case profiles.HeldOut():
                return normalised(self.prototype(prototypes(profile, layers), model, streams, base))
            case profiles.Stratified():
                raise InputError(
                    Mistake("a profile of kind 'stratified' is learnt from a whole table", path="workload.profile")
                )
            case profiles.OtherTasks():
                message = "a profile of kind 'tasks' needs routing of kind 'trace' or 'sticky'"
                raise InputError(Mistake(message, path="workload.profile"))


def prototypes(profile: profiles.HeldOut, layers: int) -> Job:
    """The prompts that a profile is learnt on."""
    lengths = np.full(profile.requests, profile.tokens, dtype=np.int64)
    return Job(np.zeros(profile.requests), lengths, np.ones(profile.requests, dtype=np.int64), layers)


def normalised(counts: IntArray | FloatArray) -> FloatArray:
    """[L, E] shares of each layer; a layer without any count becomes uniform."""
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum(axis=1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), 1.0 / values.shape[1])


def own_counts(profile: profiles.Profile, prefill: Any, decode: Any, output: IntArray) -> IntArray:
    """[L, E] tokens per expert of a whole table: all prompts and all decode passes in use.

    Zeros unless `profile` is the run's own: no other looks at them, and they take a while to count.
    """
    layers, experts = prefill.shape[1:]
    if not isinstance(profile, profiles.Same):
        return np.zeros((layers, experts), dtype=np.int64)
    counts = np.zeros((layers, experts), dtype=np.int64)
    offsets = np.arange(layers, dtype=np.intp)[:, None] * experts
    for request, tokens in enumerate(output.tolist()):
        flat = np.add(decode[request, : tokens - 1], offsets, dtype=np.intp).ravel()
        counts += prefill[request] + np.bincount(flat, minlength=layers * experts).reshape(layers, experts)
    return counts
