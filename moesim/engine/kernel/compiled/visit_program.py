"""The expert part of a visit as operations, which the compiled kernel writes itself."""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.operations import plus
from moesim.engine.kernel.compiled.visit_layout import *
from moesim.engine.kernel.compiled.visit_work import field, read_back


def put(P, C, lane, priority, service, label):
    """Adds an operation of one item to the packed program; where it begins."""
    p = C[C_P]
    P[p], P[p + 1], P[p + 2], P[p + 3], P[p + 4], P[p + 5], P[p + 6] = lane, priority, -1, 1, service, NOBODY, 1
    P[p + 7], P[p + 8], P[p + 9], P[p + 10], P[p + 11], P[p + 12], P[p + 13] = -1, -1, 1, 0, 0, 0, label
    C[C_P] = p + PACKED
    C[C_N] += 1
    return p


def put_after(P, C, at, earlier):
    """The operation that begins at `at` waits for another, if there is one."""
    if earlier != NOBODY:
        P[at + 11] += 1
        P[C[C_P]] = earlier
        C[C_P] += 1


def put_draws(T, TF, P, PF, C, at, draws, number):
    """The operation that begins at `at` draws a list of resources, `number` times over."""
    place, length, floats = T[draws], T[draws + 1], T[draws + 2]
    for j in range(length):
        resource, nbytes = T[place + j], TF[floats + j] * number
        merged = False
        for m in range(P[at + 12]):
            if P[C[C_P] - P[at + 12] + m] == resource:
                PF[C[C_F] - P[at + 12] + m] += nbytes
                merged = True
        if not merged:
            P[C[C_P]] = resource
            PF[C[C_F]] = nbytes
            C[C_P] += 1
            C[C_F] += 1
            P[at + 12] += 1


def emit_visit(T, TF, X, B, P, PF, C, R):
    """Writes the operations of a visit into P: what the host reads back, uploads, the GPU's experts, the sides; and their end.

    `C[C_STORED]`: the operation that stores the layer's KV entries, as it is waited for, or `NOBODY`. `C` receives the number
    of the operation that ends the visit, and of the one at whose end the host knows the routing (`NOBODY` if that is at once).
    """
    known, ids = NOBODY, read_back(T, X, B, C, R)
    if ids > 0:
        known = 0
        at = put(P, C, T[T_DOWN], 0, ids, LABEL_IDS)
        put_draws(T, TF, P, PF, C, at, T_IDS, C[C_SENT])
    C[C_KNOWN] = known
    if T[T_SERIAL]:
        emit_serial(T, TF, X, P, PF, C, R, emit_uploads(T, TF, X, P, PF, C, R))
        return
    if C[C_FIRST] > 0:
        put(P, C, T[T_GPU_LANE], 1, C[C_FIRST], LABEL_RESIDENT)
    flying, order = field(C, R, FLYING), field(C, R, ORDER)
    for position in range(T[T_EXPERTS] if C[C_WAITS] > 0 else 0):
        e = R[order + position]
        if X[X[X_NEEDS] + e] == COPY_FLYING:
            copy, ratio = R[flying + e] % COMING, R[flying + e] // COMING
            put_consumer(T, X, P, C, R, -1 - copy, ratio, -1, position, position + 1)
    emit_uploads(T, TF, X, P, PF, C, R)
    for s in range(T[T_SIDES]):
        if X[X[X_SIDES] + 2 * s + PAIRS] > 0:
            near = T[T[T_AT_SIDES] + s * (S_READS + 3 * T[T_KINDS]) + S_NEAR]
            emit_side(T, TF, X, P, PF, C, R, s, NOBODY if near == GPU_SIDE else known)
    count = C[C_N]
    at = put(P, C, -1, 0, 0, 0)
    for number in range(count):
        put_after(P, C, at, number)
    put_after(P, C, at, C[C_STORED])
    C[C_END] = count


