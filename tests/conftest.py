"""Every run of the tests draws the same examples: a failure is a change, not luck. The user's own cache is left alone."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

CODE = Path(__file__).parents[1] / ".pytest_cache" / "machine-code"
"""What one run of the tests has compiled the next one finds; folders are named by the source that they come from."""
VERSIONS = 12
"""Most folders kept there."""


def _own_cache() -> None:
    folder = tempfile.mkdtemp(prefix="moesim-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MOESIM_CACHE"] = folder
    CODE.mkdir(parents=True, exist_ok=True)
    oldest = sorted(CODE.iterdir(), key=lambda place: place.stat().st_mtime)[:-VERSIONS]
    for place in oldest:
        shutil.rmtree(place, ignore_errors=True)
    (Path(folder) / "code").symlink_to(CODE)


if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and every process that a test starts, share the folder
    _own_cache()

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the figures of tests/golden anew")
