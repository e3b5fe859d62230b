"""A process in which the tests of a mutant run: it knows nothing of moesim before they import it."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

LIBRARIES = ["numpy", "pandas", "pydantic", "pytest", "scipy.optimize", "simpy", "yaml"]
"""What tests load whatever the mutant."""


def run_tests(tests: list[str], most: int, taken: Path) -> None:
    """Ends the process with the status of pytest, which stops at the first test that fails, and says nothing.

    `most`: CPU seconds after which the process is ended, 0 for no limit; those that it took are written to `taken`.
    """
    import pytest

    if most:
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", "not compiled", *tests])
    taken.write_text(str(time.process_time()), "utf-8")
    sys.exit(status)
