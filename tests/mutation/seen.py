"""Which tests run which lines of moesim, as a run of them without a mutant has recorded it.

A mutant can be seen by those tests alone that run its line, or anything of its module where the line runs as that is loaded.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path


class Seen:
    """The record of one run of the tests: `record` has contexts by line, and beside it lie the CPU seconds of every test."""

    def __init__(self, record: Path) -> None:
        from coverage import CoverageData  # an extra, which the tests of this module do without

        self._data = CoverageData(str(record))
        self._data.read()
        self.seconds: dict[str, float] = json.loads(record.with_suffix(".json").read_text("utf-8"))
        self._contexts = cache(self._data.contexts_by_lineno)

    def tests(self, module: Path, span: range | None) -> set[str]:
        """Tests that run one of these lines of a module (None: any of it)."""
        lines = self._contexts(str(module.resolve()))
        return {test for line, names in lines.items() if span is None or line in span for test in names} & self.seconds.keys()


def statement(text: str, line: int, column: int) -> range | None:
    """Lines of the innermost statement at a place, without those of its body; None where it runs as the module is loaded."""
    innermost: ast.stmt | None = None
    inside = False
    for node, within in _statements(ast.parse(text), False):
        first, last = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
        if first <= (line, column) < last:
            innermost, inside = node, within
    if innermost is None or not inside:
        return None
    body = getattr(innermost, "body", None)
    return range(innermost.lineno, body[0].lineno if body else (innermost.end_lineno or 0) + 1)


def _statements(node: ast.AST, within: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements, outer ones first, and whether a function has to be called for each to run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, within
        yield from _statements(child, within or isinstance(child, ast.FunctionDef))
