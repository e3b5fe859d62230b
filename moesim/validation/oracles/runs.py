"""Owns the oracles of whole runs: upload-bound decode, distinct experts, coalescing, expert deferral.

Knows scenarios as plain data and lanes; no published system.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from moesim.contract import Deployment, Problem
from moesim.policies.baselines.on_demand import OnDemand
from moesim.policies.kit import closed_forms
from moesim.runs.run import RunOptions, loaded, run, run_loaded
from moesim.streams import Streams
from moesim.validation.case import Case, Findings, Row
from moesim.validation.oracles import toy
from moesim.workload.jobs import Offline
from moesim.workload.routing.profile import Uniform as NoProfile
from moesim.workload.routing.shared import Shared
from moesim.workload.routing.zipf import Uniform, Zipf
from moesim.workload.table import RoutingTable, distinct

__all__ = ["COALESCING", "DEFERRAL", "DISTINCT", "UPLOAD_BOUND"]


def _upload_bound() -> Findings:
    rows = []
    machines: tuple[tuple[str, dict[str, Any]], ...] = (
        ("fast GPU and CPU", {}),
        ("GPU 10 times faster", {"fast": 10.0}),
        ("CPU 10 times slower", {"cpu": 2e12, "ddr": 20e9 * 2}),
        ("twice the PCIe", {"pcie": 50e9}),
    )
    for name, parts in machines:
        result = run(
            toy.scenario(toy.hardware(**parts), requests=4, prompt=4, output=17), policy={"kind": "on_demand", "kv": "hbm"}
        )
        steps = result.frame("steps")
        decode = steps[steps["phase"] == "decode"]
        seconds = float((decode["end_s"] - decode["start_s"]).sum())
        streamed = float(decode["uploads"].sum()) * _EXPERT / len(decode)
        formula = closed_forms.upload_bound(4, parts.get("pcie", 25e9), streamed)
        rows.append(Row(f"{name}, tok/s", formula, 4 * len(decode) / seconds, toy.NEAR))
    return Findings(tuple(rows))


_EXPERT = 3 * 4096 * 14336 * 2.0
"""Bytes of an expert of Mixtral-8x7B in 16 bit."""

UPLOAD_BOUND = Case(
    id="oracle-upload-bound",
    kind="component",
    summary="Decode that uploads what it needs: batch x B_up / bytes streamed per pass, whatever GPU and CPU are.",
    source=toy.SOURCE,
    runner=_upload_bound,
)


class _Shape(NamedTuple):
    name: str
    experts: int
    top_k: int
    n_moe: int


def _distinct() -> Findings:
    rows = [_uniform(_Shape("mixtral-8x7b", 8, 2, 32), 8, 400), _uniform(_Shape("deepseek-v2-lite", 64, 6, 26), 32)]
    rows += [_uniform(_Shape("qwen3-30b-a3b", 128, 8, 48), 4), _uniform(_Shape("deepseek-v3", 256, 8, 58), 64)]
    mixtral = _Shape("mixtral-8x7b", 8, 2, 32)
    for batch in (2, 8):
        table = _table(mixtral, batch, Shared(kind="shared", of=Uniform()))
        rows.append(Row(f"mixtral-8x7b, {batch} identical requests", mixtral.top_k, _mean(table, batch), 0.0))
    rows.append(_exact(_Shape("qwen3-30b-a3b", 128, 8, 48)))
    return Findings(
        tuple(rows), arithmetic=("Drawn rows: mean over layers and 40 (Mixtral 400) decode passes of independent tokens.",)
    )


def _table(shape: _Shape, batch: int, routing: Any, passes: int = 40) -> RoutingTable:
    jobs = Offline(requests=batch, prompt=1, output=passes + 1, routing=routing, profile=NoProfile())
    return jobs.build(shape, Streams(11), Path())[1]


def _mean(table: RoutingTable, batch: int) -> float:
    return float(distinct(table.pass_counts(np.arange(batch), 0, table.decode.shape[1])).mean())


def _uniform(shape: _Shape, tokens: int, passes: int = 40) -> Row:
    formula = float(closed_forms.distinct_experts(shape.experts, shape.top_k, tokens))
    name = f"{shape.name}, {tokens} tokens of {shape.top_k} of {shape.experts}"
    return Row(name, formula, _mean(_table(shape, tokens, Uniform(), passes), tokens), 0.005)


def _exact(shape: _Shape) -> Row:
    """Under strong skew the table's count is compared with sets of ids, token by token."""
    table = _table(shape, 16, Zipf(exponent=1.5), passes=10)
    sets = [len(set(table.decode[:, g, layer].ravel().tolist())) for g in range(10) for layer in range(shape.n_moe)]
    return Row("qwen3-30b-a3b, 16 tokens, Zipf 1.5, counted as sets", float(np.mean(sets)), _mean(table, 16), 1e-12)


