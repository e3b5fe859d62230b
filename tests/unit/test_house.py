"""The house keeps its order: imports point one way, heavy packages have one importer, commands start light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "moesim"
BASE = {
    "clock",
    "errors",
    "files",
    "strict_json",
    "units",
    "spec",
    "streams",
    "arrays",
    "plugins",
    "progress",
    "neutral",
    "terminal",
    "writing",
    "cache",
    "version",
    "jit",
}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    "model": BASE,
    "hardware": BASE,
    "runtime": BASE | {"hardware"},
    "results": BASE,
    "report": BASE | {"results"},
    "workload": BASE | {"model"},
    "contract": BASE | {"model", "hardware", "runtime", "workload"},
    "policies": BASE | {"model", "hardware", "runtime", "workload", "contract"},
    "scheduling": BASE | {"model", "hardware", "runtime", "workload", "contract", "policies"},
    "engine": BASE | {"model", "hardware", "runtime", "workload", "contract", "policies", "scheduling", "results"},
    "scenario": BASE | {"model", "hardware", "runtime", "workload", "contract", "policies", "scheduling", "results"},
    "fit": BASE | {"hardware"},
    "calibrate": BASE | {"model", "hardware", "results", "scenario", "fit"},
}
MAY_IMPORT["runs"] = MAY_IMPORT["scenario"] | {"scenario", "engine"}
MAY_IMPORT["explain"] = MAY_IMPORT["scenario"] | {"scenario"}
MAY_IMPORT["experiment"] = MAY_IMPORT["runs"] | {"runs"}
MAY_IMPORT["exports"] = MAY_IMPORT["runs"] | {"runs"}
MAY_IMPORT["validation"] = MAY_IMPORT["experiment"] | {"experiment", "fit"}
SINGLE_IMPORTER = {"simpy": "engine", "yaml": "scenario", "matplotlib": "report", "numba": "jit", "llvmlite": "jit"}
LATE = {  # imports inside functions that go against the grain, on purpose
    ("results", "report"),  # `Result.plot_timeline` and `save(timeline=True)` draw through the report
    ("experiment", "report"),  # sweeps and cases save their figures
    ("validation", "report"),
}


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, where: `top`, `function` or `typing`) of every import."""
    tree = ast.parse(path.read_text("utf-8"))
    where: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where.update((id(child), "function") for child in ast.walk(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            where.update((id(child), "typing") for child in ast.walk(node))
    for node in ast.walk(tree):
        place = where.get(id(node), "top")
        if isinstance(node, ast.Import):
            yield from ((alias.name, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "moesim":
                yield from ((f"moesim.{alias.name}", place) for alias in node.names)
            else:
                yield node.module, place


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = _room(path)
    if room in ("__init__", "__main__", "api", "arguments", "cli", "testing"):
        return
    for name, where in _imports(path):
        if not name.startswith("moesim."):
            continue
        target = name.split(".")[1]
        if target == room or (where != "top" and (room, target) in LATE):
            continue
        assert target in MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(("package", "room"), SINGLE_IMPORTER.items())
def test_heavy_packages_have_one_importer(package: str, room: str) -> None:
    importers = {
        _room(path)
        for path in _modules()
        for name, where in _imports(path)
        if name.split(".")[0] == package and where != "typing"
    }
    assert importers == {room}


WRITES = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "rename",
    "unlink",
    "rmtree",
    "mkdtemp",
    "mkstemp",
    "savetxt",
    "savez",
}


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_one_writer(path: Path) -> None:
    if path.name == "writing.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in WRITES, f"{path.relative_to(ROOT)}:{node.lineno} writes past moesim.writing"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_own_and_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says in its first line what it owns"
    assert text.count("\n") <= (1200 if path.name == "kernel.py" else 400), "only what numba compiles has to stand in one file"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} does not fit a screen"


READERS = {
    "files.py": "the one way in",
    "writing.py": "the one way out",
    "strict_json.py": "the one reader of JSON",
    "workload/npzfile.py": "the one reader of arrays",
    "model/catalogue.py": "configurations inside the package",
    "report/page.py": "style and script inside the package",
    "policies/page.py": "a page of the checkout",
    "calibrate/machine.py": "the files of the kernel",
    "runs/fingerprint.py": "moesim's own code",
    "experiment/sweep.py": "JSON that was written a line before",
    "jit.py": "moesim's own code",
    "workload/draws/kept.py": "its own cache, whose files are checked by their seal",
}
"""Modules that may open files or parse documents themselves, and which."""


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_others_come_in_one_way(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if name in READERS or name.startswith("validation/"):  # its own inputs, beside the checkout
        return
    functions = {"json.load", "json.loads", "np.load", "gzip.open", "open", "yaml.safe_load"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            owner, _, called = ast.unparse(node.func).rpartition(".")
            reads = called in ("read_text", "read_bytes") and owner != "files"
            assert not reads, f"{name}:{node.lineno} reads a file; moesim.files does"
            assert ast.unparse(node.func) not in functions, f"{name}:{node.lineno} calls {called}; moesim.files reads"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_commands_start_without_heavy_imports(arguments: list[str]) -> None:
    program = (
        "import sys; from moesim import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'simpy', 'numba', 'numpy', 'scipy', 'pandas', 'matplotlib', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_import_moesim_is_cheap() -> None:
    program = "import sys, moesim; assert 'numpy' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
