"""Explains the trade of a server: GPU memory holds an expert more or a sequence more, and what each is worth per token.

Knows one placement problem and the deployment that answers it; no time passes here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moesim.arrays import BoolArray
from moesim.explain.rows import Quantity, Row, Section
from moesim.explain.work import Plan, used

__all__ = ["trade"]

_STEP = (
    "other weights and KV cache / rate of GPU memory, and for each layer the longer of missing experts / upload rate and "
    "active residents / rate of GPU memory"
)


def trade(plan: Plan) -> Section:
    """Tokens per second as cut, with a sequence more and with one fewer, and the number of sequences at which they peak.

    No rows for a job in rounds, a cache outside GPU memory or experts that all fit.
    """
    title, deployment, problem = "An expert more or a sequence more", plan.deployment, plan.problem
    shared = deployment is not None and deployment.plan.kv == problem.gpu_tier and not deployment.resident.all()
    if problem.job.most is None or not problem.job.attention or not shared:
        return Section(title, ())
    return Section(title, tuple(_Trade(plan).rows()), _NOTE)


_NOTE = (
    "GPU memory that holds the keys and values of a sequence of mean length could hold experts, the most popular of those that "
    "miss. Decode steps as if nothing but uploads and GPU memory took time, and no layer's uploads began before it, for "
    "independent tokens."
)


class _Trade:
    """N sequences of mean length, and the residents that GPU memory holds beside them."""

    def __init__(self, plan: Plan) -> None:
        problem, job = plan.problem, plan.problem.job
        assert plan.deployment is not None
        self.plan, self.problem = plan, problem
        self.sizes, self.resident = plan.deployment.expert_bytes, plan.deployment.resident
        self.length = float((job.prompt + job.output).mean())
        self.sequence = float(problem.model.kv_total([round(self.length)]))
        self.room = problem.kv_bytes(plan.deployment.plan.batch)
        places = problem.job.together
        self.held = max(min(int(self.room // self.sequence), places), 1)
        self.places = places
        self._order = np.argsort(-(problem.popularity + self.resident), axis=None, kind="stable")
        """Experts (flat) in the order in which they are resident: those of the placement first."""

    def rows(self) -> Iterator[Row]:
        """What the section shows."""
        sequence = {"length": Quantity(self.length, "tokens")}
        yield Row("KV cache of a mean sequence", self.sequence, "B", "bytes per token x mean prompt and output", sequence)
        expert = {"W": Quantity(float(self.sizes.mean()), "B")}
        yield Row("experts in its place", self.sequence / float(self.sizes.mean()), "", "its KV cache / W", expert)
        held = {"KV cache": Quantity(self.room, "B"), "places": Quantity(self.places)}
        yield Row("mean sequences that run", float(self.held), "", "KV cache / that of a sequence, places at most", held)
        yield self._row("decode, as cut", self.held, f"sequences / step; step = {_STEP}")
        yield self._row("decode, a sequence more", self.held + 1)
        if self.held > 1:
            yield self._row("decode, a sequence fewer", self.held - 1)
        best = max(range(1, self.places + 1), key=self.tokens_per_second)
        inputs = {"throughput": Quantity(self.tokens_per_second(best), "tok/s"), "places": Quantity(self.places)}
        yield Row("sequences at which decode peaks", float(best), "", "largest sequences / step, places at most", inputs)

    def _row(self, name: str, sequences: int, law: str = "likewise") -> Row:
        resident = self.residents(sequences)
        inputs = {
            "sequences": Quantity(sequences),
            "residents": Quantity(int(resident.sum())),
            "step": Quantity(self.step(sequences, resident), "s"),
        }
        return Row(name, self.tokens_per_second(sequences), "tok/s", law, inputs)

    def residents(self, sequences: int) -> BoolArray:
        """[L, E] experts in GPU memory beside `sequences` of mean length; as placed with those that run."""
        room = float(self.sizes[self.resident].sum()) + self.sequence * (self.held - sequences)
        order = self._order
        resident = np.zeros(self.sizes.size, dtype=np.bool_)
        resident[order[np.cumsum(self.sizes.ravel()[order]) <= room * (1 + 1e-12)]] = True
        return resident.reshape(self.sizes.shape)

    def step(self, sequences: int, resident: BoolArray) -> float:
        """Seconds of a decode step."""
        problem, deployment = self.problem, self.plan.deployment
        assert deployment is not None
        expected = used(problem.popularity, problem.model.top_k, float(sequences)) * self.sizes
        missing = expected * ~resident
        lives = deployment.home == problem.gpu_tier_index
        uploads = np.zeros(problem.layers)
        for index, tier in enumerate(problem.tiers):
            if not problem.system.is_gpu_memory(tier):
                # what was resident and gives way is read from where most of the others live
                at = (deployment.home == index) | (lives & (tier == problem.main_memory))
                uploads += np.where(at, missing, 0.0).sum(axis=1) / problem.costs.path(tier, problem.gpu_tier).rate
        context = np.full(sequences, round(self.plan.context))
        rate = problem.system.reach(problem.system.attending_gpu, problem.gpu_tier).rate
        dense = problem.non_expert_bytes() + float(problem.model.core_bytes_decode(context).sum())
        return dense / rate + float(np.maximum(uploads, (expected * resident).sum(axis=1) / rate).sum())

    def tokens_per_second(self, sequences: int) -> float:
        """Decode throughput with a number of sequences, and the experts that are resident beside their KV cache."""
        return sequences / self.step(sequences, self.residents(sequences))
