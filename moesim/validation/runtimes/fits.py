"""Owns the fits of runtime profiles: which constant follows from which published row, and what solving for it gives.

Knows rows and settings of the cases beside it; writes no profile. `python -m moesim.validation.runtimes.fits` prints them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from moesim.terminal import say
from moesim.validation.pace import through_point
from moesim.validation.runtimes import ktransformers, llama_cpp, offloading
from moesim.validation.runtimes.single import Setting, Speeds, single, value

__all__ = ["FITS", "Fit", "shipped", "solved"]


class Fit(NamedTuple):
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
    """Which seconds of a request they are."""
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
    rate, hand_over = "cpu.classes.llamafile_q4.core_rate", "cpu.hand_over"
    yield Fit(old, rate, "TFLOPS", "prefill of 969 tokens", 969 / prefill, 969, 1, _first)
    yield Fit(old, hand_over, "us", "decode after 969 tokens", 1 / decode, 969, 5, _later, rises=True)
    yield Fit(
        amx,
        "cpu.classes.kt_amx.core_rate",
        "TFLOPS",
        "prefill of 1,000 tokens",
        1000 / ktransformers.AMX[1000],
        1000,
        1,
        _first,
    )
    prefill, decode = ktransformers.MINIMAX[2048]
    kernel = "cpu.classes.kt_kernel"
    yield Fit(now, f"{kernel}.core_bandwidth", "GB/s", "decode after 2,048 tokens", 1 / decode, 2048, 3, _later)
    yield Fit(now, f"{kernel}.core_rate", "TFLOPS", "prefill of 2,048 tokens", 2048 / prefill, 2048, 1, _first)
    yield Fit(now, "copies.share", "", "prefill of 8,192 tokens", 8192 / ktransformers.MINIMAX[8192][0], 8192, 1, _first)


def _others() -> Iterator[Fit]:
    fit_on = llama_cpp.FIT_ON
    first = partial(Fit, llama_cpp.setting(fit_on), "copies.share", "")
    yield first(f"prefill with micro-batches of {fit_on}", 2048 / llama_cpp.PREFILL[fit_on], 2048, 1, _first)
    key, speed = "cpu.classes.bf16_emulated.core_rate", offloading.FIDDLED[64][16]
    yield Fit(offloading.FIDDLER_ON_L4, key, "GFLOPS", "prompt 64, output 16", 16 / speed, 64, 16, _whole)


FITS: tuple[Fit, ...] = (*_ktransformers(), *_others())
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
