"""`python tests/floors.py`: the oldest version of each dependency that pyproject.toml allows, as constraints for pip.

The suite passes on these with the oldest Python, too:

    python3.11 -m venv .venv-floors
    python3 tests/floors.py > floors.txt
    .venv-floors/bin/pip install -c floors.txt -e '.[test,parquet]' && .venv-floors/bin/python -m pytest
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def floors() -> dict[str, str]:
    """Name -> the lowest version allowed, of all run-time dependencies, and of those of the tests and of tables."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    versions: dict[str, str] = {}
    for text in [*project["dependencies"], *(text for name in ("parquet", "dask", "test") for text in extras[name])]:
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:;.*)?", text)
        if match is not None:
            versions[match.group(1)] = match.group(2)
    return versions


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in floors().items()))
