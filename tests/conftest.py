"""Every run of the tests draws the same examples: a failure is a change, not luck. The user's own cache is left alone."""

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and every process that a test starts, share the folder
    os.environ["MOESIM_CACHE"] = tempfile.mkdtemp(prefix="moesim-cache-")
    atexit.register(shutil.rmtree, os.environ["MOESIM_CACHE"], ignore_errors=True)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the figures of tests/golden anew")
