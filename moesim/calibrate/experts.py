"""Owns the time of experts on the processor against tokens, the split of its points, and the curve through them.

Knows the kernel model of a CPU and shapes of published models; not what a profile is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.calibrate.budget import Budget, fastest
from moesim.calibrate.libraries import Library
from moesim.calibrate.trust import Trust
from moesim.fit.solve import Parameter, Residuals, Values, least_squares
from moesim.hardware.experts import Kernel
from moesim.model import load_named

__all__ = ["HELD_OUT", "SPLIT", "Curve", "Point", "call_seconds", "curve", "measure", "shapes"]

MODELS = ("qwen3-30b-a3b", "deepseek-v2-lite", "mixtral-8x7b")
HELD_OUT = "deepseek-v2-lite"
"""The shape that no curve is fitted on."""
SPLIT = (
    f"of each shape every second token count, from the first, is fitted on; the others, and all of the shape of {HELD_OUT}, "
    "are the test"
)
"""Fixed before anything is measured."""
LEAST = 3
"""A curve has three parameters."""
ALWAYS = 16
"""The cheapest points are measured whatever the budget: milliseconds each, and enough of one kernel to fit its curve."""
_FILLING = 0.5e9
_HEADROOM = 1.25
"""A kernel streams at most this many times what the memory was seen to give: reads by the C library are not an upper limit."""


class Shape(NamedTuple):
    """An expert of a published model."""

    model: str
    hidden: int
    width: int

    @property
    def weights(self) -> float:
        """Weights of the three matrices."""
        return 3.0 * self.hidden * self.width


class Point(NamedTuple):
    """One expert of one shape at one number of tokens."""

    kernel: str
    shape: Shape
    tokens: int
    nbytes: float
    """Bytes of its weights as the library stores them."""
    seconds: float
    fitted: bool
    """Whether a curve is fitted on it; else it is a test."""

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each weight and token."""
        return 2.0 * self.shape.weights * self.tokens


class Curve(NamedTuple):
    """A kernel of a profile with how well it holds."""

    library: Library
    kernel: Kernel
    points: tuple[Point, ...]
    fitted: Residuals
    tested: Residuals
    tokens: tuple[int, int]
    """Fewest and most tokens that were measured."""

    @property
    def trust(self) -> Trust:
        """How far it misses its points."""
        return Trust.of(self.predicted(self.points), [point.seconds for point in self.points])

    def predicted(self, points: Sequence[Point]) -> FloatArray:
        """[points] seconds by the curve."""
        return _seconds({"bandwidth": self.kernel.bandwidth or math.inf, "rate": self.kernel.rate, "q": self.kernel.q}, points)


def shapes() -> list[Shape]:
    """Experts of a small, a middle and a large width."""
    models = [load_named(name) for name in MODELS]
    return [Shape(model.name, model.hidden, model.expert_width) for model in models]


def measure(libraries: Sequence[Library], cache: float, available: float, budget: Budget) -> list[Point]:
    """Points of all libraries and shapes that the budget reaches, fastest of several turns each.

    Weights come from memory: as many experts of a shape take turns as fill two last-level caches. Shapes whose weights could
    not even be written in a tenth of the budget are left out, but for the smallest.
    """
    jobs: list[tuple[float, Library, Shape, int, Callable[[], Any]]] = []
    room = min(_FILLING * budget.left / 10, available / 6)
    smallest = min(shapes(), key=lambda shape: shape.weights)
    for library in libraries:
        for shape in shapes():
            copies = max(1, math.ceil(2 * cache / (library.weight * shape.weights)))
            if library.weight * shape.weights * copies > room / max(1, len(libraries) / 2):
                copies = int(room / len(libraries) // (library.weight * shape.weights))
            if copies < 1 and shape != smallest:
                continue
            copies = max(copies, 1)
            experts = [library.make(shape.hidden, shape.width) for _ in range(copies)]
            for tokens in library.tokens:
                cost = shape.weights * (50.0 + 2.0 * tokens)
                jobs.append((cost, library, shape, tokens, _job(library, shape, tokens, experts)))
    jobs.sort(key=lambda job: job[0])
    seconds = fastest([job[-1] for job in jobs], budget, least=ALWAYS)
    return [
        Point(library.name, shape, tokens, library.weight * shape.weights, spent, _fits(library, shape, tokens))
        for (_, library, shape, tokens, _), spent in zip(jobs, seconds, strict=True)
        if math.isfinite(spent)
    ]


def _job(library: Library, shape: Shape, tokens: int, experts: Sequence[Any]) -> Callable[[], Any]:
    x = library.inputs(tokens, shape.hidden)
    turn = iter(range(1 << 62))
    return lambda: library.run(x, experts[next(turn) % len(experts)])


def _fits(library: Library, shape: Shape, tokens: int) -> bool:
    return shape.model != HELD_OUT and library.tokens.index(tokens) % 2 == 0


def call_seconds(library: Library, budget: Budget) -> float:
    """Seconds of an expert so small that only the calls are left."""
    expert, x = library.make(16, 16), library.inputs(1, 16)
    return fastest([lambda: library.run(x, expert)], budget, turns=2000)[0]


def curve(library: Library, points: Sequence[Point], read: float) -> Curve | None:
    """The kernel curve through a library's points; None where there are too few to fit it.

    `read` is the B/s of the memory that the weights come from.
    """
    own = tuple(point for point in points if point.kernel == library.name)
    fitted = np.array([point.fitted for point in own], dtype=np.bool_)
    if fitted.sum() < LEAST or len({point.tokens for point in own if point.fitted}) < 2:
        return None
    seconds = np.array([point.seconds for point in own])
    search = (
        Parameter("bandwidth", "B/s", (0.5 * read,), 0.001 * read, _HEADROOM * read),
        Parameter("rate", "FLOP/s", (1e11, 1e12), 1e8, 1e15),
        Parameter("q", "", (1.0, 3.0), 0.7, 20.0),
    )
    solution = least_squares(lambda values: _seconds(values, own), seconds, fitted, search)
    predicted = _seconds(solution, own)
    counts = [point.tokens for point in own]
    return Curve(
        library,
        Kernel(bandwidth=solution["bandwidth"], rate=solution["rate"], q=solution["q"]),
        own,
        Residuals.of(predicted[fitted], seconds[fitted]),
        Residuals.of(predicted[~fitted], seconds[~fitted]),
        (min(counts), max(counts)),
    )


def _seconds(values: Values, points: Sequence[Point]) -> FloatArray:
    kernel = Kernel(bandwidth=values["bandwidth"], rate=values["rate"], q=values["q"])
    flops, nbytes = (np.array([getattr(point, name) for point in points]) for name in ("flops", "nbytes"))
    return kernel.bulk(flops, nbytes, None)
