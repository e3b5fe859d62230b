"""Owns how functions become machine code: by numba, where that is there, and kept in the cache folder for later processes.

Knows numba and the cache folder, nothing of what the functions do. A module that is compiled names the functions in
`FUNCTIONS`, and in `SOURCES` the other modules, if any, that they stand in: what is kept belongs to the instructions of all
functions as they were imported. None imports numba, and all run as plain Python, too.

Functions take arrays and numbers alone and allocate nothing: they are kept as an object file, which LLVM loads in 0.06 s. numba
itself, which takes 0.5 s to load, is there for the first run alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from moesim import writing
from moesim.cache import CODE, folder
from moesim.errors import InputError, MoesimError

__all__ = ["code_text", "native", "ready", "repaid", "threads"]

logger = logging.getLogger("moesim.jit")


def ready(module: ModuleType) -> bool:
    """Whether an earlier process has compiled `module`, as it is now, and numba is there."""
    if importlib.util.find_spec("numba") is None:
        return False
    return any(_place(module).glob("*.o"))


def threads() -> int:
    """Cores that this process may use; those of `OMP_NUM_THREADS` where it says, as it does in workers of a sweep."""
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if setting.isdecimal() and int(setting):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _scope(module: ModuleType) -> dict[str, Any]:
    """The names of `module` with its functions for numba to compile, each once: a constant argument is a whole number."""
    import numba

    plain: Any = {"error_model": "numpy", "_nrt": False}  # the code allocates nothing
    bare: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **plain}  # wrappers talk to Python
    scope = _names(module)
    for function in module.FUNCTIONS:
        scope[function.__name__] = dispatcher = numba.njit(**bare)(_twin(function, scope))
        dispatcher.get_call_template = partial(_template, numba.types.unliteral, dispatcher.get_call_template)
    return scope


def _template(unliteral: Callable[[Any], Any], template: Callable[..., Any], arguments: Any, names: Any) -> Any:
    return template([unliteral(argument) for argument in arguments], names)


def _twin(function: Any, scope: dict[str, Any]) -> FunctionType:
    """The same function, which looks its names up in `scope`."""
    twin = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    return twin


def _announce(module: ModuleType, writable: bool) -> None:
    often = "once on this machine" if writable else f"for this process alone, as {folder()} cannot be written to"
    logger.warning("compiling %s, %s; takes some seconds", module.__name__, often)


# Object files


def repaid(module: ModuleType, seconds: float, compiling: float) -> bool:
    """Whether `native(module)` costs less than it saves, where a process asks for plain Python's work of `seconds` more.

    `compiling`: seconds that it takes where nothing is kept from an earlier process; what is kept from now on serves later
    runs, too. Many short works repay what a single one does not.
    """
    if module.__name__ in _paid:
        return True
    work = _work[module.__name__] = _work.get(module.__name__, 0.0) + seconds
    if work < _due.get(module.__name__, min(_LOADING, compiling)):
        return False
    _due[module.__name__] = work + _LOADING / 10
    if importlib.util.find_spec("numba") is None:
        return False
    paid = work >= _LOADING if ready(module) else work >= compiling or _serves(module, work * _RUNS, compiling)
    if paid:
        _paid.add(module.__name__)
    return paid


def _serves(module: ModuleType, work: float, compiling: float) -> bool:
    """Whether later runs, too, find what is compiled now, and all of them do `work` that repays it."""
    return work >= compiling and _writable(_place(module))


_LOADING = 0.06
"""Seconds that loading an object file takes."""
_RUNS = 4
"""Runs at least that whoever compiles makes with the same code, if it is kept."""
_work: dict[str, float] = {}
"""Module -> seconds of plain Python asked for so far."""
_due: dict[str, float] = {}
"""Module -> how many these must be before the cache folder is looked at again: many works are shorter than a look."""
_paid: set[str] = set()
"""Modules of which that was enough: their source is not looked at once more at each run."""


def native(module: ModuleType) -> Any:
    """The functions of `module.ENTRIES` on arrays (`module.BUFFERS`: name of a parameter -> type) and whole numbers.

    Of `int64` and `float64` they take where the numbers begin: contiguous writable arrays of that type, which nothing checks
    once more as long as the same array comes; the functions belong to one caller then, for they remember its arrays. Of
    `int64[:, ::1]` and the like they take contiguous arrays with their shape, and may be called from any thread. Threads run
    side by side. None without numba. The code is for this process alone where the cache folder cannot be written.
    """
    addresses = _addresses(module)
    if addresses is None:
        return None
    entries = {entry.__name__: entry for entry in module.ENTRIES}
    return _Functions(lambda name: _caller(addresses[name], module, entries[name]))


class _Functions:
    """The entries of a module by name, each made ready to be called when it is first asked for."""

    def __init__(self, entry: Callable[[str], Callable[..., int]]) -> None:
        self._entry = entry

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_"):
            raise AttributeError(name)
        function = self._entry(name)
        setattr(self, name, function)
        return function


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
    code = _read(place) or _compiled(module, llvm, place)
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    prefixes = {entry.__name__: _PREFIX if _shaped(_kinds(module, entry)) else _PACKED for entry in module.ENTRIES}
    return {name: engine.get_function_address(prefix + name) for name, prefix in prefixes.items()}


def _compiled(module: ModuleType, llvm: Any, place: Path) -> bytes:
    """Machine code that is kept at `place` from now on; that of a process which has begun to compile it before, if any."""
    if not _writable(place.parent):
        _announce(module, writable=False)
        return _object(module, llvm)
    with _alone(module):
        code = _read(place)
        if code is None:
            _announce(module, writable=True)
            code = _object(module, llvm)
            with suppress(OSError):
                writing.write(place, [hashlib.sha256(code).digest(), code], durable=False)
    return code


@contextmanager
def _alone(module: ModuleType) -> Iterator[None]:
    """Only one process at a time is in such a block of the module, whose source it locks, where the system can lock files."""
    try:
        import fcntl

        source = os.open(str(module.__file__), os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(source, fcntl.LOCK_EX)
        yield
    finally:
        os.close(source)


_engines: list[Any] = []
"""What owns the loaded code: it stays as long as the process."""
_PREFIX, _PACKED = "moesim_", "moesim_packed_"
"""Of entries, and of functions that find the arguments of an entry one behind another in memory."""


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

    whole = llvm.parse_assembly("")
    with _unoptimised(numba.config):
        scope = _scope(module)
        for entry in module.ENTRIES:
            signature = tuple(_type(numba.types, kind) for kind in _kinds(module, entry))
            compiled_entry: Any = scope[entry.__name__]
            compiled_entry.compile(signature)
            part = llvm.parse_assembly(compiled_entry.inspect_llvm(signature))
            function = part.get_function(compiled_entry.overloads[signature].fndesc.llvm_func_name)
            function.name = _PREFIX + entry.__name__
            packed = _packed(entry.__name__, [str(argument.type) for argument in function.arguments], part)
            whole.link_in(part)
            if not _shaped(_kinds(module, entry)):
                whole.link_in(llvm.parse_assembly(packed))
    return _optimised(whole, llvm)


def _packed(name: str, types: Sequence[str], part: Any) -> str:
    """A function of an entry's arguments of these `types` that finds them one behind another in memory.

    To hand sixty of them over by ctypes takes longer than what many a call does.
    """
    lines = [f'target datalayout = "{part.data_layout}"', f'target triple = "{part.triple}"']
    lines += [f"declare i32 @{_PREFIX}{name}({', '.join(types)})", f"define i32 @{_PACKED}{name}(ptr %block) {{"]
    for number, kind in enumerate(types):
        lines += [f"%at{number} = getelementptr i64, ptr %block, i64 {number}", f"%v{number} = load {kind}, ptr %at{number}"]
    values = ", ".join(f"{kind} %v{number}" for number, kind in enumerate(types))
    return "\n".join([*lines, f"%status = call i32 @{_PREFIX}{name}({values})", "ret i32 %status", "}"])


@contextmanager
def _unoptimised(config: Any) -> Iterator[None]:
    """numba leaves its code as it is while the block runs: it would improve a function anew in each that calls it."""
    level = config.OPT
    config.OPT = type(level)(0)
    try:
        yield
    finally:
        config.OPT = level


def _optimised(whole: Any, llvm: Any) -> bytes:
    """Machine code of all functions of `whole`, improved together; only the entries are seen from outside."""
    for function in whole.functions:
        if not function.is_declaration and not function.name.startswith(_PREFIX):
            function.linkage = "internal"
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(whole, builder)
    return bytes(machine.emit_object(whole))


def _kinds(module: ModuleType, entry: Any) -> list[str]:
    """What the parameters of an entry are: `int64` and `float64` for pointers, `int64[:, ::1]` and the like, or nothing."""
    return [module.BUFFERS.get(name, "") for name in entry.__code__.co_varnames[: entry.__code__.co_argcount]]


def _shaped(kinds: Sequence[str]) -> bool:
    """Whether any parameter is an array with its shape."""
    return any("[" in kind for kind in kinds)


def _type(types: Any, kind: str) -> Any:
    number, _, shape = kind.partition("[")
    if shape:
        return types.Array(getattr(types, number), shape.count(":") - 1, "C")
    return types.CPointer(getattr(types, number)) if number else types.int64


def _caller(address: int, module: ModuleType, entry: Any) -> Callable[..., int]:
    """Calls machine code at `address`, by numba's convention: result and error come through two pointers ahead of the rest."""
    kinds = _kinds(module, entry)
    if _shaped(kinds):
        return _array_caller(address, entry.__name__, kinds)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)
    buffers, numbers = ([place for place, kind in enumerate(kinds) if bool(kind) == buffer] for buffer in (True, False))
    result, error, arguments = ctypes.c_int64(), ctypes.c_int64(), (ctypes.c_int64 * (2 + len(kinds)))()
    arguments[0], arguments[1], block = ctypes.addressof(result), ctypes.addressof(error), ctypes.addressof(arguments)
    seen: list[Any] = [None] * len(kinds)

    def call(*values: Any) -> int:
        for place in buffers:
            array = values[place]
            if array is not seen[place]:
                if array.dtype != kinds[place] or not array.flags.c_contiguous:
                    raise TypeError(f"{entry.__name__} takes contiguous arrays of {kinds[place]}")
                seen[place], arguments[place + 2] = array, ctypes.addressof(_Start.from_buffer(array))
        for place in numbers:
            arguments[place + 2] = values[place]
        if function(block):
            raise MoesimError(f"the compiled {entry.__name__} failed with {error.value}; please report it")
        return result.value

    return call


