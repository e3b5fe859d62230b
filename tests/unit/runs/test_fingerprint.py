"""Digests of files and of foreign code: equal for equal contents, another for every change that can change a number."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from moesim.policies.caching.lru import LRU
from moesim.runs.fingerprint import code, file_digest, foreign_code, physics

HELPER = "LIMIT = 3\n\ndef helper(x, y=1):\n    return x + y\n"
SESSION = """
class Mine(LRU):
    size: int = 4

    def share(self, x):
        return helper(x) + LIMIT

    @property
    def wide(self):
        return 2

    @staticmethod
    def none():
        return {1, 2}
"""


def digest(source: str, name: str = "Mine") -> str | None:
    """Of a class as a session defines it, whose module is not a file."""
    space: dict[str, Any] = {"__name__": "session", "LRU": LRU}
    exec(compile(source, "<session>", "exec"), space)
    return foreign_code(space[name])


def test_code_of_moesim_is_in_the_digest_of_all_its_own() -> None:
    assert foreign_code(LRU) is None
    assert physics() == physics()
    assert physics().startswith("sha256:")
    names = {path.name for path in code()}
    assert {"lru.py", "clock.py", "worker.py", "engine.py"} <= names
    assert not {"cli.py", "page.py", "sweep.py"} & names


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 3", "LIMIT = 4"),  # a number that a method names
        ("x + y", "x - y"),  # the body of a function that it calls
        ("y=1", "y=2"),  # a default
        ("helper(x) + LIMIT", "helper(x) * LIMIT"),
        ("size: int = 4", "size: float = 4"),
        ("return 2", "return 3"),  # a property
        ("{1, 2}", "{1, 3}"),
    ],
)
def test_every_change_of_a_session_changes_its_digest(before: str, after: str) -> None:
    source = HELPER + SESSION
    assert before in source
    assert digest(source) != digest(source.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"), [("\n\ndef helper", "\n\n\n\n# a comment\ndef helper"), ("LIMIT = 3\n", "LIMIT = 3\nUNUSED = 9\n")]
)
def test_where_it_was_typed_and_what_it_does_not_use_change_nothing(before: str, after: str) -> None:
    source = HELPER + SESSION
    assert digest(source) == digest(source.replace(before, after))


def test_functions_that_call_each_other_have_a_digest() -> None:
    loop = "def a(n):\n    return b(n)\n\ndef b(n):\n    return a(n) if n else 0\n\n"
    loop += "class Mine(LRU):\n    def f(self):\n        return a(1)\n"
    assert digest(loop) == digest(loop) != digest(loop.replace("else 0", "else 1"))


def test_a_file_is_read_anew_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"abc")
    assert file_digest(path) == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    path.write_bytes(b"abcd")
    assert file_digest(path) == f"sha256:{hashlib.sha256(b'abcd').hexdigest()}"
    path.write_bytes(b"wxyz")  # as long as before
    os.utime(path, ns=(1, 1))
    assert file_digest(path) == f"sha256:{hashlib.sha256(b'wxyz').hexdigest()}"
