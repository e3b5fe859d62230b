"""Every registered policy on four small machines: it runs or refuses as it must, and says where it comes from."""

from __future__ import annotations

from functools import cache

import engine_worlds as worlds
import numpy as np
import policy_problems as tiny
import pytest
from reporting import for_all

from moesim import plugins
from moesim.contract import Costs, Problem
from moesim.engine import SimulationOptions, simulate
from moesim.errors import InputError

POLICIES = plugins.names("policies")
MACHINES = {
    "cpu": {"hbm": 0.14e9},
    "near_data": {"hbm": 0.14e9, "cxl": {"cxl0": (8e9, 30e9)}, "ndp": True},
    "plain": {"hbm": 0.14e9, "cpu": False},
    "roomy": {"hbm": 2e9},
}
NEED_UNITS = {"cxl_expert_near_data", "monde", "dynande", "trimoe", "context_cxl_ndp"}
NEED_CPU = {"fiddler", "hybrimoe", "ktransformers", "llama_cpp", "trimoe", "moe_lens", "daop"}
NEED_CPU |= {"llama_cpp_cache", "vllm_cpu_misses", "dali", "freetoken", "smoe", "onnxruntime", "ik_llama"}
NEED_DRIVE = {"zero_infinity"}
NEED_CXL = {"cxl_ndp", "cxl_expert", "moe_cxl"}
NEED_NETWORK = {"rmai"}
REFUSED = {
    "cpu": {"gpu_only"} | NEED_UNITS | NEED_DRIVE | NEED_CXL | NEED_NETWORK,
    "near_data": {"gpu_only"} | NEED_DRIVE | NEED_NETWORK,
    "plain": {"gpu_only"} | NEED_UNITS | NEED_CPU | NEED_DRIVE | NEED_CXL | NEED_NETWORK,
    "roomy": NEED_UNITS | NEED_DRIVE | NEED_CXL | NEED_NETWORK,
}


@cache
def world(machine: str):
    shape, work = tiny.model(), tiny.job(requests=3, prompt=40, output=3)
    table = worlds.routing(worlds.Knobs(seed=3), work, shape)
    return tiny.system(**MACHINES[machine]), shape, work, table


@cache
def costs(machine: str) -> Costs:
    """Durations on a machine, which remember what was asked for: all policies ask for the same."""
    system, shape, work, _ = world(machine)
    return Problem(shape, system, work, tiny.popularity(8, 3), np.random.default_rng(0)).costs


@cache
def makespan(name: str, machine: str) -> int:
    """Picoseconds; InputError where the policy refuses the machine."""
    system, shape, work, table = world(machine)
    p = Problem(shape, system, work, tiny.popularity(8, 3), np.random.default_rng(0))
    vars(p)["costs"] = costs(machine)
    return simulate(p, plugins.find("policies", name)(), table, SimulationOptions()).recorder.makespan


@pytest.mark.parametrize("machine", MACHINES)
@for_all(POLICIES)
def test_it_refuses_exactly_where_it_must(name, machine):
    """That tokens are conserved, tiers hold what they can and both engines agree is for tests/conformance to see."""
    if name in REFUSED[machine]:
        with pytest.raises(InputError):
            makespan(name, machine)
    else:
        assert makespan(name, machine) > 0


@for_all([name for name in POLICIES if name not in REFUSED["roomy"]])
def test_nothing_beats_a_gpu_that_holds_everything(name):
    assert makespan(name, "roomy") >= makespan("gpu_only", "roomy")


@for_all(POLICIES)
def test_it_says_where_it_comes_from(name):
    policy = plugins.find("policies", name)
    assert policy.source
    assert policy.model_fields["kind"].default == name
    assert "Source:" in policy.__doc__ or "Algorithm" in policy.__doc__
