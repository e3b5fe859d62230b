"""FlexGen's search on a machine of ours: for each block a linear programme over nine fractions, and the best block of all.

Knows what layers cost; places nothing.
Source: FlexGen, ICML 2023, arXiv:2303.06865, section 4.3 and its repository's cost model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import BatchPlan
from moesim.contract.homes import lying
from moesim.policies.kit.layer_costs import LayerCosts, powers
from moesim.policies.kit.sizing import largest
from moesim.policies.kit.streaming import cache_window

__all__ = ["Block", "Bounds", "Plan", "Programme", "Shares", "blocks", "programme", "search", "working_bytes"]

_CLOSE = 1e-6
"""Share of the weights by which room has to be there, or to be missing, for it to be plain."""
_W, _C, _H = (slice(0, 3), slice(3, 6), slice(6, 9))
"""Weights, cache and hidden states: each a share in GPU memory, in host memory and on disk."""


class Bounds(NamedTuple):
    """What of the search is given rather than searched for; shares are of (weights, cache, hidden states)."""

    weights: tuple[float | None, float | None] = (None, None)
    """wg and wc."""
    cache_on_host: bool | None = None
    cpu_attention: bool | None = None
    gpu_batch: int | None = None
    num_batches: int | None = None


class Shares(NamedTuple):
    """How much of the memories a plan fills."""

    host: float = 1.0
    """Of host memory and disk."""
    gpu: float | None = None
    """Of GPU memory, by FlexGen's own account of it; without it, what runs hold has to fit."""


WHOLE = Shares()
"""All that runs find room for."""


class Block(NamedTuple):
    """One candidate: gbs x n_b sequences, the tier of the cache, and who attends."""

    gpu_batch: int
    num_batches: int
    cache_on_host: bool
    cpu_attention: bool

    @property
    def sequences(self) -> int:
        """bls."""
        return self.gpu_batch * self.num_batches


class Plan(NamedTuple):
    """What the search found."""

    block: Block
    fractions: FloatArray
    """[9] wg wc wd, cg cc cd, hg hc hd."""
    seconds: float
    """Predicted time of the whole job."""


@dataclass(frozen=True)
class Programme:
    """Minimise cost . (fractions, T_pre, T_gen) with rows . (..) <= limits; each class of fractions adds up to 1."""

    cost: FloatArray
    rows: FloatArray
    limits: FloatArray

    def solve(self, bounds: list[tuple[float, float]]) -> tuple[FloatArray, float] | None:
        """([9] fractions, not to be written to, and cost) within `bounds` [9]; None if nothing fits."""
        return _solved(self.cost.tobytes(), self.rows.tobytes(), self.limits.tobytes(), tuple(bounds))


@lru_cache(maxsize=512)
def _solved(
    cost: bytes, rows: bytes, limits: bytes, bounds: tuple[tuple[float, float], ...]
) -> tuple[FloatArray, float] | None:
    """The same, remembered: runs on the same machine with jobs alike ask for the same programmes."""
    from scipy.optimize import linprog  # takes 0.4 s to import

    costs, tops = np.frombuffer(cost), np.frombuffer(limits)
    sums = np.zeros((3, len(costs)))
    for row, variables in enumerate((_W, _C, _H)):
        sums[row, variables] = 1.0
    table, free = np.frombuffer(rows).reshape(len(tops), len(costs)), [(0.0, None), (0.0, None)]
    solution: Any = linprog(costs, table, tops, sums, np.ones(3), [*bounds, *free], method="highs")
    if not solution.success:
        return None
    fractions: FloatArray = solution.x[:9]
    fractions.flags.writeable = False
    return fractions, float(solution.fun)


