"""`python -m moesim`: the command line."""

import sys

from moesim.cli import main

sys.exit(main())
