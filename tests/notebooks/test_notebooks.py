"""Every notebook is clean on disk and runs from its first cell to its last, with the small sizes that it names itself."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import run_sync

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = 600
"""Seconds after which a cell counts as stuck: far more than any needs."""
MAY_IMPORT = ("json", "math", "numpy", "pandas", "pathlib", "pydantic", "tempfile", "typing")
MOESIM = ("moesim", "moesim.model", "moesim.policies", "moesim.report", "moesim.results", "moesim.testing", "moesim.workload")


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def _code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def _parameters(book: Any) -> Any:
    (cell,) = (cell for cell in _code(book) if "parameters" in cell.metadata.get("tags", ()))
    return cell


def _assigned(source: str) -> set[str]:
    targets = [target for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _draws(cell: Any) -> bool:
    """Whether the last line of a cell is a figure."""
    last = cell.source.splitlines()[-1]
    return last.startswith("figures.") or "plot_" in last


def test_there_are_seven() -> None:
    assert [path.stem[:2] for path in BOOKS] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_kept(path: Path) -> None:
    book = _read(path)
    nbformat.validate(book)
    assert all(not cell.outputs and cell.execution_count is None for cell in _code(book))
    assert book.cells[0].cell_type == "markdown"
    assert book.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_small_sizes_are_of_names_that_the_notebook_has(path: Path) -> None:
    cell = _parameters(_read(path))
    assert set(cell.metadata["moesim"]["small"]) <= _assigned(cell.source)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_public_names_only(path: Path) -> None:
    for cell in _code(_read(path)):
        for node in ast.walk(ast.parse(cell.source)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name in MAY_IMPORT or any(name == home or name.startswith(f"{home}.") for home in MOESIM), name
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncKernelManager]:
    """A process that runs one notebook after another: most of the time of a new one would go into importing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        manager = AsyncKernelManager(kernel_name="python3")
        yield manager
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_runs_from_first_to_last(path: Path, kernel: AsyncKernelManager, tmp_path: Path) -> None:
    book = _read(path)
    cell = _parameters(book)
    sizes = cell.metadata["moesim"]["small"]
    small = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in sizes.items()))
    book.cells.insert(book.cells.index(cell) + 1, small)
    book.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))  # no name of the one before it is there
    client = NotebookClient(book, km=kernel, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}})
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    drawn = [cell for cell in _code(book) if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert drawn
    assert [cell.source for cell in _code(book) if _draws(cell) and cell not in drawn] == []
    warnings = [output.text for cell in _code(book) for output in cell.outputs if output.get("name") == "stderr"]
    assert not [text for text in warnings if "Warning" in text]
