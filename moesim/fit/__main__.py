"""`python -m moesim.fit DATA_DIR [--frameworks] [--profile SYSTEM]`: prints fits with residuals, or profile text.

Knows the arguments only.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moesim.fit.gpu import GPUS
from moesim.fit.profile import gpu_profile
from moesim.fit.report import fits, lines

_USAGE = "usage: python -m moesim.fit DATA_DIR [--frameworks | --profile SYSTEM]\n"


def main(arguments: list[str]) -> int:
    """Prints the fits of the tables in the folder named first; or, of one GPU, what they say to its profile."""
    data, options = Path(arguments[0]) if arguments else Path("-"), arguments[1:]
    if data.is_dir() and len(options) == 2 and options[0] == "--profile" and options[1] in GPUS:
        sys.stdout.write(gpu_profile(data, options[1]))
        return 0
    if not data.is_dir() or options not in ([], ["--frameworks"]):
        sys.stderr.write(_USAGE)
        return 2
    for fit in fits(data, frameworks=bool(options)):
        sys.stdout.write("\n".join(lines(fit)) + "\n\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
