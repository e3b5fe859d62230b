"""Owns how functions become machine code: by numba, where that is there, and kept in the cache folder for later processes.

Knows numba and the cache folder, nothing of what the functions do. A module that is compiled is complete in itself, because
numba notices no change in others. It names what is compiled in `FUNCTIONS`, imports no numba and runs as plain Python, too.

`compiled` gives functions on arrays and loads numba (0.5 s). `native` gives functions on flat buffers and numbers alone: they
are kept as an object file, which LLVM loads without numba (0.06 s).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from moesim import writing
from moesim.cache import CODE, folder
from moesim.errors import InputError, MoesimError

__all__ = ["compiled", "loaded", "native", "ready", "repaid", "threads"]

logger = logging.getLogger("moesim.jit")


def loaded() -> bool:
    """Whether this process has paid for numba's import already."""
    return "numba" in sys.modules


def ready(module: ModuleType) -> bool:
    """Whether an earlier process has compiled `module`, as it is now, and numba is there."""
    if importlib.util.find_spec("numba") is None:
        return False
    return any(file for pattern in ("*.nbi", "*.o") for file in _place(module).rglob(pattern))


def threads() -> int:
    """Cores that this process may use; those of `OMP_NUM_THREADS` where it says, as it does in workers of a sweep."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def compiled(module: ModuleType) -> SimpleNamespace | None:
    """The functions of `module.FUNCTIONS`, compiled when first called with a kind of arguments; None without numba.

    Threads run them side by side. Where the cache folder cannot be written, they are compiled for this process alone.
    """
    try:
        import numba
    except ImportError:
        return None
    place = _place(module)
    writable = _writable(place)
    if not ready(module):
        _announce(module, writable)
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(place)
    try:
        scope = _scope(module, cache=writable)
    finally:
        config.CACHE_DIR = before
    return SimpleNamespace(**{function.__name__: scope[function.__name__] for function in module.FUNCTIONS})


def _scope(module: ModuleType, **options: Any) -> dict[str, Any]:
    """The names of `module` with its functions for numba to compile."""
    import numba

    scope = dict(vars(module))
    for function in module.FUNCTIONS:
        scope[function.__name__] = numba.njit(nogil=True, **options)(_twin(function, scope))
    return scope


def _twin(function: Any, scope: dict[str, Any]) -> FunctionType:
    """The same function, which looks its names up in `scope`."""
    twin = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    return twin


def _announce(module: ModuleType, writable: bool) -> None:
    often = "once on this machine" if writable else f"for this process alone, as {folder()} cannot be written to"
    logger.warning("compiling %s, %s; takes some seconds", module.__name__, often)


# Object files


def repaid(module: ModuleType, seconds: float, cold: float) -> bool:
    """Whether `native(module)` costs less than it saves a process whose next work with it takes plain Python `seconds`.

    `cold`: seconds to be saved where nothing is kept from an earlier process. Many short works repay what one does not.
    """
    if importlib.util.find_spec("numba") is None:
        return False
    work = _work[module.__name__] = _work.get(module.__name__, 0.0) + seconds
    return work >= (_LOADING if ready(module) else cold)


_LOADING = 0.06
"""Seconds that loading an object file takes."""
_work: dict[str, float] = {}
"""Module -> seconds of plain Python asked for so far."""


def native(module: ModuleType) -> SimpleNamespace | None:
    """The functions of `module.ENTRIES` on buffers (`module.BUFFERS`: name of a parameter -> type) and whole numbers.

    Buffers are contiguous writable arrays of that type, which nothing checks once more as long as the same array comes. The
    functions belong to one caller, for they remember its arrays. None without numba. As with `compiled`, threads run side by
    side, and the code is for this process alone where the cache folder cannot be written.
    """
    addresses = _addresses(module)
    if addresses is None:
        return None
    return SimpleNamespace(**{entry.__name__: _caller(addresses[entry.__name__], module, entry) for entry in module.ENTRIES})


@cache
def _addresses(module: ModuleType) -> dict[str, int] | None:
    """Entry -> where its machine code begins in this process."""
    try:
        from llvmlite import binding as llvm
    except ImportError:
        return None
    if importlib.util.find_spec("numba") is None:
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()} {llvm.llvm_version_info}"
    place = _place(module) / f"{hashlib.sha256(host.encode()).hexdigest()[:16]}.o"
    code = _read(place)
    if code is None:
        writable = _writable(place.parent)
        _announce(module, writable)
        code = _object(module, llvm)
        if writable:
            with suppress(OSError):
                writing.write(place, [hashlib.sha256(code).digest(), code], durable=False)
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return {entry.__name__: engine.get_function_address(_PREFIX + entry.__name__) for entry in module.ENTRIES}


_engines: list[Any] = []
"""What owns the loaded code: it stays as long as the process."""
_PREFIX = "moesim_"


def _read(place: Path) -> bytes | None:
    """An object file of an earlier process; None where there is none, or where it is damaged."""
    try:
        whole = place.read_bytes()
    except OSError:
        return None
    return whole[32:] if hashlib.sha256(whole[32:]).digest() == whole[:32] else None


def _object(module: ModuleType, llvm: Any) -> bytes:
    """Machine code of the entries and of all that they call, for this processor."""
    import numba

    types: Any = numba.types
    scope, whole = _scope(module, error_model="numpy"), llvm.parse_assembly("")
    bare: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}  # wrappers talk to Python
    for entry in module.ENTRIES:
        kinds = [module.BUFFERS.get(name) for name in inspect.signature(entry).parameters]
        signature = tuple(types.CPointer(getattr(types, kind)) if kind else types.int64 for kind in kinds)
        compiled_entry: Any = numba.njit(signature, **bare)(_twin(entry, scope))
        part = llvm.parse_assembly(compiled_entry.inspect_llvm(signature))
        part.get_function(compiled_entry.overloads[signature].fndesc.llvm_func_name).name = _PREFIX + entry.__name__
        whole.link_in(part)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    return bytes(machine.emit_object(whole))


def _caller(address: int, module: ModuleType, entry: Any) -> Callable[..., int]:
    """Calls machine code at `address`, by numba's convention: result and error come through two pointers ahead of the rest."""
    kinds = [module.BUFFERS.get(name) for name in inspect.signature(entry).parameters]
    types = [ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_void_p if kind else ctypes.c_int64 for kind in kinds)]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)
    places = [(place, kind) for place, kind in enumerate(kinds) if kind]
    result, error = ctypes.c_int64(), ctypes.c_int64()
    arguments: list[Any] = [ctypes.addressof(result), ctypes.addressof(error), *[0] * len(kinds)]
    seen: list[Any] = [None] * len(kinds)
    begins: list[int] = [0] * len(kinds)

    def call(*values: Any) -> int:
        arguments[2:] = values
        for place, kind in places:
            array = values[place]
            if array is not seen[place]:
                if array.dtype != kind or not array.flags.c_contiguous:
                    raise TypeError(f"{entry.__name__} takes contiguous arrays of {kind}")
                seen[place], begins[place] = array, ctypes.addressof(_Start.from_buffer(array))
            arguments[place + 2] = begins[place]
        if function(*arguments):
            raise MoesimError(f"the compiled {entry.__name__} failed with {error.value}; please report it")
        return result.value

    return call


_Start = ctypes.c_char * 0
"""The beginning of an array, even of an empty one."""


def _place(module: ModuleType) -> Path:
    """Folder for the machine code of this source on this Python."""
    digest = hashlib.sha256(Path(str(module.__file__)).read_bytes() + sys.version.encode())
    return folder() / CODE / f"{module.__name__}-{digest.hexdigest()[:16]}"


def _writable(place: Path) -> bool:
    try:
        writing.folder_target(place)
    except InputError:
        return False
    return True
