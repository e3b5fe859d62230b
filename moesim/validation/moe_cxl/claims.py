"""Owns MoE-CXL's claims: each tried where it can hold and where it cannot, with the sum that says why.

Knows set-ups and runs; nothing of how they are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.runs.run import loaded, problem_of, run
from moesim.validation.case import Case, Findings
from moesim.validation.moe_cxl.ablations import ablations
from moesim.validation.moe_cxl.finding import Finding, table
from moesim.validation.moe_cxl.guesses import Guesses, break_even, guesses, without_history
from moesim.validation.moe_cxl.robustness import energy, recovery, scaling, sensitivity
from moesim.validation.moe_cxl.setups import (
    BUSY,
    CXL,
    DRAM,
    FASTEST,
    GPUS,
    LONG,
    MANY,
    NVME,
    ONE,
    PAGEABLE,
    PROMPT,
    PUBLISHED_SLICE,
    SLOW,
    Sets,
    Tried,
    only,
    tried,
)
from moesim.validation.moe_cxl.verdicts import verdicts

__all__ = ["CLAIMS"]

_SPEED: dict[str, tuple[float, Sets, str]] = {
    "TTFT": (2.3, ONE, "ttft"),
    "TPOT": (1.8, ONE, "tpot"),
    "throughput at batch 32": (3.1, MANY, "whole"),
    "16 K tokens of context": (4.2, LONG, "whole"),
}
"""Claim -> published gain, the job that it is tried on, what is compared."""
_BASELINES: dict[str, tuple[str, Sets, str]] = {
    "page-locked DRAM": ("baseline", DRAM, "15 % of experts kept and overlap, which need no CXL"),
    "pageable DRAM": ("baseline", PAGEABLE, "kept experts, overlap, and copies that are page-locked"),
    "busy DRAM": ("baseline", BUSY, "kept experts, overlap, and PCIe instead of the 12 GB/s that other users leave of DRAM"),
    "NVMe": ("baseline", NVME, "kept experts, overlap, and PCIe instead of the SSD"),
    "same policy on DRAM": ("moe_cxl", DRAM, "CXL alone: a GPU reads it at min(PCIe, device)"),
}
"""What MoE-CXL is compared with -> policy, machine, what the gain comes from."""


def _speeds() -> Iterator[Finding]:
    for claim, (published, job, metric) in _SPEED.items():
        ours = tried("moe_cxl", CXL, job)
        for against, (policy, machine, mechanism) in _BASELINES.items():
            theirs = tried(policy, machine, job)
            ratios = theirs.simulated(metric) / ours.simulated(metric), theirs.derived(metric) / ours.derived(metric)
            yield Finding(f"{claim}, gain over {against}", published, *ratios, 1.0, mechanism)
    trial, dram = tried("moe_cxl", FASTEST, ONE), tried("moe_cxl", DRAM, ONE)
    ratios = dram.simulated("ttft") / trial.simulated("ttft"), dram.derived("ttft") / trial.derived("ttft")
    yield Finding("TTFT, gain over same policy on DRAM, CXL-D only", 2.3, *ratios, 1.0, "its 52 GB/s outrun the 24.8 of PCIe")


def _penalties() -> Iterator[Finding]:
    """Without prefetches, which are not misses: what a miss costs where it happens."""
    ours = tried("still", CXL, ONE)
    slow = {"pageable DRAM at 7 GB/s": SLOW}
    for against, machine in {
        **{name: machine for name, (policy, machine, _) in _BASELINES.items() if policy == "baseline"},
        **slow,
    }.items():
        theirs = tried("baseline", machine, ONE)
        cuts = 1 - _stall(ours) / _stall(theirs), 1 - ours.by_hand.copy / theirs.by_hand.copy
        message = f"a miss waits {1e3 * ours.by_hand.copy:.3g} ms instead of {1e3 * theirs.by_hand.copy:.3g}"
        yield Finding(f"miss penalty, cut against {against}", 0.67, *cuts, 0.0, message)


def _devices() -> Iterator[Finding]:
    best = tried("moe_cxl", only("d"), ONE)
    for letter, rate in (("a", 32), ("b", 26), ("c", 18)):
        trial = tried("moe_cxl", only(letter), ONE)
        ratios = trial.simulated("tpot") / best.simulated("tpot"), trial.derived("tpot") / best.derived("tpot")
        message = "less than the 24.8 of PCIe" if rate < 24.8 else "more than the 24.8 of PCIe, as CXL-D's 52 are"
        yield Finding(
            f"device choice, step with CXL-{letter.upper()} over CXL-D", 1.35, *ratios, 1.0, f"{rate} GB/s, {message}"
        )


def _stall(trial: Tried) -> float:
    """Seconds that an upload holds the run up, on average."""
    held = float(trial.result.details["critical_s"]["pcie:forward"])
    return held / float(np.sum(trial.result.columns["layers"]["uploads"]))


def _accuracy() -> Iterator[tuple[Finding, Guesses]]:
    even: dict[str, Any] = {"routing": {"kind": "uniform"}, "profile": {"kind": "uniform"}}
    seven, single = guesses(requests=7, **even), guesses(requests=1)
    text = "with 7 tokens nearly every expert is used, and a blind guess is right in 1 - (1 - 2/8)^7 of all cases"
    yield (
        Finding("prefetch accuracy, batch 7", 0.85, seven.accuracy, without_history(8, 2, 7), 0.0, text, level="least"),
        seven,
    )
    text = (
        "what history says of the routing of one sequence, with neither machine nor queue in it (blind: "
        f"{without_history(8, 2, 1):.2f}; tables of real traces recall 0.41 to 0.43)"
    )
    yield Finding("prefetch accuracy, batch 1", 0.85, single.accuracy, single.alone, 0.0, text, level="least"), single


def _shares_of_speed() -> Iterator[Finding]:
    for name, job, metric in (
        ("decode of 1", ONE, "tpot"),
        ("decode of 32", MANY, "tpot"),
        ("prompt of 16 K tokens", LONG, "ttft"),
        ("prompt of 32 K tokens", PROMPT, "ttft"),
    ):
        ours, alone = tried("moe_cxl", CXL, job), tried("gpu_only", GPUS, job)
        ratios = alone.simulated(metric) / ours.simulated(metric), alone.derived(metric) / ours.derived(metric)
        took = f"{1e3 * alone.derived(metric):.4g} ms without uploads, {1e3 * ours.derived(metric):.4g} with them"
        yield Finding(f"share of GPU-only speed, {name}", 0.95, *ratios, 0.0, took, level="least")
    whole: dict[str, Any] = {"hardware.tiers.hbm.capacity": "80 GB", "workload.output": 8}
    times = [run("moe_cxl/switch-base-128", policy=policy, **whole).summary["makespan_s"] for policy in ("gpu_only", "moe_cxl")]
    text = "all 14.5 GB of experts are resident: there is nothing to place"
    yield Finding("share of GPU-only speed, Switch-Base-128 in 80 GB", 0.95, times[0] / times[1], 1.0, 0.0, text, level="least")


def _costs() -> Iterator[Finding]:
    card, host, disk = 15000.0, 3995.0 + 16 * 6.0, 2000 * 0.2
    alone = _price(GPUS)
    for name, sets, gigabytes, per in (
        ("four devices of 528 GB", {}, 528.0, 7.5),
        ("96 GB, as much as Mixtral needs", _one_device("7.5 USD/GB"), 96.0, 7.5),
        ("96 GB at 30 USD/GB", _one_device("30 USD/GB"), 96.0, 30.0),
    ):
        cut = 1 - (card + host + disk + gigabytes * per) / (2 * card + host + disk)
        text = f"a second card of {card:,.0f} USD against {gigabytes:g} GB of CXL at {per:g} USD/GB"
        yield Finding(f"cost, cut of the machine's price, {name}", 0.40, 1 - _price(sets) / alone, cut, 0.0, text)
    for name, job, machine in (
        ("batch 1", ONE, CXL),
        ("prompt of 32 K tokens alone, 96 GB", PROMPT, _one_device("7.5 USD/GB")),
    ):
        ours, theirs = tried("moe_cxl", machine, job), tried("gpu_only", GPUS, job)
        cuts = [1 - getattr(ours, how)("capital") / getattr(theirs, how)("capital") for how in ("simulated", "derived")]
        prices, times = (
            [setup.problem.system.price for setup in (ours, theirs)],
            [setup.by_hand.whole for setup in (ours, theirs)],
        )
        text = f"the machine costs {prices[0] / prices[1]:.2f} times as much and takes {times[0] / times[1]:.3g} times as long"
        yield Finding(f"cost, cut of capital per token, {name}", 0.40, cuts[0], cuts[1], 0.0, text)


def _one_device(price: str) -> dict[str, Any]:
    """96 GB in the fastest device, none in the others."""
    return {**only("d", "96 GB"), "hardware.tiers.cxl_d.price": price}


def _price(sets: Sets) -> float:
    """USD of the machine."""
    return float(loaded("moe_cxl/mixtral-8x7b", **{**PUBLISHED_SLICE, **sets}).scenario.hardware.price)


def _placement() -> Iterator[Finding]:
    tight: dict[str, Any] = {f"hardware.tiers.cxl_{letter}.capacity": "1 MB" for letter in "abc"}
    tight |= {"hardware.tiers.cxl_d.capacity": "63.1 GB", "hardware.tiers.ddr.capacity": "32 GB"}
    published = {"GPU memory": 0.15, "CXL": 0.70, "CPU": 0.15}
    for name, sets in (("devices as listed", {}), ("CXL of 63 GB in all", tight)):
        shares, derived = _served_from({**PUBLISHED_SLICE, **sets})
        for place, share in published.items():
            text = "tiers are filled in turn: what capacities leave, not a choice"
            measured = (shares[place], derived[place])
            yield Finding(
                f"experts served from {place}, {name}", share, *measured, 0.0, text, level="exact", fitted=place == "GPU memory"
            )


def _served_from(sets: Sets) -> tuple[dict[str, float], dict[str, float]]:
    """Share of Mixtral's experts served from each tier by Algorithm 1, and what the capacities say by hand."""
    policy = MoeCxl.model_validate({"prefetch": 0})
    loaded_scenario = loaded("moe_cxl/mixtral-8x7b", policy=policy, **{**sets, **ONE})
    problem = problem_of(loaded_scenario, *loaded_scenario.build())
    deployment = policy.deploy(problem)
    cxl = np.isin(deployment.home, [i for i, tier in enumerate(problem.tiers) if tier.startswith("cxl")])
    gpu = deployment.resident
    shares = {"GPU memory": gpu.mean(), "CXL": (cxl & ~gpu).mean(), "CPU": (~cxl & ~gpu).mean()}
    size, pairs = problem.model.expert_bytes, deployment.home.size
    cut = policy.cut(problem, movable=True)
    held = int(problem.gpu_free(cut) // size)
    slots = sum(int(problem.usable(tier) // size) for tier in problem.tiers if tier.startswith("cxl"))
    warm = min(slots, pairs - held)
    by_hand = {"GPU memory": held / pairs, "CXL": warm / pairs, "CPU": (pairs - held - warm) / pairs}
    return {place: float(share) for place, share in shares.items()}, by_hand


def _claims() -> Findings:
    predicted = list(_accuracy())
    speeds = list(_speeds())
    findings = [*speeds, *(finding for finding, _ in predicted), *_penalties(), *_devices()]
    findings += [*_shares_of_speed(), *_costs(), *_placement(), *recovery(), *scaling(), *sensitivity()]
    changes = ablations()
    return Findings(
        tuple(finding.row for finding in findings),
        tuple(finding.explanation for finding in findings if not finding.row.within),
        (
            *verdicts({finding.name: finding for finding in findings}),
            *_remarks(speeds, predicted[-1][1]),
            _all_parts(),
            energy(),
            *changes.remarks,
        ),
        (table(findings), changes.exhibit),
    )


def _remarks(speeds: list[Finding], guess: Guesses) -> Iterator[str]:
    gains = {finding.name: finding for finding in speeds}
    locked, alone = gains["TTFT, gain over page-locked DRAM"], gains["TTFT, gain over same policy on DRAM"]
    slow = tried("baseline", NVME, ONE)
    share = (2.3 * tried("moe_cxl", CXL, ONE).by_hand.prefill / tried("baseline", DRAM, ONE).by_hand.prefill - 1) / (
        slow.by_hand.prefill / tried("baseline", DRAM, ONE).by_hand.prefill - 1
    )
    yield (
        "A GPU reads host-attached CXL at min(PCIe, device): 24.8 GB/s from three of the devices as from page-locked DRAM, "
        "18 from the fourth, whose experts have copies on the others. So CXL in the place of DRAM gains "
        f"{alone.simulated:.2f}x, whatever is claimed, and CXL-D alone changes nothing; {locked.simulated:.2f}x over "
        "DeepSpeed-MoE come from what is kept and overlapped, which any policy may do with DRAM. CXL gains against NVMe, "
        "against copies that are not page-locked, or by holding what DRAM does not."
    )
    yield (
        "MoE-Infinity, AdapMoE and HOBBIT keep experts in GPU memory as well, so over them less is gained, if anything: see "
        "the experiments moe-cxl-batch, moe-cxl-batch-switch-base and moe-cxl-batch-custom."
    )
    yield (
        f"A TTFT gain of 2.3 is what a baseline has that keeps {100 * share:.0f} % of the experts on NVMe and the rest in "
        "page-locked DRAM: the claim tells how much DRAM the baseline had."
    )
    enough = 100 * break_even(guess.copy, guess.window)
    yield (
        f"A fetched expert pays at batch 1 if it is right in more than {enough:.0f} % of all "
        f"cases: a layer of attention hides {1e3 * guess.window:.2g} ms of a copy of {1e3 * guess.copy:.3g} ms, and a wrong "
        f"copy holds demand up by half of one on average. At batch 8 {100 * without_history(8, 2, 8):.0f} % of blind guesses "
        "are right, but there the copies themselves fill the time, and begun sooner they end no sooner."
    )


def _all_parts() -> str:
    """What prefetch, adaptation and stealing add to the rows of speed, and how often a hinted prefetch is right."""
    sentences = []
    for claim, (published, job, metric) in _SPEED.items():
        theirs = tried("baseline", DRAM, job).simulated(metric)
        on, still = (theirs / tried(policy, CXL, job).simulated(metric) for policy in ("moe_cxl", "still"))
        sentences.append(f"{claim} {on:.2f} (without them {still:.2f}, claimed {published:g})")
    recall = MoeCxl.model_validate({}).hint.at(1)  # type: ignore[union-attr]
    right = guesses(requests=1, hinted=True, routing={"kind": "uniform"}, profile={"kind": "uniform"}).accuracy
    return (
        "All rows of speed have prefetch, adaptation, replicas and stealing on. Over page-locked DRAM they gain "
        f"{'; '.join(sentences)}. With a hint of recall {recall:g} beside the history "
        f"{100 * right:.0f} % of the experts fetched at batch 1 are right (claimed 85)."
    )


CLAIMS = Case(
    id="moe-cxl-claims",
    kind="simulated",
    summary="Each claim of MoE-CXL where it can hold and where it cannot: sign, size and mechanism, the sum beside the run.",
    source="MoE-CXL, section 6; no absolute times, no equations",
    runner=_claims,
    fitted="the slice of GPU memory, on the published share of experts in it",
)
