"""The command line, as `moesim` or `python -m moesim`: it can be interrupted from its first moment, even while it is loaded."""

import sys

from moesim import interrupts


def main() -> int:
    """Runs the command of this process; returns its exit status."""
    interrupts.listen()
    from moesim.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
