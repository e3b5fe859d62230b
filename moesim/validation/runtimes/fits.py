"""Owns the fits of runtime profiles: which constant follows from which published row, and what solving for it gives.

Knows rows and settings of the cases beside it; writes no profile. `python -m moesim.validation.runtimes.fits` prints them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moesim.terminal import say
from moesim.validation.pace import through_point
from moesim.validation.runtimes import ktransformers, llama_cpp, offloading
from moesim.validation.runtimes.single import Setting, Speeds, single, value

__all__ = ["FITS", "Fit", "shipped", "solved"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A constant of a program and the published row that sets it, the program's other constants as shipped."""

    setting: Setting
    key: str
    """Path of the constant in the profile."""
    unit: str
    """What its value is followed by; empty for shares."""
    row: str
    """The published row, in words."""
    target: float
    """Seconds of that row."""
    prompt: int
    output: int
    taken: Callable[[Speeds], float]
    """Picks the seconds of a request that the row is about."""
    rises: bool = False
    """Whether the seconds grow with the constant: a duration, not a rate."""


def shipped(fit: Fit) -> float:
    """The constant as its profile has it, in `unit`."""
    text = str(value(fit.setting, *fit.key.split(".")))
    return float(text.removesuffix(fit.unit).strip())


def solved(fit: Fit) -> float:
    """The constant at which the row is met, in `unit`."""

    def seconds(rate: float) -> float:
        constant = 1.0 / rate if fit.rises else rate
        sets = {f"runtime.{fit.key}": f"{constant:.6g} {fit.unit}" if fit.unit else constant}
        return fit.taken(single(fit.setting, fit.prompt, fit.output, sets))

    guess = 1.0 / shipped(fit) if fit.rises else shipped(fit)
    rate = through_point(seconds, fit.target, guess, 1.1 * guess)
    return 1.0 / rate if fit.rises else rate


def _first(speeds: Speeds) -> float:
    return speeds.ttft


def _later(speeds: Speeds) -> float:
    return speeds.tpot


def _whole(speeds: Speeds) -> float:
    return speeds.makespan


def _ktransformers() -> Iterator[Fit]:
    old, amx, now = ktransformers.V021, ktransformers.V03, ktransformers.CURRENT
    prefill, decode = ktransformers.PROMPTS[969]
    yield Fit(
        setting=old,
        key="cpu.classes.llamafile_q4.core_rate",
        unit="TFLOPS",
        row="prefill of 969 tokens",
        target=969 / prefill,
        prompt=969,
        output=1,
        taken=_first,
    )
    yield Fit(
        setting=old,
        key="cpu.hand_over",
        unit="us",
        row="decode after 969 tokens",
        target=1 / decode,
        prompt=969,
        output=5,
        taken=_later,
        rises=True,
    )
    yield Fit(
        setting=amx,
        key="cpu.classes.kt_amx.core_rate",
        unit="TFLOPS",
        row="prefill of 1,000 tokens",
        target=1000 / ktransformers.AMX[1000],
        prompt=1000,
        output=1,
        taken=_first,
    )
    yield from _ktransformers_now(now)


def _ktransformers_now(setting: Setting) -> Iterator[Fit]:
    prefill, decode = ktransformers.MINIMAX[2048]
    yield Fit(
        setting=setting,
        key="cpu.classes.kt_kernel.core_bandwidth",
        unit="GB/s",
        row="decode after 2,048 tokens",
        target=1 / decode,
        prompt=2048,
        output=3,
        taken=_later,
    )
    yield Fit(
        setting=setting,
        key="cpu.classes.kt_kernel.core_rate",
        unit="TFLOPS",
        row="prefill of 2,048 tokens",
        target=2048 / prefill,
        prompt=2048,
        output=1,
        taken=_first,
    )
    yield Fit(
        setting=setting,
        key="copies.share",
        unit="",
        row="prefill of 8,192 tokens",
        target=8192 / ktransformers.MINIMAX[8192][0],
        prompt=8192,
        output=1,
        taken=_first,
    )


def _llama_cpp() -> Fit:
    micro_batch = llama_cpp.FIT_ON
    return Fit(
        setting=llama_cpp.setting(micro_batch),
        key="copies.share",
        unit="",
        row=f"prefill with micro-batches of {micro_batch}",
        target=2048 / llama_cpp.PREFILL[micro_batch],
        prompt=2048,
        output=1,
        taken=_first,
    )


def _fiddler() -> Fit:
    return Fit(
        setting=offloading.FIDDLER_ON_L4,
        key="cpu.classes.bf16_emulated.core_rate",
        unit="GFLOPS",
        row="prompt 64, output 16",
        target=16 / offloading.FIDDLED[64][16],
        prompt=64,
        output=16,
        taken=_whole,
    )


FITS: tuple[Fit, ...] = (*_ktransformers(), _llama_cpp(), _fiddler())
"""Every constant that one run of one request sets; those of FlexGen and MoE-Lightning are of whole jobs, in their case."""


def _line(fit: Fit) -> str:
    name = f"{fit.setting.runtime}: {fit.key}"
    return f"{name:62s} shipped {shipped(fit):8.4g} {fit.unit:7s} fitted {solved(fit):8.4g}  on {fit.row}"


def main() -> None:
    """Prints each constant beside what its row gives."""
    for fit in FITS:
        say(_line(fit))


if __name__ == "__main__":
    main()
