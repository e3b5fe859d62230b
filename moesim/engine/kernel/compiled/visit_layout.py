"""Where the numbers of a visit stand: machine in `T`, times in `X`, what is to do in `R` and `V`, books in `B`, cursor `C`."""

# fmt: off
# The expert part of a visit

# The machine in T (int64); lists of draws are (place in T, length, place in TF)
T_GPU, T_GPU_LANE, T_UP, T_DOWN, T_APART, T_TOGETHER, T_PREDICTION, T_SERIAL, T_STAGING, T_PIECES, T_SIDES, T_KINDS = range(12)
T_AT_SIDES, T_AT_KINDS, T_EXPERTS, T_IDS, T_IDS_LENGTH, T_IDS_FLOATS, T_LAYERS, T_DEVICES = range(12, 20)
T_HEADER = 20
S_DEVICE, S_LANE, S_OUT, S_BACK, S_SYNC, S_LAUNCH, S_FUSED, S_BEFORE, S_NEAR = range(9)
S_OUT_DRAWS, S_BACK_DRAWS, S_READS = 9, 12, 15
"""Behind `S_READS` the draws of reading an expert of each kind in place."""
CPU_SIDE, LOCAL_SIDE, GPU_SIDE = range(3)
"""`S_NEAR`: a CPU, a near-data unit, or a GPU, to which the GPU that attends sends activations without the host."""
K_CHUNKS, K_DRAWS, K_JOINED = 0, 1, 4
"""`K_JOINED`: ps that a copy saves by continuing that of the expert before it."""
KIND_WIDTH = 5

# Times by tokens in X: offsets stand at its start
X_SHARED, X_IDS, X_NEEDS, X_SIDES, X_WAYS = range(5)
"""At `X_NEEDS` scratch for each expert, at `X_SIDES` two numbers of scratch for each side; at `X_WAYS` the offsets of its times
out and back, by tokens sent."""
X_HEADER = 5
NOTHING, UPLOAD, COPY_FLYING = range(3)
"""What the GPU needs of an expert: nothing that it has not, an upload, or a copy that is on its way."""
PAIRS, WORK = 0, 1
W_FIRST, W_IDS, W_SIDES = range(3)
"""What `measure` writes of each visit, the last for each side as there."""

# What some visits are to do in R: a head, then fields of numbers by expert
R_DATA, R_ODD, R_ASKS, R_LOADED, R_PLACES = range(5)
"""The visit that they begin with; whether copies other than the stored ones are asked for, moves depend on the routing, experts
are loaded unasked; and of each field where it begins, and how far apart it has the numbers of two visits, and of two layers."""
COUNTS, DEVICE, GPU, CPU, NDP, COPY, KIND, RESIDENT, ORDER, LOADED, FLYING = range(11)
ABSENT, THERE, BROUGHT = range(3)
"""`RESIDENT`: whether a copy is in GPU memory, and whether another visit of the same layer has just brought it."""
R_FIELDS = 11
R_HEADER = R_PLACES + 3 * R_FIELDS
COMING = 1 << 32
"""A copy on its way is written as 1 + its operation, and `COMING` times the items that bring one piece of it."""

# Books in B: offsets stand at its start
B_VISITS, B_ACTIVATIONS, B_HITS, B_DISTINCT, B_UPLOADS, B_TOKENS, B_MISSED, B_COPIES, B_RUNS = range(9)
B_ODD_COPIES, B_ODD_RUNS = 9, 10
B_GPU, B_SIDES, B_MET, B_TIME, B_CRITICAL, B_TRAILING = range(11, 17)
B_HEADER = 17
G_TOKENS, G_TIME, G_IDS = range(3)
D_TOKENS, D_SENT, D_TIME = range(3)
SIDE_BOOKS = 3

# The cursor C
C_P, C_F, C_N, C_KNOWN, C_END, C_STAGE, C_ROW, C_SLOTS, C_GOAL, C_STORED, C_MARK = range(11)
C_AT, C_LAYER, C_SENT, C_FIRST, C_UPLOADS, C_WAITS, C_SIDE_TOKENS, C_CALLS = range(11, 19)
C_STEP, C_ACTIVATIONS, C_HITS, C_COPIES = range(19, 23)
"""The step, and its sums so far."""
C_HANDED = 23
"""Tokens of a visit that the host hands over to sides."""
CURSOR = 24

BAD_DEVICE, NO_SLOT, BAD_READER = -3, -4, -7
"""What may be wrong with a dispatch; `BAD_READER` - s for the device number s beside the GPU."""

LABEL_IDS, LABEL_UPLOAD, LABEL_RESIDENT, LABEL_UPLOADED, LABEL_ACTIVATIONS, LABEL_EXPERTS = range(1, 7)

# The walk through visits

BEFORE, ATTENDING, ROUTED, COMPUTING, DONE_VISIT = range(5)
A_FIRST, A_LENGTH, A_FLOATS, A_OPS, A_ITEMS, A_KNOWN, A_STORED, A_ALONE, A_MOMENTS = range(9)
"""A template of what precedes a layer's experts: its place in TP, length, place in TPF, operations, items, and two of these;
ps if the GPU does all of it in turn (-1 if not), and how many of its operations take a lane."""
A_WIDTH = 9
V_LAYER, V_TOKENS, V_TEMPLATE, V_AT = range(4)
"""Of every visit in V: its layer, its tokens, the template that precedes it (-1: none), and its place in R. A visit of the
layer behind the last is a template alone: what follows the layers."""
V_WIDTH = 4
STEP_DECODES, STEP_SERIAL, STEP_ROWS, STEP_SINCE, STEP_UNTIL, STEP_END, STEP_ACTIVATIONS, STEP_HITS, STEP_UPLOADS = range(9)
"""Of every step: whether it goes by decode, whether its layers are serial, the first visit behind it, the ps from which and
before which the next one may begin; then what came of it."""
STEP_WIDTH = 9
