"""What the devices have to do in a visit of a layer, entered into the books of the compiled kernel."""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.operations import plus, times
from moesim.engine.kernel.compiled.visit_layout import *


def field(C, R, number):
    """Where a field of R has the experts of the visit."""
    place = R_PLACES + 3 * number
    return R[place] + C[C_AT] * R[place + 1] + C[C_LAYER] * R[place + 2]


def work_of_visit(T, X, B, C, R, row, layer, tokens):
    """What the devices have to do in one visit, entered into the books; 0, or what is wrong with the dispatch.

    `row`: the visit's among those of R.
    """
    C[C_P], C[C_F], C[C_N], C[C_AT], C[C_LAYER], C[C_SENT] = 1, 0, 0, row, layer, tokens
    status = work_on_gpu(T, X, B, C, R)
    if status != 0:
        return status
    return work_beside(T, X, B, C, R)


def work_on_gpu(T, X, B, C, R):
    """What the GPU and its link have to do in a visit, and the books of the layer."""
    E, layer, launch = T[T_EXPERTS], C[C_LAYER], T[T_APART]
    counts, device, gpu = field(C, R, COUNTS), field(C, R, DEVICE), field(C, R, GPU)
    resident, flying, loaded, needs = field(C, R, RESIDENT), field(C, R, FLYING), field(C, R, LOADED), X[X_NEEDS]
    first, after = plus(X[X[X_SHARED] + C[C_SENT]], T[T_PREDICTION]), 0
    calls = uploads = waits = total = missed = on_gpu = distinct = 0
    for e in range(E):
        c, needed = R[counts + e], R[loaded + e] > 0
        if c > 0:
            if R[device + e] < 0 or R[device + e] >= T[T_DEVICES]:
                return BAD_DEVICE
            total += c
            distinct += 1
            B[B[B_TOKENS] + layer * E + e] += c
            note_met(B, R[device + e], c)
            if R[device + e] == T[T_GPU]:
                needed = True
                on_gpu += c
                note_run(T, B, C, R, T[T_SIDES], e)
                if R[resident + e] > 0:
                    first = plus(first, R[gpu + e])
                    calls += 1
                if R[resident + e] != THERE:
                    missed += c
                    B[B[B_MISSED] + layer * E + e] += c
        X[needs + e] = NOTHING
        if needed and R[resident + e] == 0:
            if c > 0:
                after = plus(after, plus(R[gpu + e], launch))
            if R[flying + e] > 0:
                X[needs + e] = COPY_FLYING
                waits += 1
            else:
                X[needs + e] = UPLOAD
                uploads += 1
                if R[R_ODD]:
                    B[B[B_ODD_COPIES] + R[field(C, R, KIND) + e]] += 1
                else:
                    B[B[B_COPIES] + layer * E + e] += 1
    if uploads > 0 and T[T_STAGING] < 1:
        return NO_SLOT
    if T[T_TOGETHER] >= 0 and calls > 0:
        calls, launch = 1, T[T_TOGETHER]
    C[C_FIRST], C[C_UPLOADS], C[C_WAITS] = plus(first, times(launch, calls)), uploads, waits
    B[B[B_VISITS] + layer] += 1
    B[B[B_ACTIVATIONS] + layer] += total
    B[B[B_HITS] + layer] += total - missed
    B[B[B_DISTINCT] + layer] += distinct
    B[B[B_UPLOADS] + layer] += uploads
    C[C_ACTIVATIONS] += total
    C[C_HITS] += total - missed
    C[C_COPIES] += uploads
    B[B[B_GPU] + G_TOKENS] += on_gpu
    B[B[B_GPU] + G_TIME] = plus(B[B[B_GPU] + G_TIME], plus(C[C_FIRST], after))
    C[C_SIDE_TOKENS], C[C_CALLS] = total - on_gpu, calls
    return 0


