"""Owns what is to be said of MoE-CXL's claims as a whole: the sign of each, its mechanism, where it holds and where it cannot.

Knows findings by name; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moesim.validation.moe_cxl.finding import Finding

__all__ = ["verdicts"]

_GAINS = {
    "TTFT": "",
    "TPOT": "",
    "throughput at batch 32": " The batch adds little: from 8 on nearly every expert is used in each step.",
    "16 K tokens of context": (
        " The length adds little: a gain grows to where GPU work is as long as copies (some 16 K tokens) and falls beyond it, "
        "for that work hides the copies."
    ),
}
"""Claim -> what else is to be said of it."""


def verdicts(findings: Mapping[str, Finding]) -> Iterator[str]:
    """A line for each claim; `findings`: name of a finding -> finding."""
    yield from (_gain(claim, more, findings) for claim, more in _GAINS.items())
    yield _accuracy(findings)
    yield _penalty(findings)
    yield _device(findings)
    yield _cost(findings)


def _gain(claim: str, more: str, findings: Mapping[str, Finding]) -> str:
    """Of a claim that is a gain over baselines."""
    over = _after(f"{claim}, gain over ", findings)
    on_dram = over["same policy on DRAM"]
    rivals = {name: finding for name, finding in over.items() if not name.startswith("same policy")}
    reached, short = _split(rivals, on_dram.published)
    sign = "as claimed" if {finding.sign for finding in rivals.values()} == {"as claimed"} else "not always as claimed"
    return (
        f"{claim}, {on_dram.published:g} claimed over DeepSpeed-MoE. Sign: {sign}. "
        "Mechanism: fewer bytes over PCIe (experts kept in GPU memory), copies beside compute, a faster source than the "
        f"baseline's. Holds against {reached}; falls short against {short}. Cannot come from CXL in the place of page-locked "
        f"DRAM ({on_dram.simulated:.3g}): a GPU reads both at min(PCIe, device).{more}"
    )


def _accuracy(findings: Mapping[str, Finding]) -> str:
    seven, single = findings["prefetch accuracy, batch 7"], findings["prefetch accuracy, batch 1"]
    return (
        f"Prefetch accuracy, {seven.published:g} claimed. Sign: a level, not a gain. Mechanism: the more tokens, the more "
        "experts are used, whoever guesses. Holds from about 7 tokens of a batch on "
        f"({seven.simulated:.2f}; {seven.derived:.2f} blindly), where PCIe is busy already and prefetch gains nothing; cannot "
        f"hold at batch 1 ({single.simulated:.2f})."
    )


def _penalty(findings: Mapping[str, Finding]) -> str:
    cuts = _after("miss penalty, cut against ", findings)
    locked = cuts.pop("page-locked DRAM")
    reached, short = _split(cuts, locked.published)
    return (
        f"Miss penalty, a cut of {locked.published:g} claimed. Sign: as claimed where the baseline copies more slowly than "
        "PCIe. Mechanism: a copy takes W / min(rates on its way), so what is cut is a ratio of rates, and the claim needs a "
        f"baseline at a third of PCIe. Holds against {reached}; smaller against {short}; cannot hold against page-locked DRAM "
        f"({locked.simulated:.3g})."
    )


def _device(findings: Mapping[str, Finding]) -> str:
    a, c = (findings[f"device choice, step with CXL-{letter} over CXL-D"] for letter in "AC")
    return (
        f"Device choice, up to {100 * (c.published - 1):.0f} % claimed. Sign: as claimed or none. Mechanism: PCIe caps every "
        f"device that is faster. Holds for the one that is slower ({c.simulated:.3g} times as long with CXL-C); cannot hold "
        f"among the others ({a.simulated:.3g}). Latencies of some hundred ns do not count beside copies of milliseconds; only "
        "what computes on the CPU sees the full spread of the devices."
    )


def _cost(findings: Mapping[str, Finding]) -> str:
    alone = findings["cost, cut of capital per token, prompt of 32 K tokens alone, 96 GB"]
    batch = findings["cost, cut of capital per token, batch 1"]
    fast, slow = (findings[f"share of GPU-only speed, {job}"].simulated for job in ("prompt of 32 K tokens", "decode of 1"))
    return (
        f"Cost, a cut of {alone.published:g} at 0.95 of GPU-only speed claimed. Sign: as claimed for prompts, opposite for "
        "decode. Mechanism: CXL memory is cheaper than a second card, but who waits for uploads pays for the machine longer. "
        f"Holds for long prompts alone ({alone.simulated:.2f} at {fast:.3g} of the speed: 32 K tokens, 96 GB at 7.5 USD/GB); "
        f"cannot hold in decode ({slow:.2g} of the speed at batch 1, a token {1 - batch.simulated:.0f} times as dear)."
    )


def _after(head: str, findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """Those whose name begins with `head`, by the rest of it."""
    return {name.removeprefix(head): finding for name, finding in findings.items() if name.startswith(head)}


def _split(findings: Mapping[str, Finding], published: float) -> tuple[str, str]:
    """Conditions with their numbers: those that reach what is published, and those that do not."""
    texts = {name: f"{name} ({finding.simulated:.3g})" for name, finding in findings.items()}
    reached = [text for name, text in texts.items() if findings[name].simulated >= published]
    short = [text for name, text in texts.items() if findings[name].simulated < published]
    return ", ".join(reached) or "none", ", ".join(short) or "none"
