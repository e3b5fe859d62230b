"""Poses the problem of a scenario to a policy before anything is drawn: the machine, the model, the lengths and the profile.

Knows workloads by what they say of themselves; a routing table is built only where the profile is the run's own.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Problem
from moesim.errors import InputError
from moesim.scenario.scenario import LoadedScenario
from moesim.streams import Streams
from moesim.workload.jobs import Offline
from moesim.workload.routing.profile import Same
from moesim.workload.table import Job

__all__ = ["posed"]


def posed(loaded: LoadedScenario) -> Problem:
    """What the scenario asks of a policy that plans by the profile: topics and prompts of requests are not known.

    InputError, with its place in the file, for what keeps the job from being made.
    """
    scenario = loaded.scenario
    job, popularity = _job_and_profile(loaded)
    rng = Streams(scenario.seed, scenario.replicate)["policy"]
    return Problem(scenario.model, scenario.hardware, job, popularity, rng, runtime=scenario.runtime)


def _job_and_profile(loaded: LoadedScenario) -> tuple[Job, FloatArray]:
    """The job and the [L, E] profile, without the run's own routing wherever the profile can be had alone."""
    scenario, workload = loaded.scenario, loaded.scenario.workload
    if loaded.job_and_table is not None or not isinstance(workload, Offline) or isinstance(workload.profile, Same):
        job, table = loaded.build()
        return job, table.profile
    streams, routing = Streams(scenario.seed, scenario.replicate), workload.routing
    lengths = (workload.requests, workload.prompt, workload.output)
    try:
        job = routing.job(*lengths, scenario.model, streams, loaded.base, workload.profile)
        nothing = np.zeros((job.layers, scenario.model.experts), dtype=np.int64)
        return job, routing.learn(workload.profile, nothing, scenario.model, streams, loaded.base)
    except InputError as error:
        raise loaded.located(error) from None
