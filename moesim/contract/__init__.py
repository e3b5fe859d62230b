"""Who agrees with whom: everything that the author of a policy or a scheduler needs, in one import.

    from moesim.contract import Deployment, Dispatch, Policy, Problem, View, Visit

`policy` holds the three slots of a policy and what passes through them, `problem` and `costs` what a placement is made from,
`foresight` what may be known of routing to come, `steps` who is in the next step. None of them knows the engine.
"""

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract.costs import Costs, first_count
from moesim.contract.foresight import NEVER, Foreseen, Foresight, Future, blurred
from moesim.contract.policy import (
    NO_MOVES,
    Deployment,
    Dispatch,
    Moves,
    PhasePlan,
    Policy,
    Step,
    View,
    Visit,
    chunk_of,
    is_bound,
)
from moesim.contract.problem import Problem
from moesim.contract.steps import Scheduler, StepPlan

__all__ = [
    "NEVER",
    "NO_MOVES",
    "BoolArray",
    "Costs",
    "Deployment",
    "Dispatch",
    "FloatArray",
    "Foreseen",
    "Foresight",
    "Future",
    "IntArray",
    "Moves",
    "PhasePlan",
    "Policy",
    "Problem",
    "Scheduler",
    "Step",
    "StepPlan",
    "View",
    "Visit",
    "blurred",
    "chunk_of",
    "first_count",
    "is_bound",
]