DISTINCT = Case(
    id="oracle-distinct-experts",
    kind="component",
    summary="Distinct experts of T independent tokens, E (1 - (1 - k/E)^T); of identical requests, k; under skew, exact.",
    source=toy.SOURCE,
    runner=_distinct,
)


class Portioned(OnDemand):
    """On-demand uploads whose tokens pass the experts `portion` sequences at a time; 0 for all together."""

    kind: Literal["portioned"] = "portioned"  # type: ignore[assignment]
    portion: int = 0

    def deploy(self, problem: Problem) -> Deployment:
        """Everything in host memory."""
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, expert_batch=self.portion))


def _coalescing() -> Findings:
    rows = []
    batch = 8
    moved = {}
    for portion in (0, 1, 2, 4):
        policy = Portioned.model_validate({"kv": "hbm", "portion": portion})
        result = run(toy.scenario(toy.hardware(), requests=batch, prompt=64, output=1), policy=policy)
        moved[portion] = float(result.summary["bytes"]["pcie:forward"])
    layer = 8 * _EXPERT
    for portion in (1, 2, 4):
        formula = closed_forms.coalescing(batch / portion, 8, 8)
        rows.append(Row(f"{batch // portion} micro-batches over one, bytes read", formula, moved[portion] / moved[0], 1e-9))
    rows.append(Row("bytes of one coalesced pass over L x W of a layer", 1.0, moved[0] / (32 * layer), 1e-9))
    return Findings(tuple(rows), arithmetic=("Prompts of 64 tokens: each touches all 8 experts of every layer.",))


COALESCING = Case(
    id="oracle-coalescing",
    kind="component",
    summary="n micro-batches that each touch all experts read n x W; passing the experts together they read W.",
    source=f"{toy.SOURCE}; CoX-MoE, MoE-Gen",
    runner=_coalescing,
)


def _deferral() -> Findings:
    rows = []
    for share in (0.25, 0.5, 1.0, 2.0):
        gpu, expert = share * _EXPERT_MS, _EXPERT_MS
        formula = closed_forms.deferred_layer(gpu, expert, expert)
        name = f"GPU {gpu:.2f}, immediate {expert:.2f}, deferred {expert:.2f}: layer, ms"
        rows.append(Row(name, formula, _layer_ms(gpu, defer=1), toy.NEAR))
        rows.append(Row(f"GPU {gpu:.2f}, nothing deferred: layer, ms", gpu + 2 * expert, _layer_ms(gpu, defer=0), toy.NEAR))
    line = "Mixtral-8x7B, a token's two experts on the CPU, one of them deferred; one token at a time, a layer in the middle."
    return Findings(tuple(rows), arithmetic=(line,))


_EXPERT_MS = 1e3 * 352321536 / 200e9
"""ms in which the toy's CPU streams the weights of one expert of Mixtral-8x7B."""
_LAUNCHES = 4
"""GPU calls of a layer without experts: projections, core, output, router."""


def _layer_ms(gpu: float, defer: int) -> float:
    """ms of MoE layer 16 in a decode pass, by the difference of two runs; the GPU's launches are all that it needs time for."""
    parts = toy.hardware(cpu=1e18)
    parts["devices"]["gpu"]["launch"] = f"{gpu / _LAUNCHES:.9g} ms"
    parts["devices"]["cpu"]["fused"] = True
    policy = {"kind": "ktransformers", "limit": 0, "defer": defer, "batch": 1, "kv": "hbm"}
    seconds = []
    for output in (2, 12):
        data = {**toy.scenario(parts, requests=1, prompt=1, output=output), "policy": policy}
        seconds.append(float(run_loaded(loaded(data), RunOptions(bound=False)).frame("layers")["time_s"][16]))
    return 1e3 * (seconds[1] - seconds[0]) / 10


DEFERRAL = Case(
    id="oracle-expert-deferral",
    kind="component",
    summary="Expert deferral: a layer takes max(GPU + immediate, immediate + deferred) instead of their sum.",
    source=f"{toy.SOURCE}; KTransformers (SOSP 2025)",
    runner=_deferral,
)