def note_met(B, device, tokens):
    """A device computes an expert with so many tokens."""
    met = B[B_MET] + 2 * device
    if B[met] < 0 or tokens < B[met]:
        B[met] = tokens
    if tokens > B[met + 1]:
        B[met + 1] = tokens


def note_run(T, B, C, R, side, e):
    """The side computes an expert: its weights are read there."""
    if R[R_ODD]:
        B[B[B_ODD_RUNS] + side * T[T_KINDS] + R[field(C, R, KIND) + e]] += 1
    else:
        B[B[B_RUNS] + (side * T[T_LAYERS] + C[C_LAYER]) * T[T_EXPERTS] + e] += 1


def work_beside(T, X, B, C, R):
    """What each side has to do in a visit."""
    E, width, calls, left = T[T_EXPERTS], S_READS + 3 * T[T_KINDS], C[C_CALLS], C[C_SIDE_TOKENS]
    counts, device, needs = field(C, R, COUNTS), field(C, R, DEVICE), X[X_NEEDS]
    C[C_HANDED] = 0
    for e in range(E if left > 0 else 0):  # calls for uploaded experts hold up a side whose thread makes them
        if R[counts + e] > 0 and R[device + e] == T[T_GPU] and X[needs + e] != NOTHING:
            calls += 1
    for s in range(T[T_SIDES]):
        S, scratch, books = T[T_AT_SIDES] + s * width, X[X_SIDES] + 2 * s, B[B_SIDES] + s * SIDE_BOOKS
        alone = field(C, R, CPU) if T[S + S_NEAR] == CPU_SIDE else field(C, R, NDP)
        pairs = runs = work = 0
        for e in range(E if left > 0 else 0):
            if R[counts + e] > 0 and R[device + e] == T[S + S_DEVICE]:
                if R[alone + e] < 0:
                    return BAD_READER - s
                pairs += R[counts + e]
                runs += 1
                work = plus(work, R[alone + e])
                note_run(T, B, C, R, s, e)
        if pairs > 0:
            work = plus(work, plus(times(T[S + S_LAUNCH], 1 if T[S + S_FUSED] else runs), T[S + S_SYNC]))
            work = plus(work, times(T[S + S_BEFORE], calls))
        B[books + D_TOKENS] += pairs
        B[books + D_SENT] += min(pairs, C[C_SENT])
        B[books + D_TIME] = plus(B[books + D_TIME], work)
        X[scratch + PAIRS], X[scratch + WORK] = pairs, work
        C[C_HANDED] += pairs if T[S + S_NEAR] != GPU_SIDE else 0
        left -= pairs
    return 0 if left == 0 else BAD_DEVICE


def read_back(T, X, B, C, R):
    """ps in which the host learns what to send, entered into the books; 0 where that was fixed before, or is nothing."""
    sends = (C[C_UPLOADS] > 0 and R[R_LOADED] == 0) or R[R_ASKS] > 0 or C[C_HANDED] > 0
    ids = X[X[X_IDS] + C[C_SENT]] if T[T_DOWN] >= 0 and sends else 0
    if ids > 0:
        B[B[B_GPU] + G_IDS] += C[C_SENT]
    return ids


def measure(T, X, B, C, R, V, W, visits):
    """What devices have to do in visits that a program overlaps, entered into the books; 0, or what is wrong.

    W receives for each visit ps of the GPU's shared and resident experts, of reading the routing back, and for each side
    (token, expert) pairs and ps of work.
    """
    for row in range(visits):
        status = work_of_visit(T, X, B, C, R, row, V[row * V_WIDTH + V_LAYER], V[row * V_WIDTH + V_TOKENS])
        if status != 0:
            return status
        w = row * (W_SIDES + 2 * T[T_SIDES])
        W[w + W_FIRST], W[w + W_IDS] = C[C_FIRST], read_back(T, X, B, C, R)
        for j in range(2 * T[T_SIDES]):
            W[w + W_SIDES + j] = X[X[X_SIDES] + j]
    return 0
