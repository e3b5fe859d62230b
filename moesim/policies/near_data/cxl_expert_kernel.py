"""Section 3.3 of CXL-Expert on two flat buffers: gives the missing experts of a visit to lanes, one after another.

Runs compiled (`jit.native`) or as plain Python on lists, as the engine does. `M` int64: header, the order in which
experts are weighed, answers, whether a helper was given anything, and of each visit homes, queues and tokens by expert. `F`
float64: header, seconds by lane and link, and of each visit what each expert would add. Helpers are devices beside the GPU;
tiers are CXL memory. `decide`, which is compiled alone, answers a whole visit; `cxl_expert` says the same with numpy.
"""

# fmt: off
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit.compiled import least_kernel, order_kernel
from moesim.policies.kit.compiled.order_kernel import by_residence, most_first

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "PLAIN", "SOURCES"]

Array = NDArray[Any]

# Header of M, then of F
EXPERTS, HELPERS, TIERS, MISSING, HOT, THAWED, AT_ORDER, AT_HELPER, AT_USED = range(9)
AT_FIXED, AT_READY, AT_CALLS, AT_LINKS, AT_DRAWN = range(9, 14)
AT_HOME, AT_QUEUE, AT_COUNTS, AT_COPY, AT_GPU, AT_BESIDE, AT_READS, AT_BEGIN = range(14, 22)
BY_VISIT, PARTS = 14, 8
"""The first of the parts that each visit has, and how many there are: `AT_HOME` and the like say where those of the visit at
hand stand; behind them follow where those of the first visit do, and how many numbers a visit has in each."""
M_HEADER = 38
"""`AT_HOME`: number of the expert's CXL tier, -1 elsewhere; `AT_HELPER`: the helper that it was given to, -1 for the GPU.
`AT_FIXED`: what a helper costs in a visit at all; `AT_BEGIN`: seconds of the GPU without what is missing."""
HIGH, LOW, GPU_READY, GPU_ENDS, OTHERS_END, NEXT_TOKENS, NEXT_UPLOAD, COLD_UPLOAD, STEP, LEAST, MOST_COLD = range(11)
F_HEADER = 11
"""theta_high and theta_low; seconds until the GPU has done what it was given; answers of `assign`; fields of `Thresholds`."""
NEVER = 1e300
"""Seconds from which on a device cannot run an expert at all."""


def meet(M, F, row):
    """Turns to visit number `row`, whose lanes have nothing to do yet but what is in GPU memory."""
    for part in range(BY_VISIT, BY_VISIT + PARTS):
        M[part] = M[part + PARTS] + row * M[part + 2 * PARTS]
    F[GPU_READY] = F[M[AT_BEGIN]]
    for h in range(M[HELPERS]):
        F[M[AT_READY] + h], M[M[AT_USED] + h] = F[M[AT_FIXED] + h], 0
    for j in range(2 * M[TIERS]):
        F[M[AT_DRAWN] + j] = 0.0
    for e in range(M[EXPERTS]):
        M[M[AT_HELPER] + e] = -1
    return 0


def upload_ends(M, F, e):
    """Seconds until the GPU has run an expert, uploaded behind what its link already carries."""
    landed = F[M[AT_LINKS] + M[M[AT_QUEUE] + e]] + F[M[AT_COPY] + e]
    return max(landed, F[GPU_READY]) + F[M[AT_GPU] + e]


def in_place_ends(M, F, h, e):
    """Seconds until a helper has run an expert where it lives; inf if it cannot."""
    return F[M[AT_READY] + h] + F[M[AT_BESIDE] + h * M[EXPERTS] + e]


def soonest(M, F, e):
    """The helper that has run an expert first; -1 if none can."""
    best = -1
    for h in range(M[HELPERS]):
        ends = in_place_ends(M, F, h, e)
        if ends < NEVER and (best < 0 or ends < in_place_ends(M, F, best, e)):
            best = h
    return best