def _array_caller(address: int, name: str, kinds: Sequence[str]) -> Callable[..., int]:
    """The same for arrays with their shape: two owners (none), elements, bytes of each, where they begin, shape, strides."""
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    types: list[Any] = [pointer, pointer]
    for kind in kinds:
        types += [pointer, pointer, whole, whole, pointer, *[whole] * 2 * (kind.count(":") - 1)] if kind else [whole]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)
    numbers = [_NAMES.get(number, number) for number in (kind.partition("[")[0] for kind in kinds)]

    def call(*values: Any) -> int:
        result, error = ctypes.c_int64(), ctypes.c_int64()
        arguments: list[Any] = [ctypes.addressof(result), ctypes.addressof(error)]
        for value, number in zip(values, numbers, strict=True):
            if not number:
                arguments.append(int(value))
                continue
            if value.dtype != number or not value.flags.c_contiguous:
                raise TypeError(f"{name} takes contiguous arrays of {number}")
            begin = value.__array_interface__["data"][0]
            arguments += [None, None, value.size, value.itemsize, begin, *value.shape, *value.strides]
        if function(*arguments):
            raise MoesimError(f"the compiled {name} failed with {error.value}; please report it")
        return result.value

    return call


_NAMES = {"boolean": "bool"}
_Start = ctypes.c_char * 0
"""The beginning of an array, even of an empty one."""


