"""Section 3.3 of CXL-Expert on two flat buffers: gives the missing experts of a visit to lanes, one after another.

Runs compiled (`jit.native`) or as plain Python on lists, as the engine's kernel does. `M` int64: header, then by expert the
order in which they are weighed, homes, queues, tokens and answers, and by helper whether it was given anything. `F` float64:
header, seconds by lane and link, seconds that each expert would add. Helpers are devices beside the GPU; tiers are CXL memory.
"""

# fmt: off
from __future__ import annotations

from types import SimpleNamespace

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "PLAIN"]

# Header of M, then of F
EXPERTS, HELPERS, TIERS, MISSING, HOT, THAWED, AT_ORDER, AT_HOME, AT_QUEUE, AT_COUNTS, AT_HELPER, AT_USED = range(12)
AT_READY, AT_CALLS, AT_LINKS, AT_DRAWN, AT_COPY, AT_GPU, AT_BESIDE, AT_READS = range(12, 20)
M_HEADER = 20
"""`AT_HOME`: number of the expert's CXL tier, -1 elsewhere; `AT_HELPER`: the helper that it was given to, -1 for the GPU."""
HIGH, LOW, GPU_READY, GPU_ENDS, OTHERS_END, NEXT_TOKENS, NEXT_UPLOAD, COLD_UPLOAD = range(8)
F_HEADER = 8
"""theta_high and theta_low; seconds until the GPU has done what it was given; answers of `assign`."""
NEVER = 1e300
"""Seconds from which on a device cannot run an expert at all."""


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


FUNCTIONS = (upload_ends, in_place_ends, soonest, upload, in_place, draw, assign, weigh_hot, weigh_cold, sides)
ENTRIES = (assign, upload, in_place, sides)
BUFFERS = {"M": "int64", "F": "float64"}
"""As in the engine's kernel."""

PLAIN = SimpleNamespace(**{function.__name__: function for function in FUNCTIONS})
"""The same as plain Python: the buffers are lists."""
