"""The compiled walk through visits whose copies move: from one decision of the policy to the next."""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.copies import forget, land, landed, send_for, set_off, under_way
from moesim.engine.kernel.compiled.copy_layout import *
from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.moments import advance, give_back
from moesim.engine.kernel.compiled.operations import offer, unlink
from moesim.engine.kernel.compiled.queries import untouched
from moesim.engine.kernel.compiled.steps import walk
from moesim.engine.kernel.compiled.visit_layout import *
from moesim.engine.kernel.compiled.visit_work import field


def walk_moving(
    M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, K, KF, table, marks, host_rows, labels, tally, resident,
    in_flight, demanded, unused, uploaded, coming, unused_of, pinned, stored, copy_bytes, home, size_of, order, device,
    evict, keep, load, tiers, form_of, nbytes, known, chunks, FP, FPF, FX,
):
    """Walks from the cursor to the next decision, or to what keeps it from going on: it goes on from there when called again.

    A visit is asked for (`ASKED`) when its routing is known. The answer stands in R, or in `order` and `device` [E] alone,
    and, of copies that move, in the lists `evict` and `load` (places, with the tier, form and size of each where they are not
    the stored copy's), which begin with their length. Behind the visit (`VISITED`), in which experts were `uploaded` [E],
    `keep` says which of them stay.
    """
    while K[K_TURN] != TO_ROUTED or C[C_ROW] < K[K_ROWS]:
        status = 0
        if K[K_TURN] == WITHIN or K[K_TURN] == BEHIND:
            status = carry_out(
                M, F, K, KF, table, marks, labels, resident, in_flight, demanded, unused, uploaded, coming, unused_of, pinned,
                stored, copy_bytes, home, size_of, evict, keep, load, tiers, form_of, nbytes, known, chunks, FP, FPF, FX,
            )
        elif K[K_TURN] == KNOWING:
            status = advance(M, F, C[C_KNOWN]) if C[C_KNOWN] >= 0 else 0
        elif K[K_TURN] == TO_ROUTED and C[C_STAGE] == BEFORE and not roomy(M, K, 0):
            status = NO_ROOM
        else:
            stop = ROUTED if K[K_TURN] == TO_ROUTED else DONE_VISIT
            if K[K_TURN] == ANSWERED:
                flying = meet(T, C, K, R, V, resident, in_flight, unused, coming, unused_of, order, device, evict, load)
                stop = COMPUTING if flying or R[R_ASKS] > 0 else stop
            status = walk(M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, C[C_ROW] + 1, stop)
            K[K_TURN] = WORKING if K[K_TURN] == ANSWERED and stop == DONE_VISIT else K[K_TURN]
        if status < 0:
            return status
        turn = K[K_TURN]
        K[K_TURN] = following(K)
        if turn == KNOWING:
            promote(M, X, C, R, K, coming, demanded)
            if K[K_ANSWER] == WITH_MOVES:
                K[K_TURN] = WORKING
                return KNOWN_TO_HOST
        elif turn == WORKING and K[K_FOLLOWS] != NOTHING_FOLLOWS:
            for expert in range(K[K_EXPERTS]):
                uploaded[expert] = 1 if X[X[X_NEEDS] + expert] == UPLOAD else 0
        if turn == TO_ROUTED or (turn == WORKING and K[K_FOLLOWS] == A_LOOK):
            look(M, K, table, marks, resident, in_flight, coming, demanded, unused, tally, host_rows)
        if turn == TO_ROUTED:
            K[K_LAYER] = V[C[C_ROW] * V_WIDTH + V_LAYER]
            return ASKED
        if K[K_TURN] == BEHIND:
            return VISITED
    return FINISHED


def following(K):
    """Whose turn it is when this one is over."""
    if K[K_TURN] == TO_ROUTED:
        return ANSWERED
    if K[K_TURN] == ANSWERED:
        return KNOWING
    if K[K_TURN] == KNOWING:
        return WITHIN
    if K[K_TURN] == WITHIN:
        return WORKING
    return BEHIND if K[K_TURN] == WORKING and K[K_FOLLOWS] != NOTHING_FOLLOWS else TO_ROUTED


def roomy(M, K, copies):
    """Whether the buffers have room for the next visit and for so many copies beside it."""
    return (
        M[OP_USED] + copies + K[K_OPERATIONS] <= M[OP_SIZE]
        and M[NODE_USED] + K[K_NODES] <= M[NODE_SIZE]
        and (M[LISTS_USED] == 0 or M[ITEM_USED] + K[K_NUMBERS] <= M[ITEM_SIZE])
    )


def look(M, K, table, marks, resident, in_flight, coming, demanded, unused, tally, host_rows):
    """Brings the books up to now: copies that have landed are in GPU memory."""
    if M[NOW] > K[K_LOOKED]:
        K[K_SPAN], K[K_LOOKED] = M[NOW] - K[K_LOOKED], M[NOW]
    K[K_ELSEWHERE] = 0
    n = K[K_COUNT]
    for row in range(n):
        marks[row] = table[OPERATION * K[K_WIDTH] + row]
    if landed(M, marks, n) > 0:
        land(K, table, marks, resident, in_flight, coming, demanded, unused, tally, host_rows)


