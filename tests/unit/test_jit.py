"""Machine code on flat buffers: kept as an object file, loaded without numba, and made anew where that file cannot be used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import ModuleType

import numpy as np
import pytest

from moesim import jit

SOURCE = """
def twice(x):
    return 2.0 * x


def total(F, M, n):
    M[0] += n
    s = 0.0
    for j in range(n):
        s += twice(F[j])
    F[0] = s
    return M[0]


FUNCTIONS, ENTRIES = (twice, total), (total,)
BUFFERS = {"F": "float64", "M": "int64"}
"""
RUN = """
import sys
import numpy as np
import sums
from moesim import jit
F, M = np.arange(4.0), np.zeros(1, dtype=np.int64)
assert jit.native(sums).total(F, M, 4) == 4 and F[0] == 12.0
print("numba" in sys.modules)
"""
WAIT = 120.0
"""Seconds after which a thread counts as stuck: far more than any needs."""
pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def imported(folder: Path) -> ModuleType:
    """`sums` of that folder, of which this process has no machine code yet."""
    spec = importlib.util.spec_from_file_location("sums", folder / "sums.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of its own, in a cache of its own."""
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sums.py").write_text(SOURCE)
    return imported(tmp_path)


def announced(module: ModuleType, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said while `module` becomes machine code, which then gives the right sum."""
    caplog.clear()
    F, M = np.arange(4.0), np.zeros(1, dtype=np.int64)
    assert jit.native(module).total(F, M, 4) == 4
    assert F[0] == 12.0
    return [record.getMessage() for record in caplog.records]


ONCE = "compiling sums, once on this machine; takes some seconds"


def in_a_new_process(folder: Path, cache: Path) -> tuple[str, str]:
    environment = {**os.environ, "MOESIM_CACHE": str(cache), "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_only_the_first_process_compiles_and_loads_numba(sums, tmp_path):
    cache = tmp_path / "cache"
    loaded, words = in_a_new_process(tmp_path, cache)
    assert loaded == "True"
    assert words.count(ONCE) == 1
    assert jit.ready(sums)
    assert in_a_new_process(tmp_path, cache) == ("False", "")


def test_a_damaged_file_is_made_anew(sums, tmp_path, caplog):
    assert announced(sums, caplog) == [ONCE]
    (place,) = (tmp_path / "cache").rglob("*.o")
    assert announced(imported(tmp_path), caplog) == []
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    assert announced(imported(tmp_path), caplog) == [ONCE]
    assert announced(imported(tmp_path), caplog) == []


def test_where_nothing_can_be_kept_it_is_compiled_for_the_process_alone(sums, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "file" / "cache"))
    words = f"compiling sums, for this process alone, as {tmp_path}/file/cache cannot be written to; takes some seconds"
    for module in (sums, imported(tmp_path)):
        assert announced(module, caplog) == [words]


def test_who_comes_while_another_process_compiles_waits_for_its_code(sums, tmp_path, caplog, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks of files as POSIX has them")
    announced(sums, caplog)
    (place,) = (tmp_path / "cache").rglob("*.o")
    code, lock, waits = place.read_bytes(), fcntl.flock, Event()
    place.unlink()
    with ThreadPoolExecutor(1) as pool:
        with jit._alone(sums):
            monkeypatch.setattr(fcntl, "flock", lambda *words: (waits.set(), lock(*words)))
            later = pool.submit(announced, imported(tmp_path), caplog)
            assert waits.wait(WAIT)
            place.write_bytes(code)
        assert later.result(WAIT) == []


def test_arrays_of_another_type_or_with_gaps_are_refused(sums):
    total = jit.native(sums).total
    for F in (np.ones(4, dtype=np.float32), np.ones(8)[::2]):
        with pytest.raises(TypeError, match="contiguous arrays of float64"):
            total(F, np.zeros(1, dtype=np.int64), 4)


PART = """
FACTOR = 3


def product(a):
    return FACTOR * a
"""
WHOLE = """
import part
from part import product

SOURCES = (part,)


def triple(M, n):
    return product(n)


FUNCTIONS, ENTRIES, BUFFERS = (product, triple), (triple,), {"M": "int64"}
"""


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """Imports the module anew, as a new process would."""
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file are of the same second and length
    (tmp_path / "part.py").write_text(PART)
    (tmp_path / "whole.py").write_text(WHOLE)

    def imported():
        for name in ("whole", "part"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("whole")

    yield imported
    for name in ("whole", "part"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("change", [("FACTOR = 3", "FACTOR = 4"), ("FACTOR * a", "FACTOR + a"), ("FACTOR * a", "7 * a")])
def test_functions_may_stand_in_several_files_and_a_change_in_any_of_them_is_noticed(change, whole, tmp_path):
    assert jit.native(whole()).triple(np.zeros(1, dtype=np.int64), 5) == 15
    assert jit.ready(whole())
    (tmp_path / "part.py").write_text(PART.replace("FACTOR", "# a remark\nFACTOR", 1))
    assert jit.ready(whole())
    (tmp_path / "part.py").write_text(PART.replace(*change))
    assert not jit.ready(whole())


def test_what_is_compiled_after_an_edit_is_kept_for_the_source_that_was_imported(whole, tmp_path):
    before = whole()
    (tmp_path / "part.py").write_text(PART.replace("3", "4"))
    assert jit.native(before).triple(np.zeros(1, dtype=np.int64), 5) == 15
    after = whole()
    assert not jit.ready(after)
    assert jit.native(after).triple(np.zeros(1, dtype=np.int64), 5) == 20


def test_each_caller_has_its_own_memory_of_arrays(sums):
    first, second = jit.native(sums).total, jit.native(sums).total
    M, n = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    assert [first(np.ones(1), M, 1), second(np.ones(1), n, 1), first(np.ones(1), M, 1)] == [1, 1, 2]


def test_without_numba_there_is_none(sums, monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert jit.native(sums) is None
    assert not jit.ready(sums)
