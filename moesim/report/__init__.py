"""How results look: pictures and the timeline that Perfetto opens. The only importer of matplotlib.

Knows results; not how they were computed. Called, it is the verb `moesim.api.report`.
"""

from moesim import callable_package

callable_package(__name__, "report")
