"""Owns what an export starts from, the placement that a run ended with, and what it comes to: words, files, a placement.

Knows run directories and scenarios; nothing of any program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Policy, Problem
from moesim.errors import InputError, Mistake
from moesim.model import Architecture
from moesim.results.result import Result
from moesim.runs.run import problem_of
from moesim.scenario.scenario import LoadedScenario, load_data

__all__ = ["Exported", "Placed", "read_placed"]


@dataclass(frozen=True)
class Placed:
    """A run's placement. L MoE layers, E experts per layer."""

    loaded: LoadedScenario
    """The scenario of the run, its requests and routing drawn."""
    summary: dict[str, Any]
    resident: BoolArray
    """[L, E] in GPU memory at the end of the run."""
    uses: IntArray
    """[L, E] (token, expert) pairs of the run."""
    place: str
    """How messages name the run."""

    @property
    def model(self) -> Architecture:
        """What was served."""
        return self.loaded.scenario.model

    @cached_property
    def problem(self) -> Problem:
        """The placement problem of the run."""
        job, routing = self.loaded.build()
        return problem_of(self.loaded, job, routing)

    @cached_property
    def plan(self) -> BatchPlan:
        """How the run's policy cut its job."""
        return self.loaded.scenario.policy.deploy(self.problem).plan

    @cached_property
    def sizes(self) -> FloatArray:
        """[L, E] bytes of each expert."""
        return self.problem.expert_bytes()

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return int((self.problem.job.prompt + self.problem.job.output).max())

    @property
    def chunk(self) -> int:
        """Tokens of prompts that passed the layers together."""
        job, prefill = self.problem.job, self.plan.prefill
        whole = int(job.prompt.max()) * min(prefill.sequences or self.plan.batch, self.plan.batch)
        return min(prefill.chunk, whole) if prefill.chunk else whole

    @property
    def cache_in_host(self) -> bool:
        """Whether the KV cache lay outside GPU memory."""
        return self.plan.kv != self.problem.gpu_tier


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a user types and keeps, and the placement that the program makes of it."""

    command: tuple[str, ...]
    """Program, then one option with its value each; words in capitals are for the user to fill in."""
    resident: BoolArray
    """[L, E] in GPU memory as the program will have it."""
    policy: Policy
    """The rules of the program with that placement, for a run."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of files that the command names."""
    notes: tuple[str, ...] = ()
    """What the program cannot hold of the run, in sentences."""


def read_placed(run: str | Path | Result) -> Placed:
    """The placement of a run: its directory, its result.json, or the Result. InputError where it is unknown."""
    result = run if isinstance(run, Result) else Result.load(run)
    place = "this run" if isinstance(run, Result) else str(run)
    data = result.provenance.get("scenario")
    if not isinstance(data, dict):
        raise InputError(Mistake("has no 'provenance.scenario', so its placement means nothing", file=place))
    if "experts" not in result.columns:
        raise InputError(Mistake("has no experts.csv beside it, which holds the placement; run it again", file=place))
    loaded = load_data(data, beside=None if isinstance(run, Result) else Path(run))
    loaded = replace(loaded, job_and_table=loaded.build())
    if further := loaded.scenario.hardware.further_gpus:
        gpus = ", ".join((loaded.scenario.hardware.attending_gpu, *further))
        raise InputError(Mistake(f"is a run on several GPUs ({gpus}); exports write placements for one", file=place))
    table, layers = result.columns["experts"], loaded.job_and_table[0].layers if loaded.job_and_table else 0
    shape = (layers, loaded.scenario.model.experts)
    if len(table["resident"]) != shape[0] * shape[1]:
        message = f"experts.csv has {len(table['resident'])} rows, the scenario {shape[0]} layers of {shape[1]} experts"
        raise InputError(Mistake(message, file=place))
    if not loaded.job_and_table or not loaded.job_and_table[0].attention:
        raise InputError(Mistake("is the run of a lone layer; a program serves whole models", file=place))
    resident = np.asarray(table["resident"], dtype=np.int64).reshape(shape) > 0
    return Placed(loaded, result.summary, resident, np.asarray(table["activations"], dtype=np.int64).reshape(shape), place)
