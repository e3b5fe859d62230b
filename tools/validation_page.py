"""`python tools/validation_page.py [FILE]`: runs every case and writes the page of validation, docs/validation.md by default.

Knows the page and the cases by name.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moesim.validation.document import page
from moesim.validation.report import exit_status
from moesim.validation.reproduce import reproduce
from moesim.writing import write


def main(arguments: list[str]) -> int:
    """Writes the page; 1 if a case fails."""
    target = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "docs" / "validation.md"
    results = reproduce()
    write(target, page(results))
    return exit_status(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
