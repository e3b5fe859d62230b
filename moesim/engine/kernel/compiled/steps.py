"""The compiled walk: visits of layers one after another, and steps of a scheduler one after another."""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.moments import advance, clear_log, release
from moesim.engine.kernel.compiled.operations import load
from moesim.engine.kernel.compiled.queries import critical
from moesim.engine.kernel.compiled.visit_layout import *
from moesim.engine.kernel.compiled.visit_program import emit_visit
from moesim.engine.kernel.compiled.visit_work import work_of_visit


def walk_steps(M, F, T, TF, X, BP, BD, P, PF, C, R, V, slots, path, TP, TPF, TM, S, laps, steps):
    """Walks steps from the cursor on until `steps` are done, or one after the first would begin when it may not.

    Books are `BP` for steps that go by prefill, `BD` for others.
    `laps` [steps * lanes] receives the ps at work of every lane so far at the end of each. Returns the stage reached, or what
    went wrong; it goes on after `LOG_FULL` where it was.
    """
    while C[C_STEP] < steps:
        s = C[C_STEP] * STEP_WIDTH
        T[T_SERIAL] = S[s + STEP_SERIAL]
        B, rows = BD if S[s + STEP_DECODES] else BP, S[s + STEP_ROWS]
        status = walk(M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, rows, BEFORE)
        if status < 0:
            return status
        S[s + STEP_END], S[s + STEP_ACTIVATIONS] = M[NOW], C[C_ACTIVATIONS]
        S[s + STEP_HITS], S[s + STEP_UPLOADS] = C[C_HITS], C[C_COPIES]
        C[C_ACTIVATIONS], C[C_HITS], C[C_COPIES] = 0, 0, 0
        for lane in range(M[LANES]):
            laps[C[C_STEP] * M[LANES] + lane] = M[M[AT_LANE] + lane * LANE_WIDTH + BUSY]
        C[C_STEP] += 1
        if M[NOW] < S[s + STEP_SINCE] or M[NOW] >= S[s + STEP_UNTIL]:
            break
    return DONE_VISIT


def walk(M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, rows, stop):
    """Walks visits from the cursor on until `rows` are done, or until a stage at which `stop` asks it to return.

    R holds what the visits from the stage `ROUTED` on are to do. Returns the stage reached, or what went wrong; it goes on
    after `LOG_FULL` where it was.
    """
    while C[C_ROW] < rows:
        row = C[C_ROW]
        v = row * V_WIDTH
        layer = V[v + V_LAYER]
        if C[C_STAGE] == BEFORE and not begin_visit(M, F, T, B, C, slots, TP, TPF, TM, V[v + V_TEMPLATE] * A_WIDTH, layer):
            return TOO_LONG
        if C[C_STAGE] == ATTENDING:
            status = advance(M, F, C[C_GOAL])
            if status != 0:
                return status
            book_path(M, B, C, path, T, 0, layer)
            C[C_STAGE], C[C_MARK] = ROUTED, M[NOW]
        if C[C_STAGE] == ROUTED and layer < T[T_LAYERS]:
            if stop == ROUTED:
                return ROUTED
            status = work_of_visit(T, X, B, C, R, V[v + V_AT] - R[R_DATA], layer, V[v + V_TOKENS])
            if status != 0:
                return status
            if stop == COMPUTING or not idle(M) or not on_gpu_alone(C, R):
                load_visit(M, F, T, TF, X, B, P, PF, C, R, slots)
                if stop == COMPUTING:
                    return COMPUTING
            elif not work_alone(M, T, B, C[C_FIRST], 1 if C[C_FIRST] > 0 else 0, 1, layer):
                return TOO_LONG
        if C[C_STAGE] == COMPUTING:
            status = advance(M, F, C[C_GOAL])
            if status != 0:
                return status
            book_path(M, B, C, path, T, 1, layer)
        release(M, slots, C[C_SLOTS])
        C[C_STAGE], C[C_ROW] = BEFORE, row + 1
        if stop == DONE_VISIT:
            return DONE_VISIT
    return DONE_VISIT