def meet(T, C, K, R, V, resident, in_flight, unused, coming, unused_of, order, device, evict, load):
    """What a visit finds in GPU memory and on the way there, counted and entered into R; whether any is on its way."""
    E, row, layer, flying = K[K_EXPERTS], C[C_ROW], K[K_LAYER], False
    C[C_AT], C[C_LAYER] = V[row * V_WIDTH + V_AT] - R[R_DATA], layer
    counts, devices, first = field(C, R, COUNTS), field(C, R, DEVICE), layer * E
    if K[K_ANSWER] == IN_LISTS:
        R[R_ASKS], turns = 1 if evict[0] + load[0] > 0 else 0, field(C, R, ORDER)
        for e in range(E):
            R[turns + e], R[devices + e] = order[e], device[e]
    if unused_of[layer] > 0:
        unused_of[layer] = 0
        for e in range(E):
            if unused[first + e]:
                if R[counts + e] > 0 and R[devices + e] == T[T_GPU]:
                    unused[first + e] = 0
                    K[K_USED] += 1
                    K[K_IN_TIME] += resident[first + e]
                    K[K_FRESH] += 1 - resident[first + e]
                else:
                    unused_of[layer] += 1
    for e in range(E):
        if in_flight[first + e]:
            flying = True
    if K[K_PATCHED]:
        there, ways = field(C, R, RESIDENT), field(C, R, FLYING)
        for e in range(E):
            R[there + e], R[ways + e] = int(resident[first + e]), int(coming[first + e])
    return flying


def promote(M, X, C, R, K, coming, demanded):
    """Copies on their way that a visit waits for go ahead of prefetches, in the order of dispatch, if they have not begun."""
    order, needs, E, first = field(C, R, ORDER), X[X_NEEDS], K[K_EXPERTS], K[K_LAYER] * K[K_EXPERTS]
    for rank in range(E):
        e = R[order + rank]
        if X[needs + e] == COPY_FLYING and coming[first + e] > 0 and not demanded[first + e]:
            op = (coming[first + e] - 1) % COMING
            if untouched(M, op):
                o = M[AT_OP] + op * M[OP_WIDTH]
                unlink(M, op)
                M[o + PRIORITY], M[o + LABEL] = DEMANDED, 0
                offer(M, op)
                demanded[first + e] = 1


def carry_out(
    M, F, K, KF, table, marks, labels, resident, in_flight, demanded, unused, uploaded, coming, unused_of, pinned, stored,
    copy_bytes, home, size_of, evict, keep, load, tiers, form_of, nbytes, known, chunks, FP, FPF, FX,
):
    """Drops, keeps and brings what a decision says; 0, or why it cannot. What is done is not done again."""
    status = drop(M, K, KF, table, resident, in_flight, demanded, unused, coming, pinned, copy_bytes, evict)
    if status == 0:
        status = retain(KF, K[K_LAYER] * K[K_EXPERTS], resident, uploaded, stored, copy_bytes, keep)
    if status != 0 or load[0] == 0:
        return status
    if not roomy(M, K, load[0]) or K[K_COUNT] + load[0] > K[K_WIDTH]:
        return NO_ROOM
    first = K[K_COUNT]
    n = send_for(
        K, KF, table, load, tiers, form_of, nbytes, known, size_of, stored, copy_bytes, home, resident, in_flight, unused,
        unused_of,
    )
    if n < 0:
        return n
    load[0] = 0
    for row in range(n):
        marks[row] = table[FORM * K[K_WIDTH] + first + row]
    set_off(M, F, FP, FPF, FX, marks, labels, n)
    for row in range(n):
        table[OPERATION * K[K_WIDTH] + first + row] = marks[row]
    under_way(K, table, first, chunks, coming)
    return within(KF) if n > 0 else 0


def within(KF):
    """Notes how full GPU memory is; 0, or `OVERFULL`."""
    KF[FULLEST] = max(KF[FULLEST], KF[HELD])
    return OVERFULL if KF[HELD] > KF[MOST_HELD] else 0


def drop(M, K, KF, table, resident, in_flight, demanded, unused, coming, pinned, copy_bytes, evict):
    """Drops copies from GPU memory; those on their way there are called off, but for copies that have begun."""
    called_off = 0
    for k in range(1, evict[0] + 1):
        place = evict[k]
        if in_flight[place]:
            op = int((coming[place] - 1) % COMING)
            if untouched(M, op):
                unlink(M, op)
                M[M[AT_OP] + op * M[OP_WIDTH] + STATE] = ENDED
                give_back(M, op)
                in_flight[place], coming[place], demanded[place], unused[place] = 0, 0, 0, 0
                KF[HELD] -= copy_bytes[place]
                called_off += 1
        elif pinned[place]:
            K[K_AT] = k
            return PINNED
        else:
            if resident[place]:
                KF[HELD] -= copy_bytes[place]
            resident[place], unused[place] = 0, 0
    if called_off > 0:
        forget(K, table, in_flight)
    evict[0] = 0
    return 0


def retain(KF, first, resident, uploaded, stored, copy_bytes, keep):
    """What was uploaded for the layer whose places begin at `first` stays, as far as it is to be kept."""
    n = keep[0]
    for k in range(1, n + 1):
        if not uploaded[keep[k]]:
            return NOT_UPLOADED
    for k in range(1, n + 1):
        place = first + keep[k]
        if not resident[place]:
            copy_bytes[place] = stored[place]
            KF[HELD] += stored[place]
            resident[place] = 1
    keep[0] = 0
    return within(KF) if n > 0 else 0