def upload(M, F, e):
    """Gives an expert to the GPU."""
    link = M[AT_LINKS] + M[M[AT_QUEUE] + e]
    F[GPU_READY] = upload_ends(M, F, e)
    F[link] = F[link] + F[M[AT_COPY] + e]
    M[M[AT_HELPER] + e] = -1
    draw(M, F, 0, e)
    for h in range(M[HELPERS]):
        if F[M[AT_CALLS] + h] > 0.0:
            F[M[AT_READY] + h] = F[M[AT_READY] + h] + F[M[AT_CALLS] + h]
            M[M[AT_USED] + h] = 1
    return 0


def in_place(M, F, h, e):
    """Gives an expert to a helper."""
    F[M[AT_READY] + h] = in_place_ends(M, F, h, e)
    M[M[AT_USED] + h] = 1
    M[M[AT_HELPER] + e] = h
    draw(M, F, 1, e)
    return 0


def draw(M, F, side, e):
    """Books the read of an expert on its CXL device: by the GPU (0) or by helpers (1)."""
    tier = M[M[AT_HOME] + e]
    if tier >= 0:
        F[M[AT_DRAWN] + 2 * tier + side] += F[M[AT_READS] + tier * M[EXPERTS] + e]


def assign(M, F):
    """Section 3.3: gives each missing expert to a lane, in their order, by its class and the queues; then looks at the sides.

    Hot, of more than theta_high tokens: to the GPU. Cold, of up to theta_low, and in CXL memory: it runs where it lives, near
    data or on the CPU, whichever is done sooner. Every other one, warm or cold (rule 2): to the GPU if its bytes over the link
    and the GPU are done sooner than the CPU, else to that.
    """
    M[HOT] = M[THAWED] = 0
    for j in range(M[MISSING]):
        e = M[M[AT_ORDER] + j]
        h, tokens, in_cxl = soonest(M, F, e), M[M[AT_COUNTS] + e], M[M[AT_HOME] + e] >= 0
        if tokens > F[HIGH] or h < 0:  # hot
            upload(M, F, e)
            M[HOT] += 1
        elif tokens <= F[LOW] and in_cxl:  # cold
            in_place(M, F, h, e)
        elif upload_ends(M, F, e) < in_place_ends(M, F, h, e):  # rule 2
            upload(M, F, e)
            if in_cxl:
                M[THAWED] += 1
        else:
            in_place(M, F, h, e)
    sides(M, F)
    weigh_hot(M, F)
    weigh_cold(M, F)
    return 0


def weigh_hot(M, F):
    """When the GPU would end with theta_high just low enough for one more upload: all experts of so many tokens become hot."""
    F[NEXT_TOKENS], ends = 0.0, F[GPU_READY]
    for j in range(M[MISSING]):
        e = M[M[AT_ORDER] + j]
        if M[M[AT_HELPER] + e] >= 0:
            F[NEXT_TOKENS] = max(F[NEXT_TOKENS], float(M[M[AT_COUNTS] + e]))
    F[NEXT_UPLOAD] = NEVER
    for j in range(M[MISSING]):
        e = M[M[AT_ORDER] + j]
        if M[M[AT_HELPER] + e] >= 0 and M[M[AT_COUNTS] + e] == F[NEXT_TOKENS]:
            link = M[AT_LINKS] + M[M[AT_QUEUE] + e]
            F[GPU_READY] = F[NEXT_UPLOAD] = upload_ends(M, F, e)
            F[link] = F[link] + F[M[AT_COPY] + e]
    for j in range(M[MISSING]):
        e = M[M[AT_ORDER] + j]
        if M[M[AT_HELPER] + e] >= 0 and M[M[AT_COUNTS] + e] == F[NEXT_TOKENS]:
            link = M[AT_LINKS] + M[M[AT_QUEUE] + e]
            F[link] = F[link] - F[M[AT_COPY] + e]
    F[GPU_READY] = ends
    return 0


def weigh_cold(M, F):
    """When the GPU would have run the first of the cold experts in place, had it been uploaded behind all."""
    F[COLD_UPLOAD] = NEVER
    for j in range(M[MISSING]):
        e = M[M[AT_ORDER] + j]
        cold = M[M[AT_COUNTS] + e] <= F[LOW] and M[M[AT_HOME] + e] >= 0
        if cold and M[M[AT_HELPER] + e] >= 0:
            F[COLD_UPLOAD] = min(F[COLD_UPLOAD], upload_ends(M, F, e))
    return 0


