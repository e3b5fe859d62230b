"""The kernel: programs of operations on lanes, timed to the picosecond on two flat buffers.

The same source runs compiled (`jit.py`) or as plain Python on lists (`PLAIN`). `reference/` says the same with SimPy
and is the specification; the two agree to the picosecond, the byte and the critical path.

A moment has three phases. All that ends now ends, lane by lane; free lanes take the ready operation of the lowest (priority,
key); speeds are set anew, lane by lane, if what draws bandwidth has changed. An operation is a run of items. It is served item
by item, so a more urgent one goes ahead between two items, and as long as a lane goes on with the same operation the items
share one flow (a stretch).

Buffers: `M` int64 (header, lanes, pools, operations, successor nodes, items, log), `F` float64 (lanes, resources, rates).
Functions take buffers and numbers only. They stand in `compiled/`; this module has all names that others need, the places of
numbers in buffers among them.
"""

from __future__ import annotations

from types import SimpleNamespace

from moesim.engine.kernel.compiled import (
    copies,
    copy_layout,
    layout,
    moments,
    moving,
    operations,
    queries,
    steps,
    visit_layout,
    visit_program,
    visit_work,
)
from moesim.engine.kernel.compiled.copy_layout import *  # noqa: F403
from moesim.engine.kernel.compiled.layout import *  # noqa: F403
from moesim.engine.kernel.compiled.visit_layout import *  # noqa: F403

SOURCES = (layout, visit_layout, copy_layout, operations, moments, queries, visit_work, visit_program, steps, copies, moving)
"""The modules that are compiled together."""
FUNCTIONS = tuple(
    value for source in SOURCES for value in vars(source).values() if getattr(value, "__module__", "") == source.__name__
)
"""All that is compiled."""
ENTRIES = (
    operations.load,
    moments.advance,
    moments.release,
    moments.clear_log,
    queries.critical,
    queries.withdraw,
    queries.hasten,
    queries.backlog,
    queries.backlogs,
    visit_work.measure,
    steps.walk,
    steps.walk_steps,
    copies.set_off,
    copies.landed,
    copies.send_for,
    copies.under_way,
    copies.land,
    copies.forget,
    copies.awaited,
    moving.walk_moving,
)
"""What others call."""
_WHOLE = (
    "M",
    "T",
    "X",
    "B",
    "BP",
    "BD",
    "P",
    "C",
    "R",
    "V",
    "S",
    "W",
    "TP",
    "TM",
    "K",
    "slots",
    "path",
    "sums",
    "laps",
    "order",
    "device",
)
_TABLES = ("FP", "FX", "labels", "table", "marks", "host_rows", "tally", "known", "chunks", "copies", "places")
_PLACES = ("coming", "unused_of", "home", "size_of", "evict", "keep", "load", "tiers", "form_of")
_FLOATS = ("F", "TF", "PF", "TPF", "FPF", "KF", "nbytes", "stored", "copy_bytes")
_FLAGS = ("resident", "in_flight", "unused", "demanded", "needed", "uploaded", "pinned")
BUFFERS = (
    dict.fromkeys(_WHOLE + _TABLES + _PLACES, "int64") | dict.fromkeys(_FLOATS, "float64") | dict.fromkeys(_FLAGS, "uint8")
)
"""Parameters of the entries that are buffers, and what these hold; all others are whole numbers."""

PLAIN = SimpleNamespace(**{function.__name__: function for function in FUNCTIONS})
"""The kernel as plain Python: the buffers are lists."""