def emit_uploads(T, TF, X, P, PF, C, R):
    """Uploads in the order of dispatch, an operation for each run of the same kind, and what consumes them; the last one."""
    order, kind, times, needs = field(C, R, ORDER), field(C, R, KIND), field(C, R, COPY), X[X_NEEDS]
    E, last, position = T[T_EXPERTS], C[C_KNOWN], 0
    pool = 0 if C[C_UPLOADS] > T[T_STAGING] and not T[T_SERIAL] else -1
    while position < E and C[C_UPLOADS] > 0:
        e = R[order + position]
        if X[needs + e] != UPLOAD:
            position += 1
            continue
        stop, n = position + 1, 1
        while stop < E:
            later = R[order + stop]
            if X[needs + later] == UPLOAD:
                if R[kind + later] != R[kind + e]:
                    break
                n += 1
            stop += 1
        K, number = T[T_AT_KINDS] + R[kind + e] * KIND_WIDTH, C[C_N]
        chunks, service = T[K + K_CHUNKS], R[times + e]
        at = put(P, C, T[T_UP], 1, service, LABEL_UPLOAD)
        P[at + 3], P[at + 7], P[at + 9] = n * chunks, pool, chunks
        if chunks > 1:
            P[at + 10] = n * chunks
            for _ in range(n):
                put_parts(P, C, service, chunks)
        elif T[K + K_JOINED] > 0:
            P[at + 10] = n
            put_joined(X, P, C, R, service, T[K + K_JOINED], position, stop)
        put_after(P, C, at, C[C_KNOWN])
        put_draws(T, TF, P, PF, C, at, K + K_DRAWS, n)
        if not T[T_SERIAL]:
            put_consumer(T, X, P, C, R, number, chunks // T[T_PIECES], pool, position, stop)
        last, position = number, stop
    return last


def put_parts(P, C, time, parts):
    """Items that are equal parts of a time; the last takes the rounding."""
    for part in range(parts):
        P[C[C_P]] = time // parts + (time % parts if part == parts - 1 else 0)
        C[C_P] += 1


def put_joined(X, P, C, R, service, saved, position, stop):
    """Copies of experts, an item each: those that continue the one before them take less."""
    before, order = -2, field(C, R, ORDER)
    for q in range(position, stop):
        e = R[order + q]
        if X[X[X_NEEDS] + e] == UPLOAD:
            P[C[C_P]] = service - (saved if e == before + 1 else 0)
            C[C_P] += 1
            before = e


def put_consumer(T, X, P, C, R, feed, ratio, pool, position, stop):
    """The GPU runs each expert, or each part of one, when the `ratio` items that `feed` brings of it have landed."""
    pieces, n, needed = T[T_PIECES], 0, COPY_FLYING if feed < 0 else UPLOAD
    order, counts, gpu = field(C, R, ORDER), field(C, R, COUNTS), field(C, R, GPU)
    at = put(P, C, T[T_GPU_LANE], 1, 0, LABEL_UPLOADED)
    P[at + 5], P[at + 6], P[at + 8], P[at + 9] = feed, ratio, pool, pieces
    for q in range(position, stop):
        e = R[order + q]
        if X[X[X_NEEDS] + e] == needed:
            put_parts(P, C, plus(R[gpu + e], T[T_APART]) if R[counts + e] > 0 else 0, pieces)
            n += pieces
    P[at + 3] = P[at + 10] = n


def emit_side(T, TF, X, P, PF, C, R, s, before):
    """Activations out, a side's experts, results back; the last of them."""
    S, way = T[T_AT_SIDES] + s * (S_READS + 3 * T[T_KINDS]), X[X_WAYS] + 2 * s
    pairs, work = X[X[X_SIDES] + 2 * s + PAIRS], X[X[X_SIDES] + 2 * s + WORK]
    sent = min(pairs, C[C_SENT])
    out, back = X[X[way] + sent], X[X[way + 1] + sent]
    if out > 0:
        at = put(P, C, T[S + S_OUT], 0, out, LABEL_ACTIVATIONS)
        put_after(P, C, at, before)
        put_draws(T, TF, P, PF, C, at, S + S_OUT_DRAWS, sent)
        before = C[C_N] - 1
    at = put(P, C, T[S + S_LANE], 1, work, LABEL_EXPERTS)
    put_after(P, C, at, before)
    kinds, counts, device = field(C, R, KIND), field(C, R, COUNTS), field(C, R, DEVICE)
    for kind in range(T[T_KINDS]):
        n = 0
        for e in range(T[T_EXPERTS] if T[S + S_READS + 3 * kind + 1] > 0 else 0):
            if R[kinds + e] == kind and R[counts + e] > 0 and R[device + e] == T[S + S_DEVICE]:
                n += 1
        if n > 0:
            put_draws(T, TF, P, PF, C, at, S + S_READS + 3 * kind, n)
    last = C[C_N] - 1
    if back > 0:
        at = put(P, C, T[S + S_BACK], 0, back, LABEL_ACTIVATIONS)
        put_after(P, C, at, last)
        put_draws(T, TF, P, PF, C, at, S + S_BACK_DRAWS, sent)
        last = C[C_N] - 1
    return last


def emit_serial(T, TF, X, P, PF, C, R, last):
    """Nothing overlaps: uploads, of which `last` is the last, then the GPU, then one side after another."""
    service, counts, gpu, needs = C[C_FIRST], field(C, R, COUNTS), field(C, R, GPU), X[X_NEEDS]
    for e in range(T[T_EXPERTS]):
        if R[counts + e] > 0 and X[needs + e] != NOTHING:
            service = plus(service, plus(R[gpu + e], T[T_APART]))
    if service > 0:
        at = put(P, C, T[T_GPU_LANE], 1, service, LABEL_EXPERTS)
        put_after(P, C, at, last)
        for e in range(T[T_EXPERTS]):
            if X[needs + e] == COPY_FLYING:
                put_after(P, C, at, -1 - R[field(C, R, FLYING) + e] % COMING)
        last = C[C_N] - 1
    for s in range(T[T_SIDES]):
        if X[X[X_SIDES] + 2 * s + PAIRS] > 0:
            last = emit_side(T, TF, X, P, PF, C, R, s, last)
    at = put(P, C, -1, 0, 0, 0)
    put_after(P, C, at, last)
    put_after(P, C, at, C[C_STORED])
    C[C_END] = C[C_N] - 1
