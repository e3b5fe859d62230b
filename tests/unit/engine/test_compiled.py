"""The modules that are compiled together share one set of names."""

from types import ModuleType

from moesim.engine.kernel import kernel
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.programs.program import Program


def test_a_name_means_the_same_in_all_modules_that_are_compiled_together() -> None:
    meanings: dict[str, object] = {}
    for source in kernel.SOURCES:
        for name, value in vars(source).items():
            if not name.startswith("__") and not isinstance(value, ModuleType):
                assert meanings.setdefault(name, value) is value or meanings[name] == value, f"{source.__name__}: {name}"


def test_every_function_of_these_modules_is_compiled_and_every_entry_is_one_of_them() -> None:
    names = {function.__name__ for function in kernel.FUNCTIONS}
    assert {entry.__name__ for entry in kernel.ENTRIES} <= names
    assert len(names) == len(kernel.FUNCTIONS)
    assert {"load", "advance", "max_min", "emit_visit", "walk_steps", "critical"} <= names


def test_a_path_finds_room_for_all_of_the_log_wherever_that_grows() -> None:
    engine = KernelEngine(Program(), {"pcie": 1e9}, compiled=False)
    engine._mend(kernel.LOG_FULL)
    assert len(engine._path) >= 3 * engine._buffers.M[kernel.LOG_SIZE]
