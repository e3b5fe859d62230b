"""Before a run: what fits where, rooflines, break-even points, ceilings. Called, it is the verb `moesim.api.explain`."""

from moesim import callable_package

callable_package(__name__, "explain")