def sides(M, F):
    """Seconds until (the GPU with its uploads, the helpers) are done, the CXL devices they read included.

    A device is busy for all that both draw from it: where both wait for it they end together.
    """
    gpu, far = F[GPU_READY], 0.0
    for h in range(M[HELPERS]):
        if M[M[AT_USED] + h] > 0:
            far = max(far, F[M[AT_READY] + h])
    for tier in range(M[TIERS]):
        mine, theirs = F[M[AT_DRAWN] + 2 * tier], F[M[AT_DRAWN] + 2 * tier + 1]
        if mine > 0.0:
            gpu = max(gpu, mine + theirs)
        if theirs > 0.0:
            far = max(far, mine + theirs)
    F[GPU_ENDS], F[OTHERS_END] = gpu, far
    return 0


def decide(
    M: Array, F: Array, row: int, layer: int, size: int, hot: Array, cold: Array, high: Array, low: Array, resident: Array,
    in_flight: Array, devices: Array, order: Array, device: Array, bins: Array, values: Array, places: Array,
) -> int:
    """`CxlExpert.dispatch` of visit number `row`, with so many binary digits of tokens: writes its `order` and `device` [E].

    `hot`, `cold` [L], `high`, `low`: of `Thresholds`; `devices`: of the helpers, then of the GPU.
    """
    meet(M, F, row)
    experts, begin, counts, missing, load, most = M[EXPERTS], layer * M[EXPERTS], M[AT_COUNTS], 0, 0, 0
    for e in range(experts):
        load, most = load + M[counts + e], max(most, M[counts + e])
        if M[counts + e] > 0 and not (resident[begin + e] or in_flight[begin + e]):
            places[missing] = e
            missing += 1
    most_first(missing, counts, M, places, M, M[AT_ORDER], bins, values)
    F[HIGH] = max(max(load * hot[layer], F[LEAST]) * high[size], 1.0)
    F[LOW], M[MISSING] = min(load * cold[layer] * low[size], F[MOST_COLD], F[HIGH]), missing
    assign(M, F)
    if F[STEP] > 0.0:
        follow(M, F, size, most, high, low)
    for e in range(experts):
        h = M[M[AT_HELPER] + e]
        device[e] = devices[h if h >= 0 else M[HELPERS]]
    by_residence(experts, counts, begin, M, resident, order, bins, values, places)
    return 0


def follow(M: Array, F: Array, size: int, most: int, high: Array, low: Array) -> None:
    """`Thresholds.follow` behind a visit of `most` tokens for an expert."""
    gpu, far = F[GPU_ENDS], F[OTHERS_END]
    stride = min(max(gpu, far) / max(min(gpu, far), 1e-12), 1.0 + F[STEP])
    if gpu > far and M[HOT] > 0 and F[HIGH] < most:
        high[size] *= stride
    elif far > gpu and F[HIGH] > 1.0 and F[NEXT_UPLOAD] < far:
        high[size] *= max(1.0 / stride, min((F[NEXT_TOKENS] - 0.5) / F[HIGH], 1.0))
    if gpu > far and M[THAWED] > 0 and F[LOW] < most:
        low[size] *= stride
    elif far > gpu and F[COLD_UPLOAD] < far:
        low[size] /= stride


SOURCES = (least_kernel, order_kernel)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (
    *least_kernel.FUNCTIONS, *order_kernel.FUNCTIONS, meet, upload_ends, in_place_ends, soonest, upload, in_place, draw, assign,
    weigh_hot, weigh_cold, sides, follow, decide,
)
ENTRIES = (meet, assign, upload, in_place, sides, decide)
BUFFERS = {
    **dict.fromkeys(("M", "devices", "order", "device", "bins", "places"), "int64"),
    **dict.fromkeys(("F", "hot", "cold", "high", "low", "values"), "float64"),
    **dict.fromkeys(("resident", "in_flight"), "uint8"),
}
"""As in the engine's kernel."""

PLAIN = SimpleNamespace(**{function.__name__: function for function in ENTRIES})
"""The same as plain Python: the buffers are lists."""
