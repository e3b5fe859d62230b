"""The house keeps its order: imports point one way, heavy packages have one importer, modules and folders stay small.

Each file is parsed once; every test lists all offenders at once.
"""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "moesim"

BASE = {
    "arrays", "cache", "clock", "errors", "files", "interrupts", "jit", "neutral", "plugins", "portable", "progress", "spec",
    "streams", "strict_json", "terminal", "units", "version", "writing",
}  # fmt: skip
"""Modules that anybody may import, and that import nothing but each other."""
LAYERS = {
    "model": set(),
    "hardware": set(),
    "results": set(),
    "runtime": {"hardware"},
    "fit": {"hardware"},
    "report": {"results"},
    "workload": {"model"},
    "contract": {"model", "hardware", "runtime", "workload"},
    "policies": {"model", "hardware", "runtime", "workload", "contract"},
    "scheduling": {"model", "hardware", "runtime", "workload", "contract", "results"},
    "engine": {"model", "hardware", "runtime", "workload", "contract", "scheduling", "results"},
    "scenario": {"model", "hardware", "runtime", "workload", "contract", "policies", "scheduling", "results"},
}
LAYERS["explain"] = LAYERS["scenario"] | {"scenario"}
LAYERS["runs"] = LAYERS["scenario"] | {"scenario", "engine"}
LAYERS["calibrate"] = {"model", "hardware", "results", "scenario", "fit"}
LAYERS["exports"] = LAYERS["runs"] | {"runs"}
LAYERS["experiment"] = LAYERS["runs"] | {"runs"}
LAYERS["validation"] = LAYERS["experiment"] | {"experiment", "explain", "fit"}
"""Room -> rooms that its modules may import beside the base."""
OPEN = {"__init__", "__main__", "api", "arguments", "cli", "completion", "testing"}
"""Rooms that may import everything."""
FAMILIES = {"in_place", "caching", "streaming", "near_data", "bounds", "baselines"}
"""Folders of policies, which import the kit and their own family; bounds look at all others."""
SINGLE_IMPORTER = {
    "simpy": "engine",
    "yaml": "scenario",
    "matplotlib": "report",
    "numba": "jit",
    "llvmlite": "jit",
    "optuna": "experiment",
}
LATE = {("results", "report"), ("experiment", "report"), ("validation", "report")}
"""Imports inside functions that draw: `Result.plot_timeline`, and the figures of sweeps and cases."""
PLOTS = ("moesim.results.result", "moesim.report.figures")
"""The one circle: a result draws itself by importing its figures when asked."""

COMPILED = "engine/kernel/compiled/", "workload/draws/kernel.py"
"""Functions on flat buffers, for numba: a walk stands in one function."""
LINES = 400
FUNCTION = 40
DECISIONS = 20
"""From there on a function has a complexity of 21 or more, which is class D of `radon`."""
FOLDER = 24


class Import(NamedTuple):
    """One import: the full name of the module, and whether it runs at the `top`, in a `function`, or for `typing` only."""

    name: str
    place: str


class Module(NamedTuple):
    """One file of the package."""

    path: str
    """Relative to the package."""
    name: str
    """Dotted."""
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]
    """All of the tree, from the outside in."""
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")


@contextmanager
def no_garbage() -> Iterator[None]:
    """Trees stay until the last test: Python need not look for garbage among their nodes, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def modules() -> tuple[Module, ...]:
    files = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
    names = {_dotted(path) for path in files}
    with no_garbage():
        return tuple(_read(path, names) for path in files)


@cache
def beside(folder: str) -> tuple[tuple[str, tuple[ast.AST, ...]], ...]:
    """Path and nodes of each file of a folder beside the package."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    with no_garbage():
        return tuple((path.relative_to(ROOT).as_posix(), tuple(ast.walk(ast.parse(path.read_text("utf-8"))))) for path in paths)


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _read(path: Path, names: set[str]) -> Module:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    nodes, imports = tuple(ast.walk(tree)), tuple(_imports(tree, names, "top"))
    return Module(path.relative_to(PACKAGE).as_posix(), _dotted(path), text, tree, nodes, imports)