def begin_visit(M, F, T, B, C, slots, TP, TPF, TM, A, layer):
    """Sets off what precedes a layer's experts, the template at `A` of TM (below 0: nothing); False beyond the clock."""
    clear_log(M, F)
    if M[LISTS_USED] == 0:
        M[ITEM_USED] = 0
    C[C_SLOTS], C[C_STORED], C[C_MARK], C[C_STAGE] = 0, NOBODY, M[NOW], ROUTED
    if A >= 0 and TM[A + A_ALONE] >= 0 and idle(M):
        fits = work_alone(M, T, B, TM[A + A_ALONE], TM[A + A_MOMENTS], 0, layer)
        C[C_MARK] = M[NOW]
        return fits
    if A >= 0:
        load(M, F, TP, TPF, slots, TM[A + A_FIRST], TM[A + A_FLOATS], 0)
        C[C_SLOTS], C[C_GOAL], C[C_STAGE] = TM[A + A_OPS], slots[TM[A + A_KNOWN]], ATTENDING
        if TM[A + A_STORED] >= 0:
            C[C_STORED] = -2 - slots[TM[A + A_STORED]]
    return True


def load_visit(M, F, T, TF, X, B, P, PF, C, R, slots):
    """Sets off the expert part of a visit."""
    emit_visit(T, TF, X, B, P, PF, C, R)
    P[0] = C[C_N]
    if T[T_STAGING] > 0:
        M[M[AT_POOL] + FREE] = T[T_STAGING]
    load(M, F, P, PF, slots, 0, 0, C[C_SLOTS])
    C[C_GOAL] = slots[C[C_SLOTS] + C[C_END]]
    C[C_KNOWN] = slots[C[C_SLOTS] + C[C_KNOWN]] if C[C_KNOWN] >= 0 else -1
    C[C_SLOTS], C[C_STAGE] = C[C_SLOTS] + P[0], COMPUTING


def idle(M):
    """Whether no operation is left, so that one lane may work by itself; not where a timeline shows each operation, nor where
    a device is slow."""
    return M[OP_USED] == 0 and M[ITEM_ROWS] == 0 and M[SLOWED] == 0


def on_gpu_alone(C, R):
    """Whether the visit is nothing but resident experts on the GPU."""
    return C[C_UPLOADS] == 0 and C[C_WAITS] == 0 and C[C_SIDE_TOKENS] == 0 and C[C_STORED] == NOBODY and R[R_ASKS] == 0


def work_alone(M, T, B, service, moments, part, layer):
    """The GPU works for `service` ps, ending operations at `moments`, while nothing else happens; False beyond the clock."""
    at = M[AT_LANE] + T[T_GPU_LANE] * LANE_WIDTH
    if service > MOST - M[NOW]:
        M[BEYOND] = T[T_GPU_LANE] + 1
        return False
    M[NOW] += service
    M[at + BUSY] += service
    M[at + FREED] = -1  # what it works on next begins a stretch of its own
    M[MOMENTS] += moments
    if layer < T[T_LAYERS]:
        B[B[B_TIME] + part * T[T_LAYERS] + layer] += service
        B[B[B_CRITICAL] + (part * T[T_LAYERS] + layer) * MOST_LANES + T[T_GPU_LANE]] += service
    else:
        B[B[B_TRAILING] + T[T_GPU_LANE]] += service
    return True


def book_path(M, B, C, path, T, part, layer):
    """Books the time since the mark and the critical path that filled it, under a part of a layer (0 attention, 1 experts)."""
    L = T[T_LAYERS]
    if layer < L:
        B[B[B_TIME] + part * L + layer] += M[NOW] - C[C_MARK]
    n = critical(M, C[C_GOAL], C[C_MARK], path, 0)
    if part == 1 and n > 0 and C[C_KNOWN] >= 0 and path[3 * n - 2] == M[M[AT_OP] + C[C_KNOWN] * M[OP_WIDTH] + END]:
        # it begins with what the host set off when it knew the routing: before that comes what led to there
        n = critical(M, C[C_KNOWN], C[C_MARK], path, n)
    base = B[B_CRITICAL] + (part * L + layer) * MOST_LANES if layer < L else B[B_TRAILING]
    for j in range(n):
        B[base + path[3 * j]] += path[3 * j + 2] - path[3 * j + 1]
