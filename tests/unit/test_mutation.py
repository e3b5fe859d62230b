"""The machinery that tries mutants: which lines a mutant changes, and that what has been imported takes its code."""

from __future__ import annotations

import gc
import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.loop import replace
from tests.mutation.seen import statement

TEXT = textwrap.dedent(
    """\
    LIMIT = 3 + 4

    def outer(n, most=2 + 2):
        first = (n +
                 1)
        if n > 3:
            return n * 2

        def inner():
            return n - 1

        return inner

    class Thing:
        size = 5 + 5

        def twice(self):
            return 2 * self.size
    """
)


@pytest.mark.parametrize(
    ("words", "span"),
    [
        ("3 + 4", None),
        ("2 + 2", None),
        ("5 + 5", None),
        ("n +", range(4, 6)),
        ("n > 3", range(6, 7)),
        ("n * 2", range(7, 8)),
        ("n - 1", range(10, 11)),
        ("2 * self", range(18, 19)),
    ],
)
def test_a_mutant_in_a_function_changes_its_statement_and_any_other_the_loading_of_the_module(
    words: str, span: range | None
) -> None:
    """A statement right inside a function was once taken for one that runs as the module is loaded."""
    (line,) = (number for number, text in enumerate(TEXT.splitlines(), 1) if words in text)
    column = TEXT.splitlines()[line - 1].index(words)
    assert statement(TEXT, line, column) == span


def imported(path: Path) -> ModuleType:
    path.write_text(TEXT, "utf-8")
    spec = importlib.util.spec_from_file_location("mutated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_functions_that_are_there_already_take_the_code_of_a_mutant(tmp_path: Path) -> None:
    module = imported(tmp_path / "mutated.py")
    outer, bound, inner = module.outer, module.Thing().twice, module.outer(2)
    gc.freeze()  # as a process does that has loaded all that it needs
    replace(tmp_path / "mutated.py", TEXT.replace("n * 2", "n * 3").replace("n - 1", "n - 2").replace("2 * self", "4 * self"))
    assert outer(5) == 15, "whoever has imported it by name"
    assert bound() == 40
    assert (outer(2)(), inner()) == (0, 0), "functions within, too, and those that were made before"
    assert "mutated" not in sys.modules


def test_functions_of_other_files_stay_as_they_are(tmp_path: Path) -> None:
    module = imported(tmp_path / "mutated.py")
    replace(tmp_path / "another.py", TEXT.replace("n * 2", "n * 3"))
    assert module.outer(5) == 10