def programme(costs: LayerCosts, block: Block, cut: BatchPlan, *, serial: bool, filled: Shares = WHOLE) -> Programme:
    """The linear programme of `block`, cut as `cut`; `serial`: decode is upload plus the slowest of the rest, else a maximum.

    Rows: the streams of prefill (up, down, compute) below T_pre, those of decode below T_gen, then room in GPU memory, in
    host memory and on disk, `filled` as far as it says. Uploads from disk take the whole path to the GPU.
    """
    problem, disk = costs.problem, _disk(costs)
    prefilled = cut.prefill.sequences or block.sequences
    uploads = float(costs.upload(problem.experts)), _from_disk(costs, disk)
    rows, limits = np.zeros((9, 11)), np.zeros(9)
    limits[2] = _prefill_rows(costs, block, prefilled, uploads, rows)
    limits[5] = _decode_rows(costs, block, uploads, rows, serial=serial)
    _room(costs, block, cut, rows, limits, filled, disk)
    rounds, passes = max(problem.job.requests / block.sequences, 1.0), -(-block.sequences // prefilled)
    cost = np.zeros(11)
    cost[9], cost[10] = rounds * problem.layers * passes, rounds * problem.layers * max(costs.steps, 1e-9)
    return Programme(cost, rows, limits)


def _prefill_rows(costs: LayerCosts, block: Block, prefilled: int, uploads: tuple[float, float], rows: FloatArray) -> float:
    """Fills the rows below T_pre; the limit of the last of them, which is the work of the GPU. `uploads`: s from host, disk."""
    problem, gpu = costs.problem, costs.problem.system.attending_gpu
    prompt, (up_w, up_d) = costs.tokens("prefill", prefilled), uploads
    moved = float(costs.copy_in(problem.model.token_bytes * prompt))
    rows[0, 1:3], rows[0, 7:9], rows[0, 9] = (up_w, up_d), moved, -1
    rows[1, 4:6], rows[1, 7:9], rows[1, 9] = float(costs.copy_out(costs.cache_written(prompt))), moved, -1
    rows[2, 9] = -1
    tokens = costs.tokens("prefill", block.gpu_batch)
    work = costs.dense(tokens) + costs.experts(tokens) + costs.core(gpu, "prefill", block.gpu_batch, problem.gpu_tier)
    return -float(prefilled / block.gpu_batch * work)


def _decode_rows(costs: LayerCosts, block: Block, uploads: tuple[float, float], rows: FloatArray, *, serial: bool) -> float:
    """Fills the rows below T_gen; the limit of the last of them, which is work outside attention. `uploads` as for prefill."""
    problem, gpu, tokens = costs.problem, costs.problem.system.attending_gpu, float(block.sequences)
    # uploads count in every row of T_gen, or in one of their own
    moved = float(costs.copy_in(problem.model.token_bytes * tokens))
    upload = np.zeros(11)
    upload[1:3], upload[7:9] = uploads, moved
    if not block.cpu_attention:
        upload[4:6] = float(costs.copy_in(costs.cache_read(tokens)))
    rows[3] = upload
    rows[4, 7:9] = moved
    rows[4, 4:6] = float(costs.copy_out(costs.cache_written(tokens)))
    rows[5, 3] = float(costs.core(gpu, "decode", tokens, problem.gpu_tier))
    rows[5, 4:6] = float(costs.cpu_attention(tokens, costs.host)) if block.cpu_attention else rows[5, 3]
    if serial:
        rows[4:6] += upload
    rows[3:6, 10] = -1
    return -float(block.num_batches * (costs.dense(block.gpu_batch) + costs.experts(block.gpu_batch)))


def _room(
    costs: LayerCosts, block: Block, cut: BatchPlan, rows: FloatArray, limits: FloatArray, filled: Shares, disk: str | None
) -> None:
    """Fills the last three rows: bytes in GPU memory (with two layers of what is streamed), in host memory and on disk."""
    problem, layer = costs.problem, costs.layer_bytes
    whole, cache = problem.layers * layer, problem.kv_bytes(block.sequences)
    prompts = problem.longest_prompts[: cut.prefill.sequences or block.sequences]
    hidden = 3.0 * problem.model.token_bytes * float(prompts.sum())
    rows[6, 0], rows[6, 3], rows[6, 6] = whole - 2 * layer, cache, hidden
    limits[6] = problem.gpu_free(replace(cut, batch=block.sequences, kv=costs.host, staging=0)) + hidden - 2 * layer
    if filled.gpu is not None:
        limits[6] = min(limits[6], _planned(costs, block, cut, filled.gpu) + hidden - 2 * layer)
    if block.cache_on_host and not block.cpu_attention:  # the cache of this GPU batch and of the next
        limits[6] -= cache_window(problem, block.gpu_batch, 2)
    if costs.host == problem.gpu_tier:
        limits[6] += cache
    rows[7, 1], rows[7, 4], rows[7, 7] = whole, cache, hidden
    room = [tier for tier in problem.system.host_tiers if tier != disk]
    lying_bytes = lying(problem.model, cut.homes)
    limits[7] = filled.host * sum(problem.usable(tier) for tier in room) - sum(lying_bytes.get(tier, 0.0) for tier in room)
    rows[8, 2], rows[8, 5], rows[8, 8] = whole, cache, hidden
    limits[8] = filled.host * problem.usable(disk) if disk else 0.0


def _has_room(
    costs: LayerCosts, block: Block, cut: BatchPlan, bounds: list[tuple[float, float]], filled: Shares
) -> bool | None:
    """Whether the memories have room for a block, whatever it costs; None where that is so close that the programme has to say.

    `bounds` [9] leave the weights alone to choose: they fit where the memories together take them, and each its least share.
    """
    rows, limits = np.zeros((9, 11)), np.zeros(9)
    _room(costs, block, cut, rows, limits, filled, _disk(costs))
    least, most = np.array(bounds).T
    whole = np.diag(rows[6:])
    if not (whole > 0).all():
        return None
    shares = (limits[6:] - (rows[6:, 3:9] * least[3:]).sum(axis=1)) / whole
    beyond = (shares - least[_W])[shares != least[_W]]  # a machine without a disk has exactly no room there
    spare = min(float(np.minimum(shares, most[_W]).sum()) - 1.0, float(beyond.min(initial=np.inf)))
    return None if abs(spare) < _CLOSE else spare > 0


def _planned(costs: LayerCosts, block: Block, cut: BatchPlan, share: float) -> float:
    """Bytes of a `share` of GPU memory that FlexGen's account leaves to shares of experts, cache and hidden states."""
    problem = costs.problem
    tier = problem.system.tiers[problem.gpu_tier]
    weights = problem.weight_buffer(cut) if cut.homes.elsewhere else problem.non_expert_bytes()
    return share * float(tier.capacity or problem.usable(problem.gpu_tier)) - weights - working_bytes(costs, block.gpu_batch)


def working_bytes(costs: LayerCosts, gpu_batch: int) -> float:
    """Bytes that FlexGen sets aside in GPU memory for the prompts of a GPU batch: what all operations hold, added up.

    Hidden states and queries, keys and values; queries, scores of 16 bits and sums; both sides of the output projection; both
    sides of one feed-forward part, as wide as one expert (its port to Mixtral plans as for a dense model: that gives the shares
    that were published).
    Source: FlexGen's repository, experimental/cost_model.py, interp. Valid: scores that are written out.
    """
    problem, model = costs.problem, costs.problem.model
    if not problem.job.attention:
        return 0.0
    prompt = problem.longest_prompts[:gpu_batch].astype(np.float64)
    state, core, scores = model.token_bytes, model.core_activation_bytes, 2.0 * model.attention.heads * float((prompt**2).sum())
    wide = max(model.expert_width if model.experts else 0, model.dense_width) * state / model.hidden
    return scores + float(prompt.sum()) * (state + model.qkv_activation_bytes + 2.0 * core + 2.0 * state + wide + state)


def _disk(costs: LayerCosts) -> str | None:
    system = costs.problem.system
    return next((tier for tier in system.host_tiers if system.tiers[tier].kind == "nvme" and tier != costs.host), None)


def _from_disk(costs: LayerCosts, disk: str | None) -> float:
    problem = costs.problem
    return problem.experts * float(costs.copy_in(problem.model.expert_bytes, disk)) if disk else 0.0


def blocks(costs: LayerCosts, bounds: Bounds, most: int, fits: Callable[[Block], bool] | None = None) -> Iterator[Block]:
    """Candidates: powers of two of both numbers and the most GPU batches that fit, no more sequences than there are requests.

    At most `most` GPU batches. The cache lies in GPU memory or in host memory; the CPU attends to one in host memory, or not.
    """
    requests = costs.problem.job.requests
    cpu = costs.problem.costs.cpu_name is not None and costs.problem.job.attention
    for size in [bounds.gpu_batch] if bounds.gpu_batch else powers(requests):
        limit = min(-(-requests // size), most)
        for on_host in [bounds.cache_on_host] if bounds.cache_on_host is not None else [False, True]:
            choices = [False, True] if bounds.cpu_attention is None else [bounds.cpu_attention]
            for attends in choices if on_host and cpu else [False]:

                def block(count: int, size: int = size, on_host: bool = on_host, attends: bool = attends) -> Block:
                    return Block(min(size, requests), count, on_host, attends)

                if bounds.num_batches:
                    yield block(bounds.num_batches)
                    continue
                top = largest(lambda count, block=block: fits is None or fits(block(count)), limit)  # type: ignore[misc]
                yield from (block(count) for count in powers(top) if top)


def search(
    costs: LayerCosts,
    limits: Bounds,
    cut_of: Callable[[Block], BatchPlan],
    *,
    most: int,
    serial: bool,
    filled: Shares = WHOLE,
) -> Plan | None:
    """The plan of the least predicted time of the job; None if none fits. `cut_of` cuts the job as a block asks.

    The cache lies in one tier as a whole and hidden states on the GPU, because the engine knows nothing else; the fractions of
    the weights are the programme's.
    """
    best: Plan | None = None
    wg, wc = limits.weights
    weights = [(0.0, 1.0) if wg is None else (wg, wg), (0.0, 1.0) if wc is None else (wc, wc), (0.0, 1.0)]

    def bounds(block: Block) -> list[tuple[float, float]]:
        on = float(block.cache_on_host)
        cache = [(1.0 - on, 1.0 - on), (on, on), (0.0, 0.0)]
        return [*weights, *cache, (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]

    def solved(block: Block) -> tuple[FloatArray, float] | None:
        return programme(costs, block, cut_of(block), serial=serial, filled=filled).solve(bounds(block))

    def fits(block: Block) -> bool:
        room = _has_room(costs, block, cut_of(block), bounds(block), filled)
        return solved(block) is not None if room is None else room

    for block in blocks(costs, limits, most, fits):
        solution = solved(block)
        if solution is not None and (best is None or solution[1] < best.seconds * (1 - 1e-9)):
            best = Plan(block, *solution)
    return best
