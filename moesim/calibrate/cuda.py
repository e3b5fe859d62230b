"""Owns what is measured on a GPU through torch: copies, products, experts alone and grouped, decode attention, launches.

Knows torch as an argument and clocks; not what becomes of the points. Every measurement repeats a call often enough for the
clock, waits for the device before and after, and takes weights in turn so that they come from the GPU's memory.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

from moesim.calibrate.budget import Budget, fastest

__all__ = ["SIZES", "TOKENS", "Copy", "Gpu", "GpuPoints", "Work", "find", "measure"]

SIZES = tuple(1 << power for power in range(12, 29, 2))
"""Bytes of a copy: 4 KiB to 256 MiB."""
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Tokens of each expert."""
_SHAPES = ((2048, 768, 128), (4096, 14336, 8), (7168, 2048, 16))
"""Hidden, width and number of experts: those of Qwen3-30B-A3B and Mixtral-8x7B, and sixteen of DeepSeek-V3's."""
_CLOCK = 2e-3
"""Seconds that a repeated call should take at least."""
_CACHE = 64e6
"""Bytes of the last-level cache where the driver does not tell."""
_STREAM = 1e9
"""Bytes that are summed and copied for the bandwidth of the memory, or four caches."""
_SQUARE = 8192
"""Rows of the largest product."""
_SEQUENCES, _KV_HEADS, _GROUP, _WIDTH = 32, 8, 4, 128
"""Decode attention: sequences, heads of keys, queries to each, numbers of a key."""
_ROOM = 0.3
"""Share of the memory that one case may fill; the one before it may not be gone yet."""


class Copy(NamedTuple):
    """One copy between host and GPU."""

    pinned: bool
    to_gpu: bool
    nbytes: int
    seconds: float


class Work(NamedTuple):
    """Experts that were computed: `experts` of them with `tokens` each."""

    hidden: int
    width: int
    experts: int
    tokens: int
    seconds: float


class GpuPoints(NamedTuple):
    """All that was measured of a GPU."""

    name: str
    library: str
    capacity: float
    """Bytes of its memory."""
    read: float
    """B/s of its memory, the better of a sum over it and a copy within it (which counts twice)."""
    peak: float
    """FLOP/s of the largest bfloat16 product."""
    copies: tuple[Copy, ...]
    both: float
    """B/s of pinned copies in both directions at once, in sum."""
    alone: tuple[Work, ...]
    """Experts one at a time, three products each."""
    grouped: tuple[Work, ...]
    """All experts of a layer in three batched products."""
    kv_rate: float
    """B/s of a bfloat16 key-value cache read by decode attention."""
    launch: float
    """Seconds between small kernels that are issued one after the other."""
    round_trip: float
    """Seconds to hand a token's hidden state to the host and back, and to start the next kernel."""


class Gpu(NamedTuple):
    """The first GPU of this process, through torch."""

    torch: Any

    def wait(self) -> None:
        """Until all that was issued is done."""
        self.torch.cuda.synchronize()

    def full(self, *shape: int, dtype: str = "bfloat16") -> Any:
        """A tensor of 0.01 on the device."""
        return self.torch.full(shape, 0.01, dtype=getattr(self.torch, dtype), device="cuda")

    def host(self, nbytes: int, pinned: bool) -> Any:
        """Bytes on the host, page-locked or not."""
        return self.torch.ones(nbytes, dtype=self.torch.uint8, pin_memory=pinned)

    def seconds(self, call: Callable[[], object], budget: Budget) -> float:
        """Seconds of one call, repeated back to back until the clock can tell."""
        self.wait()
        begin = budget.clock()
        call()
        self.wait()
        number = max(1, int(_CLOCK / max(budget.clock() - begin, 1e-7)))

        def batch() -> None:
            for _ in range(number):
                call()
            self.wait()

        return fastest([batch], budget, turns=10)[0] / number


def find() -> Gpu | None:
    """torch with a GPU, or None."""
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError):  # there, but not for this machine
        return None
    return Gpu(torch) if torch.cuda.is_available() else None


def measure(gpu: Gpu, budget: Budget) -> GpuPoints:
    """Everything that is asked of a GPU, shared out over the budget."""
    torch = gpu.torch
    name, capacity, cache = _properties(gpu)
    with torch.inference_mode():
        read = _read(gpu, cache, budget.part(0.05))
        peak = _peak(gpu, budget.part(0.05))
        copies = tuple(_copies(gpu, budget.part(0.3)))
        two_way = _both(gpu, budget.part(0.05))
        alone = tuple(_alone(gpu, cache, _ROOM * capacity, budget.part(0.4)))
        grouped = tuple(_grouped(gpu, cache, _ROOM * capacity, budget.part(0.7)))
        kv = _attention(gpu, cache, budget.part(0.4))
        launch = _launch(gpu, budget.part(0.3))
        trip = _round_trip(gpu, budget.part(0.5))
    library = f"torch {torch.__version__}, CUDA {getattr(torch.version, 'cuda', None) or getattr(torch.version, 'hip', None)}"
    return GpuPoints(name, library, capacity, read, peak, copies, two_way, alone, grouped, kv, launch, trip)


def _properties(gpu: Gpu) -> tuple[str, float, float]:
    """Name, bytes of memory, bytes of the last-level cache."""
    properties = gpu.torch.cuda.get_device_properties(0)
    return str(properties.name), float(properties.total_memory), float(getattr(properties, "L2_cache_size", 0) or _CACHE)


