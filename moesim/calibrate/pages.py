"""Owns memory that lies on one node, and the three C functions that are timed on it.

Knows system calls; not what is measured. A binding is checked by asking where a page really lies: memory that landed
elsewhere is refused, not measured under a wrong name.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "RefusedError", "address", "array", "library"]

Bytes = NDArray[np.uint8]

_CALLS = {"x86_64": (238, 239), "aarch64": (237, 236)}
"""Machine -> numbers of set_mempolicy and get_mempolicy. Source: asm/unistd.h of Linux."""
_DEFAULT, _BIND = 0, 2
_WHERE = 1 | 2  # MPOL_F_NODE | MPOL_F_ADDR
_MASK_BITS = 1024


class RefusedError(OSError):
    """The system gives no memory on that node."""


@cache
def library() -> ctypes.CDLL:
    """The C library of this process, with the functions that are timed; calls leave Python's lock to other threads."""
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, arguments in (("memchr", (pointer, ctypes.c_int, size)), ("memcpy", (pointer, pointer, size)),
                        ("memset", (pointer, ctypes.c_int, size))):  # fmt: skip
        function = getattr(libc, name)
        function.argtypes, function.restype = arguments, pointer
    return libc


def address(memory: NDArray[np.generic]) -> int:
    """Where an array begins."""
    return int(memory.ctypes.data)


def array(nbytes: int, node: int | None = None) -> Bytes:
    """`nbytes` of ones on `node` (anywhere for None), in huge pages where the kernel has them; RefusedError if it cannot."""
    pages = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages: small ones do
            pages.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(pages, dtype=np.uint8, count=nbytes)
    if node is None:
        memory.fill(1)
        return memory
    _policy(_BIND, node)
    try:
        memory.fill(1)
    finally:
        _policy(_DEFAULT, None)
    wrong = [lies for offset in (0, nbytes // 2, nbytes - 1) if (lies := _lies(address(memory) + offset)) != node]
    if wrong:
        raise RefusedError(f"memory asked of node {node} lies on node {wrong[0]}")
    return memory


def _numbers() -> tuple[int, int]:
    if platform.system() != "Linux" or platform.machine() not in _CALLS:
        raise RefusedError("no way to ask for memory of a node on this system")
    return _CALLS[platform.machine()]


def _policy(mode: int, node: int | None) -> None:
    number = ctypes.c_long(_numbers()[0])
    mask = (ctypes.c_ulong * (_MASK_BITS // (8 * ctypes.sizeof(ctypes.c_ulong))))()
    if node is not None:
        bits = 8 * ctypes.sizeof(ctypes.c_ulong)
        mask[node // bits] = 1 << (node % bits)
    pointer = ctypes.byref(mask) if node is not None else None
    length = ctypes.c_ulong(_MASK_BITS if node is not None else 0)
    if library().syscall(number, ctypes.c_int(mode), pointer, length) != 0:
        raise RefusedError(ctypes.get_errno(), f"the system refuses to place memory on node {node}")


def _lies(place: int) -> int:
    """The node of the page at an address."""
    number, node = ctypes.c_long(_numbers()[1]), ctypes.c_int(-1)
    flags = ctypes.c_ulong(_WHERE)
    nothing = ctypes.c_ulong(0)
    done = library().syscall(number, ctypes.byref(node), None, nothing, ctypes.c_void_p(place), flags)
    return node.value if done == 0 else -1