def _place(module: ModuleType) -> Path:
    """Folder for the machine code of this module on this Python."""
    return folder() / CODE / f"{module.__name__}-{_digest(module)}"


@cache
def _digest(module: ModuleType) -> str:
    """Hash of what is compiled, and of the values that it names: as they were imported, for files may have changed since."""
    digest = hashlib.sha256(f"{sys.version}{_PACKED}{[entry.__name__ for entry in module.ENTRIES]}{module.BUFFERS}".encode())
    scope = _names(module)
    for function in module.FUNCTIONS:
        digest.update(f"{function.__name__}{function.__defaults__}{code_text(function.__code__)}".encode())
        values = {name: scope[name] for name in sorted(function.__code__.co_names) if name in scope}
        digest.update(repr([(name, value) for name, value in values.items() if isinstance(value, _CONSTANTS)]).encode())
    return digest.hexdigest()[:16]


_CONSTANTS = (bool, int, float, str, tuple)
"""Types of the values that functions may name; numba puts them into the code."""


def code_text(code: CodeType) -> str:
    """Instructions and constants, without the places where they were typed."""
    constants = [code_text(part) if isinstance(part, CodeType) else _constant(part) for part in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _names(module: ModuleType) -> dict[str, Any]:
    """Name -> what it means to the functions that are compiled."""
    return {name: value for source in _sources(module) for name, value in vars(source).items()}


def _sources(module: ModuleType) -> tuple[ModuleType, ...]:
    """The modules whose functions are compiled together, and whose names they share."""
    return (*getattr(module, "SOURCES", ()), module)


def _writable(place: Path) -> bool:
    try:
        writing.folder_target(place)
    except InputError:
        return False
    return True