def _read(gpu: Gpu, cache: float, budget: Budget) -> float:
    numbers = int(max(4 * cache, _STREAM) / 4)
    source, target = gpu.full(numbers, dtype="float32"), gpu.full(numbers, dtype="float32")
    read = gpu.seconds(lambda: source.sum(), budget.part(0.5))
    return float(max(4 * numbers / read, 8 * numbers / gpu.seconds(lambda: target.copy_(source), budget)))


def _peak(gpu: Gpu, budget: Budget) -> float:
    a, b = gpu.full(_SQUARE, _SQUARE), gpu.full(_SQUARE, _SQUARE)
    return float(2.0 * _SQUARE**3 / gpu.seconds(lambda: a @ b, budget))


def _copies(gpu: Gpu, budget: Budget) -> Iterator[Copy]:
    """Each size alone; a copy from or to pageable memory returns when it is done, one of pinned memory is waited for."""
    cases = [(pinned, to_gpu, size) for size in SIZES for pinned in (True, False) for to_gpu in (True, False)]
    for index, (pinned, to_gpu, size) in enumerate(cases):
        host, there = gpu.host(size, pinned), gpu.full(size, dtype="uint8")
        target, source = (there, host) if to_gpu else (host, there)
        call = _copy(target, source, pinned)
        yield Copy(pinned, to_gpu, size, gpu.seconds(call, budget.part(1 / (len(cases) - index))))


def _copy(target: Any, source: Any, pinned: bool) -> Callable[[], object]:
    return lambda: target.copy_(source, non_blocking=pinned)


def _both(gpu: Gpu, budget: Budget) -> float:
    """B/s in sum of pinned copies to the GPU and from it on two streams."""
    size = SIZES[-1]
    up = _copy(gpu.full(size, dtype="uint8"), gpu.host(size, True), True)
    down = _copy(gpu.host(size, True), gpu.full(size, dtype="uint8"), True)
    first, second = gpu.torch.cuda.Stream(), gpu.torch.cuda.Stream()

    def pair() -> None:
        with gpu.torch.cuda.stream(first):
            up()
        with gpu.torch.cuda.stream(second):
            down()

    return float(2 * size / gpu.seconds(pair, budget))


def _cases(room: float, alone: bool) -> list[tuple[int, int, int, int]]:
    """Hidden, width, experts and tokens of what fits into `room` bytes: 16-bit weights, and three hidden states of a token."""
    cases = [(hidden, width, 1 if alone else experts, tokens) for hidden, width, experts in _SHAPES for tokens in TOKENS]
    return [(h, w, e, m) for h, w, e, m in cases if e * (6.0 * h * w + 2.0 * m * (2 * h + 4 * w)) <= room]


def _alone(gpu: Gpu, cache: float, room: float, budget: Budget) -> Iterator[Work]:
    linear = gpu.torch.nn.functional.linear
    cases = _cases(room, alone=True)
    for index, (hidden, width, _, tokens) in enumerate(cases):
        copies = int(2 * cache / (6.0 * hidden * width)) + 1
        experts = cycle([(gpu.full(2 * width, hidden), gpu.full(hidden, width)) for _ in range(copies)])
        x = gpu.full(tokens, hidden)

        def run(x: Any = x, experts: Any = experts, width: int = width) -> object:
            first, down = next(experts)
            inner = linear(x, first)
            return linear(inner[:, :width] * inner[:, width:], down)

        yield Work(hidden, width, 1, tokens, gpu.seconds(run, budget.part(1 / (len(cases) - index))))


def _grouped(gpu: Gpu, cache: float, room: float, budget: Budget) -> Iterator[Work]:
    """A layer's experts with as many tokens each, in batched products: what a fused layer can reach on even loads."""
    cases = _cases(room, alone=False)
    for index, (hidden, width, experts, tokens) in enumerate(cases):
        copies = int(2 * cache / (6.0 * hidden * width * experts)) + 1
        layers = cycle([(gpu.full(experts, hidden, 2 * width), gpu.full(experts, width, hidden)) for _ in range(copies)])
        x = gpu.full(experts, tokens, hidden)

        def run(x: Any = x, layers: Any = layers, width: int = width) -> object:
            first, down = next(layers)
            inner = gpu.torch.bmm(x, first)
            return gpu.torch.bmm(inner[..., :width] * inner[..., width:], down)

        yield Work(hidden, width, experts, tokens, gpu.seconds(run, budget.part(1 / (len(cases) - index))))


def _attention(gpu: Gpu, cache: float, budget: Budget) -> float:
    """One token of each sequence; the queries of a group are the rows of one product with their keys."""
    row = 2 * 2 * _SEQUENCES * _KV_HEADS * _WIDTH
    context = int(max(4 * cache / row, 64)) // 64 * 64
    keys, values = (gpu.full(_SEQUENCES, _KV_HEADS, context, _WIDTH) for _ in range(2))
    queries = gpu.full(_SEQUENCES, _KV_HEADS, _GROUP, _WIDTH)
    attend = gpu.torch.nn.functional.scaled_dot_product_attention
    return float(context * row / gpu.seconds(lambda: attend(queries, keys, values), budget))


def _launch(gpu: Gpu, budget: Budget) -> float:
    x = gpu.full(1, dtype="float32")
    return gpu.seconds(lambda: x.add_(1), budget)


def _round_trip(gpu: Gpu, budget: Budget) -> float:
    there, here, x = gpu.full(8192, dtype="uint8"), gpu.host(8192, True), gpu.full(1, dtype="float32")

    def trip() -> None:
        here.copy_(there, non_blocking=True)
        gpu.wait()
        there.copy_(here, non_blocking=True)
        x.add_(1)

    return gpu.seconds(trip, budget)
