"""Who agrees with whom: everything that the author of a policy or a scheduler needs, in one import.

    from moesim.contract import Deployment, Dispatch, Policy, Problem, View, Visit

`policy` holds the three slots of a policy and what passes through them, `plan` how a job is cut and its layers overlap,
`problem` and `costs` what a placement is made from, `foresight` what may be known of routing to come and `blur` how that errs,
`steps` who is in the next step. None of them knows the engine.
"""

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract.blur import blurred
from moesim.contract.costs import Costs, first_count
from moesim.contract.desk import Decider, Desk
from moesim.contract.foresight import NEVER, Foreseen, Foresight, Future
from moesim.contract.homes import Homes
from moesim.contract.plan import (
    BY_NAME,
    Alternating,
    BatchPlan,
    Deferred,
    Module,
    Overlap,
    Paged,
    PhasePlan,
    Pipeline,
    Precomputed,
    Serial,
    ahead_of,
    chunk_of,
    devices_of,
)
from moesim.contract.policy import (
    NO_MOVES,
    CacheRule,
    Deployment,
    Dispatch,
    Moves,
    Policy,
    PoolRule,
    Step,
    Uses,
    View,
    Visit,
    is_bound,
)
from moesim.contract.problem import Problem
from moesim.contract.steps import KvMove, Scheduler, Series, StepPlan

__all__ = [
    "BY_NAME",
    "NEVER",
    "NO_MOVES",
    "Alternating",
    "BatchPlan",
    "BoolArray",
    "CacheRule",
    "Costs",
    "Decider",
    "Deferred",
    "Deployment",
    "Desk",
    "Dispatch",
    "FloatArray",
    "Foreseen",
    "Foresight",
    "Future",
    "Homes",
    "IntArray",
    "KvMove",
    "Module",
    "Moves",
    "Overlap",
    "Paged",
    "PhasePlan",
    "Pipeline",
    "Policy",
    "PoolRule",
    "Precomputed",
    "Problem",
    "Scheduler",
    "Serial",
    "Series",
    "Step",
    "StepPlan",
    "Uses",
    "View",
    "Visit",
    "ahead_of",
    "blurred",
    "chunk_of",
    "devices_of",
    "first_count",
    "is_bound",
]