def _imports(node: ast.AST, names: set[str], place: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(child, names, "function")
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from _imports(child, names, "typing")
        elif isinstance(child, ast.Import):
            yield from (Import(alias.name, place) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if inner in names else child.module, place)
        elif not isinstance(child, ast.expr):
            yield from _imports(child, names, place)


def _calls(module: Module) -> Iterator[tuple[int, str]]:
    """Line and written form of what each call calls."""
    for node in module.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield node.lineno, _written(node.func)


def _written(called: ast.expr) -> str:
    """`path.write_text` of what is called; a value without a name is `...`."""
    if isinstance(called, ast.Attribute):
        return f"{_written(called.value)}.{called.attr}"
    return called.id if isinstance(called, ast.Name) else "..."


def _none(offenders: Iterator[str]) -> None:
    lines = list(offenders)
    assert not lines, "\n".join(lines)


def test_imports_point_one_way() -> None:
    def offenders() -> Iterator[str]:
        for module in modules():
            if module.room in OPEN:
                continue
            allowed = BASE | LAYERS.get(module.room, set()) | {module.room}
            for name, place in module.imports:
                if not name.startswith("moesim."):
                    continue
                target = name.split(".")[1]
                if target not in allowed and not (place != "top" and (module.room, target) in LATE):
                    yield f"{module.path} imports {name}"

    _none(offenders())


def test_families_of_policies_share_the_kit_alone() -> None:
    def offenders() -> Iterator[str]:
        for module in modules():
            family = module.path.removeprefix("policies/").split("/")[0]
            if not module.path.startswith("policies/") or family == "bounds":
                continue
            for name, _ in module.imports:
                imported = name.removeprefix("moesim.policies.").split(".")[0]
                if name.startswith("moesim.policies.") and imported in FAMILIES - {family}:
                    yield f"{module.path} imports {name}"

    _none(offenders())


def test_no_circle_of_imports_lazy_ones_included() -> None:
    graph = {
        module.name: {name for name, place in module.imports if place != "typing" and (module.name, name) != PLOTS}
        for module in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " -> ".join(error.args[1]))


def test_heavy_packages_have_one_importer() -> None:
    importers: dict[str, set[str]] = {package: set() for package in SINGLE_IMPORTER}
    for module in modules():
        for name, place in module.imports:
            if place != "typing" and name.split(".")[0] in importers:
                importers[name.split(".")[0]].add(module.room)
    assert importers == {package: {room} for package, room in SINGLE_IMPORTER.items()}


def test_modules_and_folders_stay_small() -> None:
    def offenders() -> Iterator[str]:
        folders = Counter(Path(module.path).parent.as_posix() for module in modules())
        yield from (f"{folder} holds {count} modules" for folder, count in folders.items() if count > FOLDER)
        for module in modules():
            lines = module.text.count("\n")
            if not ast.get_docstring(module.tree):
                yield f"{module.path} does not say what it owns"
            if lines > LINES:
                yield f"{module.path} has {lines} lines"
            if module.path.startswith(COMPILED):
                continue
            for node in module.nodes:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    if length > FUNCTION:
                        yield f"{module.path}:{node.lineno}: {node.name} has {length} lines"

    _none(offenders())


def _branches(node: ast.AST) -> int:
    """Decisions inside a node: what cyclomatic complexity counts, comprehensions and `and`/`or` included."""
    count = 0
    for inner in ast.walk(node):
        if isinstance(inner, ast.If | ast.IfExp | ast.ExceptHandler | ast.Assert):
            count += 1
        elif isinstance(inner, ast.For | ast.While | ast.Try):
            count += 1 + bool(inner.orelse) - isinstance(inner, ast.Try)
        elif isinstance(inner, ast.comprehension):
            count += 1 + len(inner.ifs)
        elif isinstance(inner, ast.BoolOp):
            count += len(inner.values) - 1
        elif isinstance(inner, ast.match_case):
            count += 1
    return count


def _functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in module.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_take_few_decisions() -> None:
    _none(
        f"{module.path}:{node.lineno}: {node.name} takes {_branches(node)} decisions"
        for module in modules()
        if not module.path.startswith(COMPILED)
        for node in _functions(module)
        if _branches(node) >= DECISIONS
    )


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    described = 0 if first is None else (first.end_lineno or 0) - first.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - described


def test_most_modules_and_functions_are_short() -> None:
    lengths = [_lines(node) for module in modules() for node in _functions(module)]
    assert median(lengths) <= 6
    assert quantiles(lengths, n=10)[-1] <= 20
    assert median(module.text.count("\n") for module in modules()) <= 130


def test_unit_tests_mirror_the_package() -> None:
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")} - {Path("benchmarks")}
    _none(f"tests/unit/{folder} has no counterpart" for folder in sorted(folders) if not (PACKAGE / folder).is_dir())


def test_the_page_of_the_design_names_every_folder() -> None:
    page = (ROOT / "docs" / "design.md").read_text("utf-8")
    folders = {Path(module.path).parent.as_posix() for module in modules()} - {"."}
    named = (f"moesim/{folder}/" in page or f"`{folder.rpartition('/')[2]}`" in page for folder in sorted(folders))
    _none(f"docs/design.md does not name {folder}" for folder, known in zip(sorted(folders), named, strict=True) if not known)


TREE = ("moesim/*", "moesim/**/*", "tools/*", "tests/*", "tests/**/*", "docs/*", "scenarios/**/*", "hardware_profiles/**/*")
PLACE = re.compile(r"`((?:[\w.]+/)+[\w.]*|\w+\.(?:py|md|yaml))`")
"""A folder or a file in the code of a page; capitals stand for a name of the reader's."""


@cache
def tree() -> frozenset[str]:
    """Ends of the paths of all folders and files that pages name: `engine/walk` and `walk.py` of `moesim/engine/walk.py`."""
    files = {path.relative_to(ROOT) for pattern in TREE for path in ROOT.glob(pattern) if "__pycache__" not in path.parts}
    files |= {path.parent for path in files}
    ends = {"/".join(path.parts[first:]) for path in files for first in range(len(path.parts))}
    return frozenset(ends | {end.removesuffix(".py").removesuffix(".yaml") for end in ends})


@pytest.mark.parametrize("page", ["design", "extending", "concepts", "trust", "reproducing", "seeds"])
def test_pages_name_modules_that_exist(page: str) -> None:
    lines = (ROOT / "docs" / f"{page}.md").read_text("utf-8").splitlines()
    _none(
        f"docs/{page}.md:{number}: no {name}"
        for number, line in enumerate(lines, 1)
        for name in PLACE.findall(line)
        if name.rstrip("/") not in tree() and not re.search(r"\b[A-Z]{3,}\b", name)
    )


WRITES = {
    "write_text", "write_bytes", "mkdir", "makedirs", "rename", "unlink", "rmtree", "mkdtemp", "mkstemp", "savetxt", "savez",
}  # fmt: skip


def test_files_have_one_writer() -> None:
    _none(
        f"{module.path}:{line} writes past moesim.writing"
        for module in modules()
        for line, called in _calls(module)
        if module.path != "writing.py" and "." in called and called.rpartition(".")[2] in WRITES
    )


def test_numbers_have_one_formatter() -> None:
    """No module beside `units` defines a function that writes a number or a share."""
    _none(
        f"{module.path}: {node.name}"
        for module in modules()
        for node in _functions(module)
        if node.name in {"number", "percent", "_percent"} and node.returns and ast.unparse(node.returns) == "str"
    )


READERS = {
    "files.py": "the one way in",
    "writing.py": "the one way out",
    "strict_json.py": "the one reader of JSON",
    "workload/npzfile.py": "the one reader of arrays",
    "model/catalogue.py": "configurations inside the package",
    "report/page.py": "style and script inside the package",
    "calibrate/machine.py": "the files of the kernel",
    "runs/fingerprint.py": "moesim's own code",
    "experiment/sweep.py": "JSON that was written a line before",
    "jit.py": "moesim's own code",
    "workload/draws/kept.py": "its own cache, whose files are checked by their seal",
}
"""Modules that may open files or parse documents themselves, and which."""
READS = {"json.load", "json.loads", "np.load", "gzip.open", "open", "yaml.safe_load"}


def test_files_of_others_come_in_one_way() -> None:
    def offenders() -> Iterator[str]:
        for module in modules():
            if module.path in READERS or module.room == "validation":  # its own inputs, beside the checkout
                continue
            for line, called in _calls(module):
                owner, _, method = called.rpartition(".")
                if called in READS or (method in ("read_text", "read_bytes") and owner not in ("", "files")):
                    yield f"{module.path}:{line} calls {called}; moesim.files reads"

    _none(offenders())


STILTED = re.compile(
    r"(?<!there )\b(?:is|are) no (?!longer|more|less|\w+er\b)|\bheld by\b|\bsomebody\b|\btold\b|\b(?:is|are) taken to\b"
    r"|\bcannot stand here\b|\bby its own word\b|\bby lot\b|\bheld (?:it )?back\b|\bgoes on where\b|\bmade of itself\b"
    r"|\bcome by\b|\bfor no such\b|\bTo do it again\b",
    re.IGNORECASE,
)
"""Words that a reader stumbles over: write `is not a`, `bottleneck`, `reported`, `assumed`, `at random`."""
PAGES = ("README.md", "docs/*.md", "notebooks/*.ipynb", "scenarios/**/*.yaml", "hardware_profiles/**/*.yaml")


def test_sentences_are_plain() -> None:
    def offenders() -> Iterator[str]:
        for module in modules():
            for node in module.nodes:
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield from (f"{module.path}:{node.lineno}: {match.group()}" for match in STILTED.finditer(node.value))
        for pattern in PAGES:
            for path in sorted(ROOT.glob(pattern)):
                for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                    yield from (f"{path.relative_to(ROOT)}:{number}: {match.group()}" for match in STILTED.finditer(line))
        for path, nodes in beside("tests"):
            for node in nodes:
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                    text = f"{getattr(node, 'name', '').replace('_', ' ')}\n{ast.get_docstring(node) or ''}"
                    line = getattr(node, "lineno", 1)
                    yield from (f"{path}:{line}: {match.group()}" for match in STILTED.finditer(text))

    _none(offenders())


VAGUE = {
    "one", "this", "that", "these", "those", "found", "told", "made", "given", "other", "others", "each", "some", "kept",
    "asked", "wanted", "said", "what", "them", "it", "they", "such", "same", "thing", "things", "gone", "few", "many", "much",
}  # fmt: skip
"""Pronouns and participles, which point at a thing instead of naming it."""
VAGUE_PARTS = {"told", "somebody"}
"""Words that no part of a name is, either."""
NAMED = ("tools", "benchmarks", "tests")


def _bound(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, parameter, field, function and class."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name


def test_names_are_names_of_things() -> None:
    def files() -> Iterator[tuple[str, Iterable[ast.AST]]]:
        yield from ((f"moesim/{module.path}", module.nodes) for module in modules())
        for folder in NAMED:
            yield from beside(folder)

    _none(
        f"{path}:{line}: {name} says nothing"
        for path, nodes in files()
        for line, name in _bound(nodes)
        if name in VAGUE or not VAGUE_PARTS.isdisjoint(name.split("_"))
    )


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
